"""Detecting the columns of images and label maps."""

import pytest
from datasets import ClassLabel, Features, Image, Value

from segmenter_hf.data.columns import find_columns


OTHERS = {"id": Value("int64"), "scene_category": ClassLabel(names=["indoor"]), "caption": Value("string")}


@pytest.mark.parametrize(
    ("image", "annotation"),
    [
        ("image", "annotation"),
        ("pixel_values", "label"),
        ("img", "labels"),
        ("Image", "segmentation_mask"),
        ("image", "semantic_seg"),
        ("left_image", "Semantic-Mask"),
        # One name that says nothing, beside one that does.
        ("foto", "mask"),
        ("image", "etiquetas"),
    ],
)
def test_detection(image, annotation):
    for order in ((image, annotation), (annotation, image)):
        features = Features({**OTHERS, **{name: Image() for name in order}})
        assert find_columns(features) == (image, annotation)
        assert find_columns(features, image_column=image) == (image, annotation)
        assert find_columns(features, annotation_column=annotation) == (image, annotation)


def test_names_of_other_types_are_no_candidates():
    features = Features({"image": Image(), "label": ClassLabel(names=["cat"]), "mask": Image()})
    assert find_columns(features) == ("image", "mask")


def test_encoded_bytes_are_images():
    encoded = {"bytes": Value("binary"), "path": Value("string")}
    assert find_columns(Features({"image": encoded, "mask": Value("binary")})) == ("image", "mask")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("image", "mask", "label"), r"could hold the label maps: \['mask', 'label'\].*--annotation_column_name"),
        (("image", "img", "mask"), r"could hold the images: \['image', 'img'\].*--image_column_name"),
        (("image", "depth", "normals"), r"label maps: \['depth', 'normals'\].*--annotation_column_name"),
        (("one", "two"), r"could hold the images: \['one', 'two'\].*--image_column_name"),
        (("image",), r"no column of label maps.*\['image'\].*images/ and annotations/"),
        (("mask",), r"no column of images"),
        ((), r"no column of images"),
    ],
)
def test_what_is_ambiguous_or_missing_is_refused(names, message):
    with pytest.raises(ValueError, match=message):
        find_columns(Features({**OTHERS, **{name: Image() for name in names}}), source="user/name")


def test_given_columns_settle_what_is_ambiguous():
    features = Features({name: Image() for name in ("image", "mask", "label", "depth")})
    assert find_columns(features, annotation_column="depth") == ("image", "depth")
    assert find_columns(features, "depth", "label") == ("depth", "label")


def test_wrong_columns_are_refused():
    features = Features({"image": Image(), "mask": Image(), **OTHERS})
    with pytest.raises(ValueError, match=r"columns \['image', 'mask'.*expected masks too.*--annotation_column_name"):
        find_columns(features, annotation_column="masks")
    with pytest.raises(ValueError, match=r"caption .* expected images. Those that do: \['image', 'mask'\]"):
        find_columns(features, image_column="caption")
    with pytest.raises(ValueError, match="cannot hold both"):
        find_columns(features, "image", "image")
