"""The file of results, and the fingerprint of what was measured on."""

import copy
import hashlib
import json
import math
import zipfile

import pytest
from datasets import Dataset, Features, Image, load_dataset

from segmenter_hf import SegmenterImageProcessor
from segmenter_hf.evaluation.results import (
    describe_command,
    fingerprint,
    have_same_figures,
    make_results,
    read_results_file,
    write_results_file,
)

from ..data.datasets_on_disk import make_image, make_label_map, save


FIGURES = {
    "mean_iou": 0.5,
    "mean_accuracy": 0.75,
    "overall_accuracy": 0.8,
    "loss": 1.25,
    "num_images": 2,
    "per_category_iou": [0.5, math.nan],
    "per_category_accuracy": [0.75, math.nan],
}


@pytest.fixture
def results():
    image_processor = SegmenterImageProcessor(do_split_image=True, window_stride={"height": 256, "width": 512})
    return make_results(
        FIGURES,
        model_name="outputs/model",
        id2label={0: "sky", 1: "never seen"},
        image_processor=image_processor,
        dataset={"name": "data", "config_name": None, "split": "validation", "fingerprint": "abc"},
        exclude=[1],
        multi_scale=True,
    )


def test_what_is_written_is_read(results, tmp_path):
    write_results_file(results, tmp_path / "folder" / "results.json")
    assert read_results_file(tmp_path / "folder" / "results.json") == results
    assert [file.name for file in (tmp_path / "folder").iterdir()] == ["results.json"]
    assert "NaN" not in (tmp_path / "folder" / "results.json").read_text(encoding="utf-8")
    assert results["per_category_iou"] == {"sky": 0.5, "never seen": None}
    assert results["dataset"]["num_images"] == 2
    protocol = results["protocol"]
    assert protocol["scales"] == [0.5, 0.75, 1.0, 1.25, 1.5, 1.75] and protocol["flip"]
    assert protocol["window_stride"] == {"height": 256, "width": 512}
    assert protocol["size"] == {"shortest_edge": 512, "longest_edge": 2048}
    assert protocol["exclude_classes"] == ["never seen"]
    assert {"python", "segmenter_hf", "torch", "transformers"} <= results["versions"].keys()


def test_other_files_are_refused(tmp_path, results):
    with pytest.raises(ValueError, match="cannot be read as results"):
        read_results_file(tmp_path / "missing.json")
    for contents in ([], {"mean_iou": 0.5}, {name: 1 for name in results if name != "protocol"}):
        (tmp_path / "other.json").write_text(json.dumps(contents), encoding="utf-8")
        with pytest.raises(ValueError, match="holds no results of an evaluation: .*protocol"):
            read_results_file(tmp_path / "other.json")
    with pytest.raises(ValueError, match="`protocol` of the results is 1"):
        have_same_figures(results, {**results, "protocol": 1})


@pytest.mark.parametrize(
    ("path", "value", "is_same"),
    [
        ("model", "elsewhere", True),
        ("protocol.window_batch_size", 1, True),
        ("dataset.fingerprint", "other", False),
        ("loss", 1.5, False),
        ("per_category_iou.sky", 0.25, False),
        ("protocol.window_stride", 128, False),
        ("protocol.exclude_classes", [], False),
    ],
)
def test_figures_are_the_same_where_data_and_protocol_are(path, value, is_same, results):
    others = copy.deepcopy(results)
    *parents, name = path.split(".")
    (others[parents[0]] if parents else others)[name] = value
    assert have_same_figures(results, others) is have_same_figures(others, results) is is_same


def test_commands_can_be_pasted_and_name_no_machine():
    arguments = ["/home/me/segmenter_hf/scripts/evaluate.py", "--labels", "my labels.json"]
    assert describe_command(arguments) == "python scripts/evaluate.py --labels 'my labels.json'"
    secrets = ["--hub_token", "hf_secret", "--token=hf_secret", "--split", "test"]
    assert describe_command(["scripts/evaluate.py", *secrets]) == "python scripts/evaluate.py --split test"
    assert describe_command(["scripts/evaluate.py"]) == "python scripts/evaluate.py"


def test_fingerprint_is_of_the_data(tmp_path):
    files = [
        (save(make_image(seed=index), tmp_path / f"{index}.jpg"), save(make_label_map(), tmp_path / f"{index}.png"))
        for index in range(3)
    ]

    def make(pairs):
        columns = {"image": [str(pair[0]) for pair in pairs], "annotation": [str(pair[1]) for pair in pairs]}
        return Dataset.from_dict(columns, features=Features({"image": Image(), "annotation": Image()}))

    contents = [file.read_bytes() for pair in files for file in pair]
    expected = hashlib.sha256(b"".join(len(each).to_bytes(8, "big") + each for each in contents)).hexdigest()
    assert fingerprint(make(files)) == expected, "files of results keep it, so it must stay what it is"
    embedded = tmp_path / "parquet"
    embedded.mkdir()
    rows = {"image": [{"bytes": pair[0].read_bytes(), "path": None} for pair in files]}
    rows["annotation"] = [{"bytes": pair[1].read_bytes(), "path": None} for pair in files]
    Dataset.from_dict(rows, features=make(files).features).to_parquet(embedded / "train.parquet")
    stored = load_dataset(str(embedded), split="train", cache_dir=str(tmp_path / "cache"))
    assert fingerprint(stored) == expected

    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for file in (file for pair in files for file in pair):
            archive.write(file, file.name)
    archived = [[f"zip://{file.name}::{tmp_path / 'all.zip'}" for file in pair] for pair in files]
    assert fingerprint(make(archived)) == expected

    save(make_label_map((0, 1, 2, 2)), files[1][1])
    assert fingerprint(make(files)) != expected
    assert fingerprint(make(files[::-1])) != fingerprint(make(files))
    assert fingerprint(make(files[:2])) != fingerprint(make(files))
