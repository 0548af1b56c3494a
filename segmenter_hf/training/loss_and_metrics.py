"""What both training scripts minimise, and what they measure by the sliding-window protocol as they train."""

import math
from typing import Any

import torch

from ..evaluation.protocol import NonFiniteScoresError, evaluate_sliding_window
from .arguments import TrainingError


def compute_loss(
    model: torch.nn.Module,
    unwrapped_model: torch.nn.Module,
    inputs: dict[str, torch.Tensor],
    class_weights: torch.Tensor | None,
    label_smoothing: float,
) -> tuple[torch.Tensor, Any]:
    """The loss that both scripts train with, and the outputs of the model, of which only the wrapped one is called."""
    if class_weights is None and not label_smoothing:
        outputs = model(**inputs)
        return outputs.loss, outputs
    labels = inputs["labels"]
    outputs = model(**{name: value for name, value in inputs.items() if name != "labels"})
    loss = unwrapped_model.compute_loss(
        outputs.logits,
        labels,
        *labels.shape[-2:],
        class_weights=None if class_weights is None else class_weights.to(labels.device),
        label_smoothing=label_smoothing,
    )
    return loss, outputs


def evaluate_in_training(*args, **kwargs) -> dict[str, Any]:
    """
    What [`evaluate_sliding_window`] measures.

    Raises:
        TrainingError: if the training has diverged, so that there is nothing to measure.
    """
    try:
        return evaluate_sliding_window(*args, **kwargs)
    except NonFiniteScoresError as error:
        raise TrainingError(str(error)) from error


# Evaluation measures these of all classes, and of the time that it takes.
LOGGED_FIGURES = ("loss", "mean_iou", "mean_accuracy", "overall_accuracy")
SPEEDS = ("runtime", "samples_per_second", "steps_per_second")


def check_metric(name: str | None, id2label: dict[int, str] | None = None):
    """
    Checks what `--metric_for_best_model` names. Without labels, those of classes pass.

    Raises:
        TrainingError: if evaluation gives no such figure.
    """
    figure = (name or "loss").removeprefix("eval_")
    of_classes = [f"iou/{label}" for label in (id2label or {}).values()]
    if figure in (*LOGGED_FIGURES, *SPEEDS, *of_classes) or id2label is None and figure.startswith("iou/"):
        return
    names = ", ".join([*LOGGED_FIGURES, *(of_classes or ["iou/ and the name of a label"])])
    raise TrainingError(f"--metric_for_best_model must be among {names}, got {name!r}.")


def make_metrics(results: dict[str, Any], id2label: dict[int, str], prefix: str) -> dict[str, float | None]:
    """Figures of an evaluation by the names under which they are logged, with `None` for NaN, which is no JSON."""
    metrics = {name: results[name] for name in LOGGED_FIGURES}
    metrics |= {f"iou/{id2label[index]}": iou for index, iou in enumerate(results["per_category_iou"])}
    return {f"{prefix}_{name}": None if math.isnan(value) else value for name, value in metrics.items()}


__all__ = ["check_metric", "compute_loss", "evaluate_in_training", "make_metrics"]
