"""
Figures of models as data: one file `model_cards/results/<repository>.json` for each segmentation model, from which its
card is made. Published figures are those of the table of released checkpoints. Measured ones are whatever is in the
file: `scripts/write_model_cards.py --add_results` adds them from the results that evaluation writes.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..conversion.released import ReleasedCheckpoint
from ..evaluation.record import MEASURED, METRIC, MULTI_SCALES, PUBLISHED, Figure
from .card_facts import DATASETS, SOURCES


# Data sets call the split so that figures are published on.
VALIDATION_SPLITS = ("validation", "val")


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
    "check_classes",
    "figures_file",
    "format_figures",
    "measured_figure",
    "published_figures",
    "read_figures",
    "replace_measured",
    "update_figures",
]
