"""
A downloaded file is complete and the right one, or it is not there; what was interrupted is resumed. How often the
client of the Hub tries again, and how long it waits, is tested there.
"""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from huggingface_hub import constants

from segmenter_hf.conversion import ConversionError, download
from segmenter_hf.conversion.download import download_file
from tests.common import REPOSITORY
from tests.conversion.flaky_server import LAST_MODIFIED, Fault, FlakyServer


# It cannot be compressed, has no period, and is longer than any buffer on the way.
CONTENT = b"".join(hashlib.sha256(index.to_bytes(4)).digest() for index in range(10_000))
OTHER_CONTENT = CONTENT[::-1]
SIZE = len(CONTENT)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
FILE = "/models/checkpoint.pth"
WEB_PAGE = b"\r\n <!DOCTYPE html>\n<html><title>Please log in</title></html>"
NO_VALIDATOR = {"ETag": None, "Last-Modified": None}
CUT = Fault(cut_after=100_000)

DOWNLOAD = """
import sys, types
# The packages around the module without what they import, which takes seconds.
for name in ("segmenter_hf", "segmenter_hf.conversion"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [sys.argv[3] + "/" + name.replace(".", "/")]
from huggingface_hub import constants
from segmenter_hf.conversion.download import download_file
constants.DOWNLOAD_CHUNK_SIZE = 10_000
download_file(sys.argv[1], sys.argv[2])
"""


