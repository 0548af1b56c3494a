"""
Reads the files of checkpoints, which are from the net: anybody may have written any byte of them. A file must not

- run code, by pickled objects, tags of YAML or arrays of objects;
- fill the memory, by a few bytes that stand for many;
- hang the converter or crash Python, by work or nesting without end, or because it is a pipe.

Much of that is guaranteed by the libraries: torch's weights-only load calls nothing but its own list of functions,
YAML's safe loader and NumPy without pickles construct plain data, and safetensors, NumPy and Python's parsers stop at
lengths that the file does not have. The guards here are for what these leave open, and each names its threat. Weights
that are wrong on purpose are none: a file may hold any numbers.
"""

import io
import json
import mmap
import pickle
import pickletools
import re
import warnings
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
import yaml
from safetensors import SafetensorError, safe_open

from ..inputs import check_regular_file, read_bytes
from .checksums import check_records, has_checksums
from .errors import ConversionError, refuse_os_errors
from .other_files import START_LENGTH, TORCHSCRIPT, OtherFile, recognise_other_file


ZIP_MAGIC = b"PK\x03\x04"
# The format allows no longer one; bytes of text, taken for a length, would be longer.
MAX_SAFETENSORS_HEADER = 100_000_000
# Memory and hanging: YAML's parser is slow, and takes a hundred times the text's memory. A variant.yml has some two
# thousand bytes.
MAX_YAML_LENGTH = 2**17
# Memory: the largest configs have the names of 21,843 labels, twice.
MAX_JSON_LENGTH = 2**24
# Memory: how many times larger than its archive the arrays in an `.npz` may be. Weights hardly compress, by a tenth or
# less; the bytes are for arrays of zeros in files that are small.
MAX_NPZ_RATIO = 10
NPZ_ALLOWANCE = 2**24
# Hanging: a tuple of tuples may be built of itself, so that to hash it, as a key, takes forever, or so deep that it
# crashes Python. Those in checkpoints, arguments for tensors, contain a handful of others.
MAX_NESTED_TUPLES = 1000

# Checkpoints of MMSegmentation hold, beside the weights, objects of these packages: the log, hooks, configs.
PLACEHOLDER_PACKAGES = ("mmengine", "mmcv", "mmseg")
# Code: by these the log's arrays are pickled. They are not constructed either, since their arguments could make NumPy
# read memory that is not its own.
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
    # Lengths and shapes may be beyond any memory.
    MemoryError,
    ArithmeticError,
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

    def flatten_mapping(self, node: yaml.MappingNode):
        for key, _ in node.value:
            # Memory: merging copies, so a few mappings, each merged of the one before twice, would fill it.
            if key.tag == "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(problem="it merges mappings (<<), which no training writes")
            # Hanging: to hash a tuple that contains another twice, and that one another twice, takes forever.
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(problem="it has a key that is no text or number")


VariantLoader.add_constructor("tag:yaml.org,2002:python/tuple", VariantLoader.construct_python_tuple)


