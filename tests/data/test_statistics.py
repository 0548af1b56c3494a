"""Means and standard deviations by band."""

import numpy as np
import pytest
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image

from segmenter_hf import SegmenterImageProcessor
from segmenter_hf.data.examples import ExampleError
from segmenter_hf.data.statistics import compute_image_statistics
from tests.common import encode_tiff


def dataset_of(contents: list[bytes]) -> Dataset:
    rows = [{"image": {"bytes": content, "path": None}, "annotation": None} for content in contents]
    return Dataset.from_list(rows, features=Features({"image": ImageFeature(), "annotation": ImageFeature()}))


@pytest.fixture
def images():
    """They differ in size, so that images do not count alike but pixels do, and have four bands of 12 bits."""
    generator = np.random.default_rng(0)
    return [generator.integers(0, 1024 * np.arange(1, 5), (height, 9, 4)).astype(np.uint16) for height in (3, 30)]


def test_of_several_bands(images):
    mean, std = compute_image_statistics(
        dataset_of([encode_tiff(image, 2, (0,)) for image in images]), num_channels=4, max_value=4095
    )
    pixels = np.concatenate([image.reshape(-1, 4) for image in images]) / 4095
    # Both are the same but for rounding to bytes.
    assert mean == pytest.approx(pixels.mean(axis=0), abs=1e-3)
    assert std == pytest.approx(pixels.std(axis=0), abs=1e-3)

    # An image processor with these values normalises the images.
    processor = SegmenterImageProcessor(
        do_resize=False, do_convert_rgb=False, max_value=4095, image_mean=mean, image_std=std
    )
    values = np.concatenate([processor(each)["pixel_values"][0].reshape(4, -1) for each in images], axis=1)
    assert values.mean(axis=1) == pytest.approx([0] * 4, abs=1e-4)
    assert values.std(axis=1) == pytest.approx([1] * 4, abs=1e-4)


def test_of_photos_and_greys():
    photo = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    examples = [{"image": Image.fromarray(photo)}, {"image": Image.fromarray(photo[..., 0])}]
    mean, std = compute_image_statistics(examples)
    together = np.concatenate([photo, photo[..., :1].repeat(3, axis=-1)]).reshape(-1, 3) / 255
    assert mean == pytest.approx(together.mean(axis=0)) and std == pytest.approx(together.std(axis=0))
    mean, std = compute_image_statistics(examples[1:], num_channels=1)
    assert (mean, std) == ([pytest.approx(photo[..., 0].mean() / 255)], [pytest.approx(photo[..., 0].std() / 255)])


def test_what_has_no_statistics():
    grey = [{"image": Image.linear_gradient("L")}]
    with pytest.raises(ExampleError, match="Example 0 cannot be used: it has 1 bands, expected 4"):
        compute_image_statistics(grey, num_channels=4)
    with pytest.raises(ValueError, match="Band 0 is 7 of 255 in all pixels"):
        compute_image_statistics([{"image": Image.new("L", (4, 5), 7)}], num_channels=1)
    with pytest.raises(ValueError, match="no images"):
        compute_image_statistics([], num_channels=1)
