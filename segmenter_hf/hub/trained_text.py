"""The text of the cards of models that users train, section by section."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from transformers import BaseImageProcessor
from transformers.image_utils import PILImageResampling

from ..configuration_segmenter import SegmenterConfig
from ..conversion.released import ARCHITECTURES
from ..evaluation.record import EvaluationProtocol, Figure
from ..redaction import redact_command, redact_text
from .card_facts import CITATIONS
from .card_text import (
    AUTO_CLASSES_SNIPPET,
    CODE_NEEDS,
    DECODER_NAMES,
    LICENCE_NAMES,
    NOT_FOR,
    PAPER,
    PIPELINE_SNIPPET,
    SIZE_LETTERS,
    TERMS_ARE_UNSETTLED,
    WINDOWS,
    describe_decoder,
    describe_encoder,
    describe_method_limits,
    describe_normalization,
    fill_snippet,
    format_number,
)
from .markdown import bullets, code_block, escape, inline_code, paragraph, wrap_command
from .origins import OTHER_LICENCE, StartingWeights, Terms, describe_dataset
from .results_text import (
    MAX_UNFOLDED_CLASSES,
    describe_fingerprints,
    describe_input,
    format_percent,
    format_results_table,
    write_classes,
    write_measurement,
)
from .training_facts import TrainingFacts


# Stands for the folder in the snippets of a model that is in no repository.
FOLDER = "path/to/this/folder"
# Schedules of transformers that know no warm-up, and that take no settings, whatever is asked for.
WITHOUT_WARMUP = {"constant", "greedy", "reduce_lr_on_plateau"}
WITHOUT_SETTINGS = {"constant", "constant_with_warmup"}
# Notices that are longer are only named.
MAX_QUOTED_BYTES = 4000
RESAMPLING = {PILImageResampling.NEAREST: "to the nearest pixels", PILImageResampling.BICUBIC: "bicubically"}


@dataclass(frozen=True)
class Measurement:
    """
    An evaluation of the model.

    Args:
        evaluation (`Mapping`): What evaluation wrote.
        result (`Figure`, *optional*): Its mean IoU; `None` where no pixel was labelled, so that there is none.
    """

    evaluation: Mapping[str, Any]
    result: Figure | None

    @property
    def data(self) -> str:
        """The data, in Markdown."""
        dataset = self.evaluation["dataset"]
        config = f", configuration {inline_code(dataset['config_name'])}" if dataset.get("config_name") else ""
        number, of_all = self.evaluation["num_images"], dataset.get("num_split_images")
        part = f" ({_count_images(number, of_all)})" if of_all not in (None, number) else ""
        return f"{describe_dataset(dataset['name'])}{config}, split {inline_code(dataset['split'])}{part}"

    @property
    def data_key(self) -> tuple:
        """The same for the same data."""
        return self.data, self.evaluation["dataset"].get("fingerprint"), self.evaluation["num_images"]


@dataclass(frozen=True)
class Trained:
    """
    What a card is about.

    Args:
        config ([`SegmenterConfig`]): That of the model.
        image_processor ([`SegmenterImageProcessor`]): What belongs to it.
        measurements (`Sequence[Measurement]`): Its evaluations.
        training ([`TrainingFacts`], *optional*): How it was trained.
        start ([`StartingWeights`], *optional*): What training started from.
        dataset_name (`str`, *optional*): What it was trained on: a Hub id or a path.
        repo_id (`str`, *optional*): The repository that the card is for.
        num_parameters (`int`, *optional*): Number of parameters.
        terms ([`Terms`], *optional*): The licence.
    """

    config: SegmenterConfig
    image_processor: BaseImageProcessor
    measurements: Sequence[Measurement] = ()
    training: TrainingFacts | None = None
    start: StartingWeights | None = None
    dataset_name: str | None = None
    repo_id: str | None = None
    num_parameters: int | None = None
    terms: Terms | None = None

    @property
    def measured(self) -> list[Measurement]:
        return [each for each in self.measurements if each.result is not None]

    @property
    def groups(self) -> list[list[Measurement]]:
        """Those with a figure, by the data that they are of."""
        keys = dict.fromkeys(each.data_key for each in self.measured)
        return [[each for each in self.measured if each.data_key == key] for key in keys]

    @property
    def labels(self) -> list[str]:
        return [self.config.id2label[index] for index in sorted(self.config.id2label)]


def make_title(model: Trained, dataset: str | None) -> str:
    """What the model is called, in the paper's words if it has the sizes of one there, after its data if known."""
    config = model.config
    sizes = (config.hidden_size, config.num_hidden_layers, config.num_attention_heads, config.patch_size)
    known = {
        (each.hidden_size, each.num_hidden_layers, each.num_attention_heads, each.patch_size)
        for each in ARCHITECTURES.values()
    }
    is_known = sizes in known and config.intermediate_size == 4 * config.hidden_size
    name = f"Seg-{SIZE_LETTERS[config.hidden_size]}" if is_known else "Segmenter"
    deit = "-DeiT" if config.use_distillation_token else ""
    mask = "-Mask" if config.decoder_type == "mask_transformer" else ""
    trained = f", trained on {dataset}" if dataset is not None else ""
    return f"{name}{deit}{mask}/{config.patch_size}{trained}"


