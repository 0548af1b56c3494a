"""A downloaded file is complete and the right one, or it is not there; what was interrupted is resumed."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import huggingface_hub.constants
import pytest

from segmenter_hf.conversion import ConversionError, download
from segmenter_hf.conversion.download import download_file
from tests.common import REPOSITORY
from tests.conversion.flaky_server import Fault, FlakyServer


# Not compressible, without a period, and longer than any buffer on the way.
CONTENT = b"".join(hashlib.sha256(index.to_bytes(4)).digest() for index in range(10_000))
OTHER_CONTENT = CONTENT[::-1]
SIZE = len(CONTENT)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
FILE = "/models/checkpoint.pth"
WEB_PAGE = b"\r\n <!DOCTYPE html>\n<html><title>Please log in</title></html>"

DOWNLOAD = """
import sys, types
# The packages around the module without what they import, which takes seconds.
for name in ("segmenter_hf", "segmenter_hf.conversion"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [sys.argv[3] + "/" + name.replace(".", "/")]
from segmenter_hf.conversion.download import download_file
download_file(sys.argv[1], sys.argv[2], progress=False)
"""


@pytest.fixture(autouse=True)
def waits(monkeypatch) -> list[float]:
    """Online, as far as the loopback interface; and nobody waits: the list says how long they would have."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    waits = []
    monkeypatch.setattr(download, "sleep", waits.append)
    return waits


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache" / "checkpoint.pth"


def serve(*faults: Fault, every_fault: Fault | None = None, content: bytes = CONTENT) -> FlakyServer:
    return FlakyServer({FILE: content}, *faults, every_fault=every_fault)


def part(path):
    return path.with_name("checkpoint.pth.part")


def files(path) -> set[str]:
    """Names in the folder of `path`, but for the lock, which some releases of filelock leave."""
    return {name for name in os.listdir(path.parent) if not name.endswith(".lock")} if path.parent.exists() else set()


def fails(server, path, **settings) -> str:
    """The one line by which a download fails that leaves no file under the final name."""
    with pytest.raises(ConversionError) as error:
        download_file(server.url(FILE), path, **settings)
    assert path.name not in files(path)
    assert "\n" not in str(error.value) and "127.0.0.1" in str(error.value)
    return str(error.value)


def start_process(url: str, path, **environment) -> subprocess.Popen:
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1", **environment}
    return subprocess.Popen([sys.executable, "-c", DOWNLOAD, url, str(path), str(REPOSITORY)], env=environment)


def wait_until(condition, timeout_seconds: float = 60):
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


class TestDownload:
    def test_file_and_nothing_else(self, path, waits):
        with serve() as server:
            assert download_file(server.url(FILE), str(path)) == path
        assert path.read_bytes() == CONTENT
        assert files(path) == {"checkpoint.pth"}
        assert server.ranges == [None] and waits == []
        assert server.requests[0].headers["accept-encoding"] == "identity"
        assert "authorization" not in server.requests[0].headers

    def test_readable_as_the_umask_says(self, path):
        with serve() as server:
            download_file(server.url(FILE), path)
        (path.parent / "other").touch()
        assert path.stat().st_mode == (path.parent / "other").stat().st_mode

    def test_size_and_checksum_in_capitals(self, path):
        with serve() as server:
            download_file(server.url(FILE), path, expected_size=SIZE, sha256_prefix=SHA256[:8].upper())
        assert path.read_bytes() == CONTENT

    @pytest.mark.parametrize("known", [{}, {"expected_size": SIZE}, {"sha256_prefix": SHA256[:8]}])
    def test_file_that_is_there_is_not_downloaded(self, path, known, monkeypatch):
        path.parent.mkdir()
        path.write_bytes(CONTENT)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        with serve() as server:
            assert download_file(server.url(FILE), path, **known) == path
        assert server.requests == [] and os.listdir(path.parent) == ["checkpoint.pth"]

    @pytest.mark.parametrize("known", [{"expected_size": SIZE}, {"sha256_prefix": SHA256[:8]}])
    def test_file_that_is_there_but_wrong_is_replaced(self, path, known, caplog):
        path.parent.mkdir()
        path.write_bytes(CONTENT[:1000])
        with serve() as server:
            download_file(server.url(FILE), path, **known)
        assert path.read_bytes() == CONTENT
        assert "is not what it should be" in caplog.text

    def test_wrong_file_stays_until_the_right_one_is_there(self, path):
        path.parent.mkdir()
        path.write_bytes(b"old")
        with serve(every_fault=Fault(status=404)) as server, pytest.raises(ConversionError):
            download_file(server.url(FILE), path, expected_size=SIZE)
        assert path.read_bytes() == b"old"

    def test_redirects_are_followed(self, path):
        with serve() as target:
            moved = Fault(status=302, headers={"Location": target.url(FILE)})
            with serve(moved, Fault(status=301, headers={"Location": "/elsewhere"}), moved) as server:
                server.files["/elsewhere"] = b""
                download_file(server.url(FILE), path)
                assert [request.path for request in server.requests] == [FILE]
                download_file(server.url(FILE), path.with_name("second"))
                assert [request.path for request in server.requests] == [FILE, FILE, "/elsewhere"]
        assert path.read_bytes() == path.with_name("second").read_bytes() == CONTENT

    def test_endless_redirect(self, path):
        with serve(every_fault=Fault(status=302, headers={"Location": FILE})) as server:
            assert "redirect" in fails(server, path)

    def test_chunks_without_a_length(self, path):
        with serve(Fault(chunked=True)) as server:
            download_file(server.url(FILE), path, expected_size=SIZE)
        assert path.read_bytes() == CONTENT

    def test_progress_bar(self, path, capsys):
        with serve(Fault(cut_after=100_000)) as server:
            download_file(server.url(FILE), path)
            shown = capsys.readouterr().err
            assert "checkpoint.pth:" in shown and "320k/320k" in shown
            download_file(server.url(FILE), path.with_name("quiet"), progress=False)
        assert capsys.readouterr().err == ""


class TestResume:
    def test_cut_several_times(self, path, waits):
        with serve(*(Fault(cut_after=number) for number in (100_000, 1, 70_000))) as server:
            download_file(server.url(FILE), path, expected_size=SIZE, sha256_prefix=SHA256, max_retries=1)
        assert path.read_bytes() == CONTENT
        assert files(path) == {"checkpoint.pth"}
        assert server.ranges == [None, "bytes=100000-", "bytes=100001-", "bytes=170001-"]
        assert {request.headers["if-range"] for request in server.requests[1:]} == {server.etag(FILE)}
        # Each attempt brought something, so none counts as a second failure, nor waits longer for it.
        assert len(waits) == 3 and max(waits) <= download.FIRST_WAIT_SECONDS

    def test_without_etag_by_date(self, path):
        for etag in (None, 'W/"weak"'):
            target = path.with_name(f"by-date-{etag is None}")
            with serve(Fault(cut_after=1000, headers={"ETag": etag}), Fault(headers={"ETag": etag})) as server:
                download_file(server.url(FILE), target)
            assert target.read_bytes() == CONTENT
            assert server.ranges == [None, "bytes=1000-"]
            assert server.requests[1].headers["if-range"] == "Tue, 01 Feb 2022 10:00:00 GMT"

    def test_without_any_validator_from_the_start_unless_there_is_a_checksum(self, path):
        nothing = {"ETag": None, "Last-Modified": None}
        with serve(Fault(cut_after=1000, headers=nothing), Fault(headers=nothing)) as server:
            download_file(server.url(FILE), path)
        assert path.read_bytes() == CONTENT and server.ranges == [None, None]
        path.unlink()
        with serve(Fault(cut_after=1000, headers=nothing), Fault(headers=nothing)) as server:
            download_file(server.url(FILE), path, sha256_prefix=SHA256[:8])
        assert path.read_bytes() == CONTENT and server.ranges == [None, "bytes=1000-"]

    def test_failed_call_is_continued_by_the_next(self, path):
        with serve(Fault(cut_after=200_000), every_fault=Fault(cut_before_headers=True)) as server:
            assert "is kept" in fails(server, path, max_retries=2)
            assert files(path) == {"checkpoint.pth.part", "checkpoint.pth.part.json"}
            assert part(path).read_bytes() == CONTENT[:200_000]
            server.every_fault = Fault()
            download_file(server.url(FILE), path)
        assert path.read_bytes() == CONTENT
        assert server.ranges == [None] + 3 * ["bytes=200000-"]
        assert server.requests[-1].num_bytes == SIZE - 200_000

    def test_file_that_changed_is_taken_from_the_start(self, path):
        with serve(Fault(cut_after=100_000), Fault(content=OTHER_CONTENT)) as server:
            download_file(server.url(FILE), path)
        assert path.read_bytes() == OTHER_CONTENT
        assert server.ranges == [None, "bytes=100000-"]
        assert [request.status for request in server.requests] == [200, 200]

    def test_file_that_changed_although_the_server_sends_the_rest(self, path):
        # It ignores `If-Range`, but cannot help naming the new version.
        lie = Fault(content=OTHER_CONTENT, headers={"ETag": '"new"'})
        with serve(Fault(cut_after=100_000), lie) as server:
            server.etag = lambda path: '"old"'
            download_file(server.url(FILE), path)
        assert path.read_bytes() == OTHER_CONTENT
        assert server.ranges == [None, "bytes=100000-", None]

    @pytest.mark.parametrize(
        "content_range", [f"bytes 99999-{SIZE - 1}/{SIZE}", f"bytes 100000-{SIZE - 1}/{SIZE + 1}", "bytes", None]
    )
    def test_wrong_part(self, path, content_range):
        with serve(Fault(cut_after=100_000), Fault(headers={"Content-Range": content_range})) as server:
            download_file(server.url(FILE), path)
        assert path.read_bytes() == CONTENT
        assert server.ranges == [None, "bytes=100000-", None]

    def test_server_that_ignores_ranges(self, path):
        with serve(Fault(cut_after=100_000), Fault(ignore_range=True)) as server:
            download_file(server.url(FILE), path)
        assert path.read_bytes() == CONTENT
        assert [request.status for request in server.requests] == [200, 200]

    def test_server_that_ignores_ranges_and_always_cuts(self, path):
        with serve(every_fault=Fault(cut_after=100_000, ignore_range=True)) as server:
            fails(server, path, max_retries=3)
        # The first attempt, that one brought something, and three retries that brought no more.
        assert len(server.requests) == 4

    def test_part_not_asked_for(self, path):
        odd = Fault(status=206, headers={"Content-Range": "bytes 0-4/5"})
        with serve(odd) as server:
            download_file(server.url(FILE), path)
        assert path.read_bytes() == CONTENT

    def test_server_that_sends_less_than_asked_for(self, path):
        first = CONTENT[100_000:150_000]
        less = Fault(headers={"Content-Range": f"bytes 100000-149999/{SIZE}", "Content-Length": str(len(first))})
        less.cut_after = len(first)
        with serve(Fault(cut_after=100_000), less) as server:
            download_file(server.url(FILE), path, max_retries=1)
        assert path.read_bytes() == CONTENT
        assert server.ranges == [None, "bytes=100000-", "bytes=150000-"]

    def test_server_that_sends_nothing_of_what_was_asked_for(self, path, waits):
        nothing = Fault(headers={"Content-Length": "0"}, cut_after=0)
        with serve(Fault(cut_after=100_000), nothing, nothing) as server:
            download_file(server.url(FILE), path)
        assert path.read_bytes() == CONTENT
        # Each of these is a failure, although nothing broke: otherwise there would be no end.
        assert len(waits) == 3 and len(server.requests) == 4

    def test_chunks_that_are_cut(self, path):
        with serve(Fault(chunked=True, cut_after=100_000), Fault(chunked=True)) as server:
            download_file(server.url(FILE), path)
        assert path.read_bytes() == CONTENT
        assert server.ranges == [None, "bytes=100000-"]

    def test_chunks_of_which_only_the_last_is_missing(self, path):
        with serve(Fault(chunked=True, cut_after=SIZE)) as server:
            download_file(server.url(FILE), path)
        assert path.read_bytes() == CONTENT
        assert [request.status for request in server.requests] == [200, 416]

    def test_file_that_became_shorter_than_what_is_there(self, path):
        with serve(Fault(cut_after=100_000), Fault(content=CONTENT[:50], ignore_range=False)) as server:
            server.etag = lambda path: '"same"'
            download_file(server.url(FILE), path)
        assert path.read_bytes() == CONTENT[:50]
        assert [request.status for request in server.requests] == [200, 416, 200]

    def test_complete_part_is_only_renamed(self, path, monkeypatch):
        def crash(*args):
            raise KeyboardInterrupt

        with serve() as server:
            with monkeypatch.context() as patch:
                patch.setattr(download.os, "fsync", crash)
                with pytest.raises(KeyboardInterrupt):
                    download_file(server.url(FILE), path)
            assert files(path) == {"checkpoint.pth.part", "checkpoint.pth.part.json"}
            download_file(server.url(FILE), path)
        assert path.read_bytes() == CONTENT
        assert len(server.requests) == 1

    @pytest.mark.parametrize("description", [None, b"", b"{", b"[1]", b'{"url": 1, "validator": 2, "total_size": 3}'])
    def test_part_of_unknown_origin_is_not_trusted(self, path, description):
        path.parent.mkdir()
        part(path).write_bytes(OTHER_CONTENT[:1000])
        if description is not None:
            path.with_name("checkpoint.pth.part.json").write_bytes(description)
        with serve() as server:
            download_file(server.url(FILE), path)
        assert path.read_bytes() == CONTENT
        assert server.ranges == [None] and files(path) == {"checkpoint.pth"}

    def test_part_of_another_address_is_not_trusted(self, path):
        with serve(Fault(cut_after=1000), every_fault=Fault(status=404), content=OTHER_CONTENT) as server:
            fails(server, path)
        assert part(path).exists()
        with serve() as server:
            download_file(server.url(FILE), path)
        assert path.read_bytes() == CONTENT and server.ranges == [None]

    def test_killed_process(self, path):
        with serve() as server:
            server.piece_size, server.pause_seconds = 10_000, 0.02
            process = start_process(server.url(FILE), path)
            wait_until(lambda: part(path).exists() and part(path).stat().st_size >= 50_000)
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert "checkpoint.pth" not in files(path)
            received = part(path).stat().st_size
            assert 50_000 <= received < SIZE
            assert part(path).read_bytes() == CONTENT[:received]

            server.pause_seconds = 0.0
            download_file(server.url(FILE), path)
        assert path.read_bytes() == CONTENT
        assert server.ranges == [None, f"bytes={received}-"]
        assert server.requests[1].num_bytes == SIZE - received
        assert files(path) == {"checkpoint.pth"}


class TestTwoAtOnce:
    def test_processes(self, path):
        with serve() as server:
            server.piece_size, server.pause_seconds = 10_000, 0.02
            processes = [start_process(server.url(FILE), path) for _ in range(2)]
            assert [process.wait(60) for process in processes] == [0, 0]
        assert path.read_bytes() == CONTENT
        assert len(server.requests) == 1 and files(path) == {"checkpoint.pth"}

    def test_threads(self, path, caplog):
        with serve() as server:
            server.piece_size, server.pause_seconds = 50_000, 0.01
            threads = [threading.Thread(target=download_file, args=(server.url(FILE), path)) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert path.read_bytes() == CONTENT
        assert len(server.requests) == 1
        assert "Another process is downloading" in caplog.text

    def test_second_continues_what_the_first_gives_up(self, path):
        with serve(Fault(cut_after=100_000), Fault(status=404)) as server:
            fails(server, path)
            download_file(server.url(FILE), path)
        assert path.read_bytes() == CONTENT
        assert server.ranges == [None, "bytes=100000-", "bytes=100000-"]


class TestRetries:
    def test_cut_before_headers_and_server_errors(self, path, waits):
        faults = [Fault(cut_before_headers=True), Fault(status=503), Fault(status=500), Fault(status=429)]
        with serve(*faults) as server:
            download_file(server.url(FILE), path)
        assert path.read_bytes() == CONTENT
        # Doubled each time, and spread over the upper half.
        for index, seconds in enumerate(waits):
            assert 2**index / 2 <= seconds / download.FIRST_WAIT_SECONDS <= 2**index
        assert len(waits) == 4 and len({seconds / 2**index for index, seconds in enumerate(waits)}) == 4

    def test_no_more_than_allowed(self, path, waits):
        with serve(every_fault=Fault(status=503)) as server:
            message = fails(server, path, max_retries=2)
        assert len(server.requests) == 3 and len(waits) == 2
        assert "503 Service Unavailable" in message and "is kept" not in message
        assert files(path) == set()

    def test_waits_are_bounded(self, path, waits):
        with serve(every_fault=Fault(status=503)) as server:
            fails(server, path, max_retries=20)
        assert download.LONGEST_WAIT_SECONDS / 2 <= waits[-1] <= download.LONGEST_WAIT_SECONDS

    @pytest.mark.parametrize(
        "retry_after, at_least, at_most",
        [("0", 0.0, 1.0), ("7", 7.0, 7.0), ("86400", 300.0, 300.0), ("soon", 0.0, 1.0), ("-5", 0.0, 1.0)],
    )
    def test_retry_after(self, path, waits, retry_after, at_least, at_most):
        with serve(Fault(status=429, headers={"Retry-After": retry_after})) as server:
            download_file(server.url(FILE), path)
        assert path.read_bytes() == CONTENT
        assert len(waits) == 1 and at_least <= waits[0] <= at_most

    def test_retry_after_a_date(self, path, waits):
        date = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
        with serve(Fault(status=503, headers={"Retry-After": date})) as server:
            download_file(server.url(FILE), path)
        assert 50 < waits[0] <= 100

    def test_server_that_falls_silent(self, path, monkeypatch):
        monkeypatch.setattr(download, "TIMEOUT_SECONDS", 0.2)
        with serve(Fault(stall_after=100_000), Fault(stall_after=0)) as server:
            download_file(server.url(FILE), path)
        assert path.read_bytes() == CONTENT
        assert server.ranges == [None, "bytes=100000-", "bytes=100000-"]

    def test_nobody_there(self, path, waits):
        with serve() as server:
            pass
        assert "refused" in fails(server, path, max_retries=2)
        assert len(waits) == 2


class TestRefused:
    @pytest.mark.parametrize(
        "status, remedy",
        [
            (404, "no longer there"),
            (410, "no longer there"),
            (401, "permission"),
            (403, "permission"),
            (400, "browser"),
        ],
    )
    def test_status_that_stays(self, path, waits, status, remedy):
        with serve(every_fault=Fault(status=status)) as server:
            message = fails(server, path)
        assert server.url(FILE) in message and str(status) in message and remedy in message
        assert len(server.requests) == 1 and waits == [] and files(path) == set()

    @pytest.mark.parametrize("content_type", ["text/html; charset=utf-8", "application/octet-stream"])
    @pytest.mark.parametrize("known", [{}, {"expected_size": SIZE}, {"sha256_prefix": SHA256}])
    def test_web_page(self, path, content_type, known):
        page = Fault(body=WEB_PAGE, headers={"Content-Type": content_type})
        with serve(every_fault=page) as server:
            message = fails(server, path, **known)
        assert "expected a checkpoint, got a web page" in message and files(path) == set()

    @pytest.mark.parametrize(
        ("body", "kind"),
        [
            (b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>", "an XML document"),
            (b'{"error": "Repository not found"}', "a JSON document"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\n", "a pointer of Git LFS"),
        ],
    )
    def test_other_answers(self, path, body, kind):
        with serve(every_fault=Fault(body=body)) as server:
            assert f"expected a checkpoint, got {kind}" in fails(server, path)
        assert files(path) == set()

    def test_web_page_does_not_cost_what_was_received(self, path):
        with serve(Fault(cut_after=100_000), Fault(body=WEB_PAGE)) as server:
            assert "web page" in fails(server, path)
            download_file(server.url(FILE), path)
        assert path.read_bytes() == CONTENT
        assert server.ranges == [None, "bytes=100000-", "bytes=100000-"]

    def test_web_page_that_comes_byte_by_byte(self, path):
        with serve(every_fault=Fault(body=WEB_PAGE)) as server:
            server.piece_size, server.pause_seconds = 1, 0.002
            assert "got a web page" in fails(server, path)
        assert files(path) == set()

    def test_empty_file(self, path):
        with serve(content=b"") as server:
            assert "got an empty file" in fails(server, path)
        assert files(path) == set()

    def test_wrong_checksum(self, path):
        with serve(content=OTHER_CONTENT) as server:
            message = fails(server, path, expected_size=SIZE, sha256_prefix=SHA256[:8])
        assert f"begins with {SHA256[:8]}, got {hashlib.sha256(OTHER_CONTENT).hexdigest()}" in message
        assert files(path) == set()

    def test_wrong_checksum_of_a_resumed_file(self, path):
        nothing = {"ETag": None, "Last-Modified": None}
        with serve(Fault(cut_after=100_000, headers=nothing), Fault(content=OTHER_CONTENT, headers=nothing)) as server:
            assert "SHA-256" in fails(server, path, sha256_prefix=SHA256[:8])
        assert files(path) == set()

    def test_wrong_size_is_seen_before_the_download(self, path):
        with serve() as server:
            message = fails(server, path, expected_size=SIZE - 1)
        assert f"expected {SIZE - 1} bytes, got {SIZE}. It was not downloaded." in message and files(path) == set()

    def test_wrong_size_that_is_not_announced(self, path):
        with serve(Fault(chunked=True)) as server:
            message = fails(server, path, expected_size=SIZE + 1)
        assert f"expected {SIZE + 1} bytes, got {SIZE}" in message and files(path) == set()

    def test_length_that_is_too_long(self, path):
        too_long = Fault(headers={"Content-Length": str(SIZE + 1000)})
        with serve(every_fault=too_long) as server:
            fails(server, path, max_retries=2)

    def test_length_that_is_too_long_once(self, path):
        with serve(Fault(headers={"Content-Length": str(SIZE + 1000)})) as server:
            download_file(server.url(FILE), path)
        assert path.read_bytes() == CONTENT

    @pytest.mark.parametrize("known", [{"expected_size": SIZE}, {"sha256_prefix": SHA256[:8]}])
    def test_length_that_is_too_short(self, path, known):
        with serve(every_fault=Fault(headers={"Content-Length": str(SIZE - 1000)})) as server:
            assert "expected" in fails(server, path, **known)
        assert files(path) == set()

    def test_body_that_ends_with_the_connection(self, path):
        with serve(Fault(close_delimited=True)) as server:
            assert "does not say how long the file is" in fails(server, path)
        assert files(path) == set()

    def test_compressed_body(self, path):
        with serve(Fault(headers={"Content-Encoding": "gzip"})) as server:
            assert "compressed (gzip)" in fails(server, path)
        assert files(path) == set()

    @pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/x", "checkpoint.pth", "", "data:,x"])
    def test_other_schemes(self, path, url):
        with pytest.raises(ConversionError, match="only http and https"):
            download_file(url, path)
        assert files(path) == set()

    @pytest.mark.parametrize("url", ["http://127.0.0.1:port/x", "http://[::1/x", "http:///x", "http://"])
    def test_address_that_is_none(self, path, url):
        with pytest.raises(ConversionError, match="cannot be (downloaded|read)"):
            download_file(url, path)
        assert files(path) == set()

    def test_redirect_to_another_scheme(self, path):
        with serve(every_fault=Fault(status=302, headers={"Location": "ftp://127.0.0.1/x"})) as server:
            assert "only http and https" in fails(server, path)
        assert len(server.requests) == 1

    def test_redirect_from_https_to_http(self, path, monkeypatch):
        with serve() as server:
            location = server.url(FILE) + "?token=secret"

            def answer(self, request):
                assert request.url.scheme == "https"
                return download.httpx.Response(302, headers={"Location": location})

            monkeypatch.setattr(download.httpx.HTTPTransport, "handle_request", answer)
            with pytest.raises(ConversionError, match="redirected from https to http://127.0.0.1") as error:
                download_file("https://127.0.0.1/x", path)
        assert server.requests == [] and files(path) == set()
        assert "secret" not in str(error.value)

    def test_certificate_is_not_tried_again(self, path, monkeypatch, waits):
        def answer(self, request):
            raise download.httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate")

        monkeypatch.setattr(download.httpx.HTTPTransport, "handle_request", answer)
        with pytest.raises(ConversionError, match="https://127.0.0.1/x cannot be downloaded: .*self-signed"):
            download_file("https://127.0.0.1/x", path)
        assert waits == []

    def test_offline(self, path, monkeypatch):
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        with serve() as server:
            assert "HF_HUB_OFFLINE" in fails(server, path)
        assert server.requests == [] and not path.parent.exists()

    def test_secrets_are_not_shown_or_stored(self, path, caplog):
        with serve(Fault(status=503), Fault(cut_after=1000), every_fault=Fault(status=403)) as server:
            url = f"http://user:password@127.0.0.1:{server.server_port}{FILE}?token=secret"
            with pytest.raises(ConversionError) as error:
                download_file(url, path)
            stored = path.with_name("checkpoint.pth.part.json").read_text()
        ours = "".join(record.getMessage() for record in caplog.records if record.name.startswith("segmenter_hf"))
        assert server.url(FILE) in ours
        for text in (str(error.value), ours, stored):
            assert not any(secret in text for secret in ("user", "password", "secret", "token"))


class TestDisk:
    def test_full(self, path):
        if not os.path.exists("/dev/full"):
            pytest.skip("needs /dev/full")
        path.parent.mkdir()
        part(path).symlink_to("/dev/full")
        with serve() as server:
            values = {"url": server.url(FILE), "validator": "", "total_size": None}
            path.with_name("checkpoint.pth.part.json").write_text(json.dumps(values))
            with pytest.raises(ConversionError, match=r"checkpoint\.pth cannot be written: No space left on device\."):
                download_file(server.url(FILE), path)
        assert len(server.requests) == 1 and not path.exists()

    def test_folder_that_cannot_be_made(self, tmp_path):
        (tmp_path / "file").touch()
        with serve() as server, pytest.raises(ConversionError, match="cannot be written: Not a directory"):
            download_file(server.url(FILE), tmp_path / "file" / "folder" / "x.pth")
        assert server.requests == []

    def test_folder_that_is_not_writable(self, path):
        if os.geteuid() == 0:
            pytest.skip("the superuser writes anywhere")
        path.parent.mkdir(mode=0o500)
        with serve() as server, pytest.raises(ConversionError, match="cannot be written: Permission denied"):
            download_file(server.url(FILE), path)
        assert server.requests == []

    def test_folder_in_the_files_place(self, path):
        path.mkdir(parents=True)
        with serve() as server, pytest.raises(ConversionError, match="is no file"):
            download_file(server.url(FILE), path)
        assert server.requests == []
