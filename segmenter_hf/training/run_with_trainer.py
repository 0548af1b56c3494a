"""A run of run_semantic_segmentation.py, from its parsed arguments to the finished model."""

import os
from typing import Any

import torch
import torch._inductor
from accelerate.utils import DynamoBackend
from transformers import TrainingArguments, set_seed
from transformers.integrations import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations

from ..processes import check_connected, part
from .argument_checks import MEASURED, check_schedule, check_trackers, only_evaluates, parse_options
from .arguments import DataArguments, MethodArguments, ModelArguments, TrainingError
from .checkpoints import remove_old_checkpoints, replacing_files, saving, write_trainer_state
from .loss_and_metrics import check_metric
from .output_folder import FILES, RESULT_FILES, reserved
from .recipes import Recipe, announce
from .results_and_card import choose_repository, push, write_metrics, write_results_and_card
from .resuming import begin, has_evaluation, load_saved, load_state
from .run_record import RunRecord
from .run_script import set_up_logging
from .segmentation_trainer import SegmentationTrainer, evaluation_dtype
from .training_setup import Run, prepare


def check_arguments(training_args: TrainingArguments, method_args: MethodArguments):
    """
    Raises:
        TrainingError: for what would fail later.
    """
    try:
        check_connected(training_args.world_size)
        check_optimizer(training_args)
        check_compilation(training_args)
        check_trackers(training_args.report_to, list(INTEGRATION_TO_CALLBACK), get_available_reporting_integrations())
        check_metric(training_args.metric_for_best_model)
    except ValueError as error:
        raise TrainingError(str(error)) from error
    if method_args.use_peft and (training_args.fsdp or training_args.deepspeed):
        raise TrainingError("--use_peft is for models that fit each process: leave out --fsdp and --deepspeed.")
    if training_args.deepspeed and training_args.device.type == "cpu" and "DS_ACCELERATOR" not in os.environ:
        raise TrainingError("--deepspeed needs accelerators, and there is none. For CPUs, set DS_ACCELERATOR=cpu.")
    if training_args.accelerator_config.split_batches:
        raise TrainingError(
            "--accelerator_config: split_batches is not supported. Lower --per_device_train_batch_size."
        )


def check_optimizer(training_args: TrainingArguments):
    """
    Makes optimiser and schedule as for a run.

    Raises:
        ValueError: if their arguments do not fit them.
    """
    parameter = torch.nn.Parameter(torch.zeros(1))
    name, options = training_args.optim.value, training_args.optim_args
    try:
        optimizer_class, settings = SegmentationTrainer.get_optimizer_cls_and_kwargs(training_args)
        # Other optimisers may need the model, or an accelerator.
        if optimizer_class.__module__.startswith("torch.optim"):
            optimizer_class([parameter], **settings)
    except (ImportError, RuntimeError, TypeError, ValueError) as error:
        given = f" with --optim_args {options}" if options else ""
        raise ValueError(f"--optim {name}{given} cannot be used: {error}") from error
    ignored = [option for option in parse_options(options) if option not in settings]
    if ignored:
        raise ValueError(f"--optim_args: {', '.join(ignored)} would have no effect with --optim {name}. Leave it out.")
    check_schedule(torch.optim.SGD([parameter], lr=training_args.learning_rate), training_args)


def check_compilation(training_args: TrainingArguments):
    """
    Raises:
        ValueError: for a backend or mode that there is not.
    """
    for name, known in (
        ("torch_compile_backend", [backend.value.lower() for backend in DynamoBackend]),
        ("torch_compile_mode", list(torch._inductor.list_mode_options())),
    ):
        value = getattr(training_args, name)
        if value is not None and value not in known:
            raise ValueError(f"--{name} must be among {', '.join(known)}, got {value!r}.")


