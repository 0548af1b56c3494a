"""That transformers' own test-suite cannot be missing unnoticed."""

import subprocess

import pytest

from . import transformers_suite


def test_missing_suite_is_an_error_that_names_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(transformers_suite, "SUITE_FOLDER", tmp_path / "missing")
    with pytest.raises(RuntimeError, match=r"is not in .*missing.* Fetch it .*transformers_suite\.py"):
        transformers_suite.suite_module("test_modeling_common")


def test_suite_that_is_there_is_not_downloaded_again(tmp_path, monkeypatch):
    def download(*args, **kwargs):
        raise AssertionError("downloads")

    monkeypatch.setattr(subprocess, "run", download)
    transformers_suite.fetch(tmp_path)
    with pytest.raises(AssertionError, match="downloads"):
        transformers_suite.fetch(tmp_path / "missing")


def test_suite_is_that_of_the_installed_version():
    module = transformers_suite.suite_module("test_modeling_common")
    assert transformers_suite.VERSION in module.__file__
