"""Pictures of segmentations, drawn with PIL."""

import colorsys
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from transformers.image_utils import ImageInput

from .data.labels import find_label_set, with_integer_keys
from .image_processing_pil_segmenter import SegmenterImageProcessorPil
from .image_processing_segmenter import SegmenterImageProcessingMixin, open_map, to_labels


def palette_for(id2label: Mapping[int | str, str]) -> list[tuple[int, int, int]]:
    """The colours of the built-in label set that has exactly these names, otherwise as many distinct colours."""
    label_set = find_label_set(id2label)
    return distinct_colours(len(id2label)) if label_set is None else list(label_set.palette)


def distinct_colours(number: int) -> list[tuple[int, int, int]]:
    """Colours whose hues are a golden angle apart, so that neighbours in the list differ clearly, at any length."""
    golden = (math.sqrt(5) - 1) / 2
    return [
        tuple(
            round(255 * channel)
            for channel in colorsys.hsv_to_rgb(index * golden % 1, 0.65 + 0.35 * (index % 2), 0.95)
        )
        for index in range(number)
    ]


def make_photo(image: ImageInput, image_processor: SegmenterImageProcessingMixin | None = None) -> Image.Image:
    """
    An image of any kind, as an image processor reads it (by default, one for RGB), to be looked at: the first three
    bands as RGB, or the first as grey.
    """
    image_processor = image_processor or SegmenterImageProcessorPil()
    image = image_processor.fetch_images(image)
    settings = ("do_convert_rgb", "do_rescale", "rescale_factor")
    pixels = image_processor.process_image(image, **{name: getattr(image_processor, name) for name in settings})
    if pixels.is_floating_point():
        pixels = (pixels * (1 if image_processor.do_rescale else 255)).round().clamp(0, 255).to(torch.uint8)
    pixels = pixels[:3] if len(pixels) >= 3 else pixels[:1].expand(3, -1, -1)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy())


def draw_overlay(
    image: ImageInput,
    segmentation: ImageInput,
    id2label: Mapping[int | str, str],
    opacity: float = 0.55,
    palette: Sequence[Sequence[int]] | None = None,
    ignore_index: int = 255,
) -> Image.Image:
    """
    Draws a label map over its image, with a legend of the labels that occur, largest first, on the right. Pixels
    without a label show the image alone.

    Args:
        image (`PIL.Image.Image`, path, array or tensor): The picture that was segmented, as the image processor takes
            it.
        segmentation (array, tensor, `PIL.Image.Image` or path): Its label map, of shape `(height, width)`.
        id2label (`Mapping[int | str, str]`): Names of the labels.
        opacity (`float`, *optional*, defaults to 0.55): Weight of the colours against the picture.
        palette (`Sequence[Sequence[int]]`, *optional*): Red, green and blue of each label, such as `config.palette`.
            Defaults to [`palette_for`] the labels.
        ignore_index (`int`, *optional*, defaults to 255): The label of pixels that have none, unless it has a name.

    Raises:
        ValueError: if the map's size is not the image's, or it holds labels without a name.
    """
    id2label = with_integer_keys(id2label)
    image = make_photo(image)
    labels = _read_map(segmentation, "segmentation", image, id2label, ignore_index)
    palette = np.array(palette_for(id2label) if palette is None else palette, dtype=np.uint8)
    is_named = np.isin(labels, list(id2label))
    coloured = np.where(is_named[..., None], palette[np.where(is_named, labels, 0)], np.asarray(image))
    blended = Image.blend(image, Image.fromarray(coloured), opacity)
    return _add_legend(blended, labels[is_named], id2label, palette)


