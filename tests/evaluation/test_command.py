"""What the evaluation script refuses before any work."""

import json
import os
import runpy
from argparse import Namespace

import pytest
import torch

from segmenter_hf import SegmenterForSemanticSegmentation, SegmenterImageProcessor
from segmenter_hf.evaluation.command import (
    EvaluationError,
    check_arguments,
    check_outputs,
    find_classes,
    find_device,
)
from segmenter_hf.outputs import OutputError

from ..common import REPOSITORY, tiny_config
from ..data.datasets_on_disk import write_pairs


ID2LABEL = {0: "sky", 1: "road", 2: "0"}


def arguments(**changes) -> Namespace:
    settings = {"window_batch_size": 8, "max_eval_samples": None, "max_value": None, "short_side": None}
    return Namespace(**{**settings, "worst_cases": 0, **changes})


@pytest.mark.parametrize("name", ["window_batch_size", "max_eval_samples", "max_value", "short_side"])
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


@pytest.fixture
def run_script(tmp_path, monkeypatch, capsys):
    """Evaluates the model in `model` on a picture as the script does; returns exit code and what it says."""
    monkeypatch.chdir(tmp_path)
    write_pairs(tmp_path / "data", "validation/images", "validation/annotations", number=1)
    SegmenterImageProcessor(patch_size=8, do_resize=False).save_pretrained("model")
    options = [
        "--model_name_or_path",
        "model",
        "--dataset_name",
        "data",
        "--device",
        "cpu",
        "--output_file",
        "out.json",
    ]

    def run(model, **fields) -> tuple[int, str]:
        model.save_pretrained("model")
        file = tmp_path / "model" / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | fields))
        monkeypatch.setattr("sys.argv", ["evaluate_semantic_segmentation.py", *options])
        main = runpy.run_path(str(REPOSITORY / "scripts" / "evaluate_semantic_segmentation.py"))["main"]
        code = main()
        return code, capsys.readouterr().err.splitlines()[-1]

    return run


def test_models_that_give_no_scores_fail(run_script, tmp_path):
    model = SegmenterForSemanticSegmentation(tiny_config(id2label={0: "sky", 1: "road", 2: "car"}))
    assert run_script(model)[0] == 0
    (tmp_path / "out.json").unlink()
    model.decoder.mask_norm.bias.data[0] = torch.nan
    code, line = run_script(model)
    assert code == 2
    assert "error: model: The model's scores are NaN or infinite, in example 0" in line
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_hidden_layers", 3, "`num_hidden_layers` is 3, and 2 in the weights"),
        ("hidden_size", 64, "do not fit its config"),
    ],
)
def test_weights_that_do_not_fit_their_config(field, value, message, run_script, tmp_path):
    code, line = run_script(SegmenterForSemanticSegmentation(tiny_config(num_labels=3)), **{field: value})
    assert code == 2
    assert "error: " in line and message in line
    assert not (tmp_path / "out.json").exists()
