"""Encoders in folders of transformers: the same outputs as theirs, and nothing that they print."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import (
    BeitConfig,
    BeitModel,
    DeiTConfig,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    DeiTForMaskedImageModeling,
    DeiTModel,
    ViTForImageClassification,
    ViTForMaskedImageModeling,
    ViTImageProcessor,
    ViTModel,
)

from segmenter_hf.conversion import ConversionError, EncoderOptions, transformers_vit
from segmenter_hf.conversion.convert import load_checkpoint
from segmenter_hf.conversion.sources import read_source
from tests.common import random_pixel_values, tiny_config
from tests.conversion.encoder_checkpoints import (
    TOLERANCE,
    formats_of,
    randomise,
)


SETTINGS = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "image_size": 32,
    "patch_size": 8,
    "layer_norm_eps": 1e-3,
}


def write_transformers(folder: Path, model_class: type, **overrides) -> transformers.PreTrainedModel:
    """Writes a random model, and returns it."""
    settings = {**SETTINGS, **overrides}
    if "MaskedImage" in model_class.__name__:
        settings["encoder_stride"] = settings["patch_size"]
    model = randomise(model_class(model_class.config_class(**settings)))
    model.save_pretrained(folder)
    return model


def edit_weights(folder: Path, edit) -> None:
    """Lets `edit` change the state dict in a folder."""
    state_dict = load_file(folder / "model.safetensors")
    edit(state_dict)
    save_file(state_dict, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("model_class", "overrides"),
    [
        pytest.param(ViTModel, {}, id="vit"),
        pytest.param(ViTForImageClassification, {"qkv_bias": False}, id="vit_without_qkv_bias"),
        pytest.param(ViTForImageClassification, {"layer_norm_eps": 1e-12, "patch_size": 16}, id="vit_classifier"),
        pytest.param(ViTForMaskedImageModeling, {"num_attention_heads": 6}, id="vit_masked"),
        pytest.param(ViTForImageClassification, {"image_size": [32, 48]}, id="vit_of_rectangles"),
        pytest.param(ViTForImageClassification, {"hidden_act": "gelu_pytorch_tanh"}, id="vit_with_another_gelu"),
        pytest.param(DeiTModel, {}, id="deit"),
        pytest.param(DeiTForImageClassification, {"num_hidden_layers": 3}, id="deit_classifier"),
        pytest.param(DeiTForImageClassificationWithTeacher, {"qkv_bias": False}, id="deit_with_teacher"),
        pytest.param(DeiTForMaskedImageModeling, {}, id="deit_masked"),
    ],
)
@torch.no_grad()
def test_transformers(model_class, overrides, tmp_path, capfd):
    saved = write_transformers(tmp_path, model_class, **overrides)
    expected = getattr(saved, saved.base_model_prefix, saved)
    source = read_source(tmp_path)
    assert formats_of(source) == ["transformers"]

    capfd.readouterr()
    model, image_processor = transformers_vit.load(source, EncoderOptions(normalization="deit"))
    printed = capfd.readouterr()
    assert printed.out == printed.err == ""

    assert model.config.layer_norm_eps == saved.config.layer_norm_eps
    assert model.config.hidden_act == saved.config.hidden_act
    assert model.config.qkv_bias == saved.config.qkv_bias
    assert model.config.num_attention_heads == saved.config.num_attention_heads
    assert model.config.use_distillation_token == (saved.config.model_type == "deit")
    assert model.config.position_embedding_interpolation == "bicubic"
    assert model.config.drop_path_rate == 0.1
    assert tuple(image_processor.to_dict()["image_mean"]) == (0.485, 0.456, 0.406)

    image_size = saved.config.image_size
    trained_size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    # transformers resizes position embeddings of squares only.
    for size in (trained_size,) if trained_size == (32, 48) else (trained_size, (48, 80)):
        pixel_values = random_pixel_values(2, *size)
        target = expected(pixel_values, interpolate_pos_encoding=size != trained_size).last_hidden_state
        actual = model(pixel_values).last_hidden_state
        torch.testing.assert_close(actual, target, atol=TOLERANCE, rtol=0)


def test_names_of_older_releases():
    """The names that the installed release does not have."""
    state_dict = randomise(DeiTModel(DeiTConfig(**SETTINGS), add_pooling_layer=False)).state_dict()
    newer = {name: tensor for name, tensor in state_dict.items() if name.startswith("layers.")}
    older = {name: tensor for name, tensor in state_dict.items() if name.startswith("encoder.layer.")}
    common = {name: state_dict[name] for name in state_dict.keys() - newer.keys() - older.keys()}
    for name, tensor in {**newer, **older}.items():
        index, part = name.removeprefix("encoder.").split(".", 2)[1:]
        part, parameter = part.rsplit(".", 1)
        for old, new in transformers_vit.OLDER_LAYER_NAMES.items():
            if part in (old, new):
                newer[f"layers.{index}.{new}.{parameter}"] = tensor
                older[f"encoder.layer.{index}.{old}.{parameter}"] = tensor
    assert len(newer) == len(older) == 2 * 16
    converted = [transformers_vit.convert_state_dict({**common, **layers}, "a") for layers in (newer, older)]
    assert converted[0].keys() == converted[1].keys()
    assert len(converted[0]) == len(common) + 2 * 16
    for name, tensor in converted[0].items():
        assert torch.equal(tensor, converted[1][name]), name


def test_image_size_and_heads(tmp_path):
    write_transformers(tmp_path, ViTForImageClassification)
    model, _ = transformers_vit.load(read_source(tmp_path), EncoderOptions(image_size=64))
    assert model.config.image_size == 64
    assert model.embeddings.position_embeddings.shape == (1, 65, 48)
    with pytest.raises(ConversionError, match="number of attention heads is 3, not 4"):
        transformers_vit.load(read_source(tmp_path), EncoderOptions(num_attention_heads=4))


def test_normalisation_is_that_of_the_preprocessor(tmp_path, caplog):
    write_transformers(tmp_path, ViTForImageClassification)
    ViTImageProcessor(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]).save_pretrained(tmp_path)
    _, image_processor = transformers_vit.load(read_source(tmp_path), EncoderOptions())
    settings = image_processor.to_dict()
    assert (list(settings["image_mean"]), list(settings["image_std"])) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    assert not caplog.messages
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": 0.5, "image_std": 0.5}')
    with pytest.raises(ConversionError, match="image_mean.*preprocessor_config.json must be three numbers"):
        transformers_vit.load(read_source(tmp_path), EncoderOptions())


@pytest.mark.parametrize(("model_class", "mean"), [(ViTModel, 0.5), (DeiTModel, 0.485)])
def test_normalisation_is_assumed_where_there_is_no_preprocessor(model_class, mean, tmp_path, caplog):
    write_transformers(tmp_path, model_class)
    _, image_processor = transformers_vit.load(read_source(tmp_path), EncoderOptions())
    assert image_processor.to_dict()["image_mean"][0] == mean
    (message,) = caplog.messages
    assert "assumed" in message and f"--normalization {'deit' if mean == 0.5 else 'vit'}" in message


def test_weights_of_half_precision_and_an_attention_that_is_not_installed(tmp_path):
    """Of what a folder asks for only the weights matter."""
    saved = write_transformers(tmp_path, ViTModel).half()
    saved.save_pretrained(tmp_path)
    configure(attn_implementation="flash_attention_2", _attn_implementation="flash_attention_2")(tmp_path)
    model, _ = transformers_vit.load(read_source(tmp_path), EncoderOptions())
    assert {weight.dtype for weight in model.state_dict().values()} == {torch.float32}
    assert torch.equal(model.embeddings.cls_token, saved.embeddings.cls_token.float())


def drop(*names: str):
    """Removes the weights whose names end with one of these, of which there must be one each."""

    def edit(state_dict):
        for ending in names:
            (name,) = (name for name in state_dict if name.endswith(ending))
            del state_dict[name]

    return edit


def add_layer(state_dict):
    state_dict |= {
        name.replace(".1.", ".2.", 1): tensor.clone() for name, tensor in state_dict.items() if ".1." in name
    }


def widen(state_dict):
    (name,) = (name for name in state_dict if name.endswith("position_embeddings"))
    state_dict[name] = torch.zeros(1, 99, 48)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        pytest.param(drop("cls_token"), "missing are .*cls_token; left over are none", id="missing"),
        pytest.param(drop("1.layernorm_after.bias"), "missing are .*1.layernorm_after.bias", id="missing_in_a_layer"),
        pytest.param(add_layer, "`num_hidden_layers` is 2, but the weights say 3", id="more_layers"),
        pytest.param(
            widen, "`image_size` makes 16 patches, but the weights have position embeddings for 98", id="shape"
        ),
    ],
)
def test_weights_that_do_not_fit_the_config_are_refused(edit, message, tmp_path, capfd):
    write_transformers(tmp_path, ViTForImageClassification)
    edit_weights(tmp_path, edit)
    capfd.readouterr()
    with pytest.raises(ConversionError, match=message) as error:
        transformers_vit.load(read_source(tmp_path), EncoderOptions())
    assert str(tmp_path) in str(error.value)
    assert capfd.readouterr().err == ""


def truncate(folder: Path):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


def replace_by_pointer(folder: Path):
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 1\n")


def configure(**values):
    def edit(folder: Path):
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    return edit


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(truncate, "model.safetensors is truncated or not a safetensors file", id="truncated"),
        pytest.param(replace_by_pointer, "model.safetensors is a pointer of Git LFS.*git lfs pull", id="pointer"),
        pytest.param(lambda folder: (folder / "model.safetensors").unlink(), "no file named", id="no_weights"),
        pytest.param(configure(hidden_size="wide"), "`hidden_size` of .*config.json must be a positive", id="config"),
        pytest.param(configure(num_channels=1), "`num_channels` is 1, but the weights say 3", id="channels"),
        # This is said before a model of that size is made.
        pytest.param(configure(num_hidden_layers=10**6), "is 1000000, but the weights say 2", id="layers"),
        pytest.param(configure(hidden_size=10**5), "`hidden_size` is 100000, but the weights say 48", id="width"),
        pytest.param(configure(image_size=[32, 32, 32]), "image_size.*must be a height and a width", id="sizes"),
        pytest.param(configure(image_size=48), "makes 36 patches, but .* for 16", id="image_size"),
        pytest.param(configure(qkv_bias=False), "`qkv_bias` is False, but the weights say True", id="biases"),
        pytest.param(configure(layer_norm_eps=-1), "layer_norm_eps.*at least 0 and below 1, got -1", id="eps"),
        pytest.param(configure(hidden_act="relu9"), "must be an activation of transformers, got 'relu9'", id="act"),
        pytest.param(configure(model_type="beit"), "type 'beit', .*vit and deit can be converted", id="beit"),
        pytest.param(configure(model_type=["vit"]), r"type \['vit'\]", id="no_name"),
        pytest.param(configure(patch_size=[8, 16]), "do not fit", id="oblong_patches"),
    ],
)
def test_folders_that_are_refused(damage, message, tmp_path):
    write_transformers(tmp_path, ViTModel)
    damage(tmp_path)
    with pytest.raises(ConversionError, match=message) as error:
        transformers_vit.load(read_source(tmp_path), EncoderOptions())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "model.", "encoder.", "net.module."])
def test_prefixes_before_all_names(prefix, tmp_path):
    write_transformers(tmp_path, ViTForImageClassification)
    expected = load_checkpoint(tmp_path)[0].state_dict()
    state_dict = {f"{prefix}{name}": tensor for name, tensor in load_file(tmp_path / "model.safetensors").items()}
    save_file(state_dict, tmp_path / "model.safetensors")
    whole = load_checkpoint(tmp_path)[0].state_dict()
    (tmp_path / "model.safetensors").unlink()
    files = {name: f"{index % 2}.safetensors" for index, name in enumerate(state_dict)}
    for file in set(files.values()):
        save_file({name: state_dict[name] for name in files if files[name] == file}, tmp_path / file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    sharded = load_checkpoint(tmp_path)[0].state_dict()
    assert whole.keys() == sharded.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(whole[name], tensor) and torch.equal(sharded[name], tensor)


@pytest.mark.parametrize("num_layers", [None, 2])
def test_layers_that_are_missing(num_layers, tmp_path):
    """Whether `config.json` states their number or leaves it to the default, which is 12."""
    write_transformers(tmp_path, ViTModel)
    configure(num_hidden_layers=num_layers)(tmp_path)
    state_dict = load_file(tmp_path / "model.safetensors")
    save_file(
        {name: state_dict[name] for name in state_dict if "layer.1." not in name}, tmp_path / "model.safetensors"
    )
    with pytest.raises(ConversionError, match=f"`num_hidden_layers` is {num_layers or 12}, but the weights say 1"):
        load_checkpoint(tmp_path)


def test_weights_in_several_files(tmp_path):
    saved = write_transformers(tmp_path / "model", ViTForImageClassification)
    expected, _ = transformers_vit.load(read_source(tmp_path / "model"), EncoderOptions())
    saved.save_pretrained(tmp_path / "shards", max_shard_size="50KB")
    index_file = tmp_path / "shards" / "model.safetensors.index.json"
    actual, _ = transformers_vit.load(read_source(tmp_path / "shards"), EncoderOptions())
    assert actual.state_dict().keys() == expected.state_dict().keys()
    for name, tensor in expected.state_dict().items():
        assert torch.equal(actual.state_dict()[name], tensor)

    index = json.loads(index_file.read_text())
    name = "vit.embeddings.cls_token"
    for file, message in (("other.safetensors", "lacks files .* names: other"), ("../a.safetensors", "`weight_map`")):
        index["weight_map"][name] = file
        index_file.write_text(json.dumps(index))
        with pytest.raises(ConversionError, match=message):
            transformers_vit.load(read_source(tmp_path / "shards"), EncoderOptions())


@pytest.mark.parametrize("dtype", ["float16", "nonesuch", None])
def test_weights_are_not_rounded_to_what_the_config_says(dtype, tmp_path):
    saved = write_transformers(tmp_path, ViTModel)
    configure(dtype=dtype)(tmp_path)
    model, _ = transformers_vit.load(read_source(tmp_path), EncoderOptions())
    assert torch.equal(model.embeddings.position_embeddings, saved.embeddings.position_embeddings)


def test_config_names_the_folder(tmp_path):
    write_transformers(tmp_path, ViTModel)
    model, _ = transformers_vit.load(read_source(tmp_path / "config.json"), EncoderOptions())
    assert model.config.hidden_size == 48


def test_other_models_are_refused_by_their_names(tmp_path):
    BeitModel(BeitConfig(**SETTINGS)).save_pretrained(tmp_path / "beit")
    tiny_config().save_pretrained(tmp_path / "segmenter")
    for model_type in ("beit", "segmenter"):
        source = read_source(tmp_path / model_type)
        assert transformers_vit.recognise(source)
        with pytest.raises(ConversionError, match=f"type '{model_type}'"):
            transformers_vit.load(source, EncoderOptions())


def test_pickled_weights_are_read(tmp_path):
    saved = write_transformers(tmp_path, ViTModel)
    (tmp_path / "model.safetensors").unlink()
    torch.save(saved.state_dict(), tmp_path / "pytorch_model.bin")
    model, _ = transformers_vit.load(read_source(tmp_path), EncoderOptions())
    assert torch.equal(model.embeddings.cls_token, saved.embeddings.cls_token)


def test_code_in_a_folder_is_not_run(tmp_path):
    write_transformers(tmp_path, ViTModel)
    trace = tmp_path / "was_run"
    (tmp_path / "modeling_new.py").write_text(f"open({str(trace)!r}, 'w')\nclass NewModel: pass\n")
    configure(auto_map={"AutoModel": "modeling_new.NewModel", "AutoConfig": "modeling_new.NewModel"})(tmp_path)
    model, _ = transformers_vit.load(read_source(tmp_path), EncoderOptions())
    assert model.config.hidden_size == 48
    assert not trace.exists()
