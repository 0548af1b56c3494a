"""What arguments may be: types in files, ranges, and which contradict each other or have no effect."""

import enum
import math
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
from transformers import get_scheduler

from ..hub.training_facts import WITHOUT_WARMUP


@dataclass(frozen=True)
class Range:
    """
    Numbers between two bounds, of which each may be left out.

    Args:
        least, most (`float`, *optional*): Bounds that belong to it.
        above, below (`float`, *optional*): Bounds that do not.
        others (`tuple`, *optional*): Values beside those.
    """

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    others: tuple = ()

    def __contains__(self, value: float) -> bool:
        if value in self.others:
            return True
        # These comparisons are all false for NaN, which is outside of any range.
        return (
            math.isfinite(value)
            and (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        bounds = {"at least": self.least, "above": self.above, "at most": self.most, "below": self.below}
        text = " and ".join(f"{words} {bound}" for words, bound in bounds.items() if bound is not None)
        return " or ".join([text or "finite", *map(str, self.others)])


# Ranges of the flags of both scripts. A flag that is not here must be finite.
RANGES = {
    name: expected
    for expected, names in {
        Range(least=1): """
            hidden_size num_hidden_layers patch_size num_channels lora_r lora_alpha max_train_samples max_eval_samples
            short_side long_side crop_height crop_width window_stride per_device_train_batch_size
            per_device_eval_batch_size gradient_accumulation_steps max_train_steps save_total_limit
            eval_accumulation_steps torch_empty_cache_steps dataloader_prefetch_factor ddp_timeout ddp_bucket_cap_mb
        """,
        Range(least=0, below=1): """
            decoder_dropout_prob drop_path_rate lora_dropout adam_beta1 adam_beta2 label_smoothing_factor
        """,
        Range(least=0): """
            learning_rate weight_decay max_grad_norm num_warmup_steps warmup_steps warmup_ratio eval_steps eval_delay
            dataloader_num_workers decoder_num_hidden_layers
        """,
        Range(above=0): "min_scale max_scale adam_epsilon num_train_epochs logging_steps save_steps",
        Range(above=0, below=1): "train_val_split",
        Range(above=0, most=1): "max_class_share",
        Range(least=0, most=1): "class_balance",
        Range(least=1, most=65535): "max_value",
        Range(least=1, others=(-1,)): "max_steps",
        Range(least=0, below=2**32): "seed data_seed",
    }.items()
    for name in names.split()
}

REMEDIES = {
    **dict.fromkeys(("max_train_samples", "max_eval_samples"), "Leave it out for all examples."),
    **dict.fromkeys(
        ("num_train_epochs", "max_steps", "max_train_steps"),
        "To evaluate only, run scripts/evaluate_semantic_segmentation.py.",
    ),
}

# Why flags of `TrainingArguments` have no effect here. They are passed over with the value that is true here anyway.
ORDER = "the order of the samples depends on seed and epoch alone"
SUMMED_BY_IMAGE = "evaluation adds up figures image by image, and gathers no outputs"
WITHOUT_EFFECT = {
    "remove_unused_columns": "samples have no columns",
    "train_sampling_strategy": ORDER,
    "group_by_length": ORDER,
    "length_column_name": ORDER,
    "label_names": "labels are those of label maps",
    "prediction_loss_only": SUMMED_BY_IMAGE,
    "eval_do_concat_batches": SUMMED_BY_IMAGE,
    "eval_use_gather_object": SUMMED_BY_IMAGE,
    "eval_accumulation_steps": SUMMED_BY_IMAGE,
    "include_for_metrics": SUMMED_BY_IMAGE,
    "include_inputs_for_metrics": SUMMED_BY_IMAGE,
    "batch_eval_metrics": SUMMED_BY_IMAGE,
    "average_tokens_across_devices": "the loss is the mean over the pixels of each process",
    "use_cache": "the model generates no text",
    "do_predict": "there is no split to predict on; scripts/evaluate_semantic_segmentation.py scores any",
    "hub_strategy": "the model is pushed once, at the end",
    "hub_always_push": "the model is pushed once, at the end",
}
HARMLESS = {"remove_unused_columns": False}
# These flags would do something else than they say.
UNSUPPORTED = {
    "neftune_noise_alpha": "its noise is for embeddings of text",
    "use_liger_kernel": "its kernels are for models of text",
    "liger_kernel_config": "its kernels are for models of text",
    "include_num_input_tokens_seen": "images have no tokens",
    "hub_revision": "models are pushed to the main branch",
}


def check_types(given: Mapping[str, Any], dataclasses: tuple[type, ...], source: str) -> dict[str, Any]:
    """
    Checks arguments of a file, which no parser has seen, and returns them. Whole numbers where text is expected, as in
    `eval_steps: 500`, become text.

    Args:
        given (`Mapping`): Arguments by name.
        dataclasses (`tuple[type, ...]`): Those that have them as fields.
        source (`str`): The file, for messages.

    Raises:
        ValueError: for names that there are not, values of other types, and what is missing.
    """
    hints = {name: hint for each in dataclasses for name, hint in get_type_hints(each).items()}
    known = {field.name: field for each in dataclasses for field in fields(each) if field.init}
    unknown = sorted(set(given) - known.keys(), key=str)
    if unknown:
        raise ValueError(f"{source}: there are no arguments {', '.join(map(str, unknown))}. --help lists all.")
    given = {name: _as_text(value) if _fits(_as_text(value), hints[name]) else value for name, value in given.items()}
    for name, value in given.items():
        if not _fits(value, hints[name]):
            raise ValueError(f"{source}: {name} must be of type {_describe(hints[name])}, got {value!r}.")
        choices = known[name].metadata.get("choices")
        if choices is not None and value is not None and value not in choices:
            raise ValueError(f"{source}: {name} must be one of {', '.join(map(str, choices))}, got {value!r}.")
    for name, field in known.items():
        if name not in given and field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{source}: {name} is missing.")
    return given


def _as_text(value: Any) -> Any:
    return str(value) if type(value) is int else value


def _fits(value: Any, hint: Any) -> bool:
    kind = get_origin(hint) or hint
    if kind in (Union, types.UnionType):
        return any(_fits(value, each) for each in get_args(hint))
    if kind is Literal:
        return value in get_args(hint)
    if kind is Any:
        return True
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return value in [each.value for each in kind]
    if kind is list:
        return isinstance(value, list) and all(_fits(each, get_args(hint)[0]) for each in value)
    return isinstance(value, kind)


def _describe(hint: Any) -> str:
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(map(_describe, get_args(hint)))
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return " or ".join(str(each.value) for each in hint)
    return "null" if hint is type(None) else str(hint) if get_args(hint) else getattr(hint, "__name__", str(hint))


def check_ranges(values: Mapping[str, Any]):
    """
    Args:
        values (`Mapping`): Arguments of either script by name, as they are given or a recipe has them.

    Raises:
        ValueError: for what is out of range, empty or not finite.
    """
    for name, value in values.items():
        expected = RANGES.get(name, Range())
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if is_number and value not in expected:
            raise ValueError(f"--{name} must be {expected}, got {value}. {REMEDIES.get(name, '')}".rstrip())
        if name in ("warmup_steps", "num_warmup_steps") and value > 1 and value != int(value):
            raise ValueError(f"--{name} must be a whole number, or below 1 for a share of all steps, got {value}.")
        if isinstance(value, str) and not value.strip() and name in NEVER_EMPTY:
            raise ValueError(f"--{name} must not be empty.")
    for name, reason in UNSUPPORTED.items():
        if values.get(name) not in (None, False, "no", "no-op"):
            raise ValueError(f"--{name} is not supported: {reason}. Leave it out.")
    smallest, largest = values.get("min_scale", 0.5), values.get("max_scale", 2.0)
    if smallest > largest:
        raise ValueError(f"--min_scale must be at most --max_scale, got {smallest} and {largest}.")
    if values.get("do_train") is False and not values.get("do_eval"):
        raise ValueError("--do_train False leaves nothing to do: pass --do_eval too, or leave both out for both.")
    if values.get("do_eval") and not values.get("do_train") and values.get("eval_strategy", "no") != "no":
        raise ValueError(
            "--do_eval without --do_train trains nothing, but --eval_strategy does. Leave one of them out."
        )
    for name in ("dataloader_persistent_workers", "dataloader_multiprocessing_context"):
        if values.get(name) and not values.get("dataloader_num_workers"):
            raise ValueError(f"--{name} needs --dataloader_num_workers of at least 1.")


# These schedules go by a figure of evaluation.
MEASURED = ("greedy", "reduce_lr_on_plateau")
NEVER_EMPTY = """
    model_name_or_path config_name image_processor_name model_revision attn_implementation
    dataset_name labels train_split validation_split output_dir
""".split()


def find_without_effect(
    given: Mapping[str, Any], values: Mapping[str, Any], defaults: Mapping[str, Any]
) -> Iterator[str]:
    """
    Tells which arguments have no effect, and why.

    Args:
        given (`Mapping`): Those that were given, by name.
        values (`Mapping`): All of them.
        defaults (`Mapping`): What those are that are not given.

    Yields:
        `str`: a sentence for each.
    """
    for name, reason in WITHOUT_EFFECT.items():
        if name in given and given[name] != HARMLESS.get(name, defaults.get(name)):
            yield f"--{name} has no effect: {reason}."
    warmup_steps = values.get("warmup_steps", values.get("num_warmup_steps", 0))
    if 0 < (values.get("max_steps") or values.get("max_train_steps") or 0) <= warmup_steps:
        yield f"--learning_rate is not reached: {int(warmup_steps)} steps of warm-up are no fewer than all steps."
    for has_no_effect, names, reason in _conditions(values):
        for name in names.split():
            if name in given and has_no_effect:
                yield f"--{name} has no effect {reason}."


def _conditions(values: Mapping[str, Any]) -> list[tuple[bool, str, str]]:
    """Whether some arguments have no effect, their names, and the end of a sentence that says why."""

    def get(name: str) -> str:
        value = values.get(name)
        return str(getattr(value, "value", value))

    has_weights, has_config = (values.get(name) is not None for name in ("model_name_or_path", "config_name"))
    has_steps = (values.get("max_steps") or values.get("max_train_steps") or -1) > 0
    scheduler = get("lr_scheduler_type")
    conditions = [
        (has_weights, "hidden_size num_hidden_layers", "with --model_name_or_path, whose sizes are kept"),
        (has_weights, "config_name", "with --model_name_or_path, which has its own"),
        (
            has_config,
            "hidden_size num_hidden_layers patch_size decoder_type decoder_num_hidden_layers",
            "with --config_name, whose sizes are taken",
        ),
        (not has_weights, "model_revision", "without --model_name_or_path"),
        (not values.get("use_peft"), "lora_r lora_alpha lora_dropout lora_target_modules", "without --use_peft"),
        (has_steps, "num_train_epochs", "with a number of steps"),
        (get("optim") == "sgd", "adam_beta1 adam_beta2 adam_epsilon", "with --optim sgd"),
        (scheduler in WITHOUT_WARMUP, "warmup_steps num_warmup_steps", f"with --lr_scheduler_type {scheduler}"),
        (not values.get("push_to_hub"), "hub_model_id hub_private_repo hub_token", "without --push_to_hub"),
    ]
    if "with_tracking" in values:
        return [*conditions, (not values["with_tracking"], "report_to", "without --with_tracking")]
    uses_best = values.get("load_best_model_at_end") or get("save_strategy") == "best" or scheduler in MEASURED
    return [
        *conditions,
        (get("eval_strategy") != "steps", "eval_steps", "without --eval_strategy steps"),
        (get("save_strategy") != "steps", "save_steps", "without --save_strategy steps"),
        (get("logging_strategy") != "steps", "logging_steps", "without --logging_strategy steps"),
        (get("eval_strategy") == "no", "eval_delay", "without --eval_strategy"),
        (get("save_strategy") == "no", "save_total_limit", "with --save_strategy no"),
        (not uses_best, "metric_for_best_model greater_is_better", "without --load_best_model_at_end"),
        (
            only_evaluates(values),
            "push_to_hub max_steps num_train_epochs max_train_samples learning_rate use_peft",
            "with --do_eval and without --do_train",
        ),
    ]


def only_evaluates(values: Mapping[str, Any]) -> bool:
    """Whether a run of `Trainer` with these arguments makes no step."""
    # `TrainingArguments` sets `do_eval` itself for evaluation during training.
    is_during_training = str(getattr(values["eval_strategy"], "value", values["eval_strategy"])) != "no"
    return bool(values["do_eval"]) and not values["do_train"] and not is_during_training


def parse_options(text: str | None) -> dict[str, str]:
    """
    Reads `name=value,name=value`.

    Raises:
        ValueError: if it is written in another way.
    """
    options = [option.partition("=") for option in (text or "").replace(" ", "").split(",") if option]
    if not all(name and value for name, _, value in options):
        raise ValueError(f"--optim_args must be like momentum=0.9,nesterov=true, got {text}.")
    return {name: value for name, _, value in options}


def check_schedule(optimizer: torch.optim.Optimizer, args: Any) -> Any:
    """
    Makes the schedule of the learning rate as for a run.

    Raises:
        ValueError: if its arguments do not fit it.
    """
    name, settings = str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)), args.lr_scheduler_kwargs
    try:
        return get_scheduler(name, optimizer, 0, 1000, scheduler_specific_kwargs=settings)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        given = f" with --lr_scheduler_kwargs {settings}" if settings else ""
        raise ValueError(f"--lr_scheduler_type {name}{given} cannot be used: {error}") from error


def check_trackers(names: Sequence[str], known: Sequence[str], installed: Sequence[str]):
    """
    Raises:
        ValueError: for a tracker that there is not, or that is not installed.
    """
    for name in names:
        if name not in known:
            raise ValueError(f"--report_to must be among {', '.join(known)}, got {name!r}.")
        if name not in installed:
            package = '"segmenter_hf[track]"' if name in ("tensorboard", "trackio") else name
            raise ValueError(f"--report_to {name}: it is not installed. pip install {package}")


__all__ = [
    "MEASURED",
    "RANGES",
    "Range",
    "check_ranges",
    "check_schedule",
    "check_trackers",
    "check_types",
    "find_without_effect",
    "only_evaluates",
    "parse_options",
]
