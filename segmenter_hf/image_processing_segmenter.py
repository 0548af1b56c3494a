# Copyright 2026 the segmenter_hf authors. Licensed under the Apache License, Version 2.0.
"""Image processor of Segmenter, torchvision backend, and what it shares with the PIL backend."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import nn
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import (
    IMAGENET_STANDARD_MEAN,
    IMAGENET_STANDARD_STD,
    ChannelDimension,
    ImageInput,
    PILImageResampling,
    SizeDict,
)
from transformers.processing_utils import ImagesKwargs, Unpack
from transformers.utils import TensorType, logging, requires_backends

from .windows_segmenter import Window, get_enlarged_size, get_strides, get_windows, group_windows, merge_windows


try:
    from transformers.image_processing_outputs import SemanticSegmentationPostProcessorOutput
except ImportError:
    # Releases of transformers before 5.13 do not have it.
    SemanticSegmentationPostProcessorOutput = BatchFeature


logger = logging.get_logger(__name__)

# Neither the loss nor metrics count pixels of this label.
IGNORE_INDEX = 255
# Larger values are no labels, but numbers of objects, colours, or what is left of negative ones.
MAX_LABEL = 2**31 - 1
TORCH_INTERPOLATION_MODES = {
    PILImageResampling.NEAREST: "nearest-exact",
    PILImageResampling.BILINEAR: "bilinear",
    PILImageResampling.BICUBIC: "bicubic",
}


class SegmenterImageProcessorKwargs(ImagesKwargs, total=False):
    r"""
    do_split_image (`bool`, *optional*, defaults to `self.do_split_image`):
        Whether to cut images into sliding windows of `crop_size` pixels, the protocol of the published results. An
        image below the window is enlarged to it.
    window_stride (`int`, `(height, width)` or `dict[str, int]`, *optional*, defaults to `self.window_stride`):
        Distance of neighbouring windows in pixels, at most the sides of `crop_size`: in both directions, or for each
        of them, as a pair or with the keys `height` and `width`.
    patch_size (`int`, *optional*, defaults to `self.patch_size`):
        Side of the model's patches in pixels, by which post-processing upsamples the logits.
    antialias (`bool`, *optional*, defaults to `self.antialias`):
        Whether to smooth images before reducing them. `False` resizes as the original implementation does.
    do_reduce_labels (`bool`, *optional*, defaults to `self.do_reduce_labels`):
        Whether 0 means "unlabelled" in segmentation maps (e.g. of ADE20K): 0 becomes 255, which is ignored, and all
        other labels but 255 are reduced by 1.
    crop_logits (`bool`, *optional*, defaults to `self.crop_logits`):
        How post-processing upsamples windows whose sides are no multiples of the patch size: `True` as the original
        implementation, to the padded size, of which it crops the padding; `False` as MMSegmentation, which stretches
        the logits to the window.
    max_value (`int`, *optional*, defaults to `self.max_value`):
        What 16-bit images hold at most, which becomes 255: 65535, or less where their files have 10, 12 or 14 bits.
    """

    do_split_image: bool | None
    window_stride: int | list[int] | tuple[int, ...] | dict[str, int] | SizeDict | None
    patch_size: int | None
    antialias: bool | None
    do_reduce_labels: bool | None
    crop_logits: bool | None
    max_value: int | None


def get_resized_size(image_size: tuple[int, int], size: SizeDict) -> tuple[int, int]:
    """
    `(height, width)` of an image after resizing: those of `size`, or the aspect ratio kept, with the short side at
    `shortest_edge` unless the long side would exceed `longest_edge`. Rounds like `mmcv.imrescale`, which the original
    implementation and MMSegmentation use; the helper of transformers truncates, to a pixel less in half of all cases.
    """
    if size.height:
        return size.height, size.width
    scale = size.shortest_edge / min(image_size)
    if size.longest_edge:
        scale = min(size.longest_edge / max(image_size), scale)
    height, width = (max(1, int(side * scale + 0.5)) for side in image_size)
    return height, width


def is_file(image: Any) -> bool:
    """Whether it is a path, and not an image or a URL."""
    return isinstance(image, os.PathLike) or (isinstance(image, str) and os.path.isfile(image))


def open_image(path: str | os.PathLike) -> Image.Image:
    """Opens an image file, and no pipe or device, which would never end."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError(f"{path} is no regular file, expected that of an image.")
    return Image.open(path)


def open_map(segmentation_map: Any) -> Any:
    """The PIL image of a path to a label map, upright as its file says. Anything else is handed back."""
    return ImageOps.exif_transpose(open_image(segmentation_map)) if is_file(segmentation_map) else segmentation_map


def to_tensor(image: "Image.Image | np.ndarray | torch.Tensor") -> torch.Tensor:
    if isinstance(image, torch.Tensor):
        return image
    array = np.asarray(image)
    # This copies, as torch takes neither foreign byte order nor negative strides, and warns of read-only memory.
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))


