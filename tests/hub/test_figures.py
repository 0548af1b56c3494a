"""Figures of released checkpoints: those of the table, and of evaluations only those that belong to it."""

import re

import pytest

from segmenter_hf.conversion.released import RELEASED, find_released
from segmenter_hf.hub.figures import check_classes, measured_figure, published_figures, replace_measured

from .evaluations import evaluate_released


ROW = find_released("cityscapes/seg_large_mask")


@pytest.fixture(scope="module")
def released_evaluation():
    return evaluate_released(ROW)


def test_published_protocols_say_no_more_than_they_did():
    for row in RELEASED.values():
        for result in published_figures(row):
            names = ["window_size", "window_stride", "shortest_edge", "longest_edge", "scales", "flip"]
            assert list(result.to_dict()["protocol"]) == names


def test_figure_of_a_released_checkpoint(released_evaluation):
    result = measured_figure(ROW, released_evaluation)
    assert result.dataset == {"type": "cityscapes", "name": "Cityscapes"} and result.num_images == 500
    published, _ = published_figures(ROW)
    for name in ("window_size", "window_stride", "shortest_edge", "longest_edge", "scales", "flip"):
        assert getattr(result.protocol, name) == getattr(published.protocol, name)
    in_short = released_evaluation | {"dataset": released_evaluation["dataset"] | {"split": "val"}}
    assert measured_figure(ROW, in_short).split == "validation"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_images": 499}, "of 499 images, expected the 500 of Cityscapes's validation split"),
        ({"dataset": {"name": "data", "split": "test"}}, "of the split test, expected validation"),
        ({"per_category_iou": {"sky": 0.5, "roof": 0.5}}, "of 2 classes, which are not the 19 of "
         "cityscapes/seg_large_mask, a model of Cityscapes (without figure: road, sidewalk, building, wall, fence, "
         "...; unknown: roof)"),
    ],
)  # fmt: skip
def test_figures_of_something_else_are_refused(changes, message, released_evaluation):
    with pytest.raises(ValueError, match=re.escape(message)):
        measured_figure(ROW, released_evaluation | changes)


def test_means_of_some_classes_are_refused(released_evaluation):
    protocol = released_evaluation["protocol"] | {"exclude_classes": ["road"]}
    with pytest.raises(ValueError, match="leave out road, expected the mean of all classes"):
        measured_figure(ROW, released_evaluation | {"protocol": protocol})


def test_encoders_have_no_figures(released_evaluation):
    with pytest.raises(ValueError, match="is an encoder"):
        measured_figure(find_released("vit_tiny_patch16_384"), released_evaluation)


def test_same_protocol_is_replaced_and_others_are_kept(released_evaluation):
    first = measured_figure(ROW, released_evaluation)
    several = measured_figure(ROW, evaluate_released(ROW, multi_scale=True))
    better = measured_figure(ROW, released_evaluation | {"mean_iou": 0.75})
    published = published_figures(ROW)
    results = replace_measured(replace_measured(published, several), first)
    assert results == [*published, first, several]
    assert replace_measured(results, better) == [*published, better, several]


def test_labels_are_named_by_what_is_wrong():
    check_classes(["a", "b"], ["b", "a"], "it")
    with pytest.raises(ValueError, match=re.escape("(unknown: c)")):
        check_classes(["a", "b", "c"], ["a", "b"], "it")
    with pytest.raises(ValueError, match=re.escape("of 0 classes, which are not the 1 of it (without figure: a)")):
        check_classes([], ["a"], "it")
