"""Image processor, model and class weights that a run starts with."""

import dataclasses
import json
import logging
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image

from segmenter_hf import SegmenterForSemanticSegmentation, SegmenterImageProcessor, SegmenterModel
from segmenter_hf.data.labels import load_label_set
from segmenter_hf.data.loading import load_segmentation_data
from segmenter_hf.evaluation.results import fingerprint
from segmenter_hf.training import training_setup
from segmenter_hf.training.arguments import (
    DataArguments,
    MethodArguments,
    ModelArguments,
    TrainingError,
    parse_arguments,
)
from segmenter_hf.training.recipes import RECIPES
from segmenter_hf.training.training_setup import (
    add_adapters,
    balanced_class_weights,
    count_labels,
    find_checkpoint,
    leave_out_unreadable,
    make_image_processor,
    make_model,
    prepare,
)
from segmenter_hf.training.with_accelerate import AccelerateArguments

from ..common import REPOSITORY, random_pixel_values, tiny_config
from ..data.datasets_on_disk import make_label_map, save, write_pairs


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
    # Of Seg-L on ADE20K: another size keeps the ratio of the sides.
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
    # Those of 4 x 4 patches, for the 96 x 96 of the recipe's crops.
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


def test_label_maps_are_checked_before_anything_else(tmp_path):
    folder = write_pairs(tmp_path / "data", "images", "annotations")
    save(make_label_map((0, 1, 7)), folder / "annotations" / "1.png")
    arguments = DataArguments(dataset_name=str(folder), train_val_split=0.5)
    with pytest.raises(ValueError, match=r"hold 7, expected labels from 0 to 2.*1\.png"):
        prepare(ModelArguments(), arguments, MethodArguments(), RECIPES["from_scratch"], seed=0)


def test_count_labels_leaves_out_ignored_ones():
    maps = [Image.fromarray(np.array([[0, 0, 255], [1, 2, 2]], dtype=np.uint8))] * 2
    assert count_labels(Dataset.from_dict({"annotation": maps}), "annotation", 4).tolist() == [4, 2, 4, 0]


def test_count_labels_reduces_them_where_0_is_unlabelled():
    maps = [Image.fromarray(np.array([[0, 1, 255], [1, 2, 3]], dtype=np.uint8))]
    counts = count_labels(Dataset.from_dict({"annotation": maps}), "annotation", 3, do_reduce_labels=True)
    assert counts.tolist() == [2, 1, 1]


def test_balanced_class_weights():
    counts = torch.tensor([16, 4, 0])
    assert balanced_class_weights(counts, 0.0).tolist() == pytest.approx([1, 1, 0])
    weights = balanced_class_weights(counts, 0.5)
    assert (weights[1] / weights[0]).item() == pytest.approx(2)
    assert (weights * counts).sum().item() == pytest.approx(20)
    assert weights[2] == 0


@pytest.fixture
def spoilt(tmp_path):
    """Six examples, of which one image is cut off, one is beyond 16 bits, and one label map is a pipe."""
    folder = write_pairs(tmp_path / "data", "images/train", "annotations/train", number=6)
    write_pairs(tmp_path / "data", "images/val", "annotations/val", number=2)
    (folder / "images" / "train" / "1.jpg").write_bytes((folder / "images" / "train" / "1.jpg").read_bytes()[:900])
    (folder / "images" / "train" / "3.jpg").unlink()
    save(Image.fromarray(np.full((40, 60), 70000, dtype=np.int32)), folder / "images" / "train" / "3.tiff")
    damaged = folder / "annotations" / "val" / "0.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    return folder


def prepare_from(folder, **arguments):
    model_args = ModelArguments(hidden_size=64, num_hidden_layers=1, decoder_num_hidden_layers=1)
    data_args = DataArguments(dataset_name=str(folder), crop_height=32, crop_width=32, **arguments)
    return prepare(model_args, data_args, MethodArguments(), RECIPES["from_scratch"], seed=0)


def test_unreadable_examples_are_left_out_if_asked_for(spoilt, caplog):
    setup = prepare_from(spoilt, skip_unreadable=True)
    assert (len(setup.train_dataset), len(setup.eval_dataset)) == (4, 1)
    for index in range(4):
        assert setup.train_dataset[index]["pixel_values"].shape == (3, 32, 32)
    messages = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert len(messages) == 2
    assert messages[0].startswith("train split: 2 of 6 examples cannot be read: ")
    assert re.search(r"images/train/1\.jpg, \S*annotations/train/1\.png: the image cannot be read: ", messages[0])
    assert re.search(r"images/train/3\.tiff, .*70000", messages[0])
    assert messages[1].startswith("validation split: 1 of 2 examples cannot be read: ")
    assert "the label map cannot be read" in messages[1]
    # The fingerprints of data are those of what is left.
    fingerprints = [fingerprint(examples) for examples in (setup.train_dataset.examples, setup.eval_dataset)]
    for name in ("images/train/1.jpg", "images/train/3.tiff", "annotations/train/1.png", "annotations/train/3.png"):
        (spoilt / name).unlink()
    for name in ("images/val/0.jpg", "annotations/val/0.png"):
        (spoilt / name).unlink()
    whole = prepare_from(spoilt)
    assert [fingerprint(examples) for examples in (whole.train_dataset.examples, whole.eval_dataset)] == fingerprints


