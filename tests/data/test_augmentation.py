"""Training augmentation: image and label map stay together."""

import numpy as np
import pytest
import torch
from PIL import Image

from segmenter_hf import SegmenterImageProcessor
from segmenter_hf.data.augmentation import SegmentationAugmentation


def make_augmentation(scale_range=(0.5, 2.0), crop_size=(32, 48), **settings):
    image_processor = SegmenterImageProcessor(
        do_split_image=True,
        size={"shortest_edge": 40, "longest_edge": 160},
        crop_size={"height": crop_size[0], "width": crop_size[1]},
        window_stride=16,
        **settings,
    )
    return SegmentationAugmentation(image_processor, scale_range)


@pytest.fixture
def pair():
    """A picture whose left half is black and labelled 1, and whose right half is white and labelled 2."""
    labels = np.ones((60, 80), dtype=np.uint8)
    labels[:, 40:] = 2
    return Image.fromarray(((labels - 1) * 255)[..., None].repeat(3, -1)), Image.fromarray(labels)


def test_shapes_and_types(pair):
    example = make_augmentation()(*pair)
    assert example["pixel_values"].shape == (3, 32, 48)
    assert example["pixel_values"].dtype == torch.float32
    assert example["labels"].shape == (32, 48)
    assert example["labels"].dtype == torch.int64
    assert type(example["pixel_values"]) is type(example["labels"]) is torch.Tensor


def test_image_and_labels_are_moved_alike(pair):
    augmentation = make_augmentation()
    augmentation.distort = torch.nn.Identity()
    torch.manual_seed(0)
    layouts = set()
    for _ in range(30):
        example = augmentation(*pair)
        brightness, labels = example["pixel_values"].mean(0), example["labels"]
        inside = labels != 255
        layouts.add((labels[0, 0].item(), labels[0, -1].item(), inside.all().item()))
        # All but the pixels that resizing mixes at the border of the halves.
        agree = (brightness > 0) == (labels == 2)
        assert agree[inside].float().mean() > 0.95
        assert (brightness[~inside] == 0).all()
    # Flips, crops of one half and padding all occurred.
    assert {(1, 2, True), (2, 1, True)} <= layouts
    assert any(not complete for _, _, complete in layouts)


def test_scale_range_is_respected(pair):
    image, labels = pair
    large = make_augmentation(scale_range=(2.0, 2.0), crop_size=(80, 107))(image, labels)
    assert (large["labels"] != 255).all()
    small = make_augmentation(scale_range=(0.5, 0.5), crop_size=(80, 107))(image, labels)
    assert (small["labels"] != 255).sum() == 20 * 27


def test_photometric_distortion_changes_the_image_only(pair):
    torch.manual_seed(0)
    augmentation = make_augmentation(scale_range=(1.0, 1.0), crop_size=(40, 53))
    augmentation.flip = lambda *inputs: inputs
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 53, 3), dtype=np.uint8))
    labels = Image.fromarray(np.full((40, 53), 3, dtype=np.uint8))
    first, second = augmentation(image, labels), augmentation(image, labels)
    assert not torch.equal(first["pixel_values"], second["pixel_values"])
    assert torch.equal(first["labels"], second["labels"])


def test_photometric_distortion_keeps_the_order_of_channels():
    """A red picture may get darker or paler, but its red stays the largest channel: hues move by a tenth at most."""
    torch.manual_seed(0)
    augmentation = make_augmentation(scale_range=(1.0, 1.0), crop_size=(40, 40))
    image, labels = Image.new("RGB", (40, 40), (200, 40, 40)), Image.new("L", (40, 40), 1)
    for _ in range(40):
        red, green, blue = augmentation(image, labels)["pixel_values"].mean((1, 2))
        assert red > green
        assert red > blue


def test_labels_are_reduced_as_the_processor_says(pair):
    example = make_augmentation(scale_range=(1.0, 1.0), crop_size=(40, 53), do_reduce_labels=True)(*pair)
    assert set(example["labels"].unique().tolist()) == {0, 1}


@pytest.mark.parametrize("annotation", [Image.new("RGB", (80, 60)), Image.new("L", (40, 30))])
def test_maps_without_a_label_for_each_pixel_are_refused(pair, annotation):
    with pytest.raises(ValueError, match=r"one label for each pixel of its image, shape \(60, 80\)"):
        make_augmentation()(pair[0], annotation)
