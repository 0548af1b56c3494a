"""Broken and hostile files are refused in one line: they run no code, fill no memory and end."""

import importlib
import io
import json
import os
import pickle
import re
import struct
import sys
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from segmenter_hf.conversion import ConversionError
from segmenter_hf.conversion.safe_loading import (
    MAX_JSON_LENGTH,
    MAX_YAML_LENGTH,
    Placeholder,
    is_npz,
    is_safetensors,
    load_json,
    load_npz,
    load_safetensors,
    load_torch_file,
    load_weights,
    load_yaml,
)
from tests.conversion.mmsegmentation_checkpoints import foreign_class, make_mmsegmentation_checkpoint


class TouchFile:
    """Unpickling it creates a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.fixture
def path(tmp_path) -> Path:
    """Where a test writes its file, which no loader recognises by its name."""
    return tmp_path / "file"


@pytest.fixture
def touched(tmp_path) -> Path:
    """What is there once code in a file has run."""
    return tmp_path / "touched"


def refusal(function, path: Path) -> str:
    """The message of the error with which `function` refuses `path`, which is one line and names the file."""
    with pytest.raises(ConversionError) as error:
        function(path)
    message = str(error.value)
    assert str(path) in message
    assert message.isprintable()
    return message


@pytest.mark.parametrize("is_zip", [True, False])
def test_torch_file_of_either_format(is_zip, tmp_path):
    contents = {"model": {"weight": torch.arange(6.0).view(2, 3)}, "epoch": 3, "betas": (0.9, 0.99)}
    torch.save(contents, tmp_path / "checkpoint.pth", _use_new_zipfile_serialization=is_zip)
    loaded = load_torch_file(tmp_path / "checkpoint.pth")
    assert torch.equal(loaded["model"]["weight"], contents["model"]["weight"])
    assert (loaded["epoch"], loaded["betas"]) == (3, (0.9, 0.99))


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.002, 0.5, 0.999])
def test_truncated_torch_file(share, is_zip, path):
    torch.save({"model": {"weight": torch.zeros(5000)}}, path, _use_new_zipfile_serialization=is_zip)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    message = refusal(load_torch_file, path)
    assert message.endswith("is truncated or not a PyTorch, NumPy or safetensors file.") or "an empty file" in message
    assert ("an empty file" in message) == (path.stat().st_size == 0)


@pytest.mark.parametrize("contents", [b"hello world", b"\x00" * 1000, b"\xff\xfe\xfd" * 99])
def test_other_files_are_no_torch_files(contents, path):
    path.write_bytes(contents)
    assert "truncated or not a PyTorch, NumPy or safetensors file" in refusal(load_torch_file, path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", contents)
    assert "truncated or not a PyTorch, NumPy or safetensors file" in refusal(load_torch_file, path)


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("is_mmsegmentations", [True, False])
def test_damaged_torch_file_never_fails_otherwise(is_mmsegmentations, is_zip, tmp_path):
    """Any byte of the pickled part changed: either it still loads, or it is refused with the error for users."""
    path = tmp_path / "checkpoint.pth"
    if is_mmsegmentations:
        source = make_mmsegmentation_checkpoint(num_layers=1, embed_dims=4, head_num_layers=0)
        source.write(tmp_path, _use_new_zipfile_serialization=is_zip)
    else:
        write_torch_file(path, {"model": {"encoder.weight": torch.zeros(3, 4)}, "epoch": 1}, is_zip)
    intact = path.read_bytes()
    generator = torch.Generator().manual_seed(0)
    outcomes = set()
    # Most of a legacy file's pickles come first, and most of a zip archive's after its header.
    for position in torch.randint(min(len(intact), 6000), (100,), generator=generator).tolist():
        damaged = bytearray(intact)
        damaged[position] ^= 1 << (position % 8)
        path.write_bytes(damaged)
        try:
            load_torch_file(path)
            outcomes.add("loaded")
        except ConversionError:
            outcomes.add("refused")
    assert outcomes == {"loaded", "refused"}


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ("\n  <html lang='en'><body>404 Not Found</body></html>", "is a web page, not a checkpoint. Did the download"),
        ('{"error": "Repository not found"}', "is a JSON document, not a checkpoint"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:4d\n", "is a pointer of Git LFS.*git lfs pull"),
    ],
)
def test_files_that_stand_for_a_checkpoint(contents, message, path):
    path.write_text(contents)
    assert re.search(message, refusal(load_weights, path))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_torchscript_archive(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), tmp_path / "model.pt")
    assert "is a TorchScript archive, not a checkpoint. Save the weights" in refusal(
        load_weights, tmp_path / "model.pt"
    )


def test_compressed_torch_file(path):
    """Its tensors, which are mapped from the file, would be what the compression made of them."""
    torch.save({"model": torch.zeros(9)}, path)
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, record in records.items():
            archive.writestr(name, record)
    assert "is refused: its records are compressed or overlap" in refusal(load_torch_file, path)


def make_legacy_file(pickled: bytes) -> bytes:
    """A file of the format before PyTorch 1.6 whose object is those opcodes."""
    buffer = io.BytesIO()
    torch.save("here", buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue().replace(pickle.dumps("here", 2), pickled)


LONG = struct.pack("<Q", 2**60)


@pytest.mark.parametrize(
    "pickled",
    [b"\x80\x04\x8e" + LONG, b"\x80\x02X\xff\xff\xff\xff", b"\x80\x02\x8b\xff\xff\xff\x7f"],
    ids=["bytes", "text", "integer"],
)
@pytest.mark.parametrize("is_bare", [True, False])
def test_pickles_that_claim_to_be_longer_than_the_file(pickled, is_bare, path):
    path.write_bytes(pickled + b"x" if is_bare else make_legacy_file(pickled + b"x."))
    tracemalloc.start()
    message = refusal(load_torch_file, path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "truncated or not a PyTorch" in message
    assert peak < 10**8


@pytest.mark.parametrize(
    "opcodes",
    [
        pytest.param(b"\x85" * 300_000, id="deep"),
        pytest.param(b"".join(bytes((ord("q"), i, ord("h"), i, 0x86)) for i in range(60)), id="of_itself"),
        pytest.param(b"K\x01\x86" * 300_000, id="with_numbers"),
    ],
)
@pytest.mark.parametrize("is_zip", [True, False])
def test_tuples_that_take_forever_to_hash(opcodes, is_zip, path):
    """As keys of a dictionary, which in the first case crash Python, in the second never end."""
    pickled = b"\x80\x02})" + opcodes + b"K\x01s."
    write_pickle(path, pickled) if is_zip else path.write_bytes(make_legacy_file(pickled))
    assert "is refused: it nests tuples without end" in refusal(load_torch_file, path)


def test_tuples_in_a_tuple_and_as_keys(path):
    contents = {("a", (1, 2)): [(index, (index,)) for index in range(5000)], "b": tuple((i,) for i in range(500))}
    torch.save(contents, path)
    assert load_torch_file(path) == contents


def test_code_in_a_torch_file_does_not_run(path, touched):
    torch.save({"model": TouchFile(touched)}, path)
    message = refusal(load_torch_file, path)
    assert not touched.exists()
    assert "is refused: beside tensors it holds Python objects" in message and "could run code" in message
    # The file is what it claims to be: an unsafe load does run it.
    torch.load(path, weights_only=False)
    assert touched.exists()


@pytest.mark.parametrize("protocol", [0, 2, pickle.HIGHEST_PROTOCOL])
def test_code_in_a_bare_pickle_does_not_run(protocol, path, touched):
    path.write_bytes(pickle.dumps({"model": TouchFile(touched)}, protocol=protocol))
    refusal(load_torch_file, path)
    assert not touched.exists()


class Reduce:
    """Unpickling it calls `function` with `arguments`, and with `state` hands that to the result."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced


