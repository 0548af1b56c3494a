"""The export script, run as a user runs it."""

import errno
import json
import runpy
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSemanticSegmentation

from segmenter_hf import SegmenterForSemanticSegmentation, SegmenterImageProcessor, default_checkpoint
from segmenter_hf.hub.origins import Terms, load_starting_weights

from ..common import CODE_FILES, REPOSITORY, tiny_config


SCRIPT = REPOSITORY / "scripts" / "export_checkpoint.py"


@pytest.mark.slow
def test_halves_the_weights_and_leaves_what_else_is_there(tmp_path):
    torch.manual_seed(0)
    model = SegmenterForSemanticSegmentation(tiny_config(id2label={0: "sky", 1: "road"}))
    model.save_pretrained(tmp_path / "trained")
    SegmenterImageProcessor(window_stride=100).save_pretrained(tmp_path / "trained")
    (tmp_path / "trained" / "NOTICE").write_text("theirs")
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    (shipped / "README.md").write_text("card")
    (shipped / "NOTICE").write_text("mine")

    subprocess.run([sys.executable, SCRIPT, tmp_path / "trained", shipped], check=True, cwd=REPOSITORY)

    weights = load_file(shipped / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float16}
    loaded = AutoModelForSemanticSegmentation.from_pretrained(shipped)
    assert loaded.config.id2label == {0: "sky", 1: "road"}
    for name, weight in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight.half().float()), name
    assert SegmenterImageProcessor.from_pretrained(shipped).window_stride == 100
    assert (shipped / "README.md").read_text() == "card" and (shipped / "NOTICE").read_text() == "mine"
    assert (shipped / "NOTICE-2").read_text() == "theirs", "the terms of the weights come along"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shipped", "trained"]


def run_main(monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    with pytest.raises(SystemExit) as exit:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return exit.value.code


@pytest.mark.parametrize("arguments", [[], ["--without_code"]])
def test_code_comes_along_unless_told_otherwise(arguments, tmp_path, monkeypatch):
    """The shipped model, which holds none itself, gets it too."""
    assert run_main(monkeypatch, default_checkpoint(), tmp_path / "shipped", *arguments) == 0
    shipped = tmp_path / "shipped"
    assert {path.name for path in shipped.glob("*.py")} == (set() if arguments else CODE_FILES)
    for name in ("config.json", "preprocessor_config.json"):
        settings = json.loads((shipped / name).read_text())
        assert ("auto_map" not in settings) == bool(arguments)


def test_a_licence_that_only_the_card_states_comes_along(tmp_path, monkeypatch):
    SegmenterForSemanticSegmentation(tiny_config()).save_pretrained(tmp_path / "trained")
    SegmenterImageProcessor().save_pretrained(tmp_path / "trained")
    card = "---\nlicense: cc-by-nc-4.0\nbase_model: lab/start\n---\n"
    (tmp_path / "trained" / "README.md").write_text(card)

    assert run_main(monkeypatch, tmp_path / "trained", tmp_path / "shipped") == 0
    start = load_starting_weights(str(tmp_path / "shipped"))
    assert start.terms == Terms("cc-by-nc-4.0") and start.base_model == "lab/start"


def test_a_disk_that_is_full_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    SegmenterForSemanticSegmentation(tiny_config()).save_pretrained(tmp_path / "trained")
    SegmenterImageProcessor().save_pretrained(tmp_path / "trained")

    def fail(self, folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(SegmenterImageProcessor, "save_pretrained", fail)
    assert run_main(monkeypatch, tmp_path / "trained", tmp_path / "new" / "shipped") == 2
    assert "shipped cannot be written: No space left on device. " in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["trained"]
