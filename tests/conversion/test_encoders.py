"""
What encoders of all formats have in common: the fixture, whose expected output its source computed, and what is said
of heads, sizes and normalisation.
"""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation
from transformers.utils import logging as transformers_logging

from segmenter_hf import SegmenterForSemanticSegmentation, SegmenterModel
from segmenter_hf.conversion import ConversionError, EncoderOptions, augreg, mmsegmentation, timm
from segmenter_hf.conversion.convert import load_checkpoint
from segmenter_hf.conversion.formats import FORMATS
from segmenter_hf.conversion.sources import Source, read_source
from tests.common import REPOSITORY, random_pixel_values
from tests.conversion.encoder_checkpoints import (
    DEIT_MEAN_AND_STD,
    VIT_MEAN_AND_STD,
    as_source,
    assert_same_outputs,
    formats_of,
    make_augreg_arrays,
    make_timm_model,
    mean_and_std,
    to_mmsegmentation,
    write_npz,
    write_pth,
)


FIXTURE = REPOSITORY / "tests" / "fixtures" / "augreg" / "vit_patch16"


FORMAT_OF_FILES = {
    "checkpoint.npz": "augreg",
    "timm.safetensors": "timm",
    "mmseg_vit.pth": "mmsegmentation-encoder",
}


