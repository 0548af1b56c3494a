"""One run at a time in a folder."""

import errno
import json
import os
import signal
import socket

import pytest
from filelock import FileLock

from segmenter_hf.outputs import OutputError
from segmenter_hf.training import output_folder
from segmenter_hf.training.arguments import TrainingError
from segmenter_hf.training.output_folder import reserved


def hold(folder, after_fork=None):
    """A process that holds a folder, until it is killed; what is in it then."""
    ready, said = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            with reserved(folder):
                if after_fork is not None:
                    after_fork()
                os.write(said, b"x")
                signal.pause()
        finally:
            os._exit(1)
    assert os.read(ready, 1) == b"x"
    os.close(ready)
    os.close(said)
    return process


def kill(process):
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def test_a_second_run_says_who_holds_the_folder(tmp_path):
    folder = tmp_path / "run"
    process = hold(folder)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    try:
        with pytest.raises(TrainingError, match=f"process {process} on {socket.gethostname()} since 2.* --output_dir"):
            with reserved(folder):
                pytest.fail("two runs are on")
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
        # Through another name, it is the same folder.
        (tmp_path / "link").symlink_to(folder, target_is_directory=True)
        with pytest.raises(TrainingError, match=f"process {process}"), reserved(tmp_path / "link"):
            pytest.fail("two runs are on")
    finally:
        kill(process)
    # It goes with the process.
    with reserved(folder):
        assert json.loads((folder / ".run.json").read_text())["pid"] == os.getpid()
    assert list(folder.iterdir()) == []


def test_nothing_is_left_where_nothing_was_written(tmp_path):
    with reserved(tmp_path / "new" / "run"):
        assert (tmp_path / "new" / "run").is_dir()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "run").mkdir()
    with pytest.raises(KeyError), reserved(tmp_path / "run"):
        (tmp_path / "run" / "model").mkdir()
        raise KeyError
    assert [each.name for each in (tmp_path / "run").iterdir()] == ["model"]


def test_processes_that_a_killed_run_left_are_waited_for(tmp_path, monkeypatch):
    """Those that load samples are left so, and notice after some seconds."""
    folder = tmp_path / "run"
    folder.mkdir()
    left = os.open(folder / ".run.lock", os.O_RDWR | os.O_CREAT)
    fcntl = pytest.importorskip("fcntl")
    fcntl.flock(left, fcntl.LOCK_EX)
    process = os.fork()
    if process == 0:
        os._exit(0)
    os.waitpid(process, 0)
    holder = {"pid": process, "host": socket.gethostname(), "since": "2026-01-01T00:00:00+00:00"}
    (folder / ".run.json").write_text(json.dumps(holder), encoding="utf-8")
    monkeypatch.setattr(output_folder, "ORPHAN_SECONDS", 0.1)
    with pytest.raises(TrainingError, match=f"processes that the run of process {process} left"), reserved(folder):
        pytest.fail("two runs are on")
    # On another machine nobody can tell.
    (folder / ".run.json").write_text(json.dumps({**holder, "host": "elsewhere"}), encoding="utf-8")
    with pytest.raises(TrainingError, match=f"another run: process {process} on elsewhere"), reserved(folder):
        pytest.fail("two runs are on")
    (folder / ".run.json").unlink()
    with pytest.raises(TrainingError, match="another run: another process"), reserved(folder):
        pytest.fail("two runs are on")
    os.close(left)
    with reserved(folder):
        pass


@pytest.mark.parametrize("error", [NotImplementedError("no flock"), OSError(37, "No locks available")])
def test_file_systems_without_locks_warn(error, tmp_path, monkeypatch, caplog):
    def refuse(*args, **kwargs):
        raise error

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with reserved(tmp_path / "run"):
        (tmp_path / "run" / "model").mkdir()
    assert "cannot be locked" in caplog.text and "Start no second run" in caplog.text


def test_what_a_killed_run_left_half_written_is_cleared(tmp_path):
    for name in (".segmenter_hf.unfinished", ".segmenter_hf.removed", ".segmenter_hf.converted"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(bytes(10))
    with reserved(tmp_path):
        assert not list(tmp_path.glob(".segmenter_hf.*"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine", encoding="utf-8")
    (tmp_path / ".segmenter_hf.unfinished").symlink_to(tmp_path / "mine", target_is_directory=True)
    with pytest.raises(OutputError, match="is in the way"), reserved(tmp_path):
        pytest.fail("it is not a folder")
    assert (tmp_path / "mine" / "notes.txt").exists()


def test_a_disk_that_fills_up_is_one_line_wherever_it_is_noticed(tmp_path):
    folder = tmp_path / "run"
    (folder / "checkpoint-4").mkdir(parents=True)
    (folder / "checkpoint-4" / "trainer_state.json").write_text('{"global_step": 4}', encoding="utf-8")
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / "runs" / "events"))
    with pytest.raises(OutputError, match="events cannot be written: No space left.*checkpoint-4 is complete"):
        with reserved(folder):
            raise full
    # Others are no matter of the disk.
    with pytest.raises(FileNotFoundError), reserved(folder):
        raise FileNotFoundError(errno.ENOENT, "gone")
