"""Training augmentation: image and label map stay together."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from transformers.image_utils import SizeDict

from segmenter_hf import SegmenterImageProcessor, SegmenterImageProcessorPil
from segmenter_hf.data.augmentation import (
    PhotometricDistortion,
    RandomCropOfClasses,
    RandomScale,
    SegmentationAugmentation,
    random_state_of,
)


def make_augmentation(scale_range=(0.5, 2.0), crop_size=(32, 48), photometric_distortion=True, **settings):
    image_processor = SegmenterImageProcessor(
        do_split_image=True,
        size={"shortest_edge": 40, "longest_edge": 160},
        crop_size={"height": crop_size[0], "width": crop_size[1]},
        window_stride=16,
        **settings,
    )
    return SegmentationAugmentation(image_processor, scale_range, photometric_distortion=photometric_distortion)


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
    augmentation = make_augmentation(photometric_distortion=False)
    torch.manual_seed(0)
    layouts = set()
    for _ in range(30):
        example = augmentation(*pair)
        brightness, labels = example["pixel_values"].mean(0), example["labels"]
        inside = labels != 255
        layouts.add((labels[0, 0].item(), labels[0, -1].item(), inside.all().item()))
        # Resizing mixes the pixels at the border of the halves, and no others.
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


def test_small_crops_are_normalised_and_scaled_as_the_image_processor_does():
    """At scale 1, without anything random, a training sample is what inference sees."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8))
    labels = Image.fromarray(np.full((30, 40), 3, dtype=np.uint8))
    for settings in ({}, {"do_rescale": False}, {"rescale_factor": 1 / 127.5, "image_mean": [0.1, 0.2, 0.3]}):
        augmentation = make_augmentation((1.0, 1.0), (32, 48), photometric_distortion=False, **settings)
        processor = augmentation.image_processor
        expected = processor(
            image, do_split_image=False, do_pad=True, pad_size={"height": 32, "width": 48}, do_resize=False
        )["pixel_values"][0]
        processor.size = SizeDict(height=30, width=40)
        found = augmentation(image, labels)["pixel_values"]
        flipped = torch.nn.functional.pad(expected[:, :30, :40].flip(-1), (0, 8, 0, 2))
        assert any(torch.allclose(found, each, atol=1e-4 * each.abs().max()) for each in (expected, flipped))


def random_image(kind: str, height: int = 30, width: int = 40):
    """An image, and the settings of an image processor that it needs."""
    generator = np.random.default_rng(0)
    if kind.endswith("bands"):
        number = int(kind[0])
        values = generator.integers(0, 4096, (height, width, number), dtype=np.uint16)
        settings = {"image_mean": [0.1 * (1 + band) for band in range(number)], "image_std": [0.3] * number}
        return values, {"do_convert_rgb": False, "max_value": 4095, **settings}
    if kind.startswith("F"):
        values = generator.random((height, width), dtype=np.float32)
        is_scaled = kind == "F of 0 to 255"
        return Image.fromarray(values * (255 if is_scaled else 1)), {"do_rescale": is_scaled}
    if kind == "I;16":
        return Image.fromarray(generator.integers(0, 1024, (height, width), dtype=np.uint16)), {"max_value": 1023}
    number = {"L": 1, "LA": 2, "RGBA": 4, "CMYK": 4}[kind]
    values = generator.integers(0, 256, (height, width, number), dtype=np.uint8)
    image = Image.fromarray(values if number > 1 else values[..., 0], mode=kind)
    means = {"image_mean": [0.2 * (1 + band) for band in range(number)], "image_std": [0.3] * number}
    return image, {"do_convert_rgb": False, **means}


@pytest.mark.filterwarnings("ignore:'mode' parameter")
@pytest.mark.parametrize(
    "kind", ["L", "LA", "RGBA", "CMYK", "I;16", "F of 0 to 255", "F of 0 to 1", "4 bands", "6 bands"]
)
@pytest.mark.parametrize("photometric_distortion", [False, True])
def test_all_types_and_bands_are_what_inference_sees(kind, photometric_distortion):
    image, settings = random_image(kind)
    labels = Image.fromarray(np.full((30, 40), 3, dtype=np.uint8))
    augmentation = make_augmentation(
        (1.0, 1.0), (30, 40), photometric_distortion=photometric_distortion, do_resize=False, **settings
    )
    expected = augmentation.image_processor(image, do_split_image=False)["pixel_values"][0]
    torch.manual_seed(0)
    samples = [augmentation(image, labels)["pixel_values"] for _ in range(12)]
    assert {sample.shape for sample in samples} == {expected.shape}
    # One in eight is not distorted.
    equal = [
        any(torch.allclose(sample, each, atol=1e-4) for each in (expected, expected.flip(-1))) for sample in samples
    ]
    assert any(equal)
    assert all(equal) is not photometric_distortion


