#!/usr/bin/env python
"""
Train Segmenter for semantic segmentation with a plain loop on accelerate, to the weights that `Trainer` gives.

    python scripts/run_semantic_segmentation_no_trainer.py --model_name_or_path ade20k/seg_small_mask \\
        --dataset_name DATASET --output_dir outputs/model
    accelerate launch scripts/run_semantic_segmentation_no_trainer.py ...

To train in another way, copy this file and change it: data, model, optimiser, loop, evaluation and checkpoints are all
in it. COST and RESULT: those of run_semantic_segmentation.py.
"""

import math
import sys
from dataclasses import dataclass, field
from typing import Any


try:
    import torch
    from accelerate import Accelerator
    from torch.utils.data import DataLoader
    from tqdm.auto import tqdm
    from transformers import SchedulerType, TrainerState, default_data_collator, get_scheduler, set_seed

    from segmenter_hf.processes import leave, part
    from segmenter_hf.training.accelerate_support import (
        PROJECT,
        check_arguments,
        clip_gradients,
        find_tracker_folders,
        get_autocast_dtype,
        group_by_weight_decay,
        is_due,
        load_run_checkpoint,
        log,
        may_be_sharded,
        save_model,
        save_run_checkpoint,
        start_accelerator,
        unwrap,
    )
    from segmenter_hf.training.argument_checks import parse_options
    from segmenter_hf.training.arguments import DataArguments, MethodArguments, ModelArguments
    from segmenter_hf.training.checkpoints import saving, write_trainer_state
    from segmenter_hf.training.loss_and_metrics import compute_loss, evaluate_in_training, make_metrics
    from segmenter_hf.training.output_folder import FILES, reserved
    from segmenter_hf.training.recipes import Recipe, announce
    from segmenter_hf.training.results_and_card import choose_repository, push, write_results_and_card
    from segmenter_hf.training.resuming import begin, has_evaluation, load_saved
    from segmenter_hf.training.run_script import run_script
    from segmenter_hf.training.samples import EpochSampler, iterate_epoch
    from segmenter_hf.training.training_setup import Run, prepare
# Loading the libraries takes seconds, and those of the extra may be missing.
except KeyboardInterrupt:
    print("run_semantic_segmentation_no_trainer.py: interrupted.", file=sys.stderr)
    sys.exit(130)
except ModuleNotFoundError as error:
    from segmenter_hf.command_line import refuse_missing

    sys.exit(refuse_missing(error, extra="train"))


@dataclass
class AccelerateArguments:
    """How the loop runs, with the names that transformers' example without `Trainer` has."""

    output_dir: str = field(default="trainer_output", metadata={"help": "Folder for model, figures and checkpoints."})
    per_device_train_batch_size: int = field(default=8, metadata={"help": "Crops of a process in a forward pass."})
    per_device_eval_batch_size: int = field(default=8, metadata={"help": "Windows of a process in evaluation."})
    gradient_accumulation_steps: int = field(default=1, metadata={"help": "Forward passes for each step."})
    learning_rate: float = field(default=1e-4, metadata={"help": "Largest learning rate."})
    optim: str = field(default="adamw_torch", metadata={"help": "Optimiser.", "choices": ["adamw_torch", "sgd"]})
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
        check_arguments(self, make_optimizer)


def make_optimizer(model: torch.nn.Module, args: AccelerateArguments) -> torch.optim.Optimizer:
    """The optimiser of the arguments."""
    groups, options = group_by_weight_decay(model, args.weight_decay), parse_options(args.optim_args)
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


def evaluate(
    accelerator: Accelerator, model: torch.nn.Module, run: Run
) -> tuple[dict[str, Any], dict[str, float | None]]:
    """What the sliding-window protocol measures: all of it, and figures by the names under which they are logged."""
    results = evaluate_in_training(
        # The wrapper of a sharded model gathers its weights.
        model if may_be_sharded(accelerator) else unwrap(accelerator, model),
        run.setup.image_processor,
        run.setup.eval_dataset,
        window_batch_size=run.args.per_device_eval_batch_size,
        autocast_dtype=run.autocast_dtype,
    )
    return results, make_metrics(results, run.setup.data.id2label, "eval")


