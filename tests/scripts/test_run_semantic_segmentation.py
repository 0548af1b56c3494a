"""The training script, run as a user runs it."""

import json
import subprocess
import sys

import pytest
import torch
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

from ..common import REPOSITORY
from ..data.test_loading import write_dataset


def run_script(*arguments):
    command = [sys.executable, REPOSITORY / "scripts" / "run_semantic_segmentation.py", *arguments]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=REPOSITORY)
    assert result.returncode == 0, result.stderr
    return result


@pytest.mark.slow
def test_trains_evaluates_and_saves_a_model_that_loads(tmp_path):
    dataset = write_dataset(tmp_path / "dataset", id2label={"0": "sky", "1": "road", "2": "car"})
    common = [
        "--dataset_name",
        dataset,
        "--per_device_train_batch_size",
        2,
        "--use_cpu",
        "True",
        "--report_to",
        "none",
        "--max_steps",
        3,
    ]
    common += ["--logging_steps", 1, "--class_balance", 0.5]
    sizes = [
        "--short_side",
        32,
        "--crop_height",
        32,
        "--crop_width",
        32,
        "--hidden_size",
        64,
        "--num_hidden_layers",
        1,
        "--decoder_num_hidden_layers",
        1,
    ]
    first = tmp_path / "first"
    run_script(*common, *sizes, "--output_dir", first, "--learning_rate", 1e-3)

    metrics = json.loads((first / "all_results.json").read_text())
    assert 0 <= metrics["eval_mean_iou"] <= 1
    assert {"eval_iou/sky", "eval_iou/road", "eval_iou/car"} <= metrics.keys()
    losses = [
        entry for entry in json.loads((first / "trainer_state.json").read_text())["log_history"] if "loss" in entry
    ]
    assert len(losses) == 3

    model = AutoModelForSemanticSegmentation.from_pretrained(first)
    assert model.config.id2label == {0: "sky", 1: "road", 2: "car"}
    image_processor = AutoImageProcessor.from_pretrained(first)
    assert image_processor.do_split_image
    assert dict(image_processor.crop_size) == {"height": 32, "width": 32}

    # Training on from what the first run saved starts at its weights.
    second = tmp_path / "second"
    run_script(*common, "--output_dir", second, "--model_name_or_path", first, "--learning_rate", 0.0)
    again = AutoModelForSemanticSegmentation.from_pretrained(second)
    assert AutoImageProcessor.from_pretrained(second).to_dict() == image_processor.to_dict()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name
