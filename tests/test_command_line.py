"""Scripts end with one line and an exit code."""

import importlib
import io
import sys

import pytest
import torch
from tqdm.auto import tqdm

from segmenter_hf.command_line import SECONDS_TO_WAIT, run
from segmenter_hf.outputs import OutputError


def fail(error):
    raise error


@pytest.mark.parametrize("returned, code", [(None, 0), (0, 0), (1, 1)])
def test_the_exit_code_is_that_of_the_work(returned, code):
    assert run(lambda: returned) == code


def test_what_a_user_can_mend_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["scripts/train.py"])

    assert run(lambda: fail(LookupError("no\nsuch  thing")), (LookupError,)) == 2
    assert run(lambda: fail(OutputError("full"))) == 2
    assert capsys.readouterr().err == "train.py: error: no such thing\ntrain.py: error: full\n"


def test_names_that_are_not_utf_8_are_printed(monkeypatch):
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict"))
    assert run(lambda: print("model\udcff", flush=True)) == 0
    assert sys.stdout.buffer.getvalue() == b"model\\udcff\n"


def test_ctrl_c_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["scripts/train.py"])

    assert run(lambda: fail(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "train.py: interrupted. Run it again to go on.\n"


def test_a_line_is_not_behind_a_bar_of_progress(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["scripts/train.py"])
    bar = tqdm(total=3)
    bar.update()

    assert run(lambda: fail(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "train.py: interrupted. Run it again to go on."
    assert bar.disable


def test_the_first_process_speaks_for_all_but_of_what_one_alone_met(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["scripts/train.py"])
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    said = []
    monkeypatch.setattr("time.sleep", lambda seconds: said.append((seconds, capsys.readouterr().err)))

    assert run(lambda: fail(KeyError("mine")), (LookupError,), (KeyError,)) == 2
    assert capsys.readouterr().err == "train.py: error: 'mine'\n" and not said

    # Another process waits, for the launcher to end it where the first has failed too; if it lives on, it speaks.
    assert run(lambda: fail(LookupError("all")), (LookupError,)) == 2
    assert said == [(SECONDS_TO_WAIT, "")]
    assert capsys.readouterr().err == "train.py: error: all\n"


def test_a_rank_that_is_left_over_silences_nobody(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["scripts/train.py"])
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "1")

    assert run(lambda: fail(LookupError("wrong")), (LookupError,)) == 2
    assert capsys.readouterr().err == "train.py: error: wrong\n"


def test_processes_that_lost_each_other_are_one_line(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["scripts/train.py"])

    lost = "[/gloo/pair.cc:5] Connection closed by peer [::1]:4711. This is typically caused by a remote worker\nstack"
    assert run(lambda: fail(RuntimeError(lost))) == 1
    assert run(lambda: fail(torch.distributed.DistNetworkError("no port"))) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("train.py: error: The processes have lost each other") and first.endswith(
        " Connection closed by peer [::1]:4711."
    )
    assert second.endswith("no port")
    with pytest.raises(RuntimeError, match="shapes"):
        run(lambda: fail(RuntimeError("shapes")))


@pytest.mark.parametrize("library", ["datasets", "no_such_library"])
def test_a_library_that_is_missing_is_one_line_with_what_installs_it(library, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["scripts/train.py"])
    monkeypatch.setitem(sys.modules, library, None)

    assert run(lambda: importlib.import_module(library), extra="train") == 2
    assert capsys.readouterr().err == (
        f'train.py: error: The library {library} is not installed: pip install "segmenter_hf[train]"\n'
    )
    with pytest.raises(ModuleNotFoundError):
        run(lambda: importlib.import_module(library))


def test_a_module_that_a_library_lacks_is_a_fault_of_the_code():
    with pytest.raises(ModuleNotFoundError, match="segmenter_hf.no_such_module"):
        run(lambda: importlib.import_module("segmenter_hf.no_such_module"), extra="train")


def test_faults_of_the_code_are_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 // 0, (LookupError,))
