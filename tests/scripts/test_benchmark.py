"""The benchmark, on maps too small to say anything: that it runs, and that what it compares is equal."""

import json
import math
import subprocess
import sys

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
