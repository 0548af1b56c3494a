"""The command line: exit codes, messages, and an output folder that is complete or absent."""

import dataclasses
import hashlib
import json
import os
import resource
import runpy
import signal
import subprocess
import sys

import huggingface_hub.constants
import numpy as np
import pytest
import torch
import yaml

from segmenter_hf.conversion.released import RELEASED
from tests.common import CODE_FILES, REPOSITORY
from tests.conversion.flaky_server import FlakyServer
from tests.conversion.original_checkpoints import make_original_checkpoint


SCRIPT = REPOSITORY / "scripts" / "convert_checkpoint.py"
ALL_FIXTURES = REPOSITORY / "tests" / "fixtures"
FIXTURES = ALL_FIXTURES / "original"


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
    sha256 = hashlib.sha256((FIXTURES / "mask_distilled" / "checkpoint.pth").read_bytes()).hexdigest()
    assert result.stdout == (
        "converted: mask_transformer decoder, 5 labels, patch size 16, 0.3M parameters\n"
        f"from checkpoint.pth, SHA-256 {sha256}\n"
    )
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


@pytest.mark.parametrize(
    ("source", "summary"),
    [
        ("original/linear_patch16", "linear decoder, 7 labels, patch size 16"),
        ("mmseg/mask_v0", "mask_transformer decoder, 7 labels, patch size 16"),
        ("mmseg/mask_v1", "mask_transformer decoder, 7 labels, patch size 16"),
        ("mmseg/linear_v1", "linear decoder, 7 labels, patch size 16"),
        ("augreg/vit_patch16/checkpoint.npz", "encoder of 2 layers for images of 64, patch size 16"),
        ("augreg/vit_patch16/timm.safetensors", "encoder of 2 layers for images of 64, patch size 16"),
        ("augreg/vit_patch16/mmseg_vit.pth", "encoder of 2 layers for images of 64, patch size 16"),
    ],
)
def test_one_command_takes_every_format(source, summary, run_main, tmp_path):
    result = run_main(ALL_FIXTURES / source, "converted")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"converted: {summary}, ")
    assert set(os.listdir(tmp_path / "converted")) == CODE_FILES | {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    }


def test_options_of_encoders(run_main, tmp_path):
    source = ALL_FIXTURES / "augreg" / "vit_patch16" / "timm.safetensors"
    options = ["--image_size", "96x128", "--normalization", "deit", "--position_embedding_interpolation", "bicubic"]
    result = run_main(source, "converted", *options, "--num_attention_heads", 2)
    assert result.returncode == 0 and result.stderr.count("\n") <= 1, result.stderr
    config = json.loads((tmp_path / "converted" / "config.json").read_text())
    assert (config["image_size"], config["num_attention_heads"]) == ([96, 128], 2)
    assert config["position_embedding_interpolation"] == "bicubic"
    settings = json.loads((tmp_path / "converted" / "preprocessor_config.json").read_text())
    assert settings["image_mean"] == [0.485, 0.456, 0.406]
    assert settings["crop_size"] == {"height": 96, "width": 128}

    result = run_main(ALL_FIXTURES / "mmseg" / "mask_v0", "other", "--image_size", "96")
    assert result.returncode == 2 and "These options are for encoders" in result.stderr
    result = run_main(source, "other", "--image_size", "100")
    assert result.returncode == 2 and "multiples of the patch size" in result.stderr
    assert os.listdir(tmp_path) == ["converted"]


def test_format_overrides_what_the_contents_tell(run_main, tmp_path):
    """Weights that two code bases call the same are told apart by the user."""
    source = ALL_FIXTURES / "augreg" / "vit_patch16" / "timm.safetensors"
    result = run_main(source, "converted", "--format", "timm")
    assert result.returncode == 0
    result = run_main(source, "other", "--format", "mmsegmentation-encoder")
    assert result.returncode == 2 and "missing are" in result.stderr
    result = run_main(source, "other", "--format", "onnx")
    assert result.returncode == 2 and "invalid choice: 'onnx'" in result.stderr
    assert os.listdir(tmp_path) == ["converted"]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["output"],
        ["source", "output", "--released", "ade20k/seg_tiny_mask"],
        ["--released", "ade20k/seg_tiny_mask"],
        ["source", "output", "--image_size", "12x13x14"],
        ["source", "output", "--image_size", "0"],
    ],
)
def test_wrong_usage(arguments, run_main, tmp_path):
    result = run_main(*arguments)
    assert result.returncode == 2 and "usage:" in result.stderr and "error:" in result.stderr
    assert os.listdir(tmp_path) == []


