"""What is written as a folder is complete or not there, and what it replaces is lost at no moment."""

import logging
import os
import signal
import subprocess

import pytest
from filelock import FileLock

from segmenter_hf.output_folders import LOCK_NAME, clear_leftovers, replacing_folder, temporary_folder
from segmenter_hf.outputs import OutputError
from tests.common import run_in_child


PREFIX = ".converting-"


def write(output_dir, text="new"):
    with replacing_folder(output_dir, PREFIX) as folder:
        folder.mkdir()
        (folder / "file.txt").write_text(text)


def contents(folder) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_appears_with_its_parents_and_is_replaced_as_a_whole(tmp_path):
    output_dir = tmp_path / "a" / "b" / "model"
    write(output_dir, "old")
    (output_dir / "stale.txt").touch()
    write(output_dir)

    assert contents(tmp_path) == {"a/b/model/file.txt": "new"}
    assert os.listdir(output_dir.parent) == ["model"]


def test_of_a_link_the_folder_that_it_points_to_is_replaced(tmp_path):
    write(tmp_path / "disk" / "model", "old")
    (tmp_path / "link").symlink_to("disk/model")
    write(tmp_path / "link")

    assert (tmp_path / "link").is_symlink()
    assert contents(tmp_path) == {"disk/model/file.txt": "new"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_fails_leaves_what_was_there_and_no_parents(error, tmp_path):
    write(tmp_path / "model", "old")
    for output_dir in (tmp_path / "model", tmp_path / "new" / "model"):
        with pytest.raises(error):
            with replacing_folder(output_dir, PREFIX) as folder:
                folder.mkdir()
                raise error

    assert contents(tmp_path) == {"model/file.txt": "old"}
    assert os.listdir(tmp_path) == ["model"]


def test_what_cannot_get_its_name_puts_back_what_had_it(tmp_path, monkeypatch):
    write(tmp_path / "model", "old")
    rename = os.rename

    def fail(source, target):
        if target == tmp_path / "model" and source.name == "new":
            raise OSError(16, "Device or resource busy")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(OutputError, match="model cannot be written: Device or resource busy. Name another folder"):
        write(tmp_path / "model")
    assert contents(tmp_path) == {"model/file.txt": "old"}
    assert os.listdir(tmp_path) == ["model"]


def kill_at_rename(number: int, after: bool, tmp_path):
    """Runs into SIGKILL before or after the first or second rename."""
    rename, calls = os.rename, []

    def stop(source, target):
        calls.append(source)
        if len(calls) == number and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, target)
        if len(calls) == number and after:
            os.kill(os.getpid(), signal.SIGKILL)

    os.rename = stop
    write(tmp_path / "model")


@pytest.mark.parametrize(
    ("number", "after", "expected"), [(1, False, "old"), (1, True, "old"), (2, False, "old"), (2, True, "new")]
)
def test_killed_at_any_rename_the_next_run_finds_one_of_both(number, after, expected, tmp_path):
    write(tmp_path / "model", "old")
    assert run_in_child(lambda: kill_at_rename(number, after, tmp_path)) == -signal.SIGKILL
    (left,) = tmp_path.glob(f"{PREFIX}*")
    texts = set(contents(tmp_path).values())
    assert {"old", "new"} <= texts, "neither is lost at any moment"

    # One that writes another folder there clears it too.
    write(tmp_path / "other")
    assert contents(tmp_path) == {"model/file.txt": expected, "other/file.txt": "new"}
    assert sorted(os.listdir(tmp_path)) == ["model", "other"]


def test_a_place_that_was_taken_meanwhile_costs_neither_folder(tmp_path, caplog):
    write(tmp_path / "model", "old")
    assert run_in_child(lambda: kill_at_rename(2, False, tmp_path)) == -signal.SIGKILL
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "notes.txt").write_text("mine")

    with caplog.at_level(logging.WARNING):
        write(tmp_path / "other")
    assert "was about to be replaced, and stays there" in caplog.text
    assert {"old", "new", "mine"} <= set(contents(tmp_path).values())
    # When there is room for it again, it comes back.
    (tmp_path / "model").rename(tmp_path / "notes")
    clear_leftovers(tmp_path, PREFIX)
    assert contents(tmp_path / "model") == {"file.txt": "old"}
    assert not list(tmp_path.glob(".*"))


