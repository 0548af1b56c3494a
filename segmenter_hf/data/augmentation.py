"""
Training augmentation: the recipe of the paper on torchvision's v2 transforms, drawn for each sample by itself.

The original implementation trains through pipelines of MMSegmentation 0.x (segm/data/config/*.py), whose steps and
ranges these are: Resize with `ratio_range`, RandomCrop with `cat_max_ratio`, RandomFlip, PhotoMetricDistortion,
Normalize, Pad.
"""

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F
from transformers.image_utils import SizeDict

from ..image_processing_segmenter import IGNORE_INDEX, SegmenterImageProcessingMixin, get_resized_size


# MMSegmentation's RandomCrop draws a first crop and up to ten more.
MAX_CROPS = 11


def uniform(low: float, high: float) -> float:
    return low + (high - low) * torch.rand(()).item()


@contextlib.contextmanager
def random_state_of(*key: int) -> Iterator[None]:
    """
    What torch draws on the CPU inside depends on `key` alone, and what it draws afterwards is as if nothing had been
    drawn: so that samples do not depend on which process makes them, nor dropout on the samples. (Not
    `torch.manual_seed`, which would also set the state of every accelerator.)
    """
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]) >> 1
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(state)


class RandomScale(v2.Transform):
    """
    Resizes to `size` times a factor that is uniform in `scale_range`, keeping the aspect ratio if `size` does.

    Args:
        size (`SizeDict`): Size at factor 1, as that of the image processor.
        scale_range (`tuple[float, float]`): Range of the factor.
        antialias (`bool`): Whether to smooth images before reducing them.
    """

    def __init__(self, size: SizeDict, scale_range: tuple[float, float], antialias: bool):
        super().__init__()
        self.size = {name: edge for name, edge in dict(size).items() if edge}
        self.scale_range = scale_range
        self.antialias = antialias

    def make_params(self, flat_inputs: list) -> dict:
        factor = uniform(*self.scale_range)
        scaled = SizeDict(**{name: max(1, int(edge * factor)) for name, edge in self.size.items()})
        return {"size": get_resized_size(tuple(flat_inputs[0].shape[-2:]), scaled)}

    def transform(self, inpt, params: dict):
        mode = v2.InterpolationMode.NEAREST_EXACT if isinstance(inpt, tv_tensors.Mask) else None
        return F.resize(
            inpt, list(params["size"]), mode or v2.InterpolationMode.BILINEAR, antialias=self.antialias and not mode
        )


class RandomCropOfClasses(v2.Transform):
    """
    Crops at random, again and up to ten times while one class covers `max_class_share` or more of the pixels that have
    one. What is smaller than the crop stays as it is.

    Args:
        crop_size (`tuple[int, int]`): Height and width of the crop.
        max_class_share (`float`): 1 takes the first crop, whatever it shows.
    """

    def __init__(self, crop_size: tuple[int, int], max_class_share: float):
        super().__init__()
        self.crop_size = crop_size
        self.max_class_share = max_class_share

    def make_params(self, flat_inputs: list) -> dict:
        labels = next(inpt for inpt in flat_inputs if isinstance(inpt, tv_tensors.Mask)).as_subclass(torch.Tensor)
        height, width = (min(side, crop) for side, crop in zip(labels.shape, self.crop_size, strict=True))
        is_whole = (height, width) == tuple(labels.shape)
        for _ in range(1 if is_whole or self.max_class_share >= 1 else MAX_CROPS):
            top, left = (
                torch.randint(side - crop + 1, ()).item()
                for side, crop in zip(labels.shape, (height, width), strict=True)
            )
            cropped = labels[top : top + height, left : left + width]
            counts = torch.bincount(cropped.flatten(), minlength=IGNORE_INDEX + 1)
            counts[IGNORE_INDEX] = 0
            if counts.max() < self.max_class_share * counts.sum():
                break
        return {"top": top, "left": left, "height": height, "width": width}

    def transform(self, inpt, params: dict):
        return F.crop(inpt, **params)


class PhotometricDistortion(v2.Transform):
    """
    Each with probability 0.5: brightness shifted by up to 32 of 255, contrast and saturation times 0.5 to 1.5, hue
    turned by up to 18 of 180; contrast, as likely, before or after the colours. Brightness and contrast change all
    bands alike. Saturation and hue, which are of colours, leave images of other than three bands as they are.

    Contrast multiplies all values, as MMSegmentation's does, which torchvision calls brightness. Saturation is
    torchvision's, which mixes with grey, where MMSegmentation scales the S of HSV. Images are floats from 0 to 1.
    """

    _transformed_types = (tv_tensors.Image,)

    def make_params(self, flat_inputs: list) -> dict:
        ranges = {
            "brightness": (-32 / 255, 32 / 255),
            "contrast": (0.5, 1.5),
            "saturation": (0.5, 1.5),
            "hue": (-18 / 180, 18 / 180),
        }
        strengths = {name: uniform(*bounds) for name, bounds in ranges.items() if uniform(0, 1) < 0.5}
        order = ("brightness", "contrast", "saturation", "hue")
        if uniform(0, 1) < 0.5:
            order = ("brightness", "saturation", "hue", "contrast")
        return {"steps": [(name, strengths[name]) for name in order if name in strengths]}

    def transform(self, inpt, params: dict):
        operations = {
            "brightness": lambda image, shift: tv_tensors.wrap((image + shift).clamp(0, 1), like=image),
            # `F.adjust_brightness` does the same, but for one or three bands only.
            "contrast": lambda image, factor: tv_tensors.wrap((image * factor).clamp(0, 1), like=image),
            "saturation": F.adjust_saturation,
            "hue": F.adjust_hue,
        }
        for name, strength in params["steps"]:
            if name not in ("saturation", "hue") or inpt.shape[-3] == 3:
                inpt = operations[name](inpt, strength)
        return inpt