def test_files_without_checksums_are_taken_when_asked_only(run_main, tmp_path):
    folder = make_original_checkpoint().write(tmp_path / "source")
    contents = torch.load(folder / "checkpoint.pth")
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(contents, folder / "checkpoint.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    refused = run_main(folder, tmp_path / "converted")
    assert refused.returncode == 2 and "--allow_missing_checksums" in refused.stderr
    assert run_main(folder, tmp_path / "converted", "--allow_missing_checksums").returncode == 0


@pytest.mark.parametrize("arguments", [["ade20k/seg_tiny_mask"], ["--released", "ade20k/seg_tiny_mask"]])
def test_released_checkpoint_is_downloaded_and_converted(arguments, run_main, tmp_path, monkeypatch):
    row = RELEASED["ade20k/seg_tiny_mask"]
    published = make_original_checkpoint(window_stride=64).write(tmp_path / "published")
    content = {f"/{file.name}": (published / file.name).read_bytes() for file in row.files}
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with FlakyServer(content) as server:
        files = tuple(dataclasses.replace(file, url=server.url(f"/{file.name}")) for file in row.files)
        monkeypatch.setitem(RELEASED, row.name, dataclasses.replace(row, files=files))
        result = run_main(*arguments, "converted", "--cache_dir", "cache")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("converted: mask_transformer decoder, 7 labels")
    assert {"README.md", "LICENSE"} <= set(os.listdir(tmp_path / "converted"))
    settings = json.loads((tmp_path / "converted" / "preprocessor_config.json").read_text())
    assert settings["window_stride"] == row.protocol.window_stride != 64
    assert (tmp_path / "cache" / row.repo_name / "checkpoint.pth").read_bytes() == content["/checkpoint.pth"]


def test_released_name_that_is_none(run_main, tmp_path):
    for arguments, message in (
        (["--released", "ade20k/seg_tiny_maks"], "There is no released checkpoint 'ade20k/seg_tiny_maks'."),
        (["ade20k/seg_tiny_maks"], "ade20k/seg_tiny_maks is no file or folder here, and cannot be had from the Hub: "),
        (["vit_tiny_p16_834"], "vit_tiny_p16_834 does not exist."),
    ):
        result = run_main(*arguments, "converted")
        (line,) = result.stderr.splitlines()
        close = "vit_tiny_p16_384" if "vit" in message else "ade20k/seg_tiny_mask"
        assert result.returncode == 2 and message in line and f"Did you mean {close}" in line
    assert os.listdir(tmp_path) == []


def test_a_path_has_precedence_over_a_released_name(run_main, tmp_path):
    make_original_checkpoint(window_stride=32).write(tmp_path / "ade20k" / "seg_tiny_mask")
    result = run_main("ade20k/seg_tiny_mask", "converted")
    assert result.returncode == 0, result.stderr
    settings = json.loads((tmp_path / "converted" / "preprocessor_config.json").read_text())
    assert settings["window_stride"] == 32


def test_released_checkpoints_are_listed(run_main):
    result = run_main("--list_released")
    assert result.returncode == 0
    for name, row in RELEASED.items():
        assert name in result.stdout and row.repo_name in result.stdout


def test_output_folder_in_use_costs_no_download(run_main, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    (tmp_path / "converted").mkdir()
    (tmp_path / "converted" / "notes.txt").touch()
    row = RELEASED["vit_tiny_p16_384"]
    with FlakyServer({}) as server:
        files = (dataclasses.replace(row.files[0], url=server.url("/encoder.pth")),)
        monkeypatch.setitem(RELEASED, row.name, dataclasses.replace(row, files=files))
        result = run_main("--released", row.name, "converted", "--cache_dir", "cache")
        assert server.requests == []
    assert result.returncode == 2 and "is not empty" in result.stderr


def remove_variant(source):
    (source / "variant.yml").unlink()


def truncate(source):
    os.truncate(source / "checkpoint.pth", 10000)


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
        (truncate, "truncated or not a PyTorch, NumPy or safetensors file"),
        (put_code_into_variant, "could not determine a constructor for the tag"),
        (change_variant, "`net_kwargs.n_cls` is 150, but the weights say 7"),
    ],
)
def test_bad_source_gives_one_line_and_exit_code_2(spoil, message, run_main, tmp_path):
    source = make_original_checkpoint().write(tmp_path / "source")
    spoil(source)
    check_refusal(run_main("source", "converted"), message, tmp_path)


