"""What a file is, is told by its contents, and files of no format are refused in one line."""

import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from segmenter_hf import SegmenterForSemanticSegmentation, SegmenterModel
from segmenter_hf.conversion import ConversionError, EncoderOptions
from segmenter_hf.conversion.convert import load_checkpoint
from segmenter_hf.conversion.formats import FORMATS, find_format
from segmenter_hf.conversion.sources import read_source
from tests.common import REPOSITORY, tiny_config
from tests.conversion.encoder_checkpoints import formats_of
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
    assert find_format(source) == name
    # Each is of one format only.
    assert formats_of(source) == [name]
    model, _ = load_checkpoint(path)
    expected_class = SegmenterModel if FORMATS[name].is_encoder else SegmenterForSemanticSegmentation
    assert type(model) is expected_class


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


def check_same_weights(actual, expected):
    assert actual.state_dict().keys() == expected.state_dict().keys()
    for name, tensor in expected.state_dict().items():
        assert torch.equal(actual.state_dict()[name], tensor)


# DistributedDataParallel, torch.compile, Lightning and other modules that hold a model put these, also in each other.
PREFIXES = ["module.", "_orig_mod.", "model.", "net.", "student.", "ema.", "backbone.", "module._orig_mod.model.net."]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("make", [make_original_checkpoint, make_mmsegmentation_checkpoint])
def test_prefixes_of_whole_models(make, prefix, tmp_path):
    checkpoint = make()
    expected, _ = load_checkpoint(checkpoint.write(tmp_path / "unwrapped"))
    checkpoint.state_dict = {f"{prefix}{name}": tensor for name, tensor in checkpoint.state_dict.items()}
    folder = checkpoint.write(tmp_path / "wrapped")
    for format in (None, find_format(read_source(tmp_path / "unwrapped"))):
        check_same_weights(load_checkpoint(folder, format=format)[0], expected)


@pytest.mark.parametrize("prefix", [*PREFIXES, "encoder.", "params/"])
@pytest.mark.parametrize(("folder", "file", "name"), SOURCES[-3:])
def test_prefixes_of_encoders(folder, file, name, prefix, tmp_path):
    path = FIXTURES / folder / file
    expected, _ = load_checkpoint(path)
    state_dict = {f"{prefix}{key}": tensor.contiguous() for key, tensor in read_source(path).state_dict.items()}
    np.savez(tmp_path / "a.npz", **{key: tensor.numpy() for key, tensor in state_dict.items()})
    save_file(state_dict, tmp_path / "a.safetensors")
    torch.save({"model": state_dict}, tmp_path / "a.pth")
    for file in ("a.npz", "a.safetensors", "a.pth"):
        for format in (None, name):
            check_same_weights(load_checkpoint(tmp_path / file, format=format)[0], expected)


def test_parts_that_were_compiled_by_themselves(tmp_path):
    for make, part in ((make_original_checkpoint, "encoder."), (make_mmsegmentation_checkpoint, "backbone.layers.")):
        checkpoint = make()
        expected, _ = load_checkpoint(checkpoint.write(tmp_path / "unwrapped"))
        checkpoint.state_dict = {
            name.replace(part, f"{part}_orig_mod."): tensor for name, tensor in checkpoint.state_dict.items()
        }
        check_same_weights(load_checkpoint(checkpoint.write(tmp_path / "wrapped"))[0], expected)


def test_averaged_weights(tmp_path):
    """torch's AveragedModel counts beside the weights."""
    expected, _ = load_checkpoint(FIXTURES / "augreg" / "vit_patch16" / "timm.safetensors")
    model = torch.nn.Linear(1, 1)
    names = torch.optim.swa_utils.AveragedModel(model).state_dict()
    assert set(names) == {"n_averaged", "module.weight", "module.bias"}
    state_dict = read_source(FIXTURES / "augreg" / "vit_patch16" / "timm.safetensors").state_dict
    averaged = {f"module.{name}": tensor for name, tensor in state_dict.items()}
    torch.save({"n_averaged": torch.tensor(7), **averaged}, tmp_path / "a.pth")
    check_same_weights(load_checkpoint(tmp_path / "a.pth")[0], expected)


