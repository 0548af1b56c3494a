"""Folders that a command writes: complete under their names or not there, whenever the command is stopped."""

import contextlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from .outputs import OutputError, check_output_dir, making_folders, refuse_unwritable, remove_if_empty


logger = logging.getLogger(__name__)

# A temporary folder has a lock, what is written, and what that replaces, under the name that it had.
LOCK_NAME, NEW, REPLACED = ".segmenter_hf.lock", "new", "replaced"
MAX_ATTEMPTS = 10
# `tempfile` adds such a name to a prefix.
RANDOM_NAME = re.compile(r"[a-z0-9_]{8}")


@contextlib.contextmanager
def replacing_folder(
    output_dir: Path, prefix: str, check: Callable[[], None] = lambda: None, remedy: str = "Name another folder."
) -> Iterator[Path]:
    """
    A folder to make and write into, which gets the name `output_dir` when all is done. What has that name by then is
    removed as a whole; if anything fails, it stays. A process that is killed leaves a folder beside it, whose name
    begins with `prefix`; the next one with that parent clears it, and puts back what was about to be replaced.

    Args:
        output_dir (`Path`): The folder to write; of a link, the one that it points to. Missing parents are made, and
            removed if all fails.
        prefix (`str`): Such as `".converting-"`.
        check (`Callable`, *optional*): Raises an error if something would be lost with `output_dir`. Called at once,
            and again before the folder is replaced, which may be much later.
        remedy (`str`, *optional*): What the message about a folder that cannot be written ends with.

    Raises:
        OutputError: if it cannot be written or replaced: at once, as far as can be told.
    """
    # Renaming works beside the folder itself, not beside a link to it.
    output_dir = Path(os.path.realpath(output_dir))
    with refuse_unwritable(output_dir, remedy):
        if output_dir.is_symlink():
            raise OutputError(f"{output_dir} is a link that leads back to itself. {remedy}")
        clear_leftovers(output_dir.parent, prefix)
        check()
        if os.path.ismount(output_dir):
            raise OutputError(f"{output_dir} is where a file system is mounted. Name a folder in it.")
        for folder in (output_dir, output_dir.parent) if output_dir.exists() else (output_dir.parent,):
            try:
                check_output_dir(folder)
            except OutputError as error:
                raise OutputError(f"{output_dir} cannot be written: {error}") from error
    with contextlib.ExitStack() as stack:
        with refuse_unwritable(output_dir, remedy):
            stack.enter_context(making_folders(output_dir.parent))
        with temporary_folder(output_dir.parent, prefix, output_dir) as folder:
            yield folder
            with refuse_unwritable(output_dir, remedy):
                check()
                if output_dir.exists():
                    (folder.parent / REPLACED).mkdir()
                    os.rename(output_dir, folder.parent / REPLACED / output_dir.name)
                os.rename(folder, output_dir)


@contextlib.contextmanager
def temporary_folder(parent: Path, prefix: str, output: Path | None = None) -> Iterator[Path]:
    """
    A folder to make and write into, which is inside one of its own in `parent` and is removed at the end. What a
    killed process left is removed by the next that comes, see [`clear_leftovers`].

    Args:
        parent (`Path`): Where what is written is going to be, so that it can be renamed.
        prefix (`str`): What the folder's name begins with.
        output (`Path`, *optional*): What errors name, if not `parent`.

    Raises:
        OutputError: if there can be none.
    """
    with refuse_unwritable(output or parent):
        clear_leftovers(parent, prefix)
        folder, lock = _make_locked(parent, prefix)
    try:
        yield folder / NEW
    finally:
        _clear(folder)
        lock.release()


def _make_locked(parent: Path, prefix: str) -> tuple[Path, FileLock]:
    for _ in range(MAX_ATTEMPTS):
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        lock = FileLock(folder / LOCK_NAME)
        # One that clears leftovers may come just before the lock is held.
        with contextlib.suppress(Timeout, FileNotFoundError):
            lock.acquire(timeout=0)
            if (folder / LOCK_NAME).exists():
                return folder, lock
            lock.release()
    raise OSError(f"no file in it can be locked ({folder / LOCK_NAME})")


def clear_leftovers(parent: Path, prefix: str):
    """
    Removes from a folder what killed processes left of [`temporary_folder`]: folders that have its lock, which no
    process holds, and nothing but what it makes. Others that merely have such a name stay, if there is anything in
    them.
    """
    for folder in parent.glob(f"{prefix}*"):
        # The folder may be held by another process, or not be ours to look into.
        with contextlib.suppress(OSError):
            names = set(os.listdir(folder))
            if not names and RANDOM_NAME.fullmatch(folder.name.removeprefix(prefix)):
                # It is not locked yet, or no longer. One that is about to be locked is made again.
                folder.rmdir()
            if folder.is_symlink() or LOCK_NAME not in names or not names <= {LOCK_NAME, NEW, REPLACED}:
                continue
            with FileLock(folder / LOCK_NAME, timeout=0):
                _clear(folder)


def _clear(folder: Path):
    new, replaced = folder / NEW, folder / REPLACED
    # There is such a folder where a process was stopped between the two renames.
    for old in replaced.iterdir() if new.exists() and replaced.exists() else ():
        try:
            os.rename(old, folder.parent / old.name)
        except OSError as error:
            logger.warning("%s was about to be replaced, and stays there: it cannot be put back (%s).", old, error)
            return
    for each in (new, replaced):
        shutil.rmtree(each, ignore_errors=True)
    # The lock goes last, so that what is left when this is stopped is cleared by the next.
    (folder / LOCK_NAME).unlink(missing_ok=True)
    remove_if_empty(folder)


__all__ = ["clear_leftovers", "replacing_folder", "temporary_folder"]
