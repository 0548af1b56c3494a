"""Files that are no checkpoints are recognised by their beginnings, and checkpoints never are."""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from segmenter_hf.conversion.other_files import START_LENGTH, recognise_other_file


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"", "an empty file"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"\xef\xbb\xbf\r\n <HTML lang='en'>", "a web page"),
        ("<!doctype html>".encode("utf-16"), "a web page"),
        (b"<head><title>502 Bad Gateway</title></head>", "a web page"),
        (b"<!-- error --><html>", "a web page"),
        (b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>", "an XML document"),
        (b"<Error><Code>AccessDenied</Code></Error>", "an XML document"),
        (b'{"error":"Repository not found"}', "a JSON document"),
        (b'{\n  "error": 1}', "a JSON document"),
        (b'[{"error": 1}]', "a JSON document"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 1\n", "a pointer of Git LFS"),
    ],
)
def test_kinds(start, kind):
    other = recognise_other_file(start)
    assert other.kind == kind
    assert other.remedy.endswith((".", "?"))


def torch_file(**settings) -> bytes:
    buffer = io.BytesIO()
    torch.save({"model": torch.zeros(2)}, buffer, **settings)
    return buffer.getvalue()


def test_checkpoints_are_none_of_them():
    npz = io.BytesIO()
    np.savez(npz, cls=np.zeros(2))
    starts = [torch_file(), torch_file(_use_new_zipfile_serialization=False), npz.getvalue()]
    starts += [pickle.dumps({"a": [1], "b": "text"}, protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    starts += [b"dataset_kwargs:\n  batch_size: 1\n", b"hello world"]
    for start in starts:
        assert recognise_other_file(start[:START_LENGTH]) is None


def test_headers_of_safetensors_of_any_length_are_none_of_them():
    """Their first bytes are a number, which may look like a blank, a bracket or a letter."""
    intact = save({"a": torch.zeros(1)})
    for length in (*range(0x100), *(0x100 * second + first for second in range(0x80) for first in b" \n<[{v")):
        assert recognise_other_file(length.to_bytes(8, "little") + intact[8:]) is None, length


def test_every_fixture_is_a_checkpoint():
    folder = Path(__file__).parents[1] / "fixtures"
    files = [*folder.rglob("*.pth"), *folder.rglob("*.npz"), *folder.rglob("*.safetensors"), *folder.rglob("*.yml")]
    assert files
    for file in files:
        assert recognise_other_file(file.read_bytes()[:START_LENGTH]) is None, file
