"""Figures of evaluations as data: any protocol survives its file, and only what belongs to a checkpoint is taken."""

import copy
import json
import re

import pytest

from segmenter_hf.conversion.released import find_released
from segmenter_hf.hub.figures import (
    MEASURED,
    Figure,
    check_classes,
    measured_figure,
    published_figures,
    replace_measured,
)

from .evaluations import evaluate_released


DATASET = {"type": "data", "name": "Data"}
ROW = find_released("cityscapes/seg_large_mask")


@pytest.fixture(scope="module")
def released_evaluation():
    return evaluate_released(ROW)


def test_figure_is_that_of_the_evaluation(single):
    result = Figure.from_evaluation(single, DATASET)
    assert result.kind == MEASURED and not result.multi_scale and result.num_images == 2
    assert result.value_percent == pytest.approx(100 * single["mean_iou"], abs=1e-4)
    assert result.fingerprint == single["dataset"]["fingerprint"]
    assert result.versions == single["versions"]
    for name, iou in single["per_category_iou"].items():
        assert result.per_category_iou_percent[name] == (None if iou is None else pytest.approx(100 * iou, abs=1e-4))


def test_measured_figures_survive_their_file(single, several):
    for results in (single, several):
        result = Figure.from_evaluation(results, DATASET)
        assert Figure.from_dict(json.loads(json.dumps(result.to_dict(), allow_nan=False))) == result


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("mean_iou", None, "`value_percent` must be a float from 0 to 100, got None"),
        ("mean_iou", float("nan"), "`value_percent` must be a float from 0 to 100, got nan"),
        ("mean_iou", 38.1, "`value_percent` must be a float from 0 to 100, got 3810.0"),
        ("mean_iou", "0.5", "got '0.5'"),
        ("per_category_iou.sky", 1.5, "`per_category_iou_percent of sky` must be"),
        ("per_category_iou", [0.5], "`per_category_iou` of the results is [0.5]"),
        ("protocol", None, "`protocol` of the results is None"),
        ("protocol.flip", "no", "`flip` of the results is 'no'"),
        ("protocol.scales", "1.0", "`scales` of the results is '1.0'"),
        ("protocol.window", {"height": 24}, "`window` of the results must have `height` and `width`"),
        ("protocol.window_stride", 0, "`window_stride` of the results must be pixels, got 0"),
        ("protocol.window_stride", True, "`window_stride` of the results is True"),
        ("protocol.multi_scale", True, "`multi_scale` is True, which does not fit"),
        ("dataset.split", None, "`split` of the results is None"),
        ("num_images", "2", "`num_images` of the results is '2'"),
    ],
)
def test_evaluations_that_cannot_be_are_refused(path, value, message, single):
    results = copy.deepcopy(single)
    *parents, name = path.split(".")
    place = results
    for parent in parents:
        place = place[parent]
    place[name] = value
    with pytest.raises(ValueError, match=re.escape(message)):
        Figure.from_evaluation(results, DATASET)


def test_what_is_missing_is_named(single):
    with pytest.raises(ValueError, match="The results have no `protocol`. scripts/evaluate_semantic_segmentation.py"):
        Figure.from_evaluation({name: value for name, value in single.items() if name != "protocol"}, DATASET)


def test_command_loses_what_tells_of_the_machine(single):
    results = single | {"command": "python /home/jane/eval.py --dataset_name /data/cam --token secret"}
    assert Figure.from_evaluation(results, DATASET).command == "python eval.py --dataset_name cam"


# Of released checkpoints


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