def test_leftovers_that_a_process_holds_are_not_cleared(tmp_path):
    with temporary_folder(tmp_path, PREFIX) as folder:
        folder.mkdir()
        (folder / "file.txt").write_text("half")
        write(tmp_path / "model")
        assert run_in_child(lambda: clear_leftovers(tmp_path, PREFIX)) == 0
        assert (folder / "file.txt").read_text() == "half"
    assert os.listdir(tmp_path) == ["model"]


def test_a_folder_that_was_not_locked_yet_is_cleared_too(tmp_path, monkeypatch):
    monkeypatch.setattr("segmenter_hf.output_folders.FileLock", lambda path: os.kill(os.getpid(), signal.SIGKILL))
    assert run_in_child(lambda: write(tmp_path / "model")) == -signal.SIGKILL
    assert len(os.listdir(tmp_path)) == 1
    monkeypatch.undo()
    write(tmp_path / "model")
    assert os.listdir(tmp_path) == ["model"]


def test_a_folder_that_is_cleared_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    seen = []

    def clear_first(path):
        if not seen:
            seen.append(path)
            clear_leftovers(tmp_path, PREFIX)
            assert not path.parent.exists()
        return FileLock(path)

    monkeypatch.setattr("segmenter_hf.output_folders.FileLock", clear_first)
    write(tmp_path / "model")
    assert seen and os.listdir(tmp_path) == ["model"]


def test_folders_of_users_with_such_a_name_stay(tmp_path):
    own = tmp_path / f"{PREFIX}photos"
    own.mkdir()
    (own / "photo.jpg").touch()
    with_lock = tmp_path / f"{PREFIX}notes"
    with_lock.mkdir()
    for name in (LOCK_NAME, "notes.txt"):
        (with_lock / name).touch()
    left = tmp_path / "elsewhere" / "left"
    (left / "new").mkdir(parents=True)
    (left / LOCK_NAME).touch()
    (tmp_path / f"{PREFIX}link").symlink_to(left)
    (tmp_path / f"{PREFIX}file").touch()
    (tmp_path / f"{PREFIX}empty").mkdir()
    before = sorted(tmp_path.rglob("*"))

    clear_leftovers(tmp_path, PREFIX)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_would_be_lost_is_checked_at_once_and_at_the_end(tmp_path):
    calls = []

    def check():
        calls.append(None)
        if len(calls) == 2:
            raise LookupError("filled meanwhile")

    with pytest.raises(LookupError):
        with replacing_folder(tmp_path / "model", PREFIX, check) as folder:
            folder.mkdir()
    assert len(calls) == 2 and os.listdir(tmp_path) == []


def test_what_cannot_be_a_folder_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("mine")
    for output_dir in (tmp_path / "file", tmp_path / "file" / "model"):
        with pytest.raises(OutputError, match="cannot be written: .*file is a file, expected a folder"):
            with replacing_folder(output_dir, PREFIX):
                pytest.fail("work was begun")
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(OutputError, match="circle is a link that leads back to itself"):
        with replacing_folder(tmp_path / "circle", PREFIX):
            pytest.fail("work was begun")
    with pytest.raises(OutputError, match="/ is where a file system is mounted. Name a folder in it"):
        with replacing_folder(tmp_path.__class__("/"), PREFIX):
            pytest.fail("work was begun")
    assert contents(tmp_path) == {"file": "mine"}


@pytest.fixture
def small_disk(tmp_path):
    """A file system of a megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True)
    if mount.returncode:
        pytest.skip("needs to mount a small disk")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_is_refused_before_the_work(small_disk):
    write(small_disk / "model", "old")
    (small_disk / "others").write_bytes(bytes(2**20 - 40_000))
    with pytest.raises(OutputError, match="model cannot be written: .*No space left on device"):
        with replacing_folder(small_disk / "model", PREFIX):
            pytest.fail("work was begun")
    assert sorted(os.listdir(small_disk)) == ["model", "others"]


def test_a_disk_that_fills_up_costs_one_error_and_leaves_the_old_folder(small_disk):
    write(small_disk / "model", "old")
    with pytest.raises(OSError, match="No space left on device"):
        with replacing_folder(small_disk / "model", PREFIX) as folder:
            folder.mkdir()
            (folder / "weights").write_bytes(bytes(2**21))
    assert contents(small_disk) == {"model/file.txt": "old"}
    assert os.listdir(small_disk) == ["model"]
