"""The check of a split and of several: what is looked at, counted, logged and raised."""

import io
import logging

import numpy as np
import pytest
from datasets import Array2D, Dataset, DatasetDict, Features, IterableDatasetDict
from datasets import Image as ImageFeature
from PIL import Image

from segmenter_hf.data.checks import LabelError, check_labels, check_splits
from segmenter_hf.image_processing_pil_segmenter import SegmenterImageProcessorPil
from tests.data.datasets_on_disk import make_image, make_label_map


NAMES = {0: "sky", 1: "pedestrian crossing", 2: "car"}


def make_split(*annotations) -> Dataset:
    """With embedded files."""
    maps = [each if isinstance(each, Image.Image) else make_label_map(each) for each in annotations]
    columns = {"image": [make_image() for _ in maps], "annotation": maps}
    return Dataset.from_dict(columns, features=Features({name: ImageFeature() for name in columns}))


def test_report():
    report = check_labels(make_split((0, 1, 2, 255), (0, 1, 2)), 3)
    assert report.findings == [] and report.errors == [] and report.warnings == []
    assert (report.split, report.num_checked, report.num_examples) == ("train", 2, 2)
    assert report.pixel_counts.tolist() == [15 * 40 + 20 * 40] * 3
    assert report.num_ignored == 15 * 40


def test_shares():
    report = check_labels(make_split((0, 1, 255, 255)), 3)
    assert report.format_shares(NAMES).splitlines() == [
        "sky                  25.000%",
        "pedestrian crossing  25.000%",
        "car                   0.000%",
        "(ignored)            50.000%",
    ]
    assert report.format_shares().splitlines()[0] == "label 0    25.000%"


def test_names_by_strings_as_json_has_them():
    split, names = make_split((0, 1, 255)), {str(label): name for label, name in NAMES.items()}
    report = check_splits({"train": split}, names)["train"]
    assert report.format_shares(names) == report.format_shares(NAMES)
    assert [str(each) for each in report.findings] == [
        str(each) for each in check_labels(split, 3, id2label=NAMES).findings
    ]
    assert "2 (car)" in report.findings[0].problem


def test_reduction_is_that_of_the_image_processor():
    label_map = make_label_map((0, 1, 2, 3, 255))
    report = check_labels(make_split(label_map), 3, do_reduce_labels=True)
    processor = SegmenterImageProcessorPil(do_resize=False, do_reduce_labels=True)
    labels = processor(make_image(), segmentation_maps=label_map, return_tensors="pt")["labels"]
    assert report.pixel_counts.tolist() == [(labels == index).sum() for index in range(3)]
    assert report.num_ignored == (labels == 255).sum()


def test_sample_is_the_same_each_time():
    split = make_split((0, 1, 2), (0, 1), (0, 2), (1, 2), (0,), (1,), (2,))
    counts = [check_labels(split, 3, sample_size=3, seed=seed).pixel_counts.tolist() for seed in (0, 0, 1, 2, 3)]
    assert counts[0] == counts[1]
    assert len({tuple(count) for count in counts}) > 1
    everything = check_labels(split, 3, sample_size=None)
    assert (everything.num_checked, everything.num_examples) == (7, 7)


def test_files_are_named_by_row_where_they_are_embedded():
    split = make_split((0, 1, 2), (0, 1, 9))
    report = check_labels(split, 3, split="validation")
    assert report.errors[0].files == ["row 1 of validation"]
    # The transform of training is not run.
    split = split.with_transform(lambda batch: 1 / 0)
    assert check_labels(split, 3).errors[0].files == ["row 1 of train"]
    # The rows are those of what is checked.
    assert check_labels(split.select([1]), 3).errors[0].files == ["row 0 of train"]


def test_names_of_embedded_files(tmp_path):
    path = tmp_path / "street.png"
    make_label_map((0, 1, 9)).save(path)
    rows = [{"image": make_image(), "annotation": {"bytes": path.read_bytes(), "path": "street.png"}}]
    split = Dataset.from_list(rows, features=Features({"image": ImageFeature(), "annotation": ImageFeature()}))
    assert check_labels(split, 3).errors[0].files == ["row 0 of train (street.png)"]


