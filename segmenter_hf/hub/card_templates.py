"""
Cards from `templates/`: Markdown with Jinja, in which lines may break anywhere, as the result is wrapped. What users
named goes through `as_text` or `as_code`. A name that the context lacks is an error.
"""

from collections.abc import Sequence
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined
from transformers import image_utils

from ..configuration_segmenter import DECODERS
from ..evaluation.record import Figure, Sides
from .card_facts import CITATIONS
from .markdown import as_code, as_code_block, as_text, wrap, wrap_command
from .model_index import name_figures
from .origins import describe_dataset
from .training_facts import WITHOUT_SETTINGS, WITHOUT_WARMUP


# Stands for the folder in the snippets of a model that is in no repository.
FOLDER_PLACEHOLDER = "path/to/this/folder"


def format_number(number: float) -> str:
    """A small number as people write it: 1e-5, where Python writes 1e-05."""
    return f"{number:g}".replace("e-0", "e-")


def format_percent(percent: float | None) -> str:
    """A figure of a table: two decimals, or one if the second is 0."""
    return "-" if percent is None else f"{percent:.2f}".removesuffix("0")


def format_sides(sides: int | Sides) -> str:
    return f"{sides.height} x {sides.width}" if isinstance(sides, Sides) else str(sides)


def format_duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def enumerate_lines(text: str, start: str, end: str = ".", separator: str = ", ") -> str:
    """The lines that are not empty as one line; nothing where there are none."""
    parts = [line.strip() for line in text.split("\n") if line.strip()]
    return f"{start}{separator.join(parts)}{end}\n" if parts else ""


def make_class_columns(figures: Sequence[Figure]) -> dict[str, dict[str, float | None]]:
    """The figures of classes, by the name of the figure that they belong to."""
    columns = zip(name_figures(figures), (figure.per_category_iou_percent for figure in figures), strict=True)
    return {name: classes for name, classes in columns if classes}


ENVIRONMENT = Environment(
    loader=PackageLoader(__package__),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    # The text is Markdown, whose own characters `as_text` escapes.
    autoescape=False,
)
ENVIRONMENT.globals["decoders"] = DECODERS
ENVIRONMENT.filters |= {
    "as_code": as_code,
    "as_code_block": as_code_block,
    "as_dataset": describe_dataset,
    "as_text": as_text,
    "citation": CITATIONS.__getitem__,
    "class_columns": make_class_columns,
    "duration": format_duration,
    "enumerated": enumerate_lines,
    "grouped": "{:,}".format,
    "number": format_number,
    "percent": format_percent,
    "sides": format_sides,
    "wrap_command": wrap_command,
}
ENVIRONMENT.globals |= {
    "FOLDER_PLACEHOLDER": FOLDER_PLACEHOLDER,
    # Tables and lists of more classes are folded away.
    "MAX_UNFOLDED_CLASSES": 30,
    # Notices that are longer are only named.
    "MAX_QUOTED_BYTES": 4000,
    "WITHOUT_SETTINGS": WITHOUT_SETTINGS,
    "WITHOUT_WARMUP": WITHOUT_WARMUP,
    **{name: getattr(image_utils, name) for name in dir(image_utils) if name.startswith("IMAGENET_")},
}


def render_card(template: str, data: ModelCardData, **context: Any) -> ModelCard:
    """
    The card that a template makes.

    Args:
        template (`str`): Name of a file in `templates/`, without its suffixes.
        data (`ModelCardData`): The metadata.
        context: What the template names.
    """
    text = wrap(ENVIRONMENT.get_template(f"{template}.md.jinja").render(context))
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")


__all__ = ["FOLDER_PLACEHOLDER", "render_card"]
