"""What a training run starts with: data, image processor and model, checked before any work is done."""

import hashlib
import json
import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, PreTrainedConfig, PreTrainedModel
from transformers.utils import CONFIG_NAME, IMAGE_PROCESSOR_NAME

from ..configuration_segmenter import SegmenterConfig
from ..conversion import ConversionError, convert_checkpoint, convert_released
from ..conversion.released import is_released
from ..data.augmentation import SegmentationAugmentation
from ..data.checks import check_splits, find_unreadable
from ..data.examples import ExampleReader
from ..data.labels import LABEL_SETS, load_label_set
from ..data.loading import SegmentationData, load_segmentation_data
from ..data.pairs import name_some
from ..evaluation.protocol import _gather, _rank_and_number_of_processes
from ..hub.origins import StartingWeights, load_starting_weights
from ..image_processing_pil_segmenter import SegmenterImageProcessingMixin, reduce_labels, to_labels
from ..image_processing_segmenter import SegmenterImageProcessor
from ..modeling_segmenter import SegmenterForSemanticSegmentation, patch_grid
from .arguments import DataArguments, MethodArguments, ModelArguments, TrainingError
from .channels import fit_channels, set_channels
from .recipes import Recipe
from .samples import TrainingDataset


logger = logging.getLogger(__name__)

# How many label maps of each split are checked, unless all are.
NUM_CHECKED = 200


@dataclass
class TrainingSetup:
    """
    What a run starts with.

    Args:
        data ([`SegmentationData`]): The dataset, with its label names and columns.
        train_dataset ([`TrainingDataset`], *optional*): Augmented samples; `None` where the run only evaluates.
        eval_dataset (`Dataset`): Images and label maps as they are.
        image_processor ([`SegmenterImageProcessor`]): What training, its evaluation and later inference share.
        model ([`SegmenterForSemanticSegmentation`]): The model, or with adapters the `PeftModel` around it.
        class_weights (`torch.Tensor`, *optional*): Of shape `(num_labels,)`.
        start ([`StartingWeights`], *optional*): What is known of the weights that the model has; `None` where the run
            only evaluates.
        start_weights (`str`, *optional*): SHA-256 of the weights that training starts from; `None` where all are new.
    """

    data: SegmentationData
    train_dataset: TrainingDataset | None
    eval_dataset: Dataset
    image_processor: SegmenterImageProcessingMixin
    model: PreTrainedModel
    class_weights: torch.Tensor | None
    start: StartingWeights | None = None
    start_weights: str | None = None


def prepare(
    model_args: ModelArguments,
    data_args: DataArguments,
    method_args: MethodArguments,
    recipe: Recipe,
    seed: int,
    do_train: bool = True,
) -> TrainingSetup:
    """
    Loads, checks and builds all that a run needs. The state of torch's random numbers decides on new weights.

    Raises:
        TrainingError: if data, labels, sizes or weights do not fit; the message says what to change.
    """
    try:
        return _prepare(model_args, data_args, method_args, recipe, seed, do_train)
    except ModuleNotFoundError:
        # The script names what installs it.
        raise
    # Also of weights and attention that cannot be had.
    except (ImportError, OSError, ValueError) as error:
        raise TrainingError(str(error)) from error


