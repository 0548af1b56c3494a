"""
Pushes a folder that training wrote: the model, what it needs, its card, notices and licences, and its figures. What
else is in such a folder (checkpoints, states of optimisers, pickled arguments) stays where it is.
"""

import json
import re
import tempfile
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers.utils import CONFIG_NAME, IMAGE_PROCESSOR_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from ..conversion.convert import CARD_FILE, CODE_FILES
from ..outputs import write_text
from ..redaction import HUB_TOKEN, redact_json
from .client import ManifestEntry, PushError, check_access, push_folder
from .documents import is_document


# `Trainer`, the loop on accelerate and evaluation call their figures so, and the course of the run.
FIGURE_FILE = re.compile(r"(\w+_)?results([_-][\w.-]+)?\.json|trainer_state\.json")


def check_repository(repo_id: str, token: str | None = None, api: HfApi | None = None) -> str:
    """
    Whether a repository can be pushed to, as far as it can be told before training.

    Args:
        repo_id (`str`): `owner/name`, or the name alone for a repository of the user.
        token (`str`, *optional*): Default: that of `hf auth login`, or HF_TOKEN.
        api (`HfApi`, *optional*): The client. Default: one of the usual endpoint.

    Returns:
        `str`: `owner/name`.

    Raises:
        AccessError: if the token is missing, wrong, may only read, or is of no member of the owner.
        PushError: if no repository can be called that, or the Hub cannot be reached.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise PushError(
            f"{repo_id!r} cannot be the name of a repository on the Hub: {error} Pass another with --hub_model_id."
        ) from error
    owner, _, name = repo_id.rpartition("/")
    return f"{check_access(api or HfApi(token=token), owner or None)}/{name}"


def save_card(card: ModelCard, folder: str | Path):
    """Writes a card as README.md of a folder, which is complete or not there."""
    write_text(Path(folder) / CARD_FILE, str(card))


def list_trained_files(folder: str | Path) -> list[str]:
    """
    The files of a trained model's folder that belong into its repository.

    Args:
        folder (`str` or `Path`): What `--output_dir` named.

    Returns:
        `list[str]`: their names, sorted.

    Raises:
        PushError: if config, weights, image processor or the code that they name are missing, or a file that would be
            read by the world holds a token of the Hub.
    """
    folder = Path(folder)
    present = {path.name for path in folder.iterdir() if path.is_file()} if folder.is_dir() else set()
    needed = {CONFIG_NAME, IMAGE_PROCESSOR_NAME}
    if SAFE_WEIGHTS_NAME in present or SAFE_WEIGHTS_INDEX_NAME not in present:
        needed.add(SAFE_WEIGHTS_NAME)
    else:
        index = _read_json(folder / SAFE_WEIGHTS_INDEX_NAME)
        needed |= {SAFE_WEIGHTS_INDEX_NAME, *index.get("weight_map", {}).values()}
    for name in (CONFIG_NAME, IMAGE_PROCESSOR_NAME):
        if name in present:
            needed |= _find_code(_read_json(folder / name).get("auto_map", {}))
    missing = sorted(needed - present)
    if missing:
        raise PushError(f"{folder} is no folder of a trained model: it lacks {', '.join(missing)}. Train to the end.")
    others = {
        name
        for name in present
        if name in {*CODE_FILES, CARD_FILE} or FIGURE_FILE.fullmatch(name) or is_document(name)
    }
    names = sorted(needed | others)
    # A command line with a token may have got into each of them.
    for name in names:
        if (name.endswith((".json", ".md")) or is_document(name)) and HUB_TOKEN.search(
            (folder / name).read_text("utf-8", "replace")
        ):
            raise PushError(f"{folder / name} holds a token of the Hub. Remove it, and revoke the token if it is out.")
    return names


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PushError(f"{path} cannot be read: {error}. Train again, or copy it anew.") from error


def _find_code(auto_map: dict) -> set[str]:
    """The files whose classes load a model: `module.Class`, of an image processor one for each backend."""
    references = [
        reference
        for entry in auto_map.values()
        for reference in (entry.values() if isinstance(entry, dict) else [entry])
    ]
    # What is in another repository need not be pushed.
    return {f"{reference.partition('.')[0]}.py" for reference in references if "--" not in reference}


def push_trained(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str | None = None,
    api: HfApi | None = None,
) -> list[ManifestEntry]:
    """
    Brings a repository to the state of a trained model's folder, in one commit of what differs; in none, if nothing
    does. A push that was interrupted continues when it is run again. Other files in the repository are left alone.
    Paths of this machine in figures, such as that of the best checkpoint, are cut to their last part on the way.

    Args:
        folder (`str` or `Path`): What `--output_dir` named.
        repo_id (`str`): `owner/name`, or the name alone for a repository of the user. It is made if there is none.
        private (`bool`, *optional*): Whether a new one is private. Default: what its owner has set.
        token (`str`, *optional*): Default: that of `hf auth login`, or HF_TOKEN.
        commit_message (`str`, *optional*): What the commit is called.
        api (`HfApi`, *optional*): The client. Default: one of the usual endpoint.

    Returns:
        `list[ManifestEntry]`: the files that were uploaded.

    Raises:
        AccessError: if the Hub does not let the token do this.
        PushError: if the folder is not complete, see [`list_trained_files`], or the Hub fails.
    """
    folder = Path(folder)
    names = list_trained_files(folder)
    api = api or HfApi(token=token)
    repo_id = check_repository(repo_id, api=api)
    with tempfile.TemporaryDirectory(prefix="segmenter-") as staged:
        for name in names:
            _stage(folder / name, Path(staged) / name)
        title = commit_message or "Upload the trained model"
        return push_folder(api, Path(staged), repo_id, private=private, title=title)


def _stage(file: Path, staged: Path):
    """A file as the world may see it: figures without paths of this machine, everything else as it is."""
    if FIGURE_FILE.fullmatch(file.name):
        contents = _read_json(file)
        public = redact_json(contents)
        if public != contents:
            staged.write_text(json.dumps(public, indent=2) + "\n", encoding="utf-8")
            return
    staged.symlink_to(file.absolute())


__all__ = ["check_repository", "list_trained_files", "push_trained", "save_card"]