def write_torch_file(path: Path, contents, is_zip: bool = True) -> Path:
    torch.save(contents, path, _use_new_zipfile_serialization=is_zip)
    return path


def write_pickle(path: Path, pickled: bytes) -> Path:
    """A file of PyTorch whose object is those opcodes."""
    torch.save(None, path)
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, record in records.items():
            archive.writestr(name, pickled if name.endswith("/data.pkl") else record)
    return path


def global_opcode(name: str) -> bytes:
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


@pytest.mark.parametrize("is_zip", [True, False])
def test_objects_of_mmsegmentations_libraries_become_placeholders(is_zip, tmp_path):
    with (
        foreign_class("mmengine.logging.history_buffer.HistoryBuffer") as history_buffer,
        foreign_class("mmcv.utils.Config", object, __init__=lambda self, *args: None) as config,
        foreign_class("mmseg.models.Head", object, __reduce__=lambda self: (type(self), (1, [2]), {"a": 3})) as head,
    ):
        history = history_buffer()
        history.values = [1.0]
        contents = {"history": history, "config": config(), "head": head(), "class": head, "weight": torch.ones(2)}
        path = write_torch_file(tmp_path / "checkpoint.pth", contents, is_zip)
    loaded = load_torch_file(path)
    assert torch.equal(loaded["weight"], torch.ones(2))
    for name in ("history", "config", "head"):
        assert isinstance(loaded[name], Placeholder)
        assert not vars(loaded[name]), "nothing of the object is kept"
    assert issubclass(loaded["class"], Placeholder)