def train(
    model_args: ModelArguments,
    data_args: DataArguments,
    method_args: MethodArguments,
    training_args: TrainingArguments,
    recipe: Recipe,
) -> SegmentationTrainer:
    """
    Trains from the last complete checkpoint in `training_args.output_dir`, or from the start; evaluates, and saves
    model, image processor and figures there. With `do_eval` and not `do_train`, only evaluates.
    Of a run that is finished, the model stays as it is.

    Raises:
        TrainingError: if arguments, data and weights do not fit together, or the folder is of another run or held by
            one, before any work.
        OutputError: if something cannot be written; what is complete remains.
    """
    set_up_logging(training_args.process_index == 0)
    check_arguments(training_args, method_args)
    is_evaluation = only_evaluates(vars(training_args))
    output_dir = training_args.output_dir
    with reserved(output_dir, RESULT_FILES if is_evaluation else FILES, find_tracker_folders(training_args)):
        return _train(model_args, data_args, method_args, training_args, recipe, is_evaluation)


def _train(
    model_args: ModelArguments,
    data_args: DataArguments,
    method_args: MethodArguments,
    training_args: TrainingArguments,
    recipe: Recipe,
    is_evaluation: bool,
) -> SegmentationTrainer:
    output_dir, repo_id = training_args.output_dir, None
    if not is_evaluation:
        announce(
            recipe,
            training_args.train_batch_size,
            training_args.gradient_accumulation_steps,
            training_args.world_size,
            training_args.learning_rate,
        )
        repo_id = choose_repository(training_args)
    set_seed(training_args.seed)
    setup = prepare(
        model_args, data_args, method_args, recipe, training_args.seed, output_dir, do_train=not is_evaluation
    )
    check_metric(training_args.metric_for_best_model, setup.data.id2label)
    num_examples = training_args.train_batch_size * training_args.world_size
    if training_args.dataloader_drop_last and not is_evaluation and len(setup.train_dataset) < num_examples:
        raise TrainingError(
            f"--dataloader_drop_last leaves nothing to train on: {len(setup.train_dataset)} examples are no batch of "
            f"{num_examples}. Leave it out."
        )

    # The model is pushed at the end, with the figures. `Trainer` would push whatever is there at each checkpoint.
    training_args.push_to_hub = False
    # It would drop columns that are not arguments of the model, of samples that have no columns.
    training_args.remove_unused_columns = False
    # Memory is pinned for an accelerator; without one, each epoch would warn of it.
    if training_args.device.type == "cpu":
        training_args.dataloader_pin_memory = False
    # Every parameter gets a gradient in each step.
    if training_args.ddp_find_unused_parameters is None:
        training_args.ddp_find_unused_parameters = False
    try:
        trainer = SegmentationTrainer(
            model=setup.model,
            args=training_args,
            train_dataset=setup.train_dataset,
            eval_dataset=setup.eval_dataset,
            processing_class=setup.image_processor,
            class_weights=setup.class_weights,
        )
    # It checks arguments too, against each other and the machine.
    except (ImportError, RuntimeError, ValueError) as error:
        raise TrainingError(str(error)) from error
    run = Run(
        model_args,
        data_args,
        method_args,
        recipe,
        setup,
        training_args,
        device=training_args.device,
        num_processes=training_args.world_size,
        autocast_dtype=evaluation_dtype(training_args),
    )
    if is_evaluation:
        metrics = trainer.evaluate()
        log_metrics(trainer, metrics)
        if trainer.is_world_process_zero():
            write_metrics(metrics, "eval", output_dir)
            model = trainer.accelerator.unwrap_model(trainer.model)
            write_results_and_card(run, model, trainer.last_evaluation, None)
        trainer.accelerator.wait_for_everyone()
        part()
        return trainer

    course = begin(
        run,
        "trainer",
        trainer.accelerator,
        max_steps=trainer.count_steps(),
        warmup_steps=training_args.warmup_steps,
        selection=describe_selection(training_args),
        is_model_only=training_args.save_only_model,
    )
    start = course.start
    if start.is_saved:
        run, trainer.state = load_saved(run, course)
        trainer.model = trainer.model_wrapped = run.setup.model
        trainer.processing_class = run.setup.image_processor
    else:
        trainer.course = course
        result = trainer.train(resume_from_checkpoint=start.checkpoint and str(start.checkpoint))
        # Without an evaluation there is no best checkpoint, and the last one it is.
        best = trainer.state.best_model_checkpoint if training_args.load_best_model_at_end else None
        facts = {}
        if best is not None:
            facts["selected_by"] = training_args.metric_for_best_model
            facts["selected_step"] = trainer.state.best_global_step
        if start.is_done:
            # What `Trainer` has added is about no steps in no time.
            trainer.state.log_history = load_state(start.checkpoint).log_history
        else:
            # The loss of a resumed run would be that of the last part only.
            facts["train_loss"] = result.metrics["train_loss"] if start.checkpoint is None else None
            # It is less than was asked for where --auto_find_batch_size has made it so.
            facts["per_device_batch_size"] = trainer._train_batch_size
            trainer.log_metrics("train", result.metrics)
        course.finish(trainer.state.global_step, trainer.state.epoch, **facts)
        if method_args.use_peft:
            trainer.model = trainer.model_wrapped = trainer.model.merge_and_unload()
        with saving(output_dir, output_dir, training_args.should_save):
            save_model(trainer, course.final_record)
        if training_args.should_save and training_args.save_total_limit == 1:
            remove_old_checkpoints(output_dir, 1, best, keeps_last=False)

    # Trackers and history need no telling twice.
    is_known = start.is_saved and has_evaluation(trainer.state)
    metrics = trainer.score() if is_known else trainer.evaluate()
    log_metrics(trainer, metrics)
    if trainer.is_world_process_zero():
        with saving(output_dir, output_dir):
            if not start.is_done:
                write_metrics(result.metrics, "train", output_dir)
            write_metrics(metrics, "eval", output_dir)
            if not is_known:
                trainer.save_state()
        model = trainer.accelerator.unwrap_model(trainer.model)
        write_results_and_card(
            run, model, trainer.last_evaluation, course.final_record, repo_id, is_finished_before=start.is_done
        )
    trainer.accelerator.wait_for_everyone()
    part()
    # The first process pushes alone, so that no other waits for it, however long it takes.
    if repo_id is not None and trainer.is_world_process_zero():
        push(training_args, repo_id)
    return trainer


