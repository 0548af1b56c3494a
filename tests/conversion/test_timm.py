"""
Encoders of timm and DeiT, in files, in folders and by name: random ones of several sizes, whose outputs timm computes.
"""

import hashlib
import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from segmenter_hf.conversion import ConversionError, EncoderOptions, timm
from segmenter_hf.conversion.sources import read_source
from tests.common import random_pixel_values
from tests.conversion.encoder_checkpoints import (
    DEIT_MEAN_AND_STD,
    TOLERANCE,
    VIT_MEAN_AND_STD,
    as_source,
    assert_same_outputs,
    formats_of,
    make_timm_model,
    mean_and_std,
    write_timm_folder,
)


STATISTICS = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}


@pytest.mark.parametrize(
    "config",
    [
        {"architecture": "vit_tiny_patch16_384", "pretrained_cfg": {**STATISTICS, "num_classes": 10}},
        {"architecture": "vit_tiny_patch16_384", **STATISTICS},
    ],
)
@pytest.mark.parametrize("is_named_as_file", [False, True])
def test_timm_folder(config, is_named_as_file, tmp_path, caplog):
    folder = write_timm_folder(tmp_path / "timm", make_timm_model(), config)
    source = read_source(folder / "model.safetensors" if is_named_as_file else folder)
    assert formats_of(source) == ["timm"]
    _, image_processor = timm.load(source, EncoderOptions())
    assert mean_and_std(image_processor) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    _, image_processor = timm.load(source, EncoderOptions(normalization="deit"))
    assert mean_and_std(image_processor) == DEIT_MEAN_AND_STD
    assert not caplog.messages


@torch.no_grad()
def test_timm_folder_states_the_heads(tmp_path):
    timm_model = make_timm_model(num_heads=4)
    config = {"architecture": "vit", "model_args": {"num_heads": 4}, "pretrained_cfg": STATISTICS}
    source = read_source(write_timm_folder(tmp_path, timm_model, config))
    model, _ = timm.load(source, EncoderOptions())
    pixel_values = random_pixel_values(1, 64, 64)
    assert_same_outputs(model, timm_model.forward_features(pixel_values), pixel_values)
    with pytest.raises(ConversionError, match="number of attention heads is 4, not 1"):
        timm.load(source, EncoderOptions(num_attention_heads=1))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architecture": "vit", "pretrained_cfg": {"mean": [0.5], "std": [0.5]}}, "mean.*three numbers"),
        ({"architecture": "vit", "pretrained_cfg": {"mean": "a b c", "std": [1, 1, 1]}}, "mean.*three numbers"),
        ({"architecture": "vit", "pretrained_cfg": {"mean": [0, 0, 0], "std": [1, 0, 1]}}, "std.*three positive"),
        ({"architecture": "vit", "model_args": {"num_heads": "4"}}, "num_heads.*positive integer"),
        ({"architecture": "vit", "model_args": {"act_layer": "gelu_tanh"}}, "does not have: act_layer"),
    ],
)
def test_timm_folders_that_are_refused(config, message, tmp_path):
    source = read_source(write_timm_folder(tmp_path, make_timm_model(), config))
    with pytest.raises(ConversionError, match=message):
        timm.load(source, EncoderOptions())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        pytest.param(
            {"architecture": "vit_tiny_patch16_384"}, "`architecture` is 12, but the weights say 11", id="name"
        ),
        pytest.param(
            {"architecture": "vit_tiny_patch16_384", "model_args": {"depth": 13}},
            "`model_args.depth` is 13, but the weights say 11",
            id="depth",
        ),
    ],
)
def test_timm_folders_state_the_layers(config, message, tmp_path):
    model = make_timm_model(embed_dim=192, depth=11, num_heads=3, mlp_ratio=0.1)
    with pytest.raises(ConversionError, match=message):
        timm.load(read_source(write_timm_folder(tmp_path, model, config)), EncoderOptions())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_args": {"depth": 11}}))
    assert timm.load(read_source(tmp_path), EncoderOptions())[0].config.num_hidden_layers == 11


def test_config_of_something_else_beside_a_file_is_left_alone(tmp_path, caplog):
    source = read_source(write_timm_folder(tmp_path, make_timm_model(), STATISTICS))
    _, image_processor = timm.load(source, EncoderOptions())
    assert mean_and_std(image_processor) == VIT_MEAN_AND_STD
    assert len(caplog.messages) == 1


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        pytest.param({"init_values": 1e-5}, "left over are blocks.0.ls1.gamma", id="layer_scale"),
        pytest.param({"qk_norm": True}, "left over are blocks.0.attn.k_norm.bias", id="qk_norm"),
        pytest.param({"reg_tokens": 4}, "left over are reg_token", id="register_tokens"),
        pytest.param({"pre_norm": True}, "missing are patch_embed.proj.bias; left over are norm_pre.bias", id="clip"),
        pytest.param({"global_pool": "avg"}, "missing are norm.bias.*left over are fc_norm.bias", id="average_pool"),
        pytest.param({"class_token": False, "global_pool": "avg"}, "missing are cls_token", id="no_class_token"),
    ],
)
def test_transformers_that_are_not_plain_are_refused(settings, names):
    source = as_source(make_timm_model(**settings).state_dict())
    assert timm.recognise(source)
    with pytest.raises(ConversionError, match=f"a.pth is not a plain pre-norm Vision Transformer.*{names}"):
        timm.load(source, EncoderOptions())


