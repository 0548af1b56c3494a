"""Arguments of the training scripts, with the names that transformers' example of semantic segmentation has."""

import argparse
import contextlib
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import yaml
from transformers import HfArgumentParser

from ..command_line import print_line
from ..configuration_segmenter import DECODERS
from ..data.label_names import find_label_names, load_label_names
from ..data.labels import LABEL_SETS
from ..inputs import check_regular_file
from ..processes import count_started, is_first
from .argument_checks import check_ranges, check_types, find_without_effect
from .recipes import RECIPES, Recipe, choose_recipe


# Files of arguments may have these names too; the parser of command lines knows them as aliases.
OLD_NAMES = {"check_all_labels": "check_all_examples"}


class TrainingError(ValueError):
    """What keeps a run from starting, or its model from the Hub. The message is meant for the user."""


@contextlib.contextmanager
def refuse_unusable() -> Iterator[None]:
    """
    Turns what libraries raise for data, weights or settings that cannot be used into a refusal.

    Raises:
        TrainingError: with their message.
    """
    try:
        yield
    except ModuleNotFoundError:
        # The script names the extra that installs it.
        raise
    except (ImportError, OSError, ValueError) as error:
        raise TrainingError(str(error)) from error


@dataclass
class ModelArguments:
    """Which model is trained: one with weights, or a new one of the given sizes."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Weights to start from: a Segmenter or an encoder (folder or Hub id), any file or folder that "
            "convert_checkpoint.py takes, or the name of a released checkpoint. Default: random initialisation."
        },
    )
    config_name: str | None = field(
        default=None, metadata={"help": "Config (folder or Hub id) of a new model, instead of the sizes below."}
    )
    image_processor_name: str | None = field(
        default=None, metadata={"help": "Image processor (folder or Hub id), if not the model's."}
    )
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit, of a model on the Hub."})
    cache_dir: str | None = field(default=None, metadata={"help": "Where downloads are kept."})
    token: str | None = field(default=None, metadata={"help": "Token for the Hub. Default: that of `hf auth login`."})
    trust_remote_code: bool = field(
        default=False,
        metadata={
            "help": "Whether code in repositories may run, such as of an image processor that extends Segmenter's. "
            "Segmenter needs none: its own classes are those of this package."
        },
    )
    attn_implementation: str | None = field(
        default=None, metadata={"help": "Attention: sdpa (the default), eager, flash_attention_2, flex_attention."}
    )
    hidden_size: int = field(default=192, metadata={"help": "Width of encoder and decoder of a new model."})
    num_hidden_layers: int = field(default=12, metadata={"help": "Number of encoder layers of a new model."})
    num_channels: int | None = field(
        default=None,
        metadata={
            "help": "Bands of the images, such as 1 or 4; with 3, images are converted to RGB. Weights for 3 are "
            "adapted. Default: those of the weights, or 3."
        },
    )
    patch_size: int = field(default=16, metadata={"help": "Side of a patch in pixels, of a new model."})
    decoder_type: str | None = field(
        default=None,
        metadata={
            "help": f"Decoder of a new model, or on an encoder: {' or '.join(DECODERS)}. Default: the first.",
            "choices": list(DECODERS),
        },
    )
    decoder_num_hidden_layers: int | None = field(
        default=None, metadata={"help": "Number of mask transformer layers, of a new decoder. Default: 2."}
    )
    decoder_dropout_prob: float | None = field(
        default=None, metadata={"help": "Dropout in the mask transformer. Default: the checkpoint's or recipe's."}
    )
    drop_path_rate: float | None = field(
        default=None,
        metadata={"help": "Stochastic depth of the last encoder layer. Default: the checkpoint's or recipe's."},
    )


@dataclass
class DataArguments:
    """Which data, at which sizes."""

    dataset_name: str = field(
        metadata={"help": "Hub id; parquet file, folder of them, saved dataset, or folder of images and label maps."}
    )
    dataset_config_name: str | None = field(
        default=None, metadata={"help": "Configuration of the dataset, if it has several."}
    )
    image_column_name: str | None = field(default=None, metadata={"help": "Column of the images. Default: detected."})
    annotation_column_name: str | None = field(
        default=None, metadata={"help": "Column of the label maps. Default: detected."}
    )
    labels: str | None = field(
        default=None,
        metadata={
            "help": f"Names of the labels: a JSON file, or one of {', '.join(LABEL_SETS)}. Default: the dataset's own."
        },
    )
    train_split: str = field(default="train", metadata={"help": "Split to train on."})
    validation_split: str = field(default="validation", metadata={"help": "Split to evaluate on."})
    train_val_split: float | None = field(
        default=0.15, metadata={"help": "Share of the training split to evaluate on, where there is no other split."}
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on the first so many examples."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Evaluate on the first so many examples."})
    do_reduce_labels: bool | None = field(
        default=None,
        metadata={
            "help": "Whether 0 means unlabelled in the label maps, as in ADE20K: it is ignored, the rest minus 1. "
            "Default: the recipe's."
        },
    )
    check_all_examples: bool = field(
        default=False,
        metadata={
            "help": "Whether to check all images and label maps before training, not 200 of each split.",
            "aliases": ["--check_all_labels"],
        },
    )
    skip_unreadable: bool = field(
        default=False,
        metadata={
            "help": "Whether to leave out examples that cannot be read, of both splits, of which all are read first."
        },
    )
    short_side: int | None = field(
        default=None,
        metadata={"help": "Short side in pixels that images are resized to. Default: the checkpoint's or recipe's."},
    )
    long_side: int | None = field(
        default=None, metadata={"help": "The most that the long side may then have. Default: 4 times the short one."}
    )
    crop_height: int | None = field(
        default=None,
        metadata={"help": "Height of training crops and windows. Default: the checkpoint's or recipe's, or 512."},
    )
    crop_width: int | None = field(default=None, metadata={"help": "Their width. Default: likewise."})
    window_stride: int | None = field(
        default=None,
        metadata={"help": "Distance of windows in evaluation, in pixels. Default: likewise, or half of their side."},
    )
    max_value: int | None = field(
        default=None,
        metadata={
            "help": "What 16-bit images hold at most: 1023, 4095 or 16383 for 10, 12 or 14 bits. Default: the "
            "checkpoint's, or 65535."
        },
    )
    image_mean: list[float] | None = field(
        default=None,
        metadata={
            "help": "Mean of each band, from 0 to 1, which scripts/compute_image_statistics.py computes. Default: the "
            "checkpoint's, or 0.5."
        },
    )
    image_std: list[float] | None = field(
        default=None, metadata={"help": "Standard deviation of each band. Default: likewise."}
    )
    min_scale: float = field(default=0.5, metadata={"help": "Least random scale of training images."})
    max_scale: float = field(default=2.0, metadata={"help": "Largest random scale of training images."})
    max_class_share: float = field(
        default=0.75,
        metadata={"help": "Training crops in which one class covers this share are drawn again, up to ten times."},
    )
    photometric_distortion: bool = field(
        default=True, metadata={"help": "Whether to change brightness, contrast, saturation and hue in training."}
    )


@dataclass
class MethodArguments:
    """How to train, beside the arguments of `TrainingArguments`."""

    recipe: str | None = field(
        default=None,
        metadata={
            "help": "Defaults of all that is not given: ade20k, pascal_context and cityscapes as in the paper, "
            "finetune, or from_scratch. Default: by the label names, and whether there are weights to start from.",
            "choices": list(RECIPES),
        },
    )
    accept_changes: bool = field(
        default=False,
        metadata={
            "help": "Whether a run may go on from a checkpoint of other data or flags, with those of now. Its card "
            "then says so."
        },
    )
    class_balance: float = field(
        default=0.0,
        metadata={"help": "Weight the loss of each class by its frequency in the training split to minus this power."},
    )
    use_peft: bool = field(
        default=False, metadata={"help": "Whether to train low-rank adapters (LoRA) of the encoder, and the decoder."}
    )
    lora_r: int = field(default=16, metadata={"help": "Rank of the adapters."})
    lora_alpha: int = field(default=32, metadata={"help": "Their scale, times the rank."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout of what they are applied to."})
    lora_target_modules: list[str] = field(
        default_factory=lambda: ["q_proj", "v_proj"],
        metadata={"help": "Linear layers of the encoder that get one: q_proj, k_proj, v_proj, o_proj, fc1, fc2."},
    )


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, and descriptions as they are written."""


