"""
Checkpoints of MMSegmentation: the fixtures, whose expected outputs MMSegmentation itself computed, and generated ones
of other sizes, compared with a second implementation in `mmsegmentation_checkpoints`.
"""

import sys

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

from segmenter_hf.conversion import ConversionError, convert_checkpoint
from segmenter_hf.conversion.convert import load_checkpoint
from segmenter_hf.conversion.safe_loading import load_torch_file
from segmenter_hf.data.labels import load_label_set
from tests.common import REPOSITORY, random_pixel_values
from tests.conversion.mmsegmentation_checkpoints import (
    MMSegmentationCheckpoint,
    make_mmsegmentation_checkpoint,
    mmsegmentation_logits,
    mmsegmentation_slide_logits,
)


FIXTURES = REPOSITORY / "tests" / "fixtures" / "mmseg"
NAMES = ("mask_v0", "mask_v1", "linear_v1")
BACKENDS = ("torchvision", "pil")

# float32 sums taken in another order (queries, keys and values by one projection or by three) differ by some 1e-6 in
# models this small.
LOGITS_TOLERANCE = 1e-5


def refusal(source, **kwargs) -> str:
    with pytest.raises(ConversionError) as error:
        load_checkpoint(source, **kwargs)
    assert str(error.value).isprintable()
    return str(error.value)


@pytest.fixture
def checkpoint() -> MMSegmentationCheckpoint:
    return make_mmsegmentation_checkpoint()


@torch.no_grad()
def logits_at_input_size(model, pixel_values: torch.Tensor) -> torch.Tensor:
    """Upsampled as MMSegmentation does: straight to the input's size."""
    return F.interpolate(model(pixel_values).logits, size=pixel_values.shape[-2:], mode="bilinear")


