"""What a file is, is told by its contents, and files of no format are refused in one line."""

import io
import os
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from segmenter_hf import SegmenterForSemanticSegmentation, SegmenterModel
from segmenter_hf.conversion import ConversionError, EncoderOptions
from segmenter_hf.conversion.convert import load_checkpoint
from segmenter_hf.conversion.formats import FORMATS, recognise
from segmenter_hf.conversion.sources import read_source
from tests.common import REPOSITORY, tiny_config
from tests.conversion.mmsegmentation_checkpoints import make_mmsegmentation_checkpoint
from tests.conversion.original_checkpoints import make_original_checkpoint


FIXTURES = REPOSITORY / "tests" / "fixtures"
SOURCES = [
    ("original/mask_patch16", "checkpoint.pth", "original"),
    ("original/linear_patch16", "checkpoint.pth", "original"),
    ("original/mask_distilled", "checkpoint.pth", "original"),
    ("mmseg/mask_v0", "checkpoint.pth", "mmsegmentation"),
    ("mmseg/mask_v1", "checkpoint.pth", "mmsegmentation"),
    ("mmseg/linear_v1", "checkpoint.pth", "mmsegmentation"),
    ("augreg/vit_patch16", "checkpoint.npz", "augreg"),
    ("augreg/vit_patch16", "timm.safetensors", "timm"),
    ("augreg/vit_patch16", "mmseg_vit.pth", "mmsegmentation-encoder"),
]


@pytest.mark.parametrize(("folder", "file", "name"), SOURCES)
@pytest.mark.parametrize("suffix", [".pth", ".npz", ".safetensors", ".txt", ""])
def test_content_tells_the_format_whatever_the_file_is_called(folder, file, name, suffix, tmp_path):
    shutil.copytree(FIXTURES / folder, tmp_path / "source")
    path = (tmp_path / "source" / file).rename(tmp_path / "source" / f"weights{suffix}")
    source = read_source(path)
    assert recognise(source) is FORMATS[name]
    # Each is of one format only.
    assert [format.name for format in FORMATS.values() if format.matches(source)] == [name]
    model, _ = load_checkpoint(path)
    expected_class = SegmenterModel if FORMATS[name].is_encoder else SegmenterForSemanticSegmentation
    assert type(model) is expected_class


@pytest.mark.parametrize("name", ["model", "state_dict"])
def test_encoders_may_be_wrapped(name, tmp_path):
    state_dict = dict(read_source(FIXTURES / "augreg" / "vit_patch16" / "timm.safetensors").state_dict)
    torch.save({name: state_dict, "epoch": 3}, tmp_path / "deit.pth")
    model, _ = load_checkpoint(tmp_path / "deit.pth")
    assert torch.equal(model.embeddings.cls_token, state_dict["cls_token"])


@pytest.mark.parametrize("name", FORMATS)
def test_another_format_than_the_contents_is_an_error_of_its_own(name, tmp_path):
    """Forcing a format never makes a model of a file that is not of it."""
    torch.save({"model": torch.nn.Linear(2, 2).state_dict()}, tmp_path / "checkpoint.pth")
    (tmp_path / "variant.yml").write_text("net_kwargs: {}\n")
    (tmp_path / "config.py").write_text("model = dict(type='EncoderDecoder')\n")
    with pytest.raises(ConversionError):
        load_checkpoint(tmp_path / "checkpoint.pth", format=name)
    torch.save([1, 2], tmp_path / "checkpoint.pth")
    with pytest.raises(ConversionError, match="is no checkpoint: it holds an object of type list"):
        load_checkpoint(tmp_path / "checkpoint.pth", format=name)


def test_unknown_format_is_refused():
    with pytest.raises(ConversionError, match="There is no format 'onnx'. The formats are original, mmsegmentation"):
        load_checkpoint(FIXTURES / "mmseg" / "mask_v0", format="onnx")


def bytes_of_npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, weights=np.zeros(3))
    return buffer.getvalue()


