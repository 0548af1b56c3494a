"""The image processors: pixels, windows and labels in, maps out, and saving them together with their code."""

import json
import math
import os
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from torch.nn.functional import interpolate
from transformers import BatchFeature
from transformers.image_utils import SizeDict
from transformers.utils import ModelOutput

import segmenter_hf.image_processing_segmenter as shared
from segmenter_hf import SegmenterImageProcessorPil
from segmenter_hf.windows_segmenter import group_windows, merge_windows

from .common import REPOSITORY, encode_png, run_python
from .images import BACKENDS, label_map, picture, pixels_of


# These leave nothing of an image but its pixels, as floats.
ONLY_DECODE = {"do_resize": False, "do_rescale": False, "do_normalize": False}


@pytest.fixture(params=BACKENDS)
def processor_class(request):
    return BACKENDS[request.param]


# Sizes


@pytest.mark.parametrize(
    ("size", "height", "width", "expected"),
    [
        # These were computed by hand: scale = min(2048 / long, 512 / short), side = max(1, int(side * scale + 0.5)).
        ({"shortest_edge": 512, "longest_edge": 2048}, 480, 640, (512, 683)),  # 682.67: truncating gives 682
        ({"shortest_edge": 512, "longest_edge": 2048}, 640, 480, (683, 512)),
        ({"shortest_edge": 512, "longest_edge": 2048}, 512, 512, (512, 512)),
        ({"shortest_edge": 512, "longest_edge": 2048}, 100, 1000, (205, 2048)),  # 204.8, capped by the long side
        ({"shortest_edge": 512, "longest_edge": 2048}, 1, 1, (512, 512)),
        ({"shortest_edge": 512, "longest_edge": 2048}, 3000, 1, (2048, 1)),  # 0.68
        ({"shortest_edge": 512, "longest_edge": 2048}, 1, 9000, (1, 2048)),  # 0.23, at least 1
        ({"shortest_edge": 16}, 10, 100, (16, 160)),
        (16, 10, 100, (16, 160)),
        ({"height": 24, "width": 40}, 100, 10, (24, 40)),
        ((24, 40), 100, 10, (24, 40)),
    ],
)
def test_resized_sizes(processor_class, size, height, width, expected):
    inputs = processor_class(size=size)(Image.new("RGB", (width, height)), return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, *expected)
    assert inputs["window_offsets"].tolist() == [[0, 0, 0, *expected, *expected]]


@pytest.mark.parametrize("antialias", [True, False])
def test_huge_image(processor_class, antialias):
    inputs = processor_class(antialias=antialias)(np.zeros((6000, 8000), dtype=np.uint8), return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, 512, 683)


# Resizing and normalising


def test_without_antialias_is_bilinear_interpolation_rounded(processor_class):
    image = picture(90, 131)
    expected = interpolate(pixels_of(image)[None], size=(64, 93), mode="bilinear").round()
    processor = processor_class(size={"shortest_edge": 64}, antialias=False, do_rescale=False, do_normalize=False)
    assert torch.equal(processor(image, return_tensors="pt")["pixel_values"], expected)


def test_antialias_of_pil_is_that_of_pil():
    image = picture(90, 131)
    expected = pixels_of(image.resize((93, 64), Image.Resampling.BILINEAR))
    processor = SegmenterImageProcessorPil(size={"shortest_edge": 64}, do_rescale=False, do_normalize=False)
    assert torch.equal(processor(image, return_tensors="pt")["pixel_values"][0], expected)