@pytest.mark.parametrize("bands", [1, 2, 4, 7])
def test_other_bands_than_three_keep_their_proportions(bands):
    """No value is clipped, so that brightness adds the same to all of them, and contrast multiplies."""
    image = tv_tensors.Image(torch.linspace(0.3, 0.6, bands).reshape(-1, 1, 1).expand(-1, 4, 4))
    for steps, expected in (
        ([("saturation", 0.0), ("hue", 0.1)], image),
        ([("brightness", 0.1), ("hue", 0.1), ("contrast", 1.4)], (image + 0.1) * 1.4),
    ):
        changed = PhotometricDistortion().transform(image, {"steps": steps})
        assert torch.allclose(changed, expected)


def test_the_scale_is_uniform_and_sizes_are_those_of_the_image_processor():
    scale = RandomScale(SizeDict(shortest_edge=100, longest_edge=150), (0.5, 2.0), antialias=False)
    torch.manual_seed(0)
    image = tv_tensors.Image(torch.zeros(3, 20, 40, dtype=torch.uint8))
    heights = torch.tensor([scale.make_params([image])["size"] for _ in range(2000)])[:, 0]
    # The long side is the one that is limited: 150 x 75 at factor 1.
    assert heights.min() >= 37 and heights.max() <= 150
    # Half of the factors are below the middle of the range, 1.25, and not below its geometric mean, 1.
    assert (heights < 75 * 1.25).float().mean().item() == pytest.approx(0.5, abs=0.03)


class TestCropOfClasses:
    def crops(self, labels: np.ndarray, max_class_share: float, number: int = 200) -> list[torch.Tensor]:
        """Label maps of so many crops of 10 x 10 pixels."""
        crop = RandomCropOfClasses((10, 10), max_class_share)
        torch.manual_seed(0)
        mask = tv_tensors.Mask(torch.from_numpy(labels))
        return [crop(mask) for _ in range(number)]

    def largest_share(self, crop: torch.Tensor) -> float:
        counts = crop[crop != 255].unique(return_counts=True)[1]
        return (counts.max() / counts.sum()).item() if len(counts) else 1.0

    def test_crops_of_one_class_are_drawn_again(self):
        labels = np.zeros((10, 40), dtype=np.uint8)
        labels[:, 20:] = 1
        free = [self.largest_share(crop) for crop in self.crops(labels, 1.0)]
        limited = [self.largest_share(crop) for crop in self.crops(labels, 0.75)]
        # Of the 31 positions of the crop, 5 show at least three columns of either class, and so less than 75 %.
        assert np.mean(np.array(free) < 0.75) == pytest.approx(5 / 31, abs=0.08)
        assert np.mean(np.array(limited) < 0.75) == pytest.approx(1 - (26 / 31) ** 11, abs=0.08)

    def test_ignored_pixels_do_not_count(self):
        labels = np.full((10, 10), 255, dtype=np.uint8)
        labels[0, :3], labels[1, 0] = 4, 5
        # 3 of the 4 labelled pixels are of one class, which is 75 % and so too much, but there is no other crop.
        assert torch.equal(self.crops(labels, 0.75, 1)[0], torch.from_numpy(labels))

    def test_small_maps_stay_whole(self):
        labels = np.arange(48, dtype=np.uint8).reshape(6, 8)
        assert torch.equal(self.crops(labels, 0.75, 1)[0], torch.from_numpy(labels))

    def test_image_and_labels_get_the_same_crop(self):
        values = torch.arange(400, dtype=torch.int32).reshape(20, 20)
        image, mask = RandomCropOfClasses((7, 9), 0.75)(tv_tensors.Image(values[None]), tv_tensors.Mask(values))
        assert torch.equal(image[0].as_subclass(torch.Tensor), mask.as_subclass(torch.Tensor))
        assert mask.shape == (7, 9)