class Parser(HfArgumentParser):
    """Tells what was given from defaults, takes each yes or no as a plain flag too, and says errors in one line."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        hints = {each.name: each.type for types in self.dataclass_types for each in fields(types)}
        for action in self._actions:
            if hints.get(action.dest) == bool | None:
                action.nargs, action.const = "?", True

    def error(self, message: str):
        raise ValueError(f"{message}. --help lists all arguments.")

    def parse_given(self, arguments: Sequence[str]) -> dict[str, Any]:
        """What was given, by name."""
        default = object()
        names = {action.dest: default for action in self._actions if action.dest != "help"}
        given = vars(self.parse_args(arguments, argparse.Namespace(**names)))
        return {name: value for name, value in given.items() if value is not default}


def parse_arguments(run_type: type, description: str, arguments: Sequence[str] | None = None) -> tuple[Any, ...]:
    """
    Parses a command line, or the one JSON or YAML file that it names, with the recipe's values for what is not given.
    Prints a warning for what is given and has no effect.

    Args:
        run_type (`type`): Dataclass of the script's own arguments, such as `TrainingArguments`. Those of a recipe that
            are not among its fields are left out.
        description (`str`): For `--help`.
        arguments (`Sequence[str]`, *optional*): Default: `sys.argv`.

    Returns:
        `ModelArguments`, `DataArguments`, `MethodArguments`, an instance of `run_type`, and the [`Recipe`].

    Raises:
        ValueError: for what is not an argument, of another type, out of range, or contradicts another.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    types = (ModelArguments, DataArguments, MethodArguments, run_type)
    parser = Parser(types, description=description, formatter_class=HelpFormatter)
    if len(arguments) == 1 and arguments[0].endswith((".json", ".yaml", ".yml")):
        given = check_types(_read_file(arguments[0]), types, arguments[0])
    else:
        given = parser.parse_given(arguments)
    check_ranges(given)
    recipe = decide_recipe(*(given.get(name) for name in ("recipe", "dataset_name", "labels", "model_name_or_path")))
    values = {**recipe_defaults(recipe, run_type, given), **given}
    check_ranges(values)
    parsed = parser.parse_dict(values)
    if is_first():
        values = {each.name: getattr(part, each.name) for part in parsed for each in fields(part)}
        defaults = {each.name: each.default for each_type in types for each in fields(each_type)}
        for problem in find_without_effect(given, values, defaults):
            print_line(f"warning: {problem}")
    return *parsed, recipe


