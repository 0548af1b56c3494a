"""Data and class weights that a run starts with, and what is refused before it does."""

import json
import os
import re

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image

from segmenter_hf import SegmenterImageProcessor
from segmenter_hf.data.loading import load_segmentation_data
from segmenter_hf.evaluation.results import fingerprint
from segmenter_hf.training import training_setup
from segmenter_hf.training.arguments import (
    DataArguments,
    MethodArguments,
    ModelArguments,
    TrainingError,
    parse_arguments,
)
from segmenter_hf.training.recipes import RECIPES
from segmenter_hf.training.training_setup import (
    balanced_class_weights,
    count_labels,
    leave_out_unreadable,
    prepare,
)
from segmenter_hf.training.with_accelerate import AccelerateArguments

from ..data.datasets_on_disk import make_label_map, save, write_pairs


def test_label_maps_are_checked_before_anything_else(tmp_path):
    folder = write_pairs(tmp_path / "data", "images", "annotations")
    save(make_label_map((0, 1, 7)), folder / "annotations" / "1.png")
    arguments = DataArguments(dataset_name=str(folder), train_val_split=0.5)
    with pytest.raises(ValueError, match=r"hold 7, expected labels from 0 to 2.*1\.png"):
        prepare(ModelArguments(), arguments, MethodArguments(), RECIPES["from_scratch"], 0, folder / "output")


def test_count_labels_leaves_out_ignored_ones():
    maps = [Image.fromarray(np.array([[0, 0, 255], [1, 2, 2]], dtype=np.uint8))] * 2
    assert count_labels(Dataset.from_dict({"annotation": maps}), 4).tolist() == [4, 2, 4, 0]


def test_count_labels_reduces_them_where_0_is_unlabelled():
    maps = [Image.fromarray(np.array([[0, 1, 255], [1, 2, 3]], dtype=np.uint8))]
    counts = count_labels(Dataset.from_dict({"annotation": maps}), 3, do_reduce_labels=True)
    assert counts.tolist() == [2, 1, 1]


def test_balanced_class_weights():
    counts = torch.tensor([16, 4, 0])
    assert balanced_class_weights(counts, 0.0).tolist() == pytest.approx([1, 1, 0])
    weights = balanced_class_weights(counts, 0.5)
    assert (weights[1] / weights[0]).item() == pytest.approx(2)
    assert (weights * counts).sum().item() == pytest.approx(20)
    assert weights[2] == 0


@pytest.fixture
def spoilt(tmp_path):
    """Six examples, of which one image is cut off, one is beyond 16 bits, and one label map is a pipe."""
    folder = write_pairs(tmp_path / "data", "images/train", "annotations/train", number=6)
    write_pairs(tmp_path / "data", "images/val", "annotations/val", number=2)
    (folder / "images" / "train" / "1.jpg").write_bytes((folder / "images" / "train" / "1.jpg").read_bytes()[:900])
    (folder / "images" / "train" / "3.jpg").unlink()
    save(Image.fromarray(np.full((40, 60), 70000, dtype=np.int32)), folder / "images" / "train" / "3.tiff")
    damaged = folder / "annotations" / "val" / "0.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    return folder


def prepare_from(folder, **arguments):
    model_args = ModelArguments(hidden_size=64, num_hidden_layers=1, decoder_num_hidden_layers=1)
    data_args = DataArguments(dataset_name=str(folder), crop_height=32, crop_width=32, **arguments)
    return prepare(model_args, data_args, MethodArguments(), RECIPES["from_scratch"], 0, folder / "output")


def test_unreadable_examples_are_left_out_if_asked_for(spoilt, caplog):
    setup = prepare_from(spoilt, skip_unreadable=True)
    assert (len(setup.train_dataset), len(setup.eval_dataset)) == (4, 1)
    for index in range(4):
        assert setup.train_dataset[index]["pixel_values"].shape == (3, 32, 32)
    messages = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert len(messages) == 2
    assert messages[0].startswith("train split: 2 of 6 examples cannot be read: ")
    assert re.search(r"images/train/1\.jpg, \S*annotations/train/1\.png: the image cannot be read: ", messages[0])
    assert re.search(r"images/train/3\.tiff, .*70000", messages[0])
    assert messages[1].startswith("validation split: 1 of 2 examples cannot be read: ")
    assert "the label map cannot be read" in messages[1]
    # The fingerprints of data are those of what is left.
    fingerprints = [fingerprint(examples) for examples in (setup.train_dataset.examples, setup.eval_dataset)]
    for name in ("images/train/1.jpg", "images/train/3.tiff", "annotations/train/1.png", "annotations/train/3.png"):
        (spoilt / name).unlink()
    for name in ("images/val/0.jpg", "annotations/val/0.png"):
        (spoilt / name).unlink()
    whole = prepare_from(spoilt)
    assert [fingerprint(examples) for examples in (whole.train_dataset.examples, whole.eval_dataset)] == fingerprints


