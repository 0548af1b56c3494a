"""
Figures of models as data: one file `model_cards/results/<repository>.json` for each segmentation model, from which its
card is made. Published figures are those of the table of released checkpoints. Measured ones are whatever is in the
file: `scripts/write_model_cards.py --add_results` adds them from the results that evaluation writes.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..conversion.released import ReleasedCheckpoint
from ..redaction import redact_command
from .card_facts import DATASETS, SOURCES
from .result_protocol import ResultProtocol, make_checked, take


METRIC = "mean_iou"
METRIC_NAMES = {False: "mIoU (single scale)", True: "mIoU (multi-scale + flip)"}
PUBLISHED, MEASURED = "published", "measured"
# Of the multi-scale figures that are published, as the paper and both sources have them. Evaluation here
# has the same; importing it takes more memory than converting a small model.
PUBLISHED_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
# What data sets call the split that figures are published on.
VALIDATION_SPLITS = ("validation", "val")


@dataclass(frozen=True)
class Result:
    """
    One figure of one model.

    Args:
        metric (`str`): `"mean_iou"`.
        value_percent (`float`): The figure.
        multi_scale (`bool`): Whether several scales or flipped images were averaged.
        dataset (`dict[str, str]`): `type`, the id on the Hub if there is one, and `name` for readers.
        split (`str`): The split of it, as `datasets` calls it.
        protocol (`ResultProtocol`): How it was measured.
        kind (`str`): `"published"` by the source of the weights, or `"measured"` here, with the converted weights.
        source (`dict[str, str]`, *optional*): `name` and `url` of what published it; for published figures only.
        num_images (`int`, *optional*): On how many images it was measured; for measured figures only.
        versions (`dict[str, str]`, *optional*): Version of each package; for measured figures only.
        fingerprint (`str`, *optional*): SHA-256 of the images and label maps; measured figures may have it.
        command (`str`, *optional*): What measured it, likewise.
        per_category_iou_percent (`dict[str, float | None]`, *optional*): The figure of each class, `None` for one
            that neither occurs nor is predicted; likewise.
    """

    metric: str
    value_percent: float
    multi_scale: bool
    dataset: dict[str, str]
    split: str
    protocol: ResultProtocol
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
        if self.kind not in (PUBLISHED, MEASURED):
            raise ValueError(f"`kind` must be {PUBLISHED!r} or {MEASURED!r}, got {self.kind!r}.")
        is_published = self.kind == PUBLISHED
        if is_published is (self.source is None) or (is_published and set(self.source) != {"name", "url"}):
            raise ValueError(
                f"A {self.kind} figure must have {'`name` and `url` of its' if is_published else 'no'} `source`, got "
                f"{self.source}."
            )
        for name in ("num_images", "versions"):
            if is_published is not (getattr(self, name) is None):
                raise ValueError(
                    f"A {self.kind} figure must have {'no ' if is_published else ''}`{name}`, got "
                    f"{getattr(self, name)}."
                )
        for name in ("fingerprint", "command", "per_category_iou_percent"):
            if is_published and getattr(self, name) is not None:
                raise ValueError(f"A {self.kind} figure must have no `{name}`, got {getattr(self, name)}.")

    @property
    def group(self) -> str:
        """Whose figure it is. Figures of different groups never share an entry of a model index, or a table."""
        return f"{PUBLISHED}: {self.source['name']}" if self.kind == PUBLISHED else MEASURED

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Result":
        """
        The result that [`to_dict`] made.

        Raises:
            ValueError: for fields that are missing, unknown, or have values that cannot be.
        """
        protocol = ResultProtocol.from_dict(values.get("protocol", {}))
        return make_checked(cls, {**values, "protocol": protocol}, "result")

    @classmethod
    def from_evaluation(cls, results: Mapping[str, Any], dataset: Mapping[str, str]) -> "Result":
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
        protocol = ResultProtocol.from_evaluation(take(results, "protocol", Mapping))
        classes = take(results, "per_category_iou", Mapping)
        command = results.get("command")
        return cls(
            metric=METRIC,
            value_percent=to_percent(results.get(METRIC)),
            multi_scale=protocol.is_multi_scale,
            dataset=dict(dataset),
            split=take(evaluated, "split", str),
            protocol=protocol,
            kind=MEASURED,
            num_images=take(results, "num_images", int),
            versions=dict(take(results, "versions", Mapping)),
            fingerprint=evaluated.get("fingerprint"),
            command=None if command is None else redact_command(command),
            per_category_iou_percent={name: to_percent(value) for name, value in classes.items()},
        )

    def to_dict(self) -> dict[str, Any]:
        """What is written as JSON: all fields that have a value."""
        values = {name: value for name, value in asdict(self).items() if value is not None}
        return {**values, "protocol": self.protocol.to_dict()}


def to_percent(fraction: float | None) -> float | None:
    """A figure as results files have it, in percent; what is no number is left as it is."""
    return round(100.0 * fraction, 4) if type(fraction) in (int, float) else fraction


def _check_percent(value: Any, name: str):
    if type(value) is not float or not math.isfinite(value) or not 0 <= value <= 100:
        raise ValueError(f"`{name}` must be a float from 0 to 100, got {value!r}.")


def published_results(row: ReleasedCheckpoint) -> list[Result]:
    """The published figures of a released checkpoint: single scale before multi-scale."""
    if row.protocol is None:
        return []
    dataset, source = DATASETS[row.dataset], SOURCES[row.source]
    figures = (row.published_miou_percent_ss, row.published_miou_percent_ms)
    if None in figures:
        return []
    return [
        Result(
            metric=METRIC,
            value_percent=value,
            multi_scale=multi_scale,
            dataset={"type": dataset.type, "name": dataset.name},
            split="validation",
            protocol=ResultProtocol(
                # Scales of both sources: segm/data/ade20k.py, and `--aug-test` of MMSegmentation's tools/test.py.
                **asdict(row.protocol),
                scales=PUBLISHED_SCALES if multi_scale else (1.0,),
                flip=multi_scale,
            ),
            kind=PUBLISHED,
            source={"name": source.name, "url": source.results_url},
        )
        for multi_scale, value in zip((False, True), figures, strict=True)
    ]


def measured_result(row: ReleasedCheckpoint, evaluation: Mapping[str, Any]) -> Result:
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
    result = Result.from_evaluation(evaluation, {"type": dataset.type, "name": dataset.name})
    names = row.config.id2label.values()
    check_labels(result.per_category_iou_percent, names, f"{row.name}, a model of {dataset.name}")
    if result.split not in VALIDATION_SPLITS:
        raise ValueError(
            f"The results are of the split {result.split}, expected validation, on which figures of {dataset.name} "
            "are published. Evaluate on that."
        )
    if result.num_images != dataset.num_validation_images:
        raise ValueError(
            f"The results are of {result.num_images:,} images, expected the {dataset.num_validation_images:,} of "
            f"{dataset.name}'s validation split. Evaluate on all of them."
        )
    if result.protocol.exclude_classes:
        raise ValueError(
            f"The results leave out {', '.join(result.protocol.exclude_classes)}, expected the mean of all classes. "
            "Evaluate without --exclude_classes."
        )
    return replace(result, split="validation")


def check_labels(measured: Iterable[str], expected: Iterable[str], owner: str):
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


def replace_measured(results: Iterable[Result], result: Result) -> list[Result]:
    """The results with a measured one, in place of that of the same protocol if there is one."""
    others = [each for each in results if each.kind != MEASURED or each.protocol != result.protocol]
    published = [each for each in others if each.kind == PUBLISHED]
    measured = [*(each for each in others if each.kind == MEASURED), result]
    return [*published, *sorted(measured, key=lambda each: each.multi_scale)]


def update_results(row: ReleasedCheckpoint, results: Iterable[Result] = ()) -> list[Result]:
    """The results with the published ones as the table of released checkpoints has them now."""
    return [*published_results(row), *(result for result in results if result.kind == MEASURED)]


def results_file(folder: str | Path, row: ReleasedCheckpoint) -> Path:
    """Where the results of a model are kept."""
    return Path(folder) / f"{row.repo_name}.json"


def read_results(folder: str | Path, row: ReleasedCheckpoint) -> list[Result]:
    """
    The results of a model.

    Args:
        folder (`str` or `Path`): `model_cards/results` of the repository.
        row (`ReleasedCheckpoint`): Which model. Encoders, which no figures belong to, have no file.

    Returns:
        `list[Result]`: what its file holds; empty if there is none.

    Raises:
        ValueError: if the file is not what [`format_results`] writes, or has the same figure twice.
    """
    file = results_file(folder, row)
    if not file.is_file():
        return []
    contents = json.loads(file.read_text(encoding="utf-8"))
    try:
        if contents["model"] != row.repo_name:
            raise ValueError(f"`model` is {contents['model']!r}.")
        results = [Result.from_dict(values) for values in contents["results"]]
        keys = [(result.group, result.protocol) for result in results]
        if len(set(keys)) < len(keys):
            raise ValueError("Two results have the same source and protocol.")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} does not hold the results of {row.repo_name}: {error}") from error
    return results


def format_results(row: ReleasedCheckpoint, results: Iterable[Result]) -> str:
    """The contents of a file of results."""
    contents = {"model": row.repo_name, "results": [result.to_dict() for result in results]}
    return json.dumps(contents, indent=2, allow_nan=False) + "\n"


__all__ = [
    "MEASURED",
    "METRIC",
    "METRIC_NAMES",
    "PUBLISHED",
    "PUBLISHED_SCALES",
    "Result",
    "ResultProtocol",
    "check_labels",
    "format_results",
    "measured_result",
    "published_results",
    "read_results",
    "replace_measured",
    "results_file",
    "to_percent",
    "update_results",
]