@pytest.mark.parametrize("resample", [Image.Resampling.NEAREST, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_backends_agree(resample, dtype):
    image = np.asarray(picture(300, 431)).astype(dtype)
    for antialias, tolerance in ((False, 0), (True, 1.001)):
        torchvision_values, pil_values = (
            backend(size={"shortest_edge": 100}, antialias=antialias, resample=resample, do_split_image=True)(
                image, return_tensors="pt", crop_size=120, window_stride=60
            )["pixel_values"]
            for backend in BACKENDS.values()
        )
        difference = 127.5 * (torchvision_values - pil_values).abs()
        assert difference.max() <= tolerance
        assert difference.mean() <= tolerance / 20


def test_floats_are_resized_like_bytes(processor_class):
    image = picture(90, 131)
    for antialias in (True, False):
        processor = processor_class(size={"shortest_edge": 50}, antialias=antialias)
        from_bytes = processor(image, return_tensors="pt")["pixel_values"]
        from_floats = processor(np.asarray(image, dtype=np.float64), return_tensors="pt")["pixel_values"]
        from_fractions = processor(np.asarray(image) / 255, return_tensors="pt", do_rescale=False)["pixel_values"]
        # Bytes are rounded after resizing.
        assert (from_bytes - from_floats).abs().max() < 1.01 / 127.5
        torch.testing.assert_close(from_floats, from_fractions, atol=1e-5, rtol=0)


def test_normalises_each_channel(processor_class):
    image = picture(20, 30)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    expected = (pixels_of(image) / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    processor = processor_class(do_resize=False, image_mean=mean, image_std=std)
    torch.testing.assert_close(processor(image, return_tensors="pt")["pixel_values"][0], expected, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="for each of the 4 channels, got 3 and 3"):
        processor(np.zeros((8, 8, 4), dtype=np.uint8), do_convert_rgb=False, return_tensors="pt")


# Kinds of images


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "1", "YCbCr", "HSV"])
def test_modes_of_pil(processor_class, mode):
    image = picture(21, 34, mode)
    values = processor_class()(image, return_tensors="pt", **ONLY_DECODE)["pixel_values"][0]
    assert torch.equal(values, pixels_of(image))


def test_transparency_is_dropped(processor_class):
    image = picture(21, 34)
    transparent = image.copy()
    transparent.putalpha(Image.linear_gradient("L").resize(image.size))
    palette = image.quantize(16)
    palette.info["transparency"] = 3
    for kind, expected in (
        (transparent, image),
        (np.asarray(transparent), image),
        (torch.from_numpy(np.array(transparent)).permute(2, 0, 1), image),
        (palette, palette.convert("RGB")),
    ):
        values = processor_class()(kind, return_tensors="pt", **ONLY_DECODE)["pixel_values"][0]
        assert torch.equal(values, pixels_of(expected))


def test_16_bits_are_scaled(processor_class):
    values_16_bit = np.array([[0, 128, 129, 257], [2570, 30000, 65407, 65535]], dtype=np.uint16)
    # value / 257, to the nearest
    expected = torch.tensor([[0.0, 0.0, 1.0, 1.0], [10.0, 117.0, 255.0, 255.0]]).expand(1, 3, 2, 4)
    for image in (
        values_16_bit,
        values_16_bit.astype(">u2"),
        torch.from_numpy(values_16_bit),
        np.repeat(values_16_bit[..., None], 3, axis=-1),
        Image.fromarray(values_16_bit),
        Image.frombytes("I;16B", (4, 2), values_16_bit.astype(">u2").tobytes()),
        Image.fromarray(values_16_bit.astype(np.int32)),
    ):
        values = processor_class()(image, return_tensors="pt", **ONLY_DECODE)["pixel_values"]
        assert torch.equal(values, expected), image


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_16_bits_are_scaled_by_what_they_hold_at_most(processor_class, bits, tmp_path):
    max_value = 2**bits - 1
    values = np.array([[0, 1, max_value // 2], [max_value // 3, max_value - 1, max_value]], dtype=np.uint16)
    expected = torch.from_numpy(np.round(values * 255.0 / max_value)).float().expand(1, 3, 2, 3)
    Image.fromarray(values).save(tmp_path / "image.png")
    processor = processor_class(max_value=max_value)
    processor.save_pretrained(tmp_path / "saved")
    for image in (values, torch.from_numpy(values), Image.fromarray(values), str(tmp_path / "image.png")):
        for each in (processor, processor_class.from_pretrained(tmp_path / "saved")):
            assert torch.equal(each(image, return_tensors="pt", **ONLY_DECODE)["pixel_values"], expected)
        by_call = processor_class()(image, return_tensors="pt", max_value=max_value, **ONLY_DECODE)
        assert torch.equal(by_call["pixel_values"], expected)
    # Bytes are bytes, whatever the 16-bit images of the model hold.
    grey = np.array([[0, 7, 255]], dtype=np.uint8)
    assert processor(grey, return_tensors="pt", **ONLY_DECODE)["pixel_values"][0, 0].tolist() == grey.tolist()
    if bits < 14:
        with pytest.raises(ValueError, match=rf"must lie in 0\.\.{max_value}, got 0\.\.{max_value + 1}\. .*max_value"):
            processor(np.array([[0, max_value + 1]], dtype=np.uint16), return_tensors="pt")


@pytest.mark.parametrize("max_value", [0, -1, 65536, 4095.0, None])
def test_values_that_16_bits_cannot_end_at(processor_class, max_value):
    with pytest.raises(ValueError, match="`max_value` must be a whole number from 1 to 65535, got"):
        processor_class(max_value=max_value)(np.zeros((4, 4), dtype=np.uint16), return_tensors="pt")


@pytest.mark.parametrize("channels", [3, 4])
def test_files_of_which_pil_cuts_the_bits(processor_class, channels, tmp_path, caplog):
    path = tmp_path / "image.png"
    values = np.random.default_rng(0).integers(0, 4096, (5, 6, channels), dtype=np.uint16)
    path.write_bytes(encode_png(values))
    for image in (str(path), Image.open(path)):
        with pytest.raises(ValueError, match="keeps the upper 8 of the 16 bits .* `max_value=4095` cannot be applied"):
            processor_class(max_value=4095)(image, return_tensors="pt")
    shared.logger.warning_once.cache_clear()
    with caplog.at_level("WARNING"):
        cut = processor_class()(str(path), return_tensors="pt", **ONLY_DECODE)["pixel_values"]
    assert "Read it with another library" in caplog.text
    assert torch.equal(cut[0], torch.from_numpy(values[..., :3] >> 8).permute(2, 0, 1).float())


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64", "uint16", "float16", "float32", "float64"])
@pytest.mark.parametrize("channels", [None, 1, 3, 4])
def test_arrays_and_tensors_of_any_layout(processor_class, dtype, channels):
    grey = np.asarray(picture(20, 31, "L"))
    expected = torch.from_numpy(grey.copy()).float().expand(1, 3, 20, 31)
    array = grey.astype(dtype) * (257 if dtype == "uint16" else 1)
    if channels is not None:
        array = np.repeat(array[..., None], channels, axis=-1)
    layouts = [array, array[::-1][::-1]]
    if channels is not None:
        layouts += [np.moveaxis(array, -1, 0), np.ascontiguousarray(np.moveaxis(array, -1, 0))]
    processor = processor_class()
    for layout in layouts:
        for image in (layout, torch.from_numpy(np.ascontiguousarray(layout))):
            assert torch.equal(processor(image, return_tensors="pt", **ONLY_DECODE)["pixel_values"], expected)


def test_booleans_and_floats_of_pil(processor_class):
    mask = label_map(6, 9, 2).astype(bool)
    processor = processor_class()
    for image in (mask, torch.from_numpy(mask), Image.fromarray(mask)):
        values = processor(image, return_tensors="pt", **ONLY_DECODE)["pixel_values"]
        assert torch.equal(values[0, 0], torch.from_numpy(mask * 255.0).float())
    fractions = np.linspace(0, 1, 54, dtype=np.float32).reshape(6, 9)
    values = processor(Image.fromarray(fractions), return_tensors="pt", **ONLY_DECODE)["pixel_values"]
    assert torch.equal(values[0, 2], torch.from_numpy(fractions))


@pytest.mark.parametrize("height", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("width", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "I;16"])
def test_tiny_pictures_keep_their_orientation(processor_class, height, width, mode):
    image = picture(height, width, "L").convert(mode) if mode == "I;16" else picture(height, width, mode)
    for do_convert_rgb in (True, False):
        values = processor_class()(image, return_tensors="pt", do_convert_rgb=do_convert_rgb, **ONLY_DECODE)
        assert values["pixel_values"].shape[-2:] == (height, width)
    assert processor_class()(image, return_tensors="pt")["window_offsets"][0, -2:].tolist() == (
        list(shared.get_resized_size((height, width), processor_class().size))
    )


def test_ambiguous_layouts(processor_class):
    """Channels are last in arrays, first in tensors, unless the call says otherwise."""
    array = np.asarray(picture(3, 3))
    last, first = pixels_of(Image.fromarray(array)), torch.from_numpy(array.copy()).float()
    processor = processor_class()
    for image, kwargs, expected in (
        (array, {}, last),
        (torch.from_numpy(array.copy()), {}, first),
        (array, {"input_data_format": "channels_first"}, first),
        (torch.from_numpy(array.copy()), {"input_data_format": "channels_last"}, last),
        (Image.fromarray(array), {"input_data_format": "channels_first"}, last),
    ):
        assert torch.equal(processor(image, return_tensors="pt", **ONLY_DECODE, **kwargs)["pixel_values"][0], expected)
    assert processor(np.zeros((1, 9, 3)), return_tensors="pt", **ONLY_DECODE)["pixel_values"].shape == (1, 3, 1, 9)


def test_batches_and_lists(processor_class):
    array = np.stack([np.asarray(picture(12, 17, seed=seed)) for seed in range(3)])
    expected = torch.from_numpy(array).permute(0, 3, 1, 2).float()
    mixed = [Image.fromarray(array[0]), array[1], torch.from_numpy(array[2]).permute(2, 0, 1)]
    processor = processor_class()
    for images in (array, torch.from_numpy(array), list(array), tuple(mixed), mixed, [mixed[:1], mixed[1:]]):
        inputs = processor(images, return_tensors="pt", **ONLY_DECODE)
        assert torch.equal(inputs["pixel_values"], expected)
        assert inputs["window_offsets"].tolist() == [[index, 0, 0, 12, 17, 12, 17] for index in range(3)]


def test_paths_of_images_and_maps(processor_class, tmp_path):
    images, labels = [picture(12, 17, seed=seed) for seed in range(2)], label_map(12, 17)
    palette = Image.fromarray(labels, mode="P")
    palette.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tobytes())
    files = {
        "a.png": images[0],
        "b.png": images[1],
        "map.png": palette,
        "16.png": Image.fromarray(labels.astype(np.uint16) * 257),
    }
    for name, image in files.items():
        image.save(tmp_path / name)
    a, b, map_file, wide_map_file = (tmp_path / name for name in files)
    processor = processor_class(do_resize=False)
    expected = torch.stack([pixels_of(image) for image in images])
    for paths in ([a, b], (a, str(b)), [[a], [b]], [images[0], b]):
        inputs = processor(paths, [map_file, str(map_file)], return_tensors="pt", **ONLY_DECODE)
        assert torch.equal(inputs["pixel_values"], expected)
        assert np.array_equal(inputs["labels"], np.stack([labels, labels]))
    for segmentation_maps, truth in (
        (map_file, labels),
        (str(map_file), labels),
        (wide_map_file, labels.astype(np.uint16) * 257),
    ):
        inputs = processor(a, segmentation_maps, return_tensors="pt")
        assert np.array_equal(inputs["labels"][0], truth)
    missing = tmp_path / "missing.png"
    for arguments in ((missing,), (a, missing), (a, str(missing)), (a, [missing])):
        with pytest.raises((ValueError, OSError), match=r"missing\.png"):
            processor(*arguments, return_tensors="pt")


def test_paths_of_what_is_no_regular_file(processor_class, tmp_path):
    """A pipe has no end, and a device may have none."""
    picture(12, 17).save(tmp_path / "image.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "device.png").symlink_to(os.devnull)
    for name in ("pipe.png", "device.png", ""):
        for arguments in ((tmp_path / name,), (tmp_path / "image.png", tmp_path / name)):
            with pytest.raises(ValueError, match=f"{name} is no regular file, expected that of an image"):
                processor_class()(*arguments)


def test_a_photo_is_turned_as_its_file_says(processor_class, tmp_path):
    image = picture(12, 17)
    exif = image.getexif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    image.save(tmp_path / "image.png", exif=exif)
    values = processor_class()(str(tmp_path / "image.png"), return_tensors="pt", **ONLY_DECODE)["pixel_values"]
    assert torch.equal(values[0], pixels_of(image.rotate(-90, expand=True)))


def test_inputs_are_left_alone(processor_class):
    array = np.asarray(picture(20, 30), dtype=np.float32).copy()
    array.setflags(write=False)
    tensor = torch.from_numpy(array.copy())
    labels = torch.from_numpy(label_map(20, 30))
    expected_labels = labels.clone()
    processor = processor_class(do_resize=False, do_reduce_labels=True)
    processor(array, labels, return_tensors="pt")
    processor(tensor, labels, return_tensors="pt", input_data_format="channels_last")
    assert np.array_equal(tensor.numpy(), array)
    assert torch.equal(labels, expected_labels)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((10, 10, 2), dtype=np.uint8), "1, 3 or 4 channels, first or last, got shape"),
        (np.zeros((4, 4, 4, 4, 3), dtype=np.uint8), "2 or 3 dimensions"),
        (np.zeros((0, 4, 3), dtype=np.uint8), "at least 1 pixel"),
        (np.full((4, 5), 256), r"must lie in 0\.\.255, got 256\.\.256"),
        (np.full((4, 5), -1), r"must lie in 0\.\.255"),
        ([], "At least one image"),
    ],
)
def test_refused_images(processor_class, image, message):
    with pytest.raises(ValueError, match=message):
        processor_class()(image, return_tensors="pt")


def kinds_of_floats(array: np.ndarray) -> list:
    """What holds floats: arrays and tensors of any layout and width, and a PIL image of one channel."""
    tensor = torch.from_numpy(array)
    first = tensor.permute(2, 0, 1)
    return [
        array,
        array.astype(np.float64),
        array.astype(np.float16),
        tensor,
        first,
        first.half(),
        first.bfloat16(),
    ] + [Image.fromarray(array[..., 0])]


def warnings_of(caplog) -> list[str]:
    """What was warned of since the last call. Makes what is said once be said again."""
    messages = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    caplog.clear()
    shared.logger.warning_once.__func__.cache_clear()
    return messages


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_without_a_value_are_refused(processor_class, value, tmp_path):
    array = np.asarray(picture(8, 9), dtype=np.float32).copy()
    array[3, 4, 0] = value
    Image.fromarray(array[..., 0]).save(tmp_path / "elevation.tiff")
    for image in (*kinds_of_floats(array), tmp_path / "elevation.tiff", [picture(8, 9), array]):
        for kwargs in ({}, {"do_rescale": False, "do_normalize": False}, {"do_convert_rgb": False}):
            with pytest.raises(
                ValueError, match=r"finite numbers, got NaN or infinity in 1 of \d+ values.*nan_to_num"
            ):
                processor_class(do_resize=False)(image, return_tensors="pt", **kwargs)
    # Finite in float64 only.
    with pytest.raises(ValueError, match="NaN or infinity in 72 of 72"):
        processor_class()(np.full((8, 9), 1e300), return_tensors="pt")
    for dtype in (np.complex64, np.complex128):
        with pytest.raises(ValueError, match="must be real numbers, got complex ones"):
            processor_class()(array.astype(dtype), return_tensors="pt")


def test_floats_that_look_rescaled_are_warned_of(processor_class, caplog, tmp_path):
    warnings_of(caplog)
    fractions = np.asarray(picture(8, 9), dtype=np.float32) / 255
    Image.fromarray(fractions[..., 0]).save(tmp_path / "image.tiff")
    processor = processor_class(do_resize=False)
    for image in (*kinds_of_floats(fractions), tmp_path / "image.tiff", str(tmp_path / "image.tiff")):
        processor(image, return_tensors="pt")
        processor(image, return_tensors="pt")
        (message,) = warnings_of(caplog)
        assert "already rescaled images" in message and "0 and 1" in message
        assert message.endswith("set `do_rescale=False`.")
        processor(image, return_tensors="pt", do_rescale=False)
        assert not warnings_of(caplog)
    for normalised in (2 * fractions - 1, (fractions - 0.45) / 0.225):
        processor(normalised, return_tensors="pt")
        (message,) = warnings_of(caplog)
        assert "-3 and 3" in message and "`do_normalize=False` if they are normalised" in message
        processor(normalised, return_tensors="pt", do_rescale=False, do_normalize=False)
        assert not warnings_of(caplog)


def test_images_as_they_should_be_are_not_warned_of(processor_class, caplog):
    warnings_of(caplog)
    image = np.asarray(picture(8, 9))
    processor = processor_class(do_resize=False)
    for fine in (image, image // 255, image.astype(np.float32), image - 4.0, np.zeros((8, 9)), image > 99):
        processor(fine, return_tensors="pt")
    processor(image / 255, return_tensors="pt", rescale_factor=1.0)
    processor(image.astype(np.float32), return_tensors="pt", do_rescale=False, do_normalize=False)
    processor(image, return_tensors="pt", do_rescale=False, image_mean=127.5, image_std=127.5)
    assert not warnings_of(caplog)


def test_bytes_that_are_not_rescaled_are_warned_of(processor_class, caplog):
    """As they are where a user has followed the warning of floats, for images that are not."""
    warnings_of(caplog)
    processor = processor_class(do_resize=False, do_rescale=False)
    for image in (picture(8, 9), np.asarray(picture(8, 9)), np.asarray(picture(8, 9), dtype=np.float32)):
        processor(image, return_tensors="pt")
        (message,) = warnings_of(caplog)
        assert "beyond 1" in message and "Set `do_rescale=True`" in message


@pytest.mark.parametrize(
    "settings",
    [
        {"do_resize": False},
        {"do_resize": False, "do_split_image": True, "crop_size": 64, "window_stride": 30},
        {"size": {"shortest_edge": 48}, "do_split_image": True, "crop_size": 48, "window_stride": 32},
        {"size": {"shortest_edge": 48}, "antialias": False},
    ],
)
def test_fractions_without_rescaling_are_what_bytes_are(processor_class, settings):
    image = picture(90, 131)
    fractions = np.asarray(image, dtype=np.float32) / 255
    processor = processor_class(**settings)
    expected = processor(image, return_tensors="pt")
    for kind in kinds_of_floats(fractions)[:5:2]:
        actual = processor(kind, return_tensors="pt", do_rescale=False)
        assert torch.equal(actual["window_offsets"], expected["window_offsets"])
        # Where bytes are resized, they are rounded.
        tolerance = 1e-3 if settings.get("do_resize") is False else 1.01 / 127.5
        torch.testing.assert_close(actual["pixel_values"], expected["pixel_values"], atol=tolerance, rtol=0)


def test_any_number_of_channels_without_conversion(processor_class):
    array = np.random.default_rng(0).integers(0, 256, (20, 30, 6), dtype=np.uint8)
    for antialias in (True, False):
        processor = processor_class(
            do_convert_rgb=False, image_mean=[0.5] * 6, image_std=[0.5] * 6, size=10, antialias=antialias
        )
        values = processor(array, return_tensors="pt", input_data_format="channels_last")["pixel_values"]
        assert values.shape == (1, 6, 10, 15)
        # There are six means, so that it need not be said which of the axes are the channels.
        for image in (array, torch.from_numpy(array.copy()), array.transpose(2, 0, 1)):
            assert torch.equal(torch.as_tensor(processor(image, return_tensors="pt")["pixel_values"]), values)


def test_modes_of_pil_without_conversion(processor_class):
    processor = processor_class(do_convert_rgb=False)
    for mode in ("L", "LA", "RGBA", "CMYK"):
        image = picture(9, 7, mode)
        expected = torch.from_numpy(np.asarray(image).reshape(9, 7, -1).copy()).permute(2, 0, 1).float()
        assert torch.equal(processor(image, return_tensors="pt", **ONLY_DECODE)["pixel_values"][0], expected)
    # Indices of colours are no picture.
    palette = picture(9, 7).quantize(16)
    values = processor(palette, return_tensors="pt", **ONLY_DECODE)["pixel_values"][0]
    assert torch.equal(values, pixels_of(palette.convert("RGB")))


# Windows


@pytest.mark.parametrize(
    "window_stride", [(20, 40), [20, 40], {"width": 40, "height": 20}, SizeDict(height=20, width=40)], ids=repr
)
def test_strides_of_either_direction(processor_class, window_stride):
    settings = {"do_resize": False, "do_split_image": True, "crop_size": (32, 48), "window_stride": window_stride}
    expected = [[0, top, left, 32, 48, 70, 130] for top in (0, 20, 38) for left in (0, 40, 80, 82)]
    made, called = processor_class(**settings), processor_class()
    assert made(picture(70, 130), return_tensors="pt")["window_offsets"].tolist() == expected
    assert called(picture(70, 130), return_tensors="pt", **settings)["window_offsets"].tolist() == expected


def test_windows_of_several_images_follow_each_other(processor_class):
    images = [picture(50, 40), picture(20, 90), picture(32, 32)]
    processor = processor_class(do_split_image=True, size={"shortest_edge": 32}, crop_size=32, window_stride=16)
    together = processor(images, return_tensors="pt")
    singly = [processor(image, return_tensors="pt") for image in images]
    assert torch.equal(together["pixel_values"], torch.cat([inputs["pixel_values"] for inputs in singly]))
    for index, inputs in enumerate(singly):
        inputs["window_offsets"][:, 0] = index
    assert torch.equal(together["window_offsets"], torch.cat([inputs["window_offsets"] for inputs in singly]))


# Stacking


def test_sizes_that_differ_are_refused_or_padded(processor_class):
    images = [picture(16, 20), picture(24, 12)]
    maps = [label_map(16, 20), label_map(24, 12)]
    processor = processor_class(do_resize=False)
    with pytest.raises(ValueError, match=r"\[\(16, 20\), \(24, 12\)\].*do_split_image.*do_pad.*size"):
        processor(images, return_tensors="pt")

    inputs = processor(images, maps, return_tensors="pt", do_pad=True)
    assert inputs["pixel_values"].shape == (2, 3, 24, 20)
    assert inputs["window_offsets"].tolist() == [[0, 0, 0, 16, 20, 16, 20], [1, 0, 0, 24, 12, 24, 12]]
    for index, (image, segmentation_map) in enumerate(zip(images, maps, strict=True)):
        height, width = segmentation_map.shape
        alone = processor(image, return_tensors="pt")["pixel_values"]
        values, labels = inputs["pixel_values"][index].clone(), inputs["labels"][index].clone()
        assert torch.equal(values[:, :height, :width], alone[0])
        assert np.array_equal(labels[:height, :width], segmentation_map)
        values[:, :height, :width], labels[:height, :width] = 0, 255
        assert (values == 0).all() and (labels == 255).all()

    padded = processor(images, return_tensors="pt", do_pad=True, pad_size={"height": 32, "width": 48})
    assert padded["pixel_values"].shape == (2, 3, 32, 48)
    assert torch.equal(padded["window_offsets"], inputs["window_offsets"])
    with pytest.raises(ValueError, match=r"`pad_size` \(24 x 16\) must be at least .*\(24 x 20\)"):
        processor(images, return_tensors="pt", do_pad=True, pad_size={"height": 24, "width": 16})


def test_return_tensors(processor_class):
    images, maps = [picture(16, 20), picture(16, 20)], [label_map(16, 20), label_map(16, 20)]
    processor = processor_class(do_resize=False)
    tensors = processor(images, maps, return_tensors="pt")
    arrays = processor(images, maps, return_tensors="np")
    lists = processor(images, maps)
    native = np.ndarray if processor.backend == "pil" else torch.Tensor
    assert set(tensors) == set(arrays) == set(lists) == {"pixel_values", "window_offsets", "labels"}
    for name in tensors:
        assert isinstance(tensors[name], torch.Tensor)
        assert isinstance(arrays[name], np.ndarray)
        assert np.array_equal(tensors[name], arrays[name])
        assert all(isinstance(value, native) for value in lists[name])
        assert np.array_equal(tensors[name], np.stack(lists[name]))
    assert [len(value[0]) for value in processor([picture(8, 9), picture(7, 9)])["pixel_values"]] == [8, 7]


# Labels


def test_maps_are_cut_like_their_images(processor_class):
    """An image that shows its labels and is resized to the nearest pixel keeps showing them, window by window."""
    maps = [label_map(45, 77), label_map(30, 21, seed=1)]
    images = [np.repeat(segmentation_map[..., None], 3, axis=-1) for segmentation_map in maps]
    processor = processor_class(
        do_rescale=False, do_normalize=False, resample=Image.Resampling.NEAREST, antialias=False
    )
    for kwargs in (
        {"size": {"shortest_edge": 64}, "do_split_image": True, "crop_size": 64, "window_stride": 40},
        {"size": {"height": 33, "width": 50}},
        {"do_resize": False, "do_split_image": True, "crop_size": 16, "window_stride": 9},
    ):
        inputs = processor(images, maps, return_tensors="pt", **kwargs)
        assert inputs["labels"].dtype == torch.int64
        assert torch.equal(inputs["labels"].float(), inputs["pixel_values"][:, 0])


@pytest.mark.parametrize("size", [(9, 14), (30, 41), (60, 82), (64, 64), (17, 100), (1, 2)])
def test_maps_are_resized_to_the_nearest_label(processor_class, size):
    segmentation_map = label_map(30, 41)
    resized = Image.fromarray(segmentation_map).resize(size[::-1], Image.Resampling.NEAREST)
    processor = processor_class(size={"height": size[0], "width": size[1]})
    labels = processor(picture(30, 41), segmentation_map, return_tensors="pt")["labels"]
    assert np.array_equal(labels[0], np.asarray(resized))


def test_enlarged_images_have_enlarged_maps(processor_class):
    segmentation_map = label_map(4, 6)
    processor = processor_class(do_resize=False, do_split_image=True, crop_size=16, window_stride=16)
    inputs = processor(picture(4, 6), segmentation_map, return_tensors="pt")
    assert inputs["window_offsets"].tolist() == [[0, 0, 0, 16, 16, 16, 24], [0, 0, 8, 16, 16, 16, 24]]
    enlarged = segmentation_map.repeat(4, axis=0).repeat(4, axis=1)
    assert np.array_equal(inputs["labels"], np.stack([enlarged[:, :16], enlarged[:, 8:]]))


def test_windows_that_a_dataset_would_lose_are_warned_of(processor_class, caplog):
    images, maps = [picture(16, 40)] * 2, [label_map(16, 40)] * 2
    dataset = Dataset.from_dict({"image": images, "annotation": [Image.fromarray(each) for each in maps]})
    processor = processor_class(do_resize=False, do_split_image=True, crop_size=16, window_stride=12)
    warnings_of(caplog)
    dataset.set_transform(lambda batch: processor(batch["image"], batch["annotation"]))
    for index in range(2):
        assert np.shape(dataset[index]["labels"]) == (16, 16), "a window, of an image of 16 x 40 pixels"
    (message,) = warnings_of(caplog)
    assert "more windows than images" in message and "`do_split_image=False`" in message

    dataset.set_transform(lambda batch: processor(batch["image"], batch["annotation"], do_split_image=False))
    assert np.array_equal(dataset[1]["labels"], maps[1])
    processor(images, maps, return_tensors="pt")
    processor(images)
    processor([picture(16, 16)] * 2, [label_map(16, 16)] * 2)
    assert not warnings_of(caplog)


def test_labels_are_reduced_once(processor_class):
    segmentation_map = np.array([[0, 1, 2], [150, 254, 255]], dtype=np.uint8)
    for kwargs in (
        {"do_resize": False},
        {"do_resize": False, "do_split_image": True, "crop_size": 2, "window_stride": 1},
    ):
        labels = processor_class(do_reduce_labels=True, **kwargs)(picture(2, 3), segmentation_map, return_tensors="pt")
        expected = torch.tensor([[255, 0, 1], [149, 253, 255]])
        if "do_split_image" in kwargs:
            expected = torch.stack([expected[:, :2], expected[:, 1:]])
        assert torch.equal(labels["labels"].squeeze(0), expected)
    wide = Image.fromarray(np.array([[0, 255, 3000]], dtype=np.int32))
    labels = processor_class(do_reduce_labels=True, do_resize=False)(picture(1, 3), wide, return_tensors="pt")[
        "labels"
    ]
    assert labels.tolist() == [[[255, 255, 2999]]]
    unreduced = processor_class(do_resize=False)(picture(2, 3), segmentation_map, return_tensors="pt")["labels"]
    assert np.array_equal(unreduced[0], segmentation_map)


def test_kinds_of_maps(processor_class):
    labels = label_map(14, 19)
    palette = Image.fromarray(labels, mode="P")
    palette.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tobytes())
    processor = processor_class(do_resize=False)
    for segmentation_maps in (
        Image.fromarray(labels),
        palette,
        Image.fromarray(labels.astype(np.uint16)),
        Image.fromarray(labels.astype(np.int32)),
        labels,
        labels[None],
        labels[..., None],
        [labels],
        labels.astype(np.float32),
        torch.from_numpy(labels),
        torch.from_numpy(labels).long()[None],
    ):
        inputs = processor(picture(14, 19), segmentation_maps, return_tensors="pt")
        assert inputs["labels"].dtype == torch.int64
        assert np.array_equal(inputs["labels"], labels[None])
    binary = label_map(14, 19, 2)
    inputs = processor(picture(14, 19), Image.fromarray(binary.astype(bool)), return_tensors="pt")
    assert np.array_equal(inputs["labels"], binary[None])
    wide = (labels.astype(np.int32) + 1) * 1000
    inputs = processor(picture(14, 19), Image.fromarray(wide), return_tensors="pt")
    assert np.array_equal(inputs["labels"], wide[None])

    batch = np.stack([label_map(14, 19, seed=seed) for seed in range(3)])
    for segmentation_maps in (batch, torch.from_numpy(batch), list(batch), batch[:, None], batch[..., None]):
        inputs = processor([picture(14, 19)] * 3, segmentation_maps, return_tensors="pt")
        assert np.array_equal(inputs["labels"], batch)


@pytest.mark.parametrize(
    ("odd", "dtype"),
    [
        *((-1, "int8"), (-1, "int64"), (-100, "float32"), (2**64 - 1, "uint64"), (2**63, "uint64"), (2**31, "int64")),
        *((1.5, "float16"), (math.nan, "float32"), (math.inf, "float64"), (-math.inf, "float32"), (1e300, "float64")),
    ],
)
def test_values_that_are_no_labels_are_refused(processor_class, odd, dtype):
    processor, image = processor_class(do_reduce_labels=True), picture(14, 19)
    labels = np.ones((14, 19), dtype=dtype)
    labels[3, 7] = odd
    shown = labels[3, 7].item()
    message = f"Segmentation map 1 must hold labels, .* from 0 to 2147483647, got {re.escape(str(shown))}. Store 255"
    for kind in (np.asarray, torch.from_numpy):
        with pytest.raises(ValueError, match=message):
            processor([image] * 2, [label_map(14, 19), kind(labels)], return_tensors="pt")


@pytest.mark.parametrize("dtype", ["complex64", "object", "U1"])
def test_types_that_are_no_numbers_are_refused(processor_class, dtype):
    labels = np.zeros((14, 19), dtype=dtype)
    with pytest.raises(ValueError, match="must hold labels, .*got values of the type"):
        processor_class()(picture(14, 19), labels, return_tensors="pt")


@pytest.mark.parametrize("dtype", ["bool", "uint8", ">u2", "uint32", "int64", "uint64", "float16", "float64"])
def test_whole_numbers_of_any_type_are_labels(processor_class, dtype):
    labels = np.array([[0, 1], [1, 0]], dtype=dtype)
    inputs = processor_class(do_resize=False)(picture(2, 2), labels, return_tensors="pt")
    assert inputs["labels"].dtype == torch.int64
    assert inputs["labels"][0].tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize(
    ("segmentation_maps", "message"),
    [
        (picture(14, 19), r"shape \(14, 19\), got \(14, 19, 3\).*nearest label.*colours"),
        (np.zeros((14, 19, 3)), r"got \(14, 19, 3\)"),
        (label_map(19, 14), r"shape \(14, 19\), got \(19, 14\)"),
        ([label_map(14, 19)] * 2, "Expected 1 segmentation maps, one for each image, got 2"),
        (np.full((14, 19), 0.5), "whole numbers"),
    ],
)
def test_refused_maps(processor_class, segmentation_maps, message):
    with pytest.raises(ValueError, match=message):
        processor_class()(picture(14, 19), segmentation_maps, return_tensors="pt")


# Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"do_split_image": True, "crop_size": 64, "window_stride": 65},
            r"`window_stride` \(65\) leaves gaps.*at most 64",
        ),
        ({"do_split_image": True, "crop_size": (64, 32), "window_stride": 40}, "at most 32"),
        ({"window_stride": 0}, "`window_stride` must be at least 1 pixel, got 0"),
        ({"window_stride": {"height": 32, "width": 0}}, "`window_stride` must be at least 1 pixel, got .*'width': 0"),
        ({"window_stride": {"height": 32}}, r"`window_stride` must be .* \['height', 'width'\], got {'height': 32}"),
        (
            {"window_stride": {"shortest_edge": 32}},
            r"`window_stride` must be a number of pixels, \(height, width\), or",
        ),
        ({"window_stride": (32, 32, 32)}, r"`window_stride` must be a number of pixels, \(height, width\), or"),
        ({"window_stride": (32, 0)}, "`window_stride` must be at least 1 pixel, got .*'width': 0"),
        (
            {"do_split_image": True, "crop_size": (64, 32), "window_stride": {"height": 32, "width": 33}},
            "leaves gaps between windows of 64 x 32 pixels",
        ),
        (
            {"do_split_image": True, "crop_size": (64, 32), "window_stride": {"height": 65, "width": 32}},
            "leaves gaps between windows of 64 x 32 pixels",
        ),
        ({"patch_size": 0}, "`patch_size` must be at least 1 pixel, got 0"),
        ({"patch_size": -8}, "`patch_size`"),
        ({"size": {"shortest_edge": 0}}, "`size`.*at least 1 pixel"),
        ({"size": {"height": 10, "width": -1}}, "`size`"),
        ({"size": {"longest_edge": 10}}, "`size` must have the keys"),
        ({"size": {"max_height": 10, "max_width": 10}}, "`size` must have the keys"),
        ({"crop_size": {"shortest_edge": 10}}, "`crop_size` must have the keys"),
        ({"crop_size": 0}, "`crop_size`"),
        ({"pad_size": {"height": 0, "width": 10}}, "`pad_size`"),
        ({"do_center_crop": True}, "`do_center_crop` is not supported"),
        ({"image_std": 0.0}, r"`image_std` must be finite numbers above 0, got \[0\.0\]"),
        ({"image_std": [0.5, 0.0, 0.5]}, r"`image_std` must be finite numbers above 0, got \[0\.5, 0\.0, 0\.5\]"),
        ({"image_std": [0.5, 0.5, -0.5]}, "`image_std` must be finite numbers above 0"),
        ({"image_std": [0.5, math.nan, 0.5]}, "`image_std` must be finite numbers above 0"),
        ({"image_std": math.inf}, "`image_std` must be finite numbers above 0"),
        ({"image_mean": [0.5, math.nan, 0.5]}, "`image_mean` must be finite numbers, got"),
        ({"rescale_factor": 0.0}, r"`rescale_factor` must be finite numbers above 0, got \[0\.0\]"),
        ({"image_mean": [0.5] * 4, "image_std": [0.5] * 4}, "one for each of 3 channels .*got 4 and 4"),
        ({"image_mean": [0.5] * 3, "image_std": [0.5] * 2}, "one for each of 3 channels .*got 3 and 2"),
        (
            {"image_mean": [0.5] * 4, "image_std": [0.5] * 3, "do_convert_rgb": False},
            "one for each channel, got 4 and 3",
        ),
    ],
)
def test_refused_settings(processor_class, settings, message):
    with pytest.raises(ValueError, match=message):
        processor_class(**settings)
    with pytest.raises(ValueError, match=message):
        processor_class()(picture(8, 8), return_tensors="pt", **settings)


