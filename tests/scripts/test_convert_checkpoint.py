"""The command line: exit codes, messages, and an output folder that is complete or absent."""

import os
import runpy
import subprocess
import sys

import pytest
import torch
import yaml

from tests.common import REPOSITORY
from tests.conversion.original_checkpoints import make_original_checkpoint


SCRIPT = REPOSITORY / "scripts" / "convert_checkpoint.py"
FIXTURES = REPOSITORY / "tests" / "fixtures" / "original"


def run_script(*arguments, cwd) -> subprocess.CompletedProcess:
    """Runs the script as a user does."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)], cwd=cwd, env=environment, capture_output=True, text=True
    )


@pytest.fixture
def run_main(tmp_path, monkeypatch, capfd):
    """The same inside this process, where importing torch and transformers costs nothing any more."""

    def run(*arguments) -> subprocess.CompletedProcess:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        return subprocess.CompletedProcess(sys.argv, exit.value.code, *capfd.readouterr())

    return run


def test_conversion(tmp_path):
    result = run_script(FIXTURES / "mask_distilled", "converted", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "converted: mask_transformer decoder, 5 labels, patch size 16, 0.3M parameters\n"
    assert result.stderr.count("LABEL_0 to LABEL_4") == 1
    assert (tmp_path / "converted" / "model.safetensors").is_file()


def test_bad_source_of_a_fresh_interpreter(tmp_path):
    result = run_script("nowhere", "converted", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == "convert_checkpoint.py: error: nowhere does not exist.\n"
    assert os.listdir(tmp_path) == []


def test_overwrite(run_main):
    assert run_main(FIXTURES / "mask_distilled", "converted").returncode == 0
    result = run_main(FIXTURES / "linear_patch16", "converted")
    assert result.returncode == 2 and "converted is not empty" in result.stderr
    result = run_main(FIXTURES / "linear_patch16", "converted", "--overwrite")
    assert result.returncode == 0 and result.stdout.startswith("converted: linear decoder, 7 labels")


def remove_variant(source):
    (source / "variant.yml").unlink()


def truncate(source):
    os.truncate(source / "checkpoint.pth", 10000)


def replace_by_web_page(source):
    (source / "checkpoint.pth").write_text("<!DOCTYPE html><html><body>503</body></html>")


def replace_by_other_model(source):
    torch.save({"model": torch.nn.Linear(2, 2).state_dict()}, source / "checkpoint.pth")


def put_code_into_variant(source):
    (source / "variant.yml").write_text("net_kwargs: !!python/object/apply:os.mkdir [executed]\n")


def change_variant(source):
    variant = yaml.unsafe_load((source / "variant.yml").read_text())
    variant["net_kwargs"]["n_cls"] = 150
    (source / "variant.yml").write_text(yaml.dump(variant))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove_variant, "holds no variant.yml"),
        (truncate, "truncated or not a PyTorch checkpoint"),
        (replace_by_web_page, "is a web page"),
        (replace_by_other_model, "left over are bias, weight"),
        (put_code_into_variant, "could not determine a constructor for the tag"),
        (change_variant, "`net_kwargs.n_cls` is 150, but the weights say 7"),
    ],
)
def test_bad_source_gives_one_line_and_exit_code_2(spoil, message, run_main, tmp_path):
    source = make_original_checkpoint().write(tmp_path / "source")
    spoil(source)
    result = run_main("source", "converted")
    assert result.returncode == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("convert_checkpoint.py: error: ") and message in line
    assert os.listdir(tmp_path) == ["source"]