@pytest.fixture(autouse=True)
def online(monkeypatch):
    """As far as the loopback interface. Nobody waits before another attempt, and what came is written early."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache" / "checkpoint.pth"


def serve(*faults: Fault, every_fault: Fault | None = None, content: bytes = CONTENT) -> FlakyServer:
    return FlakyServer({FILE: content}, *faults, every_fault=every_fault)


def parts(path) -> list:
    return list(path.parent.glob("checkpoint.pth.*.part"))


def files(path) -> set[str]:
    """Names in the folder of `path`, but for the lock, which some releases of filelock leave."""
    return {name for name in os.listdir(path.parent) if not name.endswith(".lock")} if path.parent.exists() else set()


def fails(server, path, **known) -> str:
    """The one line by which a download fails that leaves no file under the final name."""
    with pytest.raises(ConversionError) as error:
        download_file(server.url(FILE), path, **known)
    assert path.name not in files(path)
    assert "\n" not in str(error.value) and server.url(FILE) in str(error.value)
    return str(error.value)


def start_process(url: str, path) -> subprocess.Popen:
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1"}
    return subprocess.Popen([sys.executable, "-c", DOWNLOAD, url, str(path), str(REPOSITORY)], env=environment)


class TestDownload:
    def test_file_and_nothing_else(self, path):
        with serve() as server:
            assert download_file(server.url(FILE), str(path), sha256_prefix=SHA256[:8].upper()) == path
        assert path.read_bytes() == CONTENT
        assert files(path) == {"checkpoint.pth"}
        assert server.ranges == [None]
        assert server.requests[0].headers["accept-encoding"] == "identity"
        assert "authorization" not in server.requests[0].headers
        (path.parent / "as_the_umask_says").touch()
        assert path.stat().st_mode == (path.parent / "as_the_umask_says").stat().st_mode

    @pytest.mark.parametrize("known", [{}, {"expected_size": SIZE}, {"sha256_prefix": SHA256[:8]}])
    def test_file_that_is_there_is_not_downloaded(self, path, known, monkeypatch):
        path.parent.mkdir()
        path.write_bytes(CONTENT)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert download_file("http://127.0.0.1/nobody/is/asked", path, **known) == path
        assert os.listdir(path.parent) == ["checkpoint.pth"]

    @pytest.mark.parametrize("known", [{"expected_size": SIZE}, {"sha256_prefix": SHA256[:8]}])
    def test_wrong_file_stays_until_the_right_one_is_there(self, path, known, caplog):
        path.parent.mkdir()
        path.write_bytes(CONTENT[:1000])
        with serve(every_fault=Fault(status=404)) as server:
            with pytest.raises(ConversionError):
                download_file(server.url(FILE), path, **known)
            assert path.read_bytes() == CONTENT[:1000]
            server.every_fault = Fault()
            download_file(server.url(FILE), path, **known)
        assert path.read_bytes() == CONTENT
        assert "is not what it should be" in caplog.text

    def test_redirects_are_followed(self, path):
        with serve() as target, serve(every_fault=Fault(status=302, headers={"Location": target.url(FILE)})) as server:
            download_file(server.url(FILE), path)
        assert path.read_bytes() == CONTENT

    def test_progress_bar(self, path, capsys, monkeypatch):
        monkeypatch.setenv("TQDM_POSITION", "-1")  # The client shows bars on terminals only, or with this.
        with serve(CUT) as server:
            download_file(server.url(FILE), path)
        shown = capsys.readouterr().err
        assert "checkpoint.pth:" in shown and "320k/320k" in shown

    def test_two_processes_at_once(self, path):
        with serve() as server:
            server.piece_size, server.pause_seconds = 10_000, 0.02
            processes = [start_process(server.url(FILE), path) for _ in range(2)]
            assert [process.wait(60) for process in processes] == [0, 0]
        assert path.read_bytes() == CONTENT
        assert len(server.requests) == 1 and files(path) == {"checkpoint.pth"}

    def test_second_one_says_that_it_waits(self, path, caplog):
        with serve() as server:
            server.piece_size, server.pause_seconds = 50_000, 0.01
            threads = [threading.Thread(target=download_file, args=(server.url(FILE), path)) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert path.read_bytes() == CONTENT and len(server.requests) == 1
        assert "Another process is downloading" in caplog.text


class TestResume:
    def test_cut_several_times(self, path):
        with serve(*(Fault(cut_after=number) for number in (100_000, 10_000, 70_000))) as server:
            download_file(server.url(FILE), path)
        assert path.read_bytes() == CONTENT
        assert files(path) == {"checkpoint.pth"}
        assert server.ranges == [None, "bytes=100000-", "bytes=110000-", "bytes=180000-"]
        assert {request.headers["if-range"] for request in server.requests} == {server.etag(FILE)}

    def test_connection_that_is_reset(self, path, monkeypatch):
        """The client does not try that again, as it does others."""

        def reset_once(url, file, **settings):
            monkeypatch.setattr(download, "http_get", http_get)
            file.write(CONTENT[:100_000])
            raise download.httpx.ReadError("connection reset by peer")

        http_get = download.http_get
        monkeypatch.setattr(download, "http_get", reset_once)
        with serve() as server:
            download_file(server.url(FILE), path)
        assert path.read_bytes() == CONTENT and server.ranges == ["bytes=100000-"]

    @pytest.mark.parametrize(
        ("headers", "known", "if_range", "continued"),
        [
            ({}, {}, '"', "bytes=100000-"),
            ({"ETag": None}, {}, LAST_MODIFIED, "bytes=100000-"),
            ({"ETag": 'W/"weak"'}, {}, LAST_MODIFIED, "bytes=100000-"),
            # Only a checksum would tell that the second half is of another version.
            (NO_VALIDATOR, {}, None, None),
            (NO_VALIDATOR, {"sha256_prefix": SHA256[:8]}, None, "bytes=100000-"),
        ],
    )
    def test_failed_call_is_continued_by_the_next(self, headers, known, if_range, continued, path):
        cut, out_of_order = Fault(cut_after=100_000, headers=headers), Fault(status=507)
        with serve(cut, out_of_order, every_fault=Fault(headers=headers)) as server:
            assert "507 Insufficient Storage. The same command tries again" in fails(server, path, **known)
            assert [part.read_bytes() for part in parts(path)] == [CONTENT[:100_000]]
            download_file(server.url(FILE), path, **known)
        assert path.read_bytes() == CONTENT and files(path) == {"checkpoint.pth"}
        assert server.ranges == [None, "bytes=100000-", continued]
        sent = server.requests[-1].headers.get("if-range")
        assert sent is None if if_range is None else sent.startswith(if_range)

    def test_killed_process(self, path):
        with serve() as server:
            server.piece_size, server.pause_seconds = 10_000, 0.02
            process = start_process(server.url(FILE), path)
            deadline = time.monotonic() + 60
            while not (parts(path) and parts(path)[0].stat().st_size >= 50_000):
                assert time.monotonic() < deadline, "waited in vain"
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert "checkpoint.pth" not in files(path)
            received = parts(path)[0].stat().st_size
            assert 50_000 <= received < SIZE
            server.pause_seconds = 0.0
            download_file(server.url(FILE), path)
        assert path.read_bytes() == CONTENT
        assert server.ranges == [None, f"bytes={received}-"]
        assert files(path) == {"checkpoint.pth"}

    def test_file_that_changes_during_the_download_is_taken_from_the_start(self, path):
        with serve(CUT, Fault(content=OTHER_CONTENT)) as server:
            download_file(server.url(FILE), path)
        assert path.read_bytes() == OTHER_CONTENT
        assert [request.status for request in server.requests] == [200, 200]

    @pytest.mark.parametrize("ignore_range", [True, False])
    def test_file_that_changed_since_is_taken_from_the_start(self, ignore_range, path):
        with serve(CUT, every_fault=Fault(status=507)) as server:
            fails(server, path)
            server.every_fault = Fault(content=OTHER_CONTENT, ignore_range=ignore_range)
            download_file(server.url(FILE), path)
        assert path.read_bytes() == OTHER_CONTENT and files(path) == {"checkpoint.pth"}
        assert server.ranges == [None, "bytes=100000-", None]

    def test_part_of_another_address_is_not_trusted(self, path):
        with serve(CUT, every_fault=Fault(status=507)) as server:
            fails(server, path)
            server.etag = lambda path: '"same"'
            server.every_fault = Fault()
            server.files["/other"] = OTHER_CONTENT
            download_file(server.url("/other"), path)
        assert path.read_bytes() == OTHER_CONTENT and server.ranges[-1] is None

    def test_web_page_does_not_cost_what_was_received(self, path):
        with serve(CUT, every_fault=Fault(status=507)) as server:
            fails(server, path)
            server.files[FILE], server.every_fault = WEB_PAGE, Fault()
            assert "web page" in fails(server, path)
            server.files[FILE] = CONTENT
            download_file(server.url(FILE), path)
        assert path.read_bytes() == CONTENT and server.ranges[-1] == "bytes=100000-"

    def test_server_that_ignores_ranges(self, path):
        with serve(CUT, Fault(ignore_range=True)) as server:
            download_file(server.url(FILE), path)
        assert path.read_bytes() == CONTENT

    def test_complete_part_is_only_renamed(self, path, monkeypatch):
        def crash(*args):
            raise KeyboardInterrupt

        with serve() as server:
            with monkeypatch.context() as patch:
                patch.setattr(download.os, "fsync", crash)
                with pytest.raises(KeyboardInterrupt):
                    download_file(server.url(FILE), path)
            assert parts(path) and not path.exists()
            download_file(server.url(FILE), path)
        assert path.read_bytes() == CONTENT
        assert len(server.requests) == 1


class TestRefused:
    @pytest.mark.parametrize(
        ("status", "remedy"),
        [
            (404, "no longer there"),
            (410, "no longer there"),
            (401, "permission"),
            (403, "permission"),
            (400, "browser"),
        ],
    )
    def test_status(self, path, status, remedy):
        with serve(every_fault=Fault(status=status)) as server:
            message = fails(server, path)
        assert str(status) in message and remedy in message
        assert server.requests == [] and files(path) == set()

    @pytest.mark.parametrize(
        ("content", "kind"),
        [
            (WEB_PAGE, "a web page"),
            (b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>", "an XML document"),
            (b'{"error": "Repository not found"}', "a JSON document"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\n", "a pointer of Git LFS"),
            (b"", "an empty file"),
        ],
    )
    def test_answers_that_are_no_checkpoint(self, path, content, kind):
        with serve(content=content) as server:
            assert f"expected a checkpoint, got {kind}" in fails(server, path)
        assert files(path) == set()

    def test_wrong_checksum_of_a_resumed_file(self, path):
        with serve(Fault(cut_after=100_000, headers=NO_VALIDATOR), Fault(content=OTHER_CONTENT)) as server:
            message = fails(server, path, expected_size=SIZE, sha256_prefix=SHA256[:8])
        assert f"expected a SHA-256 that begins with {SHA256[:8]}, got " in message
        assert files(path) == set()

    def test_wrong_size_is_seen_before_the_download(self, path):
        with serve() as server:
            message = fails(server, path, expected_size=SIZE - 1)
        assert f"expected {SIZE - 1} bytes, got {SIZE}. It was not downloaded." in message
        assert server.requests == [] and files(path) == set()

    @pytest.mark.parametrize("length", [{"Content-Length": None}, {"Content-Encoding": "gzip"}])
    def test_length_that_is_not_announced(self, path, length):
        with serve(every_fault=Fault(headers=length)) as server:
            assert "does not say how long the file is" in fails(server, path)
        assert server.requests == [] and files(path) == set()

    @pytest.mark.parametrize("known", [{"expected_size": SIZE + 1}, {"sha256_prefix": hashlib.sha256().hexdigest()}])
    def test_wrong_file_whose_length_is_not_announced(self, path, known):
        with serve(every_fault=Fault(headers={"Content-Length": None})) as server:
            assert "expected" in fails(server, path, **known)
            assert files(path) == set()
            download_file(server.url(FILE), path, sha256_prefix=SHA256)
        assert path.read_bytes() == CONTENT

    def test_server_that_ends_too_early(self, path):
        less = {"Content-Range": f"bytes 100000-100004/{SIZE}"}
        with serve(CUT, Fault(status=206, headers=less)) as server:
            assert f"expected {SIZE} bytes, got 100005. It was not kept." in fails(server, path)
        assert files(path) == set()

    @pytest.mark.parametrize(
        "url",
        ["file:///etc/passwd", "ftp://127.0.0.1/x", "checkpoint.pth", "", "http://127.0.0.1:port/x", "http:///x"],
    )
    def test_other_addresses(self, path, url):
        with pytest.raises(ConversionError, match="cannot be downloaded"):
            download_file(url, path)
        assert files(path) == set()

    def test_redirect_to_another_scheme(self, path):
        with serve(every_fault=Fault(status=302, headers={"Location": "ftp://127.0.0.1/x"})) as server:
            assert "cannot be downloaded: " in fails(server, path)

    def test_redirect_from_https_to_http(self, path, monkeypatch):
        def answer(self, request):
            headers = {"Location": "http://127.0.0.1/x"} if request.url.scheme == "https" else {"Content-Length": "5"}
            return download.httpx.Response(302 if "Location" in headers else 200, headers=headers)

        monkeypatch.setattr(download.httpx.HTTPTransport, "handle_request", answer)
        with pytest.raises(ConversionError, match="redirected from https to 127.0.0.1 without encryption"):
            download_file("https://127.0.0.1/x", path)
        assert files(path) == set()

    def test_nobody_there(self, path):
        with serve() as server:
            pass
        assert "refused" in fails(server, path)
        assert files(path) == set()

    def test_offline(self, path, monkeypatch):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        with serve() as server:
            assert "HF_HUB_OFFLINE" in fails(server, path)
        assert not path.parent.exists()


class TestDisk:
    def test_full(self, path, monkeypatch):
        if not os.path.exists("/dev/full"):
            pytest.skip("needs /dev/full")
        with serve(CUT, every_fault=Fault(status=507)) as server:
            fails(server, path)
            (part,) = parts(path)
            part.unlink()
            part.symlink_to("/dev/full")
            server.every_fault = Fault()
            with pytest.raises(ConversionError, match=r"checkpoint\.pth cannot be written: No space left on device\."):
                download_file(server.url(FILE), path)
        assert not path.exists()

    def test_folder_that_cannot_be_made(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(ConversionError, match="cannot be written: Not a directory"):
            download_file("http://127.0.0.1/nobody/is/asked", tmp_path / "file" / "folder" / "x.pth")

    def test_folder_in_the_files_place(self, path):
        path.mkdir(parents=True)
        with pytest.raises(ConversionError, match="is no file"):
            download_file("http://127.0.0.1/nobody/is/asked", path)
