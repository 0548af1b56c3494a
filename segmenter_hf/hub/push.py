"""
Pushes the released checkpoints to the Hub. Each step looks at what is there first and does what is missing, so that a
push that was interrupted anywhere continues when it is run again, and one that is complete changes nothing.
"""

import hashlib
import json
import logging
import random
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from time import sleep
from typing import Any, TypeVar

import huggingface_hub.constants
import torch
from filelock import FileLock, Timeout
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import parse_ratelimit_headers, validate_repo_id
from transformers import AutoImageProcessor, PreTrainedModel
from transformers.utils import is_torchvision_available

from .. import modeling_segmenter
from ..conversion.convert import (
    CARD_FILE,
    CODE_MODULES,
    LICENCE_FILE,
    LICENCES,
    TEMPORARY_PREFIX,
    load_checkpoint,
    save_checkpoint,
)
from ..conversion.download import httpx
from ..conversion.errors import ConversionError
from ..conversion.released import ReleasedCheckpoint, apply_protocol, fetch_released, released_folder
from ..conversion.reporting import hold_warnings, silence_libraries
from ..conversion.state_dict import list_names
from ..evaluation.record import Figure
from ..image_processing_pil_segmenter import SegmenterImageProcessorPil
from ..output_folders import clear_leftovers, replacing_folder
from ..outputs import OutputError, check_output_dir, write_text
from .cards import TAG, make_card
from .figures import read_figures, update_figures


logger = logging.getLogger(__name__)

# With the licence of the weights: that of MIT asks for its notice to come along. The code states its own.
REPOSITORY_FILES = {
    *(CARD_FILE, LICENCE_FILE, "config.json", "model.safetensors", "preprocessor_config.json"),
    *(Path(module.__file__).name for module in CODE_MODULES),
}
# Which the Hub itself writes into a new repository.
HUB_FILES = {".gitattributes"}

# Collections by the source of the checkpoints in them: title, and description of at most 150 characters.
COLLECTIONS = {
    "original": ("Segmenter", "The checkpoints of Segmenter (ICCV 2021), for transformers."),
    "mmsegmentation": ("Segmenter (MMSegmentation)", "The Segmenter checkpoints of MMSegmentation, for transformers."),
    "augreg": ("Segmenter encoders", "The pretrained Vision Transformers that Segmenter is trained from."),
    "mmsegmentation-encoder": (
        "Segmenter encoders (MMSegmentation)",
        "The pretrained Vision Transformers that MMSegmentation's Segmenters are trained from.",
    ),
}

# A call is tried again after statuses and errors that may pass, waiting twice as long each time.
MAX_ATTEMPTS = 8
# With those after which the Hub asked to wait.
MAX_CALLS = 30
FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 60.0
LONGEST_ASKED_WAIT_SECONDS = 600.0
TEMPORARY_STATUSES = {408, 409, 412, 425, 429}
# Connections that drop, and the page of a gateway where JSON is expected.
TEMPORARY_ERRORS = (httpx.TransportError, ConnectionError, json.JSONDecodeError)

Answer = TypeVar("Answer")


class PushError(RuntimeError):
    """A checkpoint that could not be pushed. The message is one line, meant for the user."""


class AccessError(PushError):
    """The Hub does not let this token do what is needed, for this checkpoint and so for all others."""


@dataclass(frozen=True)
class ManifestEntry:
    """
    A file of a repository.

    Args:
        path (`str`): Its path in the repository.
        size (`int`): Its size in bytes.
        sha256 (`str`): SHA-256 of its content.
        git_sha1 (`str`): What Git calls a blob of that content, by which the Hub tells small files apart.
    """

    path: str
    size: int
    sha256: str
    git_sha1: str

    def is_same(self, remote: RepoFile) -> bool:
        """Whether the file on the Hub has the same content."""
        if remote.lfs is not None:
            return remote.lfs.sha256 == self.sha256
        return remote.blob_id == self.git_sha1


def make_manifest(folder: Path, names: Collection[str] | None = None) -> list[ManifestEntry]:
    """The files of a folder, or those of them that are named, by their names."""
    entries = []
    for path in sorted(folder.iterdir()):
        if not path.is_file() or names is not None and path.name not in names:
            continue
        size = path.stat().st_size
        sha256, git_sha1 = hashlib.sha256(), hashlib.sha1(f"blob {size}\0".encode())
        with path.open("rb") as file:
            while piece := file.read(2**20):
                sha256.update(piece)
                git_sha1.update(piece)
        entries.append(ManifestEntry(path.name, size, sha256.hexdigest(), git_sha1.hexdigest()))
    return entries