def describe_selection(training_args: TrainingArguments) -> dict[str, Any] | None:
    """How figures of evaluation choose the weights that are kept, or the learning rate, if they do."""
    if not (training_args.load_best_model_at_end or training_args.lr_scheduler_type.value in MEASURED):
        return None
    strategy = training_args.eval_strategy.value
    return {
        "is_best_kept": training_args.load_best_model_at_end,
        "metric_for_best_model": training_args.metric_for_best_model.removeprefix("eval_"),
        "greater_is_better": training_args.greater_is_better,
        "evaluated_every": training_args.eval_steps if strategy == "steps" else strategy,
    }


def find_tracker_folders(training_args: TrainingArguments) -> list[str]:
    """Folders that trackers write to."""
    own = getattr(training_args, "logging_dir", None) or os.path.join(training_args.output_dir, "runs")
    folders = {
        "tensorboard": os.environ.get("TENSORBOARD_LOGGING_DIR") or own,
        "trackio": os.environ.get("TRACKIO_DIR"),
    }
    return [folders[name] for name in training_args.report_to if folders.get(name)]


def log_metrics(trainer: SegmentationTrainer, metrics: dict[str, float | None]):
    """Prints figures. Of classes that do not occur there is none."""
    trainer.log_metrics("eval", {name: value for name, value in metrics.items() if value is not None})


def save_model(trainer: SegmentationTrainer, record: RunRecord | None):
    """Writes model and image processor into the output folder, whole also where each process has a part."""
    if trainer.is_fsdp_enabled:
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    with replacing_files(trainer.args.output_dir, trainer.args.should_save, record) as folder:
        trainer.accelerator.wait_for_everyone()
        trainer.save_model(str(folder), _internal_call=True)
        if trainer.args.should_save:
            write_trainer_state(trainer.state, folder)