class RunCode:
    """Unpickling it makes a folder."""

    def __reduce__(self):
        return (os.mkdir, ("executed",))


def write_web_page(path):
    path.write_text("\n<html><body>404</body></html>")


def write_pickled_array(path):
    arrays = dict(np.load(ALL_FIXTURES / "augreg" / "vit_patch16" / "checkpoint.npz"))
    arrays["cls"] = np.array([RunCode()], dtype=object)
    with path.open("wb") as file:
        np.savez(file, **arrays)


def write_code_in_legacy_file(path):
    torch.save({"state_dict": {}, "meta": RunCode()}, path, _use_new_zipfile_serialization=False)


def write_code_in_config_text(path):
    checkpoint = torch.load(ALL_FIXTURES / "mmseg" / "mask_v0" / "checkpoint.pth", weights_only=True)
    checkpoint["meta"]["config"] += "import os\nos.mkdir('executed')\n"
    torch.save(checkpoint, path)


def write_config_of_another_model(path):
    checkpoint = torch.load(ALL_FIXTURES / "mmseg" / "mask_v0" / "checkpoint.pth", weights_only=True)
    checkpoint["meta"]["config"] = checkpoint["meta"]["config"].replace("SegmenterMaskTransformerHead", "UPerHead")
    torch.save(checkpoint, path)


def write_deit_3(path):
    weights = torch.load(ALL_FIXTURES / "augreg" / "vit_patch16" / "mmseg_vit.pth", weights_only=True)
    torch.save({**weights, "layers.0.ls1.gamma": torch.ones(64)}, path)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (write_web_page, "is a web page"),
        (write_pickled_array, "cls of source cannot be read"),
        (write_code_in_legacy_file, "(posix.mkdir), which could run code"),
        (write_code_in_config_text, "does something else than assign a value to a name"),
        (write_config_of_another_model, "got 'UPerHead'"),
        (write_deit_3, "left over are layers.0.ls1.gamma"),
    ],
)
def test_bad_file_gives_one_line_and_exit_code_2(write, message, run_main, tmp_path):
    write(tmp_path / "source")
    check_refusal(run_main("source", "converted"), message, tmp_path)


def test_writing_that_fails_gives_one_line(run_main, tmp_path):
    """No progress bar before it, nor warnings about what then is not there."""
    make_original_checkpoint(dataset="mine").write(tmp_path / "source")
    before = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[0][1]))
        result = run_main("source", "models/converted")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before[0])
        signal.signal(signal.SIGXFSZ, before[1])
    check_refusal(result, "converted cannot be written: ", tmp_path)


def raise_in_conversion(monkeypatch, error: BaseException):
    def fail(*arguments, **settings):
        raise error

    monkeypatch.setattr("segmenter_hf.conversion.convert_checkpoint", fail)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ZeroDivisionError("first\nsecond"), "unexpected ZeroDivisionError: first. Please report this."),
        (MemoryError(), "unexpected MemoryError: no message. Please report this."),
    ],
)
def test_errors_that_nobody_thought_of(error, message, run_main, tmp_path, monkeypatch):
    raise_in_conversion(monkeypatch, error)
    (tmp_path / "source").touch()
    check_refusal(run_main("source", "converted"), message, tmp_path)


@pytest.mark.parametrize("source", ["google/no-vit", "timm:vit_tiny_patch16_384"])
def test_out_of_reach_gives_one_line(source, run_main, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "source"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "source").mkdir()
    check_refusal(run_main(source, "converted"), "the Hub" if "google" in source else "Without a network", tmp_path)


def check_refusal(result: subprocess.CompletedProcess, message: str, folder):
    assert result.returncode == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("convert_checkpoint.py: error: ") and message in line
    assert os.listdir(folder) == ["source"]
