"""A training run with a plain loop on accelerate, of the same result as one with `Trainer`."""

import dataclasses
import json
import logging
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedType
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType, ProjectConfiguration
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import SchedulerType, TrainerState, default_data_collator, get_scheduler, set_seed
from transformers.trainer import TRAINER_STATE_NAME

from ..processes import check_connected, part
from .argument_checks import MEASURED, check_schedule, check_trackers, parse_options
from .arguments import DataArguments, MethodArguments, ModelArguments, TrainingError
from .checkpoints import (
    UNFINISHED_NAME,
    finish_checkpoint,
    make_unfinished,
    refuse_unloadable,
    remove_old_checkpoints,
    replacing_files,
    saving,
)
from .output_folder import FILES, reserved
from .recipes import Recipe, announce
from .results_and_card import Run, choose_repository, push, record, write_state
from .resuming import Course, begin, has_evaluation, load_saved, load_state, read_options, restore_options
from .run_with_trainer import set_up_logging
from .samples import EpochSampler
from .segmentation_trainer import compute_loss, evaluate_in_training, make_metrics
from .training_setup import TrainingSetup, prepare


logger = logging.getLogger(__name__)

# What trackers know the runs by, TensorBoard as a folder.
PROJECT = "semantic_segmentation"

OPTIMIZERS = ("adamw_torch", "sgd")


@dataclass
class AccelerateArguments:
    """How the loop runs, with the names that transformers' example without `Trainer` has."""

    output_dir: str = field(default="trainer_output", metadata={"help": "Folder for model, figures and checkpoints."})
    per_device_train_batch_size: int = field(default=8, metadata={"help": "Crops of a process in a forward pass."})
    per_device_eval_batch_size: int = field(default=8, metadata={"help": "Windows of a process in evaluation."})
    gradient_accumulation_steps: int = field(default=1, metadata={"help": "Forward passes for each step."})
    learning_rate: float = field(default=1e-4, metadata={"help": "Largest learning rate."})
    optim: str = field(default="adamw_torch", metadata={"help": "Optimiser.", "choices": list(OPTIMIZERS)})
    optim_args: str | None = field(default=None, metadata={"help": "Of SGD: momentum=0.9,nesterov=true."})
    weight_decay: float = field(default=0.0, metadata={"help": "Of all weights but biases and those of LayerNorm."})
    adam_beta1: float = field(default=0.9, metadata={"help": "Beta1 of AdamW."})
    adam_beta2: float = field(default=0.999, metadata={"help": "Beta2 of AdamW."})
    adam_epsilon: float = field(default=1e-8, metadata={"help": "Epsilon of AdamW."})
    max_grad_norm: float = field(default=1.0, metadata={"help": "Norm that gradients are clipped to; 0 for none."})
    label_smoothing_factor: float = field(
        default=0.0, metadata={"help": "Share of the target that is spread over all labels."}
    )
    lr_scheduler_type: SchedulerType = field(default="polynomial", metadata={"help": "Decay of the learning rate."})
    lr_scheduler_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Its arguments, as JSON."}
    )
    num_warmup_steps: float = field(default=0, metadata={"help": "Steps of warm-up; below 1, a share of all."})
    num_train_epochs: float = field(default=3.0, metadata={"help": "Passes over the training split."})
    max_train_steps: int | None = field(default=None, metadata={"help": "Steps in all, instead of epochs."})
    logging_steps: int = field(default=50, metadata={"help": "Steps from one log of the loss to the next."})
    eval_steps: str = field(
        default="epoch", metadata={"help": "Steps from one evaluation to the next: a number, epoch, or no."}
    )
    checkpointing_steps: str = field(
        default="epoch", metadata={"help": "Steps from one checkpoint to the next: a number, epoch, or no."}
    )
    save_total_limit: int | None = field(default=None, metadata={"help": "How many checkpoints are kept."})
    resume_from_checkpoint: str | None = field(
        default=None, metadata={"help": "Checkpoint to go on from. Default: the last complete one in --output_dir."}
    )
    seed: int = field(default=42, metadata={"help": "Decides on new weights, the order of the samples, and these."})
    mixed_precision: str | None = field(
        default=None,
        metadata={
            "help": "Of forward passes: bf16 or fp16. Default: that of `accelerate launch`.",
            "choices": ["no", "bf16", "fp16"],
        },
    )
    gradient_checkpointing: bool = field(default=False, metadata={"help": "Less memory, more computation."})
    torch_compile: bool = field(default=False, metadata={"help": "Whether to compile the model for training."})
    dataloader_num_workers: int = field(default=0, metadata={"help": "Processes that make samples."})
    use_cpu: bool = field(default=False, metadata={"help": "Whether to leave accelerators alone."})
    with_tracking: bool = field(default=False, metadata={"help": "Whether to log to trackers."})
    report_to: list[str] | str = field(
        default_factory=lambda: ["all"], metadata={"help": "Which, with --with_tracking: tensorboard, trackio..."}
    )
    push_to_hub: bool = field(default=False, metadata={"help": "Whether to push model, figures and card at the end."})
    hub_model_id: str | None = field(
        default=None, metadata={"help": "Repository to push to. Default: by --output_dir."}
    )
    hub_token: str | None = field(default=None, metadata={"help": "Token to push with. Default: of `hf auth login`."})
    hub_private_repo: bool | None = field(default=None, metadata={"help": "Whether a new repository is private."})

    def __post_init__(self):
        # As `TrainingArguments` does.
        self.output_dir = os.path.expanduser(self.output_dir)
        if isinstance(self.lr_scheduler_kwargs, str):
            try:
                self.lr_scheduler_kwargs = json.loads(self.lr_scheduler_kwargs)
            except ValueError as error:
                raise ValueError(f"--lr_scheduler_kwargs is no JSON: {error}") from error
        for name in ("eval_steps", "checkpointing_steps"):
            value = getattr(self, name)
            if value not in ("epoch", "no") and not (value.isdecimal() and int(value) > 0):
                raise ValueError(f"--{name} must be a number of steps, epoch or no, got {value}.")
        optimizer = make_optimizer(torch.nn.Linear(1, 1), self)
        if str(getattr(self.lr_scheduler_type, "value", self.lr_scheduler_type)) in MEASURED:
            raise ValueError(f"--lr_scheduler_type {self.lr_scheduler_type} needs the script with `Trainer`.")
        check_schedule(optimizer, self)
        # In a file it may be a single one.
        self.report_to = [self.report_to] if isinstance(self.report_to, str) else self.report_to
        if self.with_tracking and self.report_to != ["all"]:
            check_trackers(self.report_to, LoggerType.list(), [str(each) for each in get_available_trackers()])


