"""The evaluation script, run as a user runs it."""

import json
import subprocess
import sys

import pytest
import torch

from segmenter_hf import SegmenterForSemanticSegmentation, SegmenterImageProcessor
from segmenter_hf.data.loading import load_segmentation_dataset
from segmenter_hf.evaluation.protocol import evaluate_sliding_window

from ..common import REPOSITORY, tiny_config
from ..data.test_loading import write_dataset


ID2LABEL = {0: "sky", 1: "road", 2: "car", 3: "never seen"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("dataset"), id2label=ID2LABEL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    SegmenterForSemanticSegmentation(tiny_config(id2label=ID2LABEL)).save_pretrained(folder)
    SegmenterImageProcessor(
        do_split_image=True,
        size={"shortest_edge": 40, "longest_edge": 160},
        crop_size={"height": 32, "width": 32},
        window_stride=16,
        patch_size=8,
    ).save_pretrained(folder)
    return folder


def run_script(*arguments):
    command = [sys.executable, REPOSITORY / "scripts" / "evaluate_semantic_segmentation.py", *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=REPOSITORY)


@pytest.mark.slow
def test_prints_and_writes_what_the_protocol_gives(dataset, folder, tmp_path):
    output = tmp_path / "results.json"
    result = run_script("--model", folder, "--dataset_name", dataset, "--output_file", output)
    assert result.returncode == 0, result.stderr
    results = json.loads(output.read_text(encoding="utf-8"))
    assert json.loads(result.stdout) == results

    splits, _ = load_segmentation_dataset(str(dataset))
    expected = evaluate_sliding_window(
        SegmenterForSemanticSegmentation.from_pretrained(folder),
        SegmenterImageProcessor.from_pretrained(folder),
        splits["validation"],
    )
    assert results["mean_iou"] == pytest.approx(expected["mean_iou"])
    assert results["num_images"] == 2
    assert results["per_category_iou"]["sky"] == pytest.approx(expected["per_category_iou"][0])
    assert results["per_category_accuracy"]["never seen"] is None
    assert results["protocol"]["window"] == {"height": 32, "width": 32}
    assert results["protocol"]["window_stride"] == 16
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.slow
def test_labels_of_another_dataset_are_refused(folder, tmp_path):
    other = write_dataset(tmp_path / "other", id2label={0: "cat", 1: "dog", 2: "bird"})
    result = run_script("--model", folder, "--dataset_name", other)
    assert result.returncode == 2
    message = result.stderr.strip().splitlines()[-1]
    assert "'sky'" in message and "'cat'" in message
