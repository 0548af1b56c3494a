"""Weights and image processors for other bands than RGB, and statistics by band."""

import logging

import pytest
import torch
from PIL import Image
from timm.models import adapt_input_conv

from segmenter_hf import SegmenterConfig, SegmenterForSemanticSegmentation, SegmenterImageProcessor, SegmenterModel
from segmenter_hf.training.arguments import DataArguments, ModelArguments
from segmenter_hf.training.channels import fit_channels, set_channels
from segmenter_hf.training.recipes import RECIPES
from segmenter_hf.training.starting_model import find_checkpoint, make_image_processor, make_model

from ..common import tiny_config


def make_settings(**settings):
    return SegmenterImageProcessor(image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4], **settings).to_dict()


@pytest.mark.parametrize("num_channels", [1, 2, 4, 6, 13])
def test_weights_are_those_that_timm_makes(num_channels, tmp_path):
    model = SegmenterForSemanticSegmentation(tiny_config()).eval()
    original = {name: weight.clone() for name, weight in model.state_dict().items()}
    fit_channels(model, num_channels)
    name = "segmenter.embeddings.patch_embeddings.projection.weight"
    expected = adapt_input_conv(num_channels, original.pop(name))
    weights = model.state_dict()
    assert torch.allclose(weights.pop(name), expected, atol=1e-7)
    assert all(torch.equal(weight, original[name]) for name, weight in weights.items())

    pixel_values = torch.rand(1, num_channels, 32, 40)
    model.save_pretrained(tmp_path)
    saved = SegmenterForSemanticSegmentation.from_pretrained(tmp_path).eval()
    assert saved.config.num_channels == num_channels
    assert torch.equal(model(pixel_values=pixel_values).logits, saved(pixel_values=pixel_values).logits)


def test_a_grey_picture_is_seen_as_before():
    model = SegmenterForSemanticSegmentation(tiny_config()).eval()
    grey = torch.rand(1, 1, 32, 32)
    expected = model(pixel_values=grey.expand(-1, 3, -1, -1)).logits
    fit_channels(model, 1)
    assert torch.allclose(model(pixel_values=grey).logits, expected, atol=1e-5)


def test_weights_that_cannot_be_adapted():
    model = SegmenterForSemanticSegmentation(tiny_config(num_channels=4))
    fit_channels(model, 4)
    with pytest.raises(ValueError, match="--num_channels 6: the model takes 4 bands"):
        fit_channels(model, 6)


@pytest.mark.parametrize(
    ("num_channels", "given", "expected", "warns"),
    [
        (1, {}, [0.5], True),
        (2, {}, [0.4, 0.5], True),
        (5, {}, [0.4, 0.5, 0.6, 0.4, 0.5], True),
        (4, {"image_mean": [0.1, 0.2, 0.3, 0.4], "image_std": [0.2]}, [0.1, 0.2, 0.3, 0.4], False),
        (4, {"image_mean": [0.3]}, [0.3] * 4, True),
        (3, {"image_mean": [0.3], "image_std": [0.1]}, [0.3] * 3, False),
        (3, {}, [0.4, 0.5, 0.6], False),
    ],
)
def test_means(num_channels, given, expected, warns, caplog):
    settings = make_settings()
    with caplog.at_level(logging.WARNING):
        set_channels(settings, num_channels, **given)
    assert settings["image_mean"] == pytest.approx(expected)
    assert len(settings["image_std"]) == num_channels
    assert settings["do_convert_rgb"] is (num_channels == 3)
    assert ("scripts/compute_image_statistics.py" in caplog.text) is warns


def test_too_many_means_or_too_few():
    for name in ("image_mean", "image_std"):
        with pytest.raises(ValueError, match=f"--{name} must be one number, or one for each of 4 bands, got 3"):
            set_channels(make_settings(), 4, **{name: [0.1, 0.2, 0.3]})


