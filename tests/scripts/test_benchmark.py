"""The benchmarks, on too little to say anything: that they run, and that what they compare is equal."""

import json
import math
import subprocess
import sys

import pytest

from ..common import REPOSITORY


def test_metric_is_compared_and_equal(tmp_path):
    command = [sys.executable, REPOSITORY / "scripts" / "benchmark.py", "metric"]
    command += ["--num_maps", 2, "--size", 40, "--num_labels", 9, "--repeats", 1]
    command += ["--output_file", tmp_path / "metric.json"]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=REPOSITORY)
    assert result.returncode == 0, result.stderr
    results = json.loads((tmp_path / "metric.json").read_text(encoding="utf-8"))
    assert [(row["maps"], row["dtype"]) for row in results["rows"]] == [
        ("masks", "uint8"),
        ("masks", "int64"),
        ("noise", "uint8"),
        ("noise", "int64"),
    ]
    for row in results["rows"]:
        assert math.isfinite(row["ratio"])
        assert row["ratio"] > 0
        assert row["max_abs_difference"] < 1e-12
    assert results["peer"] == "HistogramMeanIoU of this script"
    assert results["versions"].keys() >= {"segmenter_hf", "evaluate", "numpy"}
    assert len(result.stdout.splitlines()) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["metric.json"]


def test_augmentation_is_timed_beside_decoding(tmp_path):
    command = [sys.executable, REPOSITORY / "scripts" / "benchmark.py", "augmentation", "--num_images", 3]
    command += ["--crop_size", 64, "--repeats", 1, "--output_file", tmp_path / "augmentation.json"]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=REPOSITORY)
    assert result.returncode == 0, result.stderr
    results = json.loads((tmp_path / "augmentation.json").read_text(encoding="utf-8"))
    assert [row["samples"] for row in results["rows"]][0] == "decoding only"
    assert results["rows"][0]["ratio"] == 1
    for row in results["rows"]:
        assert row["images_per_second"] * row["latency_ms"] == pytest.approx(1000)
    assert results["source"] == "china.jpg"
