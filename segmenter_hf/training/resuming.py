"""Where a run begins: anew, from a checkpoint, or at its end, as it has been made already."""

import dataclasses
import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoImageProcessor, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_NAME

from ..hub.training_facts import WITHOUT_WARMUP
from ..modeling_segmenter import SegmenterForSemanticSegmentation
from ..outputs import OutputError
from ..processes import by_first_process
from .arguments import TrainingError
from .checkpoints import check_fits, decide_checkpoint, find_foreign, find_last_checkpoint, is_model_only, read_step
from .run_record import (
    ENDLESS,
    Difference,
    RunRecord,
    describe_settings,
    describe_training,
    describe_versions,
    find_differences,
)
from .training_setup import Run


logger = logging.getLogger(__name__)

OTHER_FOLDER = "Name another --output_dir."


@dataclass(frozen=True)
class Start:
    """
    Where a run begins.

    Args:
        checkpoint (`Path`, *optional*): The checkpoint that it goes on from.
        is_done (`bool`): Whether no step is left to make from there.
        is_saved (`bool`): Whether the model that it would make is in the output folder, complete.
        former ([`RunRecord`], *optional*): That of the checkpoint, or of the model.
        accepted (`tuple[str, ...]`): What has changed since then, a line for each, as [`TrainingFacts`] has them.
    """

    checkpoint: Path | None = None
    is_done: bool = False
    is_saved: bool = False
    former: RunRecord | None = None
    accepted: tuple[str, ...] = ()


def decide_start(
    record: RunRecord,
    output_dir: str | Path,
    resume_from_checkpoint: str | bool | None = None,
    accept_changes: bool = False,
) -> Start:
    """
    Decides where a run begins, and whether it may. For the first process.

    Args:
        record ([`RunRecord`]): What the run is to be.
        output_dir (`str` or `Path`): Its folder.
        resume_from_checkpoint (`str` or `bool`, *optional*): See [`decide_checkpoint`].
        accept_changes (`bool`, *optional*): Whether to go on with other settings than before.

    Raises:
        TrainingError: if the folder or the checkpoint are of a run with other settings, of one that has made more
            steps, or of none; or if the checkpoint holds the model alone.
    """
    folder = Path(output_dir)
    wish = str(resume_from_checkpoint).lower()
    is_named = wish not in ("none", "true", "false")
    finished = RunRecord.read(folder)
    if finished is not None and finished.is_complete and _list_weights(folder) and wish in ("none", "true"):
        num_steps = finished.training.num_steps
        if num_steps > record.max_steps:
            raise TrainingError(_describe_too_many(f"The model in {folder}", num_steps, record.max_steps))
        if num_steps == record.max_steps:
            # Without a checkpoint, more steps would go on from nothing.
            is_end = not accept_changes and find_last_checkpoint(folder) is None
            _check_same(folder, finished, record, accept_changes, steps_left=None if is_end else 0)
            logger.info("The run is finished: %s holds the model after its %d steps.", folder, num_steps)
            return Start(is_done=True, is_saved=True, former=finished)

    checkpoint = decide_checkpoint(resume_from_checkpoint, folder)
    if checkpoint is None or checkpoint.resolve().parent != folder.resolve():
        # What is in the folder would be overwritten, or end up among checkpoints of another run.
        last = find_last_checkpoint(folder) if is_named or wish == "false" else None
        former = finished or (RunRecord.read(last) if last is not None else None)
        if former is not None:
            _check_same(folder, former, record, accept_changes=False)
        elif last is None and (names := _list_weights(folder)):
            raise TrainingError(
                f"{folder} holds a model of which no run is known ({names[0]}), and which this one would replace. "
                f"{OTHER_FOLDER}"
            )
    step = 0 if checkpoint is None else read_step(checkpoint)
    foreign = find_foreign(folder, step, record.max_steps)
    if foreign:
        raise TrainingError(
            f"{', '.join(map(str, foreign))}: in the way of this run's checkpoints, and not known as one. Move it, or "
            "name another --output_dir."
        )
    if checkpoint is None:
        if finished is not None:
            logger.info("%s has no checkpoint to go on from: the run begins anew.", folder)
        return Start()

    former = RunRecord.read(checkpoint)
    if step > record.max_steps:
        raise TrainingError(_describe_too_many(checkpoint, step, record.max_steps))
    is_done = step == record.max_steps
    accepted = []
    if former is None:
        logger.warning(
            "%s has no record of its data and flags, as it was written by another program or release. Whether they "
            "were these was not checked.",
            checkpoint,
        )
        accepted = [f"up to step {step}: with settings of which no record was kept"]
    else:
        differences = _check_same(
            checkpoint, former, record, accept_changes and not is_done, steps_left=record.max_steps - step
        )
        accepted = [f"from step {step} on: {difference}" for difference in differences]
        if not is_done and former.max_steps != record.max_steps:
            accepted += _describe_other_length(former, record, step)
        _warn_of_versions(checkpoint, former.versions, record.versions)
    if not is_done and is_model_only(checkpoint):
        remedy = f"--model_name_or_path {checkpoint} with another --output_dir starts a new run from its weights"
        if not is_named:
            remedy += ", --resume_from_checkpoint False starts this one anew"
        raise TrainingError(
            f"{checkpoint} holds the model alone (--save_only_model), without what the optimiser keeps: the run "
            f"cannot go on from it as it would have. {remedy}."
        )
    logger.info("Resuming from %s%s.", checkpoint, ", whose run has made all of its steps" if is_done else "")
    return Start(checkpoint, is_done=is_done, former=former, accepted=tuple(accepted))


