"""What the evaluation script refuses before any work."""

import os
from argparse import Namespace

import pytest
import torch

from segmenter_hf.evaluation.command import EvaluationError, check_arguments, check_outputs, find_classes, find_device
from segmenter_hf.outputs import OutputError


ID2LABEL = {0: "sky", 1: "road", 2: "0"}


def arguments(**changes) -> Namespace:
    settings = {"window_batch_size": 8, "max_eval_samples": None, "short_side": None, "worst_cases": 0}
    return Namespace(**{**settings, **changes})


@pytest.mark.parametrize("name", ["window_batch_size", "max_eval_samples", "short_side"])
def test_numbers_that_are_out_of_range(name):
    check_arguments(arguments(**{name: 1}))
    with pytest.raises(EvaluationError, match=f"--{name} must be at least 1, got 0"):
        check_arguments(arguments(**{name: 0}))


def test_outputs_are_probed_and_nothing_is_left(tmp_path):
    (tmp_path / "file").touch()
    fine = {"output_file": tmp_path / "new" / "results.json", "worst_cases_dir": tmp_path / "worst"}
    check_outputs(Namespace(**fine))
    assert os.listdir(tmp_path) == ["file"]
    for changes, message in (
        ({"output_file": tmp_path}, "is a folder, expected the name of a file"),
        ({"output_file": tmp_path / "file" / "results.json"}, "results.json cannot be written"),
        ({"worst_cases_dir": tmp_path / "file"}, "file is a file, expected a folder"),
    ):
        with pytest.raises(OutputError, match=message):
            check_outputs(Namespace(**(fine | changes)))


def test_devices():
    assert find_device("cpu") == torch.device("cpu")
    for name in ("no_such_device", "cuda:99"):
        with pytest.raises(EvaluationError, match=f"--device {name} cannot be used"):
            find_device(name)


def test_classes_by_name_or_number():
    assert find_classes([], ID2LABEL) == []
    assert find_classes(["road", "1"], ID2LABEL) == [1]
    assert find_classes(["0"], ID2LABEL) == [2], "a name comes before a number"
    with pytest.raises(EvaluationError, match="must be among sky, road, 0, got .*car"):
        find_classes(["car"], ID2LABEL)
    with pytest.raises(EvaluationError, match="must leave some of the 3 labels"):
        find_classes(["sky", "road", "2"], ID2LABEL)
