"""Metrics and protocols."""

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from .metrics import MeanIoU, confusion_matrix, iou_scores, nan_to_none

__all__ = ["MeanIoU", "confusion_matrix", "iou_scores", "nan_to_none"]


def __getattr__(name: str):
    # The metric loads datasets and evaluate, which conversion, for which a protocol is a few numbers, has no use for.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import metrics

    return getattr(metrics, name)
