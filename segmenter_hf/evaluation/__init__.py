"""Metrics and protocols."""

import importlib


__all__ = ["MeanIoU", "confusion_matrix", "iou_scores", "nan_to_none"]  # noqa: F822


def __getattr__(name: str):
    # The metric loads datasets and evaluate, which conversion, for which a protocol is a few numbers, has no use for.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(".metrics", __name__), name)
