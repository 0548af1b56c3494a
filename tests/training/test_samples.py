"""Samples and their order."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from torch.utils.data import BatchSampler, DataLoader

from segmenter_hf import SegmenterImageProcessor
from segmenter_hf.data.augmentation import SegmentationAugmentation
from segmenter_hf.training.samples import Draw, EpochSampler, TrainingDataset

from ..data.datasets_on_disk import make_image, make_label_map


@pytest.fixture
def dataset():
    examples = [{"image": make_image(seed=index), "annotation": make_label_map()} for index in range(7)]
    image_processor = SegmenterImageProcessor(
        do_split_image=True,
        size={"shortest_edge": 40, "longest_edge": 160},
        crop_size={"height": 32, "width": 32},
        window_stride=16,
    )
    return TrainingDataset(examples, SegmentationAugmentation(image_processor), seed=5)


def collect(dataset, epochs=2, **settings):
    """All `pixel_values` and the epochs and indices that were drawn, of a loader that lives through the epochs."""
    sampler = EpochSampler(len(dataset), seed=5)
    loader = DataLoader(dataset, batch_size=2, sampler=sampler, **settings)
    batches = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        batches += [batch["pixel_values"] for batch in loader]
    return torch.cat(batches)


def test_workers_change_nothing(dataset):
    torch.manual_seed(1)
    expected = collect(dataset)
    torch.manual_seed(2)
    assert torch.equal(collect(dataset, num_workers=2, persistent_workers=True), expected)
    assert torch.equal(collect(dataset, num_workers=1), expected)


def test_each_epoch_has_all_examples_in_another_order_and_form(dataset):
    sampler = EpochSampler(7, seed=5)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert {draw.index for draw in first} == {draw.index for draw in second} == set(range(7))
    assert [draw.index for draw in first] != [draw.index for draw in second]
    assert {draw.epoch for draw in second} == {1}
    assert [draw.index for draw in EpochSampler(7, seed=6)] != [draw.index for draw in first]
    assert not torch.equal(dataset[Draw(0, 3)]["pixel_values"], dataset[Draw(1, 3)]["pixel_values"])


def test_samples_do_not_depend_on_what_was_drawn_before(dataset):
    expected = dataset[Draw(1, 3)]
    torch.rand(17)
    dataset[Draw(0, 0)]
    for name, value in dataset[Draw(1, 3)].items():
        assert torch.equal(value, expected[name])
    assert torch.equal(dataset[3]["pixel_values"], dataset[Draw(0, 3)]["pixel_values"])


def test_making_samples_leaves_the_random_numbers_of_the_model_alone(dataset):
    torch.manual_seed(0)
    expected = torch.rand(5)
    torch.manual_seed(0)
    dataset[Draw(0, 1)]
    assert torch.equal(torch.rand(5), expected)


def test_the_sampler_survives_accelerate(dataset):
    """Sharding takes whole batches in turn, so that all processes together have those of one with larger batches."""
    sampler = EpochSampler(8, seed=5)
    batches = list(BatchSampler(sampler, 2, drop_last=False))
    loader = Accelerator(cpu=True).prepare(DataLoader(dataset, batch_size=2, sampler=sampler))
    assert list(loader.batch_sampler) == batches
    loader.set_epoch(3)
    assert {draw.epoch for batch in loader.batch_sampler for draw in batch} == {3}


def test_errors_name_the_example(dataset):
    dataset.examples[4]["annotation"] = Image.fromarray(np.zeros((3, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"Training example 4 cannot be used: .*\(40, 60\), got \(3, 3\)"):
        dataset[Draw(0, 4)]
