"""What is said while a checkpoint is converted: our warnings, if it succeeds, and nothing by other libraries."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers.utils import logging as transformers_logging


# Loggers of what reads and writes checkpoints. Their errors are quoted in ours.
LIBRARIES = ("transformers", "huggingface_hub", "timm")

# The warnings that wait for the end of `hold_warnings`, where there is one.
_held: ContextVar[list[tuple] | None] = ContextVar("held_warnings", default=None)


def warn(logger: logging.Logger, message: str, *arguments: Any):
    """Logs a warning, within [`hold_warnings`] at its end."""
    held = _held.get()
    if held is None:
        logger.warning(message, *arguments)
    else:
        held.append((logger, message, *arguments))


@contextmanager
def hold_warnings() -> Iterator[None]:
    """Logs what is warned of when all is done, and nothing if that fails: then its error is all that is heard."""
    held: list[tuple] = []
    token = _held.set(held)
    try:
        yield
    finally:
        _held.reset(token)
    for logger, message, *arguments in held:
        logger.warning(message, *arguments)


@contextmanager
def silence_libraries() -> Iterator[None]:
    """Keeps other libraries from logging and warning, of files that are then refused, say, or of each new attempt."""
    loggers = [logging.getLogger(name) for name in LIBRARIES]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def hide_progress_bars() -> Iterator[None]:
    """Keeps transformers from showing progress bars."""
    was_enabled, were_hub_bars_disabled = transformers_logging.is_progress_bar_enabled(), are_progress_bars_disabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            transformers_logging.enable_progress_bar()
        # transformers moves the Hub's switch with its own.
        (disable_progress_bars if were_hub_bars_disabled else enable_progress_bars)()


__all__ = ["hide_progress_bars", "hold_warnings", "silence_libraries", "warn"]