def write_introduction(model: Trained) -> str:
    data = f", trained on {describe_dataset(model.dataset_name)}" if model.dataset_name is not None else ""
    sentences = []
    for group in model.groups:
        figures = [
            f"**{format_percent(each.result.value_percent)} percent** ({_name_scales(each.result)})" for each in group
        ]
        sentences.append(f"Mean IoU on {group[0].data}: {', '.join(figures)}.")
    return paragraph(
        f"{PAPER}: a plain Vision Transformer and {DECODER_NAMES[model.config.decoder_type]} that label each pixel of "
        f"an image with one of {len(model.labels)} classes{data}.",
        *sentences,
    )


def _name_scales(result: Figure) -> str:
    return result.protocol.scales_name


def write_usage(model: Trained) -> str:
    where = model.repo_id or FOLDER
    snippets = [PIPELINE_SNIPPET, AUTO_CLASSES_SNIPPET]
    if model.config.num_channels != 3:
        # A pipeline converts to RGB.
        snippets = [make_bands_snippet(model.config.num_channels)]
    first, *others = (fill_snippet(each, where, None) for each in snippets)
    pin = "; `revision`, with a commit, pins it together with the weights" if model.repo_id else ""
    before = paragraph(f"`trust_remote_code=True` runs the code beside the weights{pin}. {CODE_NEEDS}")
    after = paragraph(
        WINDOWS if model.image_processor.do_split_image else "",
        "Inference on this page does not run a repository's own code." if model.repo_id else "",
    )
    others = ["Without the pipeline:", *others] if others else []
    return "\n\n".join([before, first, *others, *([after] if after else [])])


def make_bands_snippet(num_channels: int) -> str:
    """The snippet without pipeline, for images of other bands than RGB."""
    if num_channels == 1:
        return AUTO_CLASSES_SNIPPET.replace('Image.open("photo.jpg")', 'Image.open("photo.jpg").convert("L")')
    snippet = AUTO_CLASSES_SNIPPET.replace("from PIL import Image", "import tifffile")
    snippet = snippet.replace(
        'Image.open("photo.jpg")', f'tifffile.imread("image.tif")  # (height, width, {num_channels}), uint8 or uint16'
    )
    return snippet.replace("(image.height, image.width)", "image.shape[:2]")


def describe_labels(model: Trained) -> str:
    """The labels, and what numbers in label maps mean."""
    labels, ignored = model.labels, model.config.semantic_loss_ignore_index
    if len(labels) <= MAX_UNFOLDED_CLASSES:
        names = ", ".join(f"{index} {inline_code(name)}" for index, name in enumerate(labels))
        text = f"Labels: {len(labels)}, as `config.json` names them: {names}."
    else:
        text = f"Labels: {len(labels)}, with their names in `config.json`."
    if model.config.num_labels == 1:
        text += f" There is one logit for each pixel, whose sigmoid is the probability of {inline_code(labels[1])}."
    if model.image_processor.do_reduce_labels:
        return (
            f"{text} Label maps for training and evaluation store 0 for what has none of these labels, and the label "
            f"plus 1 for the rest: the image processor takes them as they are (`do_reduce_labels`). 0 and {ignored} "
            "are ignored, and never predicted."
        )
    return (
        f"{text} Label maps for training and evaluation store these numbers: 0 is {inline_code(labels[0])}, and "
        f"{ignored}, which is ignored and never predicted, what has no label."
    )


