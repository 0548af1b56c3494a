"""
Calls to the Hub: who the user is, and a repository with the contents of a folder, under a tag that never moves. What
fails is told in one line.

`HfApi.upload_folder` leaves out files that are unchanged. What it sends for them is sent again by the client where a
failure may pass, as are lists: after dropped connections and statuses 408, 429, 500, 502, 503 and 504, up to 5 times.
Only what the client sends once is sent again here.
"""

import glob
import hashlib
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import sleep
from typing import Any, TypeVar

import huggingface_hub.constants
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalTokenNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import parse_ratelimit_headers
from huggingface_hub.utils.sha import git_hash


logger = logging.getLogger(__name__)

# The Hub itself writes these into a new repository.
HUB_FILES = {".gitattributes"}
# The client itself sends requests again after these statuses, and waits for so many seconds before that.
TEMPORARY_STATUSES = {408, 429, 500, 502, 503, 504}
WAITS_SECONDS = (1.0, 2.0, 4.0, 8.0, 8.0)
# Where the Hub asks for more, it is a limit of the day, which nobody waits for.
LONGEST_WAIT_SECONDS = 600.0

Answer = TypeVar("Answer")


class PushError(RuntimeError):
    """What could not be pushed. The message is one line, meant for the user."""


class AccessError(PushError):
    """The Hub does not let this token do what is needed, for this repository and so for all others."""


@dataclass(frozen=True)
class ManifestEntry:
    """
    A file of a repository.

    Args:
        path (`str`): Its path in the repository.
        size (`int`): Its size in bytes.
        sha256 (`str`): SHA-256 of its content.
    """

    path: str
    size: int
    sha256: str


def make_manifest(folder: Path) -> list[ManifestEntry]:
    """The files of a folder, by their names."""
    entries = []
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        entries.append(ManifestEntry(path.name, path.stat().st_size, sha256))
    return entries


def format_manifest(repo_id: str, manifest: list[ManifestEntry]) -> str:
    """What would be pushed, a line for each file: SHA-256, size in bytes, name."""
    total = sum(entry.size for entry in manifest)
    lines = [f"{repo_id}: {len(manifest)} files, {total:,} bytes"]
    return "\n".join([*lines, *(f"  {entry.sha256}  {entry.size:>13,}  {entry.path}" for entry in manifest)])


def list_differences(folder: Path, remote: Mapping[str, RepoFile]) -> list[ManifestEntry]:
    """The files of a folder that the Hub does not have, or has with another content."""

    def is_same(entry: ManifestEntry, file: RepoFile | None) -> bool:
        if file is None or file.size != entry.size:
            return False
        if file.lfs is not None:
            return file.lfs.sha256 == entry.sha256
        return file.blob_id == git_hash((folder / entry.path).read_bytes())

    return [entry for entry in make_manifest(folder) if not is_same(entry, remote.get(entry.path))]


def call_hub(action: str, function: Callable[..., Answer], *args: Any, **kwargs: Any) -> Answer:
    """
    Calls what the client sends once only: after a failure that may pass again, as often as the client would, and after
    too many requests when the Hub has asked to come back. To do it twice must do no harm.

    Args:
        action (`str`): What is done, for errors.
        function (`Callable`): What does it.

    Raises:
        AccessError: if the token is missing, wrong, or may not do this.
        PushError: if it fails otherwise, or too often.
    """
    with explaining(action):
        for usual_wait in WAITS_SECONDS:
            try:
                return function(*args, **kwargs)
            except HTTPError as error:
                seconds = find_wait(error, usual_wait)
                if seconds is None:
                    raise
                reason = describe_errors(*list_causes(error))
                logger.warning("%s failed (%s). Trying again in %.0f seconds.", action, reason, seconds)
            sleep(seconds)
        return function(*args, **kwargs)


def find_wait(error: HTTPError, usual_wait: float) -> float | None:
    """The seconds after which a request may be sent again; `None` if it may not."""
    response = getattr(error, "response", None)
    # There is none if the connection dropped.
    if response is None:
        return usual_wait
    if response.status_code not in TEMPORARY_STATUSES:
        return None
    limit, retry_after = parse_ratelimit_headers(response.headers), response.headers.get("Retry-After", "")
    wait = usual_wait
    if limit is not None and limit.remaining == 0:
        wait = limit.reset_in_seconds + 1
    elif retry_after.isdigit():
        wait = int(retry_after) + 1
    return wait if wait <= LONGEST_WAIT_SECONDS else None


@contextmanager
def explaining(action: str) -> Iterator[None]:
    """
    Turns what the client raises into one line.

    Raises:
        AccessError: if the token is missing, wrong, or may not do this.
        PushError: if it fails otherwise.
    """
    try:
        yield
    # Uploads wrap errors of the connection in a RuntimeError. A card that the Hub does not accept is a ValueError.
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        *_, last = causes = list_causes(error)
        status = 401 if isinstance(error, LocalTokenNotFoundError) else None
        # Storage behind the Hub knows no tokens, and refuses addresses that have expired.
        if isinstance(last, HfHubHTTPError) and "authorization" in last.response.request.headers:
            status = last.response.status_code
        if status == 401:
            raise AccessError(
                f"{action} was refused (status 401): the Hub does not know the token, or there is none. Log in with "
                "`hf auth login`, or set HF_TOKEN, to a token that may write."
            ) from error
        if status == 403:
            raise AccessError(
                f"{action} was refused (status 403): the token may not do this. It must have write access to the "
                "repositories and collections of the organisation, whose member its owner must be "
                "(https://huggingface.co/settings/tokens)."
                + (f" The Hub says: {last.server_message}" if last.server_message else "")
            ) from error
        raise PushError(f"{action} failed: {describe_errors(*causes)}") from error