def make_optimizer(model: torch.nn.Module, args: AccelerateArguments) -> torch.optim.Optimizer:
    """The optimiser of the arguments, with weight decay where `Trainer` has it."""
    exempt = {
        parameter
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if isinstance(module, torch.nn.LayerNorm) or "bias" in name
    }
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [each for each in trained if each not in exempt], "weight_decay": args.weight_decay},
        {"params": [each for each in trained if each in exempt], "weight_decay": 0.0},
    ]
    options = parse_options(args.optim_args)
    try:
        if args.optim == "sgd":
            momentum, nesterov = float(options.pop("momentum", 0)), options.pop("nesterov", "false").lower() == "true"
            optimizer = torch.optim.SGD(groups, lr=args.learning_rate, momentum=momentum, nesterov=nesterov)
        else:
            betas = args.adam_beta1, args.adam_beta2
            optimizer = torch.optim.AdamW(groups, lr=args.learning_rate, betas=betas, eps=args.adam_epsilon)
    except ValueError as error:
        raise ValueError(f"--optim {args.optim} cannot be used: {error}") from error
    if options:
        raise ValueError(f"--optim_args: {', '.join(options)} would have no effect with --optim {args.optim}.")
    return optimizer


class Loop:
    """
    A run, step by step.

    Args:
        setup ([`TrainingSetup`]): What it starts with.
        args ([`AccelerateArguments`]): How it runs.
        accelerator (`Accelerator`): Where.

    Attributes:
        course ([`Course`]): What checkpoints keep a record of.
        last_evaluation (`dict`, *optional*): What the last evaluation measured, see [`evaluate_sliding_window`].
    """

    def __init__(self, setup: TrainingSetup, args: AccelerateArguments, accelerator: Accelerator):
        self.setup, self.args, self.accelerator = setup, args, accelerator
        self.output_dir = Path(args.output_dir)
        self.course: Course | None = None
        self.last_evaluation: dict[str, Any] | None = None
        self.id2label = setup.model.config.id2label
        if args.gradient_checkpointing:
            setup.model.gradient_checkpointing_enable({"use_reentrant": False})

        self.sampler = EpochSampler(len(setup.train_dataset), args.seed)
        loader = DataLoader(
            setup.train_dataset,
            batch_size=args.per_device_train_batch_size,
            sampler=self.sampler,
            collate_fn=default_data_collator,
            num_workers=args.dataloader_num_workers,
        )
        # Together, since DeepSpeed takes the batch size from the loader.
        self.model, self.optimizer, self.loader = accelerator.prepare(
            setup.model, make_optimizer(setup.model, args), loader
        )
        self.batches_per_epoch = len(self.loader)
        self.steps_per_epoch = math.ceil(self.batches_per_epoch / args.gradient_accumulation_steps)
        self.max_steps = args.max_train_steps or math.ceil(args.num_train_epochs * self.steps_per_epoch)
        # Not prepared: accelerate would make as many steps at once as there are processes.
        warmup_steps = args.num_warmup_steps
        self.scheduler = get_scheduler(
            args.lr_scheduler_type,
            self.optimizer,
            num_warmup_steps=int(warmup_steps) if warmup_steps >= 1 else math.ceil(self.max_steps * warmup_steps),
            num_training_steps=self.max_steps,
            scheduler_specific_kwargs=args.lr_scheduler_kwargs,
        )
        accelerator.register_for_checkpointing(self.scheduler)
        self.state = TrainerState(max_steps=self.max_steps, logging_steps=args.logging_steps)
        self.state.num_train_epochs = math.ceil(self.max_steps / self.steps_per_epoch)
        self.state.train_batch_size = args.per_device_train_batch_size

    def run(self, checkpoint: Path | None = None):
        """Trains, from a checkpoint on if there is one."""
        if checkpoint is not None:
            options, base_lrs = read_options(self.optimizer), list(getattr(self.scheduler, "base_lrs", []))
            with refuse_unloadable(checkpoint):
                self.accelerator.load_state(str(checkpoint))
            if self.accelerator.distributed_type != DistributedType.DEEPSPEED:
                restore_options(self.optimizer, self.scheduler, options, base_lrs)
            self.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
            self.state.max_steps = self.max_steps
        total_loss, last_logged = torch.zeros((), device=self.accelerator.device), self.state.global_step
        progress = tqdm(
            total=self.max_steps, initial=self.state.global_step, disable=not self.accelerator.is_local_main_process
        )
        while self.state.global_step < self.max_steps:
            epoch, first_step = divmod(self.state.global_step, self.steps_per_epoch)
            for batch, num_accumulated in self._epoch(epoch, first_step):
                self.model.train()
                total_loss += self._forward_and_backward(batch, num_accumulated)
                if not self.accelerator.sync_gradients:
                    continue
                self.state.global_step += 1
                step = self.state.global_step
                step_in_epoch = step - epoch * self.steps_per_epoch
                batches_done = min(step_in_epoch * self.args.gradient_accumulation_steps, self.batches_per_epoch)
                self.state.epoch = epoch + batches_done / self.batches_per_epoch
                progress.update()
                if step % self.args.logging_steps == 0:
                    loss = self.accelerator.reduce(total_loss, "mean").item() / (step - last_logged)
                    total_loss.zero_()
                    last_logged = step
                    self.log({"loss": loss, "grad_norm": self.grad_norm, "learning_rate": self.learning_rate})
                is_last_of_epoch = step_in_epoch == self.steps_per_epoch
                if _is_due(self.args.eval_steps, step, is_last_of_epoch) and step < self.max_steps:
                    self.evaluate()
                if _is_due(self.args.checkpointing_steps, step, is_last_of_epoch):
                    self.save_checkpoint()
                if step >= self.max_steps:
                    break
        progress.close()

    def _epoch(self, epoch: int, first_step: int) -> Iterator[tuple[dict[str, torch.Tensor], int]]:
        """The batches of an epoch, from a step on, each with the number of those that make up its step."""
        per_step = self.args.gradient_accumulation_steps
        first_batch = first_step * per_step
        loader = self.accelerator.skip_first_batches(self.loader, first_batch) if first_step else self.loader
        # accelerate does not tell the sampler through all of its wrappers.
        loader.set_epoch(epoch)
        self.sampler.set_epoch(epoch)
        # Iterating draws a seed for workers, which within an epoch was drawn before the checkpoint.
        state = torch.get_rng_state() if first_step else None
        for index, batch in enumerate(loader, first_batch):
            if state is not None:
                torch.set_rng_state(state)
                state = None
            yield batch, min(per_step, self.batches_per_epoch - index // per_step * per_step)

    def _forward_and_backward(self, batch: dict[str, torch.Tensor], num_accumulated: int) -> torch.Tensor:
        """The share of a batch in the loss of its step, of which the last batch takes the step of the optimiser."""
        with self.accelerator.accumulate(self.model):
            with self.accelerator.autocast():
                loss = self._loss(batch) / num_accumulated
            # accelerate divides too, by the number of batches of all steps but the last of an epoch.
            self.accelerator.backward(loss * self.args.gradient_accumulation_steps)
            if self.accelerator.sync_gradients:
                self.grad_norm = self._clip_gradients()
                self.learning_rate = self.optimizer.param_groups[0]["lr"]
            self.optimizer.step()
            if self.accelerator.sync_gradients and not self.accelerator.optimizer_step_was_skipped:
                self.scheduler.step()
            self.optimizer.zero_grad()
        return loss.detach()

    def _loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return compute_loss(
            self.model,
            self.accelerator.unwrap_model(self.model),
            batch,
            self.setup.class_weights,
            self.args.label_smoothing_factor,
        )[0]

    def _clip_gradients(self) -> float | None:
        if self.args.max_grad_norm <= 0:
            return None
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.args.max_grad_norm)
        # DeepSpeed clips by itself.
        return None if norm is None else float(norm)

    def log(self, values: dict[str, Any]):
        """Logs numbers as `Trainer` does: in the state, for trackers, and for readers."""
        values = {name: value for name, value in values.items() if value is not None}
        self.state.log_history.append({**values, "epoch": self.state.epoch, "step": self.state.global_step})
        if self.args.with_tracking:
            self.accelerator.log(
                {_tracked_name(name): value for name, value in values.items()}, self.state.global_step
            )
        logger.info("step %d: %s", self.state.global_step, {name: f"{value:.4g}" for name, value in values.items()})

    def evaluate(self) -> dict[str, float | None]:
        """Scores the model by the sliding-window protocol, and logs the figures."""
        metrics = self.score()
        self.log(metrics)
        return metrics

    def score(self) -> dict[str, float | None]:
        """What `evaluate` returns, without telling trackers and history of it."""
        self.last_evaluation = evaluate_in_training(
            self.model if self.is_sharded else self.unwrapped_model,
            self.setup.image_processor,
            self.setup.eval_dataset,
            window_batch_size=self.args.per_device_eval_batch_size,
            autocast_dtype=self.evaluation_dtype,
        )
        return make_metrics(self.last_evaluation, self.id2label, "eval")

    @property
    def evaluation_dtype(self) -> torch.dtype | None:
        """The dtype of autocast in evaluation: that of training."""
        return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.accelerator.mixed_precision)

    @property
    def is_sharded(self) -> bool:
        """Whether each process may have a part of the weights only."""
        return self.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)

    @property
    def unwrapped_model(self):
        return self.accelerator.unwrap_model(self.model, keep_torch_compile=False)

    def save_checkpoint(self):
        """Writes a checkpoint beside its place, and renames it when all processes have written theirs."""
        checkpoint = self.output_dir / f"checkpoint-{self.state.global_step}"
        unfinished = self.output_dir / UNFINISHED_NAME
        is_main_process = self.accelerator.is_main_process
        with saving(checkpoint, self.output_dir, is_main_process):
            if is_main_process:
                make_unfinished(self.output_dir)
                self.course.record_at(self.state.global_step, self.state.epoch).write(unfinished)
            self.accelerator.wait_for_everyone()
            self.accelerator.save_state(str(unfinished))
            self.accelerator.wait_for_everyone()
            if is_main_process:
                self.state.save_to_json(str(unfinished / TRAINER_STATE_NAME))
                finish_checkpoint(unfinished, checkpoint)
                remove_old_checkpoints(self.output_dir, self.args.save_total_limit)
        self.accelerator.wait_for_everyone()

    def save(self):
        """Writes model, image processor and state into the output folder."""
        # Gathered, of a sharded model. (Of a compiled one the names would be others than the model's.)
        weights = self.accelerator.get_state_dict(self.model) if self.is_sharded else None
        is_main_process = self.accelerator.is_main_process
        with (
            saving(self.output_dir, self.output_dir, is_main_process),
            replacing_files(self.output_dir, is_main_process, self.course.final_record) as folder,
        ):
            if is_main_process:
                self.unwrapped_model.save_pretrained(folder, state_dict=weights)
                self.setup.image_processor.save_pretrained(folder)
                write_state(self.state, folder)
        self.accelerator.wait_for_everyone()


