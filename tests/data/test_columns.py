"""Detecting the columns of images and label maps."""

import pytest
from datasets import Array2D, Array3D, ClassLabel, Features, Image, List, Value

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
        ("photo", "seg"),
        # WebDataset calls columns by suffixes of files.
        ("jpg", "png"),
        ("jpg", "mask.png"),
        ("rgb.png", "label.png"),
        # One name says nothing, and the other does.
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


def test_columns_with_other_images_beside():
    features = Features({name: Image() for name in ("image", "label", "instance_mask", "depth")})
    assert find_columns(features) == ("image", "label")


def test_encoded_bytes_are_images():
    encoded = {"bytes": Value("binary"), "path": Value("string")}
    for mask in (
        Value("binary"),
        Value("large_binary"),
        {"bytes": Value("binary")},
        {**encoded, "path": Value("null")},
    ):
        assert find_columns(Features({"image": encoded, "mask": mask})) == ("image", "mask")


ROWS = List(List(Value("int64")))


@pytest.mark.parametrize("array", [ROWS, List(List(Value("bool"))), Array2D((None, 60), "uint8")])
def test_label_maps_that_are_arrays(array):
    features = Features({"image": Image(), "label": array, "boxes": ROWS})
    assert find_columns(features) == ("image", "label")
    assert find_columns(features, annotation_column="boxes") == ("image", "boxes")
    # A name of something else does not tell, and what is stored as images comes first.
    with pytest.raises(ValueError, match="no column of label maps"):
        find_columns(Features({"image": Image(), "boxes": array}))
    assert find_columns(Features({"image": Image(), "labels": array, "mask": Image()})) == ("image", "mask")
    assert find_columns(Features({"image": Image(), "labels": array, "depth": Image()})) == ("image", "labels")


@pytest.mark.parametrize(
    "other", [List(Value("int64")), List(List(Value("float32"))), List(ROWS), Array3D((40, 60, 3), "uint8")]
)
def test_arrays_that_are_no_label_maps(other):
    with pytest.raises(ValueError, match="no column of label maps"):
        find_columns(Features({"image": Image(), "label": other}))
    with pytest.raises(ValueError, match="expected images"):
        find_columns(Features({"image": Image(), "label": other}), annotation_column="label")


def test_names_of_files_are_no_images():
    """The error says what to do: `datasets` reads those in metadata as images."""
    features = Features({"image": Value("string"), "mask": Value("large_string"), "caption": Value("string")})
    remedy = "image and mask should be names of files, .*metadata.csv .*, in image_file_name and mask_file_name"
    with pytest.raises(ValueError, match=f"no column of images.*{remedy}"):
        find_columns(features)
    with pytest.raises(ValueError, match="mask should be names of files"):
        find_columns(Features({**features, "image": Image()}), annotation_column="mask")


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
