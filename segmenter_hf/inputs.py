"""What a command reads: regular files only, so that none waits for a pipe, or reads a device that never ends."""

import stat
from pathlib import Path

import fsspec


KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


def irregular_kind(file: str | Path) -> str | None:
    """
    What a file is that is neither a regular one nor a link to one; `None` for those, for folders, and for what is not
    there, of which opening them says so.
    """
    try:
        mode = Path(file).stat().st_mode
    except (OSError, ValueError):
        return None
    return KINDS.get(stat.S_IFMT(mode))


def check_regular_file(file: str | Path):
    """
    Raises:
        ValueError: if a file is a pipe, a socket or a device.
    """
    kind = irregular_kind(file)
    if kind is not None:
        raise ValueError(f"{file} is {kind}, expected a regular file. Name another, or copy its content into one.")


def read_bytes(path: str | Path, max_length: int | None = None) -> bytes:
    """
    The content of a file, which may be in an archive or elsewhere: `zip://masks/0.png::train.zip`.

    Args:
        max_length (`int`, *optional*): How many bytes it may have.

    Raises:
        OSError: if it is not there, or cannot be read.
        ValueError: if it is no regular file, or too long. The message goes on after the name of the file.
    """
    is_local = "://" not in str(path)
    # To read a file in an archive is to open the archive.
    kind = irregular_kind(path if is_local else str(path).rpartition("::")[-1])
    if kind is not None:
        raise ValueError(f"it is {kind}, expected a regular file")
    with open(path, "rb") if is_local else fsspec.open(str(path), "rb") as file:
        content = file.read() if max_length is None else file.read(max_length + 1)
    if max_length is not None and len(content) > max_length:
        raise ValueError(f"it is longer than any such file should be ({max_length} bytes)")
    return content


__all__ = ["check_regular_file", "irregular_kind", "read_bytes"]
