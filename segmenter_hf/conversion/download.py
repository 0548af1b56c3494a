"""
Downloads a file over HTTP so that what appears under its name is complete, and what was interrupted is resumed, in
this process or a later one.

While `NAME` is being received there are, beside it, `NAME.part` (the first bytes of the file), `NAME.part.json` (of
which version of the file they are the first bytes) and `NAME.lock` (held by the one process that writes them).
"""

import contextlib
import hashlib
import itertools
import json
import logging
import os
import random
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from time import sleep
from urllib.parse import urlsplit

import huggingface_hub.constants
from filelock import FileLock, Timeout
from huggingface_hub.utils import tqdm

from ..outputs import OutputError, write_text
from .errors import ConversionError
from .other_files import START_LENGTH, recognise_other_file


try:  # The HTTP client of huggingface_hub, which changed its name.
    import httpx2 as httpx
except ImportError:
    import httpx


logger = logging.getLogger(__name__)

# So many attempts in a row may bring no byte more than there were already, and one more; a byte starts the count anew.
MAX_RETRIES = 5
# For connecting, and between any two pieces of a response.
TIMEOUT_SECONDS = 30.0
# The wait doubles from the first value up to the second.
FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 60.0
# A server that asks for a longer pause than this (`Retry-After`) gets this one.
LONGEST_RETRY_AFTER_SECONDS = 300.0
# Statuses that may pass: "request timeout", "too early" and "too many requests"; besides, all of 500 and above.
TEMPORARY_STATUSES = (408, 425, 429)


class Interrupted(Exception):
    """An attempt failed in a way that another one may not. The message is the reason."""

    def __init__(self, reason: str, retry_after_seconds: float = 0.0):
        super().__init__(reason)
        self.retry_after_seconds = retry_after_seconds


class PartialFile:
    """
    The bytes of a file that were received so far, and what is known of the file on the server.

    Args:
        url (`str`): Where the file comes from, without anything secret.
        path (`Path`): The name that the file will have.
    """

    def __init__(self, url: str, path: Path):
        self.url = url
        self.path = path.with_name(f"{path.name}.part")
        self.description = path.with_name(f"{path.name}.part.json")
        # `ETag` or `Last-Modified`, by which a server tells whether it still has the same version; "" without either.
        self.validator = ""
        self.total_size: int | None = None
        if not self._read_description() or (self.total_size is not None and self.size > self.total_size):
            # What the bytes are the beginning of is not known.
            self.discard()

    def _read_description(self) -> bool:
        try:
            values = json.loads(self.description.read_bytes())
            url, self.validator, self.total_size = values["url"], values["validator"], values["total_size"]
        except (OSError, ValueError, KeyError, TypeError):
            return False
        is_valid = isinstance(self.validator, str) and isinstance(self.total_size, (int, type(None)))
        return is_valid and url == self.url

    @property
    def size(self) -> int:
        """Number of bytes received."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    @property
    def is_complete(self) -> bool:
        return self.total_size is not None and self.size == self.total_size

    def start(self, validator: str, total_size: int | None):
        """Begins anew with no bytes, of the version that `validator` names."""
        # In this order: nobody ever finds bytes of one version beside the description of another.
        self.path.write_bytes(b"")
        self.validator, self.total_size = validator, total_size
        values = {"url": self.url, "validator": self.validator, "total_size": self.total_size}
        write_text(self.description, json.dumps(values))

    def discard(self):
        self.path.unlink(missing_ok=True)
        self.description.unlink(missing_ok=True)
        self.validator, self.total_size = "", None

    def move_to(self, path: Path):
        """Gives the bytes their final name, once they are on the disk."""
        with open(self.path, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(self.path, path)
        self.description.unlink(missing_ok=True)


def without_secrets(url: str) -> str:
    """The URL as messages and descriptions may show it: without user, password, and query, which may hold a token."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def find_other_kind(start: bytes) -> str | None:
    """What tells that a file that begins like this is not the expected one, as servers and hotel networks send."""
    other = recognise_other_file(start)
    return None if other is None else f"expected a checkpoint, got {other.kind}"


