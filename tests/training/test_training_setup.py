"""Data and class weights that a run starts with, and what is refused before it does."""

import json
import os

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image

from segmenter_hf.training.arguments import (
    DataArguments,
    MethodArguments,
    ModelArguments,
    TrainingError,
    parse_arguments,
)
from segmenter_hf.training.recipes import RECIPES
from segmenter_hf.training.training_setup import balanced_class_weights, count_labels, prepare

from ..data.datasets_on_disk import make_label_map, save, write_pairs
from .runs import AccelerateArguments


def test_label_maps_are_checked_before_anything_else(tmp_path):
    folder = write_pairs(tmp_path / "data", "images", "annotations")
    save(make_label_map((0, 1, 7)), folder / "annotations" / "1.png")
    arguments = DataArguments(dataset_name=str(folder), train_val_split=0.5)
    with pytest.raises(ValueError, match=r"hold 7, expected labels from 0 to 2.*1\.png"):
        prepare(ModelArguments(), arguments, MethodArguments(), RECIPES["from_scratch"], 0, folder / "output")


def test_the_dataset_is_found_before_weights_are_downloaded_or_converted(tmp_path, monkeypatch):
    monkeypatch.setattr("segmenter_hf.training.training_setup.starting_checkpoint", None)
    folder = write_pairs(tmp_path / "data", "images", "annotations")
    model_args = ModelArguments(model_name_or_path="ade20k/seg_large_mask_640")
    for settings, message in [
        ({"dataset_name": str(tmp_path / "nowhere")}, "nowhere cannot be loaded"),
        ({"dataset_name": str(folder), "image_column_name": "photo"}, "expected photo too"),
    ]:
        arguments = DataArguments(**settings, labels="camvid")
        with pytest.raises(ValueError, match=message):
            prepare(model_args, arguments, MethodArguments(), RECIPES["finetune"], 0, tmp_path / "output")


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


def prepare_from(folder, **arguments):
    model_args = ModelArguments(hidden_size=64, num_hidden_layers=1, decoder_num_hidden_layers=1)
    data_args = DataArguments(dataset_name=str(folder), crop_height=32, crop_width=32, **arguments)
    return prepare(model_args, data_args, MethodArguments(), RECIPES["from_scratch"], 0, folder / "output")


def test_unreadable_examples_are_refused_or_left_out(tmp_path):
    folder = write_pairs(tmp_path, "images", "annotations", number=6)
    file = folder / "images" / "1.jpg"
    file.write_bytes(file.read_bytes()[:900])
    with pytest.raises(TrainingError, match=r"images/1\.jpg.*training leaves them out with --skip_unreadable"):
        prepare_from(folder, train_val_split=0.34, check_all_examples=True)
    setup = prepare_from(folder, train_val_split=0.34, skip_unreadable=True)
    assert len(setup.train_dataset) + len(setup.eval_dataset) == 5
    for index in range(len(setup.train_dataset)):
        assert setup.train_dataset[index]["pixel_values"].shape == (3, 32, 32)


def test_splits_and_numbers_of_examples_that_are_asked_for(tmp_path):
    for split, number in (("train", 4), ("day", 3), ("validation", 2)):
        write_pairs(tmp_path, f"{split}/images", f"{split}/annotations", number=number)
    setup = prepare_from(tmp_path, validation_split="day", max_train_samples=3, max_eval_samples=2)
    assert (len(setup.train_dataset), len(setup.eval_dataset), len(setup.data.split("day"))) == (3, 2, 3)


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
