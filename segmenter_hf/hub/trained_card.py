"""Model cards of models that users train: what the model is, how it was trained, and what was measured."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.utils import validate_repo_id
from transformers import BaseImageProcessor

from ..configuration_segmenter import SegmenterConfig
from ..evaluation.record import METRIC, Figure
from ..redaction import is_hub_id, public_name
from .cards import make_eval_results
from .figures import check_classes
from .markdown import escape
from .origins import StartingWeights, Terms, find_starting_weights, make_dataset_entry
from .trained_text import Measurement, Trained, make_title, write_text
from .training_facts import TrainingFacts


TAGS = ("vision", "semantic-segmentation", "segmenter", "custom_code")
# What `datasets` calls the configuration of a data set that has only one.
DEFAULT_CONFIG = "default"


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
    >>> from segmenter_hf.hub.trained_card import TrainingFacts, make_trained_card

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
    measurements = [make_measurement(config, each) for each in results]
    start = base_model
    if not isinstance(start, StartingWeights):
        start = find_starting_weights(start, training.is_from_scratch if training is not None else None)
    base_ids = start.base_model if start is not None and start.base_model != repo_id else None
    terms = Terms(license) if license is not None else start.terms if start is not None else None
    model = Trained(
        config=config,
        image_processor=image_processor,
        measurements=measurements,
        training=training,
        start=start,
        dataset_name=dataset_name,
        repo_id=repo_id,
        num_parameters=num_parameters,
        terms=terms,
    )
    title = make_title(model, public_name(dataset_name) if dataset_name is not None else None)
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
        tags=[*TAGS, *tags],
        eval_results=make_model_index(model.measured) or None,
        model_name=(repo_id.rpartition("/")[-1] if repo_id is not None else title) if model.measured else None,
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{write_text(model, escape(title))}")


def make_measurement(config: SegmenterConfig, evaluation: Mapping[str, Any]) -> Measurement:
    """
    An evaluation of a model.

    Raises:
        ValueError: if it is not one of this model, or of no data.
    """
    dataset = evaluation.get("dataset") or {}
    if not isinstance(dataset, Mapping) or not dataset.get("name") or not dataset.get("split"):
        raise ValueError(f"Results must name their `dataset` and its `split`, got {dataset!r}.")
    check_classes(evaluation.get("per_category_iou") or {}, config.id2label.values(), "this model")
    if evaluation.get(METRIC) is None:
        return Measurement(evaluation, None)
    return Measurement(evaluation, Figure.from_evaluation(evaluation, make_dataset_entry(dataset["name"])))


def make_model_index(measurements: Sequence[Measurement]) -> list[EvalResult]:
    """
    Figures as the entries of a model index, of which those of the same data become one.

    Raises:
        ValueError: if two are of the same data and protocol.
    """
    results = [each.result for each in measurements]
    configs = [each.evaluation["dataset"].get("config_name") or DEFAULT_CONFIG for each in measurements]
    keys = [(each.dataset["type"], config, each.split) for each, config in zip(results, configs, strict=True)]
    for index, result in enumerate(results):
        same = [each for each, key in zip(results, keys, strict=True) if key == keys[index]]
        # Folders of the same name, or a part of the same data: huggingface_hub would merge them.
        if len({(each.fingerprint, each.num_images) for each in same}) > 1:
            mark = result.fingerprint[:12] if result.fingerprint else f"{result.num_images} images"
            configs[index] = f"{configs[index]} ({mark})"
    data = [(*key, config) for key, config in zip(keys, configs, strict=True)]
    protocols = [(key, each.protocol) for key, each in zip(data, results, strict=True)]
    repeated = [protocol for protocol in protocols if protocols.count(protocol) > 1]
    if repeated:
        raise ValueError(
            f"{len(repeated)} results are of the same data, {repeated[0][0][0]}, and the same protocol. Keep one."
        )
    return make_eval_results(results, configs)


__all__ = ["TrainingFacts", "make_trained_card"]
