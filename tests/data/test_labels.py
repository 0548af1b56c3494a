"""Label names and palettes."""

import json
import runpy
import shutil
from pathlib import Path

import pytest

from segmenter_hf.data import labels
from segmenter_hf.data.labels import LABEL_SETS, find_label_set, load_label_set
from tests.common import run_python


@pytest.mark.parametrize(
    ("name", "number", "first", "last"),
    [
        ("ade20k", 150, ("wall", (120, 120, 120)), ("flag", (92, 0, 255))),
        ("camvid", 11, ("sky", (128, 128, 128)), ("bicyclist", (0, 128, 192))),
        ("cityscapes", 19, ("road", (128, 64, 128)), ("bicycle", (119, 11, 32))),
        ("pascal_context_59", 59, ("aeroplane", (180, 120, 120)), ("wood", (31, 0, 255))),
        ("pascal_context_60", 60, ("background", (120, 120, 120)), ("wood", (31, 0, 255))),
    ],
)
def test_label_set(name, number, first, last):
    label_set = load_label_set(name)
    assert label_set.name == name
    assert len(label_set) == len(label_set.names) == len(label_set.palette) == number
    assert (label_set.names[0], label_set.palette[0]) == first
    assert (label_set.names[-1], label_set.palette[-1]) == last
    assert label_set.id2label == {index: label_set.names[index] for index in range(number)}
    assert len(set(label_set.names)) == number
    assert all(len(colour) == 3 and all(0 <= value <= 255 for value in colour) for colour in label_set.palette)


def test_pascal_context_with_background_has_one_label_more():
    assert load_label_set("pascal_context_60").names[1:] == load_label_set("pascal_context_59").names


@pytest.mark.parametrize("name", ["coco", "../labels", "ade20k.json", None])
def test_unknown_label_set_is_refused_naming_the_known_ones(name):
    with pytest.raises(ValueError, match="ade20k, camvid, cityscapes, pascal_context_59, pascal_context_60") as error:
        load_label_set(name)
    assert repr(name) in str(error.value)


def test_each_file_is_a_label_set_that_is_known_by_its_names(tmp_path):
    for name in LABEL_SETS:
        assert find_label_set(load_label_set(name).id2label) == load_label_set(name)
    assert find_label_set({"0": "road", "1": "sky"}) is None

    # The same with another file beside those that ship: nothing else has to be told of it.
    code = Path(labels.__file__)
    shutil.copy(code, tmp_path)
    shutil.copytree(labels.LABEL_SETS_FOLDER, tmp_path / "label_sets")
    stored = {"id2label": {"0": "road", "1": "sky"}, "palette": [[0, 0, 0], [9, 9, 255]], "zero_is_unlabelled": True}
    (tmp_path / "label_sets" / "roads.json").write_text(json.dumps(stored))
    module = runpy.run_path(str(tmp_path / code.name))
    assert module["LABEL_SETS"] == tuple(sorted((*LABEL_SETS, "roads")))
    roads = module["find_label_set"]({"0": "road", "1": "sky"})
    assert (roads.name, roads.palette, roads.zero_is_unlabelled) == ("roads", ((0, 0, 0), (9, 9, 255)), True)


def test_label_sets_whose_maps_have_0_for_none_of_the_classes():
    assert {name for name in LABEL_SETS if load_label_set(name).zero_is_unlabelled} == {"ade20k", "pascal_context_59"}


def test_labels_load_neither_datasets_nor_evaluate(tmp_path):
    code = "import sys, segmenter_hf.data.labels; assert not {'datasets', 'evaluate'} & sys.modules.keys()"
    run_python(code, cwd=tmp_path)
