"""
Checkpoints of the original implementation: the fixtures, whose expected outputs the original itself computed, and
generated ones of other sizes, compared with a second implementation in `original_checkpoints`.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

from segmenter_hf import SegmenterForSemanticSegmentation
from segmenter_hf.conversion import ConversionError, convert_checkpoint
from segmenter_hf.conversion.convert import load_checkpoint
from segmenter_hf.conversion.original import convert_state_dict
from segmenter_hf.data.labels import load_label_set
from tests.common import REPOSITORY, run_python
from tests.conversion.original_checkpoints import make_original_checkpoint, original_logits


FIXTURES = REPOSITORY / "tests" / "fixtures" / "original"
NAMES = ("mask_patch16", "linear_patch16", "mask_distilled")
BACKENDS = ("torchvision", "pil")

# float32 sums taken in another order (queries, keys and values by one projection or by three) differ by some 1e-6 in
# models this small.
LOGITS_TOLERANCE = 1e-4
ATTENTION_TOLERANCE = 1e-5
PROBABILITIES_TOLERANCE = 1e-4


class Converted:
    """A fixture after conversion to disk and loading from there."""

    def __init__(self, name: str, folder: Path):
        convert_checkpoint(FIXTURES / name, folder)
        self.folder = folder
        self.model = AutoModelForSemanticSegmentation.from_pretrained(folder, attn_implementation="eager")
        self.expected = {
            key: torch.from_numpy(array) for key, array in np.load(FIXTURES / name / "expected.npz").items()
        }

    def process(self, image_processor, pixel_values: torch.Tensor):
        """Windows of one normalised image `(1, 3, height, width)` as the image processor cuts them."""
        return image_processor(
            [pixel_values[0].numpy()],
            do_resize=False,
            do_rescale=False,
            do_normalize=False,
            input_data_format="channels_first",
            return_tensors="pt",
        )

    @torch.no_grad()
    def scores(self, image_processor, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Label map `(height, width)` and scores `(num_labels, height, width)` of one image at the expected size."""
        outputs = self.model(**self.process(image_processor, pixel_values))
        (segmentation,) = image_processor.post_process_semantic_segmentation(
            outputs,
            target_sizes=[tuple(self.expected["slide_target_size"].tolist())],
            return_segmentation_scores=True,
        )
        return segmentation["segmentation"], segmentation["segmentation_scores"]


@pytest.fixture(scope="module", params=NAMES)
def converted(request, tmp_path_factory) -> Converted:
    return Converted(request.param, tmp_path_factory.mktemp("converted") / request.param)


@pytest.fixture
def checkpoint():
    return make_original_checkpoint()


def upsample(logits: torch.Tensor, patch_size: int, height: int, width: int) -> torch.Tensor:
    """Logits on the patch grid -> at the padded input's size, cropped to `(height, width)`."""
    padded_size = [side * patch_size for side in logits.shape[-2:]]
    return F.interpolate(logits, size=padded_size, mode="bilinear", align_corners=False)[..., :height, :width]


@torch.no_grad()
def test_logits_are_the_originals(converted):
    sizes = [key.removeprefix("input_") for key in converted.expected if key.startswith("input_")]
    assert len(sizes) >= 2
    for size in sizes:
        pixel_values = converted.expected[f"input_{size}"]
        logits = upsample(converted.model(pixel_values).logits, 16, *pixel_values.shape[-2:])
        torch.testing.assert_close(logits, converted.expected[f"logits_{size}"], atol=LOGITS_TOLERANCE, rtol=0)