def describe_pixels(image_processor: BaseImageProcessor, num_channels: int = 3) -> str:
    bands = {1: "grey, ", 3: ""}.get(num_channels, f"{num_channels} bands, ")
    if image_processor.max_value != 65535:
        bands += f"16-bit values from 0 to {image_processor.max_value}, "
    return bands + _describe_scaling(image_processor)


def _describe_scaling(image_processor: BaseImageProcessor) -> str:
    if not image_processor.do_normalize:
        return "scaled to 0..1" if image_processor.do_rescale else "with pixels as they are"
    if not image_processor.do_rescale:
        return "normalised without scaling to 0..1"
    # One number may stand for all bands.
    mean, std = (np.ravel(values).tolist() for values in (image_processor.image_mean, image_processor.image_std))
    return describe_normalization(mean, std)


def write_description(model: Trained) -> str:
    image_processor = model.image_processor
    protocol = EvaluationProtocol.from_image_processor(image_processor)
    enlarged = ". Images below the window are enlarged to it" if image_processor.do_split_image else ""
    resampling = RESAMPLING.get(image_processor.resample, "bilinearly")
    pixels = describe_pixels(image_processor, model.config.num_channels)
    items = [
        f"Encoder: {describe_encoder(model.config)}.",
        f"Decoder: {describe_decoder(model.config)}.",
        describe_labels(model),
        f"Input: {pixels}, {describe_input(protocol, resampling)}{enlarged}.",
        "Output: logits at the grid of patches, upsampled bilinearly.",
    ]
    if model.num_parameters is not None:
        items.append(f"{model.num_parameters:,} parameters.")
    return bullets(items)


def write_results(model: Trained) -> str:
    parts = []
    for group in model.groups:
        results = [each.result for each in group]
        parts += [
            paragraph(
                f"Mean intersection over union (mIoU) of the classes on {group[0].data} ({results[0].num_images:,} "
                "images), from one confusion matrix over all of it. Sizes are in pixels.",
                describe_fingerprints(results),
            ),
            format_results_table(results),
            *(_write_measurement(model, each) for each in group),
            write_classes(results),
        ]
    unmeasured = [each.data for each in model.measurements if each.result is None]
    if unmeasured:
        parts.append(paragraph(f"No pixel is labelled on {'; '.join(unmeasured)}: there is no figure of it."))
    if not model.measured:
        parts.append("No figure has been measured.")
    if model.training is not None and model.training.selected_by is not None and model.measured:
        parts.append(
            paragraph(
                f"The saved weights were chosen among checkpoints by {inline_code(model.training.selected_by)} on the "
                "evaluation split: expect lower figures on images that had no part in that."
            )
        )
    return "\n\n".join(part for part in parts if part)


def _write_measurement(model: Trained, measurement: Measurement) -> str:
    evaluation, result = measurement.evaluation, measurement.result
    hardware = evaluation.get("hardware") or {}
    number = hardware.get("num_processes")
    processes = f" ({number} processes)" if number not in (None, 1) else ""
    device = escape(f"{hardware['device']}{processes}") if hardware.get("device") else ""
    others = [
        f"{name.replace('_', ' ')} {format_percent(100 * evaluation[name])} percent"
        for name in ("mean_accuracy", "overall_accuracy")
        if evaluation.get(name) is not None
    ]
    others += [f"loss {evaluation['loss']:.4g}"] if evaluation.get("loss") is not None else []
    sentences = [f"Besides: {', '.join(others)}."] if others else []
    command = model.training.command if model.training is not None else None
    if result.command is not None and command is not None and result.command == redact_command(command):
        result = replace(result, command=None)
        sentences.append("The command is that of the training below.")
    return write_measurement(result, device, sentences)


def write_training(model: Trained) -> str:
    facts = model.training or TrainingFacts()
    items = [
        *_describe_start(model, facts),
        *_describe_length(facts),
        *_describe_optimizer(facts),
        *_describe_augmentation(model, facts),
        *_describe_loss(model, facts),
        *_describe_run(facts),
    ]
    parts = [bullets(items)] if items else []
    if facts.accepted_differences:
        parts += [
            paragraph(
                "The weights are not of one run with these settings. Those above, and the command, are of the last "
                "part of it alone:"
            ),
            bullets(escape(redact_text(line)) for line in facts.accepted_differences),
        ]
    if facts.command is not None:
        parts.append(code_block("bash", wrap_command(redact_command(facts.command))))
    return "\n\n".join(parts)