def test_installed_libraries_are_not_imported(tmp_path, monkeypatch):
    for package in ("mmengine", "mmcv", "mmseg"):
        (tmp_path / package / "logging").mkdir(parents=True)
        (tmp_path / package / "__init__.py").write_text(f"raise SystemExit('imported {package}')")
    source = make_mmsegmentation_checkpoint(num_layers=1, embed_dims=4, head_num_layers=0).write(tmp_path / "source")
    monkeypatch.syspath_prepend(tmp_path)
    load_torch_file(source / "checkpoint.pth")
    with pytest.raises(SystemExit, match="imported mmengine"):
        importlib.import_module("mmengine.logging")


@pytest.mark.parametrize("is_zip", [True, False])
def test_configs_become_dictionaries(is_zip, tmp_path):
    with foreign_class("mmengine.config.config.ConfigDict", dict) as config_dict:
        contents = {"built": config_dict(a=config_dict(b=[1])), "called": Reduce(config_dict, {"c": (2,)})}
        path = write_torch_file(tmp_path / "checkpoint.pth", contents, is_zip)
    loaded = load_torch_file(path)
    assert loaded == {"built": {"a": {"b": [1]}}, "called": {"c": (2,)}}
    assert type(loaded["built"]) is type(loaded["called"]) is OrderedDict


@pytest.mark.parametrize("is_zip", [True, False])
def test_arrays_and_scalars_of_numpy_are_inert(is_zip, tmp_path):
    contents = {"array": np.arange(3.0), "scalar": np.float64(3.5), "dtype": np.dtype("int64"), "n": 1}
    loaded = load_torch_file(write_torch_file(tmp_path / "checkpoint.pth", contents, is_zip))
    assert loaded.pop("n") == 1
    assert loaded and all(isinstance(value, Placeholder) for value in loaded.values())


def test_numpy_is_not_called(tmp_path):
    """An array of objects would be unpickled, and one of another size would read memory beyond its own."""
    touched = tmp_path / "touched"
    contents = {"objects": np.array([TouchFile(touched)], dtype=object)}
    assert "pathlib" in refusal(load_torch_file, write_torch_file(tmp_path / "checkpoint.pth", contents))
    assert not touched.exists()
    scalar = np.float64(1).__reduce__()[0]
    path = write_torch_file(tmp_path / "checkpoint.pth", Reduce(scalar, np.dtype("V1000000"), b"short"))
    assert isinstance(load_torch_file(path), Placeholder)


def test_methods_of_placeholders_are_placeholders(tmp_path):
    """mmengine's log refers to them by `getattr`."""
    with foreign_class("mmengine.logging.HistoryBuffer") as history_buffer:
        path = write_torch_file(tmp_path / "checkpoint.pth", [Reduce(getattr, history_buffer, "__init__"), 1])
    method, number = load_torch_file(path)
    assert type(method) is Placeholder
    assert number == 1


@pytest.mark.parametrize("is_zip", [True, False])
def test_bytes_of_any_length_are_refused(is_zip, tmp_path):
    """By a few bytes, torch would fill the memory, or at least take two gigabytes of it here."""
    path = write_torch_file(tmp_path / "checkpoint.pth", Reduce(bytearray, 2 * 10**9), is_zip=is_zip)
    tracemalloc.start()
    assert "it holds a bytearray" in refusal(load_torch_file, path)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