def test_stored_settings_are_refused_too(processor_class, tmp_path):
    processor_class().save_pretrained(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"image_std": [0.2, 0.0, 0.2]}))
    with pytest.raises(ValueError, match="`image_std` must be finite numbers above 0"):
        processor_class.from_pretrained(tmp_path)


def test_filters_that_need_antialias_say_so(processor_class):
    with pytest.raises(ValueError, match=r"antialias=False.*got LANCZOS"):
        processor_class(antialias=False, resample=Image.Resampling.LANCZOS)(picture(8, 8), return_tensors="pt")


# Post-processing


def random_outputs(processor, images, num_labels: int, dtype: torch.dtype = torch.float32) -> ModelOutput:
    """Random logits for the windows of `images`, on the patch grid of a model."""
    inputs = processor(images, return_tensors="pt")
    grid = [math.ceil(side / processor.patch_size) for side in inputs["pixel_values"].shape[-2:]]
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(len(inputs["pixel_values"]), num_labels, *grid, generator=generator).to(dtype)
    return ModelOutput(logits=logits, window_offsets=inputs["window_offsets"])


@pytest.mark.parametrize("settings", [{}, {"crop_logits": False}, {"do_split_image": False, "do_pad": True}])
@pytest.mark.parametrize("target_type", [None, list, tuple, np.array, torch.tensor])
def test_maps_and_scores_are_those_of_merged_windows(processor_class, settings, target_type):
    sizes, target_sizes = [(40, 50), (60, 35)], [(20, 30), (60, 35)]
    splitting = {"patch_size": 8, "do_split_image": True, "do_resize": False, "crop_size": 33, "window_stride": 20}
    processor = processor_class(**splitting | settings)
    outputs = random_outputs(processor, [picture(*size) for size in sizes], num_labels=5)
    sizes = sizes if target_type is None else target_sizes
    target_sizes = None if target_type is None else target_type(target_sizes)
    maps = processor.post_process_semantic_segmentation(outputs, target_sizes)
    results = processor.post_process_semantic_segmentation(outputs, target_sizes, return_segmentation_scores=True)
    images = group_windows(outputs["window_offsets"], outputs["logits"], 8, is_padded=True)
    for windows, size, segmentation, result in zip(images, sizes, maps, results, strict=True):
        crop_logits = settings.get("crop_logits", True)
        expected, scores = merge_windows(outputs["logits"], windows, 8, size, crop_logits, return_scores=True)
        assert torch.equal(segmentation, expected) and torch.equal(result["segmentation"], expected)
        assert torch.equal(result.segmentation_scores, scores)


