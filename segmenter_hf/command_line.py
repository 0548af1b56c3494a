"""How the scripts end: one line and an exit code that says how it went, never a traceback for what a user can mend."""

import io
import os.path
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from . import processes
from .outputs import OutputError
from .processes import ProcessesError


# Shells give this code to a command that SIGINT ended.
INTERRUPTED = 130
# Processes other than the first wait this long before they speak: the launcher ends them if the first has failed too.
SECONDS_TO_WAIT = 20


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
            [`~segmenter_hf.outputs.OutputError`]. Of several processes, which mostly all find them, the first says it;
            another one, if it is still there after some seconds.
        local_refusals (`tuple[type[Exception], ...]`, *optional*): Those that only the process that met them knows of,
            which says them at once.
        if_interrupted (`str`, *optional*): What to do next, said after Ctrl-C.
        extra (`str`, *optional*): Of this package, which installs the libraries that `work` needs. With it, one that
            is missing is what the user has to mend.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Standard error has this by default. No work ends by a traceback because the name of a file is not UTF-8.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return work() or 0
    except KeyboardInterrupt:
        if processes.is_first():
            print_line(f"interrupted. {if_interrupted}")
        return INTERRUPTED
    except ModuleNotFoundError as error:
        if extra is None:
            raise
        return refuse_missing(error, extra)
    except (OutputError, ProcessesError, *refusals, *local_refusals) as error:
        if not (processes.is_first() or isinstance(error, local_refusals)):
            time.sleep(SECONDS_TO_WAIT)
        print_line(f"error: {error}")
        return 2
    except RuntimeError as error:
        if not processes.is_lost_connection(error):
            raise
        reason = processes.describe_lost_connection(error)
        print_line(f"error: The processes have lost each other, or never met. If one has ended, it says why. {reason}")
        return 1
    finally:
        # The processes do not meet here: where this one has failed, others may never come.
        processes.part()


def refuse_missing(error: ModuleNotFoundError, extra: str) -> int:
    """
    Says in one line which extra of this package installs a library that is missing, and returns the exit code.

    Raises:
        ModuleNotFoundError: again, if only a part of the library is missing, which is a fault of another kind.
    """
    if not error.name or "." in error.name:
        raise error
    if processes.is_first():
        print_line(f'error: The library {error.name} is not installed: pip install "segmenter_hf[{extra}]"')
    return 2


def user_path(text: str) -> Path:
    """A path as a user names it. Shells leave `~` to the command in `--output_file=~/curves.png` and in quotes."""
    return Path(os.path.expanduser(text))


def print_line(message: str):
    """Prints a message to standard error in one line, after the name of the script."""
    # The message stands below bars of progress, not behind them.
    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()
    print(f"{Path(sys.argv[0]).name}: {' '.join(message.split())}", file=sys.stderr)


__all__ = ["INTERRUPTED", "SECONDS_TO_WAIT", "print_line", "refuse_missing", "run", "user_path"]
