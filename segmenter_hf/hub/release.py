"""
Releases the checkpoints on the Hub: converts each and pushes it to a repository of its own, in the collection of its
family. A release that was interrupted anywhere continues when it is run again, and a complete one changes nothing.
"""

import re
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub.constants
from filelock import FileLock, Timeout
from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..conversion.errors import ConversionError
from ..conversion.released import ReleasedCheckpoint, released_folder
from ..evaluation.record import Figure
from ..outputs import OutputError, check_output_dir, refuse_unwritable
from .cards import TAG
from .client import (
    AccessError,
    ManifestEntry,
    PushError,
    call_hub,
    check_access,
    check_tag,
    has_tag,
    make_manifest,
    push_folder,
)
from .repository import assemble, assemble_documents, find_figures


# By the source of checkpoints, the collection they are in has a title, and a description of at most 150 characters.
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
        files (`list[ManifestEntry]`): Those that the Hub did not have; where nothing was pushed, all of them.
        error (`str`, *optional*): Why it failed, in one line.
    """

    repo_id: str
    files: list[ManifestEntry]
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


def has_downloads(row: ReleasedCheckpoint, cache_dir: Path | None) -> bool:
    return all((released_folder(row, cache_dir) / file.name).is_file() for file in row.files)


def lock_folder(work_dir: Path, rows: list[ReleasedCheckpoint], cache_dir: Path | None) -> AbstractContextManager:
    """
    Holds the lock of a folder to work in.

    Raises:
        OutputError: if what has to be written cannot be. Downloads that are complete may be read-only.
        PushError: if another push holds the lock.
    """
    check_output_dir(work_dir)
    for row in rows:
        if not has_downloads(row, cache_dir):
            check_output_dir(released_folder(row, cache_dir).parent)
    with refuse_unwritable(work_dir):
        work_dir.mkdir(parents=True, exist_ok=True)
        try:
            return FileLock(work_dir / ".lock").acquire(timeout=0)
        except Timeout as error:
            raise PushError(
                f"Another push is at work in {work_dir}. Wait for it, or pass another --work_dir."
            ) from error


def push_checkpoint(
    api: HfApi,
    row: ReleasedCheckpoint,
    repo_id: str,
    tag: str,
    figures: list[Figure],
    work_dir: Path,
    cache_dir: Path | None,
    private: bool,
) -> list[ManifestEntry]:
    """Brings a checkpoint to the Hub, as far as it is not there. Returns what was uploaded."""
    if not has_downloads(row, cache_dir) and has_tag(api, repo_id, tag):
        uploaded = []
        with tempfile.TemporaryDirectory(prefix="segmenter-") as folder:
            assemble_documents(Path(folder), api, row, repo_id, tag, figures)
            check_tag(api, Path(folder), repo_id, tag)
    else:
        folder = assemble(row, repo_id, tag, figures, work_dir, cache_dir)
        uploaded = push_folder(api, folder, repo_id, tag, private)
    # The client leaves as it is what is there already.
    title, description = COLLECTIONS[row.source]
    settings = {"namespace": repo_id.partition("/")[0], "description": description, "private": private}
    action = f"Creating the collection {title}"
    slug = call_hub(action, api.create_collection, title, exists_ok=True, **settings).slug
    action = f"Adding {repo_id} to the collection {title}"
    call_hub(action, api.add_collection_item, slug, item_id=repo_id, item_type="model", exists_ok=True)
    return uploaded


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
        OutputError: if `work_dir` cannot be written, or downloads cannot.
        PushError: if another push uses `work_dir`, or the Hub cannot be reached.
    """
    work_dir = Path(work_dir or Path(huggingface_hub.constants.HF_HOME) / "segmenter_hf" / "push")
    cache_dir = None if cache_dir is None else Path(cache_dir)
    check_names(rows, org, tag)
    api = api or HfApi()
    with lock_folder(work_dir, rows, cache_dir):
        if not dry_run:
            check_access(api, org)
        for row in rows:
            repo_id = f"{org}/{row.repo_name}"
            try:
                figures = find_figures(row, Path(results_dir))
                if dry_run:
                    files = make_manifest(assemble(row, repo_id, tag, figures, work_dir, cache_dir))
                else:
                    files = push_checkpoint(api, row, repo_id, tag, figures, work_dir, cache_dir, private)
            except AccessError:
                raise
            except (ConversionError, OutputError, PushError, OSError) as error:
                yield Outcome(repo_id, [], " ".join(str(error).split()))
            else:
                yield Outcome(repo_id, files)


__all__ = ["Outcome", "push_released"]
