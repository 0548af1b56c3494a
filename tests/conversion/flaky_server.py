"""A loopback HTTP server whose files can be resumed, and which fails as it is told to."""

import re
import socket
import threading
import zlib
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


LAST_MODIFIED = "Tue, 01 Feb 2022 10:00:00 GMT"


@dataclass
class Fault:
    """
    What goes wrong with one request for a file.

    Args:
        cut_after (`int`, *optional*): Close the connection after so many bytes of the body.
        status (`int`, *optional*): Answer this status, with a short text.
        headers (`dict[str, str | None]`): Headers to add or replace; `None` leaves one out.
        ignore_range (`bool`): Answer 200 and the whole file to a request for a part.
        content (`bytes`, *optional*): The file has this content from this request on.
    """

    cut_after: int | None = None
    status: int | None = None
    headers: dict[str, str | None] = field(default_factory=dict)
    ignore_range: bool = False
    content: bytes | None = None


@dataclass
class ReceivedRequest:
    """
    A request for a file, as the server's log keeps it.

    Args:
        path (`str`): Path and query.
        headers (`dict[str, str]`): Names in lower case.
        status (`int`, *optional*): What was answered.
    """

    path: str
    headers: dict[str, str]
    status: int | None = None


class FlakyServer(ThreadingHTTPServer):
    """
    Serves `files` (path to content) on the loopback interface while it is entered as a context.

    `faults` are used up one by one, by the GET requests as they come; a request without a fault is answered as Apache
    and nginx do: with `ETag`, `Last-Modified`, `Range` and `If-Range`. `every_fault` is for all requests that find
    `faults` empty. HEAD requests, which are not in the log, are answered as the next GET request will be.

    `piece_size` and `pause_seconds` make it slow.
    """

    daemon_threads = True

    def __init__(self, files: dict[str, bytes], *faults: Fault, every_fault: Fault | None = None):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = dict(files)
        self.faults = list(faults)
        self.every_fault = every_fault or Fault()
        self.requests: list[ReceivedRequest] = []
        self.piece_size = 2**16
        self.pause_seconds = 0.0
        self.closing = threading.Event()
        self.lock = threading.Lock()

    def __enter__(self):
        # Polls rarely by default, and `shutdown` waits for the next time.
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *exception):
        self.closing.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        pass  # A client that was killed closes its connection: nothing to report.

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"

    @property
    def ranges(self) -> list[str | None]:
        """The `Range` of each request."""
        return [request.headers.get("range") for request in self.requests]

    def etag(self, path: str) -> str:
        return f'"{zlib.crc32(self.files[path]):08x}"'


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FlakyServer

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self._answer(self.server.faults[0] if self.server.faults else self.server.every_fault)

    def do_GET(self):
        server = self.server
        request = ReceivedRequest(self.path, {name.lower(): value for name, value in self.headers.items()})
        with server.lock:
            fault = server.faults.pop(0) if server.faults else server.every_fault
            server.requests.append(request)
        request.status, body = self._answer(fault)
        end = len(body) if fault.cut_after is None else min(fault.cut_after, len(body))
        for start in range(0, end, server.piece_size):
            self.wfile.write(body[start : min(start + server.piece_size, end)])
            if server.pause_seconds and server.closing.wait(server.pause_seconds):
                return
        if fault.cut_after is not None:
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)

    def _answer(self, fault: Fault) -> tuple[int, bytes]:
        """Sends the head of the answer, and returns its status and the body that is to follow."""
        # One request for each connection, so that an early close is seen as one.
        self.close_connection = True
        path = self.path.partition("?")[0]
        if fault.content is not None:
            self.server.files[path] = fault.content
        if fault.status is not None or path not in self.server.files:
            status, body, headers = fault.status or 404, b"sorry", {}
        else:
            status, body = 200, self.server.files[path]
            headers = {"ETag": self.server.etag(path), "Last-Modified": LAST_MODIFIED, "Accept-Ranges": "bytes"}
            match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            is_same = self.headers.get("If-Range") in (None, headers["ETag"], LAST_MODIFIED)
            if match is not None and is_same and not fault.ignore_range:
                headers["Content-Range"] = f"bytes {match[1]}-{len(body) - 1}/{len(body)}"
                status, body = 206, body[int(match[1]) :]
        self.send_response(status)
        for name, value in {
            "Content-Length": str(len(body)),
            **headers,
            "Connection": "close",
            **fault.headers,
        }.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        return status, body