@pytest.mark.parametrize("value", [-0.1, 123.675, float("nan"), float("inf")])
def test_figures_that_are_not_of_pixels(value):
    for name in ("image_mean", "image_std"):
        with pytest.raises(
            ValueError, match=rf"--{name} must be .* to 1, .*got 0\.3, .*Divide figures of bytes by 255"
        ):
            set_channels(make_settings(), 2, **{name: [0.3, value]})
    with pytest.raises(ValueError, match="--image_std must be above 0"):
        set_channels(make_settings(), 2, image_std=[0.3, 0])
    if value == 123.675:
        settings = make_settings(do_rescale=False)
        set_channels(settings, 2, image_mean=[0.3, value])
        assert settings["image_mean"] == [0.3, value]


def build(model_args, tmp_path, **data):
    checkpoint = find_checkpoint(model_args, tmp_path / "conversion")
    data_args = DataArguments(dataset_name="unused", crop_height=32, crop_width=32, **data)
    image_processor = make_image_processor(model_args, data_args, RECIPES["finetune"], checkpoint)
    return image_processor, make_model(model_args, RECIPES["finetune"], checkpoint, image_processor, {0: "a", 1: "b"})[
        0
    ]


@pytest.mark.parametrize("kind", ["segmenter", "encoder", "config", "new"])
@pytest.mark.parametrize("num_channels", [1, 4])
def test_a_run_starts_with_as_many_bands_as_it_is_told(kind, num_channels, tmp_path):
    model_args = ModelArguments(num_channels=num_channels, hidden_size=64, num_hidden_layers=1, patch_size=8)
    folder = tmp_path / "source"
    if kind in ("segmenter", "encoder"):
        cls = SegmenterForSemanticSegmentation if kind == "segmenter" else SegmenterModel
        cls(tiny_config()).save_pretrained(folder)
        SegmenterImageProcessor(do_split_image=True, patch_size=8, max_value=4095).save_pretrained(folder)
        model_args.model_name_or_path = str(folder)
    elif kind == "config":
        tiny_config().save_pretrained(folder)
        model_args.config_name = str(folder)
    image_processor, model = build(model_args, tmp_path)
    assert (model.config.num_channels, image_processor.do_convert_rgb) == (num_channels, False)
    assert image_processor.max_value == (4095 if kind in ("segmenter", "encoder") else 65535)
    assert build(model_args, tmp_path, max_value=1023)[0].max_value == 1023

    # What was trained goes on with its bands, and without the flag.
    saved = tmp_path / "saved"
    model.save_pretrained(saved)
    image_processor.save_pretrained(saved)
    again, model = build(ModelArguments(model_name_or_path=str(saved)), tmp_path)
    assert again.to_dict() == {**image_processor.to_dict(), "window_stride": again.window_stride}
    mode = {1: "L", 4: "RGBA"}[num_channels]
    inputs = again(Image.new(mode, (40, 50), 9), return_tensors="pt")
    assert model(**inputs).logits.shape[1] == 2
    # The pipeline hands over such images.
    with pytest.raises(ValueError, match=r"for each of the 3 channels, got 4|shape \(batch_size, 1, height, width\)"):
        model(**again(Image.new("RGB", (40, 50)), return_tensors="pt"))


def test_settings_for_rgb_are_left_alone(tmp_path):
    """They are the same to the letter, so that nothing of older runs changes."""
    SegmenterForSemanticSegmentation(tiny_config()).save_pretrained(tmp_path / "source")
    original = SegmenterImageProcessor(
        do_split_image=True, patch_size=8, crop_size={"height": 32, "width": 32}, window_stride=16, image_mean=0.4
    )
    original.save_pretrained(tmp_path / "source")
    image_processor, model = build(ModelArguments(model_name_or_path=str(tmp_path / "source")), tmp_path)
    assert image_processor.to_dict() == original.to_dict()
    assert model.config.num_channels == SegmenterConfig.num_channels == 3
