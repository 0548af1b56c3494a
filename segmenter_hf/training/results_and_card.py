"""Results and card of a finished run, written beside its model and pushed with it."""

import copy
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from ..conversion.convert import CARD_FILE
from ..evaluation.results import (
    describe_command,
    describe_device,
    fingerprint,
    have_same_figures,
    make_results,
    read_results_file,
    write_results_file,
)
from ..hub.cards import FOLDER, make_trained_card
from ..hub.client import PushError
from ..hub.push_trained import check_repository, push_trained, save_card
from ..hub.training_facts import TrainingFacts
from ..outputs import refuse_unwritable, replacing_file, write_text
from ..redaction import redact_results
from .argument_checks import parse_options
from .arguments import DataArguments, MethodArguments, ModelArguments, TrainingError
from .recipes import Recipe, find_changes
from .run_record import RunRecord
from .training_setup import TrainingSetup


RESULTS_NAME = "results.json"


@dataclass(frozen=True)
class Run:
    """
    What is known of a run when it begins.

    Args:
        model_args, data_args, method_args, recipe, setup: Those that it was started with.
        args (`TrainingArguments` or `AccelerateArguments`): The script's own.
        device (`torch.device`): Of the first process.
        num_processes (`int`): Their number.
        autocast_dtype (`torch.dtype`, *optional*): Of autocast, in training and in its evaluation.
    """

    model_args: ModelArguments
    data_args: DataArguments
    method_args: MethodArguments
    recipe: Recipe
    setup: TrainingSetup
    args: Any
    device: torch.device
    num_processes: int
    autocast_dtype: torch.dtype | None


def record(
    run: Run,
    model: PreTrainedModel,
    evaluation: dict[str, Any],
    training: RunRecord | None,
    repo_id: str | None = None,
    is_finished_before: bool = False,
) -> dict[str, Any]:
    """
    Writes `results.json`, as the evaluation script would, and the card into the output folder.

    Args:
        run ([`Run`]): The run.
        model ([`SegmenterForSemanticSegmentation`]): What was saved.
        evaluation (`dict`): What [`evaluate_sliding_window`] returned for it.
        training ([`RunRecord`], *optional*): How it was trained; `None` where the run only evaluated.
        repo_id (`str`, *optional*): The repository that the model is pushed to.
        is_finished_before (`bool`, *optional*): Whether the run has only evaluated what was trained already. Figures
            and card that are there and say the same then stay as they are, but for the name of a repository.

    Raises:
        OutputError: if they cannot be written.
    """
    setup, data_args, output_dir = run.setup, run.data_args, Path(run.args.output_dir)
    results = make_results(
        evaluation,
        model_name=run.args.output_dir,
        id2label=model.config.id2label,
        image_processor=setup.image_processor,
        dataset={
            "name": data_args.dataset_name,
            "config_name": data_args.dataset_config_name,
            "split": data_args.validation_split,
            "num_split_images": len(setup.data.split(data_args.validation_split)),
            "fingerprint": fingerprint(setup.eval_dataset),
        },
        ignore_index=model.config.semantic_loss_ignore_index,
        window_batch_size=run.args.per_device_eval_batch_size,
        autocast_dtype=run.autocast_dtype,
        device=run.device,
        num_processes=run.num_processes,
    )
    # It may be pushed: where things are on this machine concerns nobody else.
    results = redact_results(results)
    file = output_dir / RESULTS_NAME
    is_known = is_finished_before and _holds(file, results)
    remedy = f"The model is in {output_dir}: make room, and the same command writes what is missing."
    with refuse_unwritable(file, remedy):
        if not is_known:
            write_results_file(results, file)
        if training is None:
            return results
        if is_known and (output_dir / CARD_FILE).exists():
            # As when the run was made without --push_to_hub. What was written into the card since is kept.
            text = (output_dir / CARD_FILE).read_text(encoding="utf-8")
            if repo_id is not None and FOLDER in text:
                write_text(output_dir / CARD_FILE, text.replace(FOLDER, repo_id))
            return results
        # Notices and licences first, as the card names them.
        start = setup.start.save_documents(output_dir)
        card = make_trained_card(
            model.config,
            setup.image_processor,
            [results],
            training=training.training,
            base_model=start,
            dataset_name=training.dataset_name,
            repo_id=repo_id,
            num_parameters=model.num_parameters(),
        )
        save_card(card, output_dir)
    return results


