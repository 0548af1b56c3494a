"""Overlays, checked by the colour of their pixels."""

import numpy as np
import pytest
import torch
from PIL import Image

from segmenter_hf import SegmenterImageProcessorPil
from segmenter_hf.data.labels import load_label_set
from segmenter_hf.visualization import distinct_colours, draw_comparison, draw_overlay, make_photo, palette_for

from .data.datasets_on_disk import make_image


def test_palette_is_the_label_sets_own_where_the_names_are():
    cityscapes = load_label_set("cityscapes")
    assert palette_for(cityscapes.id2label) == list(cityscapes.palette)
    assert palette_for({0: "road", 1: "sidewalk"}) == distinct_colours(2)
    # JSON has them in this order, where "10" is before "2".
    assert palette_for({str(label): name for label, name in cityscapes.id2label.items()}) == list(cityscapes.palette)


@pytest.mark.parametrize("number", [1, 2, 11, 150])
def test_colours_are_distinct(number):
    colours = np.array(distinct_colours(number), dtype=int)
    assert colours.shape == (number, 3)
    distances = np.abs(colours[:, None] - colours[None]).sum(-1) + 1000 * np.eye(number, dtype=int)
    assert distances.min() > 0
    assert np.diagonal(distances, 1).min(initial=1000) > 60, "neighbours differ clearly"


def test_overlay_blends_the_colour_of_each_label():
    id2label = {0: "left", 1: "right"}
    segmentation = np.zeros((40, 60), dtype=np.int64)
    segmentation[:, 30:] = 1
    overlay = np.asarray(draw_overlay(Image.new("L", (60, 40), 100), segmentation, id2label, opacity=0.5))
    for column, colour in ((0, distinct_colours(2)[0]), (59, distinct_colours(2)[1])):
        assert overlay[20, column] == pytest.approx((np.array(colour) + 100) / 2, abs=1)
    legend = overlay[:, 60:]
    for colour in distinct_colours(2):
        assert (legend == colour).all(-1).any()


@pytest.mark.parametrize("palette", [[[1, 2, 3], [250, 100, 50]], np.array([[1, 2, 3], [250, 100, 50]])])
def test_overlay_takes_the_colours_of_a_palette(palette):
    segmentation = np.zeros((40, 60), dtype=np.int64)
    segmentation[:, 30:] = 1
    arguments = (Image.new("RGB", (60, 40)), segmentation, {0: "left", 1: "right"}, 1.0)
    overlay = np.asarray(draw_overlay(*arguments, palette=palette))
    assert overlay[20, 0].tolist() == [1, 2, 3]
    assert overlay[20, 59].tolist() == [250, 100, 50]
    for colour in palette:
        assert (overlay[:, 60:] == colour).all(-1).any(), "the legend has it"


def test_overlay_without_palette_has_that_of_the_labels():
    image, segmentation, id2label = Image.new("RGB", (40, 40)), np.full((40, 40), 1), {0: "a", 1: "b"}
    expected = draw_overlay(image, segmentation, id2label, palette=distinct_colours(2))
    assert draw_overlay(image, segmentation, id2label) == expected
    assert draw_overlay(image, segmentation, id2label, palette=None) == expected


def test_only_labels_that_occur_are_in_the_legend():
    id2label = {0: "a", 1: "b", 2: "c"}
    overlay = np.asarray(draw_overlay(Image.new("RGB", (50, 50)), np.full((50, 50), 2), id2label))
    legend = overlay[:, 50:]
    colours = distinct_colours(3)
    assert (legend == colours[2]).all(-1).any()
    assert not (legend == colours[0]).all(-1).any()


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "CMYK"])
def test_photos_for_rgb_models_are_those_of_pillow(mode):
    photo = make_image().convert(mode)
    assert np.array_equal(make_photo(photo, SegmenterImageProcessorPil()), photo.convert("RGB"))


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_photos_of_any_type_and_bands(bands, dtype):
    """The first three bands as red, green and blue, or the first as grey, as bright as the model sees them."""
    values = np.random.default_rng(0).integers(0, 256, (20, 30, bands), dtype=np.uint8)
    means = {"image_mean": [0.5] * bands, "image_std": [0.5] * bands}
    image_processor = SegmenterImageProcessorPil(do_convert_rgb=False, max_value=1023, **means)
    pixels = np.round(values * (1023 / 255)).astype(dtype) if dtype is np.uint16 else values.astype(dtype)
    photo = make_photo(pixels, image_processor)
    assert photo.mode == "RGB"
    assert np.array_equal(np.asarray(photo), values[..., :3] if bands >= 3 else values[..., :1].repeat(3, axis=-1))
    if dtype is np.float32:
        image_processor.do_rescale = False
        assert np.array_equal(make_photo(pixels / 255, image_processor), photo)


