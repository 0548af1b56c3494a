"""Broken and hostile files are refused in one line, and nothing in them is executed."""

import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from segmenter_hf.conversion import ConversionError
from segmenter_hf.conversion.safe_loading import load_torch_file, load_yaml


class TouchFile:
    """Unpickling it creates a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


class Arbitrary:
    """An instance of a class that a weights-only load does not know."""


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
@pytest.mark.parametrize("share", [0.0, 0.002, 0.1, 0.5, 0.9, 0.999])
def test_truncated_torch_file(share, is_zip, tmp_path):
    path = tmp_path / "checkpoint.pth"
    torch.save({"model": {"weight": torch.zeros(5000)}}, path, _use_new_zipfile_serialization=is_zip)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert refusal(load_torch_file, path).endswith("is truncated or not a PyTorch checkpoint.")


@pytest.mark.parametrize("contents", [b"hello world", b"a: 1\n", b'{"a": 1}', b"\x00" * 1000, b"\xff\xfe\xfd" * 99])
def test_other_files_are_no_torch_files(contents, tmp_path):
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(contents)
    assert "truncated or not a PyTorch checkpoint" in refusal(load_torch_file, path)


def test_damaged_torch_file_never_fails_otherwise(tmp_path):
    """Any byte of the pickled part changed: either it still loads, or it is refused with the error for users."""
    path = tmp_path / "checkpoint.pth"
    torch.save({"model": {"encoder.weight": torch.zeros(3, 4)}, "epoch": 1}, path)
    intact = path.read_bytes()
    generator = torch.Generator().manual_seed(0)
    outcomes = set()
    for position in torch.randint(len(intact), (300,), generator=generator).tolist():
        damaged = bytearray(intact)
        damaged[position] ^= 1 << (position % 8)
        path.write_bytes(damaged)
        try:
            load_torch_file(path)
            outcomes.add("loaded")
        except ConversionError:
            outcomes.add("refused")
    assert outcomes == {"loaded", "refused"}


def test_zip_archive_that_is_no_torch_file(tmp_path):
    path = tmp_path / "checkpoint.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "nothing")
    assert "truncated or not a PyTorch checkpoint" in refusal(load_torch_file, path)


@pytest.mark.parametrize("start", ["<!DOCTYPE html>\n<html>", "\n  <html lang='en'>"])
def test_web_page(start, tmp_path):
    path = tmp_path / "checkpoint.pth"
    path.write_text(f"{start}<body>404 Not Found</body></html>")
    assert "is a web page" in refusal(load_torch_file, path)


def test_code_in_a_torch_file_does_not_run(tmp_path):
    path, touched = tmp_path / "checkpoint.pth", tmp_path / "touched"
    torch.save({"model": TouchFile(touched)}, path)
    message = refusal(load_torch_file, path)
    assert not touched.exists()
    assert "is refused: beside tensors it holds Python objects" in message and "could run code" in message
    # The file is what it claims to be: an unsafe load does run it.
    torch.load(path, weights_only=False)
    assert touched.exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_code_in_a_bare_pickle_does_not_run(protocol, tmp_path):
    path, touched = tmp_path / "checkpoint.pth", tmp_path / "touched"
    path.write_bytes(pickle.dumps({"model": TouchFile(touched)}, protocol=protocol))
    refusal(load_torch_file, path)
    assert not touched.exists()
    pickle.loads(path.read_bytes())
    assert touched.exists()


def test_objects_in_a_torch_file_are_named(tmp_path):
    torch.save({"model": {}, "args": Arbitrary()}, tmp_path / "checkpoint.pth")
    assert f"({__name__}.Arbitrary)" in refusal(load_torch_file, tmp_path / "checkpoint.pth")


def test_yaml_with_tuples(tmp_path):
    path = tmp_path / "variant.yml"
    path.write_text(
        "a: !!python/tuple\n- 64\n- 32\nb: !!python/tuple [[1], {c: 2}]\nd: {e: 1.0e-05, f: null, g: true}\n"
    )
    values = load_yaml(path)
    assert values == {"a": (64, 32), "b": ([1], {"c": 2}), "d": {"e": 1e-5, "f": None, "g": True}}


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.mkdir ['{touched}']",
        "!!python/object/new:os.mkdir ['{touched}']",
        "!!python/object/apply:subprocess.check_call [[touch, '{touched}']]",
        "!!python/name:os.system ''",
        "!!python/module:antigravity ''",
        "!!python/object:collections.OrderedDict {{}}",
        "!!python/tuple [!!python/object/apply:os.mkdir ['{touched}']]",
        "!custom 1",
    ],
)
def test_other_yaml_tags_are_refused_and_do_not_run(tag, tmp_path):
    path, touched = tmp_path / "variant.yml", tmp_path / "touched"
    path.write_text("net_kwargs: " + tag.format(touched=touched))
    message = refusal(load_yaml, path)
    assert "could not determine a constructor for the tag" in message
    assert not touched.exists()


@pytest.mark.parametrize(
    "contents",
    [b"a: [1, 2", b"\x80\x00\x01", b"a: 1\n\tb: 2", b"a: *nothing", b"[" * 2000, b"a: 2021-99-99", b"? [1]\n: 2"],
)
def test_broken_yaml(contents, tmp_path):
    path = tmp_path / "variant.yml"
    path.write_bytes(contents)
    refusal(load_yaml, path)


@pytest.mark.parametrize("load", [load_torch_file, load_yaml])
def test_file_that_cannot_be_read(load, tmp_path):
    assert "cannot be read" in refusal(load, tmp_path)  # a folder


@pytest.mark.parametrize(("contents", "kind"), [("", "NoneType"), ("- 1", "list"), ("<html></html>", "str")])
def test_yaml_that_is_no_mapping(contents, kind, tmp_path):
    path = tmp_path / "variant.yml"
    path.write_text(contents)
    assert f"but a {kind}" in refusal(load_yaml, path)
