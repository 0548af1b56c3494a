"""What launchers leave in the environment, and what comes of it."""

import os
import subprocess
import sys
import time
from datetime import timedelta

import pytest
import torch

from segmenter_hf.processes import (
    SIZE_NAMES,
    ProcessesError,
    by_first_process,
    check_connected,
    check_launch,
    count_started,
    is_first,
)

from .common import FORKS


TORCHRUN = {"MASTER_ADDR": "localhost", "MASTER_PORT": "29500", "WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}


@pytest.fixture(autouse=True)
def launch(monkeypatch):
    """Sets the environment that a launcher leaves, on a machine without an accelerator."""
    for name in (
        *TORCHRUN,
        *SIZE_NAMES,
        "ACCELERATE_MIXED_PRECISION",
        "ACCELERATE_TORCH_DEVICE",
        "DS_ACCELERATOR",
    ):
        monkeypatch.delenv(name, raising=False)
    # This is set first, so that what `check_launch` sets is undone.
    monkeypatch.setenv("ACCELERATE_USE_CPU", "")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)

    def set_environment(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_environment


def uses_cpu():
    return os.environ["ACCELERATE_USE_CPU"] == "true"


def test_one_process_needs_nothing(launch):
    check_launch()
    # MPI and job scripts leave this.
    launch(WORLD_SIZE="1", RANK="0", OMPI_COMM_WORLD_SIZE="1")
    check_launch()
    check_connected(1)
    assert count_started() == 1 and is_first() and not uses_cpu()


def test_processes_without_an_accelerator_send_by_the_cpu(launch, monkeypatch):
    launch(**TORCHRUN)
    check_launch()
    assert count_started() == 2 and not is_first() and uses_cpu()
    check_connected(2)


def test_processes_with_accelerators_send_by_those(launch, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    launch(**TORCHRUN)
    check_launch()
    assert not uses_cpu()
    # By Apple's accelerators, processes cannot send.
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("mps"))
    check_launch()
    assert uses_cpu()


@pytest.mark.parametrize("name", ["ACCELERATE_TORCH_DEVICE", "DS_ACCELERATOR"])
def test_a_device_that_was_chosen_is_used(launch, name):
    launch(**TORCHRUN, **{name: "cpu"})
    check_launch()
    assert not uses_cpu()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": "2"}, "asks for 2 processes, but lacks MASTER_ADDR, MASTER_PORT, RANK, LOCAL_RANK"),
        ({**TORCHRUN, "LOCAL_RANK": ""}, "lacks LOCAL_RANK, .*unset WORLD_SIZE"),
        ({**TORCHRUN, "RANK": "2"}, "RANK must be below WORLD_SIZE, 2, got 2"),
        ({**TORCHRUN, "RANK": "first"}, "RANK must be a number, got 'first'"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE must be a number, got 'two'"),
        ({"WORLD_SIZE": "-2"}, "WORLD_SIZE must be a number, got '-2'"),
        ({"PMI_SIZE": "4"}, "asks for 4 processes, but lacks MASTER_ADDR, .*unset PMI_SIZE"),
        (
            {"MASTER_ADDR": "127.0.0.1", "ACCELERATE_MIXED_PRECISION": "no"},
            "`accelerate launch` was asked for several",
        ),
        ({**TORCHRUN, "ACCELERATE_USE_FSDP": "true"}, "FSDP shards models over accelerators"),
    ],
)
def test_processes_that_would_not_find_each_other_are_refused(launch, variables, message):
    launch(**variables)
    with pytest.raises(ProcessesError, match=message):
        check_launch()


def test_processes_that_do_not_see_each_other_are_refused(launch):
    launch(**TORCHRUN)
    with pytest.raises(ProcessesError, match="2 processes were started, but this one sees 1: each would do the whole"):
        check_connected(1)
    launch(WORLD_SIZE="1", OMPI_COMM_WORLD_SIZE="3")
    with pytest.raises(ProcessesError, match="3 processes were started.*unset OMPI_COMM_WORLD_SIZE"):
        check_connected(1)


LEAVE = """
import atexit, sys
import torch.distributed
from segmenter_hf import processes

atexit.register(print, "done at the end", end="")
if sys.argv[1] == "connected":
    torch.distributed.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=0, world_size=1)
    # accelerate's `end_training` does this before the script parts.
    torch.distributed.destroy_process_group()
    processes.part()


class Interpreter:
    # Where the interpreter is taken down, what it holds is.
    def __del__(self):
        print(" and taken down", end="")


kept = Interpreter()
processes.leave(3)
"""


@pytest.mark.parametrize(
    ("kind", "said"), [("alone", "done at the end and taken down"), ("connected", "done at the end")]
)
def test_processes_that_were_started_with_others_end_without_taking_the_interpreter_down(kind, said, tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", LEAVE, kind, str(tmp_path / "meeting")],
        env=os.environ | ({"WORLD_SIZE": "2"} if kind == "connected" else {}),
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stdout) == (3, said), result.stderr


def work_in_turn(rank, folder):
    timeout = timedelta(seconds=1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=timeout
    )

    def work():
        assert rank == 0
        time.sleep(3 * timeout.total_seconds())
        return {"folder": "model"}

    def refuse():
        raise ProcessesError("no such weights")

    assert by_first_process(work) == {"folder": "model"}
    with pytest.raises(ProcessesError, match="^no such weights$"):
        by_first_process(refuse)
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_others_wait_for_the_first_process_beyond_the_limit_of_their_connection(tmp_path):
    processes = [FORKS.Process(target=work_in_turn, args=(rank, tmp_path)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]


def test_the_work_of_one_process_is_its_own():
    assert by_first_process(lambda: 3) == 3
    with pytest.raises(OSError, match="disk"):
        by_first_process(lambda: open("/dev/null/disk", "rb"))
