"""The export script, run as a user runs it."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSemanticSegmentation

from segmenter_hf import SegmenterForSemanticSegmentation, SegmenterImageProcessor

from ..common import REPOSITORY, tiny_config


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

    command = [sys.executable, REPOSITORY / "scripts" / "export_checkpoint.py", tmp_path / "trained", shipped]
    subprocess.run(command, check=True, cwd=REPOSITORY)

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