def _describe_start(model: Trained, facts: TrainingFacts) -> list[str]:
    items = []
    if facts.recipe is not None:
        title = f", {escape(facts.recipe_title)}" if facts.recipe_title else ""
        changes = f", but for {', '.join(map(escape, facts.recipe_changes))}" if facts.recipe_changes else ""
        items.append(f"Recipe: {inline_code(facts.recipe)}{title}{changes}. What is below has precedence.")
    if model.start is not None:
        items.append(f"Start: from {model.start.description}.")
    if model.dataset_name is not None:
        parts = [describe_dataset(model.dataset_name)]
        if facts.dataset_config_name is not None:
            parts.append(f"configuration {inline_code(facts.dataset_config_name)}")
        parts += [f"split {inline_code(facts.split)}"] if facts.split is not None else []
        if facts.num_images is not None:
            parts.append(_count_images(facts.num_images, facts.num_split_images))
        if facts.held_out_share is not None:
            seed = f", drawn with seed {facts.seed}" if facts.seed is not None else ""
            parts.append(f"after {100 * facts.held_out_share:g} percent were held out for evaluation{seed}")
        items.append(f"Data: {', '.join(parts)}.")
    return items


def _count_images(number: int, number_of_all: int | None) -> str:
    if number_of_all is None or number_of_all == number:
        return f"{number:,} images"
    return f"{number:,} of its {number_of_all:,} images"


def _describe_length(facts: TrainingFacts) -> list[str]:
    lengths = [f"{facts.num_steps:,} steps"] if facts.num_steps is not None else []
    lengths += [f"{facts.num_epochs:.4g} epochs"] if facts.num_epochs is not None else []
    selected = (
        "" if facts.selected_step is None else f"; the saved weights are those after step {facts.selected_step:,}"
    )
    items = [f"Length: {', or '.join(lengths)}{selected}."] if lengths else []
    if facts.effective_batch_size is not None:
        processes = "process" if facts.num_processes == 1 else "processes"
        is_even = facts.num_images is None or facts.num_images % facts.effective_batch_size == 0
        items.append(
            f"Batch: {facts.effective_batch_size} crops a step ({facts.per_device_batch_size} on a device x "
            f"{facts.gradient_accumulation_steps} accumulated x {facts.num_processes} {processes})"
            f"{'' if is_even else ', or what is left at the end of an epoch'}."
        )
    return items


def _describe_settings(settings: Mapping[str, Any] | None) -> str:
    shown = []
    for name, value in (settings or {}).items():
        text = format_number(value) if type(value) is float else str(value)
        shown.append(f"{escape(name)} {text if type(value) in (int, float) else inline_code(text)}")
    return f" ({', '.join(shown)})" if shown else ""


def _describe_optimizer(facts: TrainingFacts) -> list[str]:
    parts = []
    if facts.optimizer is not None:
        parts.append(f"{inline_code(facts.optimizer)}{_describe_settings(facts.optimizer_settings)}")
    if facts.learning_rate is not None:
        parts.append(f"learning rate {format_number(facts.learning_rate)}")
    if facts.weight_decay is not None:
        parts.append(f"weight decay {format_number(facts.weight_decay)}")
    if facts.max_grad_norm is not None:
        clipped = f"clipped at norm {format_number(facts.max_grad_norm)}" if facts.max_grad_norm > 0 else "not clipped"
        parts.append(f"gradients {clipped}")
    items = [f"Optimiser: {', '.join(parts)}."] if parts else []
    parts = []
    if facts.lr_scheduler is not None:
        settings = facts.lr_scheduler_settings if facts.lr_scheduler not in WITHOUT_SETTINGS else None
        parts.append(f"{inline_code(facts.lr_scheduler)}{_describe_settings(settings)}")
    if facts.warmup_steps is not None and facts.lr_scheduler not in WITHOUT_WARMUP:
        parts.append(_describe_warmup(facts.warmup_steps, facts.num_steps))
    return [*items, *([f"Schedule: {', '.join(parts)}."] if parts else [])]


