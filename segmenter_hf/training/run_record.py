"""
What decides on a run's weights, kept in a readable file beside them: in each checkpoint, and with the finished model.
A run that goes on there, or that finds itself finished, is compared with it.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import accelerate
import torch
import torchvision
import transformers

import segmenter_hf

from ..configuration_segmenter import SegmenterConfig
from ..evaluation.results import describe_command, describe_device, fingerprint
from ..hub.training_facts import TrainingFacts
from ..outputs import write_text
from .argument_checks import MEASURED, parse_options
from .arguments import TrainingError
from .checkpoints import RECORD_NAME
from .recipes import find_changes
from .training_setup import Run


# Flags that decide on the weights, of those that data, labels, image processor and config do not show. What the two
# scripts call differently is here by both names.
DATA_FLAGS = ("min_scale", "max_scale", "max_class_share", "photometric_distortion")
RUN_FLAGS = """
    seed data_seed optim optim_target_modules learning_rate weight_decay adam_beta1 adam_beta2 adam_epsilon
    max_grad_norm lr_scheduler_type lr_scheduler_kwargs warmup_steps num_warmup_steps label_smoothing_factor
    dataloader_drop_last ignore_data_skip
""".split()
ADAPTER_FLAGS = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules")

# A checkpoint cannot go on with another of these: its tensors would not fit, or not be read, or be others.
FIXED = {"script", "sharding", "optim", "optim_target_modules", "adapters", "num_labels", "start_weights"}
# Fields of the config that end so change no tensor.
RATES = ("_prob", "_rate")
# Schedules whose learning rate at a step does not depend on the number of all steps, but for warm-up that is a share.
ENDLESS = {"constant", "constant_with_warmup", "inverse_sqrt", *MEASURED}


@dataclass(frozen=True)
class Difference:
    """
    A setting that is not what it was.

    Args:
        name (`str`): Of the flag, or of what it leads to.
        then, now (`Any`): Its values.
    """

    name: str
    then: Any
    now: Any

    @property
    def is_fixed(self) -> bool:
        """Whether no checkpoint can go on with it."""
        name, _, entry = self.name.partition(".")
        if name == "model":
            return not entry.endswith(RATES)
        if name == "lr_scheduler_type":
            # No other schedule can go on from their state.
            return bool({self.then, self.now} & set(MEASURED))
        return name in FIXED

    def __str__(self) -> str:
        return f"{self.name} {_shorten(self.then)} -> {_shorten(self.now)}"


def _shorten(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    # The beginning of a SHA-256 tells it from another.
    return text[:12] if len(text) == 64 and " " not in text else text


@dataclass(frozen=True)
class RunRecord:
    """
    How the weights beside it came about.

    Args:
        settings (`Mapping`): What decided on them, by name; see [`describe_settings`].
        max_steps (`int`): Steps that the run was to make in all.
        base_model (`str`, *optional*): `--model_name_or_path`.
        dataset_name (`str`): `--dataset_name`.
        is_model_only (`bool`): Whether optimiser and schedule were left out.
        training ([`TrainingFacts`]): What was made so far, for the card.
        versions (`Mapping[str, str]`): Version of each package.
        is_complete (`bool`): Whether all files of the finished model are there; of checkpoints it says nothing.
    """

    settings: Mapping[str, Any]
    max_steps: int
    base_model: str | None
    dataset_name: str
    is_model_only: bool
    training: TrainingFacts
    versions: Mapping[str, str]
    is_complete: bool = False

    @classmethod
    def read(cls, folder: str | Path) -> "RunRecord | None":
        """
        The record in a folder, if it has one.

        Raises:
            TrainingError: if it cannot be read.
        """
        file = Path(folder) / RECORD_NAME
        if not file.exists():
            return None
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            known = {field.name for field in dataclasses.fields(TrainingFacts)}
            facts = {name: value for name, value in values["training"].items() if name in known}
            values["training"] = TrainingFacts(**facts)
            record = cls(**{field.name: values[field.name] for field in dataclasses.fields(cls)})
            if not (isinstance(record.settings, dict) and isinstance(record.training.num_steps, int)):
                raise ValueError("settings or num_steps are missing")
        except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
            raise TrainingError(
                f"{file} cannot be read ({error}). Without it, the run goes on from checkpoints, unchecked: remove it."
            ) from error
        return record

    def write(self, folder: str | Path):
        """
        Raises:
            OutputError: if the folder cannot be written to.
        """
        text = json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False)
        write_text(Path(folder) / RECORD_NAME, text + "\n")


def describe_settings(
    script: str, run: Run, *, mixed_precision: str, distributed_type: str, selection: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """
    What decides on the weights, ready for JSON. It reads all images and label maps of the training split, and is for
    one process.

    Args:
        script (`str`): Whose checkpoints they are: `"trainer"` or `"accelerate"`.
        run ([`Run`]): The run; of the number of its processes, only the effective batch is kept.
        mixed_precision (`str`): accelerate's name of it.
        distributed_type (`str`): accelerate's name of how the processes share the model.
        selection (`Mapping`, *optional*): How figures of evaluation choose weights or learning rate, if they do.
    """
    setup, data_args, method_args, args = run.setup, run.data_args, run.method_args, run.args
    data = setup.data
    config = setup.model.config.to_dict()
    own = SegmenterConfig.__annotations__.keys() - {"palette"}
    image_processor = json.loads(setup.image_processor.to_json_string())
    settings = {
        "script": script,
        # Sharded weights and optimisers are kept in forms of their own.
        "sharding": distributed_type if distributed_type in ("FSDP", "DEEPSPEED") else None,
        "recipe": run.recipe.name,
        "train_data": {"num_images": len(setup.train_dataset), "sha256": fingerprint(setup.train_dataset.examples)},
        "validation_data": fingerprint(setup.eval_dataset) if selection is not None else None,
        "selection": selection,
        "num_labels": data.num_labels,
        "labels": {str(index): name for index, name in data.id2label.items()},
        "image_processor": {
            name: value
            for name, value in image_processor.items()
            if name not in ("image_processor_type", "auto_map", "processor_class")
        },
        "model": {name: config[name] for name in sorted(own & config.keys())},
        "start_weights": setup.start_weights,
        "adapters": {name: getattr(method_args, name) for name in ADAPTER_FLAGS} if method_args.use_peft else None,
        "class_balance": method_args.class_balance,
        "batch_size": run.batch_size,
        "precision": mixed_precision,
        **{name: getattr(data_args, name) for name in DATA_FLAGS},
        **{name: _plain(getattr(args, name)) for name in RUN_FLAGS if hasattr(args, name)},
        "optim_args": parse_options(args.optim_args) or None,
    }
    if settings.get("data_seed", 0) is None:
        settings["data_seed"] = args.seed
    return json.loads(json.dumps(settings))


def _plain(value: Any) -> Any:
    # Enumerations are kept by their values. An empty string or mapping means the same as none.
    return getattr(value, "value", value) or (value if value in (0, False) else None)


def describe_training(run: Run, mixed_precision: str, warmup_steps: float) -> TrainingFacts:
    """
    What the card says of the training, but for what is known at its end; see [`TrainingFacts`].

    Args:
        run ([`Run`]): The run.
        mixed_precision (`str`): accelerate's name of it.
        warmup_steps (`float`): Steps of warm-up; below 1, a share of all.
    """
    args, data_args, method_args = run.args, run.data_args, run.method_args
    crop_size = run.setup.image_processor.crop_size
    optimizer = str(getattr(args.optim, "value", args.optim))
    model, image_processor = run.setup.model, run.setup.image_processor
    precision = {"bf16": "bfloat16 autocast", "fp16": "float16 autocast"}.get(mixed_precision, "float32")
    lora = {}
    if method_args.use_peft:
        lora = {
            "lora_rank": method_args.lora_r,
            "lora_alpha": method_args.lora_alpha,
            "lora_dropout": method_args.lora_dropout,
            "lora_target_modules": method_args.lora_target_modules,
        }
    return TrainingFacts(
        recipe=run.recipe.name,
        recipe_title=run.recipe.title,
        recipe_changes=find_changes(run.recipe, args, image_processor, model.config, run.batch_size),
        is_from_scratch=run.model_args.model_name_or_path is None,
        dataset_config_name=data_args.dataset_config_name,
        split=data_args.train_split,
        num_images=len(run.setup.train_dataset),
        num_split_images=len(run.setup.data.split(data_args.train_split)),
        held_out_share=run.setup.data.held_out_share,
        per_device_batch_size=run.per_device_batch_size,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        num_processes=run.num_processes,
        optimizer=optimizer,
        optimizer_settings=describe_optimizer(args),
        learning_rate=args.learning_rate,
        weight_decay=args.weight_decay,
        max_grad_norm=args.max_grad_norm,
        lr_scheduler=str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)),
        lr_scheduler_settings=args.lr_scheduler_kwargs or None,
        warmup_steps=warmup_steps,
        crop_height=crop_size.height,
        crop_width=crop_size.width,
        min_scale=data_args.min_scale,
        max_scale=data_args.max_scale,
        max_class_share=data_args.max_class_share,
        horizontal_flip=True,
        photometric_distortion=data_args.photometric_distortion,
        class_balance=method_args.class_balance or None,
        label_smoothing=args.label_smoothing_factor or None,
        precision=precision,
        seed=args.seed,
        data_seed=getattr(args, "data_seed", None),
        hardware=describe_device(torch.device(run.device)),
        is_resumed=False,
        versions={"torch": torch.__version__},
        command=describe_command(),
        **lora,
    )


def describe_optimizer(args: Any) -> dict[str, Any]:
    """What a run's optimiser has of the settings that are given, beside learning rate and weight decay."""
    name = str(getattr(args.optim, "value", args.optim))
    settings = {}
    if "adam" in name or "lion" in name:
        settings["betas"] = [args.adam_beta1, args.adam_beta2]
    if "adam" in name:
        settings["eps"] = args.adam_epsilon
    # PyTorch's AdamW and Adafactor read none.
    if not name.startswith("adamw_torch") and name != "adafactor":
        settings |= parse_options(args.optim_args)
    return settings


def describe_versions() -> dict[str, str]:
    """Versions of what computes."""
    modules = (segmenter_hf, torch, torchvision, transformers, accelerate)
    return {module.__name__: module.__version__ for module in modules}


def find_differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """The settings that differ, of those that both know."""
    differences = []
    for name in now:
        # Another version of this package may not have kept it.
        if name not in then:
            continue
        before, after = then[name], now[name]
        if isinstance(before, dict) and isinstance(after, dict) and name != "lr_scheduler_kwargs":
            entries = list(dict.fromkeys([*before, *after]))
            if name in ("image_processor", "model"):
                entries = [entry for entry in entries if entry in before and entry in after]
            pairs = [(f"{name}.{entry}", before.get(entry), after.get(entry)) for entry in entries]
        else:
            pairs = [(name, before, after)]
        differences += [Difference(*pair) for pair in pairs if pair[1] != pair[2]]
    return differences


__all__ = [
    "Difference",
    "RunRecord",
    "describe_settings",
    "describe_training",
    "describe_versions",
    "find_differences",
]