def test_layer_before_the_classifier_is_dropped():
    """As in the files of older releases of timm."""
    state_dict = make_timm_model().state_dict()
    state_dict |= {"pre_logits.fc.weight": torch.zeros(64, 64), "pre_logits.fc.bias": torch.zeros(64)}
    model, _ = timm.load(as_source(state_dict), EncoderOptions())
    assert not [name for name in model.state_dict() if "pre_logits" in name]


TIMM_NAME = "vit_tiny_patch16_384.augreg_in21k_ft_in1k"


@pytest.fixture
def hub_cache(tmp_path, monkeypatch) -> Path:
    """An empty cache of the Hub, which is out of reach."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path


@torch.no_grad()
def test_timm_model_by_name(hub_cache, caplog):
    expected = make_timm_model(img_size=384, embed_dim=192, depth=12, num_heads=3, num_classes=1000)
    revision = "0" * 40
    repository = hub_cache / f"models--timm--{TIMM_NAME}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(revision)
    (repository / "snapshots" / revision).mkdir(parents=True)
    save_file(expected.state_dict(), repository / "snapshots" / revision / "model.safetensors")

    model, image_processor = timm.load_named(TIMM_NAME, EncoderOptions())
    file = repository / "snapshots" / revision / "model.safetensors"
    assert model.config.source_sha256 == {file.name: hashlib.sha256(file.read_bytes()).hexdigest()}
    assert (model.config.num_attention_heads, model.config.image_size) == (3, 384)
    assert model.config.layer_norm_eps == 1e-6
    assert model.config.position_embedding_interpolation == "bilinear"
    assert tuple(image_processor.to_dict()["image_mean"]) == (0.5, 0.5, 0.5)
    assert not caplog.messages
    pixel_values = random_pixel_values(1, 384, 384)
    actual = model(pixel_values).last_hidden_state
    torch.testing.assert_close(actual, expected.forward_features(pixel_values), atol=TOLERANCE, rtol=0)

    # The name without weights stands for timm's choice of them, which are the same here.
    model, _ = timm.load_named("vit_tiny_patch16_384", EncoderOptions(image_size=512))
    assert torch.equal(model.embeddings.cls_token, expected.cls_token)
    assert model.config.image_size == 512
    with pytest.raises(ConversionError, match="number of attention heads is 3, not 6"):
        timm.load_named(TIMM_NAME, EncoderOptions(num_attention_heads=6))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param(TIMM_NAME, "timm cannot get the weights of '.*': .*Without a network", id="no_network"),
        pytest.param("vit_of_mine", "timm .* knows no model 'vit_of_mine'", id="unknown"),
        pytest.param("", "knows no model ''", id="empty"),
        pytest.param("hf-hub:timm/vit", "knows no model", id="repository"),
        pytest.param(
            "vit_tiny_patch16_384.mine", "cannot load.*pretrained tag.*list_pretrained", id="unknown_weights"
        ),
        pytest.param("vit_base_patch16_plus_240", "cannot load.*No pretrained weights exist", id="no_weights"),
        pytest.param("swin_tiny_patch4_window7_224", "is not a plain pre-norm Vision Transformer", id="swin"),
    ],
)
def test_timm_names_that_are_refused(name, message, hub_cache):
    with pytest.raises(ConversionError, match=message) as error:
        timm.load_named(name, EncoderOptions())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param({"init_values": 1e-5}, "timm:vit_tiny_patch16_384 is not a plain.*ls1.gamma", id="layer_scale"),
        pytest.param({"act_layer": "quick_gelu"}, "computes QuickGELU where Segmenter has GELU", id="activation"),
        pytest.param({"act_layer": "gelu_tanh"}, "computes GELUTanh where Segmenter has GELU", id="approximate_gelu"),
    ],
)
def test_timm_models_that_are_not_plain_are_refused(settings, message, monkeypatch):
    monkeypatch.setattr("timm.create_model", lambda name, pretrained: make_timm_model(**settings))
    with pytest.raises(ConversionError, match=message):
        timm.load_named("vit_tiny_patch16_384", EncoderOptions())


def test_timm_need_not_be_installed_for_the_rest(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConversionError, match="timm:vit_tiny_patch16_384 needs timm: pip install timm"):
        timm.load_named("vit_tiny_patch16_384", EncoderOptions())
