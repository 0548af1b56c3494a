"""Reads checkpoint files without ever executing what they contain."""

import io
import json
import pickle
import pickletools
import re
import warnings
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors import SafetensorError, safe_open

from .errors import ConversionError


ZIP_MAGIC = b"PK\x03\x04"
HTML_STARTS = (b"<!doctype html", b"<html")
# The longest that the format allows.
MAX_SAFETENSORS_HEADER = 100_000_000

# Checkpoints of MMSegmentation hold, beside the weights, objects of these packages: the log, hooks, configs.
PLACEHOLDER_PACKAGES = ("mmengine", "mmcv", "mmseg")
# By these the log's arrays are pickled. They are not constructed either: their arguments could make NumPy read memory
# that is not its own.
NUMPY_GLOBALS = {
    f"numpy.{name}"
    for core in ("core", "_core")
    for name in (f"{core}.multiarray._reconstruct", f"{core}.multiarray.scalar", "ndarray", "dtype")
}

# A weights-only load interprets a small pickle machine. Bytes that are no checkpoint, or no longer one, make it fail
# anywhere: unknown opcodes, an empty stack, text that is not UTF-8, arguments that do not fit, missing records.
UNREADABLE = (
    pickle.UnpicklingError,
    EOFError,
    OSError,
    RuntimeError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    zipfile.BadZipFile,
    zlib.error,
    SafetensorError,
)


class VariantLoader(yaml.SafeLoader):
    """
    YAML's safe loader, taught the one Python tag that the original implementation writes: `!!python/tuple`, for
    `image_size`. Any other Python tag, such as those that call functions, stays an error.
    """

    def construct_python_tuple(self, node: yaml.Node) -> tuple:
        # Deep, because a tuple cannot be filled later as the loader fills lists.
        return tuple(self.construct_sequence(node, deep=True))


VariantLoader.add_constructor("tag:yaml.org,2002:python/tuple", VariantLoader.construct_python_tuple)


def load_yaml(path: Path) -> dict[str, Any]:
    """
    Reads a YAML file whose top level is a mapping, with [`VariantLoader`].

    Raises:
        ConversionError: if the file cannot be read, is no such YAML, or has a tag that would construct Python objects.
    """
    try:
        values = yaml.load(path.read_bytes(), Loader=VariantLoader)
    except OSError as error:
        raise ConversionError(f"{path} cannot be read: {error.strerror}.") from error
    except yaml.constructor.ConstructorError as error:
        raise ConversionError(f"{path} is refused: {error.problem}.") from error
    # Nesting without end exhausts the parser's recursion, and `2021-13-32` is taken for a date, in vain.
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConversionError(f"{path} is not valid YAML: {error}.") from error
    if not isinstance(values, dict):
        raise ConversionError(f"{path} does not hold a mapping of names to values, but a {type(values).__name__}.")
    return values


class Placeholder:
    """
    Stands for an instance of a class that is not imported. It takes whatever the file constructs it with and keeps
    nothing of it.
    """

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state: Any):
        pass


def get_placeholder_attribute(owner: Any, name: str) -> Placeholder:
    """Stands for `getattr`, by which files of mmengine refer to methods of its classes, and of nothing else."""
    if not (isinstance(owner, type) and issubclass(owner, Placeholder)):
        raise pickle.UnpicklingError(f"Unsupported global: GLOBAL builtins.getattr of {owner!r}")
    return Placeholder()


def make_placeholders(path: Path) -> list[tuple[Any, str]]:
    """
    What stands for the classes of MMSegmentation's libraries that a PyTorch file refers to, as torch's `safe_globals`
    takes it: pairs of a stand-in and the name that it stands for. Only names are read, nothing is constructed.
    """
    placeholders = []
    for name in list_globals(path):
        if name.partition(".")[0] in PLACEHOLDER_PACKAGES or name in NUMPY_GLOBALS:
            # Their configs are dictionaries whose items matter: the names of labels, say.
            is_config = name.rpartition(".")[2] == "ConfigDict"
            placeholders.append((OrderedDict if is_config else type("Placeholder", (Placeholder,), {}), name))
    if placeholders:
        placeholders.append((get_placeholder_attribute, "builtins.getattr"))
    return placeholders


