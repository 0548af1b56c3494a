"""
Model cards, written from templates: of the released checkpoints, from the table of these and their figures, and of
models that users train, from what they are, how they were trained, and what was measured.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.utils import validate_repo_id
from transformers import BaseImageProcessor, PreTrainedModel

from ..configuration_segmenter import SegmenterConfig
from ..conversion.released import ReleasedCheckpoint
from ..evaluation.record import METRIC, Figure
from ..redaction import is_hub_id
from .card_context import Measurement, make_released_context, make_trained_context
from .card_templates import FOLDER_PLACEHOLDER, render_card
from .model_index import make_eval_results, make_trained_eval_results
from .origins import StartingWeights, Terms, find_starting_weights
from .training_facts import TrainingFacts


# The tag that a push sets on what it has verified, and that the snippets of cards pin.
TAG = "v1.0"
IMAGENET_HUB_ID = "ILSVRC/imagenet-1k"
# `datasets` calls the configuration of a data set so that has only one.
DEFAULT_CONFIG = "default"


def make_card(
    row: ReleasedCheckpoint,
    figures: Sequence[Figure],
    repo_id: str,
    revision: str | None = TAG,
    model: PreTrainedModel | None = None,
) -> ModelCard:
    """
    The model card of a converted checkpoint.

    Args:
        row (`ReleasedCheckpoint`): A row of the table of released checkpoints.
        figures (`Sequence[Figure]`): Its figures, as [`~segmenter_hf.hub.figures.read_figures`] returns them.
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
    if model is not None:
        row = replace(row, num_parameters=model.num_parameters())
    context = make_released_context(row, figures, model)
    tags = ["segmenter", "deit" if row.config.use_distillation_token else "vit", "custom_code"]
    if row.is_encoder:
        specific = {
            "pipeline_tag": "image-feature-extraction",
            "datasets": [IMAGENET_HUB_ID],
            "tags": ["vision", *tags],
        }
    else:
        dataset = context["dataset"]
        specific = {
            "pipeline_tag": "image-segmentation",
            "datasets": [dataset.hub_id] if dataset.hub_id else None,
            "tags": ["vision", "semantic-segmentation", *tags],
            "metrics": [METRIC],
            "widget": [{"src": url, "example_title": title} for title, url in dataset.widget_images.items()],
        }
    data = ModelCardData(
        license=row.licence,
        library_name="transformers",
        base_model=context["weights"].base_model,
        eval_results=make_eval_results(figures) or None,
        model_name=context["title"] if figures else None,
        **specific,
    )
    return render_card("released", data, repo_id=repo_id, revision=revision, **context)