@pytest.mark.parametrize("make", [make_original_checkpoint, make_mmsegmentation_checkpoint])
def test_names_of_parallel_training(make, tmp_path):
    checkpoint = make()
    expected, _ = load_checkpoint(checkpoint.write(tmp_path / "unwrapped"))
    checkpoint.state_dict = {f"module.{name}": tensor for name, tensor in checkpoint.state_dict.items()}
    actual, _ = load_checkpoint(checkpoint.write(tmp_path / "wrapped"))
    for name, tensor in expected.state_dict().items():
        assert torch.equal(actual.state_dict()[name], tensor)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"conv1.weight": torch.zeros(2), "fc.bias": torch.zeros(1)}, "it holds entries named conv1.weight, fc.bias"),
        ({"state_dict": {"conv1.weight": torch.zeros(2)}, "meta": {}}, "it holds entries named conv1.weight"),
        ({"state_dict": {"backbone.conv1.weight": torch.zeros(2)}}, "it holds entries named backbone.conv1.weight"),
        ({"model": [1]}, "it holds entries named model"),
        ({"model": {}}, "it holds model, and no state dict"),
        ({1: torch.zeros(1)}, "it holds 1, and no state dict"),
        ({"model": {"a": torch.zeros(1), 5: torch.zeros(1)}}, "it holds 5, a, and no state dict, whose keys would"),
        ({}, "it holds none, and no state dict"),
        ([1, 2], "it holds an object of type list"),
        (torch.zeros(3), "it holds an object of type Tensor"),
        ("model", "it holds an object of type str"),
    ],
)
def test_other_contents_are_refused_with_what_they_are(contents, message, tmp_path):
    torch.save(contents, tmp_path / "checkpoint.pth")
    with pytest.raises(ConversionError) as error:
        load_checkpoint(tmp_path / "checkpoint.pth")
    assert f"{tmp_path / 'checkpoint.pth'} is of no format that can be converted" in str(error.value)
    assert message in str(error.value)


def test_other_files_of_arrays_are_refused(tmp_path):
    (tmp_path / "arrays.npz").write_bytes(bytes_of_npz())
    save_file({"lm_head.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    for file, name in (("arrays.npz", "weights"), ("model.safetensors", "lm_head.weight")):
        with pytest.raises(ConversionError, match=f"it holds entries named {name}"):
            load_checkpoint(tmp_path / file)


def test_options_of_encoders_are_refused_for_whole_models():
    for folder in ("original/linear_patch16", "mmseg/mask_v0"):
        with pytest.raises(ConversionError, match="holds a whole model .* These options are for encoders"):
            load_checkpoint(FIXTURES / folder, encoder_options=EncoderOptions(image_size=128))


def test_our_own_folders_are_no_source(tmp_path):
    SegmenterForSemanticSegmentation(tiny_config()).save_pretrained(tmp_path)
    with pytest.raises(ConversionError, match="segmenter"):
        load_checkpoint(tmp_path)


def test_folder_with_no_weights_or_several(tmp_path):
    with pytest.raises(ConversionError, match=r"should hold one file of weights .* but has none"):
        load_checkpoint(tmp_path)
    for name in ("a.pth", "b.npz"):
        (tmp_path / name).touch()
    with pytest.raises(ConversionError, match=r"but has several: a\.pth, b\.npz\. Name one of them"):
        load_checkpoint(tmp_path)


def test_path_that_is_nowhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("nowhere", "models/vit.npz", str(tmp_path / "nowhere")):
        with pytest.raises(ConversionError, match=f"^{path} does not exist"):
            load_checkpoint(path)
    with pytest.raises(
        ConversionError, match="google/no-vit is no file or folder here, and cannot be had from the Hub"
    ):
        load_checkpoint("google/no-vit")


@pytest.mark.parametrize("path", ["https://example.com/a.pth", "http://example.com/vit"])
def test_address(path):
    with pytest.raises(ConversionError, match="is an address. Download it and name the file, or pass --released NAME"):
        load_checkpoint(path)


@pytest.mark.parametrize("path", ["a\0b", "a" * 5000, "/".join(["a" * 200] * 30), "circle", "circle/a.pth"])
def test_paths_that_cannot_be(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(ConversionError, match="does not exist|cannot be read") as error:
        load_checkpoint(path)
    assert str(error.value).isprintable()


def test_what_is_no_file_is_not_opened(tmp_path):
    """Reading a pipe would wait for somebody to write into it, for ever."""
    os.mkfifo(tmp_path / "checkpoint.pth")
    for path, message in ((tmp_path / "checkpoint.pth", "is neither a file nor a folder"), (tmp_path, "has none")):
        with pytest.raises(ConversionError, match=message):
            load_checkpoint(path)
    with pytest.raises(ConversionError, match="is neither a file nor a folder"):
        load_checkpoint("/dev/null")


def test_original_without_some_weights_says_which(tmp_path):
    checkpoint = make_original_checkpoint()
    del checkpoint.state_dict["encoder.cls_token"]
    with pytest.raises(ConversionError, match=r"missing are encoder\.cls_token; left over are none"):
        load_checkpoint(checkpoint.write(tmp_path))