def test_unreadable_examples_are_refused_otherwise(spoilt):
    with pytest.raises(TrainingError) as error:
        prepare_from(spoilt)
    message = str(error.value)
    assert "images/train/1.jpg" in message and "annotations/val/0.png" in message
    assert "training leaves them out with --skip_unreadable" in message


def test_what_lies_beyond_the_sample_is_found_if_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(training_setup, "NUM_CHECKED", 1)
    folder = write_pairs(tmp_path, "images", "annotations", number=8)
    file = folder / "images" / "7.jpg"
    file.write_bytes(file.read_bytes()[:900])
    # Whichever split it is in, there are others that are looked at.
    assert any(len(prepare_or_refuse(folder, seed)) == 0 for seed in range(4))
    assert all("images/7.jpg" in prepare_or_refuse(folder, seed, check_all_examples=True) for seed in range(4))


def prepare_or_refuse(folder, seed, **arguments) -> str:
    """The message, if there is one."""
    model_args = ModelArguments(hidden_size=64, num_hidden_layers=1, decoder_num_hidden_layers=1)
    data_args = DataArguments(
        dataset_name=str(folder), crop_height=32, crop_width=32, train_val_split=0.5, **arguments
    )
    try:
        prepare(model_args, data_args, MethodArguments(), RECIPES["from_scratch"], seed, folder / "output")
    except TrainingError as error:
        return str(error)
    return ""


def test_none_that_can_be_read_is_refused(tmp_path):
    folder = write_pairs(tmp_path, "images", "annotations", number=2)
    for index in range(2):
        (folder / "images" / f"{index}.jpg").write_bytes(b"")
    with pytest.raises(TrainingError, match="1 of 1 examples cannot be read: .*it is empty.* None is left"):
        prepare_from(folder, train_val_split=0.5, skip_unreadable=True)


def test_processes_read_their_share_and_leave_out_the_same(spoilt, monkeypatch):
    """What the other process finds comes from a second run, as if it were gathered."""
    data = load_segmentation_data(spoilt)
    read, found = [], []
    for rank in (0, 1, 0, 1):
        monkeypatch.setattr(training_setup, "_rank_and_number_of_processes", lambda rank=rank: (rank, 2))

        def gather(own):
            read.append(own)
            return [own] if len(read) < 3 else read[:2]

        monkeypatch.setattr(training_setup, "_gather", gather)
        found.append(leave_out_unreadable(data.split("train"), "train", data, SegmenterImageProcessor()))
    assert [sorted(own) for own in read[:2]] == [[], [1, 3]]
    assert [len(examples) for examples in found[2:]] == [4, 4]


def test_flags_of_examples_in_command_lines_and_files(tmp_path):
    arguments = ["--dataset_name", "unused", "--labels", "camvid", "--output_dir", str(tmp_path)]
    for name in ("--check_all_examples", "--check_all_labels"):
        data_args = parse_arguments(AccelerateArguments, "", [*arguments, name])[1]
        assert (data_args.check_all_examples, data_args.skip_unreadable) == (True, False)
    assert parse_arguments(AccelerateArguments, "", [*arguments, "--skip_unreadable"])[1].skip_unreadable
    for name in ("check_all_examples", "check_all_labels"):
        file = tmp_path / "arguments.json"
        file.write_text(json.dumps({"dataset_name": "unused", "labels": "camvid", name: True}), encoding="utf-8")
        assert parse_arguments(AccelerateArguments, "", [str(file)])[1].check_all_examples
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(ValueError, match=r"pipe\.json is a pipe, expected a regular file"):
        parse_arguments(AccelerateArguments, "", [str(tmp_path / "pipe.json")])


def test_what_cannot_be_loaded_is_one_line(tmp_path):
    folder = write_pairs(tmp_path, "images", "annotations", number=4)
    for settings, message in [
        ({"config_name": str(tmp_path / "nowhere")}, "--config_name .*nowhere cannot be loaded"),
        ({"attn_implementation": "flash_attention_2"}, "FlashAttention2"),
        ({"hidden_size": 200}, "must be a multiple of"),
    ]:
        with pytest.raises(TrainingError, match=message):
            prepare(
                ModelArguments(**settings),
                DataArguments(dataset_name=str(folder), train_val_split=0.5),
                MethodArguments(),
                RECIPES["from_scratch"],
                0,
                tmp_path / "output",
            )
