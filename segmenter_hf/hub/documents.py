"""The card, notices and licences that weights come with: found where the weights are, and kept beside what is made."""

import itertools
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HTTPError
from huggingface_hub.repocard import metadata_load

from ..conversion.convert import CARD_FILE
from ..outputs import refuse_unwritable, replacing_file


logger = logging.getLogger(__name__)

# Files of terms have such names as NOTICE, LICENSE.txt, MODEL_LICENSE and NOTICE-2.
DOCUMENT_NAME = re.compile(
    r"([\w.-]+[_-])?(licen[cs]es?|notices?|copying|copyright|patents|use[_-]policy)([._-][\w.-]*)?", re.IGNORECASE
)
# Files with these endings may be called alike, and are none.
OTHER_SUFFIXES = {
    ".bin",
    ".h5",
    ".json",
    ".npz",
    ".onnx",
    ".part",
    ".pt",
    ".pth",
    ".py",
    ".safetensors",
    ".yaml",
    ".yml",
}
# The cache of the Hub has files of these names, to which those in its folders are links.
BLOB_NAME = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
# The Hub tells upper and lower case apart.
TERMS_WORDS = ("licen?e", "notice", "copying", "copyright", "patents", "use?policy")
HUB_PATTERNS = [
    CARD_FILE,
    *(f"*{name}*" for word in TERMS_WORDS for name in (word, word.upper(), word.capitalize())),
]
HUB_IGNORED = ["*/*", *(f"*{suffix}" for suffix in sorted(OTHER_SUFFIXES))]


def is_document(name: str) -> bool:
    """Whether a file of that name holds terms: a notice or a licence."""
    return DOCUMENT_NAME.fullmatch(name) is not None and Path(name).suffix.lower() not in OTHER_SUFFIXES


def is_own_file(file: Path) -> bool:
    """Whether there is a file of that name, and no link by which a folder takes in other files of this disk."""
    target = file.resolve().name
    return file.is_file() and (not file.is_symlink() or is_document(target) or BLOB_NAME.fullmatch(target) is not None)


def read_documents(folder: Path) -> dict[str, bytes]:
    """The notices and licences in a folder, by their names."""
    files = [file for file in sorted(folder.iterdir()) if is_document(file.name) and is_own_file(file)]
    return {file.name: file.read_bytes() for file in files}


def read_metadata(folder: Path | None) -> dict[str, Any]:
    """The metadata of the card in a folder, if there is one; none if there is no card, or one that cannot be read."""
    if folder is None or not (file := folder / CARD_FILE).is_file():
        return {}
    try:
        return metadata_load(file) or {}
    except (OSError, RecursionError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        logger.warning("The metadata of %s cannot be read, and is passed over: %s", file, reason)
        return {}


def fetch_documents(
    repo_id: str, revision: str | None = None, cache_dir: str | None = None, token: str | None = None
) -> Path | None:
    """
    A folder with the card, notices and licences of a repository on the Hub, from the cache if there is no network;
    `None`, with a warning, where they cannot be had.
    """
    settings = {"revision": revision, "cache_dir": cache_dir, "token": token}
    try:
        return Path(snapshot_download(repo_id, allow_patterns=HUB_PATTERNS, ignore_patterns=HUB_IGNORED, **settings))
    # The connection, the Hub and the cache of its client each fail in their own way.
    except (HTTPError, OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        logger.warning("The card and licence of %s cannot be read: %s", repo_id, reason)
        return None


def save_documents(documents: Mapping[str, bytes], folder: str | Path) -> dict[str, str]:
    """
    Writes notices and licences into a folder: each under its name, or where that is another file's, with a number.
    Files that are there stay as they are.

    Returns:
        `dict[str, str]`: what each is called there, by the names in `documents`.

    Raises:
        OutputError: if the file system refuses to write.
    """
    names = {}
    with refuse_unwritable(folder):
        for name, contents in documents.items():
            for candidate in _numbered(name):
                file = Path(folder) / candidate
                if file.is_file() and file.read_bytes() == contents:
                    break
                if not file.exists() and not file.is_symlink():
                    with replacing_file(file) as unfinished:
                        unfinished.write_bytes(contents)
                    break
            names[name] = candidate
    return names


def _numbered(name: str) -> Iterator[str]:
    yield name
    stem, dot, suffix = name.partition(".")
    for number in itertools.count(2):
        yield f"{stem}-{number}{dot}{suffix}"


__all__ = [
    "fetch_documents",
    "is_document",
    "is_own_file",
    "read_documents",
    "read_metadata",
    "save_documents",
]
