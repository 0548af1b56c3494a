"""Training augmentation on torchvision's v2 transforms."""

import math

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from ..image_processing_pil_segmenter import IGNORE_INDEX
from ..image_processing_segmenter import SegmenterImageProcessor


class SegmentationAugmentation:
    """
    Random scale, crop, flip and photometric distortion of an image and its label map; then normalisation and padding.

    Args:
        image_processor ([`SegmenterImageProcessor`]):
            Its windows are the size of the crops, its `size` is that of images at scale 1, and its normalisation, its
            `antialias` and `do_reduce_labels` apply, so that training sees what inference will.
        scale_range (`tuple[float, float]`, *optional*, defaults to `(0.5, 2.0)`):
            Range of the random scale, drawn uniformly in its logarithm so that enlarging is as likely as shrinking.
    """

    def __init__(self, image_processor: SegmenterImageProcessor, scale_range: tuple[float, float] = (0.5, 2.0)):
        self.image_processor = image_processor
        self.crop_size = image_processor.crop_size.height, image_processor.crop_size.width
        size = image_processor.size
        self.base_size = size.shortest_edge or min(size.height, size.width)
        self.scale_range = scale_range
        self.flip = v2.RandomHorizontalFlip()
        # The original implementation's photometric distortion: each with probability 0.5, contrast before or after the
        # colours. Its brightness is a shift of at most 32 of 255, here a factor. torchvision's own
        # RandomPhotometricDistort also swaps channels, which turns skies red.
        brightness, contrast, saturation, hue = (
            v2.RandomApply([v2.ColorJitter(**strength)], p=0.5)
            for strength in ({"brightness": 32 / 255}, {"contrast": 0.5}, {"saturation": 0.5}, {"hue": 18 / 180})
        )
        self.distort = v2.RandomChoice(
            [
                v2.Compose([brightness, contrast, saturation, hue]),
                v2.Compose([brightness, saturation, hue, contrast]),
            ]
        )
        self.normalize = v2.Compose(
            [
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(image_processor.image_mean, image_processor.image_std),
            ]
        )

    def __call__(self, image, annotation) -> dict[str, torch.Tensor]:
        """
        Args:
            image (`PIL.Image.Image`): Any mode; converted to RGB.
            annotation (`PIL.Image.Image`): Its label map, of the same size.

        Returns:
            `pixel_values` of shape `(3, crop_height, crop_width)` and `labels` of shape `(crop_height, crop_width)`,
            int64.

        Raises:
            ValueError: if the label map does not have one label for each pixel.
        """
        processor = self.image_processor
        image = processor.process_image(image, do_convert_rgb=True)
        labels = processor.process_segmentation_maps([annotation], [image], processor.do_reduce_labels)[0]
        image, labels = tv_tensors.Image(image), tv_tensors.Mask(labels)

        low, high = self.scale_range
        scale = math.exp(torch.empty(()).uniform_(math.log(low), math.log(high)).item())
        short_side = self.base_size * scale
        height, width = (round(side * short_side / min(image.shape[-2:])) for side in image.shape[-2:])
        image = F.resize(image, [height, width], antialias=processor.antialias)
        labels = F.resize(labels, [height, width], interpolation=v2.InterpolationMode.NEAREST_EXACT)

        # The crop comes before the slower distortion; padding after normalisation, where 0 is the mean.
        crop_height, crop_width = min(height, self.crop_size[0]), min(width, self.crop_size[1])
        image, labels = self.flip(*v2.RandomCrop((crop_height, crop_width))(image, labels))
        image = self.normalize(self.distort(image))
        padding = [0, 0, self.crop_size[1] - crop_width, self.crop_size[0] - crop_height]
        image = F.pad(image, padding, fill=0)
        labels = F.pad(labels, padding, fill=IGNORE_INDEX)
        return {"pixel_values": image.as_subclass(torch.Tensor), "labels": labels.as_subclass(torch.Tensor)}
