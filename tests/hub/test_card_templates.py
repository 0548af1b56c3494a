"""Templates of cards: figures in words and tables, and names that the context lacks."""

import pytest
from huggingface_hub import ModelCardData
from jinja2 import UndefinedError

from segmenter_hf import SegmenterImageProcessorPil
from segmenter_hf.evaluation.record import EvaluationProtocol, Figure
from segmenter_hf.hub.card_templates import ENVIRONMENT, render_card
from segmenter_hf.hub.markdown import wrap
from segmenter_hf.hub.model_index import name_figures

from ..evaluation.evaluations import PROCESSOR_SETTINGS


DATASET = {"type": "data", "name": "Data"}
FIGURES = ENVIRONMENT.get_template("figures.md.jinja").module
SENTENCES = ENVIRONMENT.get_template("sentences.md.jinja").module


def words_of(text: str) -> str:
    return " ".join(text.split())


def test_names_that_the_context_lacks_are_errors():
    with pytest.raises(UndefinedError, match="'weights' is undefined"):
        render_card("converted", ModelCardData())


def test_names_tell_figures_apart(single, several):
    first, second = (Figure.from_evaluation(each, DATASET) for each in (single, several))
    assert name_figures([first, second]) == ["mIoU (single scale)", "mIoU (multi-scale + flip)"]
    protocol = single["protocol"] | {"window_stride": {"height": 24, "width": 32}, "dtype": "bfloat16"}
    other = Figure.from_evaluation(single | {"protocol": protocol}, DATASET)
    assert name_figures([first, second, other]) == [
        "mIoU (single scale), window_stride 12 x 16, dtype float32",
        "mIoU (multi-scale + flip)",
        "mIoU (single scale), window_stride 24 x 32, dtype bfloat16",
    ]
    excluding = single["protocol"] | {"exclude_classes": ["sky", "car"]}
    other = Figure.from_evaluation(single | {"protocol": excluding}, DATASET)
    assert name_figures([other, first]) == [
        "mIoU (single scale), exclude_classes sky, car",
        "mIoU (single scale), exclude_classes none",
    ]


def test_words_are_those_of_the_protocol(single, several):
    words = words_of(FIGURES.measurement(Figure.from_evaluation(single, DATASET), "a device"))
    assert words.startswith("Single scale: an image is resized with antialiasing")
    assert "times the size" not in words and "Logits are averaged where windows overlap." in words
    assert "Pixels with label 255 are not counted." in words
    assert "Measured with: float32, image processor of the pil backend, a device, python" in words
    protocol = several["protocol"] | {"exclude_classes": ["never seen"], "do_split_image": False}
    words = words_of(FIGURES.measurement(Figure.from_evaluation(several | {"protocol": protocol}, DATASET)))
    assert words.startswith("Multi-scale: an image is")
    assert "at 0.5, 0.75, 1, 1.25, 1.5, 1.75 times the size, each also flipped" in words
    assert "The mean leaves out `never seen`." in words and "bfloat16" in words
    assert "where windows overlap" not in words


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
        (
            {},
            "resized with antialiasing until the short side has 512 pixels or the long one 2048, and seen",
        ),
        ({"do_resize": False}, "not resized, and seen as a whole"),
        ({"size": {"height": 40, "width": 48}}, "resized with antialiasing to 40 x 48 pixels (height x width), and"),
        (
            {"size": {"shortest_edge": 40}, "antialias": False},
            "without antialiasing until the short side has 40 pixels",
        ),
        (PROCESSOR_SETTINGS, "then cut into windows of 24 x 32 (height x width), 12 apart down and 16 across"),
        ({**PROCESSOR_SETTINGS, "window_stride": {"height": 9, "width": 9}}, ", 9 apart"),
        ({**PROCESSOR_SETTINGS, "crop_size": {"height": 32, "width": 32}}, "of 32 x 32, "),
    ],
)
def test_input_in_words(settings, words):
    protocol = EvaluationProtocol.from_image_processor(SegmenterImageProcessorPil(**settings))
    assert words in words_of(SENTENCES.input(protocol))
