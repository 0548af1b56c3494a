"""The folder that a run writes into: probed before the work, and one run's at a time."""

import contextlib
import errno
import json
import logging
import os
import socket
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import CONFIG_NAME, IMAGE_PROCESSOR_NAME, SAFE_WEIGHTS_NAME

from ..outputs import OutputError, check_output_dir, check_output_file, making_folders, refuse_unwritable, write_text
from ..processes import by_first_process
from .arguments import TrainingError
from .checkpoints import RECORD_NAME, clear_unfinished, describe_remains


logger = logging.getLogger(__name__)

# A run writes these files at its end. Others of their names may be in the way.
RESULT_FILES = ("results.json", "eval_results.json", "all_results.json")
MODEL_FILE_NAMES = (CONFIG_NAME, IMAGE_PROCESSOR_NAME, SAFE_WEIGHTS_NAME)
TRAINING_FILES = ("train_results.json", "README.md", TRAINER_STATE_NAME, RECORD_NAME, "training_args.bin")
FILES = RESULT_FILES + TRAINING_FILES + MODEL_FILE_NAMES

LOCK_NAME = ".run.lock"
# This file says who holds the lock, which older releases of filelock empty when they ask for it.
HOLDER_NAME = ".run.json"
# A disk raises one of these when it cannot be written to any more.
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
# How long processes of a run that was killed may take to notice, which load samples and hold its lock with it.
ORPHAN_SECONDS = 30


@contextlib.contextmanager
def reserved(output_dir: str | Path, names: Iterable[str] = (), others: Iterable[str | Path] = ()) -> Iterator[None]:
    """
    Holds the output folder for this run, in all of its processes. The lock goes with the first process, however that
    ends.

    Args:
        output_dir (`str` or `Path`): The folder. It is made, and removed again if nothing was written into it.
        names (`Iterable[str]`, *optional*): Files that will be written in it.
        others (`Iterable[str or Path]`, *optional*): Other folders that will be written to.

    Raises:
        OutputError: if it cannot be written to, now or later.
        TrainingError: if another run holds it; the message says which.
    """
    with contextlib.ExitStack() as stack:

        def reserve():
            check_output_dir(output_dir)
            for name in names:
                if (Path(output_dir) / name).exists():
                    check_output_file(Path(output_dir) / name)
            for folder in others:
                check_output_dir(folder)
            stack.enter_context(_lock(Path(output_dir)))
            with refuse_unwritable(output_dir):
                clear_unfinished(output_dir)

        by_first_process(reserve)
        try:
            yield
        except OSError as error:
            # It comes from trackers, which write when they like.
            if error.errno not in FULL:
                raise
            remains = describe_remains(output_dir)
            raise OutputError(
                f"{error.filename or output_dir} cannot be written: {error.strerror}. {remains}"
            ) from error


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        stack.enter_context(making_folders(folder))
        file, holder = folder / LOCK_NAME, folder / HOLDER_NAME
        lock = FileLock(file)
        stack.callback(lock.release, force=True)
        try:
            _acquire(lock, file, holder)
        except (NotImplementedError, OSError) as error:
            if isinstance(error, PermissionError):
                raise OutputError(
                    f"{file} is another user's, whose run may be on. If it is not, remove the file."
                ) from error
            # Some file systems of networks know no locks.
            logger.warning("%s cannot be locked (%s). Start no second run in it while this one is on.", folder, error)
            yield
            return
        # The files are removed while the lock is held, so that a run which has opened the lock just before finds out.
        stack.callback(_remove_file, file)
        stack.callback(_remove_file, holder)
        started = datetime.now().astimezone().isoformat(timespec="seconds")
        write_text(holder, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": started}) + "\n")
        yield


def _acquire(lock: FileLock, file: Path, holder: Path):
    try:
        lock.acquire(timeout=0)
    except Timeout:
        run = _read_holder(holder)
        if not _is_gone(run):
            who = f"process {run['pid']} on {run['host']} since {run['since']}" if run else "another process"
            raise TrainingError(
                f"{file.parent} is being written to by another run: {who}. Wait until it ends, or name another "
                "--output_dir."
            ) from None
        logger.info("The run of process %s has ended; waiting for the processes that it left.", run["pid"])
        try:
            lock.acquire(timeout=ORPHAN_SECONDS)
        except Timeout:
            raise TrainingError(
                f"{file.parent} is held by processes that the run of process {run['pid']} left. End them, or name "
                "another --output_dir."
            ) from None
    if not file.exists():
        # The run that held it removed it in between.
        lock.release(force=True)
        _acquire(lock, file, holder)


def _read_holder(file: Path) -> dict[str, Any] | None:
    try:
        run = json.loads(file.read_text(encoding="utf-8"))
        return {name: run[name] for name in ("pid", "host", "since")}
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _is_gone(run: dict[str, Any] | None) -> bool:
    """Whether a run is known to have ended: one of this machine, whose first process is no more."""
    if run is None or run["host"] != socket.gethostname():
        return False
    try:
        os.kill(int(run["pid"]), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return True
    except PermissionError:
        return False
    return False


def _remove_file(file: Path):
    # Where the disk can no longer be written to, the run has said so already.
    with contextlib.suppress(OSError):
        file.unlink()


__all__ = ["FILES", "RESULT_FILES", "reserved"]
