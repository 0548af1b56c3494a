"""
Figures of models as data: one file `model_cards/results/<repository>.json` for each segmentation model, from which its
card is made. Published figures are those of the table of released checkpoints. Measured ones are whatever is in the
file: evaluation adds them.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..conversion.released import ReleasedCheckpoint
from .card_facts import DATASETS, SOURCES


METRIC = "mean_iou"
# Ratios of the multi-scale protocols, each also flipped: segm/data/ade20k.py and its siblings, and MMSegmentation's
# tools/test.py (`--aug-test`).
MULTI_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
PUBLISHED, MEASURED = "published", "measured"


@dataclass(frozen=True)
class ResultProtocol:
    """
    How a figure was measured.

    Args:
        window_size (`int`): Side of the windows in pixels.
        window_stride (`int`): Distance of neighbouring windows in pixels.
        shortest_edge (`int`): Images were resized until the short side had this many pixels,
        longest_edge (`int`): or the long side this many.
        scales (`tuple[float, ...]`): Ratios at which the resized images were seen.
        flip (`bool`): Whether each was also seen flipped.
    """

    window_size: int
    window_stride: int
    shortest_edge: int
    longest_edge: int
    scales: tuple[float, ...]
    flip: bool

    @property
    def is_multi_scale(self) -> bool:
        return self.flip or self.scales != (1.0,)


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

    def __post_init__(self):
        if self.metric != METRIC:
            raise ValueError(f"`metric` must be {METRIC!r}, got {self.metric!r}.")
        value = self.value_percent
        if type(value) is not float or not math.isfinite(value) or not 0 <= value <= 100:
            raise ValueError(f"`value_percent` must be a float from 0 to 100, got {value!r}.")
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
        protocol = _make(ResultProtocol, values.get("protocol", {}), "protocol")
        protocol = ResultProtocol(**{**asdict(protocol), "scales": tuple(protocol.scales)})
        return _make(cls, {**values, "protocol": protocol}, "result")

    def to_dict(self) -> dict[str, Any]:
        """What is written as JSON: all fields that have a value."""
        values = {name: value for name, value in asdict(self).items() if value is not None}
        values["protocol"]["scales"] = list(self.protocol.scales)
        return values


def _make(cls: type, values: Mapping[str, Any], name: str) -> Any:
    known = [field.name for field in fields(cls)]
    unknown = [key for key in values if key not in known]
    if unknown:
        raise ValueError(f"A {name} has no field {', '.join(map(repr, unknown))}; its fields are {', '.join(known)}.")
    try:
        return cls(**values)
    except TypeError as error:
        raise ValueError(f"A {name} lacks fields: {error}") from error


def published_results(row: ReleasedCheckpoint) -> list[Result]:
    """The published figures of a released checkpoint: single scale before multi-scale, for each time they were."""
    if row.protocol is None:
        return []
    dataset, source = DATASETS[row.dataset], SOURCES[row.source]
    first = (row.published_miou_percent_ss, row.published_miou_percent_ms)
    pairs = [] if None in first else [(source.name, first)]
    if row.also_published_miou_percent is not None:
        pairs.append((f"{source.name}, another training of this model", row.also_published_miou_percent))
    return [
        Result(
            metric=METRIC,
            value_percent=value,
            multi_scale=multi_scale,
            dataset={"type": dataset.type, "name": dataset.name},
            split="validation",
            protocol=ResultProtocol(
                **asdict(row.protocol), scales=MULTI_SCALES if multi_scale else (1.0,), flip=multi_scale
            ),
            kind=PUBLISHED,
            source={"name": name, "url": source.results_url},
        )
        for name, pair in pairs
        for multi_scale, value in zip((False, True), pair, strict=True)
    ]


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
    "MULTI_SCALES",
    "PUBLISHED",
    "Result",
    "ResultProtocol",
    "format_results",
    "published_results",
    "read_results",
    "results_file",
    "update_results",
]