def to_labels(segmentation_map: "Image.Image | np.ndarray | torch.Tensor", name: str) -> torch.Tensor:
    """
    A map of labels of any type as int64; of booleans, `True` is 1.

    Raises:
        ValueError: if it holds anything but whole numbers from 0 to `MAX_LABEL`; the message calls it by its name.
    """
    odd = None
    try:
        stored = to_tensor(segmentation_map)
        if stored.is_complex():
            raise TypeError("Complex numbers have no order.")
    # Objects, such as missing values, and text are types of which torch knows nothing.
    except TypeError:
        odd = f"values of the type {getattr(segmentation_map, 'dtype', 'object')}"
    else:
        labels = stored.to(torch.int64)
        if stored.dtype in (torch.bool, torch.uint8):
            return labels
        # The largest numbers of 64 bits without sign have become negative.
        is_odd = (labels < 0) | (labels > MAX_LABEL)
        if stored.is_floating_point():
            is_odd |= labels != stored
        if is_odd.any():
            odd = labels[is_odd][0].item() % 2**64 if stored.dtype == torch.uint64 else stored[is_odd][0].item()
    if odd is not None:
        raise ValueError(
            f"{name} must hold labels, which are whole numbers from 0 to {MAX_LABEL}, got {odd}. Store "
            f"{IGNORE_INDEX} where pixels have no label."
        )
    return labels


def to_8_bit_range(image: torch.Tensor, is_16_bit: bool, max_value: int) -> torch.Tensor:
    """
    Integers of any type as uint8: booleans become 0 and 255, 16-bit values from 0 to `max_value` are scaled to 0 to
    255 and rounded, here for training, evaluation and inference alike. Floats keep their values, as float32.
    """
    if image.is_complex():
        raise ValueError("Pixels must be real numbers, got complex ones. Pass their absolute values or parts.")
    if image.is_floating_point():
        image = image.to(torch.float32)
        num_bad = image.numel() - image.isfinite().sum().item()
        if num_bad:
            raise ValueError(
                f"Pixels must be finite numbers, got NaN or infinity in {num_bad} of {image.numel()} values. Fill "
                "what has no value before, for example with `numpy.nan_to_num`."
            )
        return image
    if image.dtype == torch.uint8:
        return image
    is_16_bit = is_16_bit or image.dtype == torch.uint16
    maximum = 1 if image.dtype == torch.bool else max_value if is_16_bit else 255
    image = image.to(torch.float32)
    if image.numel() and (image.min() < 0 or image.max() > maximum):
        remedy = "Pass 16-bit images as uint16."
        if is_16_bit:
            remedy = "Clip them, or pass what they hold at most as `max_value` (up to 65535)."
        raise ValueError(
            f"Pixels of this type must lie in 0..{maximum}, got {image.min():.0f}..{image.max():.0f}. {remedy}"
        )
    return (image * (255 / maximum)).round().to(torch.uint8)


def is_cut_to_8_bits(image: Image.Image) -> bool:
    """Whether PIL will read, or has yet to read, 16 bits of several channels, of which it keeps the upper 8."""
    return any(";16" in str(tile[3]) for tile in getattr(image, "tile", ())) and not image.mode.startswith("I")


def infer_data_format(image: torch.Tensor, is_numpy: bool, num_channels: int | None = None) -> ChannelDimension:
    """Where the channels are: 1, 3 or 4, or `num_channels`, which has precedence if it is known."""
    is_first, is_last = (image.shape[axis] == num_channels for axis in (0, -1))
    if not is_first and not is_last:
        is_first, is_last = (image.shape[axis] in (1, 3, 4) for axis in (0, -1))
    if is_first and is_last:
        logger.warning_once(
            f"In an image of shape {tuple(image.shape)} the channels may be first or last. They are taken to be last "
            "in arrays and first in tensors; pass `input_data_format` to say otherwise."
        )
        is_first = not is_numpy
    elif not is_first and not is_last:
        raise ValueError(
            f"An image must have 1, 3 or 4 channels, first or last, got shape {tuple(image.shape)}. Pass "
            "`input_data_format` if it has another number of channels."
        )
    return ChannelDimension.FIRST if is_first else ChannelDimension.LAST


def resize_without_antialias(
    image: torch.Tensor, size: tuple[int, int], resample: "PILImageResampling | int" = PILImageResampling.BILINEAR
) -> torch.Tensor:
    """Resizes a uint8 or float32 image `(channels, height, width)`, interpolating between the nearest pixels only."""
    if resample not in TORCH_INTERPOLATION_MODES:
        raise ValueError(
            f"`antialias=False` goes with nearest, bilinear and bicubic resampling, got "
            f"{PILImageResampling(resample).name}."
        )
    resized = nn.functional.interpolate(image[None].float(), size=size, mode=TORCH_INTERPOLATION_MODES[resample])[0]
    return resized.round().clamp(0, 255).to(torch.uint8) if image.dtype == torch.uint8 else resized