def test_unreadable_examples_are_refused_otherwise(spoilt):
    with pytest.raises(TrainingError) as error:
        prepare_from(spoilt)
    message = str(error.value)
    assert "images/train/1.jpg" in message and "annotations/val/0.png" in message
    assert "training leaves them out with --skip_unreadable" in message


def test_what_lies_beyond_the_sample_is_found_if_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(training_setup, "NUM_CHECKED", 1)
    folder = write_pairs(tmp_path, "images", "annotations", number=8)
    file = folder / "images" / "7.jpg"
    file.write_bytes(file.read_bytes()[:900])
    # Whichever split it is in, there are others that are looked at.
    assert any(len(prepare_or_refuse(folder, seed)) == 0 for seed in range(4))
    assert all("images/7.jpg" in prepare_or_refuse(folder, seed, check_all_examples=True) for seed in range(4))


def prepare_or_refuse(folder, seed, **arguments) -> str:
    """The message, if there is one."""
    model_args = ModelArguments(hidden_size=64, num_hidden_layers=1, decoder_num_hidden_layers=1)
    data_args = DataArguments(
        dataset_name=str(folder), crop_height=32, crop_width=32, train_val_split=0.5, **arguments
    )
    try:
        prepare(model_args, data_args, MethodArguments(), RECIPES["from_scratch"], seed)
    except TrainingError as error:
        return str(error)
    return ""


def test_none_that_can_be_read_is_refused(tmp_path):
    folder = write_pairs(tmp_path, "images", "annotations", number=2)
    for index in range(2):
        (folder / "images" / f"{index}.jpg").write_bytes(b"")
    with pytest.raises(TrainingError, match="1 of 1 examples cannot be read: .*it is empty.* None is left"):
        prepare_from(folder, train_val_split=0.5, skip_unreadable=True)


def test_processes_read_their_share_and_leave_out_the_same(spoilt, monkeypatch):
    """What the other process finds comes from a second run, as if it were gathered."""
    data = load_segmentation_data(spoilt)
    read, found = [], []
    for rank in (0, 1, 0, 1):
        monkeypatch.setattr(training_setup, "_rank_and_number_of_processes", lambda rank=rank: (rank, 2))

        def gather(own):
            read.append(own)
            return [own] if len(read) < 3 else read[:2]

        monkeypatch.setattr(training_setup, "_gather", gather)
        found.append(leave_out_unreadable(data.split("train"), "train", data, SegmenterImageProcessor()))
    assert [sorted(own) for own in read[:2]] == [[], [1, 3]]
    assert [len(examples) for examples in found[2:]] == [4, 4]


def test_flags_of_examples_in_command_lines_and_files(tmp_path):
    arguments = ["--dataset_name", "unused", "--labels", "camvid", "--output_dir", str(tmp_path)]
    for name in ("--check_all_examples", "--check_all_labels"):
        data_args = parse_arguments(AccelerateArguments, "", [*arguments, name])[1]
        assert (data_args.check_all_examples, data_args.skip_unreadable) == (True, False)
    assert parse_arguments(AccelerateArguments, "", [*arguments, "--skip_unreadable"])[1].skip_unreadable
    for name in ("check_all_examples", "check_all_labels"):
        file = tmp_path / "arguments.json"
        file.write_text(json.dumps({"dataset_name": "unused", "labels": "camvid", name: True}), encoding="utf-8")
        assert parse_arguments(AccelerateArguments, "", [str(file)])[1].check_all_examples
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(ValueError, match=r"pipe\.json is a pipe, expected a regular file"):
        parse_arguments(AccelerateArguments, "", [str(tmp_path / "pipe.json")])


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
    # Of an encoder, there is none to keep.
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


def test_what_cannot_be_loaded_is_one_line(tmp_path):
    folder = write_pairs(tmp_path, "images", "annotations", number=4)
    for settings, message in [
        ({"config_name": str(tmp_path / "nowhere")}, "--config_name .*nowhere cannot be loaded"),
        ({"attn_implementation": "flash_attention_2"}, "FlashAttention2"),
        ({"hidden_size": 200}, "must be a multiple of"),
    ]:
        with pytest.raises(TrainingError, match=message):
            prepare(
                ModelArguments(**settings),
                DataArguments(dataset_name=str(folder), train_val_split=0.5),
                *(MethodArguments(), RECIPES["from_scratch"], 0),
            )
