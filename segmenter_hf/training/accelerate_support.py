"""What the loop of run_semantic_segmentation_no_trainer.py asks of accelerate: its start, logs, and what it saves."""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedType
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType, ProjectConfiguration
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from ..processes import check_connected
from .argument_checks import MEASURED, check_schedule, check_trackers
from .arguments import TrainingError
from .checkpoints import (
    UNFINISHED_NAME,
    finish_checkpoint,
    make_unfinished,
    refuse_unloadable,
    remove_old_checkpoints,
    replacing_files,
    saving,
    write_trainer_state,
)
from .resuming import Course, read_options, restore_options
from .run_script import set_up_logging
from .training_setup import Run


logger = logging.getLogger(__name__)

# Trackers know the runs by this name; for TensorBoard it is a folder.
PROJECT = "semantic_segmentation"


def check_arguments(args: Any, make_optimizer: Callable[[torch.nn.Module, Any], torch.optim.Optimizer]):
    """
    Brings the script's own arguments into the form in which the loop takes them.

    Raises:
        ValueError: for what would fail later.
    """
    # `TrainingArguments` does so too.
    args.output_dir = os.path.expanduser(args.output_dir)
    if isinstance(args.lr_scheduler_kwargs, str):
        try:
            args.lr_scheduler_kwargs = json.loads(args.lr_scheduler_kwargs)
        except ValueError as error:
            raise ValueError(f"--lr_scheduler_kwargs is no JSON: {error}") from error
    for name in ("eval_steps", "checkpointing_steps"):
        value = getattr(args, name)
        if value not in ("epoch", "no") and not (value.isdecimal() and int(value) > 0):
            raise ValueError(f"--{name} must be a number of steps, epoch or no, got {value}.")
    optimizer = make_optimizer(torch.nn.Linear(1, 1), args)
    if str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)) in MEASURED:
        raise ValueError(f"--lr_scheduler_type {args.lr_scheduler_type} needs the script with `Trainer`.")
    check_schedule(optimizer, args)
    # A file of arguments may name a single tracker without a list.
    args.report_to = [args.report_to] if isinstance(args.report_to, str) else args.report_to
    if args.with_tracking and args.report_to != ["all"]:
        check_trackers(args.report_to, LoggerType.list(), [str(each) for each in get_available_trackers()])


