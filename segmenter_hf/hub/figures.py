"""
Figures of models as data: one file `model_cards/results/<repository>.json` for each segmentation model, from which its
card is made. Published figures are those of the table of released checkpoints. Measured ones are whatever is in the
file: `scripts/write_model_cards.py --add_results` adds them from the results that evaluation writes.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..conversion.released import ReleasedCheckpoint
from ..evaluation.record import MULTI_SCALES, EvaluationProtocol, make_checked, take
from ..redaction import redact_command
from .card_facts import DATASETS, SOURCES


METRIC = "mean_iou"
METRIC_NAMES = {False: "mIoU (single scale)", True: "mIoU (multi-scale + flip)"}
PUBLISHED, MEASURED = "published", "measured"
# What figures of each kind must have, and must not.
REQUIRED = {PUBLISHED: ("source",), MEASURED: ("num_images", "versions")}
REFUSED = {
    PUBLISHED: ("num_images", "versions", "fingerprint", "command", "per_category_iou_percent"),
    MEASURED: ("source",),
}
# What data sets call the split that figures are published on.
VALIDATION_SPLITS = ("validation", "val")


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
        if self.metric != METRIC:
            raise ValueError(f"`metric` must be {METRIC!r}, got {self.metric!r}.")
        _check_percent(self.value_percent, "value_percent")
        for name, value in (self.per_category_iou_percent or {}).items():
            if value is not None:
                _check_percent(value, f"per_category_iou_percent of {name}")
        if self.multi_scale is not self.protocol.is_multi_scale:
            raise ValueError(f"`multi_scale` is {self.multi_scale}, which does not fit {self.protocol}.")
        if set(self.dataset) != {"type", "name"}:
            raise ValueError(f"`dataset` must have `type` and `name`, got {self.dataset}.")
        if self.kind not in REQUIRED:
            raise ValueError(f"`kind` must be {PUBLISHED!r} or {MEASURED!r}, got {self.kind!r}.")
        for name in REFUSED[self.kind]:
            if getattr(self, name) is not None:
                raise ValueError(f"A {self.kind} figure must have no `{name}`, got {getattr(self, name)}.")
        for name in REQUIRED[self.kind]:
            value = getattr(self, name)
            if value is None or (name == "source" and set(value) != {"name", "url"}):
                parts = "`name` and `url` of its " if name == "source" else ""
                raise ValueError(f"A {self.kind} figure must have {parts}`{name}`, got {value}.")

    @property
    def group(self) -> str:
        """Whose figure it is. Figures of different groups never share an entry of a model index, or a table."""
        return f"{PUBLISHED}: {self.source['name']}" if self.kind == PUBLISHED else MEASURED

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Figure":
        """
        The figure that [`to_dict`] made.

        Raises:
            ValueError: for fields that are missing, unknown, or have values that cannot be.
        """
        protocol = EvaluationProtocol.from_dict(values.get("protocol", {}))
        return make_checked(cls, {**values, "protocol": protocol}, "result")

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
        evaluated = take(results, "dataset", Mapping)
        protocol = EvaluationProtocol.from_settings(take(results, "protocol", Mapping))
        classes = take(results, "per_category_iou", Mapping)
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

    def to_dict(self) -> dict[str, Any]:
        """What is written as JSON: all fields that have a value."""
        values = {name: value for name, value in asdict(self).items() if value is not None}
        return {**values, "protocol": self.protocol.to_dict()}


def _to_percent(fraction: float | None) -> float | None:
    # What is no number is left as it is, for the check of the figure to name it.
    return round(100.0 * fraction, 4) if type(fraction) in (int, float) else fraction


def _check_percent(value: Any, name: str):
    if type(value) is not float or not math.isfinite(value) or not 0 <= value <= 100:
        raise ValueError(f"`{name}` must be a float from 0 to 100, got {value!r}.")


def published_figures(row: ReleasedCheckpoint) -> list[Figure]:
    """The published figures of a released checkpoint: single scale before multi-scale."""
    values = (row.published_miou_percent_ss, row.published_miou_percent_ms)
    if row.protocol is None or None in values:
        return []
    dataset, source = DATASETS[row.dataset], SOURCES[row.source]
    protocols = (row.protocol, replace(row.protocol, scales=MULTI_SCALES, flip=True))
    return [
        Figure(
            metric=METRIC,
            value_percent=value,
            multi_scale=protocol.is_multi_scale,
            dataset={"type": dataset.type, "name": dataset.name},
            split="validation",
            protocol=protocol,
            kind=PUBLISHED,
            source={"name": source.name, "url": source.results_url},
        )
        for protocol, value in zip(protocols, values, strict=True)
    ]


def measured_figure(row: ReleasedCheckpoint, evaluation: Mapping[str, Any]) -> Figure:
    """
    The figure that an evaluation of a converted released checkpoint measured.

    Args:
        row (`ReleasedCheckpoint`): Which checkpoint was evaluated.
        evaluation (`Mapping`): What [`~segmenter_hf.evaluation.results.read_results_file`] returns.

    Raises:
        ValueError: if it is not one of the whole validation split of its data set, with its classes.
    """
    if row.is_encoder:
        raise ValueError(f"{row.name} is an encoder, which does not segment: no figure belongs to it.")
    dataset = DATASETS[row.dataset]
    figure = Figure.from_evaluation(evaluation, {"type": dataset.type, "name": dataset.name})
    names = row.config.id2label.values()
    check_classes(figure.per_category_iou_percent, names, f"{row.name}, a model of {dataset.name}")
    if figure.split not in VALIDATION_SPLITS:
        raise ValueError(
            f"The results are of the split {figure.split}, expected validation, on which figures of {dataset.name} "
            "are published. Evaluate on that."
        )
    if figure.num_images != dataset.num_validation_images:
        raise ValueError(
            f"The results are of {figure.num_images:,} images, expected the {dataset.num_validation_images:,} of "
            f"{dataset.name}'s validation split. Evaluate on all of them."
        )
    if figure.protocol.exclude_classes:
        raise ValueError(
            f"The results leave out {', '.join(figure.protocol.exclude_classes)}, expected the mean of all classes. "
            "Evaluate without --exclude_classes."
        )
    return replace(figure, split="validation")


def check_classes(measured: Iterable[str], expected: Iterable[str], owner: str):
    """
    Raises:
        ValueError: if figures are not of the classes of their model; the message names some.
    """
    measured, expected = list(measured), list(expected)
    unknown = [name for name in measured if name not in expected]
    missing = [name for name in expected if name not in measured]
    if not unknown and not missing:
        return
    details = [
        f"{what}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
        for what, names in (("without figure", missing), ("unknown", unknown))
        if names
    ]
    raise ValueError(
        f"The results are of {len(measured)} classes, which are not the {len(expected)} of {owner} "
        f"({'; '.join(details)}). Evaluate that model, with its own label names."
    )


def replace_measured(figures: Sequence[Figure], figure: Figure) -> list[Figure]:
    """The figures with a measured one, in place of that of the same protocol if there is one."""
    published = [each for each in figures if each.kind == PUBLISHED]
    others = [each for each in figures if each.kind == MEASURED and each.protocol != figure.protocol]
    return [*published, *sorted([*others, figure], key=lambda each: each.multi_scale)]


def update_figures(row: ReleasedCheckpoint, figures: Iterable[Figure] = ()) -> list[Figure]:
    """The figures with the published ones as the table of released checkpoints has them now."""
    return [*published_figures(row), *(figure for figure in figures if figure.kind == MEASURED)]


def figures_file(folder: str | Path, row: ReleasedCheckpoint) -> Path:
    """Where the figures of a model are kept."""
    return Path(folder) / f"{row.repo_name}.json"


def read_figures(folder: str | Path, row: ReleasedCheckpoint) -> list[Figure]:
    """
    The figures of a model.

    Args:
        folder (`str` or `Path`): `model_cards/results` of the repository.
        row (`ReleasedCheckpoint`): Which model. Encoders, which no figures belong to, have no file.

    Returns:
        `list[Figure]`: what its file holds; empty if there is none.

    Raises:
        ValueError: if the file is not what [`format_figures`] writes, or has the same figure twice.
    """
    file = figures_file(folder, row)
    if not file.is_file():
        return []
    contents = json.loads(file.read_text(encoding="utf-8"))
    try:
        if contents["model"] != row.repo_name:
            raise ValueError(f"`model` is {contents['model']!r}.")
        figures = [Figure.from_dict(values) for values in contents["results"]]
        keys = [(figure.group, figure.protocol) for figure in figures]
        if len(set(keys)) < len(keys):
            raise ValueError("Two results have the same source and protocol.")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} does not hold the results of {row.repo_name}: {error}") from error
    return figures


def format_figures(row: ReleasedCheckpoint, figures: Iterable[Figure]) -> str:
    """The contents of a file of figures."""
    contents = {"model": row.repo_name, "results": [figure.to_dict() for figure in figures]}
    return json.dumps(contents, indent=2, allow_nan=False) + "\n"


__all__ = [
    "MEASURED",
    "METRIC",
    "METRIC_NAMES",
    "PUBLISHED",
    "Figure",
    "check_classes",
    "figures_file",
    "format_figures",
    "measured_figure",
    "published_figures",
    "read_figures",
    "replace_measured",
    "update_figures",
]