def find_problem(path: Path, expected_size: int | None, sha256_prefix: str | None) -> str | None:
    """What tells that a file is not the expected one: expected and got in one clause, or `None` if nothing does."""
    with open(path, "rb") as file:
        problem = find_other_kind(file.read(START_LENGTH))
        if problem is not None:
            return problem
        size = os.fstat(file.fileno()).st_size
        if expected_size is not None and size != expected_size:
            return f"expected {expected_size} bytes, got {size}"
        if sha256_prefix is not None:
            file.seek(0)
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            if not sha256.startswith(sha256_prefix.lower()):
                return f"expected a SHA-256 that begins with {sha256_prefix.lower()}, got {sha256}"
    return None


def is_downloaded(path: Path, expected_size: int | None, sha256_prefix: str | None) -> bool:
    """Whether the file is there and the expected one. One that is not is left for the download to replace."""
    if not path.exists():
        return False
    if not path.is_file():
        raise ConversionError(f"{path} is no file, so nothing is downloaded to it.")
    problem = find_problem(path, expected_size, sha256_prefix)
    if problem is not None:
        logger.warning("%s is not what it should be (%s) and is downloaded again.", path, problem)
    return problem is None


@contextlib.contextmanager
def only_process(path: Path) -> Iterator[None]:
    """
    Waits until no other process downloads `path`. The lock goes with the process that holds it, however that ends. A
    lock, rather than a partial file for each process, because the second one then has nothing left to download.
    """
    lock = FileLock(path.with_name(f"{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.warning("Another process is downloading %s; waiting for it.", path)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def check_request(request: httpx.Request, *, secure: bool):
    """Refuses, for every request of a chain of redirects, what is not HTTP, or no longer HTTPS."""
    scheme = request.url.scheme
    if scheme not in ("http", "https"):
        raise ConversionError(f"{without_secrets(str(request.url))} cannot be downloaded: only http and https can.")
    if secure and scheme != "https":
        raise ConversionError(
            f"The download was redirected from https to {without_secrets(str(request.url))}, which is not encrypted, "
            "so anybody on the way could replace the file. It was not followed."
        )


def open_client(url: str) -> httpx.Client:
    """A client of our own: that of huggingface_hub sends its headers, and tokens, along."""
    secure = urlsplit(url).scheme.lower() == "https"
    return httpx.Client(
        # Compressed on the way, offsets into the response would be none into the file.
        headers={"Accept-Encoding": "identity", "User-Agent": "segmenter_hf"},
        timeout=TIMEOUT_SECONDS,
        follow_redirects=True,
        event_hooks={"request": [lambda request: check_request(request, secure=secure)]},
    )


def read_validator(response: httpx.Response) -> str:
    """What `If-Range` takes to ask whether the file is still the same: a strong `ETag`, or else `Last-Modified`."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified", "")


def read_retry_after(response: httpx.Response) -> float:
    """The pause in seconds that the server asks for, as a number or a date; 0 without."""
    value = response.headers.get("Retry-After", "")
    try:
        seconds = float(value) if value.isdecimal() else _seconds_until(value)
    except ValueError:
        seconds = 0.0
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER_SECONDS)


def _seconds_until(date: str) -> float:
    moment = parsedate_to_datetime(date)
    return (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds()


def check_status(url: str, response: httpx.Response):
    """
    Raises:
        Interrupted: for a status that may pass.
        ConversionError: for any other that is not 200 or 206.
    """
    status = response.status_code
    if status in (200, 206):
        return
    described = f"{status} {response.reason_phrase}".strip()
    if status in TEMPORARY_STATUSES or status >= 500:
        raise Interrupted(f"the server answered {described}", read_retry_after(response))
    if status in (404, 410):
        remedy = "The file is no longer there: if you find it elsewhere, download it and convert that file."
    elif status in (401, 403, 407):
        remedy = "The server wants permission: download it in a browser, and convert that file."
    else:
        remedy = "Download it in a browser, and convert that file."
    raise ConversionError(f"{url} cannot be downloaded: the server answered {described}. {remedy}")


def is_chunked(response: httpx.Response) -> bool:
    """Whether the body is sent in chunks, the last of which says that it is the last, in place of a total length."""
    return "chunked" in response.headers.get("Transfer-Encoding", "").lower()


def check_continues(response: httpx.Response, partial: PartialFile, resumed_from: int):
    """
    Compares the head of a response of status 206, a part of the file, with what is there already.

    Raises:
        Interrupted: if it is not what follows, of the same version of the file.
    """
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", "").strip())
    if match is None:
        raise Interrupted("the server sent a part of the file without saying which")
    offset, total_size = int(match[1]), int(match[2])
    is_same_version = not partial.validator or read_validator(response) in ("", partial.validator)
    is_same_size = partial.total_size in (None, total_size)
    if not (resumed_from and resumed_from == offset and is_same_version and is_same_size):
        raise Interrupted("the file on the server changed meanwhile")
    partial.total_size = total_size


def start_anew(url: str, response: httpx.Response, partial: PartialFile, expected_size: int | None, start: bytes):
    """
    Empties `partial` for a response of status 200, the file from its beginning, once nothing speaks against it: so a
    web page in the file's place does not cost what had been received before.

    Args:
        url (`str`): For messages.
        response (`httpx.Response`): Its head.
        partial (`PartialFile`): What was received before.
        expected_size (`int`, *optional*): Size of the file in bytes.
        start (`bytes`): The first bytes of the body.

    Raises:
        ConversionError: if this is not the expected file, or there is no way to know when it is complete.
    """
    length = response.headers.get("Content-Length", "")
    total_size = int(length) if length.isdecimal() and not is_chunked(response) else None
    problem = find_other_kind(start) if start else None
    if problem is None and expected_size is not None and total_size not in (None, expected_size):
        problem = f"expected {expected_size} bytes, got {total_size}"
    if problem is not None:
        raise ConversionError(f"{url} is not the expected file: {problem}. It was not downloaded.")
    if total_size is None and not is_chunked(response):
        raise ConversionError(
            f"{url} cannot be downloaded: the server does not say how long the file is, so that a connection that "
            "breaks could not be told from its end."
        )
    partial.start(read_validator(response), total_size)


def receive(
    client: httpx.Client,
    url: str,
    partial: PartialFile,
    expected_size: int | None,
    has_checksum: bool,
    progress_bar: tqdm,
):
    """
    One attempt to receive what `partial` lacks.

    Raises:
        Interrupted: if the file is not complete afterwards.
        ConversionError: if no further attempt can help.
    """
    headers = {}
    # Without a validator the server may have another version by now: only a checksum would tell. Then, from the start.
    resumed_from = partial.size if partial.validator or has_checksum else 0
    if resumed_from:
        headers["Range"] = f"bytes={resumed_from}-"
        if partial.validator:
            headers["If-Range"] = partial.validator
    shown_url = without_secrets(url)
    with client.stream("GET", url, headers=headers) as response:
        if response.status_code == 416 and resumed_from:
            # There are no bytes from here on: the file is complete, if it has just this size.
            stated_size = response.headers.get("Content-Range", "").rpartition("*/")[2]
            if stated_size == str(resumed_from) and partial.total_size is None:
                partial.total_size = resumed_from
                return
            partial.discard()
            raise Interrupted("the file on the server changed meanwhile")
        check_status(shown_url, response)
        encoding = response.headers.get("Content-Encoding", "").lower()
        if encoding not in ("", "identity"):
            raise ConversionError(
                f"{shown_url} cannot be downloaded: the server sends it compressed ({encoding}) although asked not to."
            )
        # As they come: collected to larger pieces, some of the bytes before a broken connection would be lost.
        chunks = response.iter_raw()
        first_chunk = next(chunks, b"")
        if response.status_code == 200:
            start_anew(shown_url, response, partial, expected_size, first_chunk)
        else:
            try:
                check_continues(response, partial, resumed_from)
            except Interrupted:
                partial.discard()
                raise

        progress_bar.total = partial.total_size
        progress_bar.n = partial.size
        progress_bar.refresh()
        with open(partial.path, "ab") as file:
            for chunk in itertools.chain((first_chunk,), chunks):
                file.write(chunk)
                progress_bar.update(len(chunk))
    if partial.total_size is None:  # The last chunk came, and said so.
        partial.total_size = partial.size
    if not partial.is_complete:
        raise Interrupted(f"the server sent {partial.size} of {partial.total_size} bytes")


def receive_all(
    url: str,
    partial: PartialFile,
    expected_size: int | None,
    has_checksum: bool,
    max_retries: int,
    progress: bool,
):
    """
    Makes attempts until the file is complete.

    Raises:
        ConversionError: if no further attempt can help, or `max_retries` in a row brought nothing.
    """
    shown_url = without_secrets(url)
    failures, furthest = 0, partial.size
    with (
        open_client(url) as client,
        tqdm(
            desc=partial.path.name.removesuffix(".part"),
            initial=partial.size,
            total=partial.total_size,
            unit="B",
            unit_scale=True,
            unit_divisor=1000,
            disable=not progress,
        ) as progress_bar,
    ):
        while not partial.is_complete:
            try:
                receive(client, url, partial, expected_size, has_checksum, progress_bar)
                continue
            except Interrupted as error:
                reason, retry_after_seconds = str(error), error.retry_after_seconds
            except httpx.TransportError as error:
                reason, retry_after_seconds = str(error).rstrip(".") or type(error).__name__, 0.0
                # A certificate does not get better by trying again.
                if "CERTIFICATE_VERIFY_FAILED" in reason:
                    raise ConversionError(f"{shown_url} cannot be downloaded: {reason}.") from error
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise ConversionError(f"{shown_url} cannot be downloaded: {error}.") from error

            failures, furthest = (1, partial.size) if partial.size > furthest else (failures + 1, furthest)
            if failures > max_retries:
                kept = " What came so far is kept: the same command continues." if partial.size else ""
                raise ConversionError(f"{shown_url} could not be downloaded: {reason} (attempt {failures}).{kept}")
            wait_seconds = min(FIRST_WAIT_SECONDS * 2 ** (failures - 1), LONGEST_WAIT_SECONDS)
            # Spread, so that those whom one failure hit do not come back together.
            wait_seconds = max(wait_seconds * random.uniform(0.5, 1.0), retry_after_seconds)
            logger.warning("%s: %s; trying again in %.1f seconds.", shown_url, reason, wait_seconds)
            sleep(wait_seconds)


def download_file(
    url: str,
    path: str | Path,
    *,
    expected_size: int | None = None,
    sha256_prefix: str | None = None,
    max_retries: int = MAX_RETRIES,
    progress: bool = True,
) -> Path:
    """
    Downloads a file, unless it is there already. It appears under its name when it is complete and verified; what an
    interruption leaves is continued by the next call, in this process or another one, as long as the server still has
    the same version of the file.

    Args:
        url (`str`): An address of scheme http or https.
        path (`str` or `Path`): The file to write. Missing parents are made.
        expected_size (`int`, *optional*): Size of the file in bytes.
        sha256_prefix (`str`, *optional*): First hexadecimal digits of the file's SHA-256.
        max_retries (`int`, *optional*, defaults to 5): How many attempts in a row may fail without bringing a byte.
        progress (`bool`, *optional*, defaults to `True`): Whether to show a progress bar, which the environment
            variable `HF_HUB_DISABLE_PROGRESS_BARS` turns off as well.

    Returns:
        `Path`: `path`.

    Raises:
        ConversionError: if the file cannot be downloaded or written, or is not the expected one, in one line.
    """
    path = Path(path)
    try:
        shown_url, scheme = without_secrets(url), urlsplit(url).scheme.lower()
    except ValueError as error:
        raise ConversionError(f"The address to download {path} from cannot be read: {error}.") from error
    if scheme not in ("http", "https"):
        raise ConversionError(f"{shown_url} cannot be downloaded: only http and https can.")
    try:
        # Before anything is written: folders that others share may be read-only.
        if is_downloaded(path, expected_size, sha256_prefix):
            return path
        if huggingface_hub.constants.HF_HUB_OFFLINE:
            raise ConversionError(
                f"{path} is not there, and HF_HUB_OFFLINE forbids to download it from {shown_url}. Unset it, or put "
                "the file there."
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        with only_process(path):
            # Again, for another process may have downloaded it while this one waited.
            if is_downloaded(path, expected_size, sha256_prefix):
                return path
            partial = PartialFile(shown_url, path)
            receive_all(url, partial, expected_size, sha256_prefix is not None, max_retries, progress)
            problem = find_problem(partial.path, expected_size, sha256_prefix)
            if problem is not None:
                partial.discard()
                raise ConversionError(f"{shown_url} is not the expected file: {problem}. It was not kept.")
            partial.move_to(path)
    except OutputError as error:
        raise ConversionError(str(error)) from error
    except OSError as error:
        raise ConversionError(f"{path} cannot be written: {error.strerror or error}.") from error
    return path


__all__ = ["download_file"]