def make_trained_card(
    config: SegmenterConfig,
    image_processor: BaseImageProcessor,
    results: Sequence[Mapping[str, Any]] = (),
    *,
    training: TrainingFacts | None = None,
    base_model: str | StartingWeights | None = None,
    dataset_name: str | None = None,
    repo_id: str | None = None,
    num_parameters: int | None = None,
    license: str | None = None,
    language: str | Sequence[str] | None = None,
    tags: Sequence[str] = (),
) -> ModelCard:
    """
    The model card of a trained model. It says what it is given and nothing else: without results, that there are none.
    Of paths it shows the last part only, and of commands nothing that tells of the machine.

    Args:
        config ([`SegmenterConfig`]): That of the model.
        image_processor ([`SegmenterImageProcessor`]): What is saved beside it.
        results (`Sequence[Mapping]`, *optional*): Its evaluations, single- and multi-scale, as
            [`~segmenter_hf.evaluation.results.make_results`] makes them and
            [`~segmenter_hf.evaluation.results.read_results_file`] returns them.
        training ([`TrainingFacts`], *optional*): How it was trained.
        base_model (`str` or [`StartingWeights`], *optional*): The weights that training started from: as
            `--model_name_or_path` takes them, or what [`~segmenter_hf.hub.origins.load_starting_weights`] found of
            them, on the Hub too. The card names their notices and licences, which
            [`~segmenter_hf.hub.origins.StartingWeights.save_documents`] puts beside it.
        dataset_name (`str`, *optional*): What it was trained on, as `--dataset_name` takes it: a Hub id or a path.
        repo_id (`str`, *optional*): The repository, `owner/name`, that the card is for and its snippets load from.
        num_parameters (`int`, *optional*): Number of parameters.
        license (`str`, *optional*): Identifier of the licence of the weights, as the Hub spells it: `"apache-2.0"`.
            By default that of the weights that training started from, or `"other"` if that is not known.
        language (`str` or `Sequence[str]`, *optional*): Languages of the label names, as the Hub spells them: `"en"`.
        tags (`Sequence[str]`, *optional*): Further tags.

    Returns:
        `ModelCard`: `str()` of it is the README.md.

    Raises:
        ValueError: if results are not of this model, two are of the same data and protocol, or an identifier is none.

    Example:

    ```python
    >>> from segmenter_hf import SegmenterConfig, SegmenterImageProcessorPil
    >>> from segmenter_hf.hub.cards import TrainingFacts, make_trained_card

    >>> config = SegmenterConfig(id2label={0: "road", 1: "sky"})
    >>> facts = TrainingFacts(num_images=367, num_steps=4900, learning_rate=1e-4)
    >>> settings = {"training": facts, "dataset_name": "/data/camvid", "repo_id": "me/segmenter-camvid"}
    >>> card = make_trained_card(config, SegmenterImageProcessorPil(), **settings)
    >>> "trained on `camvid`" in card.text, "No figure has been measured." in card.text, card.data.datasets
    (True, True, None)

    ```"""
    if license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license):
        raise ValueError(
            f"`license` must be an identifier of the Hub, such as apache-2.0 or other, got {license!r}. They are "
            "listed at https://huggingface.co/docs/hub/repositories-licenses."
        )
    if repo_id is not None:
        validate_repo_id(repo_id)
    measurements = [Measurement.of_model(config, each) for each in results]
    start = base_model
    if not isinstance(start, StartingWeights):
        start = find_starting_weights(start, training.is_from_scratch if training is not None else None)
    base_ids = start.base_model if start is not None and start.base_model != repo_id else None
    terms = Terms(license) if license is not None else start.terms if start is not None else None
    context = make_trained_context(config, image_processor, measurements, training, start, dataset_name, terms)
    measured = [each for each in measurements if each.figure is not None]
    data = ModelCardData(
        license=terms.license if terms is not None else None,
        license_name=terms.name if terms is not None else None,
        license_link=terms.link if terms is not None else None,
        language=[language] if isinstance(language, str) else list(language or ()) or None,
        library_name="transformers",
        pipeline_tag="image-segmentation",
        base_model=base_ids,
        base_model_relation="finetune" if base_ids else None,
        datasets=[dataset_name] if is_hub_id(dataset_name) else None,
        metrics=[METRIC],
        tags=["vision", "semantic-segmentation", "segmenter", "custom_code", *tags],
        eval_results=make_trained_eval_results(
            [each.figure for each in measured],
            [each.evaluation["dataset"].get("config_name") or DEFAULT_CONFIG for each in measured],
        )
        or None,
        model_name=(repo_id.rpartition("/")[-1] if repo_id is not None else context["title"]) if measured else None,
    )
    return render_card("trained", data, repo_id=repo_id, num_parameters=num_parameters, **context)


def make_converted_card(weights: StartingWeights) -> ModelCard:
    """The model card of converted weights that are no released checkpoint, beside their notices and licences."""
    data = ModelCardData(
        license=weights.terms.license,
        license_name=weights.terms.name,
        license_link=weights.terms.link,
        library_name="transformers",
        base_model=weights.base_model,
        tags=["vision", "segmenter", "custom_code"],
    )
    return render_card("converted", data, weights=weights)


__all__ = ["FOLDER_PLACEHOLDER", "TAG", "TrainingFacts", "make_card", "make_converted_card", "make_trained_card"]
