"""Figures as the model index in the metadata of cards, and what they are called there and in tables."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from huggingface_hub import EvalResult

from ..evaluation.record import Figure


def name_figures(figures: Sequence[Figure]) -> list[str]:
    """
    Names for figures that stand together: whether scales were averaged, and where that is the same for several, what
    differs between them.
    """
    names = []
    for figure in figures:
        protocols = [each.protocol.to_dict() for each in figures if each.multi_scale == figure.multi_scale]
        keys = dict.fromkeys(key for protocol in protocols for key in protocol)
        differing = [key for key in keys if any(each.get(key) != protocols[0].get(key) for each in protocols)]
        own = figure.protocol.to_dict()
        details = [f"{key} {_format_value(own.get(key))}" for key in differing]
        names.append(", ".join([figure.name, *details]))
    return names


def _format_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return " x ".join(map(str, value.values()))
    return ", ".join(map(str, value)) if isinstance(value, list) else "none" if value is None else str(value)


def make_eval_results(figures: Sequence[Figure], configs: Sequence[str] | None = None) -> list[EvalResult]:
    """
    Figures as the entries of a model index, of which those of one data set have different names.

    Args:
        figures (`Sequence[Figure]`): The figures.
        configs (`Sequence[str]`, *optional*): What is said to be the configuration of each one's data set. By default,
            whose figure it is: huggingface_hub merges what has the same task, data set, configuration and split into
            one entry with the source of the first, so that measured figures would be said to be published ones.
    """
    configs = [figure.group for figure in figures] if configs is None else configs
    entries = [_make_eval_result(*each) for each in zip(figures, configs, strict=True)]
    for identifier in dict.fromkeys(entry.unique_identifier for entry in entries):
        together = [index for index, entry in enumerate(entries) if entry.unique_identifier == identifier]
        for index, name in zip(together, name_figures([figures[index] for index in together]), strict=True):
            entries[index] = replace(entries[index], metric_name=name)
    return entries


def _make_eval_result(figure: Figure, config: str) -> EvalResult:
    source = figure.source or {}
    return EvalResult(
        task_type="image-segmentation",
        task_name="Semantic segmentation",
        dataset_type=figure.dataset["type"],
        dataset_name=figure.dataset["name"],
        dataset_split=figure.split,
        dataset_config=config,
        metric_type=figure.metric,
        metric_value=figure.value_percent,
        # The model card has the unit nowhere else.
        metric_args={"kind": figure.kind, "unit": "percent", **figure.protocol.to_dict()},
        source_name=source.get("name"),
        source_url=source.get("url"),
    )


def make_trained_eval_results(figures: Sequence[Figure], configs: Sequence[str]) -> list[EvalResult]:
    """
    Figures of a trained model as the entries of a model index, of which those of the same data become one.

    Args:
        figures (`Sequence[Figure]`): The figures.
        configs (`Sequence[str]`): The configuration of each one's data set.

    Raises:
        ValueError: if two are of the same data and protocol.
    """
    keys = [(each.dataset["type"], config, each.split) for each, config in zip(figures, configs, strict=True)]
    marked = list(configs)
    for index, figure in enumerate(figures):
        same = [each for each, key in zip(figures, keys, strict=True) if key == keys[index]]
        # Folders of the same name, or a part of the same data, which huggingface_hub would merge.
        if len({(each.fingerprint, each.num_images) for each in same}) > 1:
            mark = figure.fingerprint[:12] if figure.fingerprint else f"{figure.num_images} images"
            marked[index] = f"{configs[index]} ({mark})"
    measured = [(*key, config, each.protocol) for key, config, each in zip(keys, marked, figures, strict=True)]
    repeated = [each for each in measured if measured.count(each) > 1]
    if repeated:
        raise ValueError(
            f"{len(repeated)} results are of the same data, {repeated[0][0]}, and the same protocol. Keep one."
        )
    return make_eval_results(figures, marked)


__all__ = ["make_eval_results", "make_trained_eval_results", "name_figures"]
