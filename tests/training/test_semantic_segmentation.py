"""Class weights, and what the trainer changes in `Trainer`."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from torch.nn.functional import cross_entropy, interpolate
from transformers import TrainingArguments, default_data_collator

from segmenter_hf import SegmenterForSemanticSegmentation, SegmenterImageProcessor
from segmenter_hf.evaluation.protocol import evaluate_sliding_window
from segmenter_hf.training.semantic_segmentation import balanced_class_weights, count_labels
from segmenter_hf.training.trainer import SegmentationTrainer

from ..common import random_labels, random_pixel_values, tiny_config


def test_count_labels_leaves_out_ignored_ones():
    maps = [Image.fromarray(np.array([[0, 0, 255], [1, 2, 2]], dtype=np.uint8))] * 2
    assert count_labels(Dataset.from_dict({"annotation": maps}), "annotation", 4).tolist() == [4, 2, 4, 0]


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