def load_yaml(path: Path) -> dict[str, Any]:
    """
    Reads a YAML file whose top level is a mapping, with [`VariantLoader`].

    Raises:
        ConversionError: if the file cannot be read, is no such YAML, or has a tag that would construct Python objects.
    """
    with refuse_os_errors(f"{path} cannot be read"):
        contents = read_bytes(path, MAX_YAML_LENGTH)
    try:
        values = yaml.load(contents, Loader=VariantLoader)
    except yaml.constructor.ConstructorError as error:
        raise ConversionError(f"{path} is refused: {error.problem}.") from error
    # Nesting without end exhausts the parser's recursion, and `2021-13-32` is no date.
    except (yaml.YAMLError, RecursionError, ValueError, ArithmeticError) as error:
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
    """Stands for `getattr`, by which files of mmengine refer to methods of its classes."""
    # Code: from anything else it would lead on to functions that are not on torch's list.
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
        ConversionError: if the file is no checkpoint, or tuples in it would take forever.
        Any of `UNREADABLE`: if the file is no PyTorch file.
    """
    with path.open("rb") as file:
        if file.read(len(ZIP_MAGIC)) != ZIP_MAGIC:
            # Memory: a file that is asked for as many bytes as a hostile one claims to hold takes memory for them,
            # which one that is mapped does not.
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                # A magic number, a version and the system's properties precede the object, and the names of the
                # tensors' data follow, each pickled by itself.
                return scan_pickles(path, [mapped] * 5)
    with zipfile.ZipFile(path) as archive:
        (record,) = (record for record in archive.infolist() if record.filename.endswith("/data.pkl"))
        # Its checksum, if it has one, was compared already.
        record.CRC = None
        return scan_pickles(path, [io.BytesIO(archive.read(record))])


def check_torch_archive(path: Path, allow_missing_checksums: bool):
    """
    Checks a zip archive that `torch.save` wrote, before anything in it is used.

    Raises:
        ConversionError: if the archive is one of TorchScript, or its records are compressed, which `torch.save` never
            does, and which lets a small file hold gigabytes; if they do not fit their checksums, or have none and
            that is not allowed.
        Any of `UNREADABLE`: if it is no such archive.
    """
    with zipfile.ZipFile(path) as archive:
        if any(name.endswith("/constants.pkl") for name in archive.namelist()):
            raise refuse_other_file(path, TORCHSCRIPT)
        records = archive.infolist()
        # Memory: compressed records may be of any length. Hanging: so many records may lie over each other that to
        # check them all takes forever.
        is_larger = sum(record.file_size for record in records) > path.stat().st_size
        if is_larger or any(record.compress_type != zipfile.ZIP_STORED for record in records):
            raise ConversionError(
                f"{path} is refused: its records are compressed or overlap, unlike those of torch.save."
            )
        if has_checksums(archive):
            check_records(path, archive)
        elif not allow_missing_checksums:
            raise ConversionError(
                f"{path} was saved without checksums (torch.serialization.set_crc32_options(False)), so whether it is "
                "damaged cannot be told. If you know that it is not, by its SHA-256 say, convert it by "
                "convert_checkpoint.py --allow_missing_checksums."
            )


def scan_pickles(path: Path, pickles: Iterable[IO[bytes] | mmap.mmap]) -> set[str]:
    """The dotted names in pickles, one after the other. See [`list_globals`]."""
    names = set()
    for pickled in pickles:
        # How many tuples each value on the pickle machine's stack contains, itself among them.
        stack, marks, memo = [], [], {}
        for opcode, argument, _ in pickletools.genops(pickled):
            if opcode.name == "GLOBAL":
                names.add(argument.replace(" ", "."))
                # Memory: torch lets a file make one of any length, by its number alone.
                if argument.endswith(" bytearray"):
                    raise ConversionError(f"{path} is refused: it holds a bytearray, which no training writes.")
            if opcode.name == "MARK":
                marks.append(len(stack))
            elif opcode.name in ("BINGET", "LONG_BINGET"):
                stack.append(memo[argument])
            elif opcode.name in ("BINPUT", "LONG_BINPUT"):
                memo[argument] = stack[-1]
            else:
                num_tuples = _pop_arguments(opcode, stack, marks)
                num_tuples = num_tuples + 1 if "TUPLE" in opcode.name else 0
                if num_tuples > MAX_NESTED_TUPLES:
                    raise ConversionError(f"{path} is refused: it nests tuples without end.")
                stack.extend([num_tuples] * len(opcode.stack_after))
    return names


def _pop_arguments(opcode: pickletools.OpcodeInfo, stack: list[int], marks: list[int]) -> int:
    """Takes from the stack what an operation of the pickle machine does, and returns the sum of it."""
    arguments = opcode.stack_before
    if pickletools.markobject in arguments:
        start = marks.pop() - arguments.index(pickletools.markobject)
    else:
        start = len(stack) - len(arguments)
    num_tuples = sum(stack[start:])
    del stack[start:]
    return num_tuples


def load_torch_file(path: Path, allow_missing_checksums: bool = False) -> Any:
    """
    Reads a file that `torch.save` wrote: tensors, on the CPU and mapped from the file where it allows that, and plain
    containers. Objects of mmengine, mmcv and mmseg, and NumPy's arrays, become inert placeholders. Any other Python
    object, whose construction is a call that the file chooses, is refused.

    Args:
        path (`Path`): The file.
        allow_missing_checksums (`bool`, *optional*, defaults to `False`): Whether a zip archive may hold no checksums,
            as `torch.save` writes it after `torch.serialization.set_crc32_options(False)`. Files from before PyTorch
            1.6, which are no zip archives, never hold any.

    Raises:
        ConversionError: if the file cannot be read, is truncated, damaged or no PyTorch file, or holds other objects.
    """
    start = read_start(path)
    other = recognise_other_file(start)
    if other is not None:
        raise refuse_other_file(path, other)
    is_zip = start.startswith(ZIP_MAGIC)
    try:
        if is_zip:
            check_torch_archive(path, allow_missing_checksums)
        with warnings.catch_warnings(), torch.serialization.safe_globals(make_placeholders(path)):
            # They are guesses about files that are then refused.
            warnings.simplefilter("ignore", UserWarning)
            # Files written before PyTorch 1.6 are no zip archives, and cannot be mapped. To map a file torch takes its
            # path, minds a suffix of another format more than the contents, and takes no name that is not UTF-8.
            is_mapped = is_zip and path.suffix != ".safetensors" and str(path).isprintable()
            with path.open("rb") as file:
                return torch.load(path if is_mapped else file, map_location="cpu", weights_only=True, mmap=is_mapped)
    except ConversionError:
        raise
    except UNREADABLE as error:
        forbidden = re.search(r"GLOBAL ([\w.]+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if forbidden:
            raise ConversionError(
                f"{path} is refused: beside tensors it holds Python objects ({forbidden[1]}), which could run code."
            ) from error
        raise ConversionError(f"{path} is truncated or not a PyTorch, NumPy or safetensors file.") from error


def refuse_other_file(path: Path, other: OtherFile) -> ConversionError:
    """The error of a file that is no checkpoint."""
    return ConversionError(f"{path} is {other.kind}, not a checkpoint. {other.remedy}")


def read_start(path: Path) -> bytes:
    """
    The first bytes of a file.

    Raises:
        ConversionError: if it cannot be read.
    """
    with refuse_os_errors(f"{path} cannot be read"):
        # Hanging: a pipe is waited for until somebody writes into it.
        check_regular_file(path)
        with path.open("rb") as file:
            return file.read(START_LENGTH)


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
        except ConversionError:
            raise
        except UNREADABLE as error:
            reason = str(error) or type(error).__name__
            raise ConversionError(f"{name} of {self.path} cannot be read: {reason}.") from error

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
        ConversionError: if the file is truncated, damaged or no such file, or a small one that claims to hold large
            arrays.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            # What is read is no longer than the archive says.
            num_bytes = sum(member.file_size for member in archive.infolist())
            if num_bytes > MAX_NPZ_RATIO * path.stat().st_size + NPZ_ALLOWANCE:
                raise ConversionError(
                    f"{path} is refused: its arrays would have {num_bytes} bytes, as no weights would."
                )
            check_records(path, archive)
        arrays = np.load(path, allow_pickle=False)
        return LazyTensors(path, arrays.files, lambda name: torch.from_numpy(arrays[name]))
    except ConversionError:
        raise
    except UNREADABLE as error:
        raise ConversionError(f"{path} is truncated or not a file of NumPy arrays.") from error


def load_safetensors(path: Path) -> LazyTensors:
    """
    Opens a `.safetensors` file. It holds no checksums, so that changed weights cannot be told from others.

    Raises:
        ConversionError: if the file is truncated or no such file.
    """
    try:
        file = safe_open(path, framework="pt")
        return LazyTensors(path, file.keys(), file.get_tensor)
    except UNREADABLE as error:
        raise ConversionError(f"{path} is truncated or not a safetensors file: {error}.") from error


def load_weights(path: Path, allow_missing_checksums: bool = False) -> Any:
    """
    Reads a file of weights, whatever wrote it: what kind of file it is decides its content, not its name.

    Args:
        path (`Path`): The file.
        allow_missing_checksums (`bool`, *optional*, defaults to `False`): See [`load_torch_file`].

    Raises:
        ConversionError: if it is no file of weights, or broken, or holds anything but tensors and containers.
    """
    if is_safetensors(path):
        return load_safetensors(path)
    if is_npz(path):
        return load_npz(path)
    return load_torch_file(path, allow_missing_checksums)


def load_json(path: Path) -> dict[str, Any]:
    """
    Reads a JSON file whose top level is an object.

    Raises:
        ConversionError: if the file cannot be read or is no such JSON.
    """
    with refuse_os_errors(f"{path} cannot be read"):
        contents = read_bytes(path, MAX_JSON_LENGTH)
    try:
        values = json.loads(contents)
    except (ValueError, RecursionError) as error:
        raise ConversionError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(values, dict):
        raise ConversionError(f"{path} does not hold a JSON object, but a {type(values).__name__}.")
    return values


__all__ = [
    "LazyTensors",
    "VariantLoader",
    "is_npz",
    "is_safetensors",
    "load_json",
    "load_npz",
    "load_safetensors",
    "load_torch_file",
    "load_weights",
    "load_yaml",
]
