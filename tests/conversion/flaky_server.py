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
    What goes wrong with one request.

    Args:
        cut_after (`int`, *optional*): Close the connection after so many bytes of the body.
        cut_before_headers (`bool`): Close it before answering.
        stall_after (`int`, *optional*): Send so many bytes of the body, and then nothing until the server closes.
        status (`int`, *optional*): Answer this status, with a short text.
        headers (`dict[str, str | None]`): Headers to add or replace; `None` leaves one out.
        ignore_range (`bool`): Answer 200 and the whole file to a request for a part.
        chunked (`bool`): Send chunks in place of a `Content-Length`.
        close_delimited (`bool`): Send neither: the body ends with the connection.
        body (`bytes`, *optional*): Send this in the file's place, as a file of status 200.
        content (`bytes`, *optional*): The file has this content from this request on.
    """

    cut_after: int | None = None
    cut_before_headers: bool = False
    stall_after: int | None = None
    status: int | None = None
    headers: dict[str, str | None] = field(default_factory=dict)
    ignore_range: bool = False
    chunked: bool = False
    close_delimited: bool = False
    body: bytes | None = None
    content: bytes | None = None


@dataclass
class ReceivedRequest:
    """
    A request as the server's log keeps it.

    Args:
        path (`str`): Path and query.
        headers (`dict[str, str]`): Names in lower case.
        status (`int`, *optional*): What was answered; `None` if the connection was closed before.
        num_bytes (`int`): Bytes of the body that were sent.
    """

    path: str
    headers: dict[str, str]
    status: int | None = None
    num_bytes: int = 0

    @property
    def range(self) -> str | None:
        return self.headers.get("range")


class FlakyServer(ThreadingHTTPServer):
    """
    Serves `files` (path to content) on the loopback interface while it is entered as a context.

    `faults` are used up one by one, by the requests as they come; a request without a fault is answered as Apache and
    nginx do: with `ETag`, `Last-Modified`, `Range`, `If-Range` and 416. `every_fault` is for all requests that find
    `faults` empty.

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
        return [request.range for request in self.requests]

    def etag(self, path: str) -> str:
        return f'"{zlib.crc32(self.files[path]):08x}"'


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FlakyServer

    def log_message(self, *args):
        pass

    def do_GET(self):
        server = self.server
        request = ReceivedRequest(self.path, {name.lower(): value for name, value in self.headers.items()})
        path = self.path.partition("?")[0]
        with server.lock:
            fault = server.faults.pop(0) if server.faults else server.every_fault
            server.requests.append(request)
            if fault.content is not None:
                server.files[path] = fault.content
        # One request for each connection, so that an early close is seen as one.
        self.close_connection = True
        if fault.cut_before_headers:
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if fault.status is not None or path not in server.files:
            self._answer(request, fault.status or 404, b"sorry", {}, fault)
            return
        if fault.body is not None:
            self._answer(request, 200, fault.body, {}, fault)
            return

        content = server.files[path]
        headers = {"ETag": server.etag(path), "Last-Modified": LAST_MODIFIED, "Accept-Ranges": "bytes"}
        match = re.fullmatch(r"bytes=(\d+)-", request.range or "")
        is_same = request.headers.get("if-range") in (None, headers["ETag"], LAST_MODIFIED)
        if match is None or not is_same or fault.ignore_range:
            self._answer(request, 200, content, headers, fault)
        elif int(match[1]) >= len(content):
            self._answer(request, 416, b"", {"Content-Range": f"bytes */{len(content)}"}, fault)
        else:
            start = int(match[1])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self._answer(request, 206, content[start:], headers, fault)

    def _answer(self, request: ReceivedRequest, status: int, body: bytes, headers: dict[str, str], fault: Fault):
        request.status = status
        if not (fault.chunked or fault.close_delimited):
            headers = {"Content-Length": str(len(body)), **headers}
        if fault.chunked:
            headers = {"Transfer-Encoding": "chunked", **headers}
        self.send_response(status)
        for name, value in {**headers, "Connection": "close", **fault.headers}.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()

        end = min(x for x in (fault.cut_after, fault.stall_after, len(body)) if x is not None)
        for start in range(0, end, self.server.piece_size):
            piece = body[start : min(start + self.server.piece_size, end)]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if fault.chunked else piece)
            request.num_bytes += len(piece)
            if self.server.pause_seconds and self.server.closing.wait(self.server.pause_seconds):
                return
        if fault.stall_after is not None:
            self.server.closing.wait()
        elif fault.cut_after is not None:
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
        elif fault.chunked:
            self.wfile.write(b"0\r\n\r\n")