def format_manifest(repo_id: str, manifest: list[ManifestEntry]) -> str:
    """What would be pushed, a line for each file: SHA-256, size in bytes, name."""
    total = sum(entry.size for entry in manifest)
    lines = [f"{repo_id}: {len(manifest)} files, {total:,} bytes"]
    return "\n".join([*lines, *(f"  {entry.sha256}  {entry.size:>13,}  {entry.path}" for entry in manifest)])


def digest_of_inputs(row: ReleasedCheckpoint, repo_id: str, tag: str, results: list[Figure]) -> str:
    """What the contents of an assembled folder follow from, but for the download: the arguments, and this package."""
    digest = hashlib.sha256(repr((row, repo_id, tag, results)).encode())
    package = Path(modeling_segmenter.__file__).parent
    for pattern in ("**/*.py", "data/label_sets/*", "hub/licences/*"):
        for path in sorted(package.glob(pattern)):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def describe_downloads(row: ReleasedCheckpoint, cache_dir: Path | None) -> list[list]:
    """Name, size and time of change of the downloaded files that are there."""
    paths = [released_folder(row, cache_dir) / file.name for file in row.files]
    return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in paths if path.is_file()]


def write_documents(
    folder: Path,
    row: ReleasedCheckpoint,
    repo_id: str,
    revision: str | None,
    results: list[Figure],
    model: PreTrainedModel,
):
    """Writes the card, which says of the model what it is, and the licence of its weights."""
    write_text(folder / CARD_FILE, str(make_card(row, results, repo_id, revision, model)))
    write_text(folder / LICENCE_FILE, (LICENCES / f"{row.licence}.txt").read_text(encoding="utf-8"))


def read_verified(stamp: Path, folder: Path, inputs: dict[str, Any]) -> list[ManifestEntry] | None:
    """The manifest of a folder that was verified, if nothing has changed since, in it or in what it follows from."""
    try:
        verified = json.loads(stamp.read_text(encoding="utf-8"))
        manifest = make_manifest(folder)
    except (OSError, ValueError):
        return None
    expected = {**inputs, "manifest": [asdict(entry) for entry in manifest]}
    if isinstance(verified, dict) and not inputs["downloads"]:
        # Downloads may be deleted, once they are converted.
        expected["downloads"] = verified.get("downloads")
    return manifest if verified == expected else None


def assemble(
    row: ReleasedCheckpoint, repo_id: str, tag: str, results_dir: Path, work_dir: Path, cache_dir: Path | None
) -> tuple[Path, list[ManifestEntry]]:
    """
    Makes the folder that is pushed: the converted checkpoint with the code that loads it, and its card. A folder that
    an earlier run made and verified is taken again, as long as nothing has changed that it follows from.

    Args:
        row (`ReleasedCheckpoint`): Which checkpoint.
        repo_id (`str`): Where it will be.
        tag (`str`): The revision that its card pins.
        results_dir (`Path`): `model_cards/results`.
        work_dir (`Path`): Where assembled folders are kept.
        cache_dir (`Path`, *optional*): Where downloads are kept.

    Returns:
        The folder and its manifest.

    Raises:
        ConversionError: if it cannot be downloaded or converted.
        OutputError: if it cannot be written.
        PushError: if its figures are not what a card can show, what was assembled does not load as what was converted,
            or files of others are in its place.
    """
    try:
        results = update_figures(row, read_figures(results_dir, row))
    except ValueError as error:
        raise PushError(f"The results of {row.repo_name} in {results_dir} cannot be read: {error}") from error
    digest = digest_of_inputs(row, repo_id, tag, results)
    folder = work_dir / repo_id
    # Written last: without it, or with that of other contents, the folder was not verified.
    stamp = folder.with_name(f"{folder.name}.json")
    manifest = read_verified(stamp, folder, {"digest": digest, "downloads": describe_downloads(row, cache_dir)})
    if manifest is not None:
        return folder, manifest

    with (
        hold_warnings(),
        replacing_folder(folder, TEMPORARY_PREFIX, lambda: check_assembled(folder)) as unfinished,
    ):
        source = fetch_released(row, cache_dir)
        with silence_libraries():
            model, image_processor = load_checkpoint(source, row.source)
            image_processor = apply_protocol(image_processor, row)
            save_checkpoint(model, image_processor, unfinished, folder)
            write_documents(unfinished, row, repo_id, tag, results, model)
            verify(unfinished, model, image_processor)
    manifest = make_manifest(folder)
    stamped = {"digest": digest, "downloads": describe_downloads(row, cache_dir)}
    write_text(stamp, json.dumps({**stamped, "manifest": [asdict(entry) for entry in manifest]}, indent=1))
    return folder, manifest


