"""Mean and standard deviation of each band of a data set's images."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ..image_processing_pil_segmenter import SegmenterImageProcessorPil
from .examples import ExampleReader


def compute_image_statistics(
    examples: Sequence[dict[str, Any]],
    num_channels: int = 3,
    max_value: int = 65535,
    show_progress: bool = False,
) -> tuple[list[float], list[float]]:
    """
    Mean and standard deviation of each band over all pixels of all images, in the units of an image processor's
    `image_mean` and `image_std`: from 0 to 1.

    Args:
        examples (`Sequence[dict]`): With an `image` each, such as a split of a `datasets.Dataset`.
        num_channels (`int`, *optional*, defaults to 3): Number of bands. Of 3, images are converted to RGB.
        max_value (`int`, *optional*, defaults to 65535): What 16-bit images hold at most.
        show_progress (`bool`, *optional*, defaults to `False`): Whether to show a progress bar.

    Returns:
        `tuple[list[float], list[float]]`: the means and the standard deviations.

    Raises:
        ExampleError: if an image cannot be read, or has another number of bands; the message names it.
        ValueError: if there are no images, or a band is the same everywhere, by which nothing can be divided.
    """
    image_processor = SegmenterImageProcessorPil(
        do_convert_rgb=num_channels == 3,
        max_value=max_value,
        image_mean=[0.0] * num_channels,
        image_std=[1.0] * num_channels,
    )
    reader = ExampleReader(examples, ["image"])
    # Sums of bytes need no rounding, so that the order of the images does not matter.
    number, total, total_of_squares = 0, np.zeros(num_channels), np.zeros(num_channels)
    for index in tqdm(range(len(reader)), desc="Reading images", unit="image", disable=not show_progress):
        with reader.naming(index):
            (image,) = reader[index]
            pixels = image_processor.process_image(image, do_convert_rgb=image_processor.do_convert_rgb)
            if len(pixels) != num_channels:
                raise ValueError(f"it has {len(pixels)} bands, expected {num_channels}")
        pixels = pixels.flatten(1).to(torch.float64)
        number += pixels.shape[1]
        total += pixels.sum(dim=1).numpy()
        total_of_squares += pixels.square().sum(dim=1).numpy()
    if not number:
        raise ValueError("There are no images.")
    mean = total / number
    variance = total_of_squares / number - mean**2
    flat = np.flatnonzero(variance <= 0)
    if flat.size:
        raise ValueError(
            f"Band {flat[0]} is {mean[flat[0]]:g} of 255 in all pixels of all images: there is nothing to learn from "
            "it. Store the images without it."
        )
    return (mean / 255).tolist(), (np.sqrt(variance) / 255).tolist()


__all__ = ["compute_image_statistics"]
