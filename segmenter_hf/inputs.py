"""What a command reads: regular files only, so that none waits for a pipe, or reads a device that never ends."""

import stat
from pathlib import Path


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


__all__ = ["check_regular_file", "irregular_kind"]