class _Loader(yaml.SafeLoader):
    """YAML 1.2's numbers: `1e-4` is one, which YAML 1.1 takes for text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _read_file(name: str) -> dict[str, Any]:
    check_regular_file(name)
    try:
        with open(name, encoding="utf-8") as file:
            given = json.load(file) if name.endswith(".json") else yaml.load(file, _Loader)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{name} cannot be read: {error}") from error
    if not isinstance(given, dict):
        raise ValueError(f"{name} must hold arguments by their names, got {type(given).__name__}.")
    return {OLD_NAMES.get(argument, argument): value for argument, value in given.items()}


def decide_recipe(name: str | None, dataset_name: str, labels: str | None, model_name_or_path: str | None) -> Recipe:
    """The recipe of that name, or else the one that fits; see [`choose_recipe`]."""
    if name is not None:
        if name not in RECIPES:
            raise ValueError(f"There is no recipe {name!r}, only {', '.join(RECIPES)}.")
        return RECIPES[name]
    # The dataset itself, whose features may name the labels too, is not asked: arguments come before the work.
    id2label = load_label_names(labels) if labels is not None else find_label_names(dataset_name)
    return choose_recipe(id2label, has_weights=model_name_or_path is not None)


def recipe_defaults(recipe: Recipe, run_type: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """
    What a recipe says of the fields of `run_type`, with its batch split among accumulated steps and processes. Its
    settings of an optimiser or schedule are left out where another one is given.
    """
    # The processes are not yet connected.
    per_step = recipe.batch_size // (count_started() * given.get("gradient_accumulation_steps", 1))
    defaults = {**recipe.training, "per_device_train_batch_size": max(1, per_step)}
    # transformers' example without `Trainer` has this name for it.
    defaults["num_warmup_steps"] = defaults["warmup_steps"]
    for name, settings in (("optim", "optim_args"), ("lr_scheduler_type", "lr_scheduler_kwargs")):
        if str(getattr(given.get(name), "value", given.get(name))) not in ("None", recipe.training[name]):
            defaults.pop(settings, None)
    if given.get("load_best_model_at_end") or str(given.get("save_strategy")) == "best":
        # `Trainer`'s default is the loss, where a user who asks for the best model means the metric of the task.
        defaults["metric_for_best_model"] = "mean_iou"
    return {name: value for name, value in defaults.items() if name in run_type.__dataclass_fields__}


__all__ = [
    "DataArguments",
    "MethodArguments",
    "ModelArguments",
    "TrainingError",
    "decide_recipe",
    "parse_arguments",
    "refuse_unusable",
]