def train(
    model_args: ModelArguments,
    data_args: DataArguments,
    method_args: MethodArguments,
    args: AccelerateArguments,
    recipe: Recipe,
):
    """
    Trains from the last complete checkpoint in `args.output_dir`, or from the start; evaluates, and saves model, image
    processor, figures and card there. Of a run that is finished, the model stays as it is.
    """
    accelerator = start_accelerator(args)
    num_processes, accumulated = accelerator.num_processes, args.gradient_accumulation_steps
    with reserved(args.output_dir, FILES, find_tracker_folders(args)):
        crops = args.per_device_train_batch_size
        batch_size = announce(recipe, crops, accumulated, num_processes, args.learning_rate)
        repo_id = choose_repository(args)

        # Data and model. The seed is set again as `Trainer` does once it has the model.
        set_seed(args.seed)
        setup = prepare(model_args, data_args, method_args, recipe, args.seed, args.output_dir)
        set_seed(args.seed)
        if args.gradient_checkpointing:
            setup.model.gradient_checkpointing_enable({"use_reentrant": False})
        sampler = EpochSampler(len(setup.train_dataset), args.seed)
        loader = DataLoader(
            setup.train_dataset,
            batch_size=crops,
            sampler=sampler,
            collate_fn=default_data_collator,
            num_workers=args.dataloader_num_workers,
        )

        # Optimiser and schedule. All are prepared together, as DeepSpeed takes the batch size from the loader; but for
        # the schedule, of which accelerate would make as many steps at once as there are processes.
        model, optimizer, loader = accelerator.prepare(setup.model, make_optimizer(setup.model, args), loader)
        steps_per_epoch = math.ceil(len(loader) / accumulated)
        max_steps = args.max_train_steps or math.ceil(args.num_train_epochs * steps_per_epoch)
        warmup = args.num_warmup_steps
        scheduler = get_scheduler(
            args.lr_scheduler_type,
            optimizer,
            num_warmup_steps=int(warmup) if warmup >= 1 else math.ceil(max_steps * warmup),
            num_training_steps=max_steps,
            scheduler_specific_kwargs=args.lr_scheduler_kwargs,
        )
        accelerator.register_for_checkpointing(scheduler)

        # Where the run begins: anew, from a checkpoint, or at its end, where the loop makes no step.
        dtype = get_autocast_dtype(accelerator)
        run = Run(model_args, data_args, method_args, recipe, setup, args, accelerator.device, num_processes, dtype)
        course = begin(run, "accelerate", accelerator, max_steps=max_steps, warmup_steps=warmup)
        start = course.start
        state = TrainerState(num_train_epochs=math.ceil(max_steps / steps_per_epoch))
        if start.is_saved:
            run, state = load_saved(run, course)
            model = run.setup.model
        elif start.checkpoint is not None:
            state = load_run_checkpoint(accelerator, start.checkpoint, optimizer, scheduler)
        if args.with_tracking and not start.is_saved:
            accelerator.init_trackers(PROJECT, {"recipe": recipe.name, "batch_size": batch_size})
        state.max_steps, state.logging_steps = max_steps, args.logging_steps
        state.train_batch_size = crops

        # Loop
        total_loss, last_logged = torch.zeros((), device=accelerator.device), state.global_step
        is_quiet = start.is_saved or not accelerator.is_local_main_process
        progress = tqdm(total=max_steps, initial=state.global_step, disable=is_quiet)
        while state.global_step < max_steps:
            epoch, steps_done = divmod(state.global_step, steps_per_epoch)
            for index, batch in iterate_epoch(accelerator, loader, sampler, epoch, steps_done * accumulated):
                model.train()
                # At the end of an epoch, fewer batches may be left for a step.
                num_batches = min(accumulated, len(loader) - index // accumulated * accumulated)
                with accelerator.accumulate(model):
                    with accelerator.autocast():
                        unwrapped, smoothing = accelerator.unwrap_model(model), args.label_smoothing_factor
                        loss, _ = compute_loss(model, unwrapped, batch, setup.class_weights, smoothing)
                        loss = loss / num_batches
                    # accelerate divides too, by the number of batches of all steps but the last of an epoch.
                    accelerator.backward(loss * accumulated)
                    if accelerator.sync_gradients:
                        grad_norm = clip_gradients(accelerator, model, args.max_grad_norm)
                        learning_rate = optimizer.param_groups[0]["lr"]
                    optimizer.step()
                    if accelerator.sync_gradients and not accelerator.optimizer_step_was_skipped:
                        scheduler.step()
                    optimizer.zero_grad()
                total_loss += loss.detach()
                if not accelerator.sync_gradients:
                    continue

                state.global_step += 1
                state.epoch = epoch + (index + 1) / len(loader)
                step, is_last_of_epoch = state.global_step, index + 1 == len(loader)
                progress.update()
                if step % args.logging_steps == 0:
                    mean_loss = accelerator.reduce(total_loss, "mean").item() / (step - last_logged)
                    figures = {"loss": mean_loss, "grad_norm": grad_norm, "learning_rate": learning_rate}
                    log(accelerator, state, figures)
                    total_loss.zero_()
                    last_logged = step
                if is_due(args.eval_steps, step, is_last_of_epoch) and step < max_steps:
                    log(accelerator, state, evaluate(accelerator, model, run)[1])
                if is_due(args.checkpointing_steps, step, is_last_of_epoch):
                    save_run_checkpoint(accelerator, run, course, state)
                if step >= max_steps:
                    break
        progress.close()

        # The model at the end
        if not start.is_saved:
            course.finish(state.global_step, state.epoch)
            if method_args.use_peft:
                model = unwrap(accelerator, model).merge_and_unload()
            save_model(accelerator, model, run, course, state)

        # Figures and card. Trackers and history need no telling twice.
        is_known = start.is_saved and has_evaluation(state)
        results, metrics = evaluate(accelerator, model, run)
        log(accelerator, state, metrics, is_known)
        if accelerator.is_main_process:
            if not is_known:
                with saving(args.output_dir, args.output_dir):
                    write_trainer_state(state, args.output_dir)
            final = unwrap(accelerator, model)
            write_results_and_card(run, final, results, course.final_record, repo_id, is_finished_before=start.is_done)
        accelerator.wait_for_everyone()
        accelerator.end_training()
        part()
        # The first process pushes alone, so that no other waits for it, however long it takes.
        if repo_id is not None and accelerator.is_main_process:
            push(args, repo_id)


def main() -> int:
    return run_script(AccelerateArguments, __doc__, train)


if __name__ == "__main__":
    leave(main())
