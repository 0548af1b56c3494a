"""
Checkpoints of interrupted runs: which are complete, how they and the model at the end are written, and which of them
are removed. What this package has not written, by its record, is left alone.
"""

import contextlib
import copy
import dataclasses
import json
import logging
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import SAFE_WEIGHTS_NAME

from ..outputs import OutputError, replacing_file
from ..processes import is_lost_connection
from .arguments import TrainingError


if TYPE_CHECKING:
    from .run_record import RunRecord

logger = logging.getLogger(__name__)

# This file says what decided on the weights beside it; see run_record.py.
RECORD_NAME = "training_record.json"
CHECKPOINT_NAME = re.compile(r"checkpoint-(\d+)")
# These folders hold what is being written, what is being removed, and weights that were converted to start from.
UNFINISHED_NAME, REMOVED_NAME = ".segmenter_hf.unfinished", ".segmenter_hf.removed"
CONVERTED_NAME = ".segmenter_hf.converted"
# torch says in these words that a file could not be written.
FAILED_WRITE = re.compile(r"inline_container|PytorchStreamWriter|iostream|[Ff]ile write|writing file")


def decide_checkpoint(resume_from_checkpoint: str | bool | None, output_dir: str | Path) -> Path | None:
    """
    The checkpoint that a run goes on from: the one that is named; by default, and for `True`, the last complete one in
    the output folder; for `False` none.

    Raises:
        TrainingError: if there is none, although one is asked for.
    """
    wish = str(resume_from_checkpoint).lower()
    if wish == "false":
        return None
    if wish in ("none", "true"):
        checkpoint = find_last_checkpoint(output_dir)
        if checkpoint is None and wish == "true":
            raise TrainingError(
                f"--resume_from_checkpoint: {output_dir} has no complete checkpoint. Leave the flag out."
            )
    else:
        checkpoint = Path(resume_from_checkpoint)
        # The model at the end of a run has no optimiser.
        names = [each.name for _, each in _list_checkpoints(checkpoint)]
        if names:
            raise TrainingError(
                f"--resume_from_checkpoint {checkpoint} is the folder of a run. Name a checkpoint in it: "
                f"{', '.join(names)}."
            )
        problem = find_missing(checkpoint)
        if problem is not None:
            raise TrainingError(f"--resume_from_checkpoint {checkpoint} is no complete checkpoint ({problem}).")
    return checkpoint


def find_last_checkpoint(output_dir: str | Path) -> Path | None:
    """
    The last complete checkpoint of a run, if there is one. One that was being written when the run was killed is
    passed over, with a warning.
    """
    for _, checkpoint in reversed(_list_checkpoints(output_dir)):
        if not checkpoint.is_dir():
            continue
        problem = find_missing(checkpoint)
        if problem is None:
            return checkpoint
        logger.warning("%s is not complete (%s) and is passed over.", checkpoint, problem)
    return None


def read_step(checkpoint: Path) -> int:
    """The steps made by then, from what is written last, when all processes have written theirs."""
    return int(json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))["global_step"])


def find_missing(checkpoint: Path) -> str | None:
    """What is missing of a checkpoint, if anything is."""
    try:
        read_step(checkpoint)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{TRAINER_STATE_NAME}: {error}"
    for file in checkpoint.iterdir():
        # Files of torch are archives, whose index is at the end.
        if file.suffix in (".pt", ".pth", ".bin") and not zipfile.is_zipfile(file):
            return f"{file.name} is cut short"
    return None


