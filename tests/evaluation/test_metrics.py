"""Mean IoU against hand-computed and brute-force numbers."""

import math

import pytest
import torch

from segmenter_hf.evaluation.metrics import MeanIoU


def test_hand_computed_example():
    metric = MeanIoU(num_labels=4)
    reference = torch.tensor([[0, 0, 1, 1], [0, 255, 1, 2]])
    prediction = torch.tensor([[0, 1, 1, 1], [0, 3, 2, 2]])
    metric.add_batch(predictions=[prediction], references=[reference])
    results = metric.compute()
    # Label 0: 2 of 3 found; 1: 2 found, 1 missed, 1 wrong; 2: 1 found, 1 wrong; 3 only where it is ignored.
    assert results["per_category_iou"][:3] == pytest.approx([2 / 3, 2 / 4, 1 / 2])
    assert results["per_category_accuracy"][:3] == pytest.approx([2 / 3, 2 / 3, 1])
    assert math.isnan(results["per_category_iou"][3])
    assert math.isnan(results["per_category_accuracy"][3])
    assert results["mean_iou"] == pytest.approx((2 / 3 + 1 / 2 + 1 / 2) / 3)
    assert results["mean_accuracy"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert results["overall_accuracy"] == pytest.approx(5 / 7)


def test_batches_of_varying_size_count_as_one_image_set():
    generator = torch.Generator().manual_seed(0)
    sizes = [(7, 9), (1, 1), (30, 4)]
    references = [torch.randint(0, 6, size, generator=generator) for size in sizes]
    predictions = [torch.randint(0, 6, size, generator=generator) for size in sizes]
    metric = MeanIoU(num_labels=6)
    metric.add_batch(predictions=predictions[:2], references=references[:2])
    metric.add_batch(predictions=[predictions[2].numpy()], references=[references[2].numpy()])

    reference = torch.cat([labels.flatten() for labels in references])
    prediction = torch.cat([labels.flatten() for labels in predictions])
    for label, iou in enumerate(metric.compute()["per_category_iou"]):
        intersection = ((reference == label) & (prediction == label)).sum()
        union = ((reference == label) | (prediction == label)).sum()
        assert iou == pytest.approx((intersection / union).item())


def test_predicted_but_absent_class_counts_as_zero():
    metric = MeanIoU(num_labels=3)
    metric.add_batch(predictions=[torch.tensor([[0, 2]])], references=[torch.tensor([[0, 0]])])
    results = metric.compute()
    assert results["per_category_iou"][2] == 0
    assert math.isnan(results["per_category_accuracy"][2])
    assert results["mean_iou"] == pytest.approx((1 / 2 + 0) / 2)


@pytest.mark.parametrize(
    ("prediction", "reference", "message"),
    [
        ([[0, 1]], [[0], [1]], r"shape \(2, 1\), got \(1, 2\)"),
        ([[0, 3]], [[0, 1]], "prediction holds labels from 0 to 3"),
        ([[0, 1]], [[-1, 1]], "reference holds labels from -1 to 1"),
    ],
)
def test_impossible_pairs_are_refused(prediction, reference, message):
    with pytest.raises(ValueError, match=message):
        MeanIoU(num_labels=3).add_batch(predictions=[torch.tensor(prediction)], references=[torch.tensor(reference)])


def test_unequal_numbers_of_maps_are_refused():
    with pytest.raises(ValueError, match="got 1 and 0"):
        MeanIoU(num_labels=3).add_batch(predictions=[torch.zeros(2, 2)], references=[])
