"""Templates of cards: figures in words and tables, and names that the context lacks."""

import pytest
from huggingface_hub import ModelCardData
from jinja2 import UndefinedError

from segmenter_hf import SegmenterImageProcessorPil
from segmenter_hf.evaluation.record import EvaluationProtocol, Figure
from segmenter_hf.hub.card_templates import ENVIRONMENT, render_card
from segmenter_hf.hub.markdown import wrap

from ..evaluation.evaluations import PROCESSOR_SETTINGS


DATASET = {"type": "data", "name": "Data"}
FIGURES = ENVIRONMENT.get_template("figures.md.jinja").module
SENTENCES = ENVIRONMENT.get_template("sentences.md.jinja").module


def words_of(text: str) -> str:
    return " ".join(text.split())


def test_names_that_the_context_lacks_are_errors():
    with pytest.raises(UndefinedError, match="'weights' is undefined"):
        render_card("converted", ModelCardData())


def test_words_are_those_of_the_protocol(single):
    protocol = single["protocol"] | {"exclude_classes": ["never seen"], "do_split_image": False}
    figure = Figure.from_evaluation(single | {"protocol": protocol}, DATASET)
    words = words_of(FIGURES.measurement(figure, device="a device"))
    assert "The mean leaves out `never seen`." in words and "pil backend, a device, python" in words
    assert "where windows overlap" not in words and "times the size" not in words


def test_table_of_classes(single):
    results = single | {"per_category_iou": {"sky|cloud": 0.98765, "__car__": None}}
    lines = wrap(FIGURES.class_table([Figure.from_evaluation(results, DATASET)])).splitlines()
    assert lines == [
        "| class | IoU, percent (single scale) |",
        "| --- | --- |",
        r"| sky\|cloud | 98.77 |",
        r"| \_\_car\_\_ | - |",
    ]
    many = single | {"per_category_iou": {f"class {index}": 0.5 for index in range(150)}}
    folded = wrap(FIGURES.class_table([Figure.from_evaluation(many, DATASET)]))
    assert folded.startswith("<details>\n<summary>Each of the 150 classes</summary>\n\n| class |")
    assert folded.endswith("| class 149 | 50.0 |\n\n</details>\n")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "resized with antialiasing until the short side has 512 pixels or the long one 2048, and seen"),
        ({"do_resize": False}, "not resized, and seen as a whole"),
        ({"size": {"height": 40, "width": 48}}, "with antialiasing to 40 x 48 pixels (height x width), and"),
        ({"size": {"shortest_edge": 40}, "antialias": False}, "without antialiasing until the short side has 40"),
        (PROCESSOR_SETTINGS, "then cut into windows of 24 x 32 (height x width), 12 apart down and 16 across"),
        ({**PROCESSOR_SETTINGS, "window_stride": {"height": 9, "width": 9}}, ", 9 apart"),
        ({**PROCESSOR_SETTINGS, "crop_size": {"height": 32, "width": 32}}, "of 32 x 32, "),
    ],
)
def test_input_in_words(settings, words):
    protocol = EvaluationProtocol.from_image_processor(SegmenterImageProcessorPil(**settings))
    assert words in words_of(SENTENCES.input(protocol))