def check_assembled(folder: Path):
    """
    Raises:
        PushError: if there is anything in a folder that no push has put there.
    """
    if not folder.exists():
        return
    foreign = [
        path.name
        for path in folder.iterdir()
        if path.is_symlink() or not path.is_file() or path.name not in REPOSITORY_FILES
    ]
    if foreign:
        raise PushError(
            f"{folder} holds what no push has put there: {list_names(foreign)}. Move that away, or pass another "
            "--work_dir."
        )


@torch.no_grad()
def verify(folder: Path, model: PreTrainedModel, image_processor: SegmenterImageProcessorPil):
    """
    Loads an assembled folder and compares it with what was converted: weights, outputs, config and image processor, in
    both of its backends where there are both. Its files must be those of a repository that needs no package, and the
    code in them that of this one.

    Raises:
        PushError: if anything differs.
    """
    loaded = type(model).from_pretrained(folder).eval()
    differences = []
    expected, actual = model.state_dict(), loaded.state_dict()
    if expected.keys() != actual.keys():
        differences.append("names of weights")
    elif not all(torch.equal(weight, actual[name]) for name, weight in expected.items()):
        differences.append("weights")
    patch_size = model.config.patch_size
    pixel_values = torch.linspace(-1, 1, 3 * 3 * 5 * patch_size**2).view(1, 3, 3 * patch_size, 5 * patch_size)
    if not torch.allclose(model(pixel_values)[0], loaded(pixel_values)[0], rtol=1e-5, atol=1e-6):
        differences.append("outputs")
    stored = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = model.config.to_dict()
    if loaded.config.to_diff_dict() != model.config.to_diff_dict() or stored.get("auto_map") != config["auto_map"]:
        differences.append("config")
    for backend in ("pil", "torchvision") if is_torchvision_available() else ("pil",):
        settings = AutoImageProcessor.from_pretrained(folder, backend=backend).to_dict()
        if settings != image_processor.to_dict():
            differences.append(f"image processor ({backend})")
    stored = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    if stored.get("auto_map") != image_processor.to_dict()["auto_map"]:
        differences.append("code of the image processor")
    sources = [Path(module.__file__) for module in CODE_MODULES]
    differences += [path.name for path in sources if (folder / path.name).read_bytes() != path.read_bytes()]
    names = {path.name for path in folder.iterdir()}
    differences += sorted(names ^ REPOSITORY_FILES)
    if differences:
        raise PushError(f"{folder} does not load as what was converted. It differs in: {', '.join(differences)}.")


def iterate_causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it was raised from: uploads wrap those of the connection."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def read_failure(failure: BaseException) -> tuple[int | None, bool, Mapping[str, str]]:
    """
    The status of the answer that an error comes from, whether it came from the Hub itself, and its headers. Storage
    behind the Hub refuses addresses that have expired, and knows no tokens; new addresses are had by another attempt.
    """
    for cause in iterate_causes(failure):
        response = getattr(cause, "response", None)
        if response is not None:
            return response.status_code, "authorization" in response.request.headers, response.headers
        # Xet's client gives its errors as text.
        match = re.search(r"HTTP status (?:client|server) error \((\d{3})", str(cause))
        if match:
            return int(match[1]), "xet-write-token" in str(cause), {}
    return None, False, {}


def read_wait(headers: Mapping[str, str]) -> float | None:
    """The seconds that the Hub asks to wait."""
    limit = parse_ratelimit_headers(headers)
    if limit is not None and limit.remaining == 0:
        return limit.reset_in_seconds
    retry_after = headers.get("Retry-After", "")
    return float(retry_after) if retry_after.isdigit() else None