def _list_weights(folder: Path) -> list[str]:
    return [name for name in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME) if (folder / name).exists()]


def _describe_too_many(what: str | Path, num_steps: int, max_steps: int) -> str:
    return f"{what} has made {num_steps} steps, more than the {max_steps} that are asked for. {OTHER_FOLDER}"


def _check_same(
    place: Path, former: RunRecord, record: RunRecord, accept_changes: bool, steps_left: int | None = None
) -> list[Difference]:
    """
    The differences that are accepted.

    Raises:
        TrainingError: if there are others.
    """
    differences = find_differences(former.settings, record.settings)
    if not differences:
        return []
    listed = "; ".join(map(str, differences))
    refusal = f"{place} is of a run with other settings (then -> now): {listed}. {OTHER_FOLDER[:-1]}"
    fixed = ", ".join(each.name for each in differences if each.is_fixed)
    if fixed:
        raise TrainingError(f"{refusal}: no run can go on from there with another {fixed}.")
    if steps_left is None:
        raise TrainingError(f"{refusal}, or move away what is there.")
    if not accept_changes:
        more = "" if steps_left else " and more steps, as none is left to make"
        raise TrainingError(
            f"{refusal}, or pass --accept_changes{more}: then it goes on with those of now, and the card says so."
        )
    if steps_left == 0:
        logger.warning("No step is left to make, so the weights remain those of other settings: %s.", listed)
        return []
    logger.warning("Going on from %s with other settings (then -> now): %s.", place, listed)
    return differences


def _describe_other_length(former: RunRecord, record: RunRecord, step: int) -> list[str]:
    settings = record.settings
    schedule = settings.get("lr_scheduler_type")
    warmup = settings.get("warmup_steps") or settings.get("num_warmup_steps") or 0
    if schedule in ENDLESS and (schedule in WITHOUT_WARMUP or not 0 < warmup < 1):
        return []
    line = f"from step {step} on: schedule of the learning rate over {former.max_steps} -> {record.max_steps} steps"
    logger.warning("%s.", line.capitalize())
    return [line]


def _warn_of_versions(checkpoint: Path, then: Mapping[str, str], now: Mapping[str, str]):
    differing = [f"{name} {then[name]} -> {now[name]}" for name in now if then.get(name, now[name]) != now[name]]
    if differing:
        logger.warning(
            "%s was written with other versions (%s): the run may not be the same to the last bit.",
            checkpoint,
            ", ".join(differing),
        )


def begin(
    run: Run,
    script: str,
    accelerator: Accelerator,
    *,
    max_steps: int,
    warmup_steps: float,
    selection: Mapping[str, Any] | None = None,
    is_model_only: bool = False,
) -> "Course":
    """
    Decides where a run begins, in all processes. The first reads the training split for its fingerprint.

    Args:
        run ([`Run`]): The run.
        script (`str`): `"trainer"` or `"accelerate"`, which keep their checkpoints in different forms.
        accelerator (`Accelerator`): The run's.
        max_steps (`int`): Steps to make in all.
        warmup_steps (`float`): Steps of warm-up; below 1, a share of all.
        selection (`Mapping`, *optional*): How figures of evaluation choose weights or learning rate, if they do.
        is_model_only (`bool`, *optional*): Whether checkpoints leave out what the optimiser keeps.

    Raises:
        TrainingError: see [`decide_start`].
        OutputError: if the model would not fit on the disk.
    """

    def decide() -> tuple[RunRecord, Start]:
        setup, model_args, output_dir = run.setup, run.model_args, run.args.output_dir
        logger.info("Reading the training split, of %d images, for its fingerprint.", len(setup.train_dataset))
        try:
            settings = describe_settings(
                script,
                run,
                mixed_precision=accelerator.mixed_precision,
                distributed_type=accelerator.distributed_type.value,
                selection=selection,
            )
        except (OSError, ValueError) as error:
            raise TrainingError(f"The training split cannot be read: {error}") from error
        record = RunRecord(
            settings=settings,
            max_steps=max_steps,
            base_model=model_args.model_name_or_path,
            dataset_name=run.data_args.dataset_name,
            is_model_only=is_model_only,
            training=describe_training(run, accelerator.mixed_precision, warmup_steps),
            versions=describe_versions(),
        )
        start = decide_start(
            record, output_dir, run.args.resume_from_checkpoint, accept_changes=run.method_args.accept_changes
        )
        if not start.is_saved:
            check_room(output_dir, setup.model)
            # Checkpoints are weights too, which others may go on from before the card is written.
            setup.start.save_documents(output_dir)
        if is_model_only and not start.is_done:
            logger.warning("With --save_only_model, a run that is interrupted cannot go on, and has to begin anew.")
        return record, start

    course = Course(*by_first_process(decide))
    if course.start.checkpoint is not None:
        check_fits(course.start.checkpoint, run.setup.model)
    return course