def test_state_dict_under_any_name(tmp_path):
    state_dict = dict(read_source(FIXTURES / "augreg" / "vit_patch16" / "timm.safetensors").state_dict)
    expected, _ = load_checkpoint(FIXTURES / "augreg" / "vit_patch16" / "timm.safetensors")
    torch.save({"net": state_dict, "optimizer": {"state": {}}, "epoch": 3}, tmp_path / "a.pth")
    check_same_weights(load_checkpoint(tmp_path / "a.pth")[0], expected)
    # Which of two is meant, only the user knows.
    torch.save({"net": state_dict, "ema": state_dict}, tmp_path / "a.pth")
    with pytest.raises(ConversionError, match="it holds entries named ema, net"):
        load_checkpoint(tmp_path / "a.pth")


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


@pytest.mark.parametrize("model_class", [SegmenterForSemanticSegmentation, SegmenterModel])
def test_our_own_folders_are_no_source(model_class, tmp_path):
    model_class(tiny_config()).save_pretrained(tmp_path / "model")
    for path in (tmp_path / "model", tmp_path / "model" / "model.safetensors", tmp_path / "model" / "config.json"):
        for format in (None, "timm", "transformers", "original"):
            with pytest.raises(
                ConversionError, match="is a Segmenter .* from_pretrained .*alone: SegmenterModel.from_"
            ):
                load_checkpoint(path, format=format)
    (tmp_path / "model" / "model.safetensors").rename(tmp_path / "weights.safetensors")
    with pytest.raises(ConversionError, match="Name the folder that holds its config.json as well"):
        load_checkpoint(tmp_path / "weights.safetensors")


def write_state_dict(path: Path, source: Path, state_dict: dict[str, torch.Tensor]):
    """Writes a file as that of a fixture is, with other weights."""
    if path.suffix == ".npz":
        np.savez(path, **{name: tensor.numpy() for name, tensor in state_dict.items()})
    elif path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in state_dict.items()}, path)
    else:
        contents = read_source(source).contents
        # The placeholders are left out, as they cannot be written.
        meta = {name: value for name, value in contents.get("meta", {}).items() if isinstance(value, (str, list))}
        key = next((key for key in ("model", "state_dict") if key in contents), None)
        torch.save(state_dict if key is None else {"meta": meta, key: state_dict}, path)


# Of each format a layer, as the names of its weights begin, one of these weights, and the weights of one name in all
# layers.
LAYERS = {
    "original": ("encoder.blocks.1.", "mlp.fc2.bias", ".attn.qkv.bias"),
    "mmsegmentation": ("backbone.layers.1.", "ffn.layers.1.bias", ".attn.attn.in_proj_bias"),
    "augreg": ("Transformer/encoderblock_1/", "MlpBlock_3/Dense_1/bias", "/query/bias"),
    "timm": ("blocks.1.", "mlp.fc2.bias", ".attn.proj.bias"),
    "mmsegmentation-encoder": ("layers.1.", "ffn.layers.1.bias", ".attn.attn.in_proj_bias"),
}
DECODER_LAYERS = {"original": "decoder.blocks.1.", "mmsegmentation": "decode_head.layers.1."}


@pytest.mark.parametrize(("folder", "file", "name"), SOURCES)
def test_missing_weights_are_refused(folder, file, name, tmp_path):
    shutil.copytree(FIXTURES / folder, tmp_path / "source")
    path = tmp_path / "source" / file
    state_dict = dict(read_source(FIXTURES / folder / file).state_dict)
    layer, weight, everywhere = LAYERS[name]
    first_layer = layer.replace("1", "0", 1)
    missing = [
        [f"{layer}{weight}"],
        [key for key in state_dict if key.startswith(first_layer)],
        [key for key in state_dict if key.startswith(first_layer) and not key.endswith(weight)],
        [key for key in state_dict if key.endswith(everywhere)],
        [key for key in state_dict if key.endswith(everywhere) and key.startswith(layer)],
    ]
    if not FORMATS[name].is_encoder:
        # Files of encoders do not say how many layers there should be.
        missing.append([key for key in state_dict if key.startswith(layer)])
        if "linear" not in folder:
            missing.append([key for key in state_dict if key.startswith(DECODER_LAYERS[name])])
            missing.append([f"{DECODER_LAYERS[name]}{weight}"])
    for names in missing:
        assert names and set(names) <= set(state_dict)
        path.unlink()
        remaining = {key: tensor for key, tensor in state_dict.items() if key not in names}
        write_state_dict(path, FIXTURES / folder / file, remaining)
        with pytest.raises(ConversionError):
            load_checkpoint(path)
    path.unlink()
    write_state_dict(path, FIXTURES / folder / file, state_dict)
    load_checkpoint(path)


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
    with pytest.raises(ConversionError, match="is an address. Download it and name the file, or name a released"):
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