@pytest.mark.parametrize(
    "target_sizes", [[(32, 64)] * 2, [], torch.tensor([[32, 64], [1, 1]]), (32, 64), [(32, 64, 3)], [(0, 64)]]
)
def test_refused_target_sizes(processor_class, target_sizes):
    processor = processor_class(patch_size=8, do_split_image=True, do_resize=False, crop_size=32, window_stride=32)
    outputs = random_outputs(processor, [picture(32, 64)], num_labels=5)
    with pytest.raises(ValueError, match=r"for each of 1 image\(s\), got"):
        processor.post_process_semantic_segmentation(outputs, target_sizes)


def test_windows_of_another_model_or_torn_apart_are_refused(processor_class):
    processor = processor_class(patch_size=8, do_split_image=True, do_resize=False, crop_size=32, window_stride=32)
    outputs = random_outputs(processor, [picture(32, 64)], num_labels=5)
    with pytest.raises(ValueError, match="do not cover the 32 x 64 pixels"):
        processor.post_process_semantic_segmentation({name: value[:1] for name, value in outputs.items()})
    with pytest.raises(ValueError, match="`patch_size` of the model"):
        processor_class(patch_size=16, do_split_image=True).post_process_semantic_segmentation(outputs)


def test_outputs_without_offsets_are_whole_images(processor_class):
    logits = torch.randn(2, 6, 5, 7, generator=torch.Generator().manual_seed(0))
    processor = processor_class()
    for outputs in (SimpleNamespace(logits=logits), ModelOutput(logits=logits), {"logits": logits}):
        maps = processor.post_process_semantic_segmentation(outputs)
        assert torch.equal(torch.stack(maps), logits.argmax(dim=1))
        scores = processor.post_process_semantic_segmentation(outputs, return_segmentation_scores=True)
        assert torch.equal(torch.stack([result.segmentation_scores for result in scores]), logits)

        maps = processor.post_process_semantic_segmentation(outputs, target_sizes=[[40, 30], [3, 4]])
        for segmentation, rows, size in zip(maps, logits.split(1), [(40, 30), (3, 4)], strict=True):
            expected = interpolate(rows, size=size, mode="bilinear", align_corners=False)[0].argmax(dim=0)
            assert torch.equal(segmentation, expected)