def _is_due(every: str, step: int, is_last_of_epoch: bool) -> bool:
    return is_last_of_epoch if every == "epoch" else every != "no" and step % int(every) == 0


def _tracked_name(name: str) -> str:
    """As `Trainer` names it for trackers."""
    return f"eval/{name.removeprefix('eval_')}" if name.startswith("eval_") else f"train/{name}"


def train(
    model_args: ModelArguments,
    data_args: DataArguments,
    method_args: MethodArguments,
    args: AccelerateArguments,
    recipe: Recipe,
) -> Loop:
    """
    Trains from the last complete checkpoint in `args.output_dir`, or from the start; evaluates, and saves model, image
    processor and figures there. Of a run that is finished, the model stays as it is.

    Raises:
        TrainingError: if arguments, data and weights do not fit together, or the folder is of another run or held by
            one, before any work.
        OutputError: if something cannot be written; what is complete remains.
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
    with reserved(args.output_dir, FILES, find_tracker_folders(args)):
        return _train(model_args, data_args, method_args, args, recipe, accelerator)


def _train(
    model_args: ModelArguments,
    data_args: DataArguments,
    method_args: MethodArguments,
    args: AccelerateArguments,
    recipe: Recipe,
    accelerator: Accelerator,
) -> Loop:
    batch_size = announce(
        recipe,
        args.per_device_train_batch_size,
        args.gradient_accumulation_steps,
        accelerator.num_processes,
        args.learning_rate,
    )
    repo_id = choose_repository(args)
    set_seed(args.seed)
    setup = prepare(model_args, data_args, method_args, recipe, args.seed, args.output_dir)
    # Again, as `Trainer` does once it has the model.
    set_seed(args.seed)
    loop = Loop(setup, args, accelerator)
    run = Run(
        *(model_args, data_args, method_args, recipe, setup, args),
        device=accelerator.device,
        num_processes=accelerator.num_processes,
        autocast_dtype=loop.evaluation_dtype,
    )
    course = loop.course = begin(
        run, "accelerate", accelerator, max_steps=loop.max_steps, warmup_steps=args.num_warmup_steps
    )
    start = course.start
    if start.is_saved:
        run = use_saved_model(loop, run)
    else:
        if args.with_tracking:
            accelerator.init_trackers(PROJECT, {"recipe": recipe.name, "batch_size": batch_size})
        loop.run(start.checkpoint)
        course.finish(loop.state.global_step, loop.state.epoch)
        if course.train_seconds is not None:
            logger.info("Trained in %.0f s.", course.train_seconds)
        if method_args.use_peft:
            loop.model = loop.unwrapped_model.merge_and_unload()
        loop.save()
    # Trackers and history need no telling twice.
    is_known = start.is_saved and has_evaluation(loop.state)
    metrics = loop.score() if is_known else loop.evaluate()
    if accelerator.is_main_process:
        if is_known:
            logger.info("%s", {name: f"{value:.4g}" for name, value in metrics.items() if value is not None})
        else:
            with saving(loop.output_dir, loop.output_dir):
                write_state(loop.state, loop.output_dir)
        model = loop.unwrapped_model
        record(run, model, loop.last_evaluation, course.final_record, repo_id, is_finished_before=start.is_done)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    part()
    # Alone, so that no process waits for it, however long it takes.
    if repo_id is not None and accelerator.is_main_process:
        push(args, repo_id)
    return loop


def find_tracker_folders(args: AccelerateArguments) -> list[str]:
    """Folders that trackers write to."""
    folders = [os.path.join(args.output_dir, PROJECT), os.environ.get("TRACKIO_DIR")]
    return [folder for folder in folders if folder] if args.with_tracking else []


def use_saved_model(loop: Loop, run: Run) -> Run:
    """Lets a loop score the model in its output folder, and returns the run with that model."""
    loop.setup = load_saved(run)
    loop.model = loop.setup.model.to(loop.accelerator.device)
    loop.state = load_state(loop.output_dir)
    return dataclasses.replace(run, setup=loop.setup)
