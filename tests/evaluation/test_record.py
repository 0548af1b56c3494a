"""The record of a figure: any protocol survives its file, and what cannot be is refused by name."""

import copy
import json
import re
from dataclasses import replace

import pytest

from segmenter_hf import SegmenterImageProcessorPil
from segmenter_hf.evaluation.record import MEASURED, MULTI_SCALES, EvaluationProtocol, Figure, Sides

from .evaluations import PROCESSOR_SETTINGS


DATASET = {"type": "data", "name": "Data"}
PROTOCOL = EvaluationProtocol(window_size=512, window_stride=480, shortest_edge=512, longest_edge=2048)


def test_protocol_is_that_of_the_image_processor(single, several):
    protocol = EvaluationProtocol.from_settings(single["protocol"])
    assert protocol.window_size == Sides(height=24, width=32) and protocol.window_stride == Sides(12, 16)
    assert (protocol.shortest_edge, protocol.longest_edge) == (32, 128)
    assert protocol.scales == (1.0,) and not protocol.flip and not protocol.is_multi_scale
    assert (protocol.antialias, protocol.backend, protocol.dtype) == (True, "pil", "float32")
    own = EvaluationProtocol.from_image_processor(SegmenterImageProcessorPil(**PROCESSOR_SETTINGS))
    assert own == replace(protocol, ignore_index=None, backend=None, dtype=None)

    protocol = EvaluationProtocol.from_settings(several["protocol"])
    assert protocol.is_multi_scale and protocol.dtype == "bfloat16"
    assert protocol.scales == MULTI_SCALES


def test_settings_without_effect_make_no_difference(single):
    whole, other = (
        EvaluationProtocol.from_settings(single["protocol"] | {"do_split_image": False, "do_resize": False} | changes)
        for changes in ({}, {"window_stride": 7, "size": {"height": 2, "width": 3}, "window_batch_size": 1})
    )
    assert whole == other and hash(whole) == hash(other) and whole.window_size is whole.shortest_edge is None
    assert whole != EvaluationProtocol.from_settings(single["protocol"])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"window_size": None, "window_stride": None, "shortest_edge": 512, "longest_edge": 2048}),
        ({"do_resize": False}, {"shortest_edge": None, "longest_edge": None}),
        ({"size": {"height": 40, "width": 48}}, {"image_size": Sides(40, 48), "shortest_edge": None}),
        ({"size": {"height": 40, "width": 40}}, {"image_size": Sides(40, 40), "shortest_edge": None}),
        ({"size": {"shortest_edge": 40}, "antialias": False}, {"longest_edge": None, "antialias": False}),
        (PROCESSOR_SETTINGS, {"window_size": Sides(24, 32), "window_stride": Sides(12, 16)}),
        ({**PROCESSOR_SETTINGS, "window_stride": {"height": 9, "width": 9}}, {"window_stride": 9}),
        ({**PROCESSOR_SETTINGS, "crop_size": {"height": 32, "width": 32}}, {"window_size": 32}),
    ],
)
def test_protocols_of_all_kinds(settings, expected):
    image_processor = SegmenterImageProcessorPil(**settings)
    protocol = EvaluationProtocol.from_image_processor(image_processor)
    assert {name: getattr(protocol, name) for name in expected} == expected
    assert EvaluationProtocol.from_dict(json.loads(json.dumps(protocol.to_dict()))) == protocol
    if protocol.window_size is not None:
        changed = SegmenterImageProcessorPil(do_split_image=True, **protocol.image_processor_settings)
        assert EvaluationProtocol.from_image_processor(changed) == protocol


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window_size": {"height": 24}}, "`window_size` of the results must have `height` and `width`"),
        ({"window_size": {"height": 24, "width": 0}}, "`window_size` of the results must be pixels, got Sides(height"),
        ({"window_stride": True}, "`window_stride` of the results is True"),
        ({"shortest_edge": -1}, "`shortest_edge` of the results must be pixels, got -1"),
        ({"longest_edge": 2048.0}, "`longest_edge` of the results is 2048.0"),
        ({"image_size": 512}, "`image_size` of the results is 512"),
        ({"scales": []}, "`scales` of the results must be ratios, got ()"),
        ({"scales": [1.0, 0.0]}, "`scales` of the results must be ratios, got (1.0, 0.0)"),
        ({"scales": 1.0}, "`scales` of the results is 1.0"),
        ({"flip": "no"}, "`flip` of the results is 'no'"),
        ({"ignore_index": "255"}, "`ignore_index` of the results is '255'"),
        ({"window": 512}, "A protocol has no field 'window'; its fields are window_size, window_stride"),
    ],
)
def test_protocols_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        EvaluationProtocol.from_dict(PROTOCOL.to_dict() | changes)


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


def test_scales_of_a_figure_are_never_taken_for_granted(several):
    values = Figure.from_evaluation(several, DATASET).to_dict()
    del values["protocol"]["scales"], values["protocol"]["flip"]
    with pytest.raises(ValueError, match="protocol of a figure lacks `scales` and `flip`"):
        Figure.from_dict(values | {"multi_scale": False})


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