@pytest.mark.parametrize("owner", [OrderedDict, set, "text", {}])
def test_getattr_of_anything_else_is_refused(owner, path):
    with foreign_class("mmengine.logging.HistoryBuffer") as history_buffer:
        contents = [history_buffer(), Reduce(getattr, owner, "__class__")]
        write_torch_file(path, contents)
    assert "(builtins.getattr)" in refusal(load_torch_file, path)
    # Without a placeholder beside it, torch itself refuses it.
    assert "(getattr)" in refusal(load_torch_file, write_torch_file(path, Reduce(getattr, owner, "__class__")))


def test_getattr_does_not_lead_on(tmp_path):
    """What `getattr` returns has no attributes, cannot be called, and takes no state."""
    with foreign_class("mmengine.logging.HistoryBuffer") as history_buffer:
        init = Reduce(getattr, history_buffer, "__init__")
        chains = [Reduce(getattr, init, "__globals__"), Reduce(getattr, history_buffer, "a", state={"b": 1})]
        for index, chain in enumerate(chains):
            write_torch_file(tmp_path / f"{index}.pth", chain)
    for index in range(len(chains)):
        refusal(load_torch_file, tmp_path / f"{index}.pth")
    called = global_opcode("__builtin__.getattr") + b"(" + global_opcode("mmengine.A") + b"X\x01\x00\x00\x00atR)R."
    refusal(load_torch_file, write_pickle(tmp_path / "called.pth", b"\x80\x02" + called))


@pytest.mark.parametrize(
    "name",
    [
        "posix.system",
        "builtins.eval",
        "builtins.setattr",
        "importlib.import_module",
        "torch.load",
        "numpy.load",
        "numpy.core.multiarray.fromfile",
        "mmengine_evil.x",
        "mmcv2.Config",
        "evil.mmengine.x",
    ],
)
def test_any_other_global_is_refused_and_named(name, tmp_path):
    call = b"X\x04\x00\x00\x00true\x85R"
    # It is among placeholders that are allowed.
    pickled = b"\x80\x02(" + global_opcode("mmengine.logging.HistoryBuffer") + global_opcode(name) + call + b"t."
    message = refusal(load_torch_file, write_pickle(tmp_path / "checkpoint.pth", pickled))
    # torch leaves out the module of builtins.
    assert f"it holds Python objects ({name.removeprefix('builtins.')}), which could run code" in message


@pytest.mark.parametrize("name", ["mmengine.os.system", "mmcv.x.__import__", "mmseg.ConfigDict.x"])
def test_names_under_the_libraries_are_only_names(name, tmp_path):
    call = b"X\x04\x00\x00\x00true\x85R"
    path = write_pickle(tmp_path / "checkpoint.pth", b"\x80\x02" + global_opcode(name) + call + b".")
    assert isinstance(load_torch_file(path), Placeholder)
    assert not {"mmengine", "mmcv", "mmseg"} & sys.modules.keys()


@pytest.mark.parametrize("state", [{"__class__": 1, "__init__": 2}, ({"a": 1}, {"__setstate__": 2}), "text"])
def test_state_of_placeholders_is_dropped(state, tmp_path):
    with foreign_class("mmseg.models.Head") as head:
        contents = [head, Reduce(head, 1, 2, state=state), Reduce(head)]
        path = write_torch_file(tmp_path / "checkpoint.pth", contents)
    cls, *instances = load_torch_file(path)
    for instance in instances:
        assert type(instance) is cls
        assert not vars(instance)


# Files of NumPy, safetensors and JSON

ARRAYS = {"cls": np.arange(6, dtype=np.float32).reshape(1, 2, 3), "Transformer/encoder_norm/scale": np.ones(4)}
LOADERS = {"npz": load_npz, "safetensors": load_safetensors}
RECOGNISERS = {"npz": is_npz, "safetensors": is_safetensors}


def write_tensors(path: Path, kind: str) -> Path:
    if kind == "npz":
        with path.open("wb") as file:
            np.savez(file, **ARRAYS)
    else:
        save_file({name: torch.from_numpy(array) for name, array in ARRAYS.items()}, path)
    return path


