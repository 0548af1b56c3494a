"""The image processor and the model that a run starts with, from weights of any format or anew."""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, PreTrainedConfig, PreTrainedModel
from transformers.utils import CONFIG_NAME, IMAGE_PROCESSOR_NAME

from ..configuration_segmenter import SegmenterConfig
from ..conversion import ConversionError, convert_checkpoint
from ..conversion.released import is_released
from ..data.labels import find_label_set
from ..image_processing_segmenter import SegmenterImageProcessingMixin, SegmenterImageProcessor
from ..modeling_segmenter import SegmenterForSemanticSegmentation, patch_grid
from ..processes import by_first_process
from .arguments import DataArguments, MethodArguments, ModelArguments, TrainingError, refuse_unusable
from .channels import fit_channels, set_channels
from .checkpoints import CONVERTED_NAME
from .recipes import Recipe


@dataclass
class Checkpoint:
    """
    Weights to start from, as `from_pretrained` loads them.

    Args:
        name_or_path (`str`): Folder or Hub id.
        has_decoder (`bool`): Whether they are a whole Segmenter's, whose own settings then apply, or an encoder's.
        is_converted (`bool`): Whether they were in another format.
        settings (`dict`): Further arguments of `from_pretrained`.
    """

    name_or_path: str
    has_decoder: bool
    is_converted: bool
    settings: dict[str, Any]


@contextlib.contextmanager
def starting_checkpoint(model_args: ModelArguments, output_dir: str | Path) -> Iterator[Checkpoint | None]:
    """
    The weights that `--model_name_or_path` names, in all processes. The first finds them, and converts those in
    another format into the output folder, where all can load them; the copy is removed at the end.

    Raises:
        TrainingError: in all processes, if there are none of that name, or they cannot be converted.
    """
    folder = Path(output_dir) / CONVERTED_NAME

    @refuse_unusable()
    def find() -> Checkpoint | None:
        return find_checkpoint(model_args, folder)

    try:
        checkpoint = by_first_process(find)
        if checkpoint is not None and checkpoint.is_converted and not folder.is_dir():
            raise TrainingError(
                f"{folder}, where the first process has converted {model_args.model_name_or_path}, is not seen by all "
                "processes. Name an --output_dir that all machines share."
            )
        yield checkpoint
        # By now, all processes have read it.
        PartialState().wait_for_everyone()
    finally:
        if PartialState().is_main_process:
            shutil.rmtree(folder, ignore_errors=True)


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
    # Its temporary folder is beside what conversion writes, and goes with `folder`.
    converted = folder / "model"
    try:
        # Names of released checkpoints look like ids of the Hub, which is not asked for them.
        config = None if is_released(name) else _read_config(name, settings)
        if config is None or config.get("model_type") != SegmenterConfig.model_type:
            convert_checkpoint(name, converted, cache_dir=model_args.cache_dir)
    except ConversionError as error:
        raise ValueError(
            f"--model_name_or_path {name} is no Segmenter, and cannot be made into one: {error}"
        ) from error
    is_converted = converted.is_dir()
    if is_converted:
        name, settings = str(converted), {}
    architectures = _read_config(name, settings).get("architectures") or []
    return Checkpoint(name, SegmenterForSemanticSegmentation.__name__ in architectures, is_converted, settings)


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
        # What the config of an encoder says of a decoder is not meant.
        settings |= {
            "decoder_type": SegmenterConfig.decoder_type,
            "decoder_num_hidden_layers": SegmenterConfig.decoder_num_hidden_layers,
            **decoder,
        }
    attention = {"attn_implementation": model_args.attn_implementation} if model_args.attn_implementation else {}

    start_weights = None
    if checkpoint is None:
        config = _make_config(model_args, image_processor, decoder, settings)
        model = AutoModelForSemanticSegmentation.from_config(config, **attention)
    else:
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
        if model_args.num_channels is not None:
            fit_channels(model, model_args.num_channels)
        if not checkpoint.has_decoder:
            fit_position_embeddings(model, image_processor.crop_size.height, image_processor.crop_size.width)
    if image_processor.patch_size != model.config.patch_size:
        raise ValueError(
            f"The image processor is for patches of {image_processor.patch_size} pixels, the model has patches of "
            f"{model.config.patch_size}. Pass --patch_size {model.config.patch_size}, or another "
            "--image_processor_name."
        )
    return model, start_weights


def _make_config(
    model_args: ModelArguments,
    image_processor: SegmenterImageProcessingMixin,
    decoder: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> SegmenterConfig:
    """The config of a model without weights to start from: by `--config_name`, or of the sizes that are given."""
    if model_args.config_name is None:
        return SegmenterConfig(
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
    channels = {} if model_args.num_channels is None else {"num_channels": model_args.num_channels}
    try:
        return SegmenterConfig.from_pretrained(
            model_args.config_name, **_hub_settings(model_args), **channels, **settings
        )
    except OSError as error:
        raise ValueError(f"--config_name {model_args.config_name} cannot be loaded: {error}") from error


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
    label_set = find_label_set(id2label)
    return None if label_set is None else [list(colour) for colour in label_set.palette]


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
    # The modules are named by a pattern, since the decoder has layers of the same names.
    modules = "|".join(method_args.lora_target_modules)
    config = LoraConfig(
        r=method_args.lora_r,
        lora_alpha=method_args.lora_alpha,
        lora_dropout=method_args.lora_dropout,
        target_modules=rf"segmenter\.layers\.\d+\..*({modules})",
        modules_to_save=["decoder"],
    )
    return get_peft_model(model, config)


__all__ = [
    "Checkpoint",
    "add_adapters",
    "find_checkpoint",
    "fit_position_embeddings",
    "make_image_processor",
    "make_model",
    "starting_checkpoint",
]
