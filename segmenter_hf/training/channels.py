"""Models and image processors for other numbers of bands than those that they start from."""

import logging
from collections.abc import MutableMapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ..modeling_segmenter import SegmenterForSemanticSegmentation


logger = logging.getLogger(__name__)


def fit_channels(model: SegmenterForSemanticSegmentation, num_channels: int):
    """
    Makes a model for RGB take another number of bands, as timm's `adapt_input_conv` does: for one, the weights of the
    three are added; for more, they are repeated in turn, and scaled by 3 / `num_channels`, so that what the patches
    become is as large as before.

    Args:
        model ([`SegmenterForSemanticSegmentation`]): Changed in place, with its config.
        num_channels (`int`): The number of bands.

    Raises:
        ValueError: if the model takes neither three bands nor as many.
    """
    if model.config.num_channels == num_channels:
        return
    if model.config.num_channels != 3:
        raise ValueError(
            f"--num_channels {num_channels}: the model takes {model.config.num_channels} bands. Only weights for 3 "
            "can be adapted to other numbers. Leave the flag out, or start from other weights."
        )
    embeddings = model.segmenter.embeddings.patch_embeddings
    weight = embeddings.projection.weight.detach()
    if num_channels == 1:
        weight = weight.sum(dim=1, keepdim=True)
    else:
        weight = weight[:, torch.arange(num_channels) % 3] * (3 / num_channels)
    embeddings.projection.weight = nn.Parameter(weight.contiguous())
    embeddings.projection.in_channels = embeddings.num_channels = model.config.num_channels = num_channels


def set_channels(
    settings: MutableMapping[str, Any],
    num_channels: int,
    image_mean: Sequence[float] | None = None,
    image_std: Sequence[float] | None = None,
):
    """
    Makes settings of an image processor those for so many bands. Where no means and standard deviations are given,
    bands take those of red, green and blue in turn, as they do the weights; a single one takes the average.

    Args:
        settings (`dict`): As `to_dict` gives them; changed in place.
        num_channels (`int`): The number of bands. Other images than those of 3 are not converted to RGB.
        image_mean (`Sequence[float]`, *optional*): The mean of each band, or one for all.
        image_std (`Sequence[float]`, *optional*): Likewise, the standard deviations.

    Raises:
        ValueError: if there are too many or too few, or they cannot be those of pixels.
    """
    # The brightest pixel becomes this before it is normalised.
    largest = 255 * settings["rescale_factor"] if settings["do_rescale"] else 255
    is_guess = False
    for name, given in (("image_mean", image_mean), ("image_std", image_std)):
        if given is not None:
            if len(given) not in (1, num_channels):
                raise ValueError(
                    f"--{name} must be one number, or one for each of {num_channels} bands, got {len(given)}."
                )
            is_valid = all(0 <= value <= largest and (name == "image_mean" or value > 0) for value in given)
            if not is_valid:
                least = "from 0" if name == "image_mean" else "above 0 and up"
                raise ValueError(
                    f"--{name} must be {least} to {largest:g}, the range of scaled pixels, got "
                    f"{', '.join(f'{value:g}' for value in given)}. Divide figures of bytes by 255."
                )
            settings[name] = [float(value) for value in np.resize(given, num_channels)]
            continue
        values = np.ravel(settings[name])
        if len(values) != num_channels and num_channels != 3 or len(values) not in (1, num_channels):
            is_guess |= len(set(values.tolist())) > 1
            resized = [values.mean()] if num_channels == 1 else np.resize(values, num_channels)
            settings[name] = [float(value) for value in resized]
    if num_channels != 3:
        settings["do_convert_rgb"] = False
    if is_guess:
        logger.warning(
            "Bands are normalised by the figures of red, green and blue in turn (image_mean %s, image_std %s). "
            "scripts/compute_image_statistics.py computes those of your images, for --image_mean and --image_std.",
            settings["image_mean"],
            settings["image_std"],
        )


__all__ = ["fit_channels", "set_channels"]