def call_hub(action: str, function: Callable[..., Answer], *args: Any, **kwargs: Any) -> Answer:
    """
    Calls the Hub, again and again where the failure may pass: dropped connections, errors of the server, changes that
    others made in between, and too many requests, after which it waits for as long as the Hub asks.

    Args:
        action (`str`): What is done, for errors.
        function (`Callable`): What does it.

    Raises:
        AccessError: if the token is missing, wrong, or may not do this.
        PushError: if it fails otherwise, or too often.
    """
    num_failures = 0
    for _ in range(MAX_CALLS):
        try:
            return function(*args, **kwargs)
        except LocalTokenNotFoundError as error:
            raise AccessError(describe_refusal(action, 401, error)) from error
        # Uploads wrap errors of the connection in a RuntimeError. A card that the Hub does not accept is a ValueError.
        except (HfHubHTTPError, httpx.HTTPError, OSError, RuntimeError, ValueError) as error:
            failure = error
        status, is_from_hub, headers = read_failure(failure)
        if status in (401, 403) and is_from_hub:
            raise AccessError(describe_refusal(action, status, failure)) from failure
        if status is not None:
            may_pass = status >= 500 or status in TEMPORARY_STATUSES or status in (401, 403)
        else:
            may_pass = any(isinstance(cause, TEMPORARY_ERRORS) for cause in iterate_causes(failure))
        if not may_pass:
            raise PushError(f"{action} failed: {describe(failure)}") from failure
        asked_seconds = read_wait(headers)
        # Waiting as it was asked to is no failure.
        num_failures += asked_seconds is None
        if num_failures >= MAX_ATTEMPTS:
            break
        seconds = min(FIRST_WAIT_SECONDS * 2**num_failures, LONGEST_WAIT_SECONDS)
        if asked_seconds is not None:
            seconds = min(asked_seconds + 1, LONGEST_ASKED_WAIT_SECONDS)
        reason = f"status {status}" if status is not None else type(failure).__name__
        logger.warning("%s failed (%s). Trying again in %.0f seconds.", action, reason, seconds)
        # Some more at random, so that several processes do not come back together.
        sleep(seconds * random.uniform(1.0, 1.25))
    raise PushError(f"{action} failed too often, last: {describe(failure)}") from failure


def describe(error: BaseException) -> str:
    """An error and its causes in one line, with addresses that may be signed cut at their query."""
    texts = []
    for cause in iterate_causes(error):
        reason = getattr(cause, "server_message", None)
        # Of an answer the first line names it, and the reason is what its server says.
        text = " ".join(str(cause).split()) if reason is None else f"{str(cause).strip().splitlines()[0]} {reason}"
        texts.append(re.sub(r"\?\S+", "", text))
    return ": ".join(dict.fromkeys(text for text in texts if text)) or type(error).__name__


def describe_refusal(action: str, status: int, error: BaseException) -> str:
    if status == 401:
        return (
            f"{action} was refused (status 401): the Hub does not know the token, or there is none. Log in with "
            "`hf auth login`, or set HF_TOKEN, to a token that may write."
        )
    reasons = [reason for cause in iterate_causes(error) if (reason := getattr(cause, "server_message", None))]
    reason = f" The Hub says: {reasons[0]}" if reasons else ""
    return (
        f"{action} was refused (status 403): the token may not do this. It must have write access to the repositories "
        "and collections of the organisation, whose member its owner must be "
        f"(https://huggingface.co/settings/tokens).{reason}"
    )


def list_remote_files(api: HfApi, repo_id: str, revision: str) -> dict[str, RepoFile]:
    tree = api.list_repo_tree(repo_id, recursive=True, revision=revision)
    return {entry.path: entry for entry in tree if isinstance(entry, RepoFile) and entry.path not in HUB_FILES}


def find_differences(manifest: list[ManifestEntry], remote: dict[str, RepoFile]) -> list[ManifestEntry]:
    """The files that the Hub does not have, or has with another content."""
    return [entry for entry in manifest if entry.path not in remote or not entry.is_same(remote[entry.path])]


def upload_differences(
    api: HfApi, repo_id: str, folder: Path, manifest: list[ManifestEntry], title: str
) -> tuple[str, list[ManifestEntry]]:
    """
    Brings a repository's main branch to the contents of a folder in one commit, of what differs; in none, if nothing
    does. Other files in the repository are left alone.

    Returns:
        The commit that has the contents, as the Hub tells it afterwards, and what was uploaded.

    Raises:
        PushError: if the Hub has something else than was uploaded.
    """
    head = api.model_info(repo_id, revision="main").sha
    remote = list_remote_files(api, repo_id, head)
    others = sorted(remote.keys() - {entry.path for entry in manifest})
    if others:
        logger.warning("%s has files that are not part of the model, which are left alone: %s.", repo_id, others)
    differences = find_differences(manifest, remote)
    if not differences:
        return head, []
    commit = api.create_commit(
        repo_id,
        [CommitOperationAdd(path_in_repo=entry.path, path_or_fileobj=folder / entry.path) for entry in differences],
        commit_message=title,
        # Fails if another commit came in between, after which the differences are others.
        parent_commit=head,
    )
    wrong = find_differences(manifest, list_remote_files(api, repo_id, commit.oid))
    if wrong:
        raise PushError(f"{repo_id} has other contents than were uploaded: {[entry.path for entry in wrong]}.")
    return commit.oid, differences


