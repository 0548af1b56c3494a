"""Sliding windows: where they lie and what of an image they hold, and the maps and scores that their logits make."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate, one_hot
from torch.utils._python_dispatch import TorchDispatchMode

from segmenter_hf import windows_segmenter
from segmenter_hf.windows_segmenter import (
    MAX_SCORE_BYTES,
    Window,
    get_enlarged_size,
    get_strides,
    get_windows,
    group_windows,
    merge_windows,
)

from .images import BACKENDS, picture, pixels_of


# Where they lie


def original_windows(image: torch.Tensor, window: int, stride: int) -> tuple[list[torch.Tensor], list[list[int]]]:
    """
    What the original implementation does to a `(channels, height, width)` image before its model: enlarges it if its
    short side is below the window, and cuts it.
    """
    height, width = image.shape[-2:]
    if min(height, width) < window:
        if height < width:
            new_height, new_width = window, width / height * window
        else:
            new_height, new_width = height / width * window, window
        image = interpolate(image[None], (int(new_height), int(new_width)), mode="bilinear")[0]
        height, width = image.shape[-2:]
    anchors = []
    for side in (height, width):
        anchors.append([])
        start = 0
        while start < side - window:
            anchors[-1].append(start)
            start += stride
        anchors[-1].append(side - window)
    windows, offsets = [], []
    for top in anchors[0]:
        for left in anchors[1]:
            windows.append(image[:, top : top + window, left : left + window])
            offsets.append([top, left, window, window, height, width])
    return windows, offsets


WINDOW_CASES = [
    # height, width, window, stride
    (64, 64, 32, 32),
    (64, 96, 32, 20),
    (33, 32, 32, 32),
    (70, 101, 32, 32),
    (32, 32, 32, 7),
    (20, 30, 32, 32),
    (31, 97, 32, 24),
    (97, 31, 32, 1),
    (3, 10, 32, 32),
    (1, 1, 32, 16),
    (1, 50, 32, 32),
    (47, 29, 31, 13),
]


@pytest.mark.parametrize("processor_class", BACKENDS.values(), ids=BACKENDS)
@pytest.mark.parametrize(("height", "width", "window", "stride"), WINDOW_CASES)
def test_windows_are_those_of_the_original_implementation(processor_class, height, width, window, stride):
    image = picture(height, width)
    windows, offsets = original_windows((pixels_of(image) * (1 / 255) - 0.5) / 0.5, window, stride)
    processor = processor_class(do_resize=False, do_split_image=True, crop_size=window, window_stride=stride)
    inputs = processor(image, return_tensors="pt")
    assert inputs["window_offsets"].dtype == torch.int64
    assert inputs["window_offsets"].tolist() == [[0, *window_offsets] for window_offsets in offsets]
    assert torch.equal(inputs["pixel_values"], torch.stack(windows))


def test_enlarged_sizes_truncate_the_product_of_the_ratio():
    assert get_enlarged_size((100, 333), (512, 512)) == (512, 1704)
    assert get_enlarged_size((333, 100), (512, 512)) == (1704, 512)
    for short in range(1, 60):
        for long in range(short, 200, 3):
            assert get_enlarged_size((short, long), (60, 60)) == (60, int(long / short * 60))
            assert get_enlarged_size((long, short), (60, 60)) == (int(long / short * 60), 60)


@pytest.mark.parametrize("size", [(20, 20), (20, 30), (100, 20), (39, 100), (41, 59), (41, 61), (1, 80), (40, 1)])
def test_windows_that_are_not_square(size):
    height, width = get_enlarged_size(size, (40, 60))
    # No larger than it must be, and as near to the aspect ratio as whole pixels allow.
    if size[0] >= 40 and size[1] >= 60:
        assert (height, width) == size
    else:
        assert (height == 40 and width >= 60) or (height >= 40 and width == 60)
        assert abs(width * size[0] - height * size[1]) <= max(size)
    covered = torch.zeros(height, width)
    for window in get_windows(0, (height, width), (40, 60), (40, 40)):
        assert covered[window.area].shape == (40, 60)
        covered[window.area] = 1
    assert covered.all()


def test_strips_are_stretched_rather_than_made_enormous(caplog):
    windows_segmenter.logger.warning_once.__func__.cache_clear()
    for size, enlarged in (((1, 3000), (512, 3000)), ((3000, 1), (3000, 512))):
        assert get_enlarged_size(size, (512, 512)) == enlarged
    assert "would make it 512 x 1536000" in caplog.text and "would make it 1536000 x 512" in caplog.text


def test_strides_of_either_direction():
    windows = get_windows(3, (70, 130), (32, 48), get_strides({"width": 40, "height": 20}))
    assert windows == [Window(3, top, left, 32, 48, 70, 130) for top in (0, 20, 38) for left in (0, 40, 80, 82)]
    windows = get_windows(3, (70, 130), (32, 48), get_strides(31))
    assert [window[1:3] for window in windows] == [(top, left) for top in (0, 31, 38) for left in (0, 31, 62, 82)]


# What their logits make


def windows_of(sizes: list[tuple[int, int]], window_size=(32, 32), strides=(20, 20)) -> torch.Tensor:
    """`window_offsets` of images of these sizes; `window_size=None` for whole images."""
    windows = [
        window
        for index, size in enumerate(sizes)
        for window in get_windows(index, get_enlarged_size(size, window_size or size), window_size or size, strides)
    ]
    return torch.tensor(windows)


def random_logits(window_offsets: torch.Tensor, num_labels: int = 5, patch_size: int = 8) -> torch.Tensor:
    """Logits for windows, on the patch grid that a model makes of the largest of them."""
    grid = [math.ceil(side / patch_size) for side in window_offsets[:, 3:5].amax(dim=0).tolist()]
    generator = torch.Generator().manual_seed(0)
    return torch.randn(len(window_offsets), num_labels, *grid, generator=generator)


def merge(
    logits, window_offsets, target_sizes=None, patch_size=8, is_padded=False, **settings
) -> list[SimpleNamespace]:
    """Map and scores of each image."""
    results = []
    for index, windows in enumerate(group_windows(window_offsets, logits, 8, is_padded)):
        size = next(iter(windows.values())).image_size if target_sizes is None else target_sizes[index]
        segmentation, scores = merge_windows(logits, windows, 8, size, return_scores=True, **settings)
        alone, nothing = merge_windows(logits, windows, 8, size, **settings)
        assert torch.equal(alone, segmentation) and nothing is None
        results.append(SimpleNamespace(segmentation=segmentation, scores=scores))
    return results


def stitched_by_hand(logits, window_offsets, target_sizes=None, patch_size=8) -> list[torch.Tensor]:
    """Scores of each image: all classes at once, pixel by pixel sums and counts in the size of the resized image."""
    scores = []
    offsets = window_offsets.tolist()
    for image_index in range(offsets[-1][0] + 1):
        height, width = next(row[-2:] for row in offsets if row[0] == image_index)
        sums, counts = torch.zeros(logits.shape[1], height, width), torch.zeros(height, width)
        for row, (index, top, left, window_height, window_width, _, _) in zip(logits.float(), offsets, strict=True):
            if index == image_index:
                size = (row.shape[-2] * patch_size, row.shape[-1] * patch_size)
                window = interpolate(row[None], size=size, mode="bilinear", align_corners=False)[0]
                sums[:, top : top + window_height, left : left + window_width] += window[
                    :, :window_height, :window_width
                ]
                counts[top : top + window_height, left : left + window_width] += 1
        size = (height, width) if target_sizes is None else tuple(target_sizes[image_index])
        scores.append(interpolate((sums / counts)[None], size=size, mode="bilinear", align_corners=False)[0])
    return scores


# Landscape, portrait, square, small, a single pixel.
SIZES = [(60, 81), (97, 50), (64, 64), (13, 20), (1, 1)]


@pytest.mark.parametrize(
    ("sizes", "window_size", "strides"),
    [
        ([(48, 65), (96, 49), (48, 48), (48, 74), (48, 48)], (48, 48), (20, 20)),
        (SIZES, (44, 44), (44, 44)),
        (SIZES, (33, 48), (30, 30)),
        (SIZES, (32, 32), (9, 32)),
        (SIZES, None, (1, 1)),
        ([(50, 37)] * 5, None, (1, 1)),
    ],
    ids=["overlapping", "enlarged", "oblong", "of two strides", "padded", "whole"],
)
@pytest.mark.parametrize("target_sizes", [None, [(60, 81), (33, 150), (64, 64), (13, 20), (1, 1)]])
def test_maps_are_the_argmax_of_stitched_logits(sizes, window_size, strides, target_sizes, monkeypatch):
    offsets = windows_of(sizes, window_size, strides)
    logits = random_logits(offsets, num_labels=11)
    expected_scores = stitched_by_hand(logits, offsets, target_sizes)
    # All classes at once, a few at a time, and one by one. torch interpolates one, three or many channels by different
    # code, which rounds differently.
    for max_score_bytes, tolerance in ((MAX_SCORE_BYTES, 0), (4 * 97 * 81 * 4, 1e-4), (1, 1e-4)):
        monkeypatch.setattr(windows_segmenter, "MAX_SCORE_BYTES", max_score_bytes)
        for result, scores in zip(merge(logits, offsets, target_sizes, is_padded=True), expected_scores, strict=True):
            assert result.segmentation.dtype == torch.int64
            assert torch.equal(result.segmentation, result.scores.argmax(dim=0))
            torch.testing.assert_close(result.scores, scores, atol=tolerance, rtol=0)


def test_scores_of_a_constant_stay_constant():
    offsets = windows_of([(50, 70)], strides=(9, 32))
    logits = torch.tensor([1.0, 3.0, 2.0])[None, :, None, None].expand(len(offsets), 3, 4, 4)
    (result,) = merge(logits, offsets)
    assert (result.segmentation == 1).all()
    assert torch.equal(result.scores[:, 49, 69], torch.tensor([1.0, 3.0, 2.0]))


def test_map_lies_where_the_image_does():
    """Logits that are right about their windows make a map that is right about the image, however it was cut."""
    # No stripe ends where a window does: there, the map is a compromise.
    stripes = np.repeat(np.array([0, 1, 4, 2, 0, 3, 1], dtype=np.uint8), [16, 16, 24, 16, 8, 16, 16])
    for truth in (np.tile(stripes, (96, 1)), np.tile(stripes[:, None], (1, 80))):
        height, width = truth.shape
        offsets = windows_of([truth.shape], (48, 48), (40, 40))
        labels = torch.stack([torch.from_numpy(truth)[Window(*row).area] for row in offsets.tolist()])
        patches = labels.unfold(1, 8, 8).unfold(2, 8, 8)[..., 4, 4]
        logits = one_hot(patches.long(), 5).permute(0, 3, 1, 2)
        assert np.array_equal(merge(logits, offsets)[0].segmentation, truth)
        larger = merge(logits, offsets, [(2 * height, 2 * width)])[0].segmentation
        assert np.array_equal(larger, truth.repeat(2, axis=0).repeat(2, axis=1))


def test_logits_can_be_stretched_to_each_window():
    """Also to those of a batch that was padded, of whose logits each window has a part."""
    sizes, grids = [(20, 45), (33, 24)], [(3, 6), (5, 3)]
    offsets = windows_of(sizes, window_size=None)
    logits = random_logits(offsets)
    results = merge(logits, offsets, is_padded=True, crop_logits=False)
    for result, row, size, (rows, columns) in zip(results, logits, sizes, grids, strict=True):
        expected = interpolate(row[None, :, :rows, :columns], size=size, mode="bilinear", align_corners=False)
        torch.testing.assert_close(result.scores, expected[0])


def test_one_label_is_where_its_sigmoid_exceeds_one_half():
    offsets = windows_of([(40, 50)])
    logits = random_logits(offsets, num_labels=1)
    (scores,) = stitched_by_hand(logits, offsets, [(20, 30)])
    (result,) = merge(logits, offsets, [(20, 30)])
    assert torch.equal(result.scores, scores)
    assert torch.equal(result.segmentation, (scores[0].sigmoid() > 0.5).long())
    assert set(result.segmentation.unique().tolist()) == {0, 1}
    assert not merge(torch.zeros_like(logits), offsets)[0].segmentation.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_upsampled_in_float32(dtype):
    offsets = windows_of([(40, 50)])
    logits = random_logits(offsets).to(dtype)
    (scores,) = stitched_by_hand(logits, offsets, [(80, 100)])
    (result,) = merge(logits, offsets, [(80, 100)])
    assert result.scores.dtype == torch.float32
    assert torch.equal(result.scores, scores)


def test_rows_of_a_batch_may_come_in_any_order():
    offsets = windows_of([(40, 50), (60, 32)])
    logits = random_logits(offsets)
    backwards = merge(logits.flip(0), offsets.flip(0))
    for result, expected in zip(backwards, merge(logits, offsets), strict=True):
        # Sums depend on their order, by a rounding error.
        assert (result.segmentation == expected.segmentation).float().mean() > 0.999


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        # A pipeline with a batch size tears windows apart like this; or calls are put together under one image index.
        (["left"], r"1 window\(s\) do not cover the 32 x 64 pixels of image 0.*batch_size=1"),
        (["left", "right", "right"], "the same window twice"),
        ([[0, 0, 0, 32, 32, 32, 32], "right"], "different sizes"),
        ([[0, 0, 0, 32, 32, 32, 40], [0, 0, 32, 32, 32, 32, 40]], "beyond its borders"),
    ],
)
def test_rows_that_do_not_make_an_image_are_refused(rows, message):
    named = {"left": [0, 0, 0, 32, 32, 32, 64], "right": [0, 0, 32, 32, 32, 32, 64]}
    offsets = torch.tensor([named[row] if isinstance(row, str) else row for row in rows])
    with pytest.raises(ValueError, match=message):
        group_windows(offsets, random_logits(offsets), patch_size=8)
    with pytest.raises(ValueError, match=r"must have shape \(5, 7\).*got \(\d, 7\)"):
        group_windows(offsets, torch.zeros(5, 3, 4, 4), patch_size=8)


@pytest.mark.parametrize("patch_size", [4, 16])
def test_patch_size_of_another_model_is_refused(patch_size):
    offsets = windows_of([(32, 48)], window_size=None)
    with pytest.raises(ValueError, match=rf"patches of {patch_size} pixels.*got 4 x 6.*`patch_size` of the model"):
        group_windows(offsets, random_logits(offsets, patch_size=8), patch_size)


class LargestTensor(TorchDispatchMode):
    """Records the bytes of the largest tensor that an operation returns."""

    num_bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        for result in results if isinstance(results, (list, tuple)) else [results]:
            if isinstance(result, torch.Tensor):
                self.num_bytes = max(self.num_bytes, result.untyped_storage().nbytes())
        return results


def test_memory_does_not_grow_with_the_number_of_classes():
    offsets = windows_of([(1024, 2048)], (512, 512), (512, 512))
    logits = random_logits(offsets, num_labels=150, patch_size=16)
    (windows,) = group_windows(offsets, logits, patch_size=16)
    with LargestTensor() as largest:
        segmentation, _ = merge_windows(logits, windows, patch_size=16, target_size=(1024, 2048))
    assert segmentation.shape == (1024, 2048)
    all_scores = 150 * 1024 * 2048 * 4
    assert largest.num_bytes <= MAX_SCORE_BYTES < all_scores / 15
    # The recorder sees such a tensor where there is one.
    with LargestTensor() as largest:
        torch.empty(150, 1024, 2048)
    assert largest.num_bytes == all_scores
