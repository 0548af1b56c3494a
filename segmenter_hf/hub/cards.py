"""
Model cards of the released checkpoints, written by code: `model_cards/<repository>.md` from the table of released
checkpoints and `model_cards/results/<repository>.json`. Neither is edited by hand, but for measured results.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import PreTrainedModel

from .. import outputs
from ..conversion.released import ARCHITECTURES, RELEASED, ReleasedCheckpoint
from ..evaluation.record import METRIC, Figure
from .card_facts import DATASETS, IMAGENET_HUB_ID, PRETRAINED_WEIGHTS, WIDGET_IMAGES
from .card_text import make_title, write_text
from .figures import (
    figures_file,
    format_figures,
    measured_figure,
    read_figures,
    replace_measured,
    update_figures,
)
from .results_text import name_results


# Stands for the organisation in committed cards; a push writes its own.
ORGANIZATION = "segmenter-hf"
# The tag that a push sets on what it has verified, and that the snippets of cards pin.
TAG = "v1.0"


def make_eval_result(result: Figure) -> EvalResult:
    """A figure as an entry of a model index, with its protocol and its unit in the arguments of the metric."""
    source = result.source or {}
    return EvalResult(
        task_type="image-segmentation",
        task_name="Semantic segmentation",
        dataset_type=result.dataset["type"],
        dataset_name=result.dataset["name"],
        dataset_split=result.split,
        # huggingface_hub merges results of the same task, data set, config and split into one entry with the source of
        # the first, so without a config of their own, measured figures would be said to be published ones.
        dataset_config=result.group,
        metric_type=result.metric,
        metric_name=result.name,
        metric_value=result.value_percent,
        metric_args={"kind": result.kind, "unit": "percent", **result.protocol.to_dict()},
        source_name=source.get("name"),
        source_url=source.get("url"),
    )


def make_eval_results(results: Sequence[Figure], configs: Sequence[str] | None = None) -> list[EvalResult]:
    """
    Figures as a model index, in which those of one entry differ in their names.

    Args:
        results (`Sequence[Figure]`): The figures.
        configs (`Sequence[str]`, *optional*): What is said to be the configuration of each one's data set, in place of
            whose figure it is.
    """
    entries = [make_eval_result(result) for result in results]
    if configs is not None:
        entries = [replace(entry, dataset_config=config) for entry, config in zip(entries, configs, strict=True)]
    for identifier in dict.fromkeys(entry.unique_identifier for entry in entries):
        together = [index for index, entry in enumerate(entries) if entry.unique_identifier == identifier]
        for index, name in zip(together, name_results([results[index] for index in together]), strict=True):
            entries[index] = replace(entries[index], metric_name=name)
    return entries


def make_card_data(row: ReleasedCheckpoint, results: Sequence[Figure], model_name: str) -> ModelCardData:
    """
    The metadata of a card.

    Args:
        row (`ReleasedCheckpoint`): Which model.
        results (`Sequence[Figure]`): Its figures.
        model_name (`str`): What the model index calls the model.
    """
    is_distilled = ARCHITECTURES[row.backbone].use_distillation_token
    tags = ["vision", "segmenter", "deit" if is_distilled else "vit", "custom_code"]
    if row.is_encoder:
        dataset_ids, specific = [IMAGENET_HUB_ID], {}
    else:
        tags.insert(1, "semantic-segmentation")
        hub_id = DATASETS[row.dataset].hub_id
        dataset_ids = [hub_id] if hub_id else None
        specific = {
            "metrics": [METRIC],
            "widget": [{"src": url, "example_title": title} for url, title in WIDGET_IMAGES[row.dataset]],
        }
    return ModelCardData(
        license=row.licence,
        library_name="transformers",
        pipeline_tag="image-feature-extraction" if row.is_encoder else "image-segmentation",
        base_model=PRETRAINED_WEIGHTS[row.backbone].base_model,
        datasets=dataset_ids,
        tags=tags,
        eval_results=make_eval_results(results) or None,
        model_name=model_name if results else None,
        **specific,
    )


def make_card(
    row: ReleasedCheckpoint,
    results: Sequence[Figure],
    repo_id: str,
    revision: str | None = TAG,
    model: PreTrainedModel | None = None,
) -> ModelCard:
    """
    The model card of a converted checkpoint.

    Args:
        row (`ReleasedCheckpoint`): A row of the table of released checkpoints.
        results (`Sequence[Figure]`): Its figures, as [`~segmenter_hf.hub.figures.read_figures`] returns them.
        repo_id (`str`): The repository, or the folder, that the card is for, and that its snippets load from.
        revision (`str`, *optional*, defaults to `TAG`): The revision that its snippets pin; `None` for none.
        model (`PreTrainedModel`, *optional*): The converted model, whose sizes and number of parameters the card then
            gives. By default, those of the table.

    Returns:
        `ModelCard`: `str()` of it is the README.md, and `save` writes it.

    Example:

    ```python
    >>> from segmenter_hf.conversion.released import find_released
    >>> from segmenter_hf.hub.cards import make_card
    >>> from segmenter_hf.hub.figures import published_figures

    >>> row = find_released("ade20k/seg_tiny_mask")
    >>> card = make_card(row, published_figures(row), f"your-name/{row.repo_name}")
    >>> card.data.license, card.data.base_model, card.data.eval_results[0].metric_value
    ('mit', 'timm/vit_tiny_patch16_384.augreg_in21k_ft_in1k', 38.1)

    ```"""
    data = make_card_data(row, results, make_title(row))
    config = row.config
    if model is not None:
        row, config = replace(row, num_parameters=model.num_parameters()), model.config
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{write_text(row, list(results), repo_id, revision, config)}")


def make_documents(folder: str | Path) -> dict[Path, str]:
    """
    What the files of results and cards of all released checkpoints should hold.

    Args:
        folder (`str` or `Path`): `model_cards` of the repository; measured results are read from its `results`.

    Returns:
        `dict[Path, str]`: the contents of each file. Encoders, which no figures belong to, have a card only.
    """
    folder = Path(folder)
    documents = {}
    for row in RELEASED.values():
        results = update_figures(row, read_figures(folder / "results", row))
        if not row.is_encoder:
            documents[figures_file(folder / "results", row)] = format_figures(row, results)
        documents[folder / f"{row.repo_name}.md"] = str(make_card(row, results, f"{ORGANIZATION}/{row.repo_name}"))
    return documents


def list_stale(folder: str | Path) -> list[Path]:
    """The files of results and cards that are missing, stale, or of no released checkpoint."""
    folder = Path(folder)
    documents = make_documents(folder)
    present = [*folder.glob("*.md"), *(folder / "results").glob("*.json")]
    return sorted([*_find_stale(documents), *(file for file in present if file not in documents)])


def _find_stale(documents: Mapping[Path, str]) -> list[Path]:
    # As bytes, since reading as text would take other line endings for the same.
    return [file for file, text in documents.items() if not file.is_file() or file.read_bytes() != text.encode()]


def write_documents(folder: str | Path) -> list[Path]:
    """
    Writes the files of results and cards that are missing or stale. Measured results stay. Files that are not of a
    released checkpoint are left alone, for their owner to remove.

    Returns:
        `list[Path]`: the files that were written.
    """
    documents = make_documents(folder)
    written = sorted(_find_stale(documents))
    for file in written:
        outputs.check_output_file(file)
    for file in written:
        outputs.write_text(file, documents[file])
    return written


def add_results(folder: str | Path, evaluations: Sequence[tuple[ReleasedCheckpoint, Mapping[str, Any]]]) -> list[Path]:
    """
    Adds measured figures to the files of results, in place of those of the same protocol. All are checked before any
    is written. [`write_documents`] then makes the cards.

    Args:
        folder (`str` or `Path`): `model_cards` of the repository.
        evaluations (`Sequence[tuple[ReleasedCheckpoint, Mapping]]`): Checkpoints, and what evaluation wrote of each.

    Returns:
        `list[Path]`: the files of results, whether they changed or not.

    Raises:
        ValueError: if an evaluation is not one of that checkpoint on its data set, see
            [`~segmenter_hf.hub.figures.measured_figure`].
    """
    folder = Path(folder) / "results"
    results = {row: update_figures(row, read_figures(folder, row)) for row, _ in evaluations}
    for row, evaluation in evaluations:
        results[row] = replace_measured(results[row], measured_figure(row, evaluation))
    for row in results:
        outputs.check_output_file(figures_file(folder, row))
    for row, added in results.items():
        # Complete or not at all: such a file holds measured figures that are nowhere else.
        outputs.write_text(figures_file(folder, row), format_figures(row, added))
    return [figures_file(folder, row) for row in results]


__all__ = [
    "ORGANIZATION",
    "TAG",
    "add_results",
    "list_stale",
    "make_card",
    "make_card_data",
    "make_documents",
    "make_eval_results",
    "write_documents",
]
