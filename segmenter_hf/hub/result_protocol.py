"""How a figure was measured, as data: sizes, windows, scales, and whatever else a figure depends on."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

from transformers import BaseImageProcessor


# Also where they have no value: of images that are seen whole, or not resized.
ALWAYS_WRITTEN = ("window_size", "window_stride", "shortest_edge", "longest_edge")


class Sides(NamedTuple):
    """Sides of a rectangle, or distances down and across, in pixels."""

    height: int
    width: int


@dataclass(frozen=True)
class ResultProtocol:
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
    """

    window_size: int | Sides | None
    window_stride: int | Sides | None
    shortest_edge: int | None
    longest_edge: int | None
    scales: tuple[float, ...]
    flip: bool
    image_size: Sides | None = None
    antialias: bool | None = None
    crop_logits: bool | None = None
    exclude_classes: tuple[str, ...] = ()
    ignore_index: int | None = None
    backend: str | None = None
    dtype: str | None = None

    @property
    def is_multi_scale(self) -> bool:
        return self.flip or self.scales != (1.0,)

    @classmethod
    def from_evaluation(cls, values: Mapping[str, Any]) -> "ResultProtocol":
        """
        The `protocol` of what evaluation writes.

        Raises:
            ValueError: for values that are missing, or cannot be.
        """
        sides = {"window_size": None, "window_stride": None}
        if take(values, "do_split_image", bool):
            sides = {
                "window_size": _read_sides(take(values, "window", Mapping), "window"),
                "window_stride": _read_sides(take(values, "window_stride", (int, Mapping)), "window_stride"),
            }
        size = take(values, "size", Mapping) if take(values, "do_resize", bool) else {}
        protocol = cls(
            **sides,
            shortest_edge=size.get("shortest_edge"),
            longest_edge=size.get("longest_edge"),
            image_size=Sides(size["height"], size["width"]) if {"height", "width"} <= size.keys() else None,
            scales=tuple(float(scale) for scale in take(values, "scales", Sequence)),
            flip=take(values, "flip", bool),
            exclude_classes=tuple(values.get("exclude_classes", ())),
            **{name: values.get(name) for name in ("antialias", "crop_logits", "ignore_index", "backend", "dtype")},
        )
        if values.get("multi_scale", protocol.is_multi_scale) is not protocol.is_multi_scale:
            raise ValueError(f"`multi_scale` is {values['multi_scale']}, which does not fit {protocol}.")
        return protocol

    @classmethod
    def from_image_processor(cls, image_processor: BaseImageProcessor) -> "ResultProtocol":
        """What an image processor does by itself: the single-scale protocol."""
        names = ("do_split_image", "window_stride", "do_resize", "antialias", "crop_logits")
        values = {name: getattr(image_processor, name) for name in names}
        window = {name: image_processor.crop_size[name] for name in ("height", "width")}
        size = {name: edge for name, edge in dict(image_processor.size).items() if edge}
        return cls.from_evaluation({**values, "window": window, "size": size, "scales": [1.0], "flip": False})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ResultProtocol":
        """The protocol that [`to_dict`] made."""
        protocol = make_checked(cls, values, "protocol")
        sides = {
            name: Sides(**value)
            for name, value in asdict(protocol).items()
            if name in ("window_size", "window_stride", "image_size") and isinstance(value, Mapping)
        }
        lists = {"scales": tuple(protocol.scales), "exclude_classes": tuple(protocol.exclude_classes)}
        return cls(**{**asdict(protocol), **lists, **sides})

    def to_dict(self) -> dict[str, Any]:
        """What is written as JSON: sizes, scales and flip, and of the rest what has a value."""
        values = {}
        for name, value in vars(self).items():
            if isinstance(value, Sides):
                values[name] = value._asdict()
            elif isinstance(value, tuple):
                values |= {name: list(value)} if value else {}
            elif value is not None or name in ALWAYS_WRITTEN:
                values[name] = value
        return values


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


def _read_sides(value: int | Mapping[str, int], name: str) -> int | Sides:
    """Squares as one number, as published protocols have it."""
    if isinstance(value, Mapping):
        if set(value) != {"height", "width"}:
            raise ValueError(f"`{name}` of the results must have `height` and `width`, got {dict(value)}.")
        value = value["height"] if value["height"] == value["width"] else Sides(value["height"], value["width"])
    sides = value if isinstance(value, Sides) else (value,)
    if not all(type(side) is int and side > 0 for side in sides):
        raise ValueError(f"`{name}` of the results must be pixels, got {value!r}.")
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


__all__ = ["ResultProtocol", "Sides", "make_checked", "take"]
