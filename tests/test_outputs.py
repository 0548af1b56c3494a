"""What commands write is probed before the work, and complete or not there."""

import os
import resource
import signal

import pytest
import torch
from safetensors.torch import save_file

from segmenter_hf.outputs import (
    OutputError,
    check_output_dir,
    check_output_file,
    refuse_unwritable,
    replacing_file,
    write_text,
)


def test_a_probe_leaves_nothing(tmp_path):
    check_output_dir(tmp_path / "new" / "folder")
    check_output_file(tmp_path / "other" / "file.json")

    assert list(tmp_path.iterdir()) == []


def test_a_probe_keeps_what_is_there(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file.json").write_text("mine")

    check_output_dir(tmp_path / "folder")
    check_output_file(tmp_path / "folder" / "file.json")

    assert (tmp_path / "folder" / "file.json").read_text() == "mine"


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_file_where_a_folder_should_be_is_refused(tmp_path, name):
    (tmp_path / "file").write_text("mine")

    with pytest.raises(OutputError, match="file"):
        check_output_dir(tmp_path / name)
    with pytest.raises(OutputError, match="results.json cannot be written"):
        check_output_file(tmp_path / name / "results.json")


def test_folders_and_devices_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "fifo")

    with pytest.raises(OutputError, match="is a folder, expected the name of a file in it"):
        check_output_file(tmp_path)
    with pytest.raises(OutputError, match="is no regular file"):
        check_output_file(tmp_path / "fifo")


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a file system that nobody can write")
def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(OutputError, match="/proc/self/folder cannot be written: .+ Name another place"):
        check_output_dir("/proc/self/folder")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a full device")
def test_a_full_disk_costs_one_error_and_leaves_the_old_file(tmp_path):
    write_text(tmp_path / "file.txt", "old")

    with pytest.raises(OutputError, match="file.txt cannot be written: No space left on device. Name another place"):
        with replacing_file(tmp_path / "file.txt") as unfinished:
            unfinished.write_text("half")
            with open("/dev/full", "w") as full:
                full.write("more")

    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("file.txt", "old")]


def test_weights_that_cannot_be_written_are_refused_in_the_same_words(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[0][1]))
        with pytest.raises(OutputError, match="model cannot be written: .*File too large.* Name another place"):
            with refuse_unwritable("model"):
                save_file({"weight": torch.zeros(100)}, tmp_path / "model.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before[0])
        signal.signal(signal.SIGXFSZ, before[1])


def test_what_fails_while_it_is_written_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        with replacing_file(tmp_path / "new" / "picture.png") as unfinished:
            assert unfinished.suffix == ".png"
            unfinished.write_text("half")
            raise KeyboardInterrupt

    assert list((tmp_path / "new").iterdir()) == []
