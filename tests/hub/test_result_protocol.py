"""Protocols as data: those of image processors and of evaluations, which survive their file, and in words."""

import json

import pytest

from segmenter_hf import SegmenterImageProcessorPil
from segmenter_hf.conversion.released import RELEASED
from segmenter_hf.evaluation.record import MULTI_SCALES, EvaluationProtocol
from segmenter_hf.hub.figures import published_figures
from segmenter_hf.hub.results_text import describe_input

from .evaluations import PROCESSOR_SETTINGS


def test_protocol_is_that_of_the_image_processor(single, several):
    protocol = EvaluationProtocol.from_settings(single["protocol"])
    assert protocol.window_size == (24, 32) and protocol.window_stride == (12, 16)
    assert (protocol.shortest_edge, protocol.longest_edge) == (32, 128)
    assert protocol.scales == (1.0,) and not protocol.flip and not protocol.is_multi_scale
    assert (protocol.antialias, protocol.backend, protocol.dtype) == (True, "pil", "float32")
    own = EvaluationProtocol.from_image_processor(SegmenterImageProcessorPil(**PROCESSOR_SETTINGS))
    assert describe_input(own) == describe_input(protocol)

    protocol = EvaluationProtocol.from_settings(several["protocol"])
    assert protocol.is_multi_scale and protocol.dtype == "bfloat16"
    assert protocol.scales == MULTI_SCALES


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
    protocol = EvaluationProtocol.from_image_processor(SegmenterImageProcessorPil(**settings))
    assert {name: getattr(protocol, name) for name in expected} == expected
    assert words in describe_input(protocol)
    assert EvaluationProtocol.from_dict(json.loads(json.dumps(protocol.to_dict()))) == protocol


def test_published_protocols_say_no_more_than_they_did():
    for row in RELEASED.values():
        for result in published_figures(row):
            names = ["window_size", "window_stride", "shortest_edge", "longest_edge", "scales", "flip"]
            assert list(result.to_dict()["protocol"]) == names
