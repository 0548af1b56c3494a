"""Metrics and protocols."""

from .metrics import MeanIoU


__all__ = ["MeanIoU"]