def push_folder(
    api: HfApi,
    folder: Path,
    repo_id: str,
    manifest: list[ManifestEntry],
    tag: str | None = None,
    private: bool | None = False,
    title: str | None = None,
) -> list[ManifestEntry]:
    """
    Makes a repository with the contents of a folder, under a tag if one is given, as far as it is not there.

    Args:
        api (`HfApi`): The client.
        folder (`Path`): Where the files are.
        repo_id (`str`): The repository.
        manifest (`list[ManifestEntry]`): Which files.
        tag (`str`, *optional*): The tag.
        private (`bool`, *optional*, defaults to `False`): Whether a new repository is private; `None` for what the
            organisation has set.
        title (`str`, *optional*): What the commit is called.

    Returns:
        What was uploaded.

    Raises:
        PushError: if the tag is there with other contents, or the Hub fails.
    """
    if not call_hub(f"Reading {repo_id}", api.repo_exists, repo_id):
        call_hub(f"Creating {repo_id}", api.create_repo, repo_id, private=private, exist_ok=True)
    tags = call_hub(f"Reading {repo_id}", api.list_repo_refs, repo_id).tags
    if tag is not None and tag in {reference.name for reference in tags}:
        remote = call_hub(f"Reading {repo_id}", list_remote_files, api, repo_id, tag)
        different = [entry.path for entry in find_differences(manifest, remote)]
        if different:
            raise PushError(
                f"{repo_id} has the tag {tag} already, with other contents: {different}. What users pin stays as it "
                "is; pass --tag with a new one."
            )
        return []
    title = title or "Upload the converted checkpoint" + (f" ({tag})" if tag else "")
    commit, uploaded = call_hub(f"Uploading {repo_id}", upload_differences, api, repo_id, folder, manifest, title)
    if tag is not None:
        # Last of all, so that what has the tag is complete.
        call_hub(f"Tagging {repo_id}", api.create_tag, repo_id, tag=tag, revision=commit, exist_ok=True)
        # It may be somebody else's that came in between, which is left as it is.
        if find_differences(manifest, call_hub(f"Reading {repo_id}", list_remote_files, api, repo_id, tag)):
            raise PushError(
                f"{repo_id} got the tag {tag} from elsewhere, with other contents. Pass --tag with a new one."
            )
    return uploaded


def check_names(rows: list[ReleasedCheckpoint], org: str, tag: str):
    """
    Raises:
        PushError: if the organisation or the tag has no name that the Hub takes.
    """
    for row in rows:
        try:
            validate_repo_id(f"{org}/{row.repo_name}")
        except HFValidationError as error:
            raise PushError(f"{org!r} is no name of an organisation or user: {error}") from error
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", tag) or ".." in tag or tag == "main":
        raise PushError(f"{tag!r} cannot be a tag. Take letters, digits, dots and dashes, as in v1.0, but not main.")