@torch.no_grad()
def sliding_scores(model, image_processor, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Label map and averaged logits of a normalised image `(1, 3, height, width)`, by its windows."""
    inputs = image_processor(
        [pixel_values[0].numpy()],
        do_resize=False,
        do_rescale=False,
        do_normalize=False,
        input_data_format="channels_first",
        return_tensors="pt",
    )
    assert len(inputs["pixel_values"]) > 1
    (result,) = image_processor.post_process_semantic_segmentation(model(**inputs), return_segmentation_scores=True)
    return result["segmentation"], result["segmentation_scores"]


def random_image(height: int, width: int) -> torch.Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(height))


# The fixtures


@pytest.fixture(scope="module", params=NAMES)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def expected(name) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(array) for key, array in np.load(FIXTURES / name / "expected.npz").items()}


@pytest.fixture(scope="module")
def folder(name, tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted") / name
    convert_checkpoint(FIXTURES / name, folder)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return AutoModelForSemanticSegmentation.from_pretrained(folder)


def test_logits_are_mmsegmentations(model, expected):
    sizes = [key.removeprefix("input_") for key in expected if key.startswith("input_")]
    assert sizes
    for size in sizes:
        logits = logits_at_input_size(model, expected[f"input_{size}"])
        torch.testing.assert_close(logits, expected[f"logits_{size}"], atol=LOGITS_TOLERANCE, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_sliding_window_is_mmsegmentations(folder, model, expected, backend):
    image_processor = AutoImageProcessor.from_pretrained(folder, backend=backend)
    segmentation, scores = sliding_scores(model, image_processor, expected["slide_input"])
    torch.testing.assert_close(scores, expected["slide_logits"][0], atol=LOGITS_TOLERANCE, rtol=0)
    assert torch.equal(segmentation, expected["slide_logits"][0].argmax(dim=0))


def test_config_of_a_fixture(name, model):
    config = model.config
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (64, 2, 1)
    assert (config.intermediate_size, config.patch_size, config.image_size) == (256, 16, 64)
    assert config.layer_norm_eps == 1e-6
    assert config.position_embedding_interpolation == "bicubic"
    assert (config.drop_path_rate, config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (0.1, 0.0, 0.0)
    assert config.decoder_type == ("linear" if name == "linear_v1" else "mask_transformer")
    if name != "linear_v1":
        # Defaults of MMSegmentation's head.
        assert (config.decoder_layer_norm_eps, config.decoder_num_attention_heads) == (1e-5, 1)
        assert (config.decoder_drop_path_rate, config.decoder_dropout_prob) == (0.1, 0.0)


def test_preprocessor_of_a_fixture(name, folder):
    settings = AutoImageProcessor.from_pretrained(folder).to_dict()
    assert tuple(settings["image_mean"]) == tuple(settings["image_std"]) == (0.5, 0.5, 0.5)
    longest, shortest = (256, 64) if name == "mask_v0" else (2048, 512)
    assert settings["size"] == {"shortest_edge": shortest, "longest_edge": longest}
    assert settings["crop_size"] == {"height": 64, "width": 64}
    assert (settings["window_stride"], settings["do_split_image"]) == (48, True)
    assert (settings["antialias"], settings["patch_size"], settings["do_reduce_labels"]) == (False, 16, True)


def test_patch_bias_is_kept_in_0_x_and_zero_in_1_x(name, model):
    bias = model.segmenter.embeddings.patch_embeddings.projection.bias
    source = load_torch_file(FIXTURES / name / "checkpoint.pth")["state_dict"]
    stored = source.get("backbone.patch_embed.projection.bias", torch.zeros(64))
    assert torch.equal(bias, stored)
    assert bool(bias.any()) == (name == "mask_v0")


def test_neither_library_is_needed(model):
    assert not {name.partition(".")[0] for name in sys.modules} & {"mmengine", "mmcv", "mmseg"}


# Generated checkpoints


@pytest.mark.parametrize("release", [0, 1])
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(
            {"embed_dims": 96, "num_heads": 2, "head_embed_dims": 48, "head_num_heads": 3}, id="other_widths"
        ),
        pytest.param({"num_layers": 3, "head_num_layers": 1, "num_heads": 4, "mlp_ratio": 2}, id="other_depths"),
        pytest.param({"patch_size": 8, "num_classes": 11, "img_size": (48, 80)}, id="patch_8_rectangle"),
        pytest.param({"patch_size": 32, "img_size": (140, 96)}, id="patch_32_no_multiple"),
        pytest.param({"qkv_bias": False, "head_qkv_bias": False}, id="no_qkv_bias"),
        pytest.param({"qkv_bias": False}, id="no_qkv_bias_in_backbone"),
        pytest.param({"head_qkv_bias": False}, id="no_qkv_bias_in_head"),
        pytest.param({"patch_bias": True}, id="patch_bias"),
        pytest.param({"patch_bias": False}, id="no_patch_bias"),
        pytest.param({"head": "FCNHead", "num_classes": 2}, id="linear"),
        pytest.param({"head": "FCNHead", "qkv_bias": False}, id="linear_no_qkv_bias"),
    ],
)
def test_other_sizes(release, settings, tmp_path):
    checkpoint = make_mmsegmentation_checkpoint(release, **settings)
    model, image_processor = load_checkpoint(checkpoint.write(tmp_path))
    for size in ((64, 64), (70, 101)):
        pixel_values = random_image(*size)
        expected = mmsegmentation_logits(checkpoint, pixel_values)
        torch.testing.assert_close(logits_at_input_size(model, pixel_values), expected, atol=LOGITS_TOLERANCE, rtol=0)
    pixel_values = random_image(64, 150)
    _, scores = sliding_scores(model, image_processor, pixel_values)
    expected = mmsegmentation_slide_logits(checkpoint, pixel_values)[0]
    torch.testing.assert_close(scores, expected, atol=LOGITS_TOLERANCE, rtol=0)


def test_second_implementation_is_mmsegmentation(name, expected):
    """What the generated checkpoints are compared with agrees with the fixtures."""
    head = "FCNHead" if name == "linear_v1" else "SegmenterMaskTransformerHead"
    checkpoint = make_mmsegmentation_checkpoint(head=head)
    checkpoint.state_dict = load_torch_file(FIXTURES / name / "checkpoint.pth")["state_dict"]
    for key in (key for key in expected if key.startswith("input_")):
        logits = mmsegmentation_logits(checkpoint, expected[key])
        target = expected[key.replace("input", "logits")]
        torch.testing.assert_close(logits, target, atol=LOGITS_TOLERANCE, rtol=0)
    logits = mmsegmentation_slide_logits(checkpoint, expected["slide_input"])
    torch.testing.assert_close(logits, expected["slide_logits"], atol=LOGITS_TOLERANCE, rtol=0)


def change(checkpoint: MMSegmentationCheckpoint, field: str, value) -> MMSegmentationCheckpoint:
    """Sets a field of the config, by its dotted name; deletes it for `None`."""
    *sections, name = field.split(".")
    values = checkpoint.config
    for section in sections:
        values = values[section]
    if value is None:
        del values[name]
    else:
        values[name] = value
    return checkpoint


@pytest.mark.parametrize(
    ("field", "value", "names"),
    [
        ("model.backbone.interpolate_mode", "bilinear", {"position_embedding_interpolation": "bilinear"}),
        ("model.backbone.norm_cfg", {"type": "LN", "eps": 1e-2}, {"layer_norm_eps": 1e-2}),
        ("model.decode_head.norm_cfg", {"type": "LN", "eps": 1e-3}, {"decoder_layer_norm_eps": 1e-3}),
    ],
)
def test_fields_that_change_the_output(field, value, names, tmp_path):
    checkpoint = change(make_mmsegmentation_checkpoint(), field, value)
    model, _ = load_checkpoint(checkpoint.write(tmp_path))
    assert {name: getattr(model.config, name) for name in names} == names
    pixel_values = random_image(80, 112)
    expected = mmsegmentation_logits(checkpoint, pixel_values)
    torch.testing.assert_close(logits_at_input_size(model, pixel_values), expected, atol=LOGITS_TOLERANCE, rtol=0)
    # The field does matter.
    change(checkpoint, field, make_mmsegmentation_checkpoint().config["model"]["backbone"].get(field.split(".")[-1]))
    assert (mmsegmentation_logits(checkpoint, pixel_values) - expected).abs().max() > 10 * LOGITS_TOLERANCE


def test_fields_that_are_left_out_have_mmsegmentations_defaults(tmp_path):
    checkpoint = make_mmsegmentation_checkpoint(num_heads=12, embed_dims=96, img_size=(224, 224))
    backbone = checkpoint.config["model"]["backbone"]
    for name in set(backbone) - {"type", "embed_dims", "num_layers"}:
        del backbone[name]
    del checkpoint.config["model"]["decode_head"]["qkv_bias"]
    config = load_checkpoint(checkpoint.write(tmp_path))[0].config
    assert (config.num_attention_heads, config.image_size, config.layer_norm_eps) == (12, 224, 1e-5)
    assert (config.position_embedding_interpolation, config.drop_path_rate) == ("bicubic", 0.0)


@pytest.mark.parametrize("release", [0, 1])
@pytest.mark.parametrize("is_swapped", [True, False])
@torch.no_grad()
def test_order_of_channels(release, is_swapped, tmp_path):
    """A model that sees blue first becomes one that sees red first, with the same output."""
    checkpoint = make_mmsegmentation_checkpoint(release)
    if release == 0:
        checkpoint.config["data"]["test"]["pipeline"][1]["transforms"][2]["to_rgb"] = is_swapped
    else:
        checkpoint.config["model"]["data_preprocessor"]["bgr_to_rgb"] = is_swapped
    model, image_processor = load_checkpoint(checkpoint.write(tmp_path))
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    seen = image if is_swapped else image[..., ::-1]
    seen = (seen - np.array([120.0, 110.0, 100.0])) / np.array([60.0, 55.0, 50.0])
    expected = mmsegmentation_logits(checkpoint, torch.from_numpy(seen).permute(2, 0, 1)[None].float())
    inputs = image_processor(image, do_resize=False, return_tensors="pt")
    logits = logits_at_input_size(model, inputs["pixel_values"])
    torch.testing.assert_close(logits, expected, atol=LOGITS_TOLERANCE, rtol=0)


def test_either_flag_of_the_preprocessor_swaps_channels(tmp_path, checkpoint):
    """OpenCV reads blue first, whichever way the flag is called."""
    expected, _ = load_checkpoint(checkpoint.write(tmp_path))
    checkpoint.config["model"]["data_preprocessor"] |= {"bgr_to_rgb": False, "rgb_to_bgr": True}
    model, image_processor = load_checkpoint(checkpoint.write(tmp_path))
    weights = [each.segmenter.embeddings.patch_embeddings.projection.weight for each in (model, expected)]
    assert torch.equal(*weights)
    assert image_processor.image_mean == pytest.approx([120 / 255, 110 / 255, 100 / 255])


# What is in the weights


def test_weights_that_only_training_needs_are_dropped(tmp_path):
    checkpoint = make_mmsegmentation_checkpoint(0)
    checkpoint.state_dict["auxiliary_head.0.conv_seg.weight"] = torch.zeros(7, 64, 1, 1)
    checkpoint.state_dict["ema_backbone_cls_token"] = torch.zeros(1, 1, 64)
    model, _ = load_checkpoint(checkpoint.write(tmp_path))
    assert torch.equal(model.segmenter.embeddings.cls_token, checkpoint.state_dict["backbone.cls_token"])


@pytest.mark.parametrize(
    ("missing", "extra", "message"),
    [
        (
            "backbone.ln1.",
            "decode_head.extra",
            "missing are backbone.ln1.bias, backbone.ln1.weight; left over are de",
        ),
        ("backbone.layers.1.", "", "missing are backbone.layers.1."),
        ("backbone.layers.1.attn.attn.in_proj_bias", "", "missing are backbone.layers.1.attn.attn.in_proj_bias; left"),
        ("decode_head.layers.0.attn.attn.out_proj.bias", "", "missing are decode_head.layers.0.attn.attn.out_proj.b"),
        ("decode_head.patch_proj", "", "missing are decode_head.patch_proj.weight; left over are none"),
        ("", "backbone.ln_pre.weight", "missing are none; left over are backbone.ln_pre.weight"),
        ("", "decode_head.conv_cat.conv.weight", "left over are decode_head.conv_cat.conv.weight"),
    ],
)
def test_every_key_is_accounted_for(missing, extra, message, tmp_path):
    checkpoint = make_mmsegmentation_checkpoint(num_layers=3)
    if missing:
        names = [name for name in checkpoint.state_dict if name.startswith(missing)]
        assert names
        for name in names:
            del checkpoint.state_dict[name]
    if extra:
        checkpoint.state_dict[extra] = torch.zeros(1)
    assert message in refusal(checkpoint.write(tmp_path))


@pytest.mark.parametrize(
    ("name", "weight", "message"),
    [
        ("backbone.layers.1.ffn.layers.1.weight", torch.zeros(64, 128), "(64, 128) instead of (64, 256)"),
        ("backbone.layers.0.attn.attn.in_proj_weight", torch.zeros(128, 64), "cannot be split into 3 equal parts"),
        ("backbone.layers.0.attn.attn.out_proj.weight", torch.tensor(1.0), "() instead of (64, 64)"),
        ("backbone.patch_embed.projection.weight", torch.tensor(1.0), "should have 4 dimensions"),
        ("backbone.patch_embed.projection.weight", torch.zeros(64, 4, 16, 16), "`model.backbone.in_channels` is 3"),
        ("backbone.pos_embed", torch.zeros(1, 26, 64), "position embeddings for 25 patches"),
        ("backbone.cls_token", torch.ones(1).expand(10**9, 10**9), "should be a weight"),
    ],
)
def test_weights_of_wrong_shapes_are_refused(name, weight, message, tmp_path, checkpoint):
    checkpoint.state_dict[name] = weight
    checkpoint.config["model"]["backbone"] |= {"patch_size": 16, "embed_dims": 64}
    assert message in refusal(checkpoint.write(tmp_path))


@pytest.mark.parametrize("qkv_bias", [True, False])
def test_scalars_in_place_of_weights(qkv_bias, tmp_path):
    checkpoint = make_mmsegmentation_checkpoint(qkv_bias=qkv_bias)
    checkpoint.state_dict = {name: torch.tensor(1.0) for name in checkpoint.state_dict}
    refusal(checkpoint.write(tmp_path))


def test_one_output_channel_is_refused(tmp_path):
    checkpoint = make_mmsegmentation_checkpoint(head="FCNHead", num_classes=1)
    checkpoint.config["model"]["decode_head"] |= {"num_classes": 2, "out_channels": 1, "threshold": 0.3}
    assert "has one output channel" in refusal(checkpoint.write(tmp_path))


def test_encoder_only_is_no_segmenter(tmp_path, checkpoint):
    """It is another format, which starts training."""
    checkpoint.state_dict = {
        name: weight for name, weight in checkpoint.state_dict.items() if not name.startswith("decode_head.")
    }
    message = refusal(checkpoint.write(tmp_path), format="mmsegmentation")
    assert "missing are decode_head.classes_proj.weight, decode_head.cls_emb" in message


# Where the config is


def test_config_beside_is_used_where_the_checkpoint_has_none(tmp_path, checkpoint):
    source = checkpoint.write(tmp_path, with_config=False)
    assert "holds no text of its config" in refusal(source)
    (tmp_path / "segmenter_vit-t.py").write_text(checkpoint.config_text)
    assert load_checkpoint(source)[0].config.layer_norm_eps == 1e-6
    # Where there are several, the one of that name is meant.
    (tmp_path / "other.py").write_text("import os")
    assert "holds no text of its config" in refusal(source)
    checkpoint.config["model"]["backbone"]["norm_cfg"]["eps"] = 1e-4
    (tmp_path / "config.py").write_text(checkpoint.config_text)
    assert load_checkpoint(source)[0].config.layer_norm_eps == 1e-4


def test_checkpoints_own_config_is_preferred(tmp_path, checkpoint):
    source = checkpoint.write(tmp_path)
    (tmp_path / "config.py").write_text("raise SystemExit")
    assert load_checkpoint(source)[0].config.layer_norm_eps == 1e-6


@pytest.mark.parametrize("contents", [b"\xff\xfe", b"import os\n", b"_base_ = ['vit.py']\n", b"", b"model = 3\n"])
def test_config_beside_that_is_refused(contents, tmp_path):
    source = make_mmsegmentation_checkpoint().write(tmp_path, with_config=False)
    (tmp_path / "config.py").write_bytes(contents)
    assert "config.py" in refusal(source)


def test_config_of_a_checkpoint_does_not_run(tmp_path):
    checkpoint, touched = make_mmsegmentation_checkpoint(), tmp_path / "touched"
    checkpoint.config["dataset_type"] = type("Code", (), {"__repr__": lambda self: f"open({str(touched)!r}, 'w')"})()
    message = refusal(checkpoint.write(tmp_path))
    assert "The config in checkpoint.pth is refused: line 2 calls open" in message
    assert not touched.exists()


# Labels


@pytest.mark.parametrize("release", [0, 1])
def test_labels_and_palette_are_the_checkpoints(release, tmp_path, caplog):
    model, _ = load_checkpoint(make_mmsegmentation_checkpoint(release, num_classes=3).write(tmp_path))
    assert model.config.id2label == {0: "thing 0", 1: "thing 1", 2: "thing 2"}
    assert model.config.palette == [[0, 255, 0], [1, 254, 0], [2, 253, 0]]
    assert not caplog.messages


@pytest.mark.parametrize(
    ("dataset_type", "label_set"),
    [
        ("ADE20KDataset", "ade20k"),
        ("mmseg.CityscapesDataset", "cityscapes"),
        ("PascalContextDataset", "pascal_context_60"),
        ("mmseg.datasets.pascal_context.PascalContextDataset59", "pascal_context_59"),
    ],
)
def test_labels_of_a_data_set(dataset_type, label_set, tmp_path, caplog):
    label_set = load_label_set(label_set)
    checkpoint = make_mmsegmentation_checkpoint(0, num_classes=len(label_set))
    checkpoint.meta = {}
    checkpoint.config["dataset_type"] = dataset_type
    model, _ = load_checkpoint(checkpoint.write(tmp_path))
    assert model.config.id2label == label_set.id2label
    assert model.config.palette == [list(colour) for colour in label_set.palette]
    assert not caplog.messages


@pytest.mark.parametrize("release", [0, 1])
@pytest.mark.parametrize(
    "meta",
    [
        {},
        {"CLASSES": ["one"], "PALETTE": [[0, 0, 0]], "dataset_meta": {"classes": ["one"]}},
        {"CLASSES": [1, 2, 3], "dataset_meta": {"classes": [1, 2, 3], "palette": [[0, 0, 256]] * 3}},
        {"CLASSES": "abc", "PALETTE": "abc", "dataset_meta": {"classes": None, "palette": [[0, 0]] * 3}},
    ],
)
def test_labels_that_are_not_known_are_numbered_with_one_warning(release, meta, tmp_path, caplog):
    checkpoint = make_mmsegmentation_checkpoint(release, num_classes=3)
    checkpoint.meta = meta
    model, _ = load_checkpoint(checkpoint.write(tmp_path))
    assert model.config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    assert model.config.palette is None
    (message,) = caplog.messages
    assert "LABEL_0 to LABEL_2" in message and "'ADE20KDataset'" in message


def test_labels_of_users_are_read_from_the_config(tmp_path):
    checkpoint = make_mmsegmentation_checkpoint(num_classes=2)
    checkpoint.meta = {}
    metainfo = {"classes": ("sky", "road"), "palette": [(1, 2, 3), (4, 5, 6)]}
    checkpoint.config["test_dataloader"] = {"dataset": {"type": "BaseSegDataset", "metainfo": metainfo}}
    config = load_checkpoint(checkpoint.write(tmp_path))[0].config
    assert config.id2label == {0: "sky", 1: "road"}
    assert config.palette == [[1, 2, 3], [4, 5, 6]]


def test_palette_of_numpy_is_not_read(tmp_path):
    checkpoint = make_mmsegmentation_checkpoint(0)
    checkpoint.meta["PALETTE"] = np.random.default_rng(0).integers(0, 255, (7, 3))
    config = load_checkpoint(checkpoint.write(tmp_path))[0].config
    assert config.id2label[0] == "thing 0"
    assert config.palette is None


@pytest.mark.parametrize(
    ("release", "field", "value", "expected"),
    [
        (0, "train_pipeline", [{"type": "LoadAnnotations", "reduce_zero_label": False}], False),
        (0, "train_pipeline", [{"type": "LoadAnnotations"}], True),  # as ADE20KDataset says
        (0, "train_pipeline", [{"type": "mmseg.LoadAnnotations", "reduce_zero_label": False}], False),
        (0, "data.test.reduce_zero_label", False, False),
        (1, "test_pipeline", [{"type": "LoadAnnotations", "reduce_zero_label": False}], False),
        (1, "test_pipeline", [{"type": "LoadAnnotations"}], True),
        (1, "test_dataloader", {"dataset": {"reduce_zero_label": False}}, False),
    ],
)
def test_whether_labels_are_reduced(release, field, value, expected, tmp_path):
    checkpoint = change(make_mmsegmentation_checkpoint(release), field, value)
    assert load_checkpoint(checkpoint.write(tmp_path))[1].do_reduce_labels is expected


def test_whether_labels_are_reduced_is_in_checkpoints_of_1_x(tmp_path, checkpoint):
    checkpoint.meta["dataset_meta"]["reduce_zero_label"] = False
    assert load_checkpoint(checkpoint.write(tmp_path))[1].do_reduce_labels is False


# Protocol


@pytest.mark.parametrize("release", [0, 1])
def test_protocol(release, tmp_path):
    checkpoint = make_mmsegmentation_checkpoint(release)
    checkpoint.config["model"]["test_cfg"] = {"mode": "slide", "crop_size": (64, 96), "stride": (32, 80)}
    settings = load_checkpoint(checkpoint.write(tmp_path))[1].to_dict()
    assert settings["size"] == {"shortest_edge": 96, "longest_edge": 256}
    assert settings["image_mean"] == pytest.approx([120 / 255, 110 / 255, 100 / 255])
    assert settings["image_std"] == pytest.approx([60 / 255, 55 / 255, 50 / 255])
    assert settings["crop_size"] == {"height": 64, "width": 96}
    assert settings["window_stride"] == {"height": 32, "width": 80}
    assert settings["do_split_image"] is True
    assert (settings["antialias"], settings["patch_size"], settings["crop_logits"]) == (False, 16, False)


@pytest.mark.parametrize("release", [0, 1])
def test_whole_images(release, tmp_path):
    checkpoint = make_mmsegmentation_checkpoint(release)
    checkpoint.config["model"]["test_cfg"] = {"mode": "whole"}
    assert load_checkpoint(checkpoint.write(tmp_path))[1].do_split_image is False


@pytest.mark.parametrize(
    ("test_cfg", "expected_logits"),
    [
        ({"mode": "whole"}, mmsegmentation_logits),
        ({"mode": "slide", "crop_size": (70, 60), "stride": (40, 50)}, mmsegmentation_slide_logits),
    ],
)
def test_logits_are_stretched_to_sizes_that_are_no_multiples_of_the_patch(
    test_cfg, expected_logits, tmp_path, checkpoint
):
    checkpoint.config["model"]["test_cfg"] = test_cfg
    model, image_processor = load_checkpoint(checkpoint.write(tmp_path))
    pixel_values = random_pixel_values(1, 75, 131)
    settings = {"do_resize": False, "do_rescale": False, "do_normalize": False, "do_convert_rgb": False}
    inputs = image_processor(pixel_values[0], input_data_format="channels_first", return_tensors="pt", **settings)
    with torch.no_grad():
        outputs = model(**inputs)
    (result,) = image_processor.post_process_semantic_segmentation(outputs, return_segmentation_scores=True)
    expected = expected_logits(checkpoint, pixel_values)[0]
    torch.testing.assert_close(result.segmentation_scores, expected, atol=1e-5, rtol=0)
    # Cropping the padding instead, as the original does, is something else.
    image_processor.crop_logits = True
    (cropped,) = image_processor.post_process_semantic_segmentation(outputs, return_segmentation_scores=True)
    assert (cropped.segmentation_scores - expected).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("resize", "size"),
    [
        ({"type": "Resize", "scale": (160, 96)}, {"height": 96, "width": 160}),
        ({"type": "Resize", "scale": (160, 96), "keep_ratio": False}, {"height": 96, "width": 160}),
        ({"type": "mmcv.Resize", "scale": 96}, {"height": 96, "width": 96}),
        ({"type": "Resize", "img_scale": (160, 96)}, {"shortest_edge": 96, "longest_edge": 160}),
        ({"type": "Resize", "img_scale": [(96, 160)]}, {"shortest_edge": 96, "longest_edge": 160}),
        ({"type": "ResizeShortestEdge", "scale": 96, "max_size": 200}, {"shortest_edge": 96, "longest_edge": 200}),
        ({"type": "LoadAnnotations"}, None),
    ],
)
def test_resizing(resize, size, tmp_path, caplog, checkpoint):
    checkpoint.config["test_pipeline"][1] = resize
    image_processor = load_checkpoint(checkpoint.write(tmp_path))[1]
    assert image_processor.do_resize is (size is not None)
    if size is not None:
        assert image_processor.to_dict()["size"] == size
    assert not caplog.messages


def test_pipelines_are_looked_up_where_tests_take_them_from(tmp_path, checkpoint):
    steps = [{"type": "Resize", "scale": (400, 200), "keep_ratio": True}]
    checkpoint.config["test_dataloader"] = {"dataset": {"pipeline": steps}}
    size = load_checkpoint(checkpoint.write(tmp_path))[1].to_dict()["size"]
    assert size == {"shortest_edge": 200, "longest_edge": 400}


def test_what_is_not_repeated_is_said(tmp_path, caplog, checkpoint):
    checkpoint.config["test_pipeline"].insert(2, {"type": "ResizeToMultiple", "size_divisor": 32})
    checkpoint.config["model"]["data_preprocessor"]["test_cfg"] = {"size_divisor": 32}
    load_checkpoint(checkpoint.write(tmp_path))
    (message,) = caplog.messages
    assert "ResizeToMultiple, padding by `data_preprocessor.test_cfg`" in message


def test_many_references_to_one_pipeline_take_no_time(tmp_path, checkpoint):
    """2 to the power of 60 transforms, if each reference were followed."""
    text = "t0 = [dict(type='MultiScaleFlipAug', transforms=[])]\n"
    for index in range(60):
        step = f"dict(type='MultiScaleFlipAug', transforms=t{index})"
        text += f"t{index + 1} = [{step}, {step}]\n"
    source = checkpoint.write(tmp_path, with_config=False)
    (tmp_path / "config.py").write_text(checkpoint.config_text + text + "test_pipeline = t60\n")
    assert load_checkpoint(source)[1].do_resize is False


# Configs that do not fit

BACKBONE, HEAD = "model.backbone", "model.decode_head"
REFUSED = [
    ("model", None, "`model.type` must be EncoderDecoder, got None"),
    ("model.type", "CascadeEncoderDecoder", "`model.type` must be EncoderDecoder, got 'CascadeEncoderDecoder'"),
    (f"{BACKBONE}.type", "SwinTransformer", "`model.backbone.type` must be VisionTransformer, got 'SwinTransformer'"),
    (f"{BACKBONE}.type", ["VisionTransformer"], "`model.backbone.type` of the config must be a name"),
    (f"{HEAD}.type", "UPerHead", "must be SegmenterMaskTransformerHead or FCNHead, got 'UPerHead'"),
    (f"{HEAD}.type", "FCNHead", "but the weights are those of the decoder 'mask_transformer'"),
    (f"{HEAD}.num_classes", 150, "`model.decode_head.num_classes` is 150, but the weights say 7"),
    (f"{HEAD}.num_classes", 2**63, "must be a positive integer up to 1000000, got 9223372036854775808"),
    (f"{HEAD}.embed_dims", 32, "`model.decode_head.embed_dims` is 32, but the weights say 64"),
    (f"{HEAD}.num_layers", 3, "`model.decode_head.num_layers` is 3, but the weights say 2"),
    (f"{HEAD}.in_channels", 32, "`model.decode_head.in_channels` is 32, but the weights say 64"),
    (f"{HEAD}.qkv_bias", False, "`model.decode_head.qkv_bias` is False, but the weights say True"),
    (f"{HEAD}.num_heads", None, "lacks `model.decode_head.num_heads`"),
    (f"{HEAD}.num_heads", 7, "`decoder_hidden_size` (64) must be a multiple of `decoder_num_attention_heads` (7)"),
    (f"{HEAD}.align_corners", True, "`model.decode_head.align_corners` of the config must be False, got True"),
    (f"{HEAD}.act_cfg", {"type": "ReLU"}, "`model.decode_head.act_cfg.type` of the config must be 'GELU'"),
    (f"{HEAD}.input_transform", "resize_concat", "`model.decode_head.input_transform` of the config must be None"),
    (f"{HEAD}.in_index", 1, "the decoder must take that of the last layer, 1, and `model.decode_head.in_index` is 1"),
    (f"{BACKBONE}.embed_dims", 32, "`model.backbone.embed_dims` is 32, but the weights say 64"),
    (f"{BACKBONE}.num_layers", 12, "`model.backbone.num_layers` is 12, but the weights say 2"),
    (f"{BACKBONE}.patch_size", 8, "`model.backbone.patch_size` is 8, but the weights say 16"),
    (f"{BACKBONE}.patch_pad", 0, "`model.backbone.patch_pad` of the config must be 'corner', got 0"),
    (f"{BACKBONE}.qkv_bias", False, "`model.backbone.qkv_bias` is False, but the weights say True"),
    (f"{BACKBONE}.num_heads", 5, "`hidden_size` (64) must be a multiple of `num_attention_heads` (5)"),
    (f"{BACKBONE}.num_heads", True, "`model.backbone.num_heads` of the config must be a positive integer up to 10000"),
    (f"{BACKBONE}.img_size", (128, 64), "`model.backbone.img_size` is 128 x 64, but the weights have position"),
    (f"{BACKBONE}.img_size", (-64, -64), "`model.backbone.img_size` of the config must be a height and a width"),
    (f"{BACKBONE}.out_indices", 0, "`model.backbone.out_indices` [0]"),
    (f"{BACKBONE}.with_cls_token", False, "`model.backbone.with_cls_token` of the config must be True, got False"),
    (f"{BACKBONE}.interpolate_mode", "nearest", "must be bilinear or bicubic, got 'nearest'"),
    (f"{BACKBONE}.norm_cfg", {"eps": -1}, "`model.backbone.norm_cfg.eps` of the config must be at least"),
    (f"{BACKBONE}.drop_path_rate", 1.5, "`drop_path_rate` must be at least 0 and below 1, got 1.5"),
    (f"{BACKBONE}.drop_rate", "none", "`model.backbone.drop_rate` of the config must be a number of usual size, got"),
    ("model.test_cfg", None, "`model.test_cfg.mode` of the config must be 'slide' or 'whole', got None"),
    ("model.test_cfg.stride", (65, 48), "`model.test_cfg.stride` of the config must be at most `crop_size` (64, 64)"),
    ("model.test_cfg.stride", None, "lacks `model.test_cfg.stride`"),
    ("model.test_cfg.crop_size", (64, 0), "`model.test_cfg.crop_size` of the config must be a height and a width"),
    ("model.data_preprocessor", None, "does not say how images are normalised"),
    ("model.data_preprocessor.std", [0, 1, 1], "`std` of the config must be greater than 0, got [0, 1, 1]"),
    ("model.data_preprocessor.mean", [127.5], "`mean` of the config must be a number for each of three channels"),
    ("test_pipeline", [{"type": "Resize", "scale_factor": 2}], "must be one width and height in pixels, got None"),
    ("test_pipeline", [{"type": "Resize", "interpolation": "area"}], "must be 'bilinear', got 'area'"),
]


@pytest.mark.parametrize(("field", "value", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_config_that_does_not_fit_is_refused(field, value, message, tmp_path):
    checkpoint = change(make_mmsegmentation_checkpoint(), field, value)
    message_of_error = refusal(checkpoint.write(tmp_path))
    assert message in message_of_error
    assert "the config" in message_of_error


def test_all_disagreements_are_named_together(tmp_path, checkpoint):
    checkpoint.config["model"]["backbone"]["patch_size"] = 8
    checkpoint.config["model"]["decode_head"]["num_classes"] = 150
    assert refusal(checkpoint.write(tmp_path)) == (
        "the config does not fit the weights: `model.backbone.patch_size` is 8, but the weights say 16; "
        "`model.decode_head.num_classes` is 150, but the weights say 7."
    )


@pytest.mark.parametrize(
    ("out_indices", "in_index"), [(-1, -1), (1, 0), ((0, 1), 1), ([1, 0], -1), ((0, 1), None), (None, None)]
)
def test_decoder_takes_the_last_layer(out_indices, in_index, tmp_path, checkpoint):
    if out_indices is not None:
        checkpoint.config["model"]["backbone"]["out_indices"] = out_indices
    if in_index is not None:
        checkpoint.config["model"]["decode_head"]["in_index"] = in_index
    load_checkpoint(checkpoint.write(tmp_path))


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"meta": [1]}, "holds no text of its config"),
        ({"meta": None}, "holds no text of its config"),
        ({"meta": {"config": 3}}, "holds no text of its config"),
        ({"state_dict": {}}, "is of no format"),
        ({"state_dict": [1]}, "is of no format"),
    ],
)
def test_other_contents_are_refused(contents, message, tmp_path):
    checkpoint = make_mmsegmentation_checkpoint(0)
    torch.save({"state_dict": checkpoint.state_dict, **contents}, tmp_path / "checkpoint.pth")
    assert message in refusal(tmp_path)
