"""Loading datasets in the parquet layout."""

import json

import numpy as np
import pytest
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image

from segmenter_hf.data.loading import load_segmentation_dataset


def write_dataset(folder, annotation_column="annotation", id2label=None):
    """Two splits of tiny pictures as parquet files with embedded bytes, like the ones on the Hub."""
    generator = np.random.default_rng(0)
    for split, number in (("train", 6), ("validation", 2)):
        columns = {
            "image": [Image.fromarray(generator.integers(0, 256, (40, 60, 3), dtype=np.uint8)) for _ in range(number)],
            annotation_column: [
                Image.fromarray(generator.integers(0, 3, (40, 60), dtype=np.uint8)) for _ in range(number)
            ],
        }
        features = Features({"image": ImageFeature(), annotation_column: ImageFeature()})
        (folder / "data").mkdir(exist_ok=True, parents=True)
        Dataset.from_dict(columns, features=features).to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    if id2label is not None:
        (folder / "id2label.json").write_text(json.dumps(id2label), encoding="utf-8")
    return folder


def test_splits_and_names(tmp_path):
    folder = write_dataset(tmp_path / "dataset", id2label={"0": "sky", "1": "road", "2": "car"})
    splits, id2label = load_segmentation_dataset(str(folder))
    assert {name: len(split) for name, split in splits.items()} == {"train": 6, "validation": 2}
    assert id2label == {0: "sky", 1: "road", 2: "car"}
    assert splits["train"][0]["annotation"].size == (60, 40)


def test_missing_column_names_those_that_are_there(tmp_path):
    folder = write_dataset(tmp_path / "dataset", annotation_column="mask", id2label={"0": "sky"})
    with pytest.raises(ValueError, match=r"\['image', 'mask'\].*annotation"):
        load_segmentation_dataset(str(folder))
    splits, _ = load_segmentation_dataset(str(folder), annotation_column="mask")
    assert len(splits["train"]) == 6


def test_names_are_in_the_order_of_the_labels(tmp_path):
    names = {str(index): f"class {index}" for index in range(12)}
    folder = write_dataset(tmp_path / "dataset", id2label=dict(sorted(names.items())))
    assert list(json.loads((folder / "id2label.json").read_text()))[:3] == ["0", "1", "10"]
    _, id2label = load_segmentation_dataset(str(folder))
    assert list(id2label.items()) == [(index, f"class {index}") for index in range(12)]


def test_gaps_in_the_labels_and_sources_that_are_not_there_are_refused(tmp_path):
    folder = write_dataset(tmp_path / "dataset", id2label={"0": "sky", "2": "car"})
    with pytest.raises(ValueError, match=r"0 to n - 1, got \[0, 2\]"):
        load_segmentation_dataset(str(folder))
    with pytest.raises(ValueError, match=r"user/name is no folder"):
        load_segmentation_dataset("user/name")


def test_missing_names_are_refused(tmp_path):
    folder = write_dataset(tmp_path / "dataset")
    with pytest.raises(ValueError, match=r"id2label\.json"):
        load_segmentation_dataset(str(folder))