def check_downloads(rows: list[ReleasedCheckpoint], org: str, work_dir: Path, cache_dir: Path | None):
    """
    Raises:
        OutputError: if checkpoints have to be downloaded, and there is no place for them. What is complete may be
            read-only.
    """
    for row in rows:
        folder = released_folder(row, cache_dir)
        is_there = all((folder / file.name).is_file() for file in row.files)
        if not is_there and not (work_dir / org / row.repo_name).is_dir():
            check_output_dir(folder.parent)


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
    """
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


def add_to_collection(api: HfApi, org: str, row: ReleasedCheckpoint, repo_id: str, private: bool = False):
    """Adds a repository to the collection of its family, which is made if it is not there; nothing is added twice."""
    title, description = COLLECTIONS[row.source]
    known = call_hub("Reading collections", lambda: list(api.list_collections(owner=org)))
    slug = next((collection.slug for collection in known if collection.title == title), None)
    if slug is None:
        slug = call_hub(
            f"Creating the collection {title}",
            api.create_collection,
            title,
            namespace=org,
            description=description,
            private=private,
            exists_ok=True,
        ).slug
    # A list of collections has the first few items of each only.
    collection = call_hub(f"Reading the collection {title}", api.get_collection, slug)
    if repo_id not in {item.item_id for item in collection.items}:
        action = f"Adding {repo_id} to the collection {title}"
        call_hub(action, api.add_collection_item, slug, item_id=repo_id, item_type="model", exists_ok=True)


@dataclass(frozen=True)
class Outcome:
    """
    What came of a checkpoint.

    Args:
        repo_id (`str`): Its repository.
        manifest (`list[ManifestEntry]`): The files of the repository; empty if they could not be made.
        uploaded (`list[ManifestEntry]`): Those of them that the Hub did not have.
        error (`str`, *optional*): Why it failed, in one line.
    """

    repo_id: str
    manifest: list[ManifestEntry]
    uploaded: list[ManifestEntry]
    error: str | None = None


def push_released(
    rows: list[ReleasedCheckpoint],
    org: str,
    results_dir: str | Path,
    work_dir: str | Path | None = None,
    cache_dir: str | Path | None = None,
    tag: str = TAG,
    private: bool = False,
    dry_run: bool = False,
    api: HfApi | None = None,
) -> Iterator[Outcome]:
    """
    Converts released checkpoints and pushes each to a repository of its own, with its card, under a tag, and into the
    collection of its family. A checkpoint that fails does not keep the others from being pushed, unless the Hub does
    not accept the token.

    Args:
        rows (`list[ReleasedCheckpoint]`): Which checkpoints.
        org (`str`): The organisation, or user, that the repositories belong to.
        results_dir (`str` or `Path`): `model_cards/results`, the figures that the cards show.
        work_dir (`str` or `Path`, *optional*): Where what is pushed is assembled and kept. Defaults to
            `segmenter_hf/push` in Hugging Face's cache.
        cache_dir (`str` or `Path`, *optional*): Where downloads are kept.
        tag (`str`, *optional*): The tag, which cards pin.
        private (`bool`, *optional*, defaults to `False`): Whether new repositories and collections are private.
        dry_run (`bool`, *optional*, defaults to `False`): Whether everything is made and verified, but nothing pushed.
        api (`HfApi`, *optional*): The client. Defaults to one of the usual endpoint and token.

    Yields:
        [`Outcome`]: of each checkpoint, as it is done.

    Raises:
        AccessError: if the Hub refuses the token.
        PushError: if another push uses `work_dir`, or it cannot be written, or downloads cannot.
    """
    work_dir = Path(work_dir or Path(huggingface_hub.constants.HF_HOME) / "segmenter_hf" / "push")
    cache_dir = None if cache_dir is None else Path(cache_dir)
    check_names(rows, org, tag)
    if huggingface_hub.constants.HF_HUB_OFFLINE and not dry_run:
        raise PushError("HF_HUB_OFFLINE forbids to speak with the Hub. Unset it, or pass --dry_run.")
    api = api or HfApi()
    try:
        check_output_dir(work_dir)
        check_downloads(rows, org, work_dir, cache_dir)
        work_dir.mkdir(parents=True, exist_ok=True)
        lock = FileLock(work_dir / ".lock", timeout=0)
        lock.acquire()
    except Timeout as error:
        raise PushError(f"Another push is at work in {work_dir}. Wait for it, or pass another --work_dir.") from error
    except OutputError as error:
        raise PushError(str(error)) from error
    except OSError as error:
        raise PushError(f"{work_dir} cannot be written: {error}.") from error
    try:
        if not dry_run:
            check_access(api, org)
        clear_leftovers(work_dir / org, TEMPORARY_PREFIX)
        for row in rows:
            repo_id, manifest = f"{org}/{row.repo_name}", []
            try:
                folder, manifest = assemble(row, repo_id, tag, Path(results_dir), work_dir, cache_dir)
                uploaded = []
                if not dry_run:
                    uploaded = push_folder(api, folder, repo_id, manifest, tag, private)
                    add_to_collection(api, org, row, repo_id, private)
            except AccessError:
                raise
            except (ConversionError, OutputError, PushError, OSError) as error:
                yield Outcome(repo_id, manifest, [], " ".join(str(error).split()))
            else:
                yield Outcome(repo_id, manifest, uploaded)
    finally:
        lock.release()


__all__ = [
    "AccessError",
    "ManifestEntry",
    "Outcome",
    "PushError",
    "check_access",
    "format_manifest",
    "make_manifest",
    "push_folder",
    "push_released",
    "write_documents",
]
