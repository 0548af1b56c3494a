"""What the trainer changes in `Trainer`."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import cross_entropy, interpolate
from transformers import TrainingArguments

from segmenter_hf import SegmenterForSemanticSegmentation, SegmenterImageProcessor
from segmenter_hf.data.augmentation import SegmentationAugmentation
from segmenter_hf.evaluation.protocol import evaluate_sliding_window
from segmenter_hf.training.arguments import TrainingError
from segmenter_hf.training.loss_and_metrics import check_metric
from segmenter_hf.training.samples import TrainingDataset
from segmenter_hf.training.segmentation_trainer import SegmentationTrainer

from ..common import random_labels, random_pixel_values, tiny_config


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
        for _ in range(4)
    ]
    image_processor = SegmenterImageProcessor(
        do_split_image=True, do_resize=False, crop_size={"height": 32, "width": 32}, window_stride=16, patch_size=8
    )
    train_dataset = TrainingDataset(examples, SegmentationAugmentation(image_processor, (1.0, 1.0)), seed=0)
    arguments = {
        "model": model,
        "args": TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", remove_unused_columns=False),
        "train_dataset": train_dataset,
        "eval_dataset": examples,
        "processing_class": image_processor,
    }
    return model, image_processor, examples, arguments


def test_evaluation_is_the_sliding_window_protocol(trainer_parts):
    model, image_processor, examples, arguments = trainer_parts
    trainer = SegmentationTrainer(**arguments)
    metrics = trainer.evaluate()
    expected = evaluate_sliding_window(model, image_processor, examples)
    assert metrics["eval_mean_iou"] == expected["mean_iou"]
    assert metrics["eval_iou/LABEL_3"] == expected["per_category_iou"][3]
    assert metrics["eval_loss"] == expected["loss"]
    assert trainer.last_evaluation == expected
    assert metrics["eval_samples_per_second"] > 0
    assert trainer.predict(examples).metrics["test_mean_iou"] == expected["mean_iou"]


def test_a_training_that_diverged_has_no_figures(trainer_parts, tmp_path):
    *_, arguments = trainer_parts
    settings = {"max_steps": 2, "eval_strategy": "steps", "eval_steps": 1, "learning_rate": 1e38, "optim": "sgd"}
    args = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", remove_unused_columns=False, **settings)
    trainer = SegmentationTrainer(**{**arguments, "args": args})
    with pytest.raises(TrainingError, match="scores are NaN or infinite, in example 0 first.*lower learning rate"):
        trainer.train()
    assert trainer.last_evaluation is None


def test_several_evaluation_sets_and_absent_classes(trainer_parts):
    _, _, examples, arguments = trainer_parts
    only_one = {**examples[0], "annotation": Image.new("L", examples[0]["annotation"].size, 255)}
    only_one["annotation"].paste(2, (0, 0, 20, 20))
    trainer = SegmentationTrainer(**{**arguments, "eval_dataset": {"all": examples, "one": [only_one]}})
    metrics = trainer.evaluate()
    assert {"eval_all_mean_iou", "eval_one_mean_iou"} <= metrics.keys()
    # JSON knows no NaN, and trackers no missing values.
    assert all(value is None or math.isfinite(value) for value in metrics.values())
    assert None in metrics.values()
    assert all(None not in entry.values() for entry in trainer.state.log_history)


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


def test_labels_are_smoothed_in_training_but_not_in_evaluation(trainer_parts, tmp_path):
    model, image_processor, examples, arguments = trainer_parts
    args = TrainingArguments(
        str(tmp_path),
        use_cpu=True,
        report_to="none",
        remove_unused_columns=False,
        max_steps=1,
        logging_steps=1,
        per_device_train_batch_size=4,
        learning_rate=0.0,
        label_smoothing_factor=0.3,
    )
    trainer = SegmentationTrainer(**{**arguments, "args": args})
    trainer.train()
    (batch,) = trainer.get_train_dataloader()
    logits = interpolate(model(batch["pixel_values"]).logits, size=batch["labels"].shape[-2:], mode="bilinear")
    expected = cross_entropy(logits, batch["labels"], ignore_index=255, label_smoothing=0.3)
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected.item(), rel=1e-4)
    assert trainer.evaluate()["eval_loss"] == evaluate_sliding_window(model, image_processor, examples)["loss"]


@pytest.mark.parametrize("name", ["mean_iou", "eval_mean_iou", "iou/sky", "eval_iou/sky", "loss", "runtime", None])
def test_names_of_figures_that_evaluation_gives_pass(name):
    check_metric(name)
    check_metric(name, {0: "sky", 1: "road"})


@pytest.mark.parametrize("name", ["miou", "iou", "eval_", "iou/sea", "sky"])
def test_other_names_of_figures_are_refused_before_the_work(name):
    with pytest.raises(TrainingError, match=f"must be among loss, mean_iou, .*, iou/sky, iou/road, got '{name}'"):
        check_metric(name, {0: "sky", 1: "road"})


def test_no_model_is_the_best_by_a_label_that_does_not_occur(trainer_parts, tmp_path, caplog):
    _, _, examples, arguments = trainer_parts
    args = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", metric_for_best_model="iou/LABEL_4")
    trainer = SegmentationTrainer(**{**arguments, "args": args})
    assert not trainer._determine_best_metric({"eval_iou/LABEL_4": None}, None)
    assert "There is no eval_iou/LABEL_4" in caplog.text
    assert trainer._determine_best_metric({"eval_iou/LABEL_4": 0.5}, None)


def test_the_best_model_is_that_of_the_best_mean_iou(trainer_parts, tmp_path):
    """With `Trainer`'s own bookkeeping, from the metrics of the overridden evaluation."""
    _, image_processor, examples, arguments = trainer_parts
    args = TrainingArguments(
        str(tmp_path),
        use_cpu=True,
        report_to="none",
        remove_unused_columns=False,
        per_device_train_batch_size=2,
        num_train_epochs=3,
        learning_rate=0.01,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="mean_iou",
    )
    trainer = SegmentationTrainer(**{**arguments, "args": args})
    trainer.train()
    history = json.loads((tmp_path / "checkpoint-6" / "trainer_state.json").read_text())["log_history"]
    scores = [entry["eval_mean_iou"] for entry in history if "eval_mean_iou" in entry]
    assert len(scores) == 3
    assert trainer.state.best_metric == max(scores)
    assert trainer.evaluate()["eval_mean_iou"] == max(scores)
    # The state beside the model may be published, and tells nothing of the disk.
    trainer.save_state()
    state = json.loads((tmp_path / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"] == f"checkpoint-{trainer.state.best_global_step}"
    assert str(tmp_path) not in json.dumps(state) and str(tmp_path) in trainer.state.best_model_checkpoint
