"""Evaluations of released checkpoints, as the evaluation script would have written them."""

from typing import Any

from segmenter_hf import SegmenterImageProcessorPil
from segmenter_hf.conversion.released import ReleasedCheckpoint, apply_protocol
from segmenter_hf.evaluation.record import input_settings
from segmenter_hf.hub.card_facts import DATASETS

from ..evaluation.evaluations import evaluate, make_tiny_model


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
