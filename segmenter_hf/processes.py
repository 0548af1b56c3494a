"""Processes that work on one thing: that all which were started see each other, and how they part."""

import atexit
import gc
import os
import re
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed


# torchrun and implementations of MPI set these variables; accelerate asks for them in this order.
SIZE_NAMES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
# For so long processes wait for what the first one does: downloads of gigabytes take longer than the ten minutes after
# which NCCL gives up.
LONGEST_WORK = timedelta(days=7)
REMEDY = "Start them with `torchrun --nproc_per_node NUMBER`."

T = TypeVar("T")


class ProcessesError(ValueError):
    """Processes that cannot work together as they were started. The message is meant for the user."""


def count_started() -> int:
    """
    How many processes a launcher started, by what it left in the environment.

    Raises:
        ProcessesError: if that is no number.
    """
    return max(1, next((size for size in map(_read_number, SIZE_NAMES) if size > 1), 1))


def is_first() -> bool:
    """Whether this process is the one that speaks for all; before they are connected too."""
    try:
        return count_started() == 1 or _read_number("RANK") == 0
    except ProcessesError:
        return True


def _read_number(name: str) -> int:
    value = os.environ.get(name, "0")
    if not value.isdecimal():
        raise ProcessesError(f"{name} must be a number, got {value!r}. Unset it, or leave it to `torchrun`.")
    return int(value)


def check_launch():
    """
    Checks what launchers left in the environment, by which transformers and accelerate connect the processes. To be
    called before they do: where there is no accelerator, they need to be told to, or each process remains alone.

    Raises:
        ProcessesError: if the processes could not find each other.
    """
    number = count_started()
    if number == 1:
        if {"ACCELERATE_MIXED_PRECISION", "MASTER_ADDR"} <= os.environ.keys() and "RANK" not in os.environ:
            raise ProcessesError(
                "`accelerate launch` was asked for several processes but has started one, as it does without as many "
                f"GPUs. {REMEDY} For one process: `--num_processes 1`, with MASTER_ADDR unset."
            )
        return
    needed = ["MASTER_ADDR"]
    if _read_number("WORLD_SIZE") > 1:
        needed += ["MASTER_PORT", "RANK", "LOCAL_RANK"]
    missing = [name for name in needed if not os.environ.get(name)]
    if missing:
        raise ProcessesError(
            f"The environment asks for {number} processes, but lacks {', '.join(missing)}, without which they do not "
            f"find each other. {REMEDY} For one process: unset {_name_of_size()}."
        )
    if _read_number("WORLD_SIZE") > 1 and _read_number("RANK") >= number:
        raise ProcessesError(f"RANK must be below WORLD_SIZE, {number}, got {os.environ['RANK']}. {REMEDY}")
    _read_number("LOCAL_RANK")

    chosen = {"ACCELERATE_TORCH_DEVICE", "DS_ACCELERATOR"} & os.environ.keys()
    if chosen or _is_on("ACCELERATE_USE_DEEPSPEED") or _has_accelerator():
        return
    if _is_on("ACCELERATE_USE_FSDP"):
        raise ProcessesError("FSDP shards models over accelerators, and there is none here. Start without it.")
    os.environ["ACCELERATE_USE_CPU"] = "true"


def _name_of_size() -> str:
    return next(name for name in SIZE_NAMES if _read_number(name) > 1)


def _is_on(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("1", "true", "yes")


def _has_accelerator() -> bool:
    """Whether there is one by which processes can send."""
    return torch.accelerator.is_available() and torch.accelerator.current_accelerator().type != "mps"


def check_connected(num_processes: int):
    """
    Args:
        num_processes (`int`): How many see each other.

    Raises:
        ProcessesError: if more were started, which would all do the whole work.
    """
    number = count_started()
    if number != num_processes:
        raise ProcessesError(
            f"{number} processes were started, but this one sees {num_processes}: each would do the whole work. "
            f"{REMEDY} For one process: unset {_name_of_size()}."
        )


def rank_and_number_of_processes() -> tuple[int, int]:
    """The rank of this process among those that are connected, and their number."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def gather_objects(value: Any) -> list[Any]:
    """The value of each process, by rank."""
    _, num_processes = rank_and_number_of_processes()
    if num_processes == 1:
        return [value]
    values = [None] * num_processes
    torch.distributed.all_gather_object(values, value)
    return values


def by_first_process(work: Callable[[], T]) -> T:
    """
    What the first process makes of `work`, in all processes: what it returns, or the `ValueError` by which it refuses.
    The others wait for as long as it takes.
    """
    rank, num_processes = rank_and_number_of_processes()
    if num_processes == 1:
        return work()
    # All connect before the work, as that has limits of its own.
    group = torch.distributed.new_group(backend="gloo", timeout=LONGEST_WORK)
    outcome: list[Any] = [None]
    if rank == 0:
        try:
            outcome = [(work(), None)]
        except ValueError as error:
            outcome = [(None, error)]
    torch.distributed.broadcast_object_list(outcome, src=0, group=group)
    torch.distributed.destroy_process_group(group)
    ((result, error),) = outcome
    if error is not None:
        raise error
    return result


def is_lost_connection(error: BaseException) -> bool:
    """Whether an error says that another process has ended, or was not there."""
    # The errors of gloo have no class of their own.
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error) or "closed by peer" in str(error)


def describe_lost_connection(error: BaseException) -> str:
    """What such an error says, without where in the sources and its advice."""
    line = str(error).strip().partition("\n")[0]
    return re.sub(r"^\[\S*\] ?|(?<=\.) This is typically.*", "", line)


def part():
    """
    Ends the connection of this process with the others, if there is one. All processes should have done what they do
    together. What else holds the connection, such as sharded models, keeps its threads alive: see [`leave`].
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    from accelerate import PartialState

    PartialState().destroy_process_group()
    # Models that were wrapped hold the connection too, in cycles.
    gc.collect()


def leave(exit_code: int) -> NoReturn:
    """
    Ends this process, as `sys.exit` does. Where it was started with others, it does not take the interpreter down:
    threads of gloo and of autograd that are alive then abort the process now and then, after its work is done
    ("terminate called without an active exception"), and the launcher kills the others for it.
    """
    # The environment decides, as the connection may have been ended already, by accelerate for one.
    try:
        is_alone = count_started() == 1
    except ProcessesError:
        is_alone = True
    if is_alone:
        sys.exit(exit_code)
    # The interpreter would call these at its end: trackers finish, temporary folders are removed.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


__all__ = [
    "ProcessesError",
    "by_first_process",
    "check_connected",
    "check_launch",
    "count_started",
    "describe_lost_connection",
    "gather_objects",
    "is_first",
    "is_lost_connection",
    "leave",
    "part",
    "rank_and_number_of_processes",
]