def list_globals(path: Path) -> set[str]:
    """
    The dotted names of the functions and classes that a PyTorch file refers to, found without unpickling it.

    Raises:
        Any of `UNREADABLE`: if the file is no PyTorch file.
    """
    names = set()
    with path.open("rb") as file:
        if file.read(len(ZIP_MAGIC)) == ZIP_MAGIC:
            with zipfile.ZipFile(path) as archive:
                (record,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
                pickles = [io.BytesIO(archive.read(record))]
        else:
            # A magic number, a version and the system's properties precede the object, each pickled by itself.
            file.seek(0)
            pickles = [file] * 4
        for pickled in pickles:
            for opcode, argument, _ in pickletools.genops(pickled):
                if opcode.name == "GLOBAL":
                    names.add(argument.replace(" ", "."))
    return names


def clear_attributes(contents: Any) -> Any:
    """
    Returns what a file holds after taking away the attributes that it sets on dictionaries and tensors, where they
    would stand in for methods, such as `get`.
    """
    remaining, seen = [contents], set()
    while remaining:
        value = remaining.pop()
        if id(value) in seen or not isinstance(value, (dict, list, tuple, torch.Tensor)):
            continue
        seen.add(id(value))
        getattr(value, "__dict__", {}).clear()
        if not isinstance(value, torch.Tensor):
            remaining.extend(dict.values(value) if isinstance(value, dict) else value)
    return contents


def load_torch_file(path: Path) -> Any:
    """
    Reads a file that `torch.save` wrote: tensors, on the CPU and mapped from the file where it allows that, and plain
    containers. Objects of mmengine, mmcv and mmseg, and NumPy's arrays, become inert placeholders. Any other Python
    object, whose construction is a call that the file chooses, is refused.

    Raises:
        ConversionError: if the file cannot be read, is truncated or no PyTorch file, or holds other objects.
    """
    start = read_start(path)
    if start.lstrip().lower().startswith(HTML_STARTS):
        raise ConversionError(f"{path} is a web page, not a checkpoint. Did the download end on an error page?")
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(make_placeholders(path)):
            # Guesses about files that are then refused.
            warnings.simplefilter("ignore", UserWarning)
            # Files written before PyTorch 1.6 are no zip archives, and cannot be mapped. Of a path torch minds the
            # suffix, if it is that of another format, rather than the contents.
            is_mapped = start.startswith(ZIP_MAGIC) and path.suffix != ".safetensors"
            with path.open("rb") as file:
                contents = torch.load(
                    path if is_mapped else file, map_location="cpu", weights_only=True, mmap=is_mapped
                )
        return clear_attributes(contents)
    except UNREADABLE as error:
        forbidden = re.search(r"GLOBAL ([\w.]+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if forbidden:
            raise ConversionError(
                f"{path} is refused: beside tensors it holds Python objects ({forbidden[1]}), which could run code."
            ) from error
        raise ConversionError(f"{path} is truncated or not a PyTorch checkpoint.") from error


def read_start(path: Path) -> bytes:
    """
    The first bytes of a file.

    Raises:
        ConversionError: if it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(512)
    except OSError as error:
        raise ConversionError(f"{path} cannot be read: {error.strerror}.") from error


def is_safetensors(path: Path) -> bool:
    """Whether a file starts as those of safetensors do: the length of a JSON object, and its brace."""
    start = read_start(path)
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") < MAX_SAFETENSORS_HEADER


def is_npz(path: Path) -> bool:
    """Whether a file is a zip archive of NumPy arrays, and not one of PyTorch."""
    if not read_start(path).startswith(ZIP_MAGIC):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".npy") for name in archive.namelist())
    # Without its end there is no list of the names in it, and the start tells of the first only.
    except UNREADABLE:
        return b".npy" in read_start(path)


class LazyTensors(Mapping[str, torch.Tensor]):
    """
    The tensors of a file by name, each read when it is asked for, so that a whole file is never in memory twice.

    Args:
        path (`Path`): The file, to name it in errors.
        names (`Iterable[str]`): What it holds.
        read (`Callable[[str], torch.Tensor]`): Reads the tensor of a name.
    """

    def __init__(self, path: Path, names: Iterable[str], read: Callable[[str], torch.Tensor]):
        self.path, self.names, self.read = path, dict.fromkeys(names), read

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self.names:
            raise KeyError(name)
        try:
            return self.read(name)
        except UNREADABLE as error:
            raise ConversionError(f"{name} of {self.path} cannot be read: {error}.") from error

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def load_npz(path: Path) -> LazyTensors:
    """
    Opens a file of NumPy arrays. Arrays of Python objects, which are pickled, are refused when they are read.

    Raises:
        ConversionError: if the file is truncated or no such file.
    """
    try:
        arrays = np.load(path, allow_pickle=False)
        return LazyTensors(path, arrays.files, lambda name: torch.from_numpy(arrays[name]))
    except UNREADABLE as error:
        raise ConversionError(f"{path} is truncated or not a file of NumPy arrays.") from error


def load_safetensors(path: Path) -> LazyTensors:
    """
    Opens a `.safetensors` file.

    Raises:
        ConversionError: if the file is truncated or no such file.
    """
    try:
        file = safe_open(path, framework="pt")
        return LazyTensors(path, file.keys(), file.get_tensor)
    except UNREADABLE as error:
        raise ConversionError(f"{path} is truncated or not a safetensors file: {error}.") from error


def load_json(path: Path) -> dict[str, Any]:
    """
    Reads a JSON file whose top level is an object.

    Raises:
        ConversionError: if the file cannot be read or is no such JSON.
    """
    try:
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise ConversionError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise ConversionError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(values, dict):
        raise ConversionError(f"{path} does not hold a JSON object, but a {type(values).__name__}.")
    return values


__all__ = [
    "VariantLoader",
    "is_npz",
    "is_safetensors",
    "load_json",
    "load_npz",
    "load_safetensors",
    "load_torch_file",
    "load_yaml",
]
