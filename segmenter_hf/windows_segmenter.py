# Copyright 2026 the segmenter_hf authors. Licensed under the Apache License, Version 2.0.
"""
Sliding windows of Segmenter: where they lie in an image, and how a model's logits for them become one map.

The image processors enlarge an image that is below the window (`get_enlarged_size`), cut it (`get_windows`,
`Window.area`), and hand on where each window lies, as a row of `window_offsets`. Post-processing finds the rows of
each image (`group_windows`), and merges the logits of its windows (`merge_windows`).
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import nn
from transformers.utils import logging


logger = logging.get_logger(__name__)

# Up to this size, an image below the window is enlarged to it as in the original implementation, keeping its aspect
# ratio. What would be larger is stretched: a strip of 1 x 3000 pixels would become 512 x 1536000 and fill the memory.
MAX_ENLARGED_PIXELS = 2**24
# Merging takes so many classes at a time, at least one, that their score maps stay below this.
MAX_SCORE_BYTES = 64 * 2**20


class Window(NamedTuple):
    """A row of `window_offsets`: where a window lies in its (resized) image, in pixels."""

    image_index: int
    top: int
    left: int
    height: int
    width: int
    image_height: int
    image_width: int

    @property
    def image_size(self) -> tuple[int, int]:
        """`(height, width)` of the image."""
        return self.image_height, self.image_width

    @property
    def area(self) -> tuple:
        """Index of the window in a tensor of shape `(..., image_height, image_width)`."""
        return ..., slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


def get_enlarged_size(image_size: tuple[int, int], window_size: tuple[int, int]) -> tuple[int, int]:
    """`(height, width)` to which an image below the window is enlarged; of any other its own."""
    (height, width), (window_height, window_width) = image_size, window_size
    if height >= window_height and width >= window_width:
        return height, width
    # The ratio comes before the product, as in the original implementation, so that truncation gives the same size.
    if window_height * width >= window_width * height:
        enlarged_size = window_height, max(window_width, int(width / height * window_height))
    else:
        enlarged_size = max(window_height, int(height / width * window_width)), window_width
    if math.prod(enlarged_size) > MAX_ENLARGED_PIXELS:
        logger.warning_once(
            f"An image of {height} x {width} pixels is stretched to the window of {window_height} x {window_width}: "
            f"keeping its aspect ratio would make it {enlarged_size[0]} x {enlarged_size[1]}."
        )
        enlarged_size = max(height, window_height), max(width, window_width)
    return enlarged_size


def get_strides(window_stride: int | Mapping[str, int]) -> tuple[int, int]:
    """Distance of neighbouring windows in pixels, down and across."""
    if isinstance(window_stride, Mapping):
        return window_stride["height"], window_stride["width"]
    return window_stride, window_stride


def get_windows(
    image_index: int, image_size: tuple[int, int], window_size: tuple[int, int], strides: tuple[int, int]
) -> list[Window]:
    """
    Windows of an image, row by row: one every `strides` pixels from the top left, the last ones flush with the border.
    All sizes are `(height, width)` in pixels, and the window is no larger than the image.
    """
    tops, lefts = (
        (*range(0, length - window, stride), length - window)
        for length, window, stride in zip(image_size, window_size, strides, strict=True)
    )
    return [Window(image_index, top, left, *window_size, *image_size) for top in tops for left in lefts]


def group_windows(
    window_offsets: torch.Tensor, logits: torch.Tensor, patch_size: int, is_padded: bool = False
) -> list[dict[int, Window]]:
    """
    The windows of each image, in the order of the images, by their row in the logits.

    Args:
        window_offsets (`torch.LongTensor` of shape `(num_windows, 7)`): What the image processor gave.
        logits (`torch.Tensor` of shape `(num_windows, num_labels, grid_height, grid_width)`): What the model gave.
        patch_size (`int`): Side of the model's patches in pixels.
        is_padded (`bool`, *optional*, defaults to `False`): Whether windows may have been padded, so that the grid of
            the logits is larger than theirs.

    Raises:
        ValueError: if they do not fit together, or windows do not cover their image.
    """
    if tuple(window_offsets.shape) != (len(logits), 7):
        raise ValueError(
            f"`window_offsets` must have shape ({len(logits)}, 7), a row for each of the logits, got "
            f"{tuple(window_offsets.shape)}."
        )
    windows = [Window(*offsets) for offsets in window_offsets.tolist()]

    rows, columns = logits.shape[-2:]
    height, width = (max(getattr(window, side) for window in windows) for side in ("height", "width"))
    expected_rows, expected_columns = -(-height // patch_size), -(-width // patch_size)
    has_padding = is_padded and rows >= expected_rows and columns >= expected_columns
    if (rows, columns) != (expected_rows, expected_columns) and not has_padding:
        raise ValueError(
            f"With patches of {patch_size} pixels, windows of {height} x {width} have logits of {expected_rows} x "
            f"{expected_columns}, got {rows} x {columns}. Give the image processor the `patch_size` of the model (and "
            "`do_pad=True`, if the windows were padded)."
        )

    images = {}
    for row, window in enumerate(windows):
        images.setdefault(window.image_index, {})[row] = window
    for windows_of_image in images.values():
        check_windows(list(windows_of_image.values()))
    return [images[index] for index in sorted(images)]


def check_windows(windows: list[Window]):
    """
    Raises:
        ValueError: if windows of one image contradict each other, or leave parts of it uncovered.
    """
    index, (height, width) = windows[0].image_index, windows[0].image_size
    is_consistent = all(
        window.image_size == (height, width)
        and 0 <= window.top <= height - window.height
        and 0 <= window.left <= width - window.width
        for window in windows
    )
    if not is_consistent or len(set(windows)) < len(windows):
        raise ValueError(
            f"`window_offsets` give image {index} different sizes, windows beyond its borders, or the same window "
            "twice. Post-process the outputs of each call of the image processor by themselves."
        )
    is_covered = torch.zeros(height, width, dtype=torch.bool)
    for window in windows:
        is_covered[window.area] = True
    if not is_covered.all():
        raise ValueError(
            f"{len(windows)} window(s) do not cover the {height} x {width} pixels of image {index}. Post-process "
            "all windows of an image together; in a pipeline, with batch_size=1."
        )


def merge_windows(
    logits: torch.Tensor,
    windows: Mapping[int, Window],
    patch_size: int,
    target_size: tuple[int, int],
    crop_logits: bool = True,
    return_scores: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """
    Upsamples the logits of one image's windows to pixels, averages them where windows overlap, resizes them to the
    target size, and takes the label with the highest score; with one logit, label 1 where its sigmoid exceeds 0.5.

    Args:
        logits (`torch.Tensor` of shape `(num_windows, num_labels, grid_height, grid_width)`): Those of a batch.
        windows (`Mapping[int, Window]`): The windows of the image, by their row in the logits.
        patch_size (`int`): Side of the model's patches in pixels.
        target_size (`tuple[int, int]`): `(height, width)` of the map in pixels.
        crop_logits (`bool`, *optional*, defaults to `True`): Whether logits are upsampled to all pixels of their
            patches, of which those beyond the window are dropped; otherwise they are stretched to the window.
        return_scores (`bool`, *optional*, defaults to `False`): Whether to return the averaged logits too.

    Returns:
        The int64 map `(height, width)`, and the scores, float32 `(num_labels, height, width)`, or `None`.
    """
    device, num_labels = logits.device, logits.shape[1]
    image_size = next(iter(windows.values())).image_size
    padded_size = (logits.shape[-2] * patch_size, logits.shape[-1] * patch_size)
    num_windows = torch.zeros(image_size, device=device)
    for window in windows.values():
        num_windows[window.area] += 1

    # Several logits compete with each other, a single one with 0, where its sigmoid is 0.5.
    is_binary = num_labels == 1
    segmentation = torch.zeros(target_size, dtype=torch.int64, device=device)
    best_scores = torch.full(target_size, 0.0 if is_binary else -torch.inf, device=device)
    scores = torch.empty(num_labels, *target_size, device=device) if return_scores else None

    # Classes are merged a few at a time: ADE20K's 150 would take 1.2 GB at 2048 x 1024 pixels, several times over.
    num_pixels = max(math.prod(size) for size in (image_size, padded_size, target_size))
    chunk_size = max(1, MAX_SCORE_BYTES // (num_pixels * best_scores.element_size()))
    for start in range(0, num_labels, chunk_size):
        chunk = logits[:, start : start + chunk_size]
        image_scores = torch.zeros(chunk.shape[1], *image_size, device=device)
        for row, window in windows.items():
            window_logits, size = chunk[row, None].float(), padded_size
            if not crop_logits:
                # A window that was padded to the size of others has patches beyond its own, which are left out.
                size = window.height, window.width
                rows, columns = (-(-side // patch_size) for side in size)
                window_logits = window_logits[..., :rows, :columns]
            upsampled = nn.functional.interpolate(window_logits, size=size, mode="bilinear")
            image_scores[window.area] += upsampled[0, :, : window.height, : window.width]
        image_scores /= num_windows
        image_scores = nn.functional.interpolate(image_scores[None], size=target_size, mode="bilinear")[0]
        if return_scores:
            scores[start : start + chunk_size] = image_scores
        chunk_best, chunk_labels = image_scores.max(dim=0)
        segmentation = torch.where(chunk_best > best_scores, chunk_labels + start + is_binary, segmentation)
        best_scores = torch.maximum(chunk_best, best_scores)
    return segmentation, scores


__all__ = ["Window", "get_enlarged_size", "get_strides", "get_windows", "group_windows", "merge_windows"]
