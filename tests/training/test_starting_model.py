"""The image processor and the model that a run starts with, and weights that are converted for it once."""

import dataclasses
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from segmenter_hf import SegmenterForSemanticSegmentation, SegmenterImageProcessor, SegmenterModel
from segmenter_hf.data.labels import load_label_set
from segmenter_hf.training.arguments import DataArguments, MethodArguments, ModelArguments
from segmenter_hf.training.recipes import RECIPES
from segmenter_hf.training.starting_model import add_adapters, find_checkpoint, make_image_processor, make_model

from ..common import REPOSITORY, random_pixel_values, tiny_config


FIXTURES = REPOSITORY / "tests" / "fixtures"


def save_checkpoint(folder, model):
    """With a processor like that of a converted ADE20K checkpoint: other sizes than the defaults, labels reduced."""
    model.save_pretrained(folder)
    SegmenterImageProcessor(
        do_split_image=True,
        size={"shortest_edge": 90, "longest_edge": 360},
        crop_size={"height": 64, "width": 80},
        window_stride=24,
        patch_size=8,
        antialias=False,
        do_reduce_labels=True,
        image_mean=[0.1, 0.2, 0.3],
    ).save_pretrained(folder)
    return ModelArguments(model_name_or_path=str(folder))


@pytest.fixture
def segmenter(tmp_path):
    return save_checkpoint(tmp_path / "segmenter", SegmenterForSemanticSegmentation(tiny_config()))


@pytest.fixture
def encoder(tmp_path):
    return save_checkpoint(tmp_path / "encoder", SegmenterModel(tiny_config()))


def image_processor_of(model_args, tmp_path, recipe="finetune", **data):
    checkpoint = find_checkpoint(model_args, tmp_path / "conversion")
    return make_image_processor(model_args, DataArguments(dataset_name="unused", **data), RECIPES[recipe], checkpoint)


def test_a_segmenters_sizes_apply_unless_others_are_given(segmenter, tmp_path):
    kept = image_processor_of(segmenter, tmp_path, recipe="cityscapes")
    assert dict(kept.size) == {"shortest_edge": 90, "longest_edge": 360}
    assert dict(kept.crop_size) == {"height": 64, "width": 80}
    assert (kept.window_stride, kept.antialias, kept.patch_size) == (24, False, 8)
    assert list(kept.image_mean) == [0.1, 0.2, 0.3]
    # What a checkpoint says of the label maps that it was trained on says nothing of these.
    assert kept.do_reduce_labels is False

    changed = image_processor_of(segmenter, tmp_path, short_side=50, crop_height=40, do_reduce_labels=True)
    assert dict(changed.size) == {"shortest_edge": 50, "longest_edge": 200}
    assert dict(changed.crop_size) == {"height": 40, "width": 80}
    assert (changed.window_stride, changed.antialias, changed.do_reduce_labels) == (20, False, True)


