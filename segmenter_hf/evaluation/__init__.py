"""Metrics and protocols."""

from .metrics import MeanIoU, confusion_matrix, iou_scores, nan_to_none


__all__ = ["MeanIoU", "confusion_matrix", "iou_scores", "nan_to_none"]