class Outputs:
    """As of a runtime that knows neither torch nor transformers."""

    def __init__(self, **values):
        vars(self).update(values)


def test_arrays_are_taken_like_tensors(processor_class):
    processor = processor_class(patch_size=8, do_split_image=True, do_resize=False, crop_size=32, window_stride=20)
    outputs = random_outputs(processor, [picture(40, 50), picture(60, 32)], num_labels=5)
    expected = processor.post_process_semantic_segmentation(outputs, [(20, 30), (60, 32)])
    logits, offsets = (outputs[name].numpy() for name in ("logits", "window_offsets"))
    logits.setflags(write=False)
    for window_offsets in (offsets, outputs["window_offsets"], offsets.astype(np.int32), offsets.tolist()):
        for make in (dict, ModelOutput, BatchFeature, SimpleNamespace, Outputs):
            values = {"logits": logits, "window_offsets": window_offsets}
            arrays = make(values) if make in (dict, BatchFeature) else make(**values)
            for target_sizes in ([(20, 30), (60, 32)], np.array([[20, 30], [60, 32]])):
                maps = processor.post_process_semantic_segmentation(arrays, target_sizes)
                assert all(isinstance(each, torch.Tensor) for each in maps)
                assert all(map(torch.equal, maps, expected))
    whole = processor_class().post_process_semantic_segmentation({"logits": logits})
    assert np.array_equal(torch.stack(whole), logits.argmax(axis=1))