def list_causes(error: BaseException) -> list[BaseException]:
    """An error and what it was raised from, up to the answer of a server, if there is one."""
    causes = [error]
    while not isinstance(causes[-1], HfHubHTTPError) and (cause := causes[-1].__cause__ or causes[-1].__context__):
        causes.append(cause)
    return causes


def describe_errors(*causes: BaseException) -> str:
    """Errors in one line, with addresses that may be signed cut at their query."""
    texts = [re.sub(r"\?\S+| For more information check: \S+", "", " ".join(str(each).split())) for each in causes]
    return ": ".join(dict.fromkeys(text for text in texts if text)) or type(causes[0]).__name__


def check_access(api: HfApi, org: str | None = None) -> str:
    """
    Asks whose the token is, before any work is done.

    Args:
        api (`HfApi`): The client.
        org (`str`, *optional*): The organisation, or user, to write for. Default: the user.

    Returns:
        `str`: `org`, or the name of the user.

    Raises:
        AccessError: if the Hub does not know it, it may only read, or its owner does not belong to `org`.
        PushError: if the Hub cannot be reached.
    """
    # Without a token, the client would ask for one first.
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        raise PushError("HF_HUB_OFFLINE forbids to speak with the Hub. Unset it, or do not push.")
    account = call_hub("Logging in", api.whoami)
    names = [account["name"], *(organization["name"] for organization in account.get("orgs", []))]
    org = org or names[0]
    if org not in names:
        raise AccessError(f"The token is that of {account['name']}, who is no member of {org}, but of: {names[1:]}.")
    if account.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise AccessError(
            "The token may only read. Make one that may write (https://huggingface.co/settings/tokens), and log in "
            "with it by `hf auth login`, or set HF_TOKEN."
        )
    return org


def list_remote_files(api: HfApi, repo_id: str, revision: str) -> dict[str, RepoFile]:
    """The files of a repository by their paths, without those that the Hub itself writes."""
    with explaining(f"Reading {repo_id}"):
        tree = list(api.list_repo_tree(repo_id, recursive=True, revision=revision))
    return {entry.path: entry for entry in tree if isinstance(entry, RepoFile) and entry.path not in HUB_FILES}


def has_tag(api: HfApi, repo_id: str, tag: str) -> bool:
    """Whether there is a repository with that tag."""
    return call_hub(f"Reading {repo_id}", api.revision_exists, repo_id, tag)


def check_tag(api: HfApi, folder: Path, repo_id: str, tag: str):
    """
    Raises:
        PushError: if a tag has other contents than the files of a folder.
    """
    different = list_differences(folder, list_remote_files(api, repo_id, tag))
    if different:
        raise PushError(
            f"{repo_id} has the tag {tag} already, with other contents: {[entry.path for entry in different]}. What "
            "users pin stays as it is; pass --tag with a new one."
        )


def push_folder(
    api: HfApi,
    folder: Path,
    repo_id: str,
    tag: str | None = None,
    private: bool | None = False,
    title: str | None = None,
) -> list[ManifestEntry]:
    """
    Makes a repository with the contents of a folder, in one commit of what differs, and under a tag if one is given,
    as far as it is not there. Other files in the repository are left alone.

    Args:
        api (`HfApi`): The client.
        folder (`Path`): The files; those in folders inside it are none.
        repo_id (`str`): The repository.
        tag (`str`, *optional*): The tag.
        private (`bool`, *optional*, defaults to `False`): Whether a new repository is private; `None` for what the
            organisation has set.
        title (`str`, *optional*): What the commit is called.

    Returns:
        The files that the Hub did not have.

    Raises:
        AccessError: if the Hub does not let the token do this.
        PushError: if the tag is there with other contents, or the Hub fails.
    """
    call_hub(f"Creating {repo_id}", api.create_repo, repo_id, private=private, exist_ok=True)
    if tag is not None and has_tag(api, repo_id, tag):
        check_tag(api, folder, repo_id, tag)
        return []
    commit = call_hub(f"Reading {repo_id}", api.model_info, repo_id, revision="main").sha
    remote = list_remote_files(api, repo_id, commit)
    names = [path.name for path in folder.iterdir() if path.is_file()]
    others = sorted(remote.keys() - set(names))
    if others:
        logger.warning("%s has files that are not part of the model, which are left alone: %s.", repo_id, others)
    different = list_differences(folder, remote)
    if different:
        with explaining(f"Uploading {repo_id}"):
            commit = api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                allow_patterns=[glob.escape(name) for name in names],
                commit_message=title or "Upload the converted checkpoint" + (f" ({tag})" if tag else ""),
            ).oid
    if tag is not None:
        # This comes last, so that what has the tag is complete.
        call_hub(f"Tagging {repo_id}", api.create_tag, repo_id, tag=tag, revision=commit, exist_ok=True)
        # It may be somebody else's that came in between, which is left as it is.
        check_tag(api, folder, repo_id, tag)
    return different


__all__ = [
    "AccessError",
    "ManifestEntry",
    "PushError",
    "check_access",
    "format_manifest",
    "make_manifest",
    "push_folder",
]
