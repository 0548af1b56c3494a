# Copyright 2026 the segmenter_hf authors. Licensed under the Apache License, Version 2.0.
"""Image processor of Segmenter, torchvision backend."""

import torch
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_utils import PILImageResampling, SizeDict
from transformers.processing_utils import Unpack
from transformers.utils import requires_backends

from .image_processing_pil_segmenter import SegmenterImageProcessingMixin, SegmenterImageProcessorKwargs


class SegmenterImageProcessor(SegmenterImageProcessingMixin, TorchvisionBackend):
    r"""
    Image processor of Segmenter, on the device of the images or the `device` it is called with. It makes images, whole
    or in sliding windows, into inputs of the model, and outputs of the model into segmentation maps.

    Args:
        do_convert_rgb (`bool`, *optional*, defaults to `True`):
            Whether to convert images to three channels.
        do_resize (`bool`, *optional*, defaults to `True`):
            Whether to resize images to `size`.
        size (`dict[str, int]`, *optional*, defaults to `{"shortest_edge": 512, "longest_edge": 2048}`):
            In pixels. `shortest_edge`, with or without `longest_edge`, keeps the aspect ratio; `height` and `width` do
            not.
        resample (`PILImageResampling`, *optional*, defaults to `PILImageResampling.BILINEAR`):
            Filter for resizing images. Segmentation maps are resized to the nearest label.
        antialias (`bool`, *optional*, defaults to `True`):
            Whether to smooth images before reducing them. `False` resizes as the original implementation and
            MMSegmentation do, and as converted checkpoints expect.
        do_rescale (`bool`, *optional*, defaults to `True`):
            Whether to multiply pixel values by `rescale_factor`.
        rescale_factor (`float`, *optional*, defaults to `1 / 255`):
            Factor for `do_rescale`.
        do_normalize (`bool`, *optional*, defaults to `True`):
            Whether to subtract `image_mean` and divide by `image_std`.
        image_mean (`float` or `list[float]`, *optional*, defaults to `[0.5, 0.5, 0.5]`):
            Mean of each channel.
        image_std (`float` or `list[float]`, *optional*, defaults to `[0.5, 0.5, 0.5]`):
            Standard deviation of each channel.
        do_split_image (`bool`, *optional*, defaults to `False`):
            Whether to cut images into sliding windows, the protocol of the published results. An image below the
            window is enlarged to it.
        crop_size (`dict[str, int]`, *optional*, defaults to `{"height": 512, "width": 512}`):
            Height and width of the windows in pixels.
        window_stride (`int`, `(height, width)` or `dict[str, int]`, *optional*, defaults to 512):
            Distance of neighbouring windows in pixels, at most the sides of `crop_size`: in both directions, or for
            each of them, as a pair or with the keys `height` and `width`. The last windows are flush with the border.
        do_pad (`bool`, *optional*, defaults to `False`):
            Whether to pad images at the bottom and right to `pad_size`, after normalisation with 0, labels with 255.
        pad_size (`dict[str, int]`, *optional*):
            Height and width in pixels. Defaults to the largest height and width of the images.
        patch_size (`int`, *optional*, defaults to 16):
            Side of the model's patches in pixels, by which post-processing upsamples the logits.
        do_reduce_labels (`bool`, *optional*, defaults to `False`):
            Whether 0 means "unlabelled" in segmentation maps (e.g. of ADE20K): 0 becomes 255, which is ignored, and
            all other labels but 255 are reduced by 1.
        crop_logits (`bool`, *optional*, defaults to `True`):
            How post-processing upsamples windows whose sides are no multiples of the patch size: to the padded size,
            of which it crops the padding, as the original implementation does; or, with `False`, stretched to the
            window, as by MMSegmentation.
        max_value (`int`, *optional*, defaults to 65535):
            What 16-bit images (uint16; modes I;16 and I of PIL) hold at most. They are scaled to 8 bits so that it
            becomes 255. 1023, 4095 or 16383 where 10, 12 or 14 bits are stored as 16; larger values are refused.

    Raises:
        ImportError: without torchvision. [`SegmenterImageProcessorPil`] takes the same settings and does without.
        ValueError: for settings that do not fit together, here and at each call.

    Example:

    ```python
    >>> import numpy as np
    >>> from segmenter_hf import SegmenterImageProcessor

    >>> image_processor = SegmenterImageProcessor(do_split_image=True)
    >>> inputs = image_processor(np.zeros((375, 500, 3), dtype=np.uint8), return_tensors="pt")
    >>> inputs["pixel_values"].shape
    torch.Size([2, 3, 512, 512])
    >>> inputs["window_offsets"].tolist()
    [[0, 0, 0, 512, 512, 512, 683], [0, 0, 171, 512, 512, 512, 683]]

    ```"""

    def __init__(self, **kwargs: Unpack[SegmenterImageProcessorKwargs]):
        # Here, as importing this file must work without torchvision: the PIL class does so to be saved.
        requires_backends(self, ["torchvision"])
        super().__init__(**kwargs)

    def resize_with_antialias(
        self, image: torch.Tensor, size: tuple[int, int], resample: "PILImageResampling | int"
    ) -> torch.Tensor:
        return TorchvisionBackend.resize(self, image, SizeDict(height=size[0], width=size[1]), resample)


__all__ = ["SegmenterImageProcessor"]
