"""Converts checkpoints of other implementations; one module for each source."""

from .convert import convert_checkpoint
from .encoders import EncoderOptions
from .errors import ConversionError


__all__ = ["ConversionError", "EncoderOptions", "convert_checkpoint"]