class SegmentationAugmentation:
    """
    Random scale, crop, flip and photometric distortion of an image and its label map; then normalisation and padding.

    Args:
        image_processor ([`SegmenterImageProcessor`] or [`SegmenterImageProcessorPil`]):
            Its windows are the size of the crops, its `size` is that of images at scale 1 (that of the image itself
            with `do_resize=False`), and its normalisation, `antialias` and `do_reduce_labels` apply, so that training
            sees what inference will.
        scale_range (`tuple[float, float]`, *optional*, defaults to `(0.5, 2.0)`):
            Range of the random scale.
        max_class_share (`float`, *optional*, defaults to 0.75):
            Crops in which one class covers as much are drawn again, up to ten times. 1 takes any.
        photometric_distortion (`bool`, *optional*, defaults to `True`):
            Whether to change brightness, contrast, saturation and hue.
    """

    def __init__(
        self,
        image_processor: SegmenterImageProcessingMixin,
        scale_range: tuple[float, float] = (0.5, 2.0),
        max_class_share: float = 0.75,
        photometric_distortion: bool = True,
    ):
        if not 0 < scale_range[0] <= scale_range[1]:
            raise ValueError(f"`scale_range` must be two positive factors, the smaller first, got {scale_range}.")
        if not 0 < max_class_share <= 1:
            raise ValueError(f"`max_class_share` must be above 0 and at most 1, got {max_class_share}.")
        self.image_processor = image_processor
        self.scale_range = scale_range
        self.crop_size = image_processor.crop_size.height, image_processor.crop_size.width
        self.crop = RandomCropOfClasses(self.crop_size, max_class_share)
        # These come after the crop, which leaves less to do.
        self.flip_and_distort = v2.Compose(
            [
                v2.RandomHorizontalFlip(0.5),
                v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
                PhotometricDistortion() if photometric_distortion else v2.Identity(),
            ]
        )

    def __call__(self, image, annotation) -> dict[str, torch.Tensor]:
        """
        Args:
            image (`PIL.Image.Image` or `np.ndarray`): As the image processor takes it. Unless that has
                `do_convert_rgb=False`, it is converted to RGB.
            annotation (`PIL.Image.Image`): Its label map, of the same size.

        Returns:
            `pixel_values` of shape `(num_channels, crop_height, crop_width)`, float32 and normalised, 0 where there is
            padding; and `labels` of shape `(crop_height, crop_width)`, int64, 255 where they are padded or unlabelled.

        Raises:
            ValueError: if the label map does not have one label for each pixel.
        """
        processor = self.image_processor
        image = processor.process_image(image, do_convert_rgb=processor.do_convert_rgb)
        labels = processor.process_segmentation_maps([annotation], [image], processor.do_reduce_labels)[0]
        # Values are from 0 to 255, but for floats without `do_rescale`, which are from 0 to 1.
        limit = 255
        if image.is_floating_point():
            limit = 255 if processor.do_rescale else 1
            image = image / limit
        # Transforms of bytes are several times as fast, so labels are bytes where they fit.
        fits = 0 <= labels.min() and labels.max() <= 255
        image, labels = tv_tensors.Image(image), tv_tensors.Mask(labels.to(torch.uint8) if fits else labels)

        size = processor.size
        if not processor.do_resize:
            size = SizeDict(height=image.shape[-2], width=image.shape[-1])
        image, labels = RandomScale(size, self.scale_range, processor.antialias)(image, labels)
        image, labels = self.flip_and_distort(*self.crop(image, labels))

        pixel_values = image.as_subclass(torch.Tensor)
        # Pixels go back to the range of bytes only where another factor than 1 / 255 follows.
        if not processor.do_rescale:
            pixel_values = pixel_values * limit
        elif processor.rescale_factor != 1 / 255:
            pixel_values = pixel_values * (255 * processor.rescale_factor)
        if processor.do_normalize:
            pixel_values = processor.normalize(pixel_values, processor.image_mean, processor.image_std)
        height, width = self.crop_size
        padding = (0, width - pixel_values.shape[-1], 0, height - pixel_values.shape[-2])
        return {
            "pixel_values": nn.functional.pad(pixel_values, padding, value=0),
            "labels": nn.functional.pad(labels.as_subclass(torch.Tensor).long(), padding, value=IGNORE_INDEX),
        }


__all__ = [
    "PhotometricDistortion",
    "RandomCropOfClasses",
    "RandomScale",
    "SegmentationAugmentation",
    "random_state_of",
]
