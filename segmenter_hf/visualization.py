"""Pictures of segmentations, drawn with PIL."""

import colorsys
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .data.labels import LABEL_SETS, load_label_set


def palette_for(id2label: dict[int, str]) -> list[tuple[int, int, int]]:
    """The colours of the built-in label set that has exactly these names, otherwise as many distinct colours."""
    names = [id2label[index] for index in sorted(id2label)]
    for name in LABEL_SETS:
        label_set = load_label_set(name)
        if list(label_set.names) == names:
            return [tuple(colour) for colour in label_set.palette]
    return distinct_colours(len(names))


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


def draw_overlay(
    image: Image.Image,
    segmentation: np.ndarray,
    id2label: dict[int, str],
    opacity: float = 0.55,
    palette: Sequence[Sequence[int]] | None = None,
) -> Image.Image:
    """
    Draws a label map over its image, with a legend of the labels that occur, largest first, on the right.

    Args:
        image (`PIL.Image.Image`): The picture that was segmented.
        segmentation (`np.ndarray` of shape `(height, width)`): Its label map.
        id2label (`dict[int, str]`): Names of the labels.
        opacity (`float`, *optional*, defaults to 0.55): Weight of the colours against the picture.
        palette (`Sequence[Sequence[int]]`, *optional*): Red, green and blue of each label, such as `config.palette`.
            Defaults to [`palette_for`] the labels.

    Raises:
        ValueError: if the map's size is not the image's.
    """
    if segmentation.shape != (image.height, image.width):
        raise ValueError(
            f"`segmentation` must have the image's (height, width) {(image.height, image.width)}, got "
            f"{segmentation.shape}."
        )
    palette = np.array(palette_for(id2label) if palette is None else palette, dtype=np.uint8)
    blended = Image.blend(image.convert("RGB"), Image.fromarray(palette[segmentation]), opacity)
    labels, counts = np.unique(segmentation, return_counts=True)
    return _add_legend(blended, labels[np.argsort(-counts)], id2label, palette)


def draw_comparison(
    image: Image.Image,
    reference: np.ndarray,
    prediction: np.ndarray,
    id2label: dict[int, str],
    title: str = "",
    opacity: float = 0.7,
    palette: Sequence[Sequence[int]] | None = None,
    ignore_index: int = 255,
) -> Image.Image:
    """
    Draws an image, its label map and a prediction side by side, under a line of text, with a legend of the labels that
    occur in either. Ignored pixels of the label map are striped.

    Args:
        image (`PIL.Image.Image`): The picture.
        reference (`np.ndarray` of shape `(height, width)`): Its label map, `ignore_index` where there is no label.
        prediction (`np.ndarray` of shape `(height, width)`): What a model made of it.
        id2label (`dict[int, str]`): Names of the labels.
        title (`str`, *optional*): The line of text.
        opacity (`float`, *optional*, defaults to 0.7): Weight of the colours against the picture.
        palette (`Sequence[Sequence[int]]`, *optional*): See [`draw_overlay`].
        ignore_index (`int`, *optional*, defaults to 255): The label of ignored pixels.
    """
    palette = np.array(palette_for(id2label) if palette is None else palette, dtype=np.uint8)
    image = image.convert("RGB")
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
    labels, counts = np.unique(np.concatenate([reference[~ignored], prediction.ravel()]), return_counts=True)
    return _add_legend(canvas, labels[np.argsort(-counts)], id2label, palette)


def _add_legend(
    picture: Image.Image, labels: Sequence[int], id2label: dict[int, str], palette: np.ndarray
) -> Image.Image:
    """The picture with the names and colours of labels on its right."""
    row = max(14, min(28, picture.height // max(1, len(labels))))
    font = ImageFont.load_default(size=max(9, int(0.6 * row)))
    legend_width = int(1.2 * row + max(font.getlength(id2label[index]) for index in labels) + 0.6 * row)
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
