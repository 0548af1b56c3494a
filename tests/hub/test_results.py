"""Figures of evaluations as data: any protocol survives its file, and only what belongs to a checkpoint is taken."""

import copy
import json
import re

import pytest
import torch

from segmenter_hf import SegmenterImageProcessorPil
from segmenter_hf.conversion.released import RELEASED, find_released
from segmenter_hf.evaluation.protocol import MULTI_SCALES
from segmenter_hf.hub.results import (
    MEASURED,
    Result,
    ResultProtocol,
    check_labels,
    measured_result,
    published_results,
    replace_measured,
)
from segmenter_hf.hub.results_text import describe_input, describe_protocol, name_results, write_classes

from .evaluations import PROCESSOR_SETTINGS, evaluate, evaluate_released, make_tiny_model


DATASET = {"type": "data", "name": "Data"}
ROW = find_released("cityscapes/seg_large_mask")


@pytest.fixture(scope="module")
def model():
    return make_tiny_model(["sky", "road", "car", "never seen"])


@pytest.fixture(scope="module")
def evaluation(model):
    return evaluate(model)


@pytest.fixture(scope="module")
def multi_scale(model):
    return evaluate(model, multi_scale=True, autocast_dtype=torch.bfloat16)


@pytest.fixture(scope="module")
def released_evaluation():
    return evaluate_released(ROW)


def test_figure_is_that_of_the_evaluation(evaluation):
    result = Result.from_evaluation(evaluation, DATASET)
    assert result.kind == MEASURED and not result.multi_scale and result.num_images == 2
    assert result.value_percent == pytest.approx(100 * evaluation["mean_iou"], abs=1e-4)
    assert result.fingerprint == evaluation["dataset"]["fingerprint"]
    assert result.versions == evaluation["versions"]
    for name, iou in evaluation["per_category_iou"].items():
        assert result.per_category_iou_percent[name] == (None if iou is None else pytest.approx(100 * iou, abs=1e-4))


def test_protocol_is_that_of_the_image_processor(evaluation, multi_scale):
    protocol = Result.from_evaluation(evaluation, DATASET).protocol
    assert protocol.window_size == (24, 32) and protocol.window_stride == (12, 16)
    assert (protocol.shortest_edge, protocol.longest_edge) == (32, 128)
    assert protocol.scales == (1.0,) and not protocol.flip and not protocol.is_multi_scale
    assert (protocol.antialias, protocol.backend, protocol.dtype) == (True, "pil", "float32")
    own = ResultProtocol.from_image_processor(SegmenterImageProcessorPil(**PROCESSOR_SETTINGS))
    assert describe_input(own) == describe_input(protocol)

    result = Result.from_evaluation(multi_scale, DATASET)
    assert result.multi_scale and result.protocol.scales == MULTI_SCALES and result.protocol.dtype == "bfloat16"


@pytest.mark.parametrize(
    ("settings", "expected", "words"),
    [
        ({}, {"window_size": None, "window_stride": None, "shortest_edge": 512}, "resized with antialiasing until the "
         "short side has 512 pixels or the long one 2048, and seen as a whole"),
        ({"do_resize": False}, {"shortest_edge": None, "longest_edge": None}, "not resized, and seen as a whole"),
        ({"size": {"height": 40, "width": 48}}, {"image_size": (40, 48), "shortest_edge": None}, "resized with "
         "antialiasing to 40 x 48 pixels (height x width), and seen as a whole"),
        ({"size": {"shortest_edge": 40}, "antialias": False}, {"shortest_edge": 40, "longest_edge": None}, "resized "
         "without antialiasing until the short side has 40 pixels, and seen as a whole"),
        ({**PROCESSOR_SETTINGS}, {"window_size": (24, 32), "window_stride": (12, 16)}, "then cut into windows of "
         "24 x 32 (height x width), 12 apart down and 16 across"),
        ({**PROCESSOR_SETTINGS, "window_stride": {"height": 9, "width": 9}}, {"window_stride": 9}, ", 9 apart"),
        ({**PROCESSOR_SETTINGS, "crop_size": {"height": 32, "width": 32}}, {"window_size": 32}, "of 32 x 32, "),
    ],
)  # fmt: skip
def test_protocols_of_all_kinds(settings, expected, words):
    protocol = ResultProtocol.from_image_processor(SegmenterImageProcessorPil(**settings))
    assert {name: getattr(protocol, name) for name in expected} == expected
    assert words in describe_input(protocol)
    assert ResultProtocol.from_dict(json.loads(json.dumps(protocol.to_dict()))) == protocol


def test_measured_figures_survive_their_file(evaluation, multi_scale):
    for results in (evaluation, multi_scale):
        result = Result.from_evaluation(results, DATASET)
        assert Result.from_dict(json.loads(json.dumps(result.to_dict(), allow_nan=False))) == result


def test_published_protocols_say_no_more_than_they_did():
    for row in RELEASED.values():
        for result in published_results(row):
            names = ["window_size", "window_stride", "shortest_edge", "longest_edge", "scales", "flip"]
            assert list(result.to_dict()["protocol"]) == names


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
def test_evaluations_that_cannot_be_are_refused(path, value, message, evaluation):
    results = copy.deepcopy(evaluation)
    *parents, name = path.split(".")
    place = results
    for parent in parents:
        place = place[parent]
    place[name] = value
    with pytest.raises(ValueError, match=re.escape(message)):
        Result.from_evaluation(results, DATASET)


