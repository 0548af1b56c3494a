"""
The record of a figure: what was measured, on what, and how. Figures that were published, that evaluation measures here
and that cards give all have it, and its protocol alone is what released checkpoints and image processors have.

Conversion reads this too, so it imports nothing that takes memory or time.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from types import UnionType
from typing import Any, get_args, get_origin

from transformers import BaseImageProcessor

from ..redaction import redact_command


METRIC = "mean_iou"
PUBLISHED, MEASURED = "published", "measured"
SIZES = ("window_size", "window_stride", "shortest_edge", "longest_edge")
# Ratios of the multi-scale protocol, for each of which the image is seen flipped too: `set_multiscale_mode` of
# segm/data/base.py in the original implementation, and `--aug-test` of MMSegmentation's tools/test.py.
MULTI_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


@dataclass(frozen=True)
class Sides:
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
        _check_types(self)
        for name in (*SIZES, "image_size"):
            value = getattr(self, name)
            sides = [value.height, value.width] if isinstance(value, Sides) else [] if value is None else [value]
            if not all(type(side) is int and side > 0 for side in sides):
                raise ValueError(f"`{name}` of the results must be pixels, got {value!r}.")
            # Square windows are one number, so that equal protocols compare as such.
            if name.startswith("window") and len(set(sides)) == 1:
                object.__setattr__(self, name, sides[0])
        if not self.scales or not all(type(scale) is float and scale > 0 for scale in self.scales):
            raise ValueError(f"`scales` of the results must be ratios, got {self.scales}.")

    @property
    def is_multi_scale(self) -> bool:
        return self.flip or self.scales != (1.0,)

    @property
    def scales_name(self) -> str:
        """What readers call it."""
        return "multi-scale + flip" if self.is_multi_scale else "single scale"

    @property
    def image_processor_settings(self) -> dict[str, Any]:
        """What an image processor is set to that resizes by edges, and cuts windows, as this protocol does."""
        window = self.window_size
        return {
            "size": {"shortest_edge": self.shortest_edge, "longest_edge": self.longest_edge},
            "crop_size": asdict(window if isinstance(window, Sides) else Sides(window, window)),
            "window_stride": asdict(self)["window_stride"],
        }

    @classmethod
    def from_image_processor(cls, image_processor: BaseImageProcessor) -> "EvaluationProtocol":
        """What an image processor does by itself: the single-scale protocol."""
        return cls.from_settings({**input_settings(image_processor), "scales": [1.0], "flip": False})

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> "EvaluationProtocol":
        """
        What the settings of an evaluation amount to.

        Args:
            settings (`Mapping`): The `protocol` of a file of results.

        Raises:
            ValueError: for values that are missing, or cannot be.
        """
        window, stride, size = None, None, {}
        if take(settings, "do_split_image", bool):
            window = _read_sides(take(settings, "window", Mapping), "window")
            stride = _read_sides(take(settings, "window_stride", (int, Mapping)), "window_stride")
        if take(settings, "do_resize", bool):
            size = take(settings, "size", Mapping)
        protocol = cls(
            window_size=window,
            window_stride=stride,
            shortest_edge=size.get("shortest_edge"),
            longest_edge=size.get("longest_edge"),
            image_size=Sides(size["height"], size["width"]) if {"height", "width"} <= size.keys() else None,
            scales=tuple(map(float, take(settings, "scales", list))),
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
        values = {name: list(value) if type(value) is tuple else value for name, value in asdict(self).items()}
        # Sizes are also written where they have no value: images may be seen whole, or not resized.
        return {name: value for name, value in values.items() if name in SIZES or value not in (None, [])}


def input_settings(image_processor: BaseImageProcessor) -> dict[str, Any]:
    """The settings of an image processor that figures depend on, as the `protocol` of a file of results has them."""
    stride = image_processor.window_stride
    return {
        "do_resize": image_processor.do_resize,
        "size": {name: edge for name, edge in dict(image_processor.size).items() if edge},
        "do_split_image": image_processor.do_split_image,
        "window": {name: image_processor.crop_size[name] for name in ("height", "width")},
        "window_stride": dict(stride) if isinstance(stride, Mapping) else stride,
        "antialias": image_processor.antialias,
        "crop_logits": image_processor.crop_logits,
        "do_reduce_labels": image_processor.do_reduce_labels,
        "max_value": image_processor.max_value,
    }


@dataclass(frozen=True)
class Figure:
    """
    One figure of one model.

    Args:
        metric (`str`): `"mean_iou"`.
        value_percent (`float`): The figure.
        multi_scale (`bool`): Whether several scales or flipped images were averaged.
        dataset (`dict[str, str]`): `type`, the id on the Hub if there is one, and `name` for readers.
        split (`str`): The split of it, as `datasets` calls it.
        protocol ([`EvaluationProtocol`]): How it was measured.
        kind (`str`): `"published"` by the source of the weights, or `"measured"` here, with the converted weights.
        source (`dict[str, str]`, *optional*): `name` and `url` of what published it; for published figures only.
        num_images (`int`, *optional*): On how many images it was measured; for measured figures only.
        versions (`dict[str, str]`, *optional*): Version of each package; for measured figures only.
        fingerprint (`str`, *optional*): SHA-256 of the images and label maps; measured figures may have it.
        command (`str`, *optional*): What measured it, likewise.
        per_category_iou_percent (`dict[str, float | None]`, *optional*): The figure of each class, `None` for one
            that neither occurs nor is predicted; likewise.

    Raises:
        ValueError: for values that cannot be.
    """

    metric: str
    value_percent: float
    multi_scale: bool
    dataset: dict[str, str]
    split: str
    protocol: EvaluationProtocol
    kind: str
    source: dict[str, str] | None = None
    num_images: int | None = None
    versions: dict[str, str] | None = None
    fingerprint: str | None = None
    command: str | None = None
    per_category_iou_percent: dict[str, float | None] | None = None

    def __post_init__(self):
        _check_percent(self.value_percent, "value_percent")
        _check_types(self)
        for name, value in (self.per_category_iou_percent or {}).items():
            if value is not None:
                _check_percent(value, f"per_category_iou_percent of {name}")
        if self.metric != METRIC:
            raise ValueError(f"`metric` must be {METRIC!r}, got {self.metric!r}.")
        if self.multi_scale is not self.protocol.is_multi_scale:
            raise ValueError(f"`multi_scale` is {self.multi_scale}, which does not fit {self.protocol}.")
        if set(self.dataset) != {"type", "name"}:
            raise ValueError(f"`dataset` must have `type` and `name`, got {self.dataset}.")
        if self.kind not in (PUBLISHED, MEASURED):
            raise ValueError(f"`kind` must be {PUBLISHED!r} or {MEASURED!r}, got {self.kind!r}.")
        if self.kind == PUBLISHED and set(self.source or ()) != {"name", "url"}:
            raise ValueError(f"A published figure must have `name` and `url` of its `source`, got {self.source}.")
        required, optional = ("num_images", "versions"), ("fingerprint", "command", "per_category_iou_percent")
        for name in (*required, *optional) if self.kind == PUBLISHED else ("source",):
            if getattr(self, name) is not None:
                raise ValueError(f"A {self.kind} figure must have no `{name}`, got {getattr(self, name)}.")
        for name in required if self.kind == MEASURED else ():
            if getattr(self, name) is None:
                raise ValueError(f"A measured figure must have `{name}`, got None.")

    @property
    def name(self) -> str:
        """What readers call it."""
        return f"mIoU ({self.protocol.scales_name})"

    @property
    def group(self) -> str:
        """Whose figure it is. Figures of different groups never share an entry of a model index, or a table."""
        return f"{PUBLISHED}: {self.source['name']}" if self.kind == PUBLISHED else MEASURED

    @classmethod
    def from_evaluation(cls, results: Mapping[str, Any], dataset: Mapping[str, str]) -> "Figure":
        """
        The mean IoU that an evaluation measured, in percent with four decimals. Its command loses what tells of the
        machine.

        Args:
            results (`Mapping`): What [`~segmenter_hf.evaluation.results.read_results_file`] returns.
            dataset (`Mapping[str, str]`): `type` and `name`, see above.

        Raises:
            ValueError: for values that are missing, or cannot be: no mean IoU, say.
        """
        evaluated, classes = take(results, "dataset", Mapping), take(results, "per_category_iou", Mapping)
        protocol = EvaluationProtocol.from_settings(take(results, "protocol", Mapping))
        command = results.get("command")
        return cls(
            metric=METRIC,
            value_percent=_to_percent(results.get(METRIC)),
            multi_scale=protocol.is_multi_scale,
            dataset=dict(dataset),
            split=take(evaluated, "split", str),
            protocol=protocol,
            kind=MEASURED,
            num_images=take(results, "num_images", int),
            versions=dict(take(results, "versions", Mapping)),
            fingerprint=evaluated.get("fingerprint"),
            command=None if command is None else redact_command(command),
            per_category_iou_percent={name: _to_percent(value) for name, value in classes.items()},
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Figure":
        """
        The figure that [`to_dict`] made.

        Raises:
            ValueError: for fields that are missing, unknown, or have values that cannot be.
        """
        protocol = EvaluationProtocol.from_dict(values.get("protocol", {}))
        # Their defaults are for the table of released checkpoints, whose protocols are all of a single scale.
        missing = [f"`{name}`" for name in ("scales", "flip") if name not in values["protocol"]]
        if missing:
            raise ValueError(f"The protocol of a figure lacks {' and '.join(missing)}.")
        return make_checked(cls, {**values, "protocol": protocol}, "result")

    def to_dict(self) -> dict[str, Any]:
        """What is written as JSON: all fields that have a value."""
        values = {name: value for name, value in asdict(self).items() if value is not None}
        return {**values, "protocol": self.protocol.to_dict()}


def take(results: Mapping[str, Any], name: str, expected: type | tuple[type, ...]) -> Any:
    """
    A value of what evaluation wrote.

    Raises:
        ValueError: if there is none, or one of another type.
    """
    if name not in results:
        raise ValueError(f"The results have no `{name}`. scripts/evaluate_semantic_segmentation.py writes it.")
    if not isinstance(results[name], expected):
        raise ValueError(f"`{name}` of the results is {results[name]!r}, which it cannot be.")
    return results[name]


def make_checked(cls: type, values: Mapping[str, Any], description: str) -> Any:
    """
    An instance of a dataclass.

    Raises:
        ValueError: for fields that are missing or unknown.
    """
    known = [field.name for field in fields(cls)]
    unknown = ", ".join(repr(name) for name in values if name not in known)
    if unknown:
        raise ValueError(f"A {description} has no field {unknown}; its fields are {', '.join(known)}.")
    try:
        return cls(**values)
    except TypeError as error:
        raise ValueError(f"A {description} lacks fields: {error}") from error


def _check_types(record: Any):
    for field in fields(record):
        value = getattr(record, field.name)
        types = get_args(field.type) if isinstance(field.type, UnionType) else (field.type,)
        # Types are compared exactly, since True is an integer in Python's eyes only.
        if type(value) not in [get_origin(each) or each for each in types]:
            raise ValueError(f"`{field.name}` of the results is {value!r}, which it cannot be.")


def _check_percent(value: Any, name: str):
    if type(value) is not float or not math.isfinite(value) or not 0 <= value <= 100:
        raise ValueError(f"`{name}` must be a float from 0 to 100, got {value!r}.")


def _to_percent(fraction: float | None) -> float | None:
    # What is no number is left as it is, for the check of the figure to name it.
    return round(100.0 * fraction, 4) if type(fraction) in (int, float) else fraction


def _read_sides(value: Any, name: str) -> Any:
    if not isinstance(value, Mapping):
        return value
    if set(value) != {"height", "width"}:
        raise ValueError(f"`{name}` of the results must have `height` and `width`, got {dict(value)}.")
    return Sides(**value)


__all__ = [
    "MEASURED",
    "METRIC",
    "MULTI_SCALES",
    "PUBLISHED",
    "EvaluationProtocol",
    "Figure",
    "Sides",
    "input_settings",
    "make_checked",
    "take",
]
