"""How both training scripts run: from the command line to the exit code, with what they log in between."""

import logging
from collections.abc import Callable
from typing import Any

import transformers

from ..command_line import run
from ..data.examples import ExampleError
from ..processes import check_launch, is_lost_connection
from .arguments import TrainingError, parse_arguments


def run_script(run_type: type, description: str, train: Callable[..., Any]) -> int:
    """
    Parses the command line and trains. What is wrong with arguments, data or weights becomes one line and exit code 2.

    Args:
        run_type (`type`): See [`parse_arguments`].
        description (`str`): See [`parse_arguments`].
        train (`Callable`): Takes what [`parse_arguments`] returns.
    """

    def work():
        check_launch()
        try:
            parsed = parse_arguments(run_type, description)
        # The dataclasses of `transformers` raise some of these: they check what they are given, and connect processes.
        except (ArithmeticError, ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
            if is_lost_connection(error):
                raise
            raise TrainingError(str(error)) from error
        train(*parsed)

    # An example that cannot be used is known to that process only that was to use it.
    return run(
        work,
        (TrainingError,),
        (ExampleError,),
        extra="train",
        if_interrupted="The same command goes on from the last complete checkpoint, if there is one.",
    )


def set_up_logging(is_main_process: bool, level: int = logging.INFO):
    """Logs of this package and of transformers, of the first process only."""
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
        handlers=[logging.StreamHandler()],
    )
    logging.getLogger("segmenter_hf").setLevel(level if is_main_process else logging.ERROR)
    transformers.utils.logging.set_verbosity(logging.WARNING if is_main_process else logging.ERROR)


__all__ = ["run_script", "set_up_logging"]
