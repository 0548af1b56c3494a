"""Folders of image and label-map files."""

import shutil

import numpy as np
import pytest
from PIL import Image

from segmenter_hf.data.pairs import find_pairs, load_pairs
from tests.data.datasets_on_disk import make_image, make_label_map, save, write_ade20k, write_pairs


@pytest.mark.parametrize(
    "layout",
    ["{split}/images {split}/annotations", "images/{split} annotations/{split}", "{split}/img {split}/masks"],
)
@pytest.mark.parametrize("names", [("train", "validation"), ("training", "val")])
def test_layouts_with_splits(tmp_path, layout, names):
    for split, number in zip(names, (3, 2), strict=True):
        write_pairs(tmp_path, *layout.format(split=split).split(), number=number)
    splits = load_pairs(tmp_path)
    assert {name: len(split) for name, split in splits.items()} == {"train": 3, "validation": 2}
    assert list(splits) == ["train", "validation"]
    assert splits["train"][2]["image"].size == splits["train"][2]["annotation"].size == (60, 40)


def test_flat_layout_with_subfolders(tmp_path):
    write_pairs(tmp_path, "images/north", "annotations/north")
    write_pairs(tmp_path, "images/south", "annotations/south")
    pairs = find_pairs(tmp_path)
    assert [image.relative_to(tmp_path).as_posix() for image, _ in pairs["train"]] == [
        *("images/north/0.jpg", "images/north/1.jpg", "images/south/0.jpg", "images/south/1.jpg")
    ]
    assert all(image.parent.name == annotation.parent.name for image, annotation in pairs["train"])


def test_files_are_referred_to_and_not_converted(tmp_path):
    """Indices of palettes and 16-bit labels arrive as they are."""
    write_pairs(tmp_path, "images", "annotations", number=2)
    palette = make_label_map((0, 3, 4))
    palette.putpalette([200, 10, 10, 30, 220, 30] * 128)
    save(palette, tmp_path / "annotations" / "0.png")
    save(make_label_map((0, 1, 700), dtype=np.uint16), tmp_path / "annotations" / "1.png")
    dataset = load_pairs(tmp_path)["train"]
    assert dataset[0]["annotation"].mode == "P"
    assert np.unique(dataset[0]["annotation"]).tolist() == [0, 3, 4]
    assert np.unique(dataset[1]["annotation"]).tolist() == [0, 1, 700]
    assert dataset.data.nbytes < 1000


def test_test_images_without_label_maps_are_left_out(tmp_path):
    write_ade20k(tmp_path)
    save(make_image(), tmp_path / "images" / "test" / "ADE_test_00000001.jpg")
    assert {name: len(pairs) for name, pairs in find_pairs(tmp_path).items()} == {"train": 3, "validation": 2}


def test_other_files_are_left_out(tmp_path):
    write_pairs(tmp_path, "images", "annotations")
    for name in ("images/.hidden.jpg", "images/Thumbs.db", "annotations/notes.txt"):
        (tmp_path / name).write_bytes(b"")
    assert len(load_pairs(tmp_path)["train"]) == 2


def test_files_without_partner_are_named(tmp_path):
    write_pairs(tmp_path, "images", "annotations", number=9)
    for index in range(7):
        (tmp_path / "annotations" / f"{index}.png").unlink()
    with pytest.raises(ValueError, match=r"7 images have no label map .* in .*annotations: .*0\.jpg.* and 2 more"):
        find_pairs(tmp_path)
    for index in (0, 1, 2, 3, 4, 5, 6, 8):
        (tmp_path / "images" / f"{index}.jpg").unlink()
    with pytest.raises(ValueError, match=r"1 label maps have no image .*8\.png"):
        find_pairs(tmp_path)
    shutil.rmtree(tmp_path / "images")
    (tmp_path / "images").mkdir()
    with pytest.raises(ValueError, match=r"images has no image files"):
        find_pairs(tmp_path)


def test_names_that_occur_twice_are_refused(tmp_path):
    write_pairs(tmp_path, "images", "annotations")
    Image.new("RGB", (60, 40)).save(tmp_path / "images" / "0.png")
    with pytest.raises(ValueError, match=r"0\.jpg and .*0\.png have the same name"):
        find_pairs(tmp_path)


def test_several_folders_that_could_be_meant_are_refused(tmp_path):
    write_pairs(tmp_path, "images", "annotations")
    write_pairs(tmp_path, "images", "masks")
    with pytest.raises(ValueError, match=r"label maps \(\['annotations', 'masks'\]\)"):
        find_pairs(tmp_path)
    write_pairs(tmp_path / "other", "train/images", "train/annotations")
    write_pairs(tmp_path / "other", "training/images", "training/annotations")
    with pytest.raises(ValueError, match="two folders of the train split"):
        find_pairs(tmp_path / "other")


def test_other_layouts_are_none(tmp_path):
    (tmp_path / "pictures").mkdir()
    assert find_pairs(tmp_path) is None
