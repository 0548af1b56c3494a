"""Names of figures that stand together."""

from segmenter_hf.evaluation.record import Figure
from segmenter_hf.hub.model_index import name_figures


DATASET = {"type": "data", "name": "Data"}


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
