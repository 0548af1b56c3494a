"""
Downloads a file over HTTP so that what appears under its name is complete and the expected one.

While `NAME` is being received there are, beside it, `NAME.VERSION.part` (the first bytes of that version of the file,
which a later call continues if the server still has that version) and `NAME.lock` (held by the process that writes).
"""

import contextlib
import glob
import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout
from huggingface_hub import constants
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import hf_raise_for_status, http_backoff

from .errors import ConversionError, refuse_os_errors
from .other_files import START_LENGTH, recognise_other_file


try:  # The HTTP client of huggingface_hub changed its name.
    import httpx2 as httpx
except ImportError:
    import httpx


logger = logging.getLogger(__name__)

# Offsets into a compressed response would be none into the file.
HEADERS = {"Accept-Encoding": "identity"}
GONE = "The file is no longer there: if you find it elsewhere, download it and convert that file."
FORBIDDEN = "The server wants permission: download it in a browser, and convert that file."
REMEDIES_BY_STATUS = {401: FORBIDDEN, 403: FORBIDDEN, 407: FORBIDDEN, 404: GONE, 410: GONE}
OTHER_REMEDY = "The same command tries again, and continues what came so far; or download it in a browser."


def find_problem(path: Path, expected_size: int | None, sha256_prefix: str | None) -> str | None:
    """What tells that a file is not the expected one: expected and got in one clause, or `None` if nothing does."""
    with open(path, "rb") as file:
        other = recognise_other_file(file.read(START_LENGTH))
        if other is not None:
            return f"expected a checkpoint, got {other.kind}"
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
    Waits until no other process downloads `path`, so that the second one has nothing left to download. The lock goes
    with the process that holds it, however that ends.
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


def ask_server(url: str) -> tuple[int | None, str]:
    """
    Number of bytes of a file (`None` if the server does not say), and what names its version: a strong `ETag`, or else
    `Last-Modified`, as `If-Range` takes it; "" without either.
    """
    response = http_backoff("HEAD", url, headers=HEADERS, follow_redirects=True, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    hf_raise_for_status(response)
    *redirected_from, scheme = [each.url.scheme for each in (*response.history, response)]
    if "https" in redirected_from and scheme != "https":
        raise ConversionError(
            f"{url} was redirected from https to {response.url.host} without encryption, so anybody on the way could "
            "replace the file. It was not downloaded."
        )
    length = response.headers.get("Content-Length", "")
    # The length of a compressed response is not the file's.
    is_length = length.isdecimal() and response.headers.get("Content-Encoding", "identity") == "identity"
    etag = response.headers.get("ETag", "")
    validator = etag if etag.startswith('"') else response.headers.get("Last-Modified", "")
    return int(length) if is_length else None, validator


def receive(url: str, part: Path, name: str, size: int | None, validator: str):
    """Appends to `part` what it lacks, as long as each attempt brings something."""
    # Servers ignore it where nothing is continued, and send all of a file that changed.
    headers = {**HEADERS, "If-Range": validator} if validator else HEADERS
    with open(part, "ab") as file:
        while True:
            start = file.tell()
            try:
                http_get(url, file, resume_size=start, headers=headers, expected_size=size, displayed_filename=name)
                break
            except httpx.TransportError as error:
                if file.tell() <= start:
                    raise
                logger.warning("%s: %s; continuing.", url, error)
            except OSError as error:
                # Where the client got another number of bytes than announced, the file is left to be checked.
                if isinstance(error, httpx.HTTPError) or error.errno is not None:
                    raise
                break
        file.flush()
        os.fsync(file.fileno())


def receive_version(url: str, path: Path, expected_size: int | None, sha256_prefix: str | None):
    """Downloads to `path`, from where an earlier call to the same version of the file was interrupted."""
    size, validator = ask_server(url)
    if None not in (size, expected_size) and size != expected_size:
        raise ConversionError(
            f"{url} is not the expected file: expected {expected_size} bytes, got {size}. It was not downloaded."
        )
    size = size if size is not None else expected_size
    if size is None and sha256_prefix is None:
        raise ConversionError(
            f"{url} cannot be downloaded: the server does not say how long the file is, so that a connection that "
            f"breaks could not be told from its end. {OTHER_REMEDY}"
        )
    version = hashlib.sha256(f"{url} {size} {validator}".encode()).hexdigest()[:8]
    part = path.with_name(f"{path.name}.{version}.part")
    # Without a name of the version, only a checksum would tell that what follows is of another one.
    can_resume = size is not None and (validator or sha256_prefix)
    if not can_resume or (part.exists() and part.stat().st_size > size):
        part.unlink(missing_ok=True)
    receive(url, part, path.name, size, validator)
    problem = find_problem(part, size, sha256_prefix)
    if problem is not None:
        part.unlink()
        raise ConversionError(f"{url} is not the expected file: {problem}. It was not kept.")
    os.replace(part, path)
    for other_version in path.parent.glob(f"{glob.escape(path.name)}.*.part"):
        other_version.unlink()


def download_file(
    url: str, path: str | Path, *, expected_size: int | None = None, sha256_prefix: str | None = None
) -> Path:
    """
    Downloads a file, unless it is there already. It appears under its name when it is complete and verified; what an
    interruption leaves is continued by the next call, in this process or another one, as long as the server still has
    the same version of the file.

    Args:
        url (`str`): An address of scheme http or https. It is shown in messages, so it should hold no secrets.
        path (`str` or `Path`): The file to write. Missing parents are made.
        expected_size (`int`, *optional*): Size of the file in bytes.
        sha256_prefix (`str`, *optional*): First hexadecimal digits of the file's SHA-256.

    Returns:
        `Path`: `path`.

    Raises:
        ConversionError: if the file cannot be downloaded or written, or is not the expected one, in one line.
    """
    path = Path(path)
    with refuse_os_errors(f"{path} cannot be written"):
        # This is asked before anything is written, since folders that others share may be read-only.
        if is_downloaded(path, expected_size, sha256_prefix):
            return path
        if constants.HF_HUB_OFFLINE:
            raise ConversionError(
                f"{path} is not there, and HF_HUB_OFFLINE forbids to download it from {url}. Unset it, or put the "
                "file there."
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        with only_process(path):
            # Another process may have downloaded it while this one waited.
            if is_downloaded(path, expected_size, sha256_prefix):
                return path
            try:
                receive_version(url, path, expected_size, sha256_prefix)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                response = getattr(error, "response", None)
                reason, remedy = str(error).rstrip(".") or type(error).__name__, OTHER_REMEDY
                if response is not None:
                    reason = f"the server answered {response.status_code} {response.reason_phrase}".rstrip()
                    remedy = REMEDIES_BY_STATUS.get(response.status_code, OTHER_REMEDY)
                raise ConversionError(f"{url} cannot be downloaded: {reason}. {remedy}") from error
    return path


__all__ = ["download_file"]
