"""Figures of released checkpoints: those of the table, and of evaluations only those that belong to it."""

import copy
import json
import re
from dataclasses import replace

import pytest

from segmenter_hf.conversion.released import RELEASED, find_released
from segmenter_hf.evaluation.record import MEASURED
from segmenter_hf.hub.figures import (
    check_classes,
    figures_file,
    format_figures,
    measured_figure,
    published_figures,
    read_figures,
    replace_measured,
    update_figures,
)

from .evaluations import evaluate_released


ROW = find_released("cityscapes/seg_large_mask")


@pytest.fixture(scope="module")
def released_evaluation():
    return evaluate_released(ROW)


@pytest.mark.parametrize("row", RELEASED.values(), ids=lambda row: row.repo_name)
def test_published_figures_survive_their_file(row, tmp_path):
    figures = published_figures(row)
    figures_file(tmp_path, row).write_text(format_figures(row, figures), encoding="utf-8")
    assert read_figures(tmp_path, row) == figures == update_figures(row, figures)
    for figure in figures:
        names = ["window_size", "window_stride", "shortest_edge", "longest_edge", "scales", "flip"]
        assert list(figure.to_dict()["protocol"]) == names


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"value_percent": float("nan")}, "`value_percent` must be a float from 0 to 100, got nan"),
        ({"value_percent": "38.1"}, "got '38.1'"),
        ({"value_percent": 101.0}, "got 101.0"),
        ({"metric": "accuracy"}, "`metric` must be 'mean_iou', got 'accuracy'"),
        ({"kind": "guessed"}, "`kind` must be 'published' or 'measured', got 'guessed'"),
        ({"multi_scale": True}, "`multi_scale` is True, which does not fit"),
        ({"dataset": {"name": "ADE20K"}}, "`dataset` must have `type` and `name`"),
        ({"source": None}, "A published figure must have `name` and `url` of its `source`, got None"),
        ({"source": {"name": "paper"}}, "A published figure must have `name` and `url` of its `source`"),
        ({"kind": MEASURED}, "A measured figure must have no `source`"),
        ({"num_images": 2000}, "A published figure must have no `num_images`, got 2000"),
        ({"kind": MEASURED, "source": None}, "A measured figure must have `num_images`, got None"),
        ({"hardware": "CPU"}, "A result has no field 'hardware'; its fields are metric"),
        ({"protocol": {"window": 512}}, "A protocol has no field 'window'"),
        ({"protocol": {"window_size": 512}}, "A protocol lacks fields"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value[:40],
)
def test_figures_that_cannot_be_are_refused(changes, message, tmp_path):
    row = find_released("ade20k/seg_tiny_mask")
    contents = json.loads(format_figures(row, published_figures(row)))
    contents["results"][0].update(copy.deepcopy(changes))
    figures_file(tmp_path, row).write_text(json.dumps(contents), encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        read_figures(tmp_path, row)
    assert str(figures_file(tmp_path, row)) in str(error.value)


def test_files_of_figures_are_checked(tmp_path):
    row = find_released("ade20k/seg_tiny_mask")
    first = published_figures(row)[0]
    file = figures_file(tmp_path, row)
    assert read_figures(tmp_path, row) == []
    file.write_text(format_figures(find_released("ade20k/seg_small_mask"), []))
    with pytest.raises(ValueError, match="`model` is 'segmenter-vit-small"):
        read_figures(tmp_path, row)
    file.write_text(format_figures(row, [first, replace(first, value_percent=38.0)]))
    with pytest.raises(ValueError, match="Two results have the same source and protocol"):
        read_figures(tmp_path, row)
    file.write_text("{}")
    with pytest.raises(ValueError, match="does not hold the results"):
        read_figures(tmp_path, row)


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
