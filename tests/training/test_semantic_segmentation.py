"""Class weights, and what the trainer changes in `Trainer`."""

import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from torch.nn.functional import cross_entropy, interpolate
from transformers import TrainingArguments, default_data_collator

from segmenter_hf import SegmenterForSemanticSegmentation, SegmenterImageProcessor
from segmenter_hf.evaluation.protocol import evaluate_sliding_window
from segmenter_hf.training.semantic_segmentation import (
    DataArguments,
    ModelArguments,
    balanced_class_weights,
    count_labels,
    make_image_processor,
)
from segmenter_hf.training.trainer import SegmentationTrainer

from ..common import random_labels, random_pixel_values, tiny_config


def test_count_labels_leaves_out_ignored_ones():
    maps = [Image.fromarray(np.array([[0, 0, 255], [1, 2, 2]], dtype=np.uint8))] * 2
    assert count_labels(Dataset.from_dict({"annotation": maps}), "annotation", 4).tolist() == [4, 2, 4, 0]


def test_count_labels_reduces_them_where_0_is_unlabelled():
    maps = [Image.fromarray(np.array([[0, 1, 255], [1, 2, 3]], dtype=np.uint8))]
    counts = count_labels(Dataset.from_dict({"annotation": maps}), "annotation", 3, do_reduce_labels=True)
    assert counts.tolist() == [2, 1, 1]


@pytest.fixture
def checkpoint(tmp_path):
    """With a processor like that of a converted ADE20K checkpoint: other sizes than the defaults, labels reduced."""
    SegmenterForSemanticSegmentation(tiny_config()).save_pretrained(tmp_path / "checkpoint")
    SegmenterImageProcessor(
        do_split_image=True,
        size={"shortest_edge": 90, "longest_edge": 360},
        crop_size={"height": 64, "width": 80},
        window_stride=24,
        patch_size=8,
        antialias=False,
        do_reduce_labels=True,
        image_mean=[0.1, 0.2, 0.3],
    ).save_pretrained(tmp_path / "checkpoint")
    return str(tmp_path / "checkpoint")


def test_a_checkpoints_sizes_apply_unless_others_are_given(checkpoint):
    arguments = DataArguments(dataset_name="unused")
    kept = make_image_processor(arguments, ModelArguments(), checkpoint)
    assert dict(kept.size) == {"shortest_edge": 90, "longest_edge": 360}
    assert dict(kept.crop_size) == {"height": 64, "width": 80}
    assert (kept.window_stride, kept.antialias, kept.patch_size) == (24, False, 8)
    assert list(kept.image_mean) == [0.1, 0.2, 0.3]
    # A flag about the label maps of the data that the checkpoint was trained on says nothing of these.
    assert kept.do_reduce_labels is False

    arguments = DataArguments(dataset_name="unused", short_side=50, crop_height=40, do_reduce_labels=True)
    changed = make_image_processor(arguments, ModelArguments(), checkpoint)
    assert dict(changed.size) == {"shortest_edge": 50, "longest_edge": 200}
    assert dict(changed.crop_size) == {"height": 40, "width": 80}
    assert (changed.window_stride, changed.antialias, changed.do_reduce_labels) == (20, False, True)


def test_without_a_checkpoint_windows_are_512(checkpoint):
    image_processor = make_image_processor(DataArguments(dataset_name="unused"), ModelArguments(patch_size=32))
    assert dict(image_processor.crop_size) == {"height": 512, "width": 512}
    assert (image_processor.window_stride, image_processor.patch_size) == (256, 32)
    assert image_processor.do_split_image


def test_balanced_class_weights():
    counts = torch.tensor([16, 4, 0])
    assert balanced_class_weights(counts, 0.0).tolist() == pytest.approx([1, 1, 0])
    weights = balanced_class_weights(counts, 0.5)
    assert (weights[1] / weights[0]).item() == pytest.approx(2)
    assert (weights * counts).sum().item() == pytest.approx(20)
    assert weights[2] == 0


@pytest.fixture
def trainer_parts(tmp_path):
    torch.manual_seed(0)
    model = SegmenterForSemanticSegmentation(tiny_config())
    generator = np.random.default_rng(0)
    examples = [
        {
            "image": Image.fromarray(generator.integers(0, 256, (48, 64, 3), dtype=np.uint8)),
            "annotation": Image.fromarray(generator.integers(0, 5, (48, 64), dtype=np.uint8)),
        }
        for _ in range(3)
    ]
    image_processor = SegmenterImageProcessor(
        do_split_image=True, do_resize=False, crop_size={"height": 32, "width": 32}, window_stride=16, patch_size=8
    )
    arguments = {
        "model": model,
        "args": TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", remove_unused_columns=False),
        "eval_dataset": examples,
        "data_collator": default_data_collator,
        "processing_class": image_processor,
    }
    return model, image_processor, examples, arguments


def test_evaluation_is_the_sliding_window_protocol(trainer_parts):
    model, image_processor, examples, arguments = trainer_parts
    metrics = SegmentationTrainer(**arguments).evaluate()
    expected = evaluate_sliding_window(model, image_processor, examples)
    assert metrics["eval_mean_iou"] == expected["mean_iou"]
    assert metrics["eval_iou/LABEL_3"] == expected["per_category_iou"][3]
    assert metrics["eval_loss"] == pytest.approx(expected["loss"])


def test_several_evaluation_sets_and_absent_classes(trainer_parts):
    _, _, examples, arguments = trainer_parts
    only_one = {**examples[0], "annotation": Image.new("L", examples[0]["annotation"].size, 255)}
    only_one["annotation"].paste(2, (0, 0, 20, 20))
    trainer = SegmentationTrainer(**{**arguments, "eval_dataset": {"all": examples, "one": [only_one]}})
    metrics = trainer.evaluate()
    assert {"eval_all_mean_iou", "eval_one_mean_iou"} <= metrics.keys()
    # JSON knows no NaN.
    assert all(value is None or math.isfinite(value) for value in metrics.values())
    assert None in metrics.values()


def test_class_weights_weigh_the_loss(trainer_parts):
    model, _, _, arguments = trainer_parts
    weights = torch.tensor([0.1, 5.0, 1.0, 2.0, 0.0])
    trainer = SegmentationTrainer(**arguments, class_weights=weights)
    pixel_values, labels = random_pixel_values(), random_labels()
    labels[0, :4] = 255
    loss = trainer.compute_loss(model, {"pixel_values": pixel_values, "labels": labels})

    logits = interpolate(model(pixel_values).logits, size=labels.shape[-2:], mode="bilinear")
    per_pixel = cross_entropy(logits, labels, weight=weights, ignore_index=255, reduction="none")
    assert loss.item() == pytest.approx((per_pixel.sum() / (labels != 255).sum()).item(), rel=1e-5)
    unweighted = SegmentationTrainer(**arguments).compute_loss(model, {"pixel_values": pixel_values, "labels": labels})
    assert unweighted.item() == pytest.approx(model(pixel_values, labels=labels).loss.item())
    assert abs(unweighted.item() - loss.item()) > 0.01