def check_fits(checkpoint: Path, model: torch.nn.Module):
    """
    Compares the weights of a checkpoint with those of a model by names and shapes, where one file has them all.

    Raises:
        TrainingError: if they differ.
    """
    file = checkpoint / SAFE_WEIGHTS_NAME
    if not file.is_file():
        return
    with refuse_unloadable(checkpoint), safe_open(file, "pt") as weights:
        # Compiled models have another name within.
        saved = {name.replace("_orig_mod.", ""): tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}
    own = {name.replace("_orig_mod.", ""): tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    differing = [name for name in {**own, **saved} if own.get(name) != saved.get(name)]
    if differing:
        there, here = ({**dict.fromkeys(differing, "missing"), **each}[differing[0]] for each in (saved, own))
        raise TrainingError(
            f"{checkpoint} holds another model than this one: {differing[0]} is {there} there and {here} here, and "
            f"{len(differing) - 1} more differ. Pass the sizes and labels that it was trained with, or name another "
            "--output_dir."
        )


@contextlib.contextmanager
def refuse_unloadable(checkpoint: str | Path) -> Iterator[None]:
    """
    Turns what goes wrong while a checkpoint is loaded into one line.

    Raises:
        TrainingError: for states that are another model's or optimiser's, or damaged.
    """
    try:
        yield
    # Libraries raise all of these for a state of other names, shapes or types.
    except (
        AttributeError,
        EOFError,
        KeyError,
        OSError,
        RuntimeError,
        SafetensorError,
        TypeError,
        ValueError,
    ) as error:
        if is_lost_connection(error) or isinstance(error, TrainingError):
            raise
        reason = " ".join(str(error).split())
        reason = reason if len(reason) <= 300 else f"{reason[:300]}..."
        raise TrainingError(
            f"{checkpoint} cannot be loaded into this run: {reason} Pass what it was trained with, remove it, or name "
            "another --output_dir."
        ) from error


def _list_checkpoints(output_dir: str | Path) -> list[tuple[int, Path]]:
    """What is called as checkpoints are, by steps."""
    folder = Path(output_dir)
    found = [(CHECKPOINT_NAME.fullmatch(each.name), each) for each in (folder.iterdir() if folder.is_dir() else [])]
    return sorted((int(match[1]), each) for match, each in found if match)


def is_own(checkpoint: Path) -> bool:
    """Whether this package has written a checkpoint, and may remove it. Through a link, it removes nothing."""
    return not checkpoint.is_symlink() and (checkpoint / RECORD_NAME).is_file()


def find_foreign(output_dir: str | Path, first_step: int, last_step: int) -> list[Path]:
    """What is in the place of checkpoints after `first_step` and up to `last_step`, and was not written as one."""
    return [
        each for step, each in _list_checkpoints(output_dir) if first_step < step <= last_step and not is_own(each)
    ]


def is_model_only(checkpoint: Path) -> bool:
    """Whether a checkpoint lacks what optimisers keep, so that no run can go on from it as it would have."""
    # DeepSpeed keeps its optimisers in folders below.
    return not [*checkpoint.glob("*optim*"), *checkpoint.glob("*/*optim*")]


def remove_old_checkpoints(
    output_dir: str | Path, number: int | None, best: str | Path | None = None, keeps_last: bool = True
):
    """
    Removes the oldest of this package's checkpoints beyond a number of them, but neither the last nor the best.

    Args:
        output_dir (`str` or `Path`): Their folder.
        number (`int`, *optional*): How many are kept; of `None` and numbers below 1, all.
        best (`str` or `Path`, *optional*): The best one.
        keeps_last (`bool`, *optional*): Whether the last one is kept where it is not the best.
    """
    if number is None or number < 1:
        return
    own = [each for _, each in _list_checkpoints(output_dir) if is_own(each) and find_missing(each) is None]
    kept = {Path(best).name} if best is not None else set()
    if keeps_last or not kept:
        kept |= {each.name for each in own[-1:]}
    removable = [each for each in own if each.name not in kept]
    for checkpoint in removable[: max(0, len(own) - number)]:
        remove_checkpoint(checkpoint)


def remove_checkpoint(checkpoint: Path):
    """Removes a checkpoint, which is gone at once: a kill in between leaves nothing that looks like one."""
    removed = _clear(checkpoint.parent / REMOVED_NAME)
    os.replace(checkpoint, removed)
    shutil.rmtree(removed)


def clear_unfinished(output_dir: str | Path):
    """
    Removes what a run that was killed has left half written, or half removed. (No other run is on in this folder.)

    Raises:
        OutputError: if something else has that name.
    """
    for name in (UNFINISHED_NAME, REMOVED_NAME, CONVERTED_NAME):
        _clear(Path(output_dir) / name)


def make_unfinished(output_dir: str | Path) -> Path:
    """An empty folder to write what then gets its name in the output folder."""
    unfinished = _clear(Path(output_dir) / UNFINISHED_NAME)
    unfinished.mkdir(parents=True)
    return unfinished


def _clear(folder: Path) -> Path:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise OutputError(f"{folder} is in the way, expected a folder or nothing. Remove it.")
    if folder.exists():
        shutil.rmtree(folder)
    return folder


def begin_checkpoint(checkpoint: Path, record: "RunRecord"):
    """Makes a checkpoint's folder with nothing but its record, by which it is known as one that is not complete."""
    unfinished = make_unfinished(checkpoint.parent)
    record.write(unfinished)
    finish_checkpoint(unfinished, checkpoint)


def finish_checkpoint(unfinished: Path, checkpoint: Path):
    """
    Gives a folder the name of a checkpoint, in place of one that a run of before has left.

    Raises:
        OutputError: if something else is in the way.
    """
    if checkpoint.is_symlink() or checkpoint.exists():
        if not is_own(checkpoint):
            raise OutputError(f"{checkpoint} is in the way, and is no checkpoint of this run. Move it.")
        remove_checkpoint(checkpoint)
    os.replace(unfinished, checkpoint)


@contextlib.contextmanager
def saving(file: str | Path, output_dir: str | Path, is_writer: bool = True) -> Iterator[None]:
    """
    Turns what the file system makes impossible into a refusal that says from where the same command goes on, and
    removes what is half written.

    Args:
        file (`str` or `Path`): What is being written.
        output_dir (`str` or `Path`): The folder of the run.
        is_writer (`bool`, *optional*): Whether this is the process that makes and removes folders.

    Raises:
        OutputError: if it cannot be written.
    """
    try:
        yield
    except (OSError, OutputError, RuntimeError, SafetensorError) as error:
        if isinstance(error, RuntimeError) and not FAILED_WRITE.search(str(error)):
            raise
        output_dir = Path(output_dir)
        if is_writer:
            with contextlib.suppress(OSError):
                if is_own(Path(file)) and find_missing(Path(file)) is not None:
                    remove_checkpoint(Path(file))
                make_unfinished(output_dir).rmdir()
        remedy = describe_remains(output_dir)
        if isinstance(error, OutputError):
            raise OutputError(f"{error} {remedy}") from error
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        if isinstance(error, RuntimeError):
            # Of a full disk, torch only says where in its source it noticed.
            reason = "writing it failed, as on a full disk"
        raise OutputError(f"{file} cannot be written: {reason}. {remedy}") from error


def describe_remains(output_dir: str | Path) -> str:
    """What a run can do that could not write: from where it may go on."""
    checkpoint = find_last_checkpoint(output_dir)
    if checkpoint is None:
        return "There is no complete checkpoint to go on from: make room, or name another --output_dir."
    return f"{checkpoint} is complete: make room, and the same command goes on from there."


def write_trainer_state(state: TrainerState, folder: str | Path):
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


@contextlib.contextmanager
def replacing_files(folder: str | Path, is_writer: bool = True, record: "RunRecord | None" = None) -> Iterator[Path]:
    """
    A folder to write files into that then replace those of `folder`, each at once. Only the process with `is_writer`
    moves them. The record of the run, if there is one, says in between that they are not all there.
    """
    folder = Path(folder)
    unfinished = make_unfinished(folder) if is_writer else folder / UNFINISHED_NAME
    try:
        yield unfinished
        if is_writer:
            if record is not None:
                dataclasses.replace(record, is_complete=True).write(unfinished)
                dataclasses.replace(record, is_complete=False).write(folder)
            for file in sorted(unfinished.iterdir(), key=lambda each: each.name == RECORD_NAME):
                # safetensors files are readable by their owner only; those of models are for all.
                file.chmod(0o644)
                os.replace(file, folder / file.name)
    finally:
        if is_writer:
            shutil.rmtree(unfinished, ignore_errors=True)


__all__ = [
    "begin_checkpoint",
    "check_fits",
    "clear_unfinished",
    "decide_checkpoint",
    "describe_remains",
    "find_foreign",
    "find_last_checkpoint",
    "find_missing",
    "finish_checkpoint",
    "is_model_only",
    "is_own",
    "make_unfinished",
    "read_step",
    "refuse_unloadable",
    "remove_old_checkpoints",
    "replacing_files",
    "saving",
    "write_trainer_state",
]