def draw_comparison(
    image: ImageInput,
    reference: ImageInput,
    prediction: ImageInput,
    id2label: Mapping[int | str, str],
    title: str = "",
    opacity: float = 0.7,
    palette: Sequence[Sequence[int]] | None = None,
    ignore_index: int = 255,
) -> Image.Image:
    """
    Draws an image, its label map and a prediction side by side, under a line of text, with a legend of the labels that
    occur in either. Ignored pixels of the label map are striped.

    Args:
        image (`PIL.Image.Image`, path, array or tensor): The picture, as for [`draw_overlay`].
        reference (array, tensor, `PIL.Image.Image` or path): Its label map, `ignore_index` where there is no label.
        prediction (array, tensor, `PIL.Image.Image` or path): What a model made of it.
        id2label (`Mapping[int | str, str]`): Names of the labels.
        title (`str`, *optional*): The line of text.
        opacity (`float`, *optional*, defaults to 0.7): Weight of the colours against the picture.
        palette (`Sequence[Sequence[int]]`, *optional*): See [`draw_overlay`].
        ignore_index (`int`, *optional*, defaults to 255): The label of ignored pixels.

    Raises:
        ValueError: if a map's size is not the image's, or it holds labels without a name.
    """
    id2label = with_integer_keys(id2label)
    image = make_photo(image)
    reference = _read_map(reference, "reference", image, id2label, ignore_index)
    prediction = _read_map(prediction, "prediction", image, id2label)
    palette = np.array(palette_for(id2label) if palette is None else palette, dtype=np.uint8)
    ignored = reference == ignore_index
    rows, columns = np.indices(reference.shape)
    stripes = np.where(((rows + columns) // 4 % 2 == 0)[..., None], 255, 0).astype(np.uint8)
    coloured = np.where(ignored[..., None], stripes, palette[np.where(ignored, 0, reference)])
    panels = [
        image,
        Image.blend(image, Image.fromarray(coloured), opacity),
        Image.blend(image, Image.fromarray(palette[prediction]), opacity),
    ]
    gap, text_height = 6, 24
    canvas = Image.new("RGB", (3 * image.width + 2 * gap, image.height + text_height), "white")
    for position, panel in enumerate(panels):
        canvas.paste(panel, (position * (image.width + gap), text_height))
    ImageDraw.Draw(canvas).text(
        (4, text_height / 2), title, fill="black", font=ImageFont.load_default(size=14), anchor="lm"
    )
    labels = np.concatenate([reference[~ignored], prediction.ravel()])
    return _add_legend(canvas, labels, id2label, palette)


def _read_map(
    label_map: ImageInput, name: str, image: Image.Image, id2label: dict[int, str], ignore_index: int | None = None
) -> np.ndarray:
    """A label map of any kind as an array, of the size of its image and with the labels that have names."""
    labels = to_labels(open_map(label_map), f"`{name}`").cpu().numpy()
    if labels.shape != (image.height, image.width):
        raise ValueError(
            f"`{name}` must have the image's (height, width) {(image.height, image.width)}, got {labels.shape}."
        )
    unknown = sorted(set(np.unique(labels).tolist()) - {*id2label, ignore_index})
    if unknown:
        ignored = "" if ignore_index is None else f", or {ignore_index} where pixels have none"
        raise ValueError(
            f"`{name}` must hold the labels that `id2label` names, {min(id2label)} to {max(id2label)}{ignored}; got "
            f"{', '.join(map(str, unknown[:5]))}."
        )
    return labels


def _add_legend(
    picture: Image.Image, labels: np.ndarray, id2label: dict[int, str], palette: np.ndarray
) -> Image.Image:
    """The picture with the names and colours of the labels of pixels on its right, the most frequent first."""
    labels, counts = np.unique(labels, return_counts=True)
    labels = labels[np.argsort(-counts)]
    row = max(14, min(28, picture.height // max(1, len(labels))))
    font = ImageFont.load_default(size=max(9, int(0.6 * row)))
    legend_width = int(1.2 * row + max((font.getlength(id2label[index]) for index in labels), default=0) + 0.6 * row)
    canvas = Image.new("RGB", (picture.width + legend_width, picture.height), "white")
    canvas.paste(picture, (0, 0))
    draw = ImageDraw.Draw(canvas)
    for position, index in enumerate(labels):
        top, left = position * row, picture.width + 0.3 * row
        draw.rectangle(
            (left, top + 0.2 * row, left + 0.6 * row, top + 0.8 * row), fill=tuple(palette[index]), outline="black"
        )
        draw.text((left + 0.9 * row, top + 0.5 * row), id2label[index], fill="black", font=font, anchor="lm")
    return canvas