@pytest.mark.parametrize(
    ("recipe", "size", "crop", "stride", "reduce"),
    [
        ("ade20k", (512, 2048), 512, 512, True),
        ("pascal_context", (520, 4160), 480, 320, False),
        ("cityscapes", (1024, 2048), 768, 512, False),
    ],
)
def test_on_an_encoder_the_papers_sizes_apply(encoder, tmp_path, recipe, size, crop, stride, reduce):
    processor = image_processor_of(encoder, tmp_path, recipe)
    assert dict(processor.size) == {"shortest_edge": size[0], "longest_edge": size[1]}
    assert dict(processor.crop_size) == {"height": crop, "width": crop}
    assert (processor.window_stride, processor.do_reduce_labels) == (stride, reduce)
    assert list(processor.image_mean) == [0.1, 0.2, 0.3], "the normalisation is the encoder's"
    # Another size, such as that of Seg-L on ADE20K, keeps the ratio of the sides.
    larger = image_processor_of(encoder, tmp_path, recipe, short_side=640, crop_height=640, crop_width=640)
    assert dict(larger.size) == {"shortest_edge": 640, "longest_edge": 640 * size[1] // size[0]}
    assert larger.window_stride == 320


def test_without_a_checkpoint_windows_are_512(tmp_path):
    processor = image_processor_of(ModelArguments(patch_size=32), tmp_path, "from_scratch")
    assert dict(processor.crop_size) == {"height": 512, "width": 512}
    assert (processor.window_stride, processor.patch_size) == (256, 32)
    assert processor.do_split_image


def test_a_long_side_below_the_short_one_is_refused(segmenter, tmp_path):
    with pytest.raises(ValueError, match="--long_side must be at least --short_side"):
        image_processor_of(segmenter, tmp_path, short_side=100, long_side=50)


def build(model_args, tmp_path, id2label, recipe="finetune"):
    checkpoint = find_checkpoint(model_args, tmp_path / "conversion")
    processor = make_image_processor(model_args, DataArguments(dataset_name="unused"), RECIPES[recipe], checkpoint)
    torch.manual_seed(3)
    return make_model(model_args, RECIPES[recipe], checkpoint, processor, id2label)[0]


def test_a_segmenter_keeps_what_does_not_depend_on_the_labels(segmenter, tmp_path, caplog):
    original = SegmenterForSemanticSegmentation.from_pretrained(segmenter.model_name_or_path).state_dict()
    with caplog.at_level(logging.WARNING):
        model = build(segmenter, tmp_path, {0: "cat", 1: "dog", 2: "bird"})
    assert model.config.id2label == {0: "cat", 1: "dog", 2: "bird"}
    assert model.config.label2id == {"cat": 0, "dog": 1, "bird": 2}
    changed = {name for name, weight in model.state_dict().items() if not _equal(weight, original[name])}
    assert changed == {"decoder.class_embeddings", "decoder.mask_norm.weight", "decoder.mask_norm.bias"}


def _equal(weight, other):
    return weight.shape == other.shape and torch.equal(weight, other)


def test_an_encoder_gets_a_new_decoder_by_the_recipe(encoder, tmp_path):
    weights = SegmenterModel.from_pretrained(encoder.model_name_or_path).state_dict()
    encoder.decoder_num_hidden_layers = 1
    model = build(encoder, tmp_path, load_label_set("cityscapes").id2label, "cityscapes")
    # There were 4 x 4 patches, and the recipe's crops are of 96 x 96 pixels.
    positions = SegmenterModel.from_pretrained(encoder.model_name_or_path).embeddings
    expected = positions.interpolate_position_embeddings(96, 96)
    assert torch.equal(model.segmenter.embeddings.position_embeddings, expected)
    for name, weight in model.segmenter.state_dict().items():
        assert name == "embeddings.position_embeddings" or torch.equal(weight, weights[name]), name
    model.save_pretrained(tmp_path / "saved")
    saved = SegmenterForSemanticSegmentation.from_pretrained(tmp_path / "saved")
    assert saved.config.image_size == 768
    assert torch.equal(saved.segmenter.embeddings.position_embeddings, expected)
    assert (model.config.drop_path_rate, model.config.decoder_dropout_prob) == (0.1, 0.1)
    assert (model.config.num_labels, len(model.decoder.layers)) == (19, 1)
    assert model.config.palette == [list(colour) for colour in load_label_set("cityscapes").palette]
    encoder.drop_path_rate = 0.3
    assert build(encoder, tmp_path, {0: "a", 1: "b"}, "cityscapes").config.drop_path_rate == 0.3


@pytest.mark.parametrize(
    "source",
    ["original/mask_patch16/checkpoint.pth", "augreg/vit_patch16/checkpoint.npz", "augreg/vit_patch16/mmseg_vit.pth"],
)
def test_any_source_that_converts_will_do(source, tmp_path):
    model = build(ModelArguments(model_name_or_path=str(FIXTURES / source)), tmp_path, {0: "a", 1: "b", 2: "c"})
    model.eval()
    assert model(pixel_values=random_pixel_values(height=64, width=64)).logits.shape == (2, 3, 4, 4)


@pytest.mark.parametrize("name", ["missing/folder/of/weights", "ade20k/seg_base"])
def test_what_is_no_model_is_refused_by_name(name, tmp_path):
    with pytest.raises(ValueError, match=f"--model_name_or_path {name} is no Segmenter"):
        find_checkpoint(ModelArguments(model_name_or_path=name), tmp_path)


def test_a_released_name_is_fetched_and_converted(tmp_path, monkeypatch):
    """What would be downloaded is put where downloads are kept."""
    from segmenter_hf.conversion import convert

    fetched = []

    def fetch(released, cache_dir):
        fetched.append((released.name, cache_dir))
        return FIXTURES / "original" / "mask_patch16"

    monkeypatch.setattr(convert, "fetch_released", fetch)
    model_args = ModelArguments(model_name_or_path="ade20k/seg_tiny_mask", cache_dir=str(tmp_path / "cache"))
    checkpoint = find_checkpoint(model_args, tmp_path)
    assert fetched == [("ade20k/seg_tiny_mask", str(tmp_path / "cache"))]
    assert checkpoint.has_decoder
    assert SegmenterForSemanticSegmentation.from_pretrained(checkpoint.name_or_path).config.num_labels == 7


def test_a_patch_size_that_is_not_the_models_is_refused(segmenter, tmp_path):
    SegmenterImageProcessor(do_split_image=True, patch_size=16).save_pretrained(tmp_path / "processor")
    segmenter.image_processor_name = str(tmp_path / "processor")
    with pytest.raises(ValueError, match="is for patches of 16 pixels, the model has patches of 8"):
        build(segmenter, tmp_path, {0: "a", 1: "b"})


def test_adapters_are_on_the_encoder_and_the_decoder_is_trained(segmenter, tmp_path):
    model = build(segmenter, tmp_path, {0: "a", 1: "b"})
    adapted = add_adapters(model, MethodArguments(use_peft=True, lora_r=2, lora_target_modules=["q_proj", "fc1"]))
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    lora = {name for name in trained if "lora_" in name}
    assert all(".segmenter.layers." in name and (".q_proj." in name or ".fc1." in name) for name in lora)
    assert len(lora) == 2 * 2 * 2
    assert all(".decoder.modules_to_save." in name for name in trained - lora)
    assert len(trained - lora) == len(list(model.decoder.original_module.parameters()))
    for modules, got in ((["qkv", "fc1"], "qkv"), ([], "none")):
        with pytest.raises(ValueError, match=f"must be among fc1, fc2, k_proj, o_proj, q_proj, v_proj, got {got}"):
            add_adapters(build(segmenter, tmp_path, {0: "a", 1: "b"}), MethodArguments(lora_target_modules=modules))


def test_a_decoder_that_is_kept_is_not_asked_for_otherwise(segmenter, encoder, tmp_path):
    id2label = {0: "sky", 1: "road"}

    def model_of(model_args, **settings):
        model_args = dataclasses.replace(model_args, **settings)
        checkpoint = find_checkpoint(model_args, tmp_path / "conversion")
        image_processor = make_image_processor(
            model_args, DataArguments(dataset_name="unused"), RECIPES["finetune"], checkpoint
        )
        return make_model(model_args, RECIPES["finetune"], checkpoint, image_processor, id2label)[0]

    assert model_of(segmenter, decoder_num_hidden_layers=1).config.decoder_num_hidden_layers == 1
    with pytest.raises(ValueError, match="--decoder_type linear is not that of .*mask_transformer, whose decoder is"):
        model_of(segmenter, decoder_type="linear")
    with pytest.raises(ValueError, match="--decoder_num_hidden_layers 3 is not that of .*, 1, whose decoder is kept"):
        model_of(segmenter, decoder_num_hidden_layers=3)
    # An encoder has none to keep.
    assert model_of(encoder).config.decoder_num_hidden_layers == 2
    assert model_of(encoder, decoder_type="linear").config.decoder_type == "linear"


def test_code_of_an_image_processor_runs_only_if_it_is_trusted(segmenter, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = tmp_path / "processor"
    folder.mkdir()
    (folder / "image_processing_mine.py").write_text(
        "from segmenter_hf import SegmenterImageProcessor\n"
        "class MyImageProcessor(SegmenterImageProcessor):\n"
        "    is_mine = True\n",
        encoding="utf-8",
    )
    settings = SegmenterImageProcessor(do_split_image=True, patch_size=8).to_dict()
    settings |= {
        "image_processor_type": "MyImageProcessor",
        "auto_map": {"AutoImageProcessor": "image_processing_mine.MyImageProcessor"},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")

    with pytest.raises(ValueError, match="--image_processor_name"):
        image_processor_of(ModelArguments(image_processor_name=str(folder)), tmp_path)
    assert not (tmp_path / "modules").exists()
    trusting = ModelArguments(image_processor_name=str(folder), trust_remote_code=True)
    assert image_processor_of(trusting, tmp_path).is_mine


@pytest.mark.parametrize("trust_remote_code", [False, True])
def test_code_beside_a_segmenter_never_runs(segmenter, tmp_path, trust_remote_code):
    folder = Path(segmenter.model_name_or_path)
    for name in ("configuration", "modeling", "image_processing"):
        (folder / f"{name}_segmenter.py").write_text("raise SystemExit('it ran')", encoding="utf-8")
    for name, key, value in [
        ("config.json", "AutoConfig", "configuration_segmenter.SegmenterConfig"),
        ("config.json", "AutoModelForSemanticSegmentation", "modeling_segmenter.SegmenterForSemanticSegmentation"),
        ("preprocessor_config.json", "AutoImageProcessor", "image_processing_segmenter.SegmenterImageProcessor"),
    ]:
        config = json.loads((folder / name).read_text(encoding="utf-8"))
        config.setdefault("auto_map", {})[key] = value
        (folder / name).write_text(json.dumps(config), encoding="utf-8")
    model_args = dataclasses.replace(segmenter, trust_remote_code=trust_remote_code)
    checkpoint = find_checkpoint(model_args, tmp_path / "conversion")
    data_args = DataArguments(dataset_name="unused")
    image_processor = make_image_processor(model_args, data_args, RECIPES["finetune"], checkpoint)
    model, _ = make_model(model_args, RECIPES["finetune"], checkpoint, image_processor, {0: "sky", 1: "road"})
    assert type(model) is SegmenterForSemanticSegmentation
    assert type(image_processor) is SegmenterImageProcessor


# Each process says what it does. The first source cannot be converted, the second can.
CONVERTING = """
import sys
from accelerate import PartialState
from segmenter_hf import SegmenterForSemanticSegmentation
from segmenter_hf.training import starting_model
from segmenter_hf.training.arguments import ModelArguments, TrainingError

convert, rank = starting_model.convert_checkpoint, PartialState(cpu=True).process_index

def convert_aloud(*args, **settings):
    print(f"{rank} converts", flush=True)
    return convert(*args, **settings)

starting_model.convert_checkpoint = convert_aloud
for source in sys.argv[2:]:
    try:
        with starting_model.starting_checkpoint(ModelArguments(model_name_or_path=source), sys.argv[1]) as checkpoint:
            model = SegmenterForSemanticSegmentation.from_pretrained(checkpoint.name_or_path)
            print(f"{rank} has {model.config.num_labels} labels", flush=True)
    except TrainingError as error:
        print(f"{rank} is refused: {error}", flush=True)
"""


@pytest.mark.slow
def test_the_first_process_converts_for_all(tmp_path):
    (tmp_path / "converting.py").write_text(CONVERTING, encoding="utf-8")
    sources = [tmp_path / "nowhere.pth", FIXTURES / "original" / "mask_patch16" / "checkpoint.pth"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2]
    result = subprocess.run(
        [str(each) for each in (*launcher, tmp_path / "converting.py", tmp_path / "output", *sources)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines.count("0 converts") == 2 and "1 converts" not in lines
    for rank in (0, 1):
        assert f"{rank} has 7 labels" in lines
        assert (
            sum(line.startswith(f"{rank} is refused: --model_name_or_path {sources[0]} is no") for line in lines) == 1
        )
    assert not list((tmp_path / "output").iterdir()), "the copy is removed"