def _describe_warmup(warmup_steps: float, num_steps: int | None) -> str:
    if 0 < warmup_steps < 1 and num_steps is None:
        return f"{100 * warmup_steps:g} percent of all steps of warm-up"
    steps = math.ceil(warmup_steps * num_steps) if 0 < warmup_steps < 1 else int(warmup_steps)
    ended = ", which ended before its learning rate was reached" if steps and steps >= (num_steps or math.inf) else ""
    return f"{f'{steps:,}' if steps else 'no'} steps of warm-up{ended}"


def _describe_augmentation(model: Trained, facts: TrainingFacts) -> list[str]:
    parts = []
    if None not in (facts.min_scale, facts.max_scale):
        parts.append(f"random scale from {facts.min_scale:g} to {facts.max_scale:g}")
    if None not in (facts.crop_height, facts.crop_width):
        share = ""
        if facts.max_class_share is not None and facts.max_class_share < 1:
            share = f", drawn again where one class covers {100 * facts.max_class_share:g} percent"
        parts.append(f"random crops of {facts.crop_height} x {facts.crop_width} pixels (height x width){share}")
    parts += ["horizontal flips"] if facts.horizontal_flip else []
    # Images of other than three bands have no colours to change.
    changed = "" if model.config.num_channels == 3 else " (brightness and contrast)"
    parts += [f"photometric distortion{changed}"] if facts.photometric_distortion else []
    parts += ["no photometric distortion"] if facts.photometric_distortion is False else []
    return [f"Augmentation: {', '.join(parts)}."] if parts else []


def _describe_loss(model: Trained, facts: TrainingFacts) -> list[str]:
    if model.training is None:
        return []
    config = model.config
    kind = "binary cross entropy" if config.num_labels == 1 else "cross entropy"
    parts = [f"pixel-wise {kind} that ignores label {config.semantic_loss_ignore_index}"]
    if facts.class_balance:
        parts.append(f"with each class weighted by its frequency to the power of -{facts.class_balance:g}")
    if facts.label_smoothing:
        parts.append(f"with {facts.label_smoothing:g} of the target spread over all labels")
    items = [f"Loss: {', '.join(parts)}."]
    rates = {
        "stochastic depth of up to": config.drop_path_rate,
        "dropout": config.hidden_dropout_prob,
        "dropout of attention": config.attention_probs_dropout_prob,
    }
    drops = [f"{name} {rate:g} in the encoder" for name, rate in rates.items() if rate]
    if config.decoder_type == "mask_transformer":
        rates = {"dropout": config.decoder_dropout_prob, "stochastic depth": config.decoder_drop_path_rate}
        drops += [f"{name} {rate:g} in the decoder" for name, rate in rates.items() if rate]
    items += [f"Regularisation: {', '.join(drops)}."] if drops else []
    if facts.lora_rank is not None:
        alpha = f", alpha {facts.lora_alpha:g}" if facts.lora_alpha is not None else ""
        alpha += f", dropout {facts.lora_dropout:g}" if facts.lora_dropout else ""
        layers = ", ".join(map(inline_code, facts.lora_target_modules or ()))
        where = f" on {layers} of the encoder" if layers else ""
        items.append(f"Low-rank adapters (LoRA) of rank {facts.lora_rank}{alpha}{where}, merged into the weights.")
    return items


def _describe_run(facts: TrainingFacts) -> list[str]:
    items = [f"Precision: {escape(facts.precision)}."] if facts.precision is not None else []
    seeds = [str(facts.seed)] if facts.seed is not None else []
    seeds += [f"{facts.data_seed} of the order of the images"] if facts.data_seed is not None else []
    items += [f"Seed: {', '.join(seeds)}."] if seeds else []
    parts = [escape(facts.hardware)] if facts.hardware is not None else []
    if facts.train_seconds is not None:
        resumed = " in all, interrupted and resumed" if facts.is_resumed else ""
        parts.append(f"{_format_duration(facts.train_seconds)}{resumed}")
    elif facts.is_resumed:
        parts.append("interrupted and resumed")
    items += [f"Hardware and time: {', '.join(parts)}."] if parts else []
    items += [f"Mean training loss: {facts.train_loss:.4g}."] if facts.train_loss is not None else []
    if facts.versions:
        items.append(f"Versions: {escape(', '.join(f'{name} {each}' for name, each in facts.versions.items()))}.")
    return items