@pytest.mark.parametrize("kind", LOADERS)
def test_tensors_are_read_by_name(kind, tmp_path):
    path = write_tensors(tmp_path / "weights", kind)
    assert [name for name, recognise in RECOGNISERS.items() if recognise(path)] == [kind]
    tensors = LOADERS[kind](path)
    assert set(tensors) == set(ARRAYS) and len(tensors) == 2
    assert "cls" in tensors and "head" not in tensors
    for name, array in ARRAYS.items():
        assert np.array_equal(tensors[name].numpy(), array)
    with pytest.raises(KeyError):
        tensors["head"]


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_truncated_tensors(kind, share, tmp_path):
    path = write_tensors(tmp_path / "weights", kind)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert "truncated or not a" in refusal(LOADERS[kind], path)


@pytest.mark.parametrize("kind", LOADERS)
def test_damaged_tensors_never_fail_otherwise(kind, tmp_path):
    """Any byte changed: either the tensors still load, or the error for users says why not."""
    path = write_tensors(tmp_path / "weights", kind)
    intact = path.read_bytes()
    outcomes = set()
    for position in range(len(intact)):
        damaged = bytearray(intact)
        damaged[position] ^= 1 << (position % 8)
        path.write_bytes(damaged)
        for recognise in RECOGNISERS.values():
            recognise(path)
        try:
            dict(LOADERS[kind](path))
            outcomes.add("loaded")
        except ConversionError as error:
            assert str(error).isprintable()
            outcomes.add("refused")
    assert outcomes == {"loaded", "refused"}


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("contents", [b"", b"hello world", b"PK\x03\x04", b"{" * 64])
def test_other_files_hold_no_tensors(kind, contents, path):
    path.write_bytes(contents)
    assert not RECOGNISERS[kind](path)
    assert "truncated or not a" in refusal(LOADERS[kind], path)


def test_objects_in_arrays_are_refused_and_do_not_run(tmp_path):
    path, touched = tmp_path / "weights.npz", tmp_path / "touched"
    np.savez(path, cls=np.ones(2), evil=np.array([TouchFile(touched)], dtype=object))
    tensors = load_npz(path)
    assert tensors["cls"].tolist() == [1.0, 1.0]
    with pytest.raises(ConversionError, match=r"evil of .*weights\.npz cannot be read: Object arrays"):
        tensors["evil"]
    assert not touched.exists()
    # The file is what it claims to be: an unsafe load does run it.
    np.load(path, allow_pickle=True)["evil"]
    assert touched.exists()


def npy_header(*shape: int) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


@pytest.mark.parametrize("shape", [(10**30,), (3 * 2**28,), (-1,)])
def test_arrays_that_claim_to_be_larger_than_the_file(shape, path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("cls.npy", npy_header(*shape) + bytes(10))
    with pytest.raises(ConversionError, match="cls of .* cannot be read: ."):
        load_npz(path)["cls"]


def test_small_archives_of_large_arrays_are_refused(tmp_path):
    path = tmp_path / "weights.npz"
    np.savez_compressed(path, cls=np.zeros(2**23, np.float32))
    assert "is refused: its arrays would have 33554" in refusal(load_npz, path)
    # Weights can be compressed as little as this.
    weights = np.random.default_rng(0).standard_normal(2**18).astype(np.float32)
    np.savez_compressed(path, cls=weights, bias=np.zeros(2**12, np.float32))
    assert np.array_equal(load_npz(path)["cls"].numpy(), weights)


@pytest.mark.parametrize("dtype", ["U3", "V8"])
def test_arrays_of_other_types_are_no_crash(dtype, tmp_path):
    path = tmp_path / "weights.npz"
    np.savez(path, cls=np.zeros(2, dtype=dtype))
    with pytest.raises(ConversionError, match="cls of "):
        load_npz(path)["cls"]


@pytest.mark.parametrize("length", [99_999_999, 10**8, 2**64 - 1])
def test_huge_header_of_safetensors(length, path):
    path.write_bytes(length.to_bytes(8, "little") + b'{"a": {}}' + b" " * 100)
    assert is_safetensors(path) == (length < 10**8)
    assert "truncated or not a safetensors file" in refusal(load_safetensors, path)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 400]},
        {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 8]},
        [],
    ],
)
def test_header_of_safetensors_at_odds_with_the_file(entry, path):
    header = json.dumps({"a": entry}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    refusal(load_safetensors, path)


def test_json(path):
    path.write_text('{"model_type": "vit", "sizes": [1, 2.5, null, "ü"]}', encoding="utf-8")
    assert load_json(path) == {"model_type": "vit", "sizes": [1, 2.5, None, "ü"]}


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"[" * 200_000, "is not valid JSON"),
        (b"", "is not valid JSON"),
        (b"\xff\xfe{", "is not valid JSON"),
        (b'{"a": 1', "is not valid JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not valid JSON"),
        (b"[1]", "but a list"),
    ],
    ids=lambda value: repr(value[:12]),
)
def test_other_json(contents, message, path):
    path.write_bytes(contents)
    assert message in refusal(load_json, path)