def _prepare(
    model_args: ModelArguments,
    data_args: DataArguments,
    method_args: MethodArguments,
    recipe: Recipe,
    seed: int,
    do_train: bool,
) -> TrainingSetup:
    data = load_segmentation_data(
        data_args.dataset_name,
        config_name=data_args.dataset_config_name,
        image_column=data_args.image_column_name,
        annotation_column=data_args.annotation_column_name,
        labels=data_args.labels,
        # Nothing is cut off where another split is asked for, or none to train on.
        train_val_split=data_args.train_val_split if data_args.validation_split == "validation" else None,
        train_split=data_args.train_split,
        validation_split=data_args.validation_split,
        # Where those that the run takes are all named, others do no harm.
        allow_other_splits=data_args.validation_split != "validation"
        and (data_args.train_split != "train" or not do_train),
        seed=seed,
        cache_dir=model_args.cache_dir,
    )
    train_examples = None
    if do_train:
        train_examples = _first(data.split(data_args.train_split, "--train_split"), data_args.max_train_samples)
    eval_examples = _first(data.split(data_args.validation_split, "--validation_split"), data_args.max_eval_samples)

    with tempfile.TemporaryDirectory(prefix="segmenter-") as folder:
        checkpoint = find_checkpoint(model_args, Path(folder))
        image_processor = make_image_processor(model_args, data_args, recipe, checkpoint)
        if data_args.skip_unreadable:
            settings = (data, image_processor)
            if do_train:
                train_examples = leave_out_unreadable(train_examples, data_args.train_split, *settings)
            eval_examples = leave_out_unreadable(eval_examples, data_args.validation_split, *settings)
        splits = {data_args.train_split: train_examples, data_args.validation_split: eval_examples}
        check_splits(
            {name: examples for name, examples in splits.items() if examples is not None},
            data.id2label,
            image_column=data.image_column,
            annotation_column=data.annotation_column,
            do_reduce_labels=image_processor.do_reduce_labels,
            image_processor=image_processor,
            sample_size=None if data_args.check_all_examples else NUM_CHECKED,
        )
        model, start_weights = make_model(model_args, recipe, checkpoint, image_processor, data.id2label)

    if not do_train:
        return TrainingSetup(data, None, eval_examples, image_processor, model, None)

    class_weights = None
    if method_args.class_balance:
        counts = count_labels(
            train_examples, data.annotation_column, data.num_labels, image_processor.do_reduce_labels
        )
        class_weights = balanced_class_weights(counts, method_args.class_balance)
    if method_args.use_peft:
        model = add_adapters(model, method_args)
    augmentation = SegmentationAugmentation(
        image_processor,
        (data_args.min_scale, data_args.max_scale),
        data_args.max_class_share,
        data_args.photometric_distortion,
    )
    train_dataset = TrainingDataset(train_examples, augmentation, data.image_column, data.annotation_column, seed)
    start = load_starting_weights(
        model_args.model_name_or_path, model_args.model_revision, model_args.cache_dir, model_args.token
    )
    return TrainingSetup(
        data, train_dataset, eval_examples, image_processor, model, class_weights, start, start_weights
    )


def _first(examples: Dataset, number: int | None) -> Dataset:
    return examples if number is None else examples.select(range(min(number, len(examples))))


def leave_out_unreadable(
    examples: Dataset, split: str, data: SegmentationData, image_processor: SegmenterImageProcessingMixin
) -> Dataset:
    """
    The examples of a split that can be read; those that cannot are logged. Of several processes, each reads its share,
    and all leave out the same.

    Raises:
        ValueError: if none is left.
    """
    rank, num_processes = _rank_and_number_of_processes()
    own = find_unreadable(
        examples,
        image_processor,
        image_column=data.image_column,
        annotation_column=data.annotation_column,
        indices=range(rank, len(examples), num_processes),
    )
    unreadable = {index: name for names in _gather(own) for index, name in names.items()}
    if not unreadable:
        return examples
    message = (
        f"{split} split: {len(unreadable)} of {len(examples)} examples cannot be read: "
        f"{name_some([unreadable[index] for index in sorted(unreadable)])}."
    )
    if len(unreadable) == len(examples):
        raise ValueError(f"{message} None is left.")
    logger.warning("%s They are left out.", message)
    return examples.select([index for index in range(len(examples)) if index not in unreadable])


@dataclass
class Checkpoint:
    """
    Weights to start from, as `from_pretrained` loads them.

    Args:
        name_or_path (`str`): Folder or Hub id.
        has_decoder (`bool`): Whether they are a whole Segmenter's, whose own settings then apply, or an encoder's.
        settings (`dict`): Further arguments of `from_pretrained`.
    """

    name_or_path: str
    has_decoder: bool
    settings: dict[str, Any]