def test_what_is_missing_is_named(evaluation):
    with pytest.raises(ValueError, match="The results have no `protocol`. scripts/evaluate_semantic_segmentation.py"):
        Result.from_evaluation({name: value for name, value in evaluation.items() if name != "protocol"}, DATASET)


def test_command_loses_what_tells_of_the_machine(evaluation):
    results = evaluation | {"command": "python /home/jane/eval.py --dataset_name /data/cam --token secret"}
    assert Result.from_evaluation(results, DATASET).command == "python eval.py --dataset_name cam"


# Of released checkpoints


def test_figure_of_a_released_checkpoint(released_evaluation):
    result = measured_result(ROW, released_evaluation)
    assert result.dataset == {"type": "cityscapes", "name": "Cityscapes"} and result.num_images == 500
    published, _ = published_results(ROW)
    for name in ("window_size", "window_stride", "shortest_edge", "longest_edge", "scales", "flip"):
        assert getattr(result.protocol, name) == getattr(published.protocol, name)
    in_short = released_evaluation | {"dataset": released_evaluation["dataset"] | {"split": "val"}}
    assert measured_result(ROW, in_short).split == "validation"


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
        measured_result(ROW, released_evaluation | changes)


def test_means_of_some_classes_are_refused(released_evaluation):
    protocol = released_evaluation["protocol"] | {"exclude_classes": ["road"]}
    with pytest.raises(ValueError, match="leave out road, expected the mean of all classes"):
        measured_result(ROW, released_evaluation | {"protocol": protocol})


def test_encoders_have_no_figures(released_evaluation):
    with pytest.raises(ValueError, match="is an encoder"):
        measured_result(find_released("vit_tiny_patch16_384"), released_evaluation)


def test_same_protocol_is_replaced_and_others_are_kept(released_evaluation):
    first = measured_result(ROW, released_evaluation)
    several = measured_result(ROW, evaluate_released(ROW, multi_scale=True))
    better = measured_result(ROW, released_evaluation | {"mean_iou": 0.75})
    published = published_results(ROW)
    results = replace_measured(replace_measured(published, several), first)
    assert results == [*published, first, several]
    assert replace_measured(results, better) == [*published, better, several]


def test_labels_are_named_by_what_is_wrong():
    check_labels(["a", "b"], ["b", "a"], "it")
    with pytest.raises(ValueError, match=re.escape("(unknown: c)")):
        check_labels(["a", "b", "c"], ["a", "b"], "it")
    with pytest.raises(ValueError, match=re.escape("of 0 classes, which are not the 1 of it (without figure: a)")):
        check_labels([], ["a"], "it")


# In words


def test_names_tell_figures_apart(evaluation, multi_scale):
    single, several = (Result.from_evaluation(each, DATASET) for each in (evaluation, multi_scale))
    assert name_results([single, several]) == ["mIoU (single scale)", "mIoU (multi-scale + flip)"]
    protocol = evaluation["protocol"] | {"window_stride": {"height": 24, "width": 32}, "dtype": "bfloat16"}
    other = Result.from_evaluation(evaluation | {"protocol": protocol}, DATASET)
    assert name_results([single, several, other]) == [
        "mIoU (single scale), window_stride 12 x 16, dtype float32",
        "mIoU (multi-scale + flip)",
        "mIoU (single scale), window_stride 24 x 32, dtype bfloat16",
    ]
    excluding = evaluation["protocol"] | {"exclude_classes": ["sky", "car"]}
    other = Result.from_evaluation(evaluation | {"protocol": excluding}, DATASET)
    assert name_results([other, single]) == [
        "mIoU (single scale), exclude_classes sky, car",
        "mIoU (single scale), exclude_classes none",
    ]


def test_words_are_those_of_the_protocol(evaluation, multi_scale):
    words = " ".join(describe_protocol(Result.from_evaluation(evaluation, DATASET), "a device", ["Besides."]).split())
    assert words.startswith("Single scale: an image is resized with antialiasing")
    assert "times the size" not in words and "Logits are averaged where windows overlap." in words
    assert "Pixels with label 255 are not counted." in words and words.endswith(" Besides.")
    assert "Measured with: float32, image processor of the pil backend, a device, python" in words
    protocol = multi_scale["protocol"] | {"exclude_classes": ["never seen"], "do_split_image": False}
    words = describe_protocol(Result.from_evaluation(multi_scale | {"protocol": protocol}, DATASET))
    words = " ".join(words.split())
    assert words.startswith("Multi-scale: an image is")
    assert "at 0.5, 0.75, 1, 1.25, 1.5, 1.75 times the size, each also flipped" in words
    assert "The mean leaves out `never seen`." in words and "bfloat16" in words
    assert "where windows overlap" not in words


def test_table_of_classes(evaluation):
    results = evaluation | {"per_category_iou": {"sky|cloud": 0.98765, "__car__": None}}
    lines = write_classes([Result.from_evaluation(results, DATASET)]).splitlines()
    assert lines == [
        "| class | IoU, percent (single scale) |",
        "| --- | --- |",
        r"| sky\|cloud | 98.77 |",
        r"| \_\_car\_\_ | - |",
    ]
    many = evaluation | {"per_category_iou": {f"class {index}": 0.5 for index in range(150)}}
    folded = write_classes([Result.from_evaluation(many, DATASET)])
    assert folded.startswith("<details>\n<summary>Each of the 150 classes</summary>\n\n| class |")
    assert folded.endswith("| class 149 | 50.0 |\n\n</details>")