def test_windows_without_offsets_are_refused(processor_class):
    processor = processor_class(patch_size=8, do_split_image=True, do_resize=False, crop_size=32, window_stride=20)
    for image, target_sizes in ((picture(40, 50), [(40, 50)]), (picture(20, 25), [(20, 25)]), (picture(32, 32), None)):
        logits = random_outputs(processor, [image], num_labels=5)["logits"]
        for outputs in ({"logits": logits}, ModelOutput(logits=logits.numpy()), SimpleNamespace(logits=logits)):
            with pytest.raises(ValueError, match=r'no `window_offsets`.*"window_offsets": inputs\["window_offsets"\]'):
                processor.post_process_semantic_segmentation(outputs, target_sizes)
    # Here the call is to cut, but not the image processor.
    with pytest.raises(ValueError, match=r"for each of 6 image\(s\).*There are no `window_offsets`"):
        processor_class().post_process_semantic_segmentation({"logits": torch.zeros(6, 5, 4, 4)}, [(40, 50)])
    for outputs in ((torch.zeros(1, 5, 4, 4),), {"loss": 0.0}, SimpleNamespace(), {"logits": torch.zeros(5, 4, 4)}):
        with pytest.raises(ValueError, match=r"`logits` of shape \(num_windows, num_labels"):
            processor_class().post_process_semantic_segmentation(outputs)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_scores_without_a_value_are_warned_of(processor_class, value, dtype, caplog):
    processor = processor_class(patch_size=8, do_split_image=True, do_resize=False, crop_size=32, window_stride=20)
    outputs = random_outputs(processor, [picture(40, 50), picture(60, 32)], num_labels=5, dtype=dtype)
    warnings_of(caplog)
    processor.post_process_semantic_segmentation(outputs)
    assert not warnings_of(caplog)
    outputs["logits"][1, 3, 2, 2] = value
    for _ in range(2):
        processor.post_process_semantic_segmentation(outputs, return_segmentation_scores=True)
        (message,) = warnings_of(caplog)
        assert f"1 of {len(outputs['logits'])}" in message and "NaN or infinite" in message
        assert "diverged" in message and "float16" in message