def check_room(output_dir: str | Path, model: torch.nn.Module):
    """
    Raises:
        OutputError: if what is free on the disk does not even hold the model.
    """
    needed = sum(each.numel() * each.element_size() for each in model.parameters())
    free = shutil.disk_usage(output_dir).free
    if free < needed:
        raise OutputError(
            f"{output_dir} has {free / 1e6:,.0f} MB left, and the model alone takes {needed / 1e6:,.0f} MB. Make "
            "room, or name another place."
        )


class Course:
    """
    What a run has made so far, as its records state it.

    Args:
        record ([`RunRecord`]): What the run is to be.
        start ([`Start`]): Where it begins.
    """

    def __init__(self, record: RunRecord, start: Start):
        former = start.former
        self.start_time = time.time()
        self.seconds_before: float | None = 0.0
        if start.checkpoint is not None:
            self.seconds_before = former.training.train_seconds if former is not None else None
            before = former.training.accepted_differences if former is not None else ()
            facts: dict[str, Any] = {"is_resumed": True, "accepted_differences": [*before, *start.accepted]}
            record = dataclasses.replace(record, training=dataclasses.replace(record.training, **facts))
        if start.is_done and former is not None:
            record = former
        self.record = record
        self.start = start
        # A model that has been made already keeps its record.
        self.final_record = start.former if start.is_saved else None

    def record_at(self, num_steps: int, num_epochs: float, **facts: Any) -> RunRecord:
        """The record of the run after so many steps, with further facts."""
        facts |= {"num_steps": num_steps, "num_epochs": num_epochs}
        if not self.start.is_done:
            facts["train_seconds"] = self.train_seconds
        return dataclasses.replace(self.record, training=dataclasses.replace(self.record.training, **facts))

    def finish(self, num_steps: int, num_epochs: float, **facts: Any):
        """Keeps the record of the end."""
        self.final_record = self.record_at(num_steps, num_epochs, **facts)

    @property
    def train_seconds(self) -> float | None:
        """Seconds of training, of all parts; `None` where those of one are not known."""
        return None if self.seconds_before is None else self.seconds_before + time.time() - self.start_time


def load_state(folder: Path) -> TrainerState:
    """The course of a run so far, as a checkpoint or the folder of a finished model has it."""
    file = folder / TRAINER_STATE_NAME
    return TrainerState.load_from_json(str(file)) if file.exists() else TrainerState()


def has_evaluation(state: TrainerState) -> bool:
    """Whether the course of a run has figures of its last step."""
    return any("eval_loss" in entry and entry["step"] == state.global_step for entry in state.log_history)


def load_saved(run: Run, course: Course) -> tuple[Run, TrainerState]:
    """A run that is finished, with the model and the image processor in its output folder; and what it has logged."""
    folder, attention = run.args.output_dir, run.model_args.attn_implementation
    model = SegmenterForSemanticSegmentation.from_pretrained(
        folder, **({"attn_implementation": attention} if attention else {})
    )
    setup = dataclasses.replace(
        run.setup, model=model.to(run.device), image_processor=AutoImageProcessor.from_pretrained(folder)
    )
    state = load_state(Path(folder))
    # This holds also where the file of its history is gone.
    state.global_step = course.final_record.training.num_steps
    return dataclasses.replace(run, setup=setup), state


def read_options(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """What the groups of an optimiser were made with."""
    return [{name: each for name, each in group.items() if name != "params"} for group in optimizer.param_groups]


def restore_options(
    optimizer: torch.optim.Optimizer, scheduler: Any, options: list[dict[str, Any]], base_lrs: list[float]
):
    """
    Makes an optimiser and its schedule, whose state was that of a checkpoint, go on with what they were made with:
    loading brings back learning rate, weight decay and the like of then. The learning rate becomes that which the
    schedule of now has at the step of the checkpoint. Where nothing has changed, nothing does.
    """
    for group, values in zip(optimizer.param_groups, options, strict=True):
        # Other schedulers have the learning rate for a state, which goes on.
        kept = {} if isinstance(scheduler, LambdaLR) else {"lr": group["lr"]}
        group.update({**values, **kept})
    if isinstance(scheduler, LambdaLR):
        scheduler.base_lrs = base_lrs
        for group, base_lr, factor in zip(optimizer.param_groups, base_lrs, scheduler.lr_lambdas, strict=True):
            group["lr"] = base_lr * factor(scheduler.last_epoch)
        scheduler._last_lr = [group["lr"] for group in optimizer.param_groups]


__all__ = [
    "Course",
    "Start",
    "begin",
    "check_room",
    "decide_start",
    "has_evaluation",
    "load_saved",
    "load_state",
    "read_options",
    "restore_options",
]
