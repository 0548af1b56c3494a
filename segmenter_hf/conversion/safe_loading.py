"""Reads checkpoint files without ever executing what they contain."""

import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch
import yaml

from .errors import ConversionError


ZIP_MAGIC = b"PK\x03\x04"
HTML_STARTS = (b"<!doctype html", b"<html")

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


def load_torch_file(path: Path) -> Any:
    """
    Reads a file that `torch.save` wrote: tensors, on the CPU and mapped from the file where it allows that, and plain
    containers. Other Python objects, whose construction is a call that the file chooses, are refused.

    Raises:
        ConversionError: if the file cannot be read, is truncated or no PyTorch file, or holds anything else than
            tensors and containers.
    """
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise ConversionError(f"{path} cannot be read: {error.strerror}.") from error
    if start.lstrip().lower().startswith(HTML_STARTS):
        raise ConversionError(f"{path} is a web page, not a checkpoint. Did the download end on an error page?")
    try:
        with warnings.catch_warnings():
            # Guesses about files that are then refused.
            warnings.simplefilter("ignore", UserWarning)
            # Files written before PyTorch 1.6 are no zip archives, and cannot be mapped.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=start.startswith(ZIP_MAGIC))
    except UNREADABLE as error:
        forbidden = re.search(r"GLOBAL ([\w.]+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if forbidden:
            raise ConversionError(
                f"{path} is refused: beside tensors it holds Python objects ({forbidden[1]}), which could run code."
            ) from error
        raise ConversionError(f"{path} is truncated or not a PyTorch checkpoint.") from error


__all__ = ["VariantLoader", "load_torch_file", "load_yaml"]
