"""Evaluations of released checkpoints, as the evaluation script would have written them."""

import dataclasses
from typing import Any

from segmenter_hf import SegmenterImageProcessorPil
from segmenter_hf.conversion.released import ReleasedCheckpoint, apply_protocol
from segmenter_hf.evaluation.record import MEASURED, Figure, input_settings
from segmenter_hf.hub.card_facts import DATASETS
from segmenter_hf.hub.figures import published_figures

from ..evaluation.evaluations import evaluate, make_tiny_model


def make_measured_figure(row: ReleasedCheckpoint, value_percent: float = 37.9) -> Figure:
    """A figure of a released checkpoint as evaluation here would add it."""
    versions = {"segmenter_hf": "0.1.0", "torch": "2.8.0"}
    values = {"value_percent": value_percent, "kind": MEASURED, "num_images": 2000, "versions": versions}
    return dataclasses.replace(published_figures(row)[0], source=None, **values)


def evaluate_released(row: ReleasedCheckpoint, multi_scale: bool = False) -> dict[str, Any]:
    """
    The results of a released checkpoint's evaluation, but for their figures, which are a tiny model's on two images
    that are said to be the whole validation split.
    """
    command = f"python scripts/evaluate_semantic_segmentation.py --model_name_or_path {row.repo_name}"
    model = make_tiny_model(row.config.id2label.values())
    results = evaluate(model, multi_scale=multi_scale, command=command, name=row.dataset)
    image_processor = apply_protocol(SegmenterImageProcessorPil(do_split_image=True, antialias=False), row)
    return results | {
        "model": row.repo_name,
        "num_images": DATASETS[row.dataset].num_validation_images,
        "protocol": results["protocol"] | input_settings(image_processor),
    }