# Saving and loading

SETTINGS = [
    {},
    {"size": {"height": 100, "width": 120}, "antialias": False, "image_mean": (0.485, 0.456, 0.406)},
    {"size": [100, 120], "image_std": [0.1, 0.2, 0.3], "resample": Image.Resampling.BICUBIC, "patch_size": 8},
    {"size": 96, "crop_size": (64, 80), "window_stride": 48, "do_split_image": True, "do_reduce_labels": True},
    {"crop_size": (64, 80), "window_stride": {"height": 48, "width": 70}, "do_split_image": True},
    {"size": {"shortest_edge": 64}, "do_pad": True, "pad_size": (90, 90), "rescale_factor": 1 / 127.5},
    {"do_resize": None, "do_normalize": False, "do_rescale": False, "do_convert_rgb": False},
]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("load_class", BACKENDS.values())
def test_settings_survive_saving(processor_class, load_class, settings, tmp_path):
    saved = processor_class(**settings)
    saved.save_pretrained(tmp_path / "first")
    loaded = load_class.from_pretrained(tmp_path / "first")
    loaded.save_pretrained(tmp_path / "second")
    assert saved.to_dict() == loaded.to_dict() == processor_class.from_pretrained(tmp_path / "second").to_dict()
    for name in shared.SegmenterImageProcessorKwargs.__annotations__:
        assert getattr(saved, name, None) == getattr(loaded, name, None), name
    first, second = ((tmp_path / name / "preprocessor_config.json").read_text() for name in ("first", "second"))
    assert first == second
    for name, value in settings.items():
        if name not in ("size", "crop_size", "pad_size"):
            stored = json.loads(first)[name]
            assert stored == (list(value) if isinstance(value, tuple) else value)