def resize_labels(labels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """
    Resizes `(height, width)` labels: each new pixel takes the label under its centre, as torch's "nearest-exact" and
    PIL's nearest do. Counts in half pixels, so that no rounding of floats decides.
    """
    rows, columns = (
        (2 * torch.arange(new, device=labels.device) + 1) * old // (2 * new)
        for new, old in zip(size, labels.shape, strict=True)
    )
    return labels[rows[:, None], columns]


def reduce_labels(labels: torch.Tensor) -> torch.Tensor:
    return torch.where((labels == 0) | (labels == IGNORE_INDEX), IGNORE_INDEX, labels - 1)


class SegmenterImageProcessingMixin:
    """
    What the two image processors share: everything but resizing with antialiasing. Images are torch tensors of shape
    `(channels, height, width)` throughout, and processed one by one (so `disable_grouping` has no effect).
    """

    model_input_names = ["pixel_values", "window_offsets"]

    do_convert_rgb = True
    do_resize = True
    size = {"shortest_edge": 512, "longest_edge": 2048}
    default_to_square = False
    resample = PILImageResampling.BILINEAR
    antialias = True
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    image_mean = IMAGENET_STANDARD_MEAN
    image_std = IMAGENET_STANDARD_STD
    do_split_image = False
    crop_size = {"height": 512, "width": 512}
    window_stride = 512
    do_pad = False
    patch_size = 16
    do_reduce_labels = False
    crop_logits = True
    max_value = 65535

    def preprocess(
        self,
        images: ImageInput,
        segmentation_maps: ImageInput | None = None,
        **kwargs: Unpack[SegmenterImageProcessorKwargs],
    ) -> BatchFeature:
        r"""
        Makes images, and their segmentation maps, into inputs of the model.

        Args:
            images (`ImageInput`):
                An image, a batch, or a list of images of any sizes: PIL images of any mode, paths and URLs; arrays and
                tensors `(height, width)`, or with channels first or last, of type uint8, of uint16 (scaled to 8 bits
                by `max_value`, as are PIL's modes I;16 and I), or floats in the range of uint8 (0 to 1 with
                `do_rescale=False`), without NaN and infinity. Transparency is dropped, as by PIL's `convert("RGB")`
                and the image-segmentation pipeline. Of 16-bit files with several channels, PIL reads 8 bits: give
                their arrays.
            segmentation_maps (`ImageInput`, *optional*):
                A label map for each image, of its size in pixels: PIL images of mode L, P (whose indices are the
                labels), I;16, I or 1, and paths; arrays and tensors `(height, width)`, as a list or a batch.
            kwargs ([`SegmenterImageProcessorKwargs`]):
                Settings that differ from the image processor's, for this call.

        Returns:
            [`BatchFeature`] with a row for each window, or for each image that is not split, in order (a list of them
            with `return_tensors=None`; then, in a dataset's transform, pass `do_split_image=False`, as a row can hold
            one window only):

            - **pixel_values** (float32, `(num_windows, num_channels, height, width)`)
            - **window_offsets** (int64, `(num_windows, 7)`) -- index of the image; top, left, height and width of the
              window in the resized image, in pixels, without padding; height and width of the resized image.
            - **labels** (int64, `(num_windows, height, width)`) -- if there are `segmentation_maps`: resized to the
              nearest label and cut like the images. 255 where there is padding.

        Raises:
            ValueError: if settings, images or maps do not fit together.
        """
        return super().preprocess(images, segmentation_maps, **kwargs)

    def _standardize_kwargs(self, window_stride=None, **kwargs) -> dict:
        # The library calls this when the processor is made and for the settings of each call.
        kwargs = super()._standardize_kwargs(**kwargs)
        if isinstance(window_stride, (list, tuple)) and len(window_stride) == 2:
            window_stride = dict(zip(("height", "width"), window_stride, strict=True))
        kwargs["window_stride"] = dict(window_stride) if isinstance(window_stride, SizeDict) else window_stride
        self._validate_settings(**kwargs)
        self._validate_normalization(**kwargs)
        return kwargs

    def _validate_settings(
        self, size, crop_size, pad_size, window_stride, patch_size, do_split_image, do_center_crop, max_value, **kwargs
    ):
        height_and_width = ["height", "width"]
        for name, value, allowed_keys in (
            ("size", size, [height_and_width, ["shortest_edge"], ["longest_edge", "shortest_edge"]]),
            ("crop_size", crop_size, [height_and_width]),
            ("pad_size", pad_size, [height_and_width]),
        ):
            value = None if value is None else dict(value)
            if value is not None and (sorted(value) not in allowed_keys or min(value.values()) < 1):
                raise ValueError(
                    f"`{name}` must have the keys {' or '.join(map(str, allowed_keys))}, each at least 1 pixel, got "
                    f"{value}."
                )
        if patch_size is None or patch_size < 1:
            raise ValueError(f"`patch_size` must be at least 1 pixel, got {patch_size}.")
        if not isinstance(max_value, int) or not 1 <= max_value <= 65535:
            raise ValueError(f"`max_value` must be a whole number from 1 to 65535, got {max_value!r}.")
        is_mapping = isinstance(window_stride, Mapping)
        strides = window_stride.values() if is_mapping else [window_stride]
        if (is_mapping and sorted(window_stride) != height_and_width) or not all(
            isinstance(stride, int) for stride in strides
        ):
            raise ValueError(
                f"`window_stride` must be a number of pixels, (height, width), or have the keys {height_and_width}, "
                f"got {window_stride!r}."
            )
        strides = get_strides(window_stride)
        if min(strides) < 1:
            raise ValueError(f"`window_stride` must be at least 1 pixel, got {window_stride}.")
        if do_center_crop:
            raise ValueError("`do_center_crop` is not supported: `crop_size` is the window of `do_split_image`.")
        if do_split_image:
            if crop_size is None:
                raise ValueError("`do_split_image` needs `crop_size`, the size of the windows.")
            if strides[0] > crop_size.height or strides[1] > crop_size.width:
                raise ValueError(
                    f"`window_stride` ({window_stride}) leaves gaps between windows of {crop_size.height} x "
                    f"{crop_size.width} pixels. It must be at most {min(crop_size.height, crop_size.width)}, or those "
                    "as `height` and `width`."
                )

    def _validate_normalization(self, rescale_factor, do_normalize, do_convert_rgb, image_mean, image_std, **kwargs):
        """Refuses factors that make every image NaN, infinite or one grey, and lengths that contradict each other."""
        numbers = {
            name: np.atleast_1d(np.asarray([] if value is None else value, dtype=np.float64))
            for name, value in (
                ("image_mean", image_mean),
                ("image_std", image_std),
                ("rescale_factor", rescale_factor),
            )
        }
        for name, values in numbers.items():
            is_positive = name == "image_mean" or (values > 0).all()
            if not np.isfinite(values).all() or not is_positive:
                kind = "finite numbers" if name == "image_mean" else "finite numbers above 0"
                raise ValueError(f"`{name}` must be {kind}, got {values.tolist()}.")
        lengths = {len(numbers[name]) for name in ("image_mean", "image_std")} - {0, 1}
        if do_normalize and (len(lengths) > 1 or (do_convert_rgb and not lengths <= {3})):
            channels = "each of 3 channels (`do_convert_rgb`)" if do_convert_rgb else "each channel"
            raise ValueError(
                f"`image_mean` and `image_std` must have one value, or one for {channels}, got "
                f"{len(numbers['image_mean'])} and {len(numbers['image_std'])}."
            )

    def fetch_images(self, images):
        if isinstance(images, (list, tuple)):
            return [self.fetch_images(image) for image in images]
        if is_file(images):
            # The library's own loaders convert to RGB, by which PIL clips 16 bits.
            image = open_image(images)
            self._check_depth(image, self.max_value)
            return ImageOps.exif_transpose(image)
        return super().fetch_images(images)

    def _prepare_images_structure(self, images: ImageInput, expected_ndims: int = 3) -> list:
        """The single images in an image, a batch, or a (nested) list of those."""

        def flatten(images):
            if isinstance(images, (list, tuple)):
                return [image for nested in images for image in flatten(nested)]
            is_batch = not isinstance(images, Image.Image) and images.ndim == expected_ndims + 1
            return list(images) if is_batch else [images]

        images = flatten(self.fetch_images(images))
        if not images:
            raise ValueError("At least one image is needed, got none.")
        return images

    def process_image(
        self,
        image: "Image.Image | np.ndarray | torch.Tensor",
        do_convert_rgb: bool | None = None,
        input_data_format: str | ChannelDimension | None = None,
        device: "str | torch.device | None" = None,
        max_value: int | None = None,
        **kwargs,
    ) -> torch.Tensor:
        """
        An image of any kind as a tensor of shape `(channels, height, width)`, of type uint8 or float32. With the
        settings of a call in `kwargs`, warns of values that do not look like what these expect.
        """
        max_value = self.max_value if max_value is None else max_value
        is_pil, is_numpy = isinstance(image, Image.Image), isinstance(image, np.ndarray)
        is_16_bit = is_pil and image.mode.startswith("I")
        if is_pil:
            self._check_depth(image, max_value)
            # PIL would clip 16 bits and floats on their way to RGB. The indices of a palette are no picture.
            if (do_convert_rgb and not is_16_bit and image.mode != "F") or image.mode in ("P", "PA"):
                image = image.convert("RGB")

        kind = type(image).__name__
        image = to_tensor(image)
        if image.ndim not in (2, 3) or image.numel() == 0:
            raise ValueError(
                f"An image must have 2 or 3 dimensions and at least 1 pixel, got shape {tuple(image.shape)}."
            )
        if image.ndim == 2:
            image = image[None]
        else:
            # Where channels are not converted, there is a mean for each.
            num_channels = None if do_convert_rgb else np.size(self.image_mean)
            if is_pil:
                input_data_format = ChannelDimension.LAST
            elif input_data_format is None:
                input_data_format = infer_data_format(image, is_numpy, num_channels)
            if input_data_format == ChannelDimension.LAST:
                image = image.permute(2, 0, 1)

        if do_convert_rgb:
            if image.shape[0] in (2, 4):
                image = image[:-1]
            if image.shape[0] not in (1, 3):
                raise ValueError(
                    f"Cannot convert {image.shape[0]} channels to RGB. Pass `input_data_format` if they are not the "
                    "channels, or `do_convert_rgb=False` to keep them."
                )
        # Transparency, which may have more bits than the colours, is gone before values are scaled.
        image = to_8_bit_range(image, is_16_bit, max_value)
        if do_convert_rgb:
            image = image.expand(3, -1, -1)
        self._warn_of_range(image, kind, **kwargs)
        return image.to(device or image.device).contiguous()

    def _check_depth(self, image: Image.Image, max_value: int):
        """Refuses, or warns of, files whose 16 bits PIL cuts."""
        if not is_cut_to_8_bits(image):
            return
        problem = (
            f"PIL keeps the upper 8 of the 16 bits of each channel of this {image.format} file. Read it with another "
            "library, such as tifffile or OpenCV, and pass the uint16 array."
        )
        if max_value != 65535:
            raise ValueError(f"{problem} As it is, `max_value={max_value}` cannot be applied.")
        logger.warning_once(problem)

    def _warn_of_range(
        self,
        image: torch.Tensor,
        kind: str,
        do_rescale: bool | None = None,
        rescale_factor: float = 1 / 255,
        do_normalize: bool | None = None,
        image_mean: "float | tuple[float, ...]" = 0.0,
        image_std: "float | tuple[float, ...]" = 1.0,
        **kwargs,
    ):
        """
        Warns of floats that look rescaled or normalised but are to be rescaled, which makes an image nearly black, and
        of the range of uint8 that is to be normalised as it is.
        """
        if do_rescale and image.is_floating_point():
            lowest, highest = image.aminmax()
            # What is normalised has values below 0, and reaches some standard deviations.
            is_scaled = 255 * rescale_factor * highest <= (3 if lowest < 0 else 1)
            if is_scaled and (lowest < 0 or highest > 0):
                logger.warning_once(
                    f"{type(self).__name__}: it looks like you are trying to rescale already rescaled images: the "
                    f"pixels of a float image ({kind}) lie between {'-3 and 3' if lowest < 0 else '0 and 1'}, but 0 "
                    "to 255 is expected. If they are, set `do_rescale=False`"
                    + (", and `do_normalize=False` if they are normalised, too." if lowest < 0 else ".")
                )
        elif do_rescale is False and do_normalize and max(np.max(image_mean), np.max(image_std)) < 1:
            if image.max() > 3:
                logger.warning_once(
                    f"{type(self).__name__}: the pixels of an image ({kind}) are beyond 1, and are normalised by an "
                    "`image_mean` and `image_std` for 0 to 1 without being rescaled. Set `do_rescale=True` for images "
                    "whose pixels lie between 0 and 255."
                )

    def process_segmentation_maps(
        self, segmentation_maps: ImageInput, images: list[torch.Tensor], do_reduce_labels: bool | None = None
    ) -> list[torch.Tensor]:
        """Segmentation maps of any kind as int64 tensors of shape `(height, width)`, that of their `images`."""
        if not isinstance(segmentation_maps, (list, tuple)):
            is_array = isinstance(segmentation_maps, (np.ndarray, torch.Tensor))
            is_batch = is_array and segmentation_maps.ndim > 2 and len(segmentation_maps) == len(images)
            segmentation_maps = list(segmentation_maps) if is_batch else [segmentation_maps]
        if len(segmentation_maps) != len(images):
            raise ValueError(
                f"Expected {len(images)} segmentation maps, one for each image, got {len(segmentation_maps)}."
            )

        processed_maps = []
        for index, (segmentation_map, image) in enumerate(zip(segmentation_maps, images, strict=True)):
            segmentation_map = open_map(segmentation_map)
            if isinstance(segmentation_map, str):
                raise ValueError(
                    f"Segmentation map {index} must be an image, or the path of a file: {segmentation_map}"
                )
            labels = to_labels(segmentation_map, f"Segmentation map {index}").to(image.device)
            height, width = image.shape[-2:]
            if tuple(labels.shape) not in ((height, width), (1, height, width), (height, width, 1)):
                raise ValueError(
                    f"Segmentation map {index} must have one label for each pixel of its image, shape ({height}, "
                    f"{width}), got {tuple(labels.shape)}. Resize it to the nearest label, or turn colours "
                    "into labels."
                )
            labels = labels.reshape(height, width)
            processed_maps.append(reduce_labels(labels) if do_reduce_labels else labels)
        return processed_maps

    def _preprocess_image_like_inputs(
        self,
        images: ImageInput,
        segmentation_maps: ImageInput | None = None,
        *,
        do_convert_rgb: bool | None,
        input_data_format: str | ChannelDimension | None,
        device: "str | torch.device | None",
        do_reduce_labels: bool | None,
        max_value: int | None,
        **kwargs,
    ) -> BatchFeature:
        range_settings = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
        images = self._prepare_image_like_inputs(
            images,
            do_convert_rgb=do_convert_rgb,
            input_data_format=input_data_format,
            device=device,
            max_value=max_value,
            **{name: kwargs[name] for name in range_settings},
        )
        if segmentation_maps is not None:
            segmentation_maps = self.process_segmentation_maps(segmentation_maps, images, do_reduce_labels)
        return self._preprocess(images, segmentation_maps, **kwargs)

    def _preprocess(
        self,
        images: list[torch.Tensor],
        segmentation_maps: list[torch.Tensor] | None,
        do_resize: bool | None,
        size: SizeDict | None,
        resample: "PILImageResampling | int",
        antialias: bool | None,
        do_rescale: bool | None,
        rescale_factor: float,
        do_normalize: bool | None,
        image_mean: "float | tuple[float, ...]",
        image_std: "float | tuple[float, ...]",
        do_split_image: bool | None,
        crop_size: SizeDict | None,
        window_stride: int | dict[str, int],
        do_pad: bool | None,
        pad_size: SizeDict | None,
        return_tensors: str | TensorType | None,
        **kwargs,
    ) -> BatchFeature:
        data = {"pixel_values": [], "window_offsets": []}
        if segmentation_maps is not None:
            data["labels"] = []

        for index, image in enumerate(images):
            if do_resize:
                image = self.resize(image, size, resample=resample, antialias=antialias)
            image = image.float()
            if do_rescale:
                image = image * rescale_factor
            if do_normalize:
                image = self.normalize(image, image_mean, image_std)

            image_size = window_size = tuple(image.shape[-2:])
            if do_split_image:
                window_size = crop_size.height, crop_size.width
                image_size = get_enlarged_size(image_size, window_size)
                image = resize_without_antialias(image, image_size)
            if segmentation_maps is not None:
                labels = resize_labels(segmentation_maps[index], image_size)

            for window in get_windows(index, image_size, window_size, get_strides(window_stride)):
                data["pixel_values"].append(image[window.area])
                data["window_offsets"].append(torch.tensor(window))
                if segmentation_maps is not None:
                    data["labels"].append(labels[window.area])

        if segmentation_maps is not None and return_tensors is None and len(data["labels"]) > len(images):
            logger.warning_once(
                "There are more windows than images, since `do_split_image` cuts them. In a dataset's transform "
                "(`set_transform`, `with_transform`), where each row takes one item of the lists that are returned, "
                "windows are lost or given to other images. Pass `do_split_image=False` there, or `return_tensors` if "
                "you take all windows."
            )

        if do_pad:
            data["pixel_values"] = self.pad(data["pixel_values"], pad_size)
            if segmentation_maps is not None:
                data["labels"] = self.pad(data["labels"], pad_size, fill_value=IGNORE_INDEX)

        if return_tensors is not None:
            sizes = sorted({tuple(image.shape[-2:]) for image in data["pixel_values"]})
            if len(sizes) > 1:
                raise ValueError(
                    f"Images of different sizes cannot be stacked: after resizing, their (height, width) are {sizes}. "
                    "Pass `do_split_image=True` for sliding windows, `do_pad=True`, or a `size` with height and width."
                )
            data = {name: torch.stack(values) for name, values in data.items()}
        elif self.backend == "pil":
            data = {name: [value.numpy() for value in values] for name, values in data.items()}
        return BatchFeature(data, tensor_type=return_tensors)

    def resize(
        self,
        image: torch.Tensor,
        size: SizeDict,
        resample: "PILImageResampling | int" = PILImageResampling.BILINEAR,
        antialias: bool | None = True,
        **kwargs,
    ) -> torch.Tensor:
        """Resizes an image of shape `(channels, height, width)`, of type uint8 or float32, to what `size` asks for."""
        resize = self.resize_with_antialias if antialias else resize_without_antialias
        return resize(image, get_resized_size(image.shape[-2:], size), resample)

    def normalize(
        self, image: torch.Tensor, mean: "float | tuple[float, ...]", std: "float | tuple[float, ...]", **kwargs
    ) -> torch.Tensor:
        """Subtracts `mean` from a float32 image of shape `(channels, height, width)` and divides it by `std`."""
        mean, std = (torch.tensor(values, device=image.device).reshape(-1, 1, 1) for values in (mean, std))
        if not {len(mean), len(std)} <= {1, len(image)}:
            raise ValueError(
                f"`image_mean` and `image_std` must have a value for each of the {len(image)} channels, got "
                f"{len(mean)} and {len(std)}."
            )
        return (image - mean) / std

    def pad(
        self, images: list[torch.Tensor], pad_size: SizeDict | None = None, fill_value: int = 0, **kwargs
    ) -> list[torch.Tensor]:
        """Pads `(..., height, width)` images at the bottom and right to `pad_size`, or to the largest of each side."""
        height, width = (max(image.shape[axis] for image in images) for axis in (-2, -1))
        if pad_size is not None:
            if pad_size.height < height or pad_size.width < width:
                raise ValueError(
                    f"`pad_size` ({pad_size.height} x {pad_size.width}) must be at least the largest height and width "
                    f"of the images ({height} x {width})."
                )
            height, width = pad_size.height, pad_size.width
        return [
            nn.functional.pad(image, (0, width - image.shape[-1], 0, height - image.shape[-2]), value=fill_value)
            for image in images
        ]

    @torch.no_grad()
    def post_process_semantic_segmentation(
        self,
        outputs,
        target_sizes: "list[tuple[int, int]] | torch.Tensor | None" = None,
        return_segmentation_scores: bool = False,
    ) -> "list[torch.Tensor] | list[SemanticSegmentationPostProcessorOutput]":
        """
        Converts the output of [`SegmenterForSemanticSegmentation`] into semantic segmentation maps: upsamples the
        logits to pixels, averages them where windows overlap, drops padding, resizes to the target size, and takes the
        label with the highest score. A model with one logit gives label 1 where its sigmoid exceeds 0.5, else 0.

        Args:
            outputs ([`SegmenterSemanticSegmenterOutput`]):
                Output of the model, or a mapping: `logits` of shape `(num_windows, num_labels, grid_height,
                grid_width)` and the `window_offsets` that the image processor gave, of shape `(num_windows, 7)`, as
                tensors or arrays. Without offsets, each row of the logits is taken to be a whole image, and stretched;
                with `do_split_image` they are needed.
            target_sizes (`list[tuple[int, int]]` or `torch.Tensor` of shape `(num_images, 2)`, *optional*):
                `(height, width)` of each map in pixels, usually those of the original images. Defaults to the sizes of
                the resized images, or to that of the logits if there are no offsets.
            return_segmentation_scores (`bool`, *optional*, defaults to `False`):
                Whether to return the scores too: the averaged logits, whose softmax (sigmoid, if there is only one) is
                the probabilities.

        Returns:
            `list[torch.Tensor]` with the int64 map of each image, `(height, width)`; or, with
            `return_segmentation_scores=True`, a list of [`SemanticSegmentationPostProcessorOutput`] with that map as
            `segmentation` and with `segmentation_scores`, float32 of shape `(num_labels, height, width)`.

        Scores that are NaN or infinite make no map, of which a warning tells.

        Raises:
            ValueError: if logits, offsets and target sizes do not fit together, or windows do not cover their image.
        """
        logits, window_offsets = self._read_outputs(outputs)
        num_bad = (~logits.isfinite()).flatten(1).any(dim=1).sum().item()
        if num_bad:
            logger.warning(
                f"The scores of {num_bad} of {len(logits)} image(s) or window(s) are NaN or infinite: the labels "
                "there mean nothing. Likely causes are weights of a training that diverged, and float16, whose "
                "numbers end at 65504: then load the model with `dtype=torch.bfloat16` or `torch.float32`."
            )

        if window_offsets is None:
            # Each row is a whole image, which is measured in patches.
            grid = tuple(logits.shape[-2:])
            images = [{row: Window(row, 0, 0, *grid, *grid)} for row in range(len(logits))]
            patch_size = 1
        else:
            images = group_windows(window_offsets, logits, self.patch_size, is_padded=bool(self.do_pad))
            patch_size = self.patch_size

        if target_sizes is None:
            target_sizes = [next(iter(windows.values())).image_size for windows in images]
        elif isinstance(target_sizes, torch.Tensor):
            target_sizes = target_sizes.tolist()
        if np.shape(target_sizes) != (len(images), 2) or np.min(target_sizes) < 1:
            missing = " There are no `window_offsets`, so that each row of the logits is an image."
            raise ValueError(
                f"`target_sizes` must be a (height, width) of at least 1 pixel for each of {len(images)} image(s), "
                f"got {target_sizes}.{missing if window_offsets is None else ''}"
            )

        results = []
        for windows, target_size in zip(images, target_sizes, strict=True):
            target_size = tuple(int(side) for side in target_size)
            segmentation, scores = merge_windows(
                logits, windows, patch_size, target_size, self.crop_logits, return_segmentation_scores
            )
            if return_segmentation_scores:
                data = {"segmentation": segmentation, "segmentation_scores": scores}
                results.append(SemanticSegmentationPostProcessorOutput(data=data))
            else:
                results.append(segmentation)
        return results

    def _read_outputs(self, outputs: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Logits and offsets of a mapping or an object, which other runtimes give as arrays."""
        logits, window_offsets = (
            outputs.get(name) if isinstance(outputs, Mapping) else getattr(outputs, name, None)
            for name in ("logits", "window_offsets")
        )
        logits = None if logits is None else to_tensor(logits)
        if logits is None or logits.ndim != 4:
            got = type(outputs).__name__ if logits is None else f"shape {tuple(logits.shape)}"
            raise ValueError(
                "`outputs` must be those of the model, or a mapping, with `logits` of shape (num_windows, num_labels, "
                f"grid_height, grid_width), got {got}."
            )
        if window_offsets is not None:
            return logits, to_tensor(window_offsets).long()
        if self.do_split_image:
            raise ValueError(
                "`outputs` have no `window_offsets`, which say where the windows of `do_split_image` lie. The model "
                "hands them on where it gets all that the image processor made, `model(**inputs)`. Otherwise pass "
                '`{"logits": logits, "window_offsets": inputs["window_offsets"]}`. For logits of whole images use an '
                "image processor with `do_split_image=False`."
            )
        return logits, None

    def to_dict(self) -> dict:
        """The settings, and in `auto_map` where `trust_remote_code=True` finds the class of each backend."""
        # This import is in a function, as that file imports this one. The library looks for relative imports in
        # functions too, and copies what it finds along with the class that is saved: so each of the two files brings
        # the other.
        from .image_processing_pil_segmenter import SegmenterImageProcessorPil

        def reference(cls):
            return f"{cls.__module__.rpartition('.')[-1]}.{cls.__name__}"

        settings = super().to_dict()
        references = {"torchvision": reference(SegmenterImageProcessor), "pil": reference(SegmenterImageProcessorPil)}
        # Subclasses keep the reference to themselves that the library writes.
        if reference(type(self)) in references.values():
            settings["auto_map"] = {"AutoImageProcessor": references}
        return settings


class SegmenterImageProcessor(SegmenterImageProcessingMixin, TorchvisionBackend):
    r"""
    Image processor of Segmenter, on the device of the images or the `device` it is called with. It makes images, whole
    or in sliding windows, into inputs of the model, and outputs of the model into segmentation maps.

    Args:
        do_convert_rgb (`bool`, *optional*, defaults to `True`):
            Whether to convert images to three channels.
        do_resize (`bool`, *optional*, defaults to `True`):
            Whether to resize images to `size`.
        size (`dict[str, int]`, *optional*, defaults to `{"shortest_edge": 512, "longest_edge": 2048}`):
            In pixels. `shortest_edge`, with or without `longest_edge`, keeps the aspect ratio; `height` and `width` do
            not.
        resample (`PILImageResampling`, *optional*, defaults to `PILImageResampling.BILINEAR`):
            Filter for resizing images. Segmentation maps are resized to the nearest label.
        antialias (`bool`, *optional*, defaults to `True`):
            Whether to smooth images before reducing them. `False` resizes as the original implementation and
            MMSegmentation do, and as converted checkpoints expect.
        do_rescale (`bool`, *optional*, defaults to `True`):
            Whether to multiply pixel values by `rescale_factor`.
        rescale_factor (`float`, *optional*, defaults to `1 / 255`):
            Factor for `do_rescale`.
        do_normalize (`bool`, *optional*, defaults to `True`):
            Whether to subtract `image_mean` and divide by `image_std`.
        image_mean (`float` or `list[float]`, *optional*, defaults to `[0.5, 0.5, 0.5]`):
            Mean of each channel.
        image_std (`float` or `list[float]`, *optional*, defaults to `[0.5, 0.5, 0.5]`):
            Standard deviation of each channel.
        do_split_image (`bool`, *optional*, defaults to `False`):
            Whether to cut images into sliding windows, the protocol of the published results. An image below the
            window is enlarged to it.
        crop_size (`dict[str, int]`, *optional*, defaults to `{"height": 512, "width": 512}`):
            Height and width of the windows in pixels.
        window_stride (`int`, `(height, width)` or `dict[str, int]`, *optional*, defaults to 512):
            Distance of neighbouring windows in pixels, at most the sides of `crop_size`: in both directions, or for
            each of them, as a pair or with the keys `height` and `width`. The last windows are flush with the border.
        do_pad (`bool`, *optional*, defaults to `False`):
            Whether to pad images at the bottom and right to `pad_size`, after normalisation with 0, labels with 255.
        pad_size (`dict[str, int]`, *optional*):
            Height and width in pixels. Defaults to the largest height and width of the images.
        patch_size (`int`, *optional*, defaults to 16):
            Side of the model's patches in pixels, by which post-processing upsamples the logits.
        do_reduce_labels (`bool`, *optional*, defaults to `False`):
            Whether 0 means "unlabelled" in segmentation maps (e.g. of ADE20K): 0 becomes 255, which is ignored, and
            all other labels but 255 are reduced by 1.
        crop_logits (`bool`, *optional*, defaults to `True`):
            How post-processing upsamples windows whose sides are no multiples of the patch size: to the padded size,
            of which it crops the padding, as the original implementation does; or, with `False`, stretched to the
            window, as by MMSegmentation.
        max_value (`int`, *optional*, defaults to 65535):
            What 16-bit images (uint16; modes I;16 and I of PIL) hold at most. They are scaled to 8 bits so that it
            becomes 255. 1023, 4095 or 16383 where 10, 12 or 14 bits are stored as 16; larger values are refused.

    Raises:
        ImportError: without torchvision. [`SegmenterImageProcessorPil`] takes the same settings and does without.
        ValueError: for settings that do not fit together, here and at each call.

    Example:

    ```python
    >>> import numpy as np
    >>> from segmenter_hf import SegmenterImageProcessor

    >>> image_processor = SegmenterImageProcessor(do_split_image=True)
    >>> inputs = image_processor(np.zeros((375, 500, 3), dtype=np.uint8), return_tensors="pt")
    >>> inputs["pixel_values"].shape
    torch.Size([2, 3, 512, 512])
    >>> inputs["window_offsets"].tolist()
    [[0, 0, 0, 512, 512, 512, 683], [0, 0, 171, 512, 512, 512, 683]]

    ```"""

    valid_kwargs = SegmenterImageProcessorKwargs

    def __init__(self, **kwargs: Unpack[SegmenterImageProcessorKwargs]):
        # This is checked here, as the PIL class imports this file, and must do so without torchvision.
        requires_backends(self, ["torchvision"])
        super().__init__(**kwargs)

    def resize_with_antialias(
        self, image: torch.Tensor, size: tuple[int, int], resample: "PILImageResampling | int"
    ) -> torch.Tensor:
        return TorchvisionBackend.resize(self, image, SizeDict(height=size[0], width=size[1]), resample)


__all__ = ["SegmenterImageProcessor"]
