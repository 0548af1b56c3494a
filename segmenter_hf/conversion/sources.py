"""Finds the file of a checkpoint's weights and reads it, whatever wrote it."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from transformers.utils import CONFIG_NAME

from .errors import ConversionError, refuse_os_errors
from .reporting import silence_libraries
from .safe_loading import LazyTensors, load_json, load_weights
from .state_dict import list_names


REPOSITORY_ID = re.compile(r"[\w.-]+/[\w.-]+")
WEIGHTS_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".npz", ".safetensors")
TRANSFORMERS_FILES = ("model.safetensors", "pytorch_model.bin")
# The first of these that a folder has is the one that is meant.
PREFERRED_FILES = ("checkpoint.pth", *TRANSFORMERS_FILES)
# Training scripts wrap a state dict under these names; the original and DeiT under `model`.
WRAPPERS = ("state_dict", "model", "model_state_dict", "module")
# torch.compile, FSDP and activation checkpointing put these into the names of what they wrap, a model or a part of it.
WRAPPED_PARTS = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# So many modules may be around a model, each with a prefix of its own, as in `module.model.net.`.
MAX_PREFIXES = 8


class MissingSource(ConversionError):
    """There is no such file or folder, nor such a repository of the Hub."""


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
        prefix (`str`): What stands before the names of all weights, and is left out of them.
        allow_missing_checksums (`bool`): See [`read_source`].
        weights_files (`list[Path]`): The files of weights that were read.
    """

    path: Path
    file: Path
    contents: Any
    prefix: str = ""
    allow_missing_checksums: bool = False
    weights_files: list[Path] = field(default_factory=list)

    def read_weights(self, file: Path) -> Any:
        """What a file of weights holds, see [`~segmenter_hf.conversion.safe_loading.load_weights`]."""
        self.weights_files.append(file)
        return load_weights(file, self.allow_missing_checksums)

    @cached_property
    def unwrapped(self) -> Any:
        """The contents taken out of what they are wrapped in."""
        contents = self.contents
        for wrapper in WRAPPERS:
            if isinstance(contents, Mapping) and isinstance(contents.get(wrapper), Mapping):
                contents = contents[wrapper]
        # A single state dict under any other name is meant too. Of several only the user knows which.
        values = contents.values() if isinstance(contents, dict) else []
        state_dicts = [value for value in values if is_state_dict(value)]
        return state_dicts[0] if len(state_dicts) == 1 else contents

    @cached_property
    def state_dict(self) -> Mapping[str, torch.Tensor]:
        """The tensors by name, without what wrappers put into the names, and the prefix; empty if there are none."""
        contents = self.unwrapped
        if not isinstance(contents, Mapping) or not all(isinstance(name, str) for name in contents):
            return {}
        contents = strip_wrapped_parts(self.file, contents)
        return strip_prefix(self.file, contents, self.prefix) if self.prefix else contents


def is_state_dict(value: Any) -> bool:
    """Whether a value in a PyTorch file is a dictionary of tensors by name."""
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(name, str) for name in value)
        and all(map(torch.is_tensor, value.values()))
    )


def list_prefixes(names: Iterable[str]) -> Iterator[str]:
    """What may be left out of names, since all begin with it: nothing, then one word after the other."""
    yield ""
    # torch's AveragedModel keeps a counter beside the weights that it has averaged.
    common = os.path.commonprefix([name for name in names if name != "n_averaged"])
    for separator in islice(re.finditer(r"[./]", common), MAX_PREFIXES):
        yield common[: separator.end()]


def strip_wrapped_parts(file: Path, state_dict: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """The tensors by their names without what wrappers have put into them."""
    names = {WRAPPED_PARTS.sub("", name): name for name in state_dict}
    if len(names) < len(state_dict) or list(names) == list(state_dict):
        return state_dict
    return LazyTensors(file, names, lambda name: state_dict[names[name]])


def strip_prefix(file: Path, state_dict: Mapping[str, torch.Tensor], prefix: str) -> LazyTensors:
    """The tensors whose names start with `prefix`, by the rest of their names, each read when it is asked for."""
    names = [name.removeprefix(prefix) for name in state_dict if name.startswith(prefix)]
    return LazyTensors(file, names, lambda name: state_dict[prefix + name])


def find_weights_file(folder: Path) -> Path:
    """The file of weights in a folder."""
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
    """The folder of a repository of the Hub, downloaded if it is not in the cache yet."""
    try:
        with silence_libraries():
            folder = snapshot_download(repo_id, allow_patterns=["*.json", "*.safetensors"])
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise MissingSource(
            f"{repo_id} is no file or folder here, and cannot be had from the Hub: {str(error).splitlines()[0]}"
        ) from error
    return Path(folder)


def read_source(path: str | Path, allow_missing_checksums: bool = False) -> Source:
    """
    Reads a checkpoint. What kind of file it is decides its content, not its name.

    Args:
        path (`str` or `Path`): A file of weights, or a folder that holds one; or the id of a repository of the Hub.
        allow_missing_checksums (`bool`, *optional*, defaults to `False`): Whether files of `torch.save` may be without
            checksums that could hold some.
    """
    if re.match(r"https?://", str(path)):
        raise ConversionError(f"{path} is an address. Download it and name the file, or name a released checkpoint.")
    with refuse_os_errors(f"{path} cannot be read"):
        path = Path(path)
        if not path.exists():
            if not REPOSITORY_ID.fullmatch(str(path)) or path.suffix in WEIGHTS_SUFFIXES:
                raise MissingSource(f"{path} does not exist.")
            path = fetch_repository(str(path))
        if path.name == CONFIG_NAME and path.is_file():
            path = path.parent
        if not path.is_dir() and not path.is_file():
            raise ConversionError(f"{path} is neither a file nor a folder.")
        config_file = (path if path.is_dir() else path.parent) / CONFIG_NAME
        if (path.is_dir() or path.name in TRANSFORMERS_FILES) and config_file.is_file():
            config = load_json(config_file)
            # timm's repositories have a file of that name too, in which there is no such field.
            if "model_type" in config:
                return Source(path, config_file, config, allow_missing_checksums=allow_missing_checksums)
        file = find_weights_file(path) if path.is_dir() else path
        return Source(path, file, load_weights(file, allow_missing_checksums), weights_files=[file])


__all__ = ["TRANSFORMERS_FILES", "MissingSource", "Source", "list_prefixes", "read_source", "strip_prefix"]