WITHOUT_TORCHVISION = """
import sys
sys.modules["torchvision"] = None  # makes `import torchvision` fail
import numpy as np
from transformers import AutoImageProcessor
if getattr(AutoImageProcessor, "is_dummy", False):
    sys.exit(print("AutoImageProcessor is missing"))
import segmenter_hf
from segmenter_hf.image_processing_segmenter import SegmenterImageProcessor

for antialias in (True, False):
    processor = segmenter_hf.SegmenterImageProcessorPil(antialias=antialias, do_split_image=True)
    inputs = processor(np.zeros((60, 80, 3), np.uint8), np.zeros((60, 80), np.uint8), return_tensors="pt")
    assert inputs["pixel_values"].shape == (2, 3, 512, 512), inputs["pixel_values"].shape
processor.save_pretrained("saved")
assert type(AutoImageProcessor.from_pretrained("saved")) is segmenter_hf.SegmenterImageProcessorPil
try:
    SegmenterImageProcessor()
except ImportError as error:
    assert "orchvision" in str(error), error
else:
    raise AssertionError("made a torchvision processor without torchvision")
"""

BY_TRUST_REMOTE_CODE = """
import json
import sys
from pathlib import Path
if sys.argv[1] == "without torchvision":
    sys.modules["torchvision"] = None
import numpy as np
from transformers import AutoImageProcessor

folder, image = sys.argv[2], np.arange(60 * 80 * 3, dtype=np.uint8).reshape(60, 80, 3)
sums = set()
for backend in ["pil"] if sys.argv[1] == "without torchvision" else [None, "torchvision", "pil", "torchvision"]:
    processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True, backend=backend)
    assert processor.backend == (backend or "torchvision")
    assert type(processor).__module__.startswith("transformers_modules"), type(processor)
    sums.add(float(processor(image, return_tensors="pt")["pixel_values"].sum()))
    # What is loaded, saved and loaded again keeps both backends.
    folder = f"{sys.argv[3]}_{backend}"
    processor.save_pretrained(folder)
    stored = [json.loads((Path(name) / "preprocessor_config.json").read_text()) for name in (sys.argv[2], folder)]
    assert stored[0] == stored[1], stored
assert len(sums) == 1, sums
assert "segmenter_hf" not in sys.modules
"""


@pytest.mark.slow
def test_works_and_saves_everything_without_torchvision(tmp_path):
    if "AutoImageProcessor is missing" in run_python(WITHOUT_TORCHVISION, cwd=tmp_path).stdout:
        pytest.skip("the AutoImageProcessor of early transformers 5 needs torchvision itself")
    for name in ("image_processing_segmenter.py", "image_processing_pil_segmenter.py"):
        assert (tmp_path / "saved" / name).read_text() == (REPOSITORY / "segmenter_hf" / name).read_text()
    run_python(BY_TRUST_REMOTE_CODE, "with torchvision", "saved", "again", cwd=tmp_path, with_package=False)
    run_python(BY_TRUST_REMOTE_CODE, "without torchvision", "again_pil", "final", cwd=tmp_path, with_package=False)