@pytest.mark.parametrize("load", [load_torch_file, load_npz, load_safetensors, load_json, load_yaml])
def test_files_that_are_folders_or_are_not_there(load, tmp_path):
    refusal(load, tmp_path)
    refusal(load, tmp_path / "nowhere")


@pytest.mark.parametrize("load", [load_weights, load_json, load_yaml])
def test_pipes_are_not_waited_for(load, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "is a pipe, expected a regular file" in refusal(load, tmp_path / "pipe")


# YAML


def test_yaml_with_tuples(path):
    path.write_text(
        "a: !!python/tuple\n- 64\n- 32\nb: !!python/tuple [[1], {c: 2}]\nd: {e: 1.0e-05, f: null, g: true}\n"
    )
    values = load_yaml(path)
    assert values == {"a": (64, 32), "b": ([1], {"c": 2}), "d": {"e": 1e-5, "f": None, "g": True}}


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.mkdir ['{touched}']",
        "!!python/name:os.system ''",
        "!!python/tuple [!!python/object/apply:os.mkdir ['{touched}']]",
        "!custom 1",
    ],
)
def test_other_yaml_tags_are_refused_and_do_not_run(tag, path, touched):
    path.write_text("net_kwargs: " + tag.format(touched=touched))
    message = refusal(load_yaml, path)
    assert "could not determine a constructor for the tag" in message
    assert not touched.exists()


BROKEN_YAML = [
    b"a: [1, 2",
    b"\x80\x00\x01",
    b"a: 1\n\tb: 2",
    b"a: *nothing",
    b"[" * 2000,
    b"a: 2021-99-99",
    b"? [1]\n: 2",
]


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        *((contents, "") for contents in BROKEN_YAML),
        (b"", "but a NoneType"),
        (b"- 1", "but a list"),
        (b"<html></html>", "but a str"),
    ],
)
def test_other_yaml(contents, message, path):
    path.write_bytes(contents)
    assert message in refusal(load_yaml, path)


def test_merged_mappings_are_refused(path):
    """They copy: each of these is twice as large as the one before."""
    lines = ["m0: &m0 {k0: 1}"] + [f"m{i}: &m{i}\n  <<: [*m{i - 1}, *m{i - 1}]" for i in range(1, 40)]
    path.write_text("\n".join(lines))
    assert "is refused: it merges mappings (<<)" in refusal(load_yaml, path)


def test_keys_that_take_forever_to_hash_are_refused(path):
    """To hash a tuple is to hash what it contains, here 2**40 numbers. A value that no key is takes no time."""
    lines = ["t0: &t0 !!python/tuple [1]"] + [
        f"t{i}: &t{i} !!python/tuple [*t{i - 1}, *t{i - 1}]" for i in range(1, 40)
    ]
    path.write_text("\n".join(lines))
    assert len(load_yaml(path)) == 40
    path.write_text("\n".join([*lines, "a: {? *t39 : 1}"]))
    assert "is refused: it has a key that is no text or number" in refusal(load_yaml, path)


@pytest.mark.parametrize(("load", "max_length"), [(load_yaml, MAX_YAML_LENGTH), (load_json, MAX_JSON_LENGTH)])
def test_long_texts_are_refused(load, max_length, path):
    path.write_text('{"a": "' + max_length * "x" + '"}')
    assert f"longer than any such file should be ({max_length} bytes)" in refusal(load, path)
