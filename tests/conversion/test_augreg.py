"""Encoders in AugReg's format: random ones of several sizes, which timm itself loads and computes."""

import numpy as np
import pytest
import torch

from segmenter_hf.conversion import ConversionError, EncoderOptions, augreg
from segmenter_hf.conversion.sources import read_source
from tests.common import random_pixel_values
from tests.conversion.encoder_checkpoints import (
    assert_same_outputs,
    formats_of,
    make_augreg_arrays,
    make_timm_model,
    write_npz,
)


@pytest.mark.parametrize(
    "settings",
    [
        {"patch_size": 8},
        {"patch_size": 32, "image_size": 96, "hidden_size": 128, "num_heads": 2},
        {"num_heads": 4, "num_layers": 3},
        {"hidden_size": 96, "num_heads": 3, "intermediate_size": 50},
    ],
)
@pytest.mark.parametrize("prefix", ["", "opt/target/"])
@torch.no_grad()
def test_augreg(settings, prefix, tmp_path):
    """timm reads such files too."""
    arrays = make_augreg_arrays(**settings)
    hidden_size, num_heads = arrays["cls"].shape[-1], settings.get("num_heads", 1)
    expected = make_timm_model(
        img_size=settings.get("image_size", 64),
        patch_size=settings.get("patch_size", 16),
        embed_dim=hidden_size,
        num_heads=num_heads,
        depth=settings.get("num_layers", 2),
        mlp_ratio=settings.get("intermediate_size", 128) / hidden_size,
    )
    arrays = {f"{prefix}{name}": array for name, array in arrays.items()}
    if prefix:
        arrays["opt/state/step"] = np.array(20000)
    path = write_npz(tmp_path / "a.npz", arrays)
    expected.load_pretrained(str(path))

    source = read_source(path)
    assert formats_of(source) == ["augreg"]
    model, _ = augreg.load(source, EncoderOptions())
    assert model.config.num_attention_heads == num_heads
    pixel_values = random_pixel_values(2, *expected.patch_embed.img_size)
    assert_same_outputs(model, expected.forward_features(pixel_values), pixel_values)


def test_depth_of_the_large_encoder(tmp_path):
    path = write_npz(tmp_path / "a.npz", make_augreg_arrays(num_layers=24, intermediate_size=8))
    model, _ = augreg.load(read_source(path), EncoderOptions())
    assert model.config.num_hidden_layers == len(model.layers) == 24


def test_arrays_of_other_dimensions_are_refused(tmp_path):
    for name in ("embedding/kernel", "Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/bias"):
        arrays = make_augreg_arrays()
        arrays[name] = arrays[name][None]
        with pytest.raises(ConversionError, match=f"{name} should have . dimensions"):
            augreg.load(read_source(write_npz(tmp_path / "a.npz", arrays)), EncoderOptions())
    arrays = make_augreg_arrays()
    arrays["Transformer/encoder_norm/bias"] = np.zeros(63, np.float32)
    with pytest.raises(ConversionError, match="layernorm.bias .63,. instead of .64,."):
        augreg.load(read_source(write_npz(tmp_path / "a.npz", arrays)), EncoderOptions())


def test_heads_of_an_npz_cannot_be_contradicted(tmp_path):
    source = read_source(write_npz(tmp_path / "a.npz", make_augreg_arrays(num_heads=2)))
    with pytest.raises(
        ConversionError, match="number of attention heads is 2, not 1. Leave --num_attention_heads out"
    ):
        augreg.load(source, EncoderOptions(num_attention_heads=1))
    model, _ = augreg.load(source, EncoderOptions(num_attention_heads=2))
    assert model.config.num_attention_heads == 2