def _format_duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def write_limits(model: Trained) -> str:
    data = f"the images of {describe_dataset(model.dataset_name)}" if model.dataset_name else "its training images"
    has_start = model.start is not None and not model.start.is_random
    knew = ", beside what the weights that it started from knew" if has_start else " and nothing else"
    parts = [
        paragraph(
            f"It has learned from {data}{knew}.",
            "What differs from them, in place, season, light, camera or subject, is labelled less well, and errors in "
            "their labels are learned too.",
        )
    ]
    figures = [each.result.per_category_iou_percent for each in model.measured]
    if figures:
        missing = [name for name in model.labels if all(each[name] is None for each in figures)]
        zero = [name for name in model.labels if name not in missing and not any(each[name] for each in figures)]
        parts.append(
            paragraph(
                f"Its IoU is 0 for {', '.join(map(inline_code, zero))}." if zero else "",
                "Never measured, as they neither occur in the label maps of the evaluation nor are predicted there: "
                f"{', '.join(map(inline_code, missing))}."
                if missing
                else "",
                "Mean IoU counts all classes alike: see the table above for how far single ones are from it.",
            )
        )
    return "\n\n".join([*parts, describe_method_limits(model.config.patch_size), NOT_FOR])


def write_terms(model: Trained) -> str:
    start = model.start if model.start is not None and not model.start.is_random else None
    parts = [
        paragraph(
            _describe_licence(model, start),
            "The code beside them is Apache-2.0.",
            "The images and label maps that they were trained on have terms of their own.",
            TERMS_ARE_UNSETTLED,
        )
    ]
    if start is not None and start.documents:
        names = ", ".join(map(inline_code, start.documents))
        parts.append(paragraph(f"Of the weights that training started from, beside this card: {names}."))
        parts += [
            code_block("text", contents.decode("utf-8", "replace"))
            for name, contents in start.documents.items()
            if "notice" in name.lower() and len(contents) <= MAX_QUOTED_BYTES
        ]
    started = " and the weights that training started from" if start is not None else ""
    parts.append(
        paragraph(
            "The credit for the method is due to the authors of the paper. Please cite them, and whoever made the data"
            f"{started}."
        )
    )
    return "\n\n".join(parts)


def _describe_licence(model: Trained, start: StartingWeights | None) -> str:
    of_start = start.terms if start is not None else None
    if model.terms is None:
        return "No licence was stated for these weights: ask who published them before you use them."
    if model.terms == of_start:
        if not of_start.is_known:
            where = f" See <{of_start.link}>." if of_start.link is not None else ""
            return (
                "No licence is known of the weights that training started from, and so none is stated for these: ask "
                f"who published those before you use these.{where}"
            )
        return f"The weights are under the terms of those that training started from: {name_terms(of_start)}."
    if of_start is None:
        return f"The weights are licensed under {name_terms(model.terms)}."
    known = f"under {name_terms(of_start)}" if of_start.is_known else "not under a licence that is known"
    return f"The weights are licensed under {name_terms(model.terms)}; those that training started from are {known}."


def name_terms(terms: Terms) -> str:
    """What weights may be used under, in Markdown."""
    if terms.license != OTHER_LICENCE:
        return LICENCE_NAMES.get(terms.license, terms.license)
    name = inline_code(terms.name) if terms.name is not None else "a licence of its own"
    if terms.link is None:
        return name
    return f"{name}, see {f'<{terms.link}>' if '://' in terms.link else inline_code(terms.link)}"


def write_citations(model: Trained) -> str:
    keys = ("segmenter", *(model.start.citations if model.start is not None else ()))
    return code_block("bibtex", "\n\n".join(CITATIONS[key] for key in dict.fromkeys(keys)))


def write_text(model: Trained, title: str) -> str:
    """A card below its metadata."""
    sections = {
        "Use": write_usage(model),
        "Model": write_description(model),
        "Results": write_results(model),
        "Training": write_training(model),
        "Limits and biases": write_limits(model),
        "Licences and credits": write_terms(model),
        "Citation": write_citations(model),
    }
    parts = [f"# {title}", write_introduction(model)]
    for heading, text in sections.items():
        if text:
            parts += [f"## {heading}", text]
    return "\n\n".join(parts) + "\n"


__all__ = ["FOLDER", "Measurement", "Trained", "make_title", "name_terms", "write_text"]
