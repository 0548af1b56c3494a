"""Checkpoints of interrupted runs: which are complete, and how models are saved at the end."""

import contextlib
import json
import logging
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

from transformers.trainer import TRAINER_STATE_NAME

from .arguments import TrainingError


logger = logging.getLogger(__name__)

CHECKPOINT_NAME = re.compile(r"checkpoint-(\d+)")


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
        problem = find_problem(checkpoint)
        if problem is not None:
            raise TrainingError(f"--resume_from_checkpoint {checkpoint} is no complete checkpoint ({problem}).")
    if checkpoint is not None:
        logger.info("Resuming from %s.", checkpoint)
    return checkpoint


def find_last_checkpoint(output_dir: str | Path) -> Path | None:
    """
    The last complete checkpoint of a run, if there is one. One that was being written when the run was killed is
    passed over, with a warning.
    """
    folder = Path(output_dir)
    found = [(CHECKPOINT_NAME.fullmatch(each.name), each) for each in (folder.iterdir() if folder.is_dir() else [])]
    checkpoints = sorted((int(match[1]), each) for match, each in found if match and each.is_dir())
    for _, checkpoint in reversed(checkpoints):
        problem = find_problem(checkpoint)
        if problem is None:
            return checkpoint
        logger.warning("%s is not complete (%s) and is passed over.", checkpoint, problem)
    return None


def find_problem(checkpoint: Path) -> str | None:
    """What is missing of a checkpoint, if anything is."""
    try:
        # Written last, after all processes have written theirs.
        json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return f"{TRAINER_STATE_NAME}: {error}"
    for file in checkpoint.iterdir():
        # Files of torch are archives, whose index is at the end.
        if file.suffix in (".pt", ".pth", ".bin") and not zipfile.is_zipfile(file):
            return f"{file.name} is cut short"
    return None


@contextlib.contextmanager
def replacing_files(folder: str | Path, is_writer: bool = True) -> Iterator[Path]:
    """
    A folder to write files into that then replace those of `folder`, each at once. Only the process with `is_writer`
    moves them.
    """
    folder = Path(folder)
    unfinished = folder / ".unfinished"
    if is_writer:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
    try:
        yield unfinished
        if is_writer:
            for file in unfinished.iterdir():
                # safetensors files are readable by their owner only; those of models are for all.
                file.chmod(0o644)
                os.replace(file, folder / file.name)
    finally:
        if is_writer:
            shutil.rmtree(unfinished, ignore_errors=True)


__all__ = ["decide_checkpoint", "find_last_checkpoint", "find_problem", "replacing_files"]
