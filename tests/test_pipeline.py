"""`pipeline("image-segmentation")` on a saved folder: odd images, mixed sizes and batches are right or refused."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, pipeline

from segmenter_hf import SegmenterForSemanticSegmentation, SegmenterImageProcessor

from .common import tiny_config


def random_photo(height: int, width: int, seed: int = 0) -> Image.Image:
    """Smooth enough that a resize in between does not average everything to grey."""
    noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BILINEAR)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model, made to answer with many labels, whose processor cuts windows of 32 pixels every 24."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    # Weights are spread widely: the default would give nearly the same label everywhere, which many a bug survives.
    model = SegmenterForSemanticSegmentation(tiny_config(num_labels=5, initializer_range=0.5))
    model.save_pretrained(folder)
    SegmenterImageProcessor(
        do_split_image=True,
        size={"shortest_edge": 40, "longest_edge": 160},
        crop_size={"height": 32, "width": 32},
        window_stride=24,
        patch_size=8,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def segmenter(folder):
    return pipeline("image-segmentation", model=str(folder))


def to_map(segments: list[dict], id2label: dict[int, str]) -> np.ndarray:
    """The label map that the masks of a pipeline's answer make up; each pixel must be in exactly one of them."""
    labels = [next(index for index, name in id2label.items() if name == segment["label"]) for segment in segments]
    masks = np.stack([np.asarray(segment["mask"]) > 0 for segment in segments])
    assert (masks.sum(0) == 1).all()
    return np.array(labels)[masks.argmax(0)]


@torch.no_grad()
def direct_map(segmenter, image: Image.Image) -> np.ndarray:
    inputs = segmenter.image_processor(image, return_tensors="pt")
    outputs = segmenter.model(**inputs)
    target_sizes = [(image.height, image.width)]
    return segmenter.image_processor.post_process_semantic_segmentation(outputs, target_sizes)[0].numpy()


@pytest.mark.parametrize(
    ("height", "width"), [(50, 70), (70, 50), (40, 40), (32, 32), (9, 11), (1, 1), (1, 90), (90, 1), (333, 500)]
)
def test_map_has_the_size_of_the_image_and_is_the_direct_one(segmenter, height, width):
    image = random_photo(height, width)
    segmentation = to_map(segmenter(image), segmenter.model.config.id2label)
    assert segmentation.shape == (height, width)
    assert (segmentation == direct_map(segmenter, image)).all()


def test_the_model_tells_images_apart(segmenter):
    """Guards the comparisons of this module: they would mean little for a model that answers with one label."""
    segmentation = to_map(segmenter(random_photo(50, 70)), segmenter.model.config.id2label)
    assert len(np.unique(segmentation)) > 1


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16"])
def test_image_modes(segmenter, mode):
    image = random_photo(50, 70)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    else:
        image = image.convert(mode)
    assert image.mode == mode
    segmentation = to_map(segmenter(image), segmenter.model.config.id2label)
    # The pipeline converts to RGB first.
    assert (segmentation == direct_map(segmenter, image.convert("RGB"))).all()


def test_path_list_and_both_backends(folder, segmenter, tmp_path):
    images = [random_photo(50, 70, seed=1), random_photo(33, 80, seed=2), random_photo(64, 32, seed=3)]
    id2label = segmenter.model.config.id2label
    expected = [direct_map(segmenter, image) for image in images]

    images[0].save(tmp_path / "photo.png")
    assert (to_map(segmenter(str(tmp_path / "photo.png")), id2label) == expected[0]).all()
    for answer, segmentation in zip(segmenter(images), expected, strict=True):
        assert (to_map(answer, id2label) == segmentation).all()

    pil = pipeline(
        "image-segmentation",
        model=str(folder),
        image_processor=AutoImageProcessor.from_pretrained(folder, backend="pil"),
    )
    assert pil.image_processor.backend == "pil"
    for image, segmentation in zip(images, expected, strict=True):
        assert (to_map(pil(image), id2label) == segmentation).mean() > 0.97


def test_batches_of_single_windows_are_right(segmenter):
    processor = segmenter.image_processor
    images = [random_photo(40, 40, seed=seed) for seed in range(4)]
    window, processor.crop_size = processor.crop_size, type(processor.crop_size)(height=40, width=40)
    try:
        answers = segmenter(images, batch_size=3)
        for answer, image in zip(answers, images, strict=True):
            assert (to_map(answer, segmenter.model.config.id2label) == direct_map(segmenter, image)).all()
    finally:
        processor.crop_size = window


@pytest.mark.parametrize(
    "sizes", [[(50, 70)] * 3, [(50, 70), (40, 40), (33, 90), (60, 60)], [(32, 32), (50, 70), (32, 32)]]
)
def test_batches_that_tear_windows_apart_are_refused(segmenter, sizes):
    images = [random_photo(height, width, seed) for seed, (height, width) in enumerate(sizes)]
    with pytest.raises(ValueError, match="batch_size=1"):
        segmenter(images, batch_size=3)


def test_bfloat16_model_gives_nearly_the_same_map(folder, segmenter):
    half = pipeline("image-segmentation", model=str(folder), dtype=torch.bfloat16)
    assert half.model.dtype == torch.bfloat16
    image = random_photo(50, 70)
    agree = to_map(half(image), segmenter.model.config.id2label) == direct_map(segmenter, image)
    assert agree.mean() > 0.9


def test_binary_model_names_both_labels(tmp_path):
    torch.manual_seed(0)
    config = tiny_config(decoder_type="linear", num_labels=1, initializer_range=0.5)
    config.id2label = {0: "background", 1: "crack"}
    config.label2id = {"background": 0, "crack": 1}
    model = SegmenterForSemanticSegmentation(config)
    model.save_pretrained(tmp_path)
    SegmenterImageProcessor(do_resize=False, patch_size=8).save_pretrained(tmp_path)
    segmenter = pipeline("image-segmentation", model=str(tmp_path))
    image = random_photo(64, 80)
    answer = segmenter(image)
    assert {segment["label"] for segment in answer} == {"background", "crack"}
    segmentation = to_map(answer, segmenter.model.config.id2label)
    with torch.no_grad():
        logits = model.eval()(**segmenter.image_processor(image, return_tensors="pt")).logits
    probabilities = torch.nn.functional.interpolate(logits, size=(64, 80), mode="bilinear").sigmoid()[0, 0]
    assert (segmentation == (probabilities > 0.5).numpy()).all()
