"""What is read is a regular file of bounded length, wherever it is."""

import os
import zipfile

import pytest

from segmenter_hf.inputs import check_regular_file, irregular_kind, read_bytes


def make_pipe(folder):
    os.mkfifo(folder / "file")


def link_to_device(folder):
    (folder / "file").symlink_to("/dev/zero")


@pytest.mark.parametrize(("make", "kind"), [(make_pipe, "a pipe"), (link_to_device, "a device")])
def test_what_may_never_end_is_refused(make, kind, tmp_path):
    make(tmp_path)
    assert irregular_kind(tmp_path / "file") == kind
    with pytest.raises(ValueError, match=rf"file is {kind}, expected a regular file\. Name another"):
        check_regular_file(tmp_path / "file")
    for name in (tmp_path / "file", f"zip://0.png::{tmp_path / 'file'}"):
        with pytest.raises(ValueError, match=f"^it is {kind}, expected a regular file$"):
            read_bytes(name)


def test_files_on_the_disk_and_in_an_archive(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.writestr("masks/0.png", b"content")
    for name in (tmp_path / "file", tmp_path / "link", f"zip://masks/0.png::{tmp_path / 'archive.zip'}"):
        assert irregular_kind(name) is None
        check_regular_file(name)
        assert read_bytes(name) == read_bytes(name, max_length=7) == b"content"
        with pytest.raises(ValueError, match=r"longer than any such file should be \(6 bytes\)"):
            read_bytes(name, max_length=6)
    assert irregular_kind(tmp_path) is None and irregular_kind(tmp_path / "nowhere") is None
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "nowhere")
