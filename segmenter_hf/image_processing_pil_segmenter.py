# Copyright 2026 the segmenter_hf authors. Licensed under the Apache License, Version 2.0.
"""Image processor of Segmenter, PIL backend."""

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import PILImageResampling

from .image_processing_segmenter import SegmenterImageProcessingMixin, SegmenterImageProcessorKwargs


class SegmenterImageProcessorPil(SegmenterImageProcessingMixin, PilBackend):
    r"""
    Image processor of Segmenter that resizes with PIL, works on the CPU, and needs no torchvision. It takes the
    settings of [`SegmenterImageProcessor`] and gives the same results, but for what the two libraries round
    differently when they resize with `antialias=True`.

    Args:
        kwargs ([`SegmenterImageProcessorKwargs`]):
            Settings, see [`SegmenterImageProcessor`].

    Raises:
        ValueError: for settings that do not fit together, here and at each call.
    """

    valid_kwargs = SegmenterImageProcessorKwargs

    def process_image(self, image: "Image.Image | np.ndarray | torch.Tensor", **kwargs) -> torch.Tensor:
        return super().process_image(image, **{**kwargs, "device": "cpu"})

    def resize_with_antialias(
        self, image: torch.Tensor, size: tuple[int, int], resample: "PILImageResampling | int"
    ) -> torch.Tensor:
        height, width = size
        # Channels are resized one by one, as PIL does inside, so that there may be any number of them, and floats.
        channels = [Image.fromarray(channel).resize((width, height), resample) for channel in image.numpy()]
        return torch.from_numpy(np.stack([np.asarray(channel) for channel in channels]))


__all__ = ["SegmenterImageProcessorPil"]