def _holds(file: Path, results: Mapping[str, Any]) -> bool:
    """Whether a file of results has the figures of an evaluation."""
    try:
        return have_same_figures(read_results_file(file), results)
    except ValueError:
        return False


def write_metrics(metrics: Mapping[str, Any], name: str, output_dir: str | Path):
    """
    Writes what `Trainer.save_metrics` does, complete or not at all: a file of these, and one of those of all names.
    Where they are there already, and differ in nothing but how long it took, they stay.

    Raises:
        OutputError: if they cannot be written.
    """
    own, together = Path(output_dir) / f"{name}_results.json", Path(output_dir) / "all_results.json"
    others = _read_metrics(together)
    if _without_times(metrics).items() <= _without_times(others).items() and own.exists():
        return
    for file, values in ((own, metrics), (together, {**others, **metrics})):
        write_text(file, json.dumps(values, indent=4, sort_keys=True))


def _read_metrics(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _without_times(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if not name.endswith(("_runtime", "_per_second"))}


def write_state(state: TrainerState, folder: str | Path):
    """
    Writes the course of a run into a folder that may be published, as `Trainer` does, complete or not at all.

    Raises:
        OutputError: if it cannot be written.
    """
    state = copy.copy(state)
    # Checkpoints, by which runs are resumed, keep the whole path.
    state.best_model_checkpoint = state.best_model_checkpoint and os.path.basename(state.best_model_checkpoint)
    with replacing_file(Path(folder) / TRAINER_STATE_NAME) as unfinished:
        state.save_to_json(str(unfinished))


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
    # On several devices in one process, that of all.
    per_device = getattr(args, "train_batch_size", args.per_device_train_batch_size)
    batch_size = per_device * args.gradient_accumulation_steps * run.num_processes
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
        recipe_changes=find_changes(run.recipe, args, image_processor, model.config, batch_size),
        is_from_scratch=run.model_args.model_name_or_path is None,
        dataset_config_name=data_args.dataset_config_name,
        split=data_args.train_split,
        num_images=len(run.setup.train_dataset),
        num_split_images=len(run.setup.data.split(data_args.train_split)),
        held_out_share=run.setup.data.held_out_share,
        per_device_batch_size=per_device,
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
    # Those of PyTorch that go by the name of adamw, and adafactor, read none.
    if not name.startswith("adamw_torch") and name != "adafactor":
        settings |= parse_options(args.optim_args)
    return settings


def choose_repository(args: Any) -> str | None:
    """
    The repository that a run will push to, if it will, as `owner/name`; checked before the run has cost anything.

    Raises:
        TrainingError: without a token that may write it.
    """
    if not args.push_to_hub:
        return None
    try:
        return check_repository(args.hub_model_id or Path(args.output_dir).absolute().name, args.hub_token)
    except PushError as error:
        raise TrainingError(f"--push_to_hub: {error}") from error


def push(args: Any, repo_id: str):
    """
    Pushes the output folder.

    Raises:
        TrainingError: if that fails; the message says how to go on.
    """
    try:
        push_trained(args.output_dir, repo_id, private=args.hub_private_repo, token=args.hub_token)
    except PushError as error:
        raise TrainingError(
            f"The model is in {args.output_dir}, but not in {repo_id}: {error} The same command trains no more, and "
            "pushes again."
        ) from error


__all__ = [
    "RESULTS_NAME",
    "Run",
    "choose_repository",
    "describe_training",
    "push",
    "record",
    "write_metrics",
    "write_state",
]