def group_by_weight_decay(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The trained weights of a model in two groups, as `Trainer` has them: biases and LayerNorm do not decay."""
    exempt = {
        parameter
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if isinstance(module, torch.nn.LayerNorm) or "bias" in name
    }
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [each for each in trained if each not in exempt], "weight_decay": weight_decay},
        {"params": [each for each in trained if each in exempt], "weight_decay": 0.0},
    ]


def start_accelerator(args: Any) -> Accelerator:
    """
    Connects the processes, and sets up their logs.

    Raises:
        TrainingError: if they do not see each other, or the machine cannot do what is asked for.
    """
    try:
        accelerator = Accelerator(
            gradient_accumulation_steps=args.gradient_accumulation_steps,
            mixed_precision=args.mixed_precision,
            cpu=args.use_cpu,
            log_with=args.report_to if args.with_tracking else None,
            project_config=ProjectConfiguration(project_dir=args.output_dir),
            dynamo_backend="inductor" if args.torch_compile else None,
        )
        check_connected(accelerator.num_processes)
    except (ImportError, ValueError) as error:
        raise TrainingError(str(error)) from error
    set_up_logging(accelerator.is_main_process)
    return accelerator


def find_tracker_folders(args: Any) -> list[str]:
    """Folders that trackers write to."""
    folders = [os.path.join(args.output_dir, PROJECT), os.environ.get("TRACKIO_DIR")]
    return [folder for folder in folders if folder] if args.with_tracking else []


def get_autocast_dtype(accelerator: Accelerator) -> torch.dtype | None:
    """The dtype of autocast, in training and in its evaluation."""
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(accelerator.mixed_precision)


def may_be_sharded(accelerator: Accelerator) -> bool:
    """Whether each process may have a part of the weights only."""
    return accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)


def unwrap(accelerator: Accelerator, model: torch.nn.Module) -> torch.nn.Module:
    """The model itself, which is neither compiled nor shared among processes."""
    return accelerator.unwrap_model(model, keep_torch_compile=False)


def clip_gradients(accelerator: Accelerator, model: torch.nn.Module, max_norm: float) -> float | None:
    """Clips gradients to a norm, if it is above 0, and returns the norm that they had, if it is known."""
    if max_norm <= 0:
        return None
    norm = accelerator.clip_grad_norm_(model.parameters(), max_norm)
    # DeepSpeed clips by itself.
    return None if norm is None else float(norm)


def is_due(every: str, step: int, is_last_of_epoch: bool) -> bool:
    """Whether it is time, after a step, for what is done every so many steps, at the end of each `epoch`, or `no`."""
    return is_last_of_epoch if every == "epoch" else every != "no" and step % int(every) == 0


def log(accelerator: Accelerator, state: TrainerState, values: dict[str, float | None], is_known: bool = False):
    """
    Logs numbers as `Trainer` does, those that there are: for readers, for trackers, and in the state of the run.

    Args:
        is_known (`bool`): Whether trackers and state have been told before.
    """
    values = {name: value for name, value in values.items() if value is not None}
    logger.info("step %d: %s", state.global_step, {name: f"{value:.4g}" for name, value in values.items()})
    if not is_known:
        state.log_history.append({**values, "epoch": state.epoch, "step": state.global_step})
        accelerator.log({_tracked_name(name): value for name, value in values.items()}, state.global_step)


def _tracked_name(name: str) -> str:
    """As `Trainer` names it for trackers."""
    return f"eval/{name.removeprefix('eval_')}" if name.startswith("eval_") else f"train/{name}"


def load_run_checkpoint(accelerator: Accelerator, checkpoint: Path, optimizer: Any, scheduler: Any) -> TrainerState:
    """
    Loads what is prepared from a checkpoint, and returns the state of its run. Optimiser and schedule keep the
    settings that they were made with.

    Raises:
        TrainingError: if it is another model's, or damaged.
    """
    options, base_lrs = read_options(optimizer), list(getattr(scheduler, "base_lrs", []))
    with refuse_unloadable(checkpoint):
        accelerator.load_state(str(checkpoint))
    if accelerator.distributed_type != DistributedType.DEEPSPEED:
        restore_options(optimizer, scheduler, options, base_lrs)
    return TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))


def save_run_checkpoint(accelerator: Accelerator, run: Run, course: Course, state: TrainerState):
    """
    Writes a checkpoint beside its place, renames it when all processes have written theirs, and removes old ones.

    Raises:
        OutputError: if it cannot be written.
    """
    output_dir, is_main_process = Path(run.args.output_dir), accelerator.is_main_process
    checkpoint, unfinished = output_dir / f"checkpoint-{state.global_step}", output_dir / UNFINISHED_NAME
    with saving(checkpoint, output_dir, is_main_process):
        if is_main_process:
            make_unfinished(output_dir)
            course.record_at(state.global_step, state.epoch).write(unfinished)
        accelerator.wait_for_everyone()
        accelerator.save_state(str(unfinished))
        accelerator.wait_for_everyone()
        if is_main_process:
            state.save_to_json(str(unfinished / TRAINER_STATE_NAME))
            finish_checkpoint(unfinished, checkpoint)
            remove_old_checkpoints(output_dir, run.args.save_total_limit)
    accelerator.wait_for_everyone()


def save_model(accelerator: Accelerator, model: torch.nn.Module, run: Run, course: Course, state: TrainerState):
    """
    Writes model, image processor and state of a run into its output folder, and logs how long its training took.

    Raises:
        OutputError: if they cannot be written.
    """
    if course.train_seconds is not None:
        logger.info("Trained in %.0f s.", course.train_seconds)
    output_dir, is_main_process = Path(run.args.output_dir), accelerator.is_main_process
    # The weights of a sharded model are gathered; those of a compiled one would have other names than the model's.
    weights = accelerator.get_state_dict(model) if may_be_sharded(accelerator) else None
    with (
        saving(output_dir, output_dir, is_main_process),
        replacing_files(output_dir, is_main_process, course.final_record) as folder,
    ):
        if is_main_process:
            unwrap(accelerator, model).save_pretrained(folder, state_dict=weights)
            run.setup.image_processor.save_pretrained(folder)
            write_trainer_state(state, folder)
    accelerator.wait_for_everyone()


__all__ = [
    "PROJECT",
    "check_arguments",
    "clip_gradients",
    "find_tracker_folders",
    "get_autocast_dtype",
    "group_by_weight_decay",
    "is_due",
    "may_be_sharded",
    "load_run_checkpoint",
    "log",
    "save_run_checkpoint",
    "save_model",
    "start_accelerator",
    "unwrap",
]
