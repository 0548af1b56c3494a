"""Finds the file of a checkpoint's weights and reads it, whatever wrote it."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from .errors import ConversionError, refuse_os_errors
from .reporting import silence_libraries
from .safe_loading import LazyTensors, load_json, load_weights
from .state_dict import list_names


CONFIG_FILE = "config.json"
REPOSITORY_ID = re.compile(r"[\w.-]+/[\w.-]+")
WEIGHTS_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".npz", ".safetensors")
TRANSFORMERS_FILES = ("model.safetensors", "pytorch_model.bin")
# Of several files of weights in a folder the first of these is meant.
PREFERRED_FILES = ("checkpoint.pth", *TRANSFORMERS_FILES)
# Names under which training scripts wrap a state dict; the original's and DeiT's is `model`.
WRAPPERS = ("state_dict", "model", "model_state_dict", "module")
# Of the names in state dicts that were saved without unwrapping DistributedDataParallel.
PARALLEL_PREFIX = "module."


@dataclass(frozen=True)
class Source:
    """
    A checkpoint that was read.

    Args:
        path (`Path`): The file or folder that the user named.
        file (`Path`): The file that was read; beside it lie those that belong to it.
        contents (`Any`): The containers and tensors of a PyTorch file; the tensors of an `.npz` or `.safetensors` file
            by name, each read when it is asked for; or the `config.json` of a repository of transformers, whose
            weights are not read.
    """

    path: Path
    file: Path
    contents: Any

    @cached_property
    def unwrapped(self) -> Any:
        """The contents taken out of what they are wrapped in."""
        contents = self.contents
        for wrapper in WRAPPERS:
            if isinstance(contents, Mapping) and isinstance(contents.get(wrapper), Mapping):
                contents = contents[wrapper]
        return contents

    @cached_property
    def state_dict(self) -> Mapping[str, torch.Tensor]:
        """The tensors by name, without the prefix of parallel training if all have it; empty if there are none."""
        contents = self.unwrapped
        if not isinstance(contents, Mapping) or not all(isinstance(name, str) for name in contents):
            return {}
        return (
            strip_prefix(self.file, contents, PARALLEL_PREFIX) if has_prefix(contents, PARALLEL_PREFIX) else contents
        )

    def has_names(self, *names: str) -> bool:
        """Whether the state dict has entries of all these names."""
        return all(name in self.state_dict for name in names)


def has_prefix(names: Iterable[str], prefix: str) -> bool:
    """Whether there are names, and all start with `prefix`."""
    names = list(names)
    return bool(names) and all(name.startswith(prefix) for name in names)


def strip_prefix(file: Path, state_dict: Mapping[str, torch.Tensor], prefix: str) -> LazyTensors:
    """The tensors whose names start with `prefix`, by the rest of their names, each read when it is asked for."""
    names = [name.removeprefix(prefix) for name in state_dict if name.startswith(prefix)]
    return LazyTensors(file, names, lambda name: state_dict[prefix + name])


def find_weights_file(folder: Path) -> Path:
    """
    The file of weights in a folder.

    Raises:
        ConversionError: if there is none, or more than one and none has a name by which it is meant.
    """
    for name in PREFERRED_FILES:
        if (folder / name).is_file():
            return folder / name
    files = [file for file in folder.iterdir() if file.suffix in WEIGHTS_SUFFIXES and file.is_file()]
    if len(files) != 1:
        found = f"several: {list_names(file.name for file in files)}. Name one of them" if files else "none"
        kinds = " ".join(WEIGHTS_SUFFIXES)
        raise ConversionError(f"{folder} should hold one file of weights ({kinds}), but has {found}.")
    return files[0]


def fetch_repository(repo_id: str) -> Path:
    """
    The folder of a repository of the Hub, downloaded if it is not in the cache yet.

    Raises:
        ConversionError: if there is no such repository, or it cannot be reached.
    """
    try:
        with silence_libraries():
            folder = snapshot_download(repo_id, allow_patterns=["*.json", "*.safetensors"])
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise ConversionError(
            f"{repo_id} is no file or folder here, and cannot be had from the Hub: {str(error).splitlines()[0]}"
        ) from error
    return Path(folder)


def read_source(path: str | Path) -> Source:
    """
    Reads a checkpoint. What kind of file it is decides its content, not its name.

    Args:
        path (`str` or `Path`): A file of weights, or a folder that holds one; or the id of a repository of the Hub.

    Raises:
        ConversionError: if there is no such file, or it is truncated, holds anything but tensors and containers, or is
            no checkpoint at all.
    """
    if re.match(r"https?://", str(path)):
        raise ConversionError(f"{path} is an address. Download it and name the file, or pass --released NAME.")
    with refuse_os_errors(f"{path} cannot be read"):
        return _read_source(Path(path))


def _read_source(path: Path) -> Source:
    if not path.exists():
        if not REPOSITORY_ID.fullmatch(str(path)) or path.suffix in WEIGHTS_SUFFIXES:
            raise ConversionError(f"{path} does not exist.")
        path = fetch_repository(str(path))
    if path.name == CONFIG_FILE and path.is_file():
        path = path.parent
    if not path.is_dir() and not path.is_file():
        raise ConversionError(f"{path} is neither a file nor a folder.")
    config_file = (path if path.is_dir() else path.parent) / CONFIG_FILE
    if (path.is_dir() or path.name in TRANSFORMERS_FILES) and config_file.is_file():
        config = load_json(config_file)
        # timm's repositories have a file of that name too, in which there is no such field.
        if "model_type" in config:
            return Source(path, config_file, config)
    file = find_weights_file(path) if path.is_dir() else path
    return Source(path, file, load_weights(file))


__all__ = ["TRANSFORMERS_FILES", "Source", "read_source", "strip_prefix"]
