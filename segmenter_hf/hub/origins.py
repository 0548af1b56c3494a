"""What a model was made from: the weights that training started from and the data, as far as a card may tell."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..conversion.convert import CARD_FILE, LICENCE_FILE, LICENCES
from ..conversion.released import ReleasedCheckpoint, find_released, is_released
from ..conversion.timm import NAME_PREFIX as TIMM_PREFIX
from ..redaction import base_name, is_hub_id, public_name
from .card_facts import HUB_URL, PRETRAINED_WEIGHTS, SOURCES, link_repository
from .documents import fetch_documents, is_own_file, read_documents, read_metadata, save_documents
from .markdown import as_code


LICENCE_ID = re.compile(r"[a-z0-9][a-z0-9.+-]*")
OTHER_LICENCE = "other"
# The metadata says so of a licence that has no name, and where nothing is known.
UNNAMED_LICENCE, UNKNOWN_LICENCE = "terms-of-the-starting-weights", "unknown"
# Folders in the cache of the Hub name the repository and the commit that they are of.
SNAPSHOT = re.compile(r"/models--([\w.-]+?)--([\w.-]+)/snapshots/([0-9a-f]{40})(/|$)")
# The snippets of this package's cards name their repository so.
CARD_REPOSITORY = re.compile(r'^repo_id = "([\w.-]+/[\w.-]+)"$', re.MULTILINE)
TRAINING_CHECKPOINT = re.compile(r"checkpoint-\d+")


@dataclass(frozen=True)
class Terms:
    """
    The terms of weights, as the metadata of cards state them.

    Args:
        license (`str`): An identifier of the Hub; `"other"` where there is none, or nothing is known.
        name (`str`, *optional*): What another licence is called; `"unknown"` where nothing is known.
        link (`str`, *optional*): Where that is: a file beside the card, or an address.
    """

    license: str
    name: str | None = None
    link: str | None = None

    @property
    def is_known(self) -> bool:
        return self.name != UNKNOWN_LICENCE


UNKNOWN_TERMS = Terms(OTHER_LICENCE, UNKNOWN_LICENCE)


@dataclass(frozen=True)
class StartingWeights:
    """
    The weights that training started from.

    Args:
        description (`str`): What they are, in Markdown, to follow "from".
        base_model (`str` or `list[str]`, *optional*): Their id on the Hub; where they have none, what they were made
            from in turn.
        citations (`tuple[str, ...]`): Keys of `CITATIONS`, beside that of Segmenter.
        terms ([`Terms`], *optional*): What they may be used for; `None` only where there are no weights.
        documents (`Mapping[str, bytes]`): Their notices and licences, which come along with what is made from them.
        is_random (`bool`): Whether there are none.
    """

    description: str
    base_model: str | list[str] | None = None
    citations: tuple[str, ...] = ()
    terms: Terms | None = None
    documents: Mapping[str, bytes] = field(default_factory=dict)
    is_random: bool = False

    def save_documents(self, folder: str | Path) -> "StartingWeights":
        """
        Writes the notices and licences into a folder, beside what is there, and returns what a card there says.

        Raises:
            OutputError: if the file system refuses to write.
        """
        names = save_documents(self.documents, folder)
        terms = self.terms and replace(self.terms, link=names.get(self.terms.link, self.terms.link))
        return replace(self, terms=terms, documents={names[name]: each for name, each in self.documents.items()})


def find_starting_weights(
    name: str | None,
    is_from_scratch: bool | None = None,
    revision: str | None = None,
    fetch: Callable[[str, str | None], Path | None] = lambda repo_id, revision: None,
) -> StartingWeights | None:
    """
    The weights of a name as the training scripts take it: a released checkpoint's, `timm:NAME`, a Hub id, or a path,
    with the terms that stand beside them.

    Args:
        name (`str`, *optional*): The name.
        is_from_scratch (`bool`, *optional*): Whether there are none.
        revision (`str`, *optional*): The revision of a repository on the Hub.
        fetch (`Callable`, *optional*): Where card, notices and licences of a repository, and a revision, on the Hub
            are. By default the Hub is not asked. See [`load_starting_weights`].

    Returns:
        [`StartingWeights`], or `None` where nothing is known.

    Raises:
        ValueError: if there are some and none.
    """
    if name is None:
        return StartingWeights("random initialisation", is_random=True) if is_from_scratch else None
    if is_from_scratch:
        raise ValueError(f"Training cannot have started from scratch and from {name}. Leave one out.")
    # This comes first, since their names look like ids of the Hub.
    if is_released(name):
        return _find_released(find_released(name))
    if name.startswith(TIMM_PREFIX):
        return _find_timm(name, fetch)
    repo_id, commit = find_repository(name)
    if repo_id is None:
        return _find_on_disk(Path(name))
    # A folder in the cache is of a commit, whatever revision is asked for.
    revision = commit or revision
    folder = fetch(repo_id, revision) or (folder_of(name) if Path(name).exists() else None)
    weights = _find_on_hub(repo_id, folder)
    if revision in (None, "main"):
        return weights
    return replace(weights, description=f"{weights.description}, revision {as_code(revision)}")


def load_starting_weights(
    name: str | None, revision: str | None = None, cache_dir: str | None = None, token: str | None = None
) -> StartingWeights:
    """
    As [`find_starting_weights`], of a run that starts from scratch without a name, with what their repository on the
    Hub says, if they have one and it can be read.
    """
    fetch = partial(fetch_documents, cache_dir=cache_dir, token=token)
    return find_starting_weights(name, name is None, revision, fetch)


def find_repository(name: str) -> tuple[str | None, str | None]:
    """The id of a name on the Hub, if it has one, and the commit, if it is a folder in the cache of the Hub."""
    match = SNAPSHOT.search(Path(name).absolute().as_posix())
    if match is not None:
        return f"{match[1]}/{match[2]}", match[3]
    return (name if is_hub_id(name) else None), None


def folder_of(name: str | Path) -> Path:
    """Where card, notices and licences of weights in a folder or file are."""
    return Path(name) if Path(name).is_dir() else Path(name).parent


def _find_released(row: ReleasedCheckpoint) -> StartingWeights:
    weights = PRETRAINED_WEIGHTS[row.backbone]
    text, citations = weights.description, tuple(weights.citations)
    if not row.is_encoder:
        text = f"the released checkpoint `{row.name}` of {SOURCES[row.source].link}"
        if weights.base_model is not None:
            text += f", which was made from {link_repository(weights.base_model)}"
        citations = (*SOURCES[row.source].citations, *citations)
    documents = {LICENCE_FILE: read_licence(row.licence)}
    return StartingWeights(text, weights.base_model, citations, Terms(row.licence), documents)


def _find_timm(name: str, fetch: Callable[[str, str | None], Path | None]) -> StartingWeights:
    try:
        from timm.models import get_pretrained_cfg

        settings = get_pretrained_cfg(name.removeprefix(TIMM_PREFIX))
    except (ImportError, RuntimeError, ValueError):
        settings = None
    if settings is None:
        return StartingWeights(f"the weights {as_code(name)}", terms=UNKNOWN_TERMS)
    hub_id = settings.hf_hub_id if is_hub_id(settings.hf_hub_id) else None
    documents = fetch(hub_id, None) if hub_id else None
    # What timm itself says is a default for most of its models.
    terms, files = _read_terms({"license": settings.license} | read_metadata(documents), documents, hub_id)
    text = link_repository(hub_id) if hub_id else f"the weights {as_code(name)}"
    return StartingWeights(text, hub_id, _find_citations(hub_id), terms, files)


def _find_on_hub(repo_id: str, folder: Path | None) -> StartingWeights:
    terms, files = _read_terms(read_metadata(folder), folder, repo_id)
    return StartingWeights(link_repository(repo_id), repo_id, _find_citations(repo_id), terms, files)


def _find_on_disk(path: Path) -> StartingWeights:
    folder = folder_of(path)
    text = f"the weights {as_code(base_name(str(path)))}, which were given as a file or folder"
    is_whole_run = True
    is_checkpoint = path.is_dir() and TRAINING_CHECKPOINT.fullmatch(path.absolute().name) is not None
    if is_checkpoint and not (folder / CARD_FILE).is_file() and not read_documents(folder):
        # It is of a run, whose folder has the card and notices of the weights that the run started from.
        folder, is_whole_run = folder.absolute().parent, False
    if not folder.is_dir():
        return StartingWeights(text, terms=UNKNOWN_TERMS)
    metadata = read_metadata(folder)
    own_id = _find_own_id(folder) if is_whole_run else None
    origins = _read_base_models(metadata)
    terms, files = _read_terms(metadata, folder, own_id)
    if own_id is not None:
        return StartingWeights(
            f"{text}, those of {link_repository(own_id)}", own_id, _find_citations(own_id, *origins), terms, files
        )
    if origins:
        text += f", and were made from {' and '.join(map(link_repository, origins))}"
    base_model = origins[0] if len(origins) == 1 else origins or None
    return StartingWeights(text, base_model, _find_citations(*origins), terms, files)


def _find_own_id(folder: Path) -> str | None:
    card = folder / CARD_FILE
    match = CARD_REPOSITORY.search(card.read_text(encoding="utf-8", errors="replace")) if card.is_file() else None
    return match[1] if match is not None and is_hub_id(match[1]) else None


def _read_base_models(metadata: Mapping[str, Any]) -> list[str]:
    names = metadata.get("base_model")
    names = names if isinstance(names, list) else [names]
    # Cards that others wrote may have paths there.
    return [name for name in names if isinstance(name, str) and is_hub_id(name)]


def _read_terms(
    metadata: Mapping[str, Any], folder: Path | None, repo_id: str | None
) -> tuple[Terms, dict[str, bytes]]:
    """The terms that a card states or files beside it hold, and these files."""
    documents = {} if folder is None else read_documents(folder)
    page = None if repo_id is None else f"{HUB_URL}/{repo_id}"
    stated = metadata.get("license")
    stated = "-and-".join(map(str, stated)) if isinstance(stated, list) else str(stated or UNKNOWN_LICENCE)
    stated = stated.strip().lower()
    is_other = stated in (OTHER_LICENCE, UNKNOWN_LICENCE)
    if not is_other and LICENCE_ID.fullmatch(stated) and not isinstance(metadata.get("license"), list):
        if stated == "apache-2.0" and not any("licen" in name.lower() for name in documents):
            # It asks for a copy of itself, and is the same for all.
            documents[LICENCE_FILE] = read_licence(stated)
        return Terms(stated), documents

    name = metadata.get("license_name") if is_other else stated
    link = metadata.get("license_link")
    if isinstance(link, str) and not link.startswith(("https://", "http://")):
        link = _take_file(folder, link, documents) or (page and f"{page}/blob/main/{link.removeprefix('./')}")
    link = link if isinstance(link, str) else next(iter(documents), page)
    if isinstance(name, str) and (slug := re.sub("[^a-z0-9.-]+", "-", name.strip().lower()).strip("-")):
        return Terms(OTHER_LICENCE, slug, link), documents
    is_known = stated == OTHER_LICENCE or bool(documents)
    return Terms(OTHER_LICENCE, UNNAMED_LICENCE if is_known else UNKNOWN_LICENCE, link), documents


def _take_file(folder: Path | None, link: str, documents: dict[str, bytes]) -> str | None:
    """The name of a file that a card links to as its licence, which joins the documents; `None` if there is none."""
    is_inside = ".." not in Path(link).parts and not Path(link).is_absolute()
    if folder is None or not is_inside or not is_own_file(folder / link) or Path(link).name == CARD_FILE:
        return None
    file = folder / link
    documents.setdefault(file.name, file.read_bytes())
    return file.name


def read_licence(identifier: str) -> bytes:
    """The text of a licence by its identifier on the Hub: MIT of the original implementation, or Apache-2.0."""
    return (LICENCES / f"{identifier}.txt").read_bytes()


def _find_citations(*repo_ids: str | None) -> tuple[str, ...]:
    known = {each.base_model: each.citations for each in PRETRAINED_WEIGHTS.values() if each.base_model is not None}
    return tuple(dict.fromkeys(key for repo_id in repo_ids for key in known.get(repo_id, ())))


def describe_dataset(name: str) -> str:
    """A data set in Markdown: linked if it is on the Hub, otherwise by the last part of its path."""
    return f"[`{name}`]({HUB_URL}/datasets/{name})" if is_hub_id(name) else as_code(base_name(name))


def make_dataset_entry(name: str) -> dict[str, str]:
    """`type` and `name` of a data set in a model index, neither of which may be missing."""
    slug = re.sub("[^a-z0-9]+", "_", base_name(name).lower()).strip("_") or "dataset"
    return {"type": name if is_hub_id(name) else slug, "name": public_name(name)}


__all__ = [
    "OTHER_LICENCE",
    "UNKNOWN_LICENCE",
    "StartingWeights",
    "Terms",
    "describe_dataset",
    "find_starting_weights",
    "load_starting_weights",
    "make_dataset_entry",
]
