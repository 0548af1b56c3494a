"""Converts checkpoints of other implementations; one module for each source."""

from .convert import convert_checkpoint
from .errors import ConversionError


__all__ = ["ConversionError", "convert_checkpoint"]
