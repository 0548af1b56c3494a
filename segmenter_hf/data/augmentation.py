"""Training augmentation on torchvision's v2 transforms."""

import math

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F


class SegmentationAugmentation:
    """
    Random scale, crop, flip and photometric distortion of an image and its label map; then normalisation and padding.

    Args:
        crop_size (`tuple[int, int]`): `(height, width)` of what is returned.
        base_size (`int`): Short side in pixels at scale 1.
        image_mean (`list[float]`): Mean of each channel, for pixels in 0..1.
        image_std (`list[float]`): Standard deviation of each channel, for pixels in 0..1.
        scale_range (`tuple[float, float]`, *optional*, defaults to `(0.5, 2.0)`): Range of the random scale, drawn
            uniformly in its logarithm so that enlarging is as likely as shrinking.
        ignore_index (`int`, *optional*, defaults to 255): Label of padded pixels.
    """

    def __init__(
        self,
        crop_size: tuple[int, int],
        base_size: int,
        image_mean: list[float],
        image_std: list[float],
        scale_range: tuple[float, float] = (0.5, 2.0),
        ignore_index: int = 255,
    ):
        self.crop_size = crop_size
        self.base_size = base_size
        self.scale_range = scale_range
        self.ignore_index = ignore_index
        self.flip = v2.RandomHorizontalFlip()
        # Strengths of the original implementation's photometric distortion: brightness 32 of 255, hue 18 of 180.
        self.distort = v2.RandomPhotometricDistort(
            brightness=(1 - 32 / 255, 1 + 32 / 255), contrast=(0.5, 1.5), saturation=(0.5, 1.5), hue=(-0.1, 0.1), p=0.5
        )
        self.normalize = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(image_mean, image_std)])

    def __call__(self, image, annotation) -> dict[str, torch.Tensor]:
        """
        Args:
            image (`PIL.Image.Image`): Any mode; converted to RGB.
            annotation (`PIL.Image.Image`): Its label map, of the same size.

        Returns:
            `pixel_values` of shape `(3, *crop_size)` and `labels` of shape `crop_size`, int64.
        """
        image = tv_tensors.Image(F.pil_to_tensor(image.convert("RGB")))
        labels = tv_tensors.Mask(F.pil_to_tensor(annotation)[0].long())

        low, high = self.scale_range
        scale = math.exp(torch.empty(()).uniform_(math.log(low), math.log(high)).item())
        short_side = self.base_size * scale
        height, width = (round(side * short_side / min(image.shape[-2:])) for side in image.shape[-2:])
        image = F.resize(image, [height, width], antialias=True)
        labels = F.resize(labels, [height, width], interpolation=v2.InterpolationMode.NEAREST_EXACT)

        # The crop comes before the slower distortion; padding after normalisation, where 0 is the mean.
        crop_height, crop_width = min(height, self.crop_size[0]), min(width, self.crop_size[1])
        image, labels = self.flip(*v2.RandomCrop((crop_height, crop_width))(image, labels))
        image = self.normalize(self.distort(image))
        padding = [0, 0, self.crop_size[1] - crop_width, self.crop_size[0] - crop_height]
        image = F.pad(image, padding, fill=0)
        labels = F.pad(labels, padding, fill=self.ignore_index)
        return {"pixel_values": image.as_subclass(torch.Tensor), "labels": labels.as_subclass(torch.Tensor)}
