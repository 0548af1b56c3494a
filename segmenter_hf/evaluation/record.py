"""
The record of how a figure was measured: of a published one, by an evaluation here, or what an image processor does.

Conversion reads this too, so it imports nothing that takes memory or time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, get_args, get_origin

from transformers import BaseImageProcessor


# Ratios of the multi-scale protocol, for each of which the image is seen flipped too: `set_multiscale_mode` of
# segm/data/base.py in the original implementation, and `--aug-test` of MMSegmentation's tools/test.py.
MULTI_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


class Sides(NamedTuple):
    """Sides of a rectangle, or distances down and across, in pixels."""

    height: int
    width: int


@dataclass(frozen=True)
class EvaluationProtocol:
    """
    How a figure was measured. What is `None` is not known, or was not done.

    Args:
        window_size (`int` or [`Sides`], *optional*): Sides of the windows in pixels, one if they are square;
            `None` for whole images.
        window_stride (`int` or [`Sides`], *optional*): Distance of neighbouring windows in pixels.
        shortest_edge (`int`, *optional*): Images were resized until the short side had this many pixels,
        longest_edge (`int`, *optional*): or the long side this many.
        scales (`tuple[float, ...]`): Ratios at which the resized images were seen.
        flip (`bool`): Whether each was also seen flipped.
        image_size ([`Sides`], *optional*): Sides in pixels that all images were resized to, in place of the edges.
        antialias (`bool`, *optional*): Whether resizing smoothed images before reducing them.
        crop_logits (`bool`, *optional*): Whether logits were upsampled to the size that was padded to whole patches,
            and cropped.
        exclude_classes (`tuple[str, ...]`): Classes that the mean leaves out.
        ignore_index (`int`, *optional*): Label of the pixels that were not counted.
        backend (`str`, *optional*): That of the image processor.
        dtype (`str`, *optional*): That of the model, or of its autocast.

    Raises:
        ValueError: for values that cannot be.
    """

    window_size: int | Sides | None
    window_stride: int | Sides | None
    shortest_edge: int | None
    longest_edge: int | None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    image_size: Sides | None = None
    antialias: bool | None = None
    crop_logits: bool | None = None
    exclude_classes: tuple[str, ...] = ()
    ignore_index: int | None = None
    backend: str | None = None
    dtype: str | None = None

    def __post_init__(self):
        for field in fields(self):
            value, is_list = getattr(self, field.name), get_origin(field.type) is tuple
            types = get_args(field.type) or (field.type,)
            # Types are compared exactly, since True is an integer in Python's eyes only.
            if (type(value) is tuple) is not is_list or any(
                type(each) not in types for each in (value if is_list else [value])
            ):
                raise ValueError(f"`{field.name}` of the results is {value!r}, which it cannot be.")
        for name in ("window_size", "window_stride", "shortest_edge", "longest_edge", "image_size"):
            value = getattr(self, name)
            sides = value if isinstance(value, Sides) else (value,)
            if value is not None and not all(type(side) is int and side > 0 for side in sides):
                raise ValueError(f"`{name}` of the results must be pixels, got {value!r}.")
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"`scales` of the results must be positive ratios, got {self.scales}.")
        for name in ("window_size", "window_stride"):
            value = getattr(self, name)
            # Squares are one number, as published protocols have them, so that equal protocols compare as such.
            if isinstance(value, Sides) and value.height == value.width:
                object.__setattr__(self, name, value.height)

    @property
    def is_multi_scale(self) -> bool:
        return self.flip or self.scales != (1.0,)

    @property
    def scales_name(self) -> str:
        """What readers call it."""
        return "multi-scale + flip" if self.is_multi_scale else "single scale"

    @property
    def image_processor_settings(self) -> dict[str, Any]:
        """What an image processor is set to that resizes and cuts images by this protocol, at scale 1."""
        window = self.window_size if isinstance(self.window_size, Sides) else Sides(self.window_size, self.window_size)
        stride = self.window_stride
        return {
            "size": {"shortest_edge": self.shortest_edge, "longest_edge": self.longest_edge},
            "crop_size": window._asdict(),
            "window_stride": stride._asdict() if isinstance(stride, Sides) else stride,
        }

    @classmethod
    def from_image_processor(cls, image_processor: BaseImageProcessor) -> "EvaluationProtocol":
        """What an image processor does by itself: the single-scale protocol."""
        return cls.from_settings(make_settings(image_processor))

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> "EvaluationProtocol":
        """
        What the settings of an evaluation amount to.

        Args:
            settings (`Mapping`): The `protocol` of a file of results, which [`make_settings`] made.

        Raises:
            ValueError: for values that are missing, or cannot be.
        """
        window, stride, size = None, None, {}
        if take(settings, "do_split_image", bool):
            window = take(settings, "window", Mapping)
            stride = take(settings, "window_stride", (int, Mapping))
        if take(settings, "do_resize", bool):
            size = take(settings, "size", Mapping)
        protocol = cls(
            window_size=_read_sides(window, "window"),
            window_stride=_read_sides(stride, "window_stride"),
            shortest_edge=size.get("shortest_edge"),
            longest_edge=size.get("longest_edge"),
            image_size=Sides(size["height"], size["width"]) if {"height", "width"} <= size.keys() else None,
            scales=tuple(take(settings, "scales", Sequence)),
            flip=take(settings, "flip", bool),
            exclude_classes=tuple(settings.get("exclude_classes", ())),
            **{name: settings.get(name) for name in ("antialias", "crop_logits", "ignore_index", "backend", "dtype")},
        )
        if settings.get("multi_scale", protocol.is_multi_scale) is not protocol.is_multi_scale:
            raise ValueError(f"`multi_scale` is {settings['multi_scale']}, which does not fit {protocol}.")
        return protocol

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "EvaluationProtocol":
        """
        The protocol that [`to_dict`] made.

        Raises:
            ValueError: for fields that are missing, unknown, or have values that cannot be.
        """
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        return make_checked(cls, {name: _read_sides(value, name) for name, value in values.items()}, "protocol")

    def to_dict(self) -> dict[str, Any]:
        """What is written as JSON: sizes, scales and flip, and of the rest what has a value."""
        values = {}
        for name, value in vars(self).items():
            if isinstance(value, Sides):
                values[name] = value._asdict()
            elif isinstance(value, tuple):
                values |= {name: list(value)} if value else {}
            # Sizes also where they have no value: images may be seen whole, or not resized.
            elif value is not None or name in ("window_size", "window_stride", "shortest_edge", "longest_edge"):
                values[name] = value
        return values


def make_settings(
    image_processor: BaseImageProcessor,
    *,
    multi_scale: bool = False,
    ignore_index: int | None = None,
    exclude_classes: Sequence[str] = (),
    dtype: str | None = None,
    window_batch_size: int | None = None,
) -> dict[str, Any]:
    """The settings of an evaluation, also those that had no effect, as a file of results has them."""
    stride = image_processor.window_stride
    return {
        "multi_scale": multi_scale,
        "scales": list(MULTI_SCALES) if multi_scale else [1.0],
        "flip": multi_scale,
        "do_resize": image_processor.do_resize,
        "size": {name: edge for name, edge in dict(image_processor.size).items() if edge},
        "do_split_image": image_processor.do_split_image,
        "window": {name: image_processor.crop_size[name] for name in ("height", "width")},
        "window_stride": dict(stride) if isinstance(stride, Mapping) else stride,
        "antialias": image_processor.antialias,
        "crop_logits": image_processor.crop_logits,
        "do_reduce_labels": image_processor.do_reduce_labels,
        "max_value": image_processor.max_value,
        "ignore_index": ignore_index,
        "exclude_classes": list(exclude_classes),
        "backend": image_processor.backend,
        "dtype": dtype,
        "window_batch_size": window_batch_size,
        "label_size": "original",
    }


def take(values: Mapping[str, Any], name: str, expected: type | tuple[type, ...]) -> Any:
    """
    A value of what evaluation wrote.

    Raises:
        ValueError: if there is none, or one of another type.
    """
    if name not in values:
        raise ValueError(f"The results have no `{name}`. scripts/evaluate_semantic_segmentation.py writes it.")
    value = values[name]
    # Truth values are integers, and text is a sequence, in Python's eyes only.
    is_odd = isinstance(value, bool) and expected is not bool or isinstance(value, str) and expected is not str
    if is_odd or not isinstance(value, expected):
        raise ValueError(f"`{name}` of the results is {value!r}, which it cannot be.")
    return value


def make_checked(cls: type, values: Mapping[str, Any], name: str) -> Any:
    """
    An instance of a dataclass.

    Raises:
        ValueError: for fields that are missing or unknown.
    """
    known = [field.name for field in fields(cls)]
    unknown = [key for key in values if key not in known]
    if unknown:
        raise ValueError(f"A {name} has no field {', '.join(map(repr, unknown))}; its fields are {', '.join(known)}.")
    try:
        return cls(**values)
    except TypeError as error:
        raise ValueError(f"A {name} lacks fields: {error}") from error


def _read_sides(value: Any, name: str) -> Any:
    if not isinstance(value, Mapping):
        return value
    if set(value) != {"height", "width"}:
        raise ValueError(f"`{name}` of the results must have `height` and `width`, got {dict(value)}.")
    return Sides(**value)


__all__ = ["MULTI_SCALES", "EvaluationProtocol", "Sides", "make_checked", "make_settings", "take"]
