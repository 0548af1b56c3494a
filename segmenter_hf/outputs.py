"""What a command writes: probed before the work, and complete under its name or not there at all."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError


# So many bytes must fit before the work begins. Nobody knows then what a run needs in all; but a full disk shows.
PROBE_BYTES = 64 * 1024


class OutputError(ValueError):
    """A file or folder that cannot be written. The message is one line, meant for the user."""


@contextlib.contextmanager
def refuse_unwritable(output: str | Path, remedy: str = "Name another place, or make room in this one.") -> Iterator:
    """
    Turns what the file system makes impossible into an [`OutputError`] that names the output and the remedy.

    Args:
        output (`str` or `Path`): As the user named it.
        remedy (`str`, *optional*): What the message ends with.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{output} cannot be written: {reason}. {remedy}") from error


@contextlib.contextmanager
def making_folders(folder: Path) -> Iterator:
    """Makes a folder, and those above it, where they are missing. In the end, those that are empty are removed."""
    with contextlib.ExitStack() as undo:
        for missing in reversed([each for each in (folder, *folder.parents) if not each.exists()]):
            missing.mkdir(exist_ok=True)
            undo.callback(remove_if_empty, missing)
        yield


def remove_if_empty(folder: Path):
    """Removes a folder if there is nothing in it, and if it can be."""
    with contextlib.suppress(OSError):
        folder.rmdir()


def check_output_dir(folder: str | Path):
    """
    Writes a file into a folder, or into the one that will hold it, and removes it again. Folders that are missing are
    made and removed too, so that a command that is refused for another reason leaves nothing.

    Raises:
        OutputError: if that is not possible: a file of that name, a read-only or full disk.
    """
    folder = Path(folder)
    with refuse_unwritable(folder), contextlib.ExitStack() as stack:
        if folder.exists() and not folder.is_dir():
            raise OutputError(f"{folder} is a file, expected a folder. Name another place.")
        stack.enter_context(making_folders(folder))
        # Where the system has files without a name, this is one: nothing is left if this is killed.
        with tempfile.TemporaryFile(prefix=".probe-", dir=folder) as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())


def check_output_file(file: str | Path):
    """
    As [`check_output_dir`], for a file that will be written or replaced.

    Raises:
        OutputError: if it cannot be, or if it is a folder, a device, or protected.
    """
    file = Path(file)
    with refuse_unwritable(file):
        if file.is_dir():
            raise OutputError(f"{file} is a folder, expected the name of a file in it.")
        if file.exists() and not file.is_file():
            raise OutputError(f"{file} is no regular file. Name another place.")
        if file.exists():
            with open(file, "rb+"):
                pass
        try:
            check_output_dir(file.parent)
        except OutputError as error:
            raise OutputError(f"{file} cannot be written: {error}") from error


@contextlib.contextmanager
def replacing_file(file: str | Path) -> Iterator[Path]:
    """
    A file beside `file`, with the same ending, to write into. It gets the name `file` when all is done, and is removed
    if anything fails, so that neither half a file nor a temporary one is left. Missing folders are made.

    Raises:
        OutputError: if the file system refuses to write.
    """
    file = Path(file)
    unfinished = file.with_name(f".{file.stem}.part{file.suffix}")
    with refuse_unwritable(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield unfinished
            os.replace(unfinished, file)
        finally:
            unfinished.unlink(missing_ok=True)


def write_text(file: str | Path, text: str):
    """
    Writes a text file, in UTF-8 with line feeds, complete or not at all; see [`replacing_file`]. What names of files
    have in other encodings is escaped.
    """
    with replacing_file(file) as unfinished:
        unfinished.write_bytes(text.encode(errors="backslashreplace"))


__all__ = [
    "OutputError",
    "check_output_dir",
    "check_output_file",
    "making_folders",
    "refuse_unwritable",
    "remove_if_empty",
    "replacing_file",
    "write_text",
]
