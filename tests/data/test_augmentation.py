"""Training augmentation: image and label map stay together."""

import numpy as np
import pytest
import torch
from PIL import Image

from segmenter_hf.data.augmentation import SegmentationAugmentation


def make_augmentation(**overrides):
    settings = {
        "crop_size": (32, 48),
        "base_size": 40,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        **overrides,
    }
    return SegmentationAugmentation(**settings)


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