def test_errors_are_raised_together():
    split = make_split((0, 1, 9), make_label_map(width=30), make_label_map((0, 7, 2)).convert("RGB"))
    with pytest.raises(LabelError) as error:
        check_splits({"validation": split}, NAMES)
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    assert all(line.startswith("validation split: ") for line in lines)
    assert all(any(f"row {index} of validation" in line for line in lines) for index in range(3))


def test_settings_that_contradict_each_other():
    with pytest.raises(ValueError, match="at least one label, got `num_labels=0`"):
        check_labels(make_split((0, 1)), 0)
    with pytest.raises(ValueError, match="--do_reduce_labels.* get 255, .*got 254"):
        check_labels(make_split((0, 1)), 2, do_reduce_labels=True, ignore_index=254)


def test_several_splits(caplog):
    caplog.set_level(logging.INFO, logger="segmenter_hf")
    splits = {"train": make_split((0, 1, 2), (0, 1)), "val": make_split((0, 1))}
    reports = check_splits(splits, NAMES, sample_size=1)
    assert {name: (report.split, report.num_checked) for name, report in reports.items()} == {
        "train": ("train", 1),
        "val": ("val", 1),
    }
    assert "Pixels of each label in 1 of 2 label maps of the train split:\nsky" in caplog.text
    assert "val split: 1 of 3 labels are never seen: 2 (car)." in caplog.text


def test_errors_of_several_splits_are_raised_together():
    splits = {"train": make_split((0, 1, 9)), "val": make_split((0, 8)), "other": make_split((0, 1, 2))}
    with pytest.raises(LabelError) as error:
        check_splits(splits, NAMES)
    lines = str(error.value).splitlines()
    assert [line.split(",")[0] for line in lines] == [
        "train split: Label maps hold 9",
        "val split: Label maps hold 8",
    ]


def test_pixels_of_images_are_decoded():
    """An image of which they are cut off would stop the training."""
    buffer = io.BytesIO()
    make_image().save(buffer, format="PNG")
    rows = [{"image": {"bytes": buffer.getvalue()[:100], "path": None}, "annotation": make_label_map()}]
    split = Dataset.from_list(rows, features=Features({"image": ImageFeature(), "annotation": ImageFeature()}))
    (finding,) = check_labels(split, 3).errors
    assert (finding.kind, finding.files) == ("unreadable", ["row 0 of train (image file is truncated)"])


@pytest.mark.parametrize(("dtype", "odd"), [("uint64", 2**63), ("int64", -1), ("int64", 2**32 + 1)])
def test_label_maps_that_are_arrays(dtype, odd):
    """`datasets` would make images of 32 bits of them, without the upper ones."""
    maps = [np.array(make_label_map()).astype(dtype) for _ in range(3)]
    features = Features({"image": ImageFeature(), "annotation": Array2D((40, 60), dtype)})
    columns = {"image": [make_image()] * 3, "annotation": maps}
    report = check_labels(Dataset.from_dict(columns, features=features), 3)
    assert report.findings == [] and report.pixel_counts.tolist() == [2400] * 3
    maps[1][5, 7] = odd
    with pytest.raises(ValueError, match="Row 1 of the column annotation must hold labels"):
        check_labels(Dataset.from_dict(columns, features=features), 3)


def test_other_datasets_are_refused_with_a_remedy():
    split = make_split((0, 1, 2))
    stream = split.to_iterable_dataset()
    for streams in (stream, {"train": stream}, IterableDatasetDict({"train": stream})):
        with pytest.raises(ValueError, match=r"got IterableDataset: .*not supported.*without `streaming=True`"):
            check_splits(streams, NAMES)
    with pytest.raises(ValueError, match="splits by their names, .*got Dataset"):
        check_splits(split, NAMES)
    with pytest.raises(ValueError, match=r"examples of one split, got DatasetDict of train\. Pass one"):
        check_labels(DatasetDict({"train": split}), 3)
    renamed = split.rename_columns({"image": "photo", "annotation": "mask"})
    with pytest.raises(ValueError, match=r"columns image and annotation, got \['photo', 'mask'\]\. Rename yours: "):
        check_labels(renamed, 3)
    # These are the remedies.
    assert check_labels(renamed.rename_columns({"photo": "image", "mask": "annotation"}), 3).findings == []
    stored = Dataset.from_generator(lambda: iter(stream), features=stream.features)
    assert check_labels(stored, 3).findings == []
