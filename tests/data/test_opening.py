"""Splits that training and evaluation work on: which examples they have, and what is refused."""

import re

import numpy as np
import pytest
from PIL import Image

from segmenter_hf import SegmenterImageProcessorPil
from segmenter_hf.data import opening
from segmenter_hf.data.checks import LabelError
from segmenter_hf.data.loading import load_segmentation_data
from segmenter_hf.data.opening import SplitChoice, open_splits
from segmenter_hf.evaluation.results import fingerprint

from .datasets_on_disk import make_label_map, save, write_pairs


TRAIN = SplitChoice("train", "--train_split")
VALIDATION = SplitChoice("validation", "--validation_split")
BOTH = (TRAIN, VALIDATION)


def open_from(folder, choices=BOTH, train_val_split=None, **settings):
    data = load_segmentation_data(folder, train_val_split=train_val_split)
    return open_splits(data, choices, SegmenterImageProcessorPil(), **settings)


def test_the_first_examples_of_splits(tmp_path):
    write_pairs(tmp_path, "images/train", "annotations/train", number=3)
    write_pairs(tmp_path, "images/val", "annotations/val", number=2)
    choices = [SplitChoice("train", "--train_split", 2), SplitChoice("val", "--validation_split", 9)]
    assert [len(split) for split in open_from(tmp_path, choices)] == [2, 2]
    with pytest.raises(ValueError, match=r"has no split day, only train, validation\. Name one with --split"):
        open_from(tmp_path, [SplitChoice("day", "--split")])


def test_all_of_a_split_that_is_asked_for_twice_is_checked(tmp_path):
    folder = write_pairs(tmp_path, "images", "annotations", number=3)
    save(make_label_map((0, 1, 7)), folder / "annotations" / "2.png")
    with pytest.raises(LabelError, match=r"hold 7, expected labels from 0 to 2.*2\.png"):
        open_from(folder, [TRAIN, SplitChoice("train", "--validation_split", 1)])


@pytest.mark.parametrize(
    ("names", "remedy"),
    [
        (("sky", "car", "road"), "label 1 is 'car' and 'road'. Train on this dataset, or order its labels"),
        (("sky", "road"), "The 2 labels of the model are not the 3 of .*: label 2 is None and 'car'"),
        (("LABEL_0", "LABEL_1", "LABEL_2"), "If they are the same labels, name them in the model's config.json"),
    ],
)
def test_labels_of_another_model_are_refused(tmp_path, names, remedy):
    """This comes before label maps are looked at, which may have values that the model does not know."""
    folder = write_pairs(tmp_path, "images", "annotations", number=1)
    assert len(open_from(folder, [TRAIN], model_id2label={0: "sky", 1: "road", 2: "car"})[0]) == 1
    save(make_label_map((0, 1, 7)), folder / "annotations" / "0.png")
    with pytest.raises(ValueError, match=remedy):
        open_from(folder, [TRAIN], model_id2label=dict(enumerate(names)))


@pytest.fixture
def spoilt(tmp_path):
    """Six examples, of which one image is cut off, and one is beyond 16 bits; and two, of which a label map is."""
    folder = write_pairs(tmp_path / "data", "images/train", "annotations/train", number=6)
    write_pairs(tmp_path / "data", "images/val", "annotations/val", number=2)
    (folder / "images" / "train" / "1.jpg").write_bytes((folder / "images" / "train" / "1.jpg").read_bytes()[:900])
    (folder / "images" / "train" / "3.jpg").unlink()
    save(Image.fromarray(np.full((40, 60), 70000, dtype=np.int32)), folder / "images" / "train" / "3.tiff")
    damaged = folder / "annotations" / "val" / "0.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    return folder


def test_unreadable_examples_are_left_out_if_asked_for(spoilt, caplog):
    splits = open_from(spoilt, skip_unreadable=True)
    assert [len(split) for split in splits] == [4, 1]
    messages = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert len(messages) == 2
    assert messages[0].startswith("train split: 2 of 6 examples cannot be read: ")
    assert re.search(r"images/train/1\.jpg, \S*annotations/train/1\.png: the image cannot be read: ", messages[0])
    assert re.search(r"images/train/3\.tiff, .*70000", messages[0])
    assert messages[1].startswith("validation split: 1 of 2 examples cannot be read: ")
    assert "the label map cannot be read" in messages[1]
    # The fingerprints of data are those of what is left.
    for name in ("images/train/1.jpg", "images/train/3.tiff", "annotations/train/1.png", "annotations/train/3.png"):
        (spoilt / name).unlink()
    for name in ("images/val/0.jpg", "annotations/val/0.png"):
        (spoilt / name).unlink()
    assert list(map(fingerprint, open_from(spoilt))) == list(map(fingerprint, splits))


def test_unreadable_examples_are_refused_otherwise(spoilt):
    with pytest.raises(LabelError) as error:
        open_from(spoilt)
    message = str(error.value)
    assert "images/train/1.jpg" in message and "annotations/val/0.png" in message
    assert "training leaves them out with --skip_unreadable" in message


def test_what_lies_beyond_the_sample_is_found_if_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "NUM_CHECKED", 1)
    folder = write_pairs(tmp_path, "images", "annotations", number=8)
    for name in ("1.jpg", "7.jpg"):
        (folder / "images" / name).write_bytes(b"")
    # The sample, which is the same each time, is another one.
    assert len(open_from(folder, [TRAIN])[0]) == 8
    with pytest.raises(LabelError, match=r"images/1\.jpg.*images/7\.jpg"):
        open_from(folder, [TRAIN], check_all=True)


def test_none_that_can_be_read_is_refused(tmp_path):
    folder = write_pairs(tmp_path, "images", "annotations", number=2)
    for index in range(2):
        (folder / "images" / f"{index}.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="1 of 1 examples cannot be read: .*it is empty.* None is left"):
        open_from(folder, BOTH, train_val_split=0.5, skip_unreadable=True)


def test_processes_read_their_share_and_leave_out_the_same(spoilt, monkeypatch):
    """What the other process finds comes from a second run, as if it were gathered."""
    read, found = [], []
    for rank in (0, 1, 0, 1):
        monkeypatch.setattr(opening, "rank_and_number_of_processes", lambda rank=rank: (rank, 2))

        def gather(own):
            read.append(own)
            return [own] if len(read) < 3 else read[:2]

        monkeypatch.setattr(opening, "gather_objects", gather)
        monkeypatch.setattr(opening, "check_splits", lambda *args, **kwargs: None)
        found += open_from(spoilt, [TRAIN], skip_unreadable=True)
    assert [sorted(own) for own in read[:2]] == [[], [1, 3]]
    assert [len(examples) for examples in found[2:]] == [4, 4]