def find_checkpoint(model_args: ModelArguments, folder: Path) -> Checkpoint | None:
    """
    The weights that `--model_name_or_path` names, converted into `folder` if they are in another format.

    Raises:
        ValueError: if there are none of that name, or they cannot be converted.
    """
    name = model_args.model_name_or_path
    if name is None:
        return None
    settings = _hub_settings(model_args)
    try:
        if is_released(name):
            convert_released(name, folder / "converted", model_args.cache_dir)
            name, settings = str(folder / "converted"), {}
        else:
            config = _read_config(name, settings)
            if config is None or config.get("model_type") != SegmenterConfig.model_type:
                convert_checkpoint(name, folder / "converted")
                name, settings = str(folder / "converted"), {}
    except ConversionError as error:
        raise ValueError(
            f"--model_name_or_path {model_args.model_name_or_path} is no Segmenter, and cannot be made into one: "
            f"{error}"
        ) from error
    architectures = _read_config(name, settings).get("architectures") or []
    return Checkpoint(name, SegmenterForSemanticSegmentation.__name__ in architectures, settings)


def _hub_settings(model_args: ModelArguments) -> dict[str, Any]:
    return {"cache_dir": model_args.cache_dir, "token": model_args.token, "revision": model_args.model_revision}


def _read_config(name: str, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The config.json of a folder or of a repository on the Hub, if it has one."""
    path = Path(name)
    if path.exists():
        file = path / CONFIG_NAME
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    try:
        return PreTrainedConfig.get_config_dict(name, **settings)[0]
    except OSError:
        return None


def make_image_processor(
    model_args: ModelArguments, data_args: DataArguments, recipe: Recipe, checkpoint: Checkpoint | None = None
) -> SegmenterImageProcessingMixin:
    """
    The image processor that training, its evaluation and later inference share. What is given has precedence over what
    a Segmenter was trained with, and that over the recipe. Windows are as large as training crops.
    """
    source = model_args.image_processor_name or (checkpoint and checkpoint.name_or_path)
    has_own_sizes = checkpoint is not None and checkpoint.has_decoder or model_args.image_processor_name is not None
    if source is not None:
        image_processor = _load_image_processor(source, model_args, checkpoint)
    else:
        image_processor = SegmenterImageProcessor(
            do_split_image=True, window_stride=256, patch_size=model_args.patch_size
        )
    settings = image_processor.to_dict()
    defaults = {} if has_own_sizes else dict(recipe.data)

    short_side = data_args.short_side or defaults.get("short_side")
    if short_side is not None:
        ratio = defaults["long_side"] / defaults["short_side"] if "long_side" in defaults else 4
        long_side = data_args.long_side or int(ratio * short_side)
        settings["size"] = {"shortest_edge": short_side, "longest_edge": long_side}
    elif data_args.long_side is not None:
        settings["size"] = {**settings["size"], "longest_edge": data_args.long_side}
    if (
        "shortest_edge" in settings["size"]
        and settings["size"].get("longest_edge", np.inf) < settings["size"]["shortest_edge"]
    ):
        raise ValueError(f"--long_side must be at least --short_side, got {settings['size']}.")

    crop = settings["crop_size"]
    height = data_args.crop_height or defaults.get("crop") or crop["height"]
    width = data_args.crop_width or defaults.get("crop") or crop["width"]
    if (height, width) != (crop["height"], crop["width"]):
        settings["window_stride"] = max(1, min(height, width) // 2)
    settings["crop_size"] = {"height": height, "width": width}
    if data_args.window_stride is not None:
        settings["window_stride"] = data_args.window_stride
    elif "window_stride" in defaults and data_args.crop_height is None and data_args.crop_width is None:
        settings["window_stride"] = defaults["window_stride"]

    if data_args.max_value is not None:
        settings["max_value"] = data_args.max_value
    num_channels = model_args.num_channels or _num_channels_of_weights(model_args, checkpoint)
    set_channels(settings, num_channels, data_args.image_mean, data_args.image_std)

    # What a checkpoint says of the label maps that it was trained on says nothing of these.
    reduce = data_args.do_reduce_labels
    settings["do_reduce_labels"] = recipe.data.get("do_reduce_labels", False) if reduce is None else reduce
    settings["do_split_image"] = True
    return type(image_processor).from_dict(settings)


def _num_channels_of_weights(model_args: ModelArguments, checkpoint: Checkpoint | None) -> int:
    name, settings = model_args.config_name, _hub_settings(model_args)
    if checkpoint is not None:
        name, settings = checkpoint.name_or_path, checkpoint.settings
    config = _read_config(name, settings) if name is not None else None
    return (config or {}).get("num_channels", SegmenterConfig.num_channels)


def _load_image_processor(source: str, model_args: ModelArguments, checkpoint: Checkpoint | None):
    is_of_checkpoint = checkpoint is not None and source == checkpoint.name_or_path
    settings = checkpoint.settings if is_of_checkpoint else _hub_settings(model_args)
    try:
        image_processor = AutoImageProcessor.from_pretrained(
            source, trust_remote_code=model_args.trust_remote_code, **settings
        )
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{source} has no image processor ({IMAGE_PROCESSOR_NAME}). Name one with --image_processor_name."
        ) from error
    if not isinstance(image_processor, SegmenterImageProcessingMixin):
        raise ValueError(
            f"The image processor of {source} is a {type(image_processor).__name__}, expected a "
            f"{SegmenterImageProcessor.__name__}. Name one with --image_processor_name."
        )
    return image_processor


def make_model(
    model_args: ModelArguments,
    recipe: Recipe,
    checkpoint: Checkpoint | None,
    image_processor: SegmenterImageProcessingMixin,
    id2label: Mapping[int, str],
) -> tuple[SegmenterForSemanticSegmentation, str | None]:
    """
    The model for these labels: new, on an encoder's weights, or on those of a Segmenter, of which what depends on the
    number of labels is new if that is another (the log names it); and the SHA-256 of the weights that are not new.
    """
    settings = {"id2label": dict(id2label), "label2id": {name: index for index, name in id2label.items()}}
    settings["palette"] = _find_palette(id2label)
    if checkpoint is None or not checkpoint.has_decoder:
        settings |= recipe.model
    for name in ("decoder_dropout_prob", "drop_path_rate"):
        if getattr(model_args, name) is not None:
            settings[name] = getattr(model_args, name)
    decoder = {name: getattr(model_args, name) for name in ("decoder_type", "decoder_num_hidden_layers")}
    decoder = {name: value for name, value in decoder.items() if value is not None}
    if checkpoint is not None and not checkpoint.has_decoder:
        # Of the config of an encoder, what it says of a decoder is not meant.
        settings |= {
            "decoder_type": SegmenterConfig.decoder_type,
            "decoder_num_hidden_layers": SegmenterConfig.decoder_num_hidden_layers,
            **decoder,
        }
    attention = {"attn_implementation": model_args.attn_implementation} if model_args.attn_implementation else {}

    start_weights = None
    if checkpoint is not None:
        model, info = AutoModelForSemanticSegmentation.from_pretrained(
            checkpoint.name_or_path,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            dtype=torch.float32,
            trust_remote_code=model_args.trust_remote_code,
            **checkpoint.settings,
            **settings,
            **attention,
        )
        for name, value in decoder.items():
            kept = getattr(model.config, name)
            if value != kept:
                raise ValueError(
                    f"--{name} {value} is not that of {model_args.model_name_or_path}, {kept}, whose decoder is kept. "
                    "Leave it out."
                )
        new = {*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])}
        start_weights = hash_weights({name: each for name, each in model.state_dict().items() if name not in new})
    else:
        if model_args.config_name is not None:
            channels = {} if model_args.num_channels is None else {"num_channels": model_args.num_channels}
            try:
                config = SegmenterConfig.from_pretrained(
                    model_args.config_name, **_hub_settings(model_args), **channels, **settings
                )
            except OSError as error:
                raise ValueError(f"--config_name {model_args.config_name} cannot be loaded: {error}") from error
        else:
            config = SegmenterConfig(
                hidden_size=model_args.hidden_size,
                num_hidden_layers=model_args.num_hidden_layers,
                num_attention_heads=max(1, model_args.hidden_size // 64),
                intermediate_size=4 * model_args.hidden_size,
                image_size=(image_processor.crop_size.height, image_processor.crop_size.width),
                patch_size=model_args.patch_size,
                num_channels=model_args.num_channels or SegmenterConfig.num_channels,
                **decoder,
                **settings,
            )
        model = AutoModelForSemanticSegmentation.from_config(config, **attention)
    if checkpoint is not None and model_args.num_channels is not None:
        fit_channels(model, model_args.num_channels)
    if checkpoint is not None and not checkpoint.has_decoder:
        fit_position_embeddings(model, image_processor.crop_size.height, image_processor.crop_size.width)
    if image_processor.patch_size != model.config.patch_size:
        raise ValueError(
            f"The image processor is for patches of {image_processor.patch_size} pixels, the model has patches of "
            f"{model.config.patch_size}. Pass --patch_size {model.config.patch_size}, or another "
            "--image_processor_name."
        )
    return model, start_weights


def hash_weights(weights: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of tensors by their names, whatever file they were read from."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def fit_position_embeddings(model: SegmenterForSemanticSegmentation, height: int, width: int):
    """
    Resizes the position embeddings of a new model's encoder to the grid of training crops, once, as the original does
    (segm/model/factory.py), so that each patch of a crop trains its own.
    """
    embeddings, patch_size = model.segmenter.embeddings, model.config.patch_size
    grid = patch_grid(height, width, patch_size)
    if grid == embeddings.patch_grid:
        return
    with torch.no_grad():
        resized = embeddings.interpolate_position_embeddings(*grid)
    embeddings.position_embeddings = torch.nn.Parameter(resized.contiguous())
    embeddings.patch_grid = grid
    height, width = (side * patch_size for side in grid)
    model.config.image_size = height if height == width else (height, width)


def _find_palette(id2label: Mapping[int, str]) -> list[list[int]] | None:
    """The colours of the built-in label set with these names."""
    label_sets = (load_label_set(name) for name in LABEL_SETS)
    return next(
        (
            [list(colour) for colour in label_set.palette]
            for label_set in label_sets
            if label_set.id2label == dict(id2label)
        ),
        None,
    )


def add_adapters(model: SegmenterForSemanticSegmentation, method_args: MethodArguments) -> PreTrainedModel:
    """The model with low-rank adapters on linear layers of its encoder. The decoder is trained as a whole."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ValueError('--use_peft needs PEFT: pip install "segmenter_hf[peft]".') from error

    modules = model.segmenter.layers[0].named_modules()
    layers = sorted(name.rpartition(".")[-1] for name, module in modules if isinstance(module, torch.nn.Linear))
    unknown = sorted(set(method_args.lora_target_modules) - set(layers))
    if unknown or not method_args.lora_target_modules:
        got = ", ".join(unknown) or "none"
        raise ValueError(f"--lora_target_modules must be among {', '.join(layers)}, got {got}.")
    # A pattern, since the decoder has layers of the same names.
    modules = "|".join(method_args.lora_target_modules)
    config = LoraConfig(
        r=method_args.lora_r,
        lora_alpha=method_args.lora_alpha,
        lora_dropout=method_args.lora_dropout,
        target_modules=rf"segmenter\.layers\.\d+\..*({modules})",
        modules_to_save=["decoder"],
    )
    return get_peft_model(model, config)


def count_labels(
    examples: Dataset, annotation_column: str, num_labels: int, do_reduce_labels: bool = False
) -> torch.Tensor:
    """Number of pixels of each label in a split, `(num_labels,)`; labels beyond are ignored ones."""
    counts = torch.zeros(num_labels, dtype=torch.int64)
    reader = ExampleReader(examples, None, annotation_column)
    for index in range(len(reader)):
        with reader.naming(index, "Training example"):
            (annotation,) = reader[index]
            labels = to_labels(annotation, "Its label map").flatten()
        if do_reduce_labels:
            labels = reduce_labels(labels)
        counts += torch.bincount(labels[labels < num_labels], minlength=num_labels)
    return counts


def balanced_class_weights(counts: torch.Tensor, power: float) -> torch.Tensor:
    """Weights proportional to `frequency ** -power`, whose mean over all pixels is 1. Classes never seen weigh 0."""
    frequencies = counts / counts.sum()
    weights = torch.where(counts > 0, frequencies.clamp(min=1e-12) ** -power, 0)
    return weights / (weights * frequencies).sum()


__all__ = [
    "TrainingSetup",
    "add_adapters",
    "balanced_class_weights",
    "count_labels",
    "fit_position_embeddings",
    "leave_out_unreadable",
    "make_image_processor",
    "make_model",
    "prepare",
]
