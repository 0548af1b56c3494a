"""How the scripts end: one line and an exit code that says how it went, never a traceback for what a user can mend."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from .outputs import OutputError


# As shells have it for a command that SIGINT ended.
INTERRUPTED = 130


def run(
    work: Callable[[], int | None],
    refusals: tuple[type[Exception], ...] = (),
    local_refusals: tuple[type[Exception], ...] = (),
    if_interrupted: str = "Run it again to go on.",
    extra: str | None = None,
) -> int:
    """
    Runs a script's work and returns its exit code: what `work` returned, or 0; 2 for what the user has to mend, which
    is printed in one line; 130 after Ctrl-C.

    Args:
        work (`Callable`): Takes nothing and returns an exit code, or nothing. What it imports itself, rather than the
            script at its top, may be missing, and may be interrupted.
        refusals (`tuple[type[Exception], ...]`, *optional*): Errors whose message is meant for the user, beside
            [`~segmenter_hf.outputs.OutputError`]. Of several processes, which all find them, the first says it.
        local_refusals (`tuple[type[Exception], ...]`, *optional*): Those that only the process that met them knows of.
        if_interrupted (`str`, *optional*): What to do next, said after Ctrl-C.
        extra (`str`, *optional*): Of this package, which installs the libraries that `work` needs. With it, one that
            is missing is what the user has to mend.
    """
    try:
        return work() or 0
    except KeyboardInterrupt:
        if _is_first_process():
            print_line(f"interrupted. {if_interrupted}")
        return INTERRUPTED
    except ModuleNotFoundError as error:
        # Part of a library that is there is a fault of another kind.
        if extra is None or not error.name or "." in error.name:
            raise
        if _is_first_process():
            print_line(f'error: The library {error.name} is not installed: pip install "segmenter_hf[{extra}]"')
        return 2
    except (OutputError, *refusals, *local_refusals) as error:
        if _is_first_process() or isinstance(error, local_refusals):
            print_line(f"error: {error}")
        return 2


def print_line(message: str):
    """Prints a message to standard error in one line, after the name of the script."""
    print(f"{Path(sys.argv[0]).name}: {' '.join(message.split())}", file=sys.stderr)


def _is_first_process() -> bool:
    return int(os.environ.get("RANK", 0)) == 0


__all__ = ["INTERRUPTED", "print_line", "run"]
