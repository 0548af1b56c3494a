"""
Hides secrets and places on the user's disk in what may be published: names of data and weights, commands, messages
and figures. A path keeps its last part; a secret keeps nothing.
"""

import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id


# The user tokens of the Hub look like this.
HUB_TOKEN = re.compile(r"hf_[A-Za-z0-9]{16,}")
# The values of these flags and variables of the environment are nobody's business.
SECRET_FLAG = re.compile(r"--?(\w+[_-])?(token|api[_-]?key|secret|password)", re.IGNORECASE)
SECRET_VARIABLE = re.compile(r"\w*(TOKEN|API_?KEY|SECRET|PASSWORD)\w*=")
# A file is never a repository, although it may be called like one.
FILE_SUFFIXES = {".bin", ".json", ".npz", ".parquet", ".pt", ".pth", ".safetensors", ".yaml", ".yml", ".zip"}
IS_OUTSIDE = re.compile(r"[/\\]|~[^/]*(/|$)|[A-Za-z]:[/\\]|\.\.([/\\]|$)")
# These find absolute paths inside a word, such as JSON: in quotation marks whatever it has, elsewhere as long as it is
# no part of an address, a relative path or a fraction.
QUOTED_PATH = re.compile(r"""(["'])((?:~[^/"']*|[A-Za-z]:)?[/\\][^"']*)\1""")
BARE_PATH = re.compile(r"(?<![\w.:/~\\])(?:[A-Za-z]:\\|~?/)(?:[^\s\"',;:=/\\]+[/\\])*([^\s\"',;:=/\\]+)")


def is_hub_id(name: str | None) -> bool:
    """
    Whether a name is that of a repository on the Hub, `owner/name`, and not of something on this disk. The Hub is not
    asked: a path that is wrong may look like an id.
    """
    if name is None or name.count("/") != 1 or Path(name).suffix.lower() in FILE_SUFFIXES:
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not Path(name).exists()


def base_name(name: str) -> str:
    """The last part of a path: the name of a folder or file without where it is."""
    parts = [part for part in re.split(r"[/\\]", name) if part not in ("", ".")]
    if not parts or parts[-1] == "..":
        return Path(name).resolve().name or name
    return parts[-1]


def public_name(name: str) -> str:
    """What a card calls a data set or weights: an id of the Hub as it is, of a path its last part."""
    return name if is_hub_id(name) else base_name(name)


def redact_command(command: str) -> str:
    """
    A command line without what tells of the machine: of paths that are absolute or lead out of the working directory
    the last part is left, tokens and other secrets go, other relative paths and addresses stay.

    Example:

    ```python
    >>> from segmenter_hf.redaction import redact_command

    >>> redact_command("/opt/venv/bin/python scripts/train.py --dataset_name /data/camvid --hub_token hf_x --seed 0")
    'python scripts/train.py --dataset_name camvid --seed 0'

    ```"""
    command = command.replace("\\\n", " ")
    try:
        words = shlex.split(command)
    # A quotation mark may never be closed.
    except ValueError:
        words = command.split()
    return shlex.join(map(_redact_word, drop_secrets(words)))


def drop_secrets(words: Iterable[str]) -> list[str]:
    """The words of a command line without tokens, keys and passwords, and without the flags that take them."""
    kept, is_secret = [], False
    for word in words:
        flag, equals, _ = word.partition("=")
        if is_secret and not word.startswith("-"):
            is_secret = False
            continue
        is_secret = bool(SECRET_FLAG.fullmatch(flag)) and not equals
        if not SECRET_FLAG.fullmatch(flag) and not SECRET_VARIABLE.match(word):
            kept.append(word)
    return kept


def redact_text(text: str) -> str:
    """A text, such as a message, without tokens, and with the last part only of paths that are absolute."""
    text = QUOTED_PATH.sub(lambda match: f"{match[1]}{base_name(match[2])}{match[1]}", text)
    return HUB_TOKEN.sub("hf_...", BARE_PATH.sub(r"\1", text))


def redact_json(value: Any, key: str | None = None) -> Any:
    """
    What a file of JSON holds, such as figures or the state of a trainer, without what tells of the machine in any of
    its texts.

    Args:
        value: What is in the file.
        key (`str`, *optional*): What it is called there.
    """
    if isinstance(value, Mapping):
        return {name: redact_json(each, name) for name, each in value.items()}
    if isinstance(value, list):
        return [redact_json(each) for each in value]
    if not isinstance(value, str):
        return value
    if key == "command":
        return redact_command(value)
    return base_name(value) if IS_OUTSIDE.match(value) else redact_text(value)


def redact_results(results: Mapping[str, Any]) -> dict[str, Any]:
    """
    What an evaluation measured, without what tells of the machine, to be published as it is.

    Args:
        results (`Mapping`): What [`~segmenter_hf.evaluation.results.make_results`] returned.
    """
    dataset, command = results["dataset"], results["command"]
    return {
        **results,
        "model": public_name(results["model"]),
        "dataset": {**dataset, "name": public_name(dataset["name"])},
        "command": None if command is None else redact_command(command),
    }


def _redact_word(word: str) -> str:
    flag, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
    value = value.removeprefix("file://")
    if IS_OUTSIDE.match(value):
        value = base_name(value)
    return redact_text(flag + equals + value)


__all__ = [
    "HUB_TOKEN",
    "base_name",
    "drop_secrets",
    "is_hub_id",
    "public_name",
    "redact_command",
    "redact_json",
    "redact_results",
    "redact_text",
]
