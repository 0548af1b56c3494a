"""Figures in model cards: tables of them, and how they were measured, in words."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..evaluation.record import PUBLISHED, EvaluationProtocol, Figure, Sides
from .markdown import code_block, escape, inline_code, paragraph, table, wrap_command


# Packages whose versions are beside a figure; the rest is in the text below.
TABLE_PACKAGES = ("segmenter_hf", "torch", "transformers")
# Tables of more classes are folded away.
MAX_UNFOLDED_CLASSES = 30
SMOOTHING = {None: "", False: " without antialiasing", True: " with antialiasing"}


def format_percent(percent: float | None) -> str:
    """A figure of a table: two decimals, or one if the second is 0."""
    return "-" if percent is None else f"{percent:.2f}".removesuffix("0")


def format_sides(sides: int | Sides) -> str:
    return f"{sides.height} x {sides.width}" if isinstance(sides, Sides) else str(sides)


def format_results_table(results: Iterable[Figure]) -> str:
    """Figures of one kind as a table in Markdown."""
    rows = []
    for result in results:
        protocol = result.protocol
        if result.kind == PUBLISHED:
            source = f"[{result.source['name']}]({result.source['url']})"
        else:
            versions = [f"{name} {result.versions[name]}" for name in TABLE_PACKAGES if name in result.versions]
            source = ", ".join([f"{result.num_images} images", *versions])
        edges = [str(edge) for edge in (protocol.shortest_edge, protocol.longest_edge) if edge is not None]
        size = f"{format_sides(protocol.image_size)} (height x width)" if protocol.image_size else " / ".join(edges)
        rows.append(
            (
                format_percent(result.value_percent),
                ", ".join(f"{scale:g}" for scale in protocol.scales),
                "yes" if protocol.flip else "no",
                size or "not resized",
                "whole image" if protocol.window_size is None else format_sides(protocol.window_size),
                "-" if protocol.window_stride is None else format_sides(protocol.window_stride),
                source,
            )
        )
    return table(("mIoU, percent", "scales", "flip", "short / long side", "window", "stride", "source"), rows)


def name_results(results: Sequence[Figure]) -> list[str]:
    """
    Names for figures that stand together: whether scales were averaged, and where that is the same for several, what
    differs between them.
    """
    names = []
    for result in results:
        protocols = [each.protocol.to_dict() for each in results if each.multi_scale == result.multi_scale]
        keys = dict.fromkeys(key for protocol in protocols for key in protocol)
        differing = [key for key in keys if any(each.get(key) != protocols[0].get(key) for each in protocols)]
        own = result.protocol.to_dict()
        details = [f"{key} {_format_value(own.get(key))}" for key in differing]
        names.append(", ".join([result.name, *details]))
    return names


def _format_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return " x ".join(map(str, value.values()))
    return ", ".join(map(str, value)) if isinstance(value, list) else "none" if value is None else str(value)


def write_classes(results: Sequence[Figure]) -> str:
    """Figures of classes as a table, folded if it is long; nothing where there are none."""
    names = [escape(name).replace("mIoU", "IoU, percent", 1) for name in name_results(results)]
    columns = {
        name: result.per_category_iou_percent
        for name, result in zip(names, results, strict=True)
        if result.per_category_iou_percent
    }
    if not columns:
        return ""
    classes = next(iter(columns.values()))
    rows = [(escape(name), *(format_percent(values[name]) for values in columns.values())) for name in classes]
    text = table(("class", *columns), rows)
    if len(rows) <= MAX_UNFOLDED_CLASSES:
        return text
    return f"<details>\n<summary>Each of the {len(rows)} classes</summary>\n\n{text}\n\n</details>"


def describe_input(protocol: EvaluationProtocol, resampling: str = "") -> str:
    """What becomes of an image before the model sees it, to follow "is"."""
    if protocol.image_size is not None:
        goal = f"to {format_sides(protocol.image_size)} pixels (height x width)"
    elif protocol.shortest_edge is not None:
        goal = f"until the short side has {protocol.shortest_edge} pixels"
        goal += f" or the long one {protocol.longest_edge}" if protocol.longest_edge is not None else ""
    elif protocol.longest_edge is not None:
        goal = f"until the long side has {protocol.longest_edge} pixels"
    else:
        goal = None
    how = f" {resampling}" if resampling else ""
    resized = "not resized" if goal is None else f"resized{how}{SMOOTHING[protocol.antialias]} {goal}"
    window, stride = protocol.window_size, protocol.window_stride
    if window is None:
        return f"{resized}, and seen as a whole"
    sides = f"{format_sides(window)} (height x width)" if isinstance(window, Sides) else f"{window} x {window}"
    apart = f"{stride.height} apart down and {stride.width} across" if isinstance(stride, Sides) else f"{stride} apart"
    return f"{resized}, then cut into windows of {sides}, {apart}"


def describe_fingerprints(results: Iterable[Figure]) -> str:
    """What tells the data of figures from others of the same name."""
    known = dict.fromkeys(result.fingerprint for result in results if result.fingerprint)
    return f"SHA-256 of the images and label maps: {', '.join(map(inline_code, known))}." if known else ""


def describe_protocol(result: Figure, device: str = "", further: Iterable[str] = ()) -> str:
    """
    How a figure was measured, as a paragraph.

    Args:
        result ([`Figure`]): The figure.
        device (`str`, *optional*): What it was measured on, in Markdown.
        further (`Iterable[str]`, *optional*): Sentences to end with.
    """
    protocol = result.protocol
    averaged = " Logits are averaged where windows overlap." if protocol.window_size is not None else ""
    scales = ""
    if protocol.is_multi_scale:
        ratios = ", ".join(f"{scale:g}" for scale in protocol.scales)
        flipped = ", each also flipped" if protocol.flip else ""
        scales = f"This is done at {ratios} times the size{flipped}, and the probabilities are averaged."
    counted = "" if protocol.ignore_index is None else f"Pixels with label {protocol.ignore_index} are not counted."
    excluded = ", ".join(map(inline_code, protocol.exclude_classes))
    settings = [
        *([protocol.dtype] if protocol.dtype else []),
        *([f"image processor of the {protocol.backend} backend"] if protocol.backend else []),
        *([device] if device else []),
        *(f"{name} {version}" for name, version in result.versions.items()),
    ]
    return paragraph(
        f"{'Multi-scale' if protocol.is_multi_scale else 'Single scale'}: an image is {describe_input(protocol)}."
        f"{averaged}",
        scales,
        "Predictions are compared with label maps at their own size.",
        counted,
        f"The mean leaves out {excluded}." if excluded else "",
        f"Measured with: {', '.join(settings)}." if settings else "",
        *further,
    )


def write_measurement(result: Figure, device: str = "", further: Iterable[str] = ()) -> str:
    """How a figure was measured, with the command that did it if it is known."""
    parts = [describe_protocol(result, device, further)]
    if result.command:
        parts.append(code_block("bash", wrap_command(result.command)))
    return "\n\n".join(parts)


__all__ = [
    "describe_fingerprints",
    "describe_input",
    "describe_protocol",
    "format_percent",
    "format_results_table",
    "name_results",
    "write_classes",
    "write_measurement",
]
