"""The sliding-window protocol, image by image against the library's own path."""

import numpy as np
import pytest
import torch
from PIL import Image

from segmenter_hf import SegmenterForSemanticSegmentation, SegmenterImageProcessor
from segmenter_hf.evaluation.metrics import MeanIoU
from segmenter_hf.evaluation.protocol import evaluate_sliding_window

from ..common import tiny_config


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return SegmenterForSemanticSegmentation(tiny_config(drop_path_rate=0.5))


@pytest.fixture
def image_processor(model):
    return SegmenterImageProcessor(
        do_split_image=True,
        size={"shortest_edge": 40, "longest_edge": 160},
        crop_size={"height": 32, "width": 32},
        window_stride=24,
        patch_size=model.config.patch_size,
    )


@pytest.fixture
def examples():
    generator = np.random.default_rng(0)
    return [
        {
            "image": Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8)),
            "annotation": Image.fromarray(generator.choice([0, 1, 2, 3, 4, 255], (height, width)).astype(np.uint8)),
        }
        for height, width in [(50, 70), (90, 33), (20, 20)]
    ]


@torch.no_grad()
def test_equals_one_image_at_a_time(model, image_processor, examples):
    results = evaluate_sliding_window(model, image_processor, examples, window_batch_size=2)

    metric = MeanIoU(model.config.num_labels)
    model.eval()
    for example in examples:
        outputs = model(**image_processor(example["image"], return_tensors="pt"))
        labels = np.array(example["annotation"])
        metric.add_batch(
            predictions=image_processor.post_process_semantic_segmentation(outputs, [labels.shape]),
            references=[labels],
        )
    expected = metric.compute()
    assert results["num_images"] == 3
    assert 0 < results["mean_iou"] < 1
    for name, value in expected.items():
        assert results[name] == pytest.approx(value)


@torch.no_grad()
def test_loss_is_the_mean_over_the_pixels_of_all_windows(model, image_processor, examples):
    results = evaluate_sliding_window(model, image_processor, examples, window_batch_size=1)
    model.eval()
    images, maps = zip(*(example.values() for example in examples), strict=True)
    together = model(**image_processor(list(images), segmentation_maps=list(maps), return_tensors="pt"))
    assert results["loss"] == pytest.approx(together.loss.item(), rel=1e-5)


@torch.no_grad()
def test_binary_models_are_scored_on_both_labels(image_processor):
    torch.manual_seed(0)
    config = tiny_config(decoder_type="linear", num_labels=1, initializer_range=0.5)
    model = SegmenterForSemanticSegmentation(config)
    generator = np.random.default_rng(0)
    image = Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((70, 50))
    labels = generator.choice([0, 1, 255], (50, 70)).astype(np.uint8)
    results = evaluate_sliding_window(
        model, image_processor, [{"image": image, "annotation": Image.fromarray(labels)}]
    )

    outputs = model.eval()(**image_processor(image, return_tensors="pt"))
    prediction = image_processor.post_process_semantic_segmentation(outputs, [labels.shape])[0].numpy()
    assert set(np.unique(prediction)) == {0, 1}
    for label, iou in enumerate(results["per_category_iou"]):
        found, true = (prediction == label) & (labels != 255), labels == label
        assert iou == pytest.approx((found & true).sum() / (found | true).sum())
    assert len(results["per_category_iou"]) == 2


def test_leaves_the_model_in_the_mode_it_was_in(model, image_processor, examples):
    for training in (True, False):
        model.train(training)
        evaluate_sliding_window(model, image_processor, examples[:1])
        assert model.training is training


def test_labels_are_reduced_once(model, image_processor, examples):
    image_processor.do_reduce_labels = True
    shifted = []
    for example in examples:
        labels = np.array(example["annotation"])
        # What reducing makes of these are the labels of `examples`.
        labels = np.where(labels == 255, 0, labels + 1).astype(np.uint8)
        shifted.append({"image": example["image"], "annotation": Image.fromarray(labels)})
    reduced = evaluate_sliding_window(model, image_processor, shifted)
    image_processor.do_reduce_labels = False
    assert reduced["per_category_iou"] == evaluate_sliding_window(model, image_processor, examples)["per_category_iou"]
