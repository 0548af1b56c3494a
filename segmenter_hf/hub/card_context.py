"""What the templates of cards name: of a released checkpoint, and of a model that a user trained."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
from transformers import BaseImageProcessor, PreTrainedModel
from transformers.image_utils import PILImageResampling

from ..configuration_segmenter import DECODERS, SegmenterConfig
from ..conversion.released import ARCHITECTURES, ReleasedCheckpoint
from ..evaluation.record import MEASURED, METRIC, PUBLISHED, EvaluationProtocol, Figure
from ..redaction import public_name, redact_command, redact_text
from .card_facts import DATASETS, PRETRAINED_WEIGHTS, SOURCES
from .figures import check_classes
from .origins import StartingWeights, Terms, describe_dataset, make_dataset_entry
from .training_facts import TrainingFacts


# The letters by which the paper calls the widths of encoders.
SIZE_LETTERS = {192: "T", 384: "S", 768: "B", 1024: "L"}
RESAMPLING = {PILImageResampling.NEAREST: "to the nearest pixels", PILImageResampling.BICUBIC: "bicubically"}


class Measurement(NamedTuple):
    """
    An evaluation of a trained model.

    Args:
        evaluation (`Mapping`): What evaluation wrote.
        figure ([`Figure`], *optional*): Its mean IoU; `None` where no pixel was labelled, so that there is none.
    """

    evaluation: Mapping[str, Any]
    figure: Figure | None

    @classmethod
    def of_model(cls, config: SegmenterConfig, evaluation: Mapping[str, Any]) -> "Measurement":
        """
        Raises:
            ValueError: if it is not one of this model, or of no data.
        """
        dataset = evaluation.get("dataset") or {}
        if not isinstance(dataset, Mapping) or not dataset.get("name") or not dataset.get("split"):
            raise ValueError(f"Results must name their `dataset` and its `split`, got {dataset!r}.")
        check_classes(evaluation.get("per_category_iou") or {}, config.id2label.values(), "this model")
        if evaluation.get(METRIC) is None:
            return cls(evaluation, None)
        return cls(evaluation, Figure.from_evaluation(evaluation, make_dataset_entry(dataset["name"])))

    @property
    def data_key(self) -> tuple:
        """The same for the same data."""
        dataset = self.evaluation["dataset"]
        parts = [dataset.get(key) for key in ("config_name", "split", "fingerprint", "num_split_images")]
        return describe_dataset(dataset["name"]), *parts, self.evaluation["num_images"]


def make_title(config: SegmenterConfig) -> str:
    """What a model is called, in the paper's words if it has the sizes of one there."""
    sizes = attrgetter("hidden_size", "num_hidden_layers", "num_attention_heads", "patch_size")
    is_known = (
        sizes(config) in map(sizes, ARCHITECTURES.values()) and config.intermediate_size == 4 * config.hidden_size
    )
    name = f"Seg-{SIZE_LETTERS[config.hidden_size]}" if is_known else "Segmenter"
    deit = "-DeiT" if config.use_distillation_token else ""
    return f"{name}{deit}{DECODERS[config.decoder_type].title}/{config.patch_size}"


def make_released_title(row: ReleasedCheckpoint) -> str:
    date = row.repo_suffix.replace("-", " ")
    origin = f" (MMSegmentation{date})" if row.source.startswith("mmsegmentation") else ""
    if row.is_encoder:
        config = row.config
        return f"Segmenter encoder ViT-{SIZE_LETTERS[config.hidden_size]}/{config.patch_size}, AugReg{origin}"
    return f"{make_title(row.config)}, {DATASETS[row.dataset].name} {row.crop_size} x {row.crop_size}{origin}"


def make_released_context(
    row: ReleasedCheckpoint, figures: Sequence[Figure], model: PreTrainedModel | None
) -> dict[str, Any]:
    """What `released.md.jinja` names beside the repository, with the sizes of the model if that is there."""
    config = row.config if model is None else model.config
    return {
        "row": row,
        "title": make_released_title(row),
        "config": config,
        # Both sources resize images so, which the record of their published figures does not say.
        "protocol": None if row.protocol is None else replace(row.protocol, antialias=False),
        "dataset": DATASETS.get(row.dataset),
        "source": SOURCES[row.source],
        "weights": PRETRAINED_WEIGHTS[row.backbone],
        "published": [figure for figure in figures if figure.kind == PUBLISHED],
        "measured": [figure for figure in figures if figure.kind == MEASURED],
        "sha256": getattr(config, "source_sha256", {}),
    }


def make_trained_context(
    config: SegmenterConfig,
    image_processor: BaseImageProcessor,
    measurements: Sequence[Measurement],
    training: TrainingFacts | None,
    start: StartingWeights | None,
    dataset_name: str | None,
    terms: Terms | None,
) -> dict[str, Any]:
    """What `trained.md.jinja` names beside the repository and the number of parameters."""
    facts = training or TrainingFacts()
    measured = [each for each in measurements if each.figure is not None]
    labels = [config.id2label[index] for index in sorted(config.id2label)]
    ious = {label: [each.figure.per_category_iou_percent[label] for each in measured] for label in labels}
    trained_on = f", trained on {public_name(dataset_name)}" if dataset_name is not None else ""
    # One number may stand for all bands.
    mean, std = (np.ravel(values).tolist() for values in (image_processor.image_mean, image_processor.image_std))
    return {
        "title": f"{make_title(config)}{trained_on}",
        "config": config,
        "image_processor": image_processor,
        "image_mean": mean,
        "image_std": std,
        "resampling": RESAMPLING.get(image_processor.resample, "bilinearly"),
        "protocol": EvaluationProtocol.from_image_processor(image_processor),
        "labels": labels,
        # Figures of the same data stand together.
        "groups": [
            [each for each in measured if each.data_key == key]
            for key in dict.fromkeys(each.data_key for each in measured)
        ],
        "unmeasured": [each.evaluation for each in measurements if each.figure is None],
        "missing_labels": [label for label, values in ious.items() if all(value is None for value in values)],
        "zero_labels": [label for label, values in ious.items() if 0.0 in values and not any(values)],
        "has_facts": training is not None,
        "facts": facts,
        "accepted_differences": [redact_text(line) for line in facts.accepted_differences or ()],
        "command": None if facts.command is None else redact_command(facts.command),
        "dataset_name": dataset_name,
        "start": start,
        "terms": terms,
        "keys_of_citations": dict.fromkeys(["strudel2021segmenter", *(start.citations if start is not None else ())]),
    }


__all__ = ["Measurement", "make_released_context", "make_trained_context"]