def test_overlay_leaves_pixels_without_a_label_as_they_are():
    photo = make_image()
    segmentation = np.full((photo.height, photo.width), 255, dtype=np.uint8)
    segmentation[:, :5] = 1
    overlay = np.asarray(draw_overlay(photo, segmentation, {0: "a", 1: "b"}, opacity=1.0))
    assert np.array_equal(overlay[:, 5 : photo.width], np.asarray(photo)[:, 5:])
    assert (overlay[:, :5] == distinct_colours(2)[1]).all()
    assert draw_overlay(photo, segmentation * 0 + 255, {0: "a"}).size >= photo.size, "also where there are none"
    other = np.asarray(draw_overlay(photo, np.where(segmentation == 255, 7, 1), {0: "a", 1: "b"}, 1.0, ignore_index=7))
    assert np.array_equal(other, overlay)
    # Where there are many labels, 255 is one of them.
    id2label = dict.fromkeys(range(300), "name")
    named = np.asarray(draw_overlay(photo, np.full_like(segmentation, 255), id2label, opacity=1.0))
    assert (named[:, : photo.width] == distinct_colours(300)[255]).all()


def test_overlay_takes_what_the_image_processor_takes_and_gives(tmp_path):
    photo = make_image()
    pixels = np.asarray(photo)
    segmentation = np.arange(photo.height * photo.width, dtype=np.uint8).reshape(pixels.shape[:2]) % 3
    id2label = {0: "a", 1: "b", 2: "c"}
    expected = draw_overlay(photo, segmentation, id2label)
    photo.save(tmp_path / "photo.png")
    Image.fromarray(segmentation).save(tmp_path / "map.png")
    for image in (
        pixels,
        torch.from_numpy(pixels.copy()).permute(2, 0, 1),
        pixels.astype(np.uint16) * 257,
        pixels.astype(np.float32),
        tmp_path / "photo.png",
        str(tmp_path / "photo.png"),
    ):
        assert draw_overlay(image, segmentation, id2label) == expected
    for label_map in (torch.from_numpy(segmentation).long(), Image.fromarray(segmentation), tmp_path / "map.png"):
        assert draw_overlay(photo, label_map, id2label) == expected
    # JSON has them like this.
    assert draw_overlay(photo, segmentation, {"0": "a", "1": "b", "2": "c"}) == expected
    arguments = (segmentation, 2 - segmentation)
    picture = draw_comparison(photo, *arguments, id2label)
    assert draw_comparison(pixels, *map(torch.from_numpy, arguments), {"0": "a", "1": "b", "2": "c"}) == picture


@pytest.mark.parametrize("label, got", [(2, "2"), (254, "254"), (-1, "-1"), (0.5, "0.5")])
def test_labels_without_a_name_are_refused(label, got):
    photo, labels = Image.new("RGB", (30, 20)), np.full((20, 30), label)
    with pytest.raises(ValueError, match=f"`segmentation` must hold .* got {got}"):
        draw_overlay(photo, labels, {0: "a", 1: "b"})
    with pytest.raises(ValueError, match=f"`prediction` must hold .* got {got}"):
        draw_comparison(photo, np.zeros((20, 30), dtype=int), labels, {0: "a", 1: "b"})


def test_map_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"\(20, 30\), got \(30, 20\)"):
        draw_overlay(Image.new("RGB", (30, 20)), np.zeros((30, 20), dtype=int), {0: "a", 1: "b"})


def test_comparison_shows_image_label_map_and_prediction_side_by_side():
    height, width = 40, 60
    palette = [[250, 0, 0], [0, 250, 0], [0, 0, 250], [250, 250, 0]]
    id2label = {0: "a", 1: "b", 2: "c", 3: "d"}
    reference = np.full((height, width), 1)
    reference[:, 30:] = 255
    prediction = np.full((height, width), 2)
    image = Image.new("RGB", (width, height), (10, 20, 30))
    picture = np.asarray(draw_comparison(image, reference, prediction, id2label, "title", 1.0, palette))

    # The panels are apart by 6 pixels, and below the title.
    photo, label_map, predicted = (picture[-height:, left : left + width] for left in (0, width + 6, 2 * (width + 6)))
    assert (photo == [10, 20, 30]).all()
    assert (label_map[:, :30] == palette[1]).all()
    assert (predicted == palette[2]).all(), "also where there is no label"
    # Stripes of two colours look like no label, whichever colours a palette has.
    assert {tuple(colour) for colour in label_map[:, 30:].reshape(-1, 3).tolist()} == {(0, 0, 0), (255, 255, 255)}
    assert (picture[:-height] != 255).any(), "there is a title"
    legend = picture[:, 3 * width + 12 :]
    assert [(legend == colour).all(-1).any() for colour in palette] == [False, True, True, False]


def test_comparison_of_an_image_without_labels():
    image, ignored = Image.new("L", (30, 20)), np.full((20, 30), 255)
    picture = draw_comparison(image, ignored, np.zeros((20, 30), dtype=np.uint8), {0: "a", 1: "b"})
    assert picture.width > 3 * image.width
    other = draw_comparison(image, ignored * 0 + 7, ignored * 0, {0: "a", 1: "b"}, ignore_index=7)
    assert other == picture