@pytest.mark.parametrize("name", FORMAT_OF_FILES)
def test_fixture(name, tmp_path):
    """Recognised as one format only, and the source's output after saving and loading."""
    source = read_source(FIXTURE / name)
    assert formats_of(source) == [FORMAT_OF_FILES[name]]
    model, image_processor = load_checkpoint(FIXTURE / name)
    model.save_pretrained(tmp_path)
    image_processor.save_pretrained(tmp_path)

    model = SegmenterModel.from_pretrained(tmp_path)
    expected = np.load(FIXTURE / "expected.npz")
    assert_same_outputs(model, torch.from_numpy(expected["last_hidden_state"]), torch.from_numpy(expected["input"]))

    config = model.config
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (64, 2, 1)
    assert (config.intermediate_size, config.patch_size, config.image_size) == (256, 16, 64)
    assert (config.layer_norm_eps, config.decoder_layer_norm_eps, config.hidden_act) == (1e-6, 1e-5, "gelu")
    assert (config.qkv_bias, config.use_distillation_token, config.num_channels) == (True, False, 3)
    assert (config.drop_path_rate, config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (0.1, 0.0, 0.0)
    assert config.decoder_type == "mask_transformer"
    assert config.position_embedding_interpolation == ("bicubic" if name == "mmseg_vit.pth" else "bilinear")

    image_processor = AutoImageProcessor.from_pretrained(tmp_path)
    settings = image_processor.to_dict()
    assert mean_and_std(image_processor) == VIT_MEAN_AND_STD
    assert settings["size"] == {"shortest_edge": 64, "longest_edge": 256}
    assert settings["crop_size"] == {"height": 64, "width": 64}
    assert (settings["window_stride"], settings["patch_size"]) == (64, 16)
    assert (settings["do_split_image"], settings["antialias"], settings["do_reduce_labels"]) == (True, False, False)
    assert settings["resample"] == 2


@pytest.mark.parametrize(
    ("names", "file"),
    [
        pytest.param(["encoder.patch_embed.proj.weight", "decoder.cls_emb"], "checkpoint.pth", id="original"),
        pytest.param(["backbone.patch_embed.projection.weight", "decode_head.cls_emb"], "a.pth", id="mmsegmentation"),
        pytest.param(["model_type"], "config.json.pth", id="no_config"),
        pytest.param([], "a.npz", id="nothing"),
    ],
)
@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
def test_other_formats_are_not_taken_for_encoders(names, file, wrapper):
    state_dict = {name: torch.zeros(1) for name in names}
    source = Source(Path(file), Path(file), state_dict if wrapper is None else {wrapper: state_dict})
    assert not any(FORMATS[name].is_encoder for name in formats_of(source))


# Arguments of `make_timm_model`, and the options that such a file needs.
TIMM_SETTINGS = [
    pytest.param({"patch_size": 8}, {}, id="patch_8"),
    pytest.param({"patch_size": 32, "img_size": 96, "embed_dim": 128, "num_heads": 2}, {}, id="patch_32"),
    pytest.param({"num_heads": 4, "mlp_ratio": 3.0}, {"num_attention_heads": 4}, id="heads_of_16"),
    pytest.param({"embed_dim": 96, "num_heads": 3}, {"num_attention_heads": 3}, id="width_of_no_head"),
    pytest.param({"embed_dim": 200, "num_heads": 4}, {"num_attention_heads": 4}, id="width_of_no_default_decoder"),
    pytest.param({"qkv_bias": False, "depth": 3}, {}, id="no_qkv_bias"),
    pytest.param({"distilled": True}, {}, id="distilled"),
]


# MMSegmentation has no encoders with a distillation token, or without the biases.
@pytest.mark.parametrize(
    ("name", "settings", "options"),
    [
        (name, *row.values)
        for name in ("timm", "mmsegmentation-encoder")
        for row in TIMM_SETTINGS
        if name == "timm" or row.id not in ("distilled", "no_qkv_bias")
    ],
)
@torch.no_grad()
def test_sizes(name, settings, options):
    expected = make_timm_model(**settings)
    state_dict = expected.state_dict()
    source = as_source(state_dict if name == "timm" else to_mmsegmentation(state_dict))
    assert formats_of(source) == [name]
    model, _ = FORMATS[name].load(source, EncoderOptions(**options, normalization="vit"))
    assert model.config.num_attention_heads == settings.get("num_heads", 1)
    pixel_values = random_pixel_values(2, *expected.patch_embed.img_size)
    assert_same_outputs(model, expected.forward_features(pixel_values), pixel_values)


@pytest.mark.parametrize(
    ("hidden_size", "num_heads", "patch_size"),
    [(192, 3, 16), (384, 6, 16), (384, 6, 32), (768, 12, 8), (768, 12, 16), (1024, 16, 16), (1024, 16, 32)],
)
@pytest.mark.parametrize("image_size", [None, 512, (320, 640)])
def test_published_sizes(hidden_size, num_heads, patch_size, image_size):
    """Sizes of the released encoders, with one layer of what they have, from files that do not hold the heads."""
    timm_model = make_timm_model(
        img_size=384, patch_size=patch_size, embed_dim=hidden_size, num_heads=num_heads, depth=1
    )
    state_dict = to_mmsegmentation(timm_model.state_dict())
    source = as_source(state_dict)
    model, image_processor = mmsegmentation.load_encoder(source, EncoderOptions(image_size=image_size))
    config = model.config
    assert (config.hidden_size, config.num_attention_heads, config.patch_size) == (hidden_size, num_heads, patch_size)
    assert (config.intermediate_size, config.num_hidden_layers) == (4 * hidden_size, 1)
    assert (config.decoder_hidden_size, config.decoder_num_attention_heads) == (hidden_size, num_heads)
    size = {None: (384, 384), 512: (512, 512)}.get(image_size, image_size)
    assert config.patch_grid == (size[0] // patch_size, size[1] // patch_size)
    assert model.embeddings.position_embeddings.shape == (1, 1 + np.prod(config.patch_grid), hidden_size)
    settings = image_processor.to_dict()
    assert settings["crop_size"] == {"height": size[0], "width": size[1]}
    assert settings["size"] == {"shortest_edge": min(size), "longest_edge": 4 * min(size)}
    assert (settings["window_stride"], settings["patch_size"]) == (min(size), patch_size)


def resize_matrix(old: int, new: int, mode: str) -> np.ndarray:
    """
    `(new, old)` weights of interpolation without antialiasing, by its definition: pixel centres at half integers,
    borders repeated, and Keys' cubic kernel with a = -0.75.
    """
    matrix = np.zeros((new, old))
    for row in range(new):
        position = (row + 0.5) * old / new - 0.5
        for tap in range(int(np.floor(position)) - 1, int(np.floor(position)) + 3):
            x = abs(position - tap)
            if mode == "bilinear":
                weight = max(0, 1 - x)
            elif x <= 1:
                weight = 1.25 * x**3 - 2.25 * x**2 + 1
            else:
                weight = max(0, 2 - x) and -0.75 * (x**3 - 5 * x**2 + 8 * x - 4)
            matrix[row, min(max(tap, 0), old - 1)] += weight
    return matrix


@pytest.mark.parametrize("image_size", [96, 32, (48, 112)])
@pytest.mark.parametrize("interpolation", [None, "bilinear", "bicubic"])
@pytest.mark.parametrize("distilled", [False, True])
@torch.no_grad()
def test_position_embeddings_are_resized(image_size, interpolation, distilled, caplog):
    state_dict = make_timm_model(distilled=distilled).state_dict()
    options = {"position_embedding_interpolation": interpolation, "normalization": "vit"}
    source = as_source(state_dict)
    trained, _ = timm.load(source, EncoderOptions(**options))
    resized, _ = timm.load(source, EncoderOptions(**options, image_size=image_size))

    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    matrices = [resize_matrix(4, side // 16, interpolation or "bilinear") for side in (height, width)]
    positions = state_dict["pos_embed"].numpy()
    num_prefix_tokens = 1 + distilled
    grid = positions[0, num_prefix_tokens:].reshape(4, 4, -1)
    grid = np.einsum("yi,xj,ijc->yxc", *matrices, grid).reshape(1, -1, grid.shape[-1])
    expected = torch.from_numpy(np.concatenate((positions[:, :num_prefix_tokens], grid), axis=1)).float()
    actual = resized.embeddings.position_embeddings
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)
    assert torch.equal(actual[:, :num_prefix_tokens], state_dict["pos_embed"][:, :num_prefix_tokens])
    assert resized.config.patch_grid == (height // 16, width // 16)
    # The model computes at this size what it would have computed without resizing, and nothing else has changed.
    pixel_values = random_pixel_values(1, height, width)
    assert_same_outputs(resized, trained(pixel_values).last_hidden_state, pixel_values)


@pytest.mark.parametrize("decoder_type", ["mask_transformer", "linear"])
@pytest.mark.parametrize("model_class", [SegmenterForSemanticSegmentation, AutoModelForSemanticSegmentation])
@pytest.mark.parametrize("name", FORMAT_OF_FILES)
def test_training_starts_with_a_fresh_decoder(decoder_type, model_class, name, tmp_path):
    """One message says so, and names the decoder's weights only."""
    encoder, image_processor = load_checkpoint(FIXTURE / name)
    encoder.save_pretrained(tmp_path)
    image_processor.save_pretrained(tmp_path)

    records = []
    handler = logging.Handler()
    handler.emit = records.append
    logger = transformers_logging.get_logger()
    logger.addHandler(handler)
    try:
        model = model_class.from_pretrained(tmp_path, num_labels=7, decoder_type=decoder_type)
        other = model_class.from_pretrained(tmp_path, num_labels=7, decoder_type=decoder_type)
    finally:
        logger.removeHandler(handler)

    messages = [record.getMessage() for record in records if record.levelno >= logging.WARNING]
    assert len(messages) == 2 and messages[0] == messages[1]
    (*_, notes) = messages[0].split("Notes:")
    assert "newly initialized" in notes
    rows = [line.split("|")[0].strip() for line in messages[0].splitlines() if line.count("|") >= 2][1:]
    assert rows and all(row.startswith("decoder.") for row in rows)

    assert isinstance(model, SegmenterForSemanticSegmentation)
    for key, weight in encoder.state_dict().items():
        assert torch.equal(model.state_dict()[f"segmenter.{key}"], weight), key
    assert all(torch.isfinite(weight).all() for weight in model.state_dict().values())
    matrices = [key for key, weight in model.decoder.state_dict().items() if weight.ndim > 1]
    for key in matrices:
        fresh, again = model.decoder.state_dict()[key], other.decoder.state_dict()[key]
        assert fresh.std() > 0.01 and not torch.equal(fresh, again), key
    assert ("class_embeddings" in matrices) == (decoder_type == "mask_transformer")
    assert model(random_pixel_values(1, 64, 64)).logits.shape == (1, 7, 4, 4)


def test_files_that_do_not_state_the_normalisation_are_told_so_once(tmp_path, caplog):
    source = read_source(write_pth(tmp_path / "a.pth", make_timm_model().state_dict()))
    _, image_processor = timm.load(source, EncoderOptions())
    assert mean_and_std(image_processor) == VIT_MEAN_AND_STD
    (message,) = caplog.messages
    assert "assumed" in message and "--normalization deit" in message

    caplog.clear()
    for normalization, expected in (("deit", DEIT_MEAN_AND_STD), ("vit", VIT_MEAN_AND_STD)):
        _, image_processor = timm.load(source, EncoderOptions(normalization=normalization))
        assert mean_and_std(image_processor) == expected
    assert not caplog.messages


def test_normalisation_of_the_others_is_known(tmp_path, caplog):
    source = read_source(write_pth(tmp_path / "a.pth", {"model": make_timm_model(distilled=True).state_dict()}))
    for options, expected in (({}, DEIT_MEAN_AND_STD), ({"normalization": "vit"}, VIT_MEAN_AND_STD)):
        _, image_processor = timm.load(source, EncoderOptions(**options))
        assert mean_and_std(image_processor) == expected
    for name in ("checkpoint.npz", "mmseg_vit.pth"):
        options = EncoderOptions(normalization="deit")
        _, image_processor = load_checkpoint(FIXTURE / name, encoder_options=options)
        assert mean_and_std(image_processor) == DEIT_MEAN_AND_STD
        load_checkpoint(FIXTURE / name)
    assert not caplog.messages


@pytest.mark.parametrize(("depth", "is_warned_of"), [(11, True), (12, False), (13, False)])
def test_files_with_fewer_layers_than_published_warn(depth, is_warned_of, tmp_path, caplog):
    arrays = make_augreg_arrays(hidden_size=192, num_heads=3, num_layers=depth, intermediate_size=8)
    load_checkpoint(write_npz(tmp_path / "a.npz", arrays))
    expected = [
        "The encoder has 11 layers, where published Vision Transformers of width 192 have 12. The file does not "
    ]
    assert [text[: len(expected[0])] for text in caplog.messages] == expected * is_warned_of


def test_files_with_too_much_or_too_little_are_refused(tmp_path):
    arrays = make_augreg_arrays()
    layer = "Transformer/encoderblock_1/MultiHeadDotProductAttention_1"
    query = arrays.pop(f"{layer}/query/kernel")
    arrays |= {"conv_root/kernel": np.zeros((7, 7, 3, 64), np.float32), f"{layer}/new": query}
    with pytest.raises(
        ConversionError, match=f"missing are {layer}/query/kernel; left over are {layer}/new, conv_root/kernel"
    ):
        augreg.load(read_source(write_npz(tmp_path / "hybrid.npz", arrays)), EncoderOptions())

    # big_vision keeps all layers in one array.
    names = ("embedding/kernel", "cls", "pos_embedding", "Transformer/encoderblock/LayerNorm_0/scale")
    arrays = {f"params/{name}": np.zeros((1, 1, 1, 1), np.float32) for name in names}
    with pytest.raises(ConversionError, match="not a plain.*left over are Transformer/encoderblock/LayerNorm_0/scale"):
        load_checkpoint(write_npz(tmp_path / "big_vision.npz", arrays))

    state_dict = to_mmsegmentation(make_timm_model().state_dict())
    del state_dict["layers.1.ln2.bias"]
    with pytest.raises(ConversionError, match="missing are layers.1.ln2.bias; left over are none"):
        mmsegmentation.load_encoder(as_source(state_dict), EncoderOptions())


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        pytest.param({"in_chans": 1}, {}, "images of 1 channels", id="grey"),
        pytest.param({"img_size": (64, 96)}, {}, "square grid.*there are 24.*--image_size", id="rectangle"),
        pytest.param({"no_embed_class": True}, {}, "square grid.*there are 15", id="no_position_of_the_class_token"),
        pytest.param({"embed_dim": 96, "num_heads": 3}, {}, "width of 96.*--num_attention_heads.$", id="width"),
        pytest.param({}, {"num_attention_heads": 3}, "num_attention_heads", id="heads_do_not_divide"),
        pytest.param(
            {}, {"num_attention_heads": "many"}, "not make a model: .*num_attention_heads.* int", id="no_number"
        ),
        pytest.param({}, {"num_attention_heads": 0}, "num_attention_heads", id="no_heads"),
        pytest.param({}, {"image_size": 100}, "--image_size.*16 pixels, got 100 x 100", id="no_multiple"),
        pytest.param({}, {"image_size": 16 * 10**5}, "--image_size .* at most 262144 are made", id="large_image"),
        pytest.param({}, {"image_size": 16 * 10**99}, "--image_size .* an integer of .* bits", id="huge_image"),
        pytest.param({}, {"image_size": (64, 0)}, "--image_size.*got 64 x 0", id="empty_image"),
        pytest.param({}, {"normalization": "imagenet"}, "--normalization.*deit, vit.*'imagenet'", id="normalization"),
        pytest.param({}, {"position_embedding_interpolation": "nearest"}, "nearest", id="interpolation"),
    ],
)
def test_what_does_not_fit_is_refused(settings, options, message, caplog):
    source = as_source(make_timm_model(**settings).state_dict())
    with pytest.raises(ConversionError, match=message) as error:
        timm.load(source, EncoderOptions(**options))
    assert "\n" not in str(error.value)
    # An error is all that is heard.
    assert not caplog.messages


@pytest.mark.parametrize("hidden_size", [1280, 1408, 1664])
def test_heads_of_huge_encoders_are_asked_for(hidden_size):
    """As many as 64 goes into the width would be a number, but not that of ViT-H, ViT-g and ViT-G."""
    state_dict = make_timm_model(embed_dim=hidden_size, num_heads=16, depth=1, mlp_ratio=0.1).state_dict()
    source = as_source(state_dict)
    with pytest.raises(ConversionError, match="--num_attention_heads, 16 in the published models"):
        timm.load(source, EncoderOptions())
    model, _ = timm.load(source, EncoderOptions(num_attention_heads=16))
    assert model.config.num_attention_heads == 16