class TestPhotometricDistortion:
    def test_changes_the_image_only(self):
        image = tv_tensors.Image(torch.rand(3, 8, 8))
        mask = tv_tensors.Mask(torch.randint(5, (8, 8)))
        torch.manual_seed(0)
        results = [PhotometricDistortion()(image, mask) for _ in range(20)]
        assert any(not torch.equal(result[0], image) for result in results)
        assert all(torch.equal(result[1], mask) for result in results)

    def test_each_step_has_probability_a_half_and_contrast_either_place(self):
        torch.manual_seed(0)
        drawn = [[name for name, _ in PhotometricDistortion().make_params([])["steps"]] for _ in range(2000)]
        for name in ("brightness", "contrast", "saturation", "hue"):
            assert np.mean([name in steps for steps in drawn]) == pytest.approx(0.5, abs=0.04)
        both = [steps for steps in drawn if {"contrast", "saturation"} <= set(steps)]
        contrast_first = [steps.index("contrast") < steps.index("saturation") for steps in both]
        assert np.mean(contrast_first) == pytest.approx(0.5, abs=0.08)

    @pytest.mark.parametrize(
        ("step", "expected"),
        [
            (("brightness", 0.1), [[0.3, 0.5, 1.0]]),
            (("brightness", -0.3), [[0.0, 0.1, 0.6]]),
            # Contrast multiplies, as in MMSegmentation, where torchvision's would turn around the mean grey.
            (("contrast", 1.5), [[0.3, 0.6, 1.0]]),
            (("saturation", 1.0), [[0.2, 0.4, 0.9]]),
            (("hue", 0.0), [[0.2, 0.4, 0.9]]),
        ],
    )
    def test_steps_by_hand(self, step, expected):
        image = tv_tensors.Image(torch.tensor([0.2, 0.4, 0.9]).reshape(3, 1, 1))
        changed = PhotometricDistortion().transform(image, {"steps": [step]})
        assert changed.flatten().tolist() == pytest.approx(expected[0], abs=1e-5)

    def test_hues_move_by_a_tenth_at_most(self):
        """So a red picture may get darker or paler, but its red stays the largest channel."""
        torch.manual_seed(0)
        image = tv_tensors.Image(torch.tensor([0.8, 0.2, 0.2]).reshape(3, 1, 1).expand(3, 4, 4))
        for _ in range(60):
            red, green, blue = PhotometricDistortion()(image).mean((1, 2))
            assert red > green
            assert red > blue


class TestRandomState:
    def test_draws_depend_on_the_key_alone(self):
        def draw(*key):
            with random_state_of(*key):
                return torch.rand(3).tolist()

        first = draw(7, 1, 2)
        torch.manual_seed(99)
        assert draw(7, 1, 2) == first
        assert len({tuple(draw(*key)) for key in [(7, 1, 2), (7, 2, 1), (8, 1, 2), (7, 1, 3), (7, 1)]}) == 5

    def test_leaves_the_state_as_it_was(self):
        torch.manual_seed(0)
        expected = torch.rand(4)
        torch.manual_seed(0)
        with pytest.raises(RuntimeError, match="in the middle"), random_state_of(1):
            torch.rand(10)
            raise RuntimeError("in the middle")
        assert torch.equal(torch.rand(4), expected)


def test_labels_are_reduced_as_the_processor_says(pair):
    example = make_augmentation(scale_range=(1.0, 1.0), crop_size=(40, 53), do_reduce_labels=True)(*pair)
    assert set(example["labels"].unique().tolist()) == {0, 1}


@pytest.mark.parametrize("annotation", [Image.new("RGB", (80, 60)), Image.new("L", (40, 30))])
def test_maps_without_a_label_for_each_pixel_are_refused(pair, annotation):
    with pytest.raises(ValueError, match=r"one label for each pixel of its image, shape \(60, 80\)"):
        make_augmentation()(pair[0], annotation)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"scale_range": (2.0, 0.5)}, "the smaller first"), ({"max_class_share": 0.0}, "above 0 and at most 1")],
)
def test_impossible_settings_are_refused(settings, message):
    image_processor = make_augmentation().image_processor
    with pytest.raises(ValueError, match=message):
        SegmentationAugmentation(image_processor, **settings)


def test_both_backends_and_labels_above_255_work():
    labels = Image.fromarray(np.full((60, 80), 300, dtype=np.int32))
    for cls in (SegmenterImageProcessor, SegmenterImageProcessorPil):
        processor = cls(do_split_image=True, do_resize=False, crop_size={"height": 32, "width": 32}, window_stride=16)
        example = SegmentationAugmentation(processor)(Image.new("L", (80, 60), 7), labels)
        assert example["labels"].max() == 300
        assert example["pixel_values"].shape == (3, 32, 32)
