"""
Releases the checkpoints on the Hub: converts each and pushes it to a repository of its own, in the collection of its
family. A release that was interrupted anywhere continues when it is run again, and a complete one changes nothing.
"""

import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub.constants
from filelock import FileLock, Timeout
from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..conversion.errors import ConversionError
from ..conversion.released import ReleasedCheckpoint, released_folder
from ..outputs import OutputError, check_output_dir
from .cards import TAG
from .client import (
    AccessError,
    ManifestEntry,
    PushError,
    call_hub,
    check_access,
    check_tag,
    explaining,
    has_tag,
    make_manifest,
    push_folder,
)
from .repository import assemble, assemble_documents, find_figures


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


def is_downloaded(row: ReleasedCheckpoint, cache_dir: Path | None) -> bool:
    return all((released_folder(row, cache_dir) / file.name).is_file() for file in row.files)


def lock_folder(work_dir: Path, rows: list[ReleasedCheckpoint], cache_dir: Path | None) -> FileLock:
    """
    The lock of a folder to work in, which is held.

    Raises:
        PushError: if another push holds it, or what has to be written cannot be. Downloads that are complete may be
            read-only.
    """
    try:
        check_output_dir(work_dir)
        for row in rows:
            if not is_downloaded(row, cache_dir):
                check_output_dir(released_folder(row, cache_dir).parent)
        work_dir.mkdir(parents=True, exist_ok=True)
        lock = FileLock(work_dir / ".lock", timeout=0)
        lock.acquire()
    except Timeout as error:
        raise PushError(f"Another push is at work in {work_dir}. Wait for it, or pass another --work_dir.") from error
    except OutputError as error:
        raise PushError(str(error)) from error
    except OSError as error:
        raise PushError(f"{work_dir} cannot be written: {error}.") from error
    return lock


def add_to_collection(api: HfApi, org: str, row: ReleasedCheckpoint, repo_id: str, private: bool = False):
    """Adds a repository to the collection of its family, which is made if it is not there; nothing is added twice."""
    title, description = COLLECTIONS[row.source]
    with explaining("Reading collections"):
        known = list(api.list_collections(owner=org))
    slug = next((collection.slug for collection in known if collection.title == title), None)
    if slug is None:
        settings = {"namespace": org, "description": description, "private": private, "exists_ok": True}
        slug = call_hub(f"Creating the collection {title}", api.create_collection, title, **settings).slug
    # A list of collections has the first few items of each only.
    collection = call_hub(f"Reading the collection {title}", api.get_collection, slug)
    if repo_id not in {item.item_id for item in collection.items}:
        action = f"Adding {repo_id} to the collection {title}"
        call_hub(action, api.add_collection_item, slug, item_id=repo_id, item_type="model", exists_ok=True)


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

    What has the tag already stays as it is. If the download of its weights is still there, it is converted again, and
    must be the same; if that was deleted, its card, licence and code must be.

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
    with lock_folder(work_dir, rows, cache_dir):
        if not dry_run:
            check_access(api, org)
        for row in rows:
            repo_id, manifest, uploaded = f"{org}/{row.repo_name}", [], []
            try:
                figures = find_figures(row, Path(results_dir))
                if not dry_run and not is_downloaded(row, cache_dir) and has_tag(api, repo_id, tag):
                    with tempfile.TemporaryDirectory(prefix="segmenter-") as folder:
                        assemble_documents(Path(folder), api, row, repo_id, tag, figures)
                        manifest = make_manifest(Path(folder))
                        check_tag(api, Path(folder), repo_id, manifest, tag)
                else:
                    folder = assemble(row, repo_id, tag, figures, work_dir, cache_dir)
                    manifest = make_manifest(folder)
                    if not dry_run:
                        uploaded = push_folder(api, folder, repo_id, manifest, tag, private)
                if not dry_run:
                    add_to_collection(api, org, row, repo_id, private)
            except AccessError:
                raise
            except (ConversionError, OutputError, PushError, OSError) as error:
                yield Outcome(repo_id, manifest, [], " ".join(str(error).split()))
            else:
                yield Outcome(repo_id, manifest, uploaded)


__all__ = ["Outcome", "push_released"]
