"""The command line: flags that the training scripts take, exit codes and messages."""

import re
import runpy
import sys

import numpy as np
import pytest
from PIL import Image

from segmenter_hf.training.arguments import ModelArguments, parse_arguments
from tests.common import REPOSITORY
from tests.data.datasets_on_disk import write_pairs
from tests.training.runs import AccelerateArguments


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Runs the script in this process on a folder of pairs: its exit code, standard output and error."""
    folder = write_pairs(tmp_path / "data", "images", "annotations")

    def run(*arguments):
        script = str(REPOSITORY / "scripts" / "compute_image_statistics.py")
        monkeypatch.setattr(sys, "argv", [script, "--dataset_name", str(folder), *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(script, run_name="__main__")
        return ended.value.code, *capfd.readouterr(), folder

    return run


def test_prints_flags_of_the_training_scripts(run):
    code, printed, _, folder = run()
    assert code == 0
    flags = printed.split()
    data_args = parse_arguments(AccelerateArguments, "", ["--dataset_name", str(folder), *flags])[1]
    images = [np.asarray(Image.open(file)).reshape(-1, 3) for file in (folder / "images").iterdir()]
    pixels = np.concatenate(images) / 255
    assert data_args.image_mean == pytest.approx(pixels.mean(axis=0), abs=1e-3)
    assert data_args.image_std == pytest.approx(pixels.std(axis=0), abs=1e-3)

    code, printed, _, _ = run("--max_samples", 1, "--max_value", 4095)
    assert code == 0 and printed.startswith("--num_channels 3 --max_value 4095 --image_mean 0.")
    model_args, data_args, *_ = parse_arguments(
        AccelerateArguments, "", ["--dataset_name", str(folder), *printed.split()]
    )
    assert (model_args.num_channels, data_args.max_value) == (3, 4095)
    assert ModelArguments().num_channels is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--num_channels", 4), r"Example 0 \(.*0\.jpg\) cannot be used: it has 3 bands, expected 4"),
        (("--split", "test"), "has no split test, only train. Name one with --split."),
        (("--max_samples", 0), "--max_samples must be at least 1, got 0"),
        (("--max_value", 70000), "--max_value must be from 1 to 65535, got 70000"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(run, arguments, message):
    code, printed, errors, _ = run(*arguments)
    assert (code, printed) == (2, "")
    assert re.search(rf"compute_image_statistics\.py: error: .*{message}", errors.splitlines()[-1])