@torch.no_grad()
def test_attention_maps_are_the_originals(converted):
    outputs = converted.model(converted.expected["input_64x64"], output_attentions=True)
    maps = {"attention_encoder_layer0": outputs.attentions[0]}
    if converted.model.config.decoder_type == "mask_transformer":
        maps["attention_decoder_layer1"] = outputs.decoder_attentions[1]
    assert maps.keys() == {key for key in converted.expected if key.startswith("attention_")}
    for key, attention in maps.items():
        torch.testing.assert_close(attention, converted.expected[key], atol=ATTENTION_TOLERANCE, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_sliding_window_is_the_originals(converted, backend):
    image_processor = AutoImageProcessor.from_pretrained(converted.folder, backend=backend)
    segmentation, scores = converted.scores(image_processor, converted.expected["slide_input"])
    expected = converted.expected["slide_probabilities"]
    torch.testing.assert_close(scores.softmax(dim=0), expected, atol=PROBABILITIES_TOLERANCE, rtol=0)
    assert torch.equal(segmentation.long(), expected.argmax(dim=0))


@pytest.mark.parametrize("backend", BACKENDS)
def test_multi_scale_is_the_originals(converted, backend):
    image_processor = AutoImageProcessor.from_pretrained(converted.folder, backend=backend)
    probabilities = []
    for key, is_flipped in (("slide_input", False), ("ms_input_big", False), ("ms_input_big_flipped", True)):
        _, scores = converted.scores(image_processor, converted.expected[key])
        probabilities.append((scores.flip(-1) if is_flipped else scores).softmax(dim=0))
    mean = torch.stack(probabilities).mean(dim=0)
    expected = converted.expected["ms_probabilities"]
    torch.testing.assert_close(mean, expected, atol=PROBABILITIES_TOLERANCE, rtol=0)
    assert torch.equal(mean.argmax(dim=0), expected.argmax(dim=0))


def test_saving_again_is_exact(converted, tmp_path):
    converted.model.save_pretrained(tmp_path)
    again = SegmenterForSemanticSegmentation.from_pretrained(tmp_path)
    for (name, old), (again_name, new) in zip(
        converted.model.state_dict().items(), again.state_dict().items(), strict=True
    ):
        assert name == again_name
        assert torch.equal(old, new), name
    for backend in BACKENDS:
        image_processor = AutoImageProcessor.from_pretrained(converted.folder, backend=backend)
        image_processor.save_pretrained(tmp_path)
        assert AutoImageProcessor.from_pretrained(tmp_path, backend=backend).to_dict() == image_processor.to_dict()


@pytest.mark.parametrize("converted", ["mask_patch16"], indirect=True)
def test_folder_loads_without_the_package(converted, tmp_path):
    """As a download from the Hub is loaded: by the code in the folder."""
    code = """
import sys
import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForSemanticSegmentation, pipeline
from PIL import Image

folder = sys.argv[1]
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
encoder = AutoModel.from_pretrained(folder, trust_remote_code=True)
assert type(encoder).__name__ == "SegmenterModel", type(encoder)
for backend, name in (("torchvision", "SegmenterImageProcessor"), ("pil", "SegmenterImageProcessorPil")):
    image_processor = AutoImageProcessor.from_pretrained(folder, backend=backend, trust_remote_code=True)
    assert type(image_processor).__name__ == name, type(image_processor)
segmenter = pipeline("image-segmentation", model=folder, trust_remote_code=True)
assert type(segmenter.model).__name__ == "SegmenterForSemanticSegmentation"
segments = segmenter(Image.effect_noise((70, 50), 100).convert("RGB"))
assert segments and all(segment["mask"].size == (70, 50) for segment in segments)
assert "segmenter_hf" not in sys.modules
"""
    run_python(code, converted.folder, cwd=tmp_path, with_package=False)


def test_config_of_a_fixture(converted):
    config = converted.model.config
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (64, 2, 1)
    assert (config.intermediate_size, config.patch_size, config.image_size) == (256, 16, 64)
    assert (config.layer_norm_eps, config.decoder_layer_norm_eps) == (1e-5, 1e-5)
    assert config.position_embedding_interpolation == "bilinear"
    assert (config.drop_path_rate, config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (0.1, 0.0, 0.0)
    assert (config.decoder_drop_path_rate, config.decoder_dropout_prob) == (0.0, 0.1)
    assert config.id2label == {index: f"LABEL_{index}" for index in range(config.num_labels)}
    assert json.loads((converted.folder / "config.json").read_text())["dtype"] == "float32"


def test_preprocessor_of_a_fixture(converted):
    settings = AutoImageProcessor.from_pretrained(converted.folder).to_dict()
    is_deit = converted.model.config.use_distillation_token
    assert tuple(settings["image_mean"]) == ((0.485, 0.456, 0.406) if is_deit else (0.5, 0.5, 0.5))
    assert tuple(settings["image_std"]) == ((0.229, 0.224, 0.225) if is_deit else (0.5, 0.5, 0.5))
    assert settings["size"] == {"shortest_edge": 64, "longest_edge": 256}
    assert settings["crop_size"] == {"height": 64, "width": 64}
    assert settings["window_stride"] == (64 if converted.model.config.decoder_type == "linear" else 48)
    assert settings["do_split_image"] is True
    assert settings["antialias"] is False
    assert settings["patch_size"] == 16
    assert settings["do_reduce_labels"] is False  # 5 or 7 classes under ADE20K's name are not its 150


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"d_model": 96, "n_heads": 3}, id="heads_of_32_but_one_of_96_in_the_decoder"),
        pytest.param({"d_model": 128, "n_heads": 2, "n_layers": 3, "decoder_layers": 1}, id="other_depths"),
        pytest.param({"d_model": 128, "n_heads": 4, "decoder_layers": 0}, id="decoder_without_layers"),
        pytest.param({"patch_size": 8, "n_cls": 11}, id="patch_8"),
        pytest.param({"patch_size": 32, "image_size": (128, 128)}, id="patch_32"),
        pytest.param({"image_size": (48, 96)}, id="trained_on_a_rectangle"),
        pytest.param({"decoder": "linear", "n_heads": 4}, id="linear"),
        pytest.param({"distilled": True, "decoder": "linear", "patch_size": 8}, id="linear_distilled"),
    ],
)
@torch.no_grad()
def test_other_sizes(settings, tmp_path):
    checkpoint = make_original_checkpoint(**settings)
    convert_checkpoint(checkpoint.write(tmp_path / "source"), tmp_path / "converted")
    model = AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "converted")
    for size in ((64, 64), (70, 101)):
        pixel_values = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
        logits = upsample(model(pixel_values).logits, model.config.patch_size, *size)
        torch.testing.assert_close(logits, original_logits(checkpoint, pixel_values), atol=LOGITS_TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_second_implementation_is_the_original(name, checkpoint):
    """What the generated checkpoints are compared with agrees with the fixtures."""
    folder = FIXTURES / name
    checkpoint.state_dict = torch.load(folder / "checkpoint.pth", weights_only=True)["model"]
    if name == "linear_patch16":
        checkpoint.variant["net_kwargs"]["decoder"] = {"name": "linear"}
    expected = np.load(folder / "expected.npz")
    for key in (key for key in expected if key.startswith("input_")):
        logits = original_logits(checkpoint, torch.from_numpy(expected[key]))
        target = torch.from_numpy(expected[key.replace("input", "logits")])
        torch.testing.assert_close(logits, target, atol=LOGITS_TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    ("dataset", "label_set", "longest_edge", "do_reduce_labels"),
    [
        ("ade20k", "ade20k", 4 * 64, True),
        ("cityscapes", "cityscapes", 2 * 64, False),
        ("pascal_context", "pascal_context_60", 8 * 64, False),
    ],
)
def test_data_set(dataset, label_set, longest_edge, do_reduce_labels, tmp_path, caplog):
    label_set = load_label_set(label_set)
    source = make_original_checkpoint(dataset=dataset, n_cls=len(label_set)).write(tmp_path)
    model, image_processor = load_checkpoint(source)
    assert model.config.id2label == label_set.id2label
    assert model.config.label2id == {name: index for index, name in label_set.id2label.items()}
    assert image_processor.to_dict()["size"] == {"shortest_edge": 64, "longest_edge": longest_edge}
    assert image_processor.to_dict()["do_reduce_labels"] is do_reduce_labels
    assert not caplog.messages


@pytest.mark.parametrize(
    ("dataset", "longest_edge"), [("ade20k", 4 * 64), ("cityscapes", 2 * 64), ("my_pets", 4 * 64), (None, 4 * 64)]
)
def test_labels_of_users_are_numbered_with_one_warning(dataset, longest_edge, tmp_path, caplog):
    source = make_original_checkpoint(dataset=dataset, n_cls=3).write(tmp_path)
    model, image_processor = load_checkpoint(source)
    assert model.config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    assert image_processor.to_dict()["size"]["longest_edge"] == longest_edge
    assert image_processor.to_dict()["do_reduce_labels"] is False
    (message,) = caplog.messages
    assert "LABEL_0 to LABEL_2" in message and repr(dataset) in message


def test_windows_and_sizes_are_those_of_the_variant(tmp_path):
    checkpoint = make_original_checkpoint(image_size=(96, 96), im_size=80, window_size=72, window_stride=50)
    model, image_processor = load_checkpoint(checkpoint.write(tmp_path))
    settings = image_processor.to_dict()
    assert model.config.image_size == 96
    assert settings["size"] == {"shortest_edge": 80, "longest_edge": 320}
    assert settings["crop_size"] == {"height": 72, "width": 72}
    assert settings["window_stride"] == 50


def test_fields_that_released_files_lack_have_the_originals_defaults(tmp_path, checkpoint):
    net_kwargs = checkpoint.variant["net_kwargs"]
    for field in ("distilled", "normalization", "dropout", "drop_path_rate"):
        del net_kwargs[field]
    for field in ("dropout", "drop_path_rate", "n_cls", "n_layers"):
        del net_kwargs["decoder"][field]
    del checkpoint.variant["dataset_kwargs"]["normalization"]
    model, image_processor = load_checkpoint(checkpoint.write(tmp_path))
    assert (model.config.hidden_dropout_prob, model.config.attention_probs_dropout_prob) == (0.1, 0.1)
    assert model.config.drop_path_rate == 0.0
    assert (model.config.decoder_dropout_prob, model.config.decoder_drop_path_rate) == (0.1, 0.0)
    assert model.config.use_distillation_token is False
    assert tuple(image_processor.to_dict()["image_mean"]) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("section", ["dataset_kwargs", "net_kwargs"])
def test_normalization_is_stated_in_either_section(section, tmp_path, checkpoint):
    other = {"dataset_kwargs": "net_kwargs", "net_kwargs": "dataset_kwargs"}[section]
    checkpoint.variant[section]["normalization"] = "deit"
    del checkpoint.variant[other]["normalization"]
    _, image_processor = load_checkpoint(checkpoint.write(tmp_path))
    assert tuple(image_processor.to_dict()["image_mean"]) == (0.485, 0.456, 0.406)


def test_half_precision_becomes_float32(tmp_path, checkpoint):
    checkpoint.state_dict = {name: weight.half() for name, weight in checkpoint.state_dict.items()}
    model, _ = load_checkpoint(checkpoint.write(tmp_path))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_every_key_is_accounted_for():
    state_dict = make_original_checkpoint().state_dict
    state_dict["decoder.extra.weight"] = torch.zeros(1)
    del state_dict["encoder.norm.bias"]
    with pytest.raises(ConversionError, match=r"missing are encoder\.norm\.bias; left over are decoder\.extra\."):
        convert_state_dict(state_dict)
    # A layer that is missing in the middle: the one after it is not taken for it.
    state_dict = make_original_checkpoint(n_layers=3).state_dict
    state_dict = {name: weight for name, weight in state_dict.items() if "encoder.blocks.1." not in name}
    with pytest.raises(ConversionError, match=r"missing are encoder\.blocks\.1\..* left over are encoder\.blocks\.2"):
        convert_state_dict(state_dict)
    with pytest.raises(ConversionError, match=r"missing are .* and \d+ more; left over are backbone\.conv1\.weight"):
        convert_state_dict({"backbone.conv1.weight": torch.zeros(1)})


DISAGREEMENTS = [
    ("net_kwargs.n_cls", 150, "`net_kwargs.n_cls` is 150, but the weights say 7"),
    ("net_kwargs.decoder.n_cls", 150, "`net_kwargs.decoder.n_cls` is 150, but the weights say 7"),
    ("net_kwargs.d_model", 192, "`net_kwargs.d_model` is 192, but the weights say 64"),
    ("net_kwargs.n_layers", 12, "`net_kwargs.n_layers` is 12, but the weights say 2"),
    ("net_kwargs.patch_size", 8, "`net_kwargs.patch_size` is 8, but the weights say 16"),
    ("net_kwargs.distilled", True, "`net_kwargs.distilled` is True, but the weights say False"),
    ("net_kwargs.decoder.name", "linear", "`net_kwargs.decoder.name` is 'linear', but the weights say 'mask_transf"),
    ("net_kwargs.decoder.n_layers", 1, "`net_kwargs.decoder.n_layers` is 1, but the weights say 2"),
    ("net_kwargs.image_size", (128, 64), "`net_kwargs.image_size` is 128 x 64, but the weights have position embeddi"),
    ("net_kwargs.image_size", (70, 64), "`net_kwargs.image_size` is 70 x 64, but the weights have position embedding"),
    ("net_kwargs.normalization", "deit", "contradicts itself: `dataset_kwargs.normalization` is 'vit' but `net_kw"),
    ("net_kwargs.n_heads", 5, "`hidden_size` (64) must be a multiple of `num_attention_heads` (5)"),
    ("inference_kwargs.window_stride", 65, "`inference_kwargs.window_stride` (65) of variant.yml must be at most"),
]
WRONG_VALUES = [
    ("net_kwargs", None, "lacks `net_kwargs.image_size`"),
    ("net_kwargs.n_heads", None, "lacks `net_kwargs.n_heads`"),
    ("net_kwargs.n_heads", True, "`net_kwargs.n_heads` of variant.yml must be a positive integer up to 1000000, got "),
    ("net_kwargs.d_model", "64", "`net_kwargs.d_model` of variant.yml must be a positive integer up to 1000000, got "),
    ("net_kwargs.image_size", [64], "`net_kwargs.image_size` of variant.yml must be a height and a width up to 1000"),
    ("net_kwargs.image_size", None, "lacks `net_kwargs.image_size`"),
    ("net_kwargs.dropout", "none", "`net_kwargs.dropout` of variant.yml must be a number of usual size, got 'none'"),
    ("net_kwargs.drop_path_rate", 1.5, "`drop_path_rate` must be at least 0 and below 1, got 1.5"),
    ("dataset_kwargs.normalization", "resnet", "`normalization` of variant.yml must be one of deit, vit, got 'resn"),
    ("dataset_kwargs.dataset", ["ade20k"], "`dataset_kwargs.dataset` of variant.yml must be a name"),
    ("inference_kwargs.window_size", None, "lacks `inference_kwargs.window_size`"),
    ("inference_kwargs.window_stride", 0, "`inference_kwargs.window_stride` of variant.yml must be a positive inte"),
    ("inference_kwargs.im_size", None, "lacks `inference_kwargs.im_size`"),
]


@pytest.mark.parametrize(("field", "value", "message"), DISAGREEMENTS + WRONG_VALUES)
def test_variant_that_does_not_fit_is_refused(field, value, message, tmp_path, checkpoint):
    if field == "dataset_kwargs.normalization":
        del checkpoint.variant["net_kwargs"]["normalization"]
    *sections, name = field.split(".")
    values = checkpoint.variant
    for section in sections:
        values = values[section]
    values[name] = value
    with pytest.raises(ConversionError) as error:
        load_checkpoint(checkpoint.write(tmp_path))
    assert message in str(error.value)
    assert "variant.yml" in str(error.value)


def test_all_disagreements_are_named_together(tmp_path, checkpoint):
    checkpoint.variant["net_kwargs"]["patch_size"] = 8
    checkpoint.n_cls = 150
    with pytest.raises(ConversionError) as error:
        load_checkpoint(checkpoint.write(tmp_path))
    assert str(error.value) == (
        "variant.yml does not fit the weights: `net_kwargs.patch_size` is 8, but the weights say 16; `n_cls` of the "
        "checkpoint is 150, but its weights say 7."
    )


@pytest.mark.parametrize(
    ("name", "weight", "message"),
    [
        ("encoder.blocks.1.mlp.fc2.weight", torch.zeros(64, 128), "(64, 128) instead of (64, 256)"),
        ("encoder.blocks.0.attn.qkv.weight", torch.zeros(128, 64), "cannot be split into 3 equal parts"),
        ("encoder.patch_embed.proj.weight", torch.zeros(64, 3 * 16 * 16), "should have 4 dimensions"),
        ("encoder.patch_embed.proj.weight", torch.zeros(64, 3, 16, 8), "(64, 3, 16, 8)"),
        ("encoder.patch_embed.proj.weight", torch.zeros(64, 3, 0, 0), "(64, 3, 0, 0)"),
        ("encoder.patch_embed.proj.weight", torch.zeros(64, 4, 16, 16), "images of 4 channels"),
        ("encoder.pos_embed", torch.zeros(1, 26, 64), "position embeddings for 25 patches"),
        ("decoder.proj_patch", torch.zeros(64), "should have 2 dimensions"),
    ],
)
def test_weights_of_wrong_shapes_are_refused(name, weight, message, tmp_path, checkpoint):
    checkpoint.state_dict[name] = weight
    checkpoint.variant["net_kwargs"]["patch_size"] = None
    with pytest.raises(ConversionError) as error:
        load_checkpoint(checkpoint.write(tmp_path))
    assert message in str(error.value)


@pytest.mark.parametrize("n_cls", [torch.tensor([1, 2]), torch.ones(1).expand(10**13), "7" * 10**6, 7.0, [[7]], 2**80])
def test_number_of_classes_beside_the_weights_is_checked(n_cls, tmp_path, checkpoint):
    checkpoint.n_cls = n_cls
    with pytest.raises(ConversionError, match="`n_cls` of checkpoint.pth must be a positive integer") as error:
        load_checkpoint(checkpoint.write(tmp_path))
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("decoder", ["linear", "mask_transformer"])
def test_single_class_is_refused(decoder, tmp_path):
    with pytest.raises(ConversionError, match="single class"):
        load_checkpoint(make_original_checkpoint(n_cls=1, decoder=decoder).write(tmp_path))


def test_source_is_a_folder_or_a_file(tmp_path):
    source = make_original_checkpoint().write(tmp_path / "source")
    model, _ = load_checkpoint(source / "checkpoint.pth")
    (source / "checkpoint.pth").rename(source / "seg_tiny.pth")
    renamed, _ = load_checkpoint(source / "seg_tiny.pth")
    for old, new in zip(model.parameters(), renamed.parameters(), strict=True):
        assert torch.equal(old, new)

    renamed, _ = load_checkpoint(source)
    assert torch.equal(next(renamed.parameters()), next(model.parameters()))
    with pytest.raises(ConversionError, match="nowhere does not exist"):
        load_checkpoint(tmp_path / "nowhere")
    (source / "variant.yml").unlink()
    with pytest.raises(ConversionError, match=r"holds no variant\.yml, which belongs beside seg_tiny\.pth"):
        load_checkpoint(source / "seg_tiny.pth")
