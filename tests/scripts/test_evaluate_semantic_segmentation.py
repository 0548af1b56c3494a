"""The evaluation script, run as a user runs it."""

import errno
import json
import os
import runpy
import subprocess
import sys

import numpy as np
import pytest
import torch
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image

from segmenter_hf import SegmenterForSemanticSegmentation, SegmenterImageProcessor, SegmenterModel
from segmenter_hf.evaluation.protocol import evaluate_sliding_window
from segmenter_hf.evaluation.results import read_results_file

from ..common import REPOSITORY, tiny_config
from ..data.datasets_on_disk import make_image, make_label_map, save, write_pairs


ID2LABEL = {0: "sky", 1: "road", 2: "car", 3: "never seen"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Images have odd sizes, the second no labels, and columns other names."""
    folder = tmp_path_factory.mktemp("dataset")
    sizes = [(41, 67), (50, 50), (90, 33)]
    images = [make_image(*size, seed=index) for index, size in enumerate(sizes)]
    maps = [
        make_label_map((0, 1, 2), *sizes[0]),
        make_label_map((255,), *sizes[1]),
        make_label_map((2, 255), *sizes[2]),
    ]
    columns = {"rgb": [np.array(image) for image in images], "classes_of_pixels": [np.array(each) for each in maps]}
    features = Features({"rgb": ImageFeature(), "classes_of_pixels": ImageFeature()})
    Dataset.from_dict(columns, features=features).to_parquet(folder / "val-00000-of-00001.parquet")
    (folder / "id2label.json").write_text(json.dumps(ID2LABEL), encoding="utf-8")
    examples = [{"image": image, "annotation": each} for image, each in zip(images, maps, strict=True)]
    return folder, examples


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


def run_script(*arguments, launcher=(sys.executable,)):
    command = [*launcher, REPOSITORY / "scripts" / "evaluate_semantic_segmentation.py", *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=REPOSITORY)


def run_main(monkeypatch, *arguments) -> int:
    """The same inside this process, where importing torch and transformers costs nothing any more."""
    script = str(REPOSITORY / "scripts" / "evaluate_semantic_segmentation.py")
    monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
    with pytest.raises(SystemExit) as exit:
        runpy.run_path(script, run_name="__main__")
    return exit.value.code


def test_figures_outlive_a_disk_that_fills_up(dataset, folder, tmp_path, monkeypatch, capsys):
    def fill(picture, file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fill)
    pictures = ["--worst_cases", 1, "--worst_cases_dir", tmp_path / "worst"]
    arguments = [
        "--model",
        folder,
        "--dataset_name",
        dataset[0],
        "--output_file",
        tmp_path / "results.json",
        *pictures,
    ]
    assert run_main(monkeypatch, *arguments) == 2
    output, errors = capsys.readouterr()
    assert json.loads(output) == read_results_file(tmp_path / "results.json")
    assert "error: " in errors.splitlines()[-1] and "png cannot be written: No space left on device." in errors
    assert list((tmp_path / "worst").iterdir()) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a full device")
def test_results_are_written_where_they_cannot_be_printed(dataset, folder, tmp_path, monkeypatch, capsys):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        arguments = ["--model", folder, "--dataset_name", dataset[0], "--output_file", tmp_path / "results.json"]
        assert run_main(monkeypatch, *arguments) == 2
        # What is still in the buffer is lost.
        with pytest.raises(OSError):
            full.close()
    assert "standard output cannot be written: No space left on device" in capsys.readouterr().err.splitlines()[-1]
    assert read_results_file(tmp_path / "results.json")["num_images"] == 3


def expected_results(folder, examples, **settings):
    model = SegmenterForSemanticSegmentation.from_pretrained(folder)
    return evaluate_sliding_window(model, SegmenterImageProcessor.from_pretrained(folder), examples, **settings)


@pytest.mark.slow
def test_prints_and_writes_what_the_protocol_gives(dataset, folder, tmp_path):
    output = tmp_path / "results.json"
    dataset, examples = dataset
    pictures = ["--worst_cases", 1, "--worst_cases_dir", tmp_path / "worst"]
    result = run_script("--model", folder, "--dataset_name", dataset, "--output_file", output, *pictures)
    assert result.returncode == 0, result.stderr
    results = read_results_file(output)
    assert json.loads(result.stdout) == results

    expected = expected_results(folder, examples)
    for name in ("mean_iou", "mean_accuracy", "overall_accuracy", "loss", "num_images"):
        assert results[name] == expected[name]
    assert results["per_category_iou"]["sky"] == expected["per_category_iou"][0]
    assert results["per_category_accuracy"]["never seen"] is None
    assert results["protocol"]["window"] == {"height": 32, "width": 32}
    assert results["protocol"]["window_stride"] == 16
    assert results["dataset"]["split"] == "validation"

    (picture,) = (tmp_path / "worst").iterdir()
    scores = [expected_results(folder, [examples[index]])["mean_iou"] for index in (0, 2)]
    index = (0, 2)[int(np.argmin(scores))]
    assert picture.name == f"{100 * min(scores):05.1f}_image_{index:05d}.png"
    width, height = examples[index]["image"].size
    assert Image.open(picture).height > height and Image.open(picture).width > 3 * width
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.json", "worst"]


@pytest.mark.slow
def test_multi_scale_with_other_settings_on_two_processes(dataset, folder, tmp_path):
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2)
    dataset, examples = dataset
    settings = [
        "--multi_scale",
        "--no-antialias",
        "--window_stride",
        32,
        "--exclude_classes",
        "sky",
        "--device",
        "cpu",
    ]
    output = ["--output_file", tmp_path / "results.json"]
    names = ["--annotation_column_name", "classes_of_pixels"]
    arguments = ["--model", folder, "--dataset_name", dataset, *settings, *output, *names]
    result = run_script(*arguments, launcher=launcher)
    assert result.returncode == 0, result.stderr
    results = read_results_file(tmp_path / "results.json")
    processor = SegmenterImageProcessor.from_pretrained(folder, antialias=False, window_stride=32)
    model = SegmenterForSemanticSegmentation.from_pretrained(folder)
    expected = evaluate_sliding_window(model, processor, examples, multi_scale=True, exclude=[0])
    for name in ("mean_iou", "mean_accuracy", "overall_accuracy", "loss", "num_images"):
        assert results[name] == expected[name]
    assert results["hardware"]["num_processes"] == 2
    assert results["protocol"]["exclude_classes"] == ["sky"]
    assert (results["protocol"]["antialias"], results["protocol"]["flip"]) == (False, True)
    assert result.stdout.count('"mean_iou"') == 1, "one process prints"


@pytest.mark.slow
def test_what_cannot_be_scored_is_one_line(dataset, folder, tmp_path):
    dataset, _ = dataset
    other = write_pairs(tmp_path / "other", "val/images", "val/annotations")
    wrong = write_pairs(tmp_path / "wrong", "val/images", "val/annotations")
    (wrong / "id2label.json").write_text(json.dumps(ID2LABEL), encoding="utf-8")
    save(make_label_map((0, 9)), wrong / "val" / "annotations" / "1.png")
    SegmenterModel(tiny_config()).save_pretrained(tmp_path / "encoder")
    for arguments, messages in [
        (["--model", folder, "--dataset_name", other], ["label 3 is 'never seen' and None"]),
        (["--model", folder, "--dataset_name", wrong], ["1.png", "9", "expected labels from 0 to 3"]),
        (
            ["--model", tmp_path / "encoder", "--dataset_name", dataset],
            ["does not have all weights", "Train it first"],
        ),
        (
            ["--model", folder, "--dataset_name", dataset, "--split", "test"],
            ["has no split test, only val", "--split"],
        ),
    ]:
        result = run_script(*arguments, "--output_file", tmp_path / "results.json")
        assert result.returncode == 2, result.stderr
        message = result.stderr.strip().splitlines()[-1]
        assert all(part in message for part in messages), message
        assert "Traceback" not in result.stderr
    assert not (tmp_path / "results.json").exists()


@pytest.mark.slow
def test_a_wrong_label_beyond_the_sample_is_one_line_of_the_process_that_finds_it(folder, tmp_path):
    # The check before the evaluation looks at 200 label maps: the second process finds the one that it left out.
    number = 250
    sampled = np.random.default_rng(0).choice(number, 200, replace=False)
    index = min(index for index in range(1, number, 2) if index not in sampled)
    wrong = write_pairs(tmp_path / "wrong", "val/images", "val/annotations", number=number)
    (wrong / "id2label.json").write_text(json.dumps(ID2LABEL), encoding="utf-8")
    # Files are in the order of their names.
    name = sorted(path.name for path in (wrong / "val" / "annotations").iterdir())[index]
    save(make_label_map((0, 9)), wrong / "val" / "annotations" / name)
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2)
    arguments = ["--model", folder, "--dataset_name", wrong, "--device", "cpu"]
    result = run_script(*arguments, "--output_file", tmp_path / "results.json", launcher=launcher)
    assert result.returncode != 0
    lines = [line for line in result.stderr.splitlines() if "evaluate_semantic_segmentation.py: error" in line]
    # The other process may wait for this one, and notice that it is gone.
    (message,) = [line for line in lines if "The processes have lost each other" not in line]
    # The launcher has a traceback of its own.
    assert len(lines) <= 2 and 'evaluate_semantic_segmentation.py", line' not in result.stderr
    assert f"Example {index} (" in message and f"{name}) cannot be evaluated" in message and "9" in message
    assert not (tmp_path / "results.json").exists()
