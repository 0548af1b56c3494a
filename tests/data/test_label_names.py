"""Label names: forms of the file, built-in sets, features."""

import json

import pytest
from datasets import ClassLabel, Features, Image, Sequence

from segmenter_hf.data.label_names import find_label_names, label_names_of_features, load_label_names


NAMES = {0: "sky", 1: "road", 2: "car"}


@pytest.mark.parametrize(
    "content",
    [
        {"2": "car", "0": "sky", "1": "road"},
        ["sky", "road", "car"],
        {"sky": 0, "car": 2, "road": 1},
        {"model_type": "segmenter", "id2label": {"0": "sky", "1": "road", "2": "car"}},
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_forms_of_the_file(tmp_path, content, encoding):
    path = tmp_path / "names.json"
    path.write_text(json.dumps(content), encoding=encoding)
    assert list(load_label_names(path).items()) == list(NAMES.items())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "no JSON file"),
        ('{"0": "sky", "2": "car"}', r"0 to n - 1, got \[0, 2\]"),
        ('{"1": "sky", "2": "car"}', r"0 to n - 1, got \[1, 2\]. If 0 means unlabelled, pass --do_reduce_labels"),
        ('{"--1": "sky"}', "must name each label"),
        ('{"-1": "none", "0": "car"}', r"0 to n - 1, got \[-1, 0\]"),
        ('["sky", "car", "sky"]', "several labels the name sky"),
        ('{"sky": 0, "car": 0}', "one label to several names"),
        ("{}", "must name each label"),
        ("[]", "must name each label"),
        ("3", "must name each label"),
        ('["sky", 3]', "must name each label"),
        ('{"sky": "blue"}', "must name each label"),
    ],
)
def test_wrong_files_are_refused(tmp_path, content, message):
    path = tmp_path / "names.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message) as error:
        load_label_names(path)
    assert str(path) in str(error.value)


def test_built_in_sets():
    assert len(load_label_names("ade20k")) == 150
    assert len(load_label_names("pascal_context_59")) == 59
    with pytest.raises(ValueError, match=r"--labels coco is neither a JSON file nor one of ade20k, .*_context_60"):
        load_label_names("coco")


def test_features():
    classes = ClassLabel(names=["sky", "road", "car"])
    scene = {"image": Image(), "scene_category": ClassLabel(names=["indoor", "outdoor"])}
    assert label_names_of_features(Features({**scene, "classes": Sequence(classes)})) == NAMES
    assert label_names_of_features(Features({**scene, "Class-Names": classes})) == NAMES
    # The kind of a scene is no label of pixels.
    assert label_names_of_features(Features(scene)) is None


def test_folders_without_names(tmp_path):
    assert find_label_names(tmp_path) is None


@pytest.mark.parametrize("source", ["/nowhere/data", "./nowhere", "nowhere/some/data", "no where"])
def test_folders_that_are_not_there(source):
    with pytest.raises(ValueError, match=r"is no file or folder, and no name of a dataset on the Hub \(OWNER/NAME\)"):
        find_label_names(source)


def test_hub_without_a_connection():
    with pytest.raises(ValueError, match=r"user/name is no file or folder, and the id2label\.json .*--labels"):
        find_label_names("user/name")
