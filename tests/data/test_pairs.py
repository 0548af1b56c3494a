"""Folders of image and label-map files."""

import os
import shutil
import unicodedata

import numpy as np
import pytest
from PIL import Image

from segmenter_hf.data.pairs import canonical_split, find_pairs, load_pairs
from tests.data.datasets_on_disk import make_image, make_label_map, save, write_ade20k, write_pairs


@pytest.mark.parametrize(
    "layout",
    [
        "{split}/images {split}/annotations",
        "images/{split} annotations/{split}",
        "{split}/img {split}/masks",
        "img_dir/{split} ann_dir/{split}",
        "{split}/Images {split}/Masks",
    ],
)
@pytest.mark.parametrize("names", [("train", "validation"), ("training", "val"), ("Train", "Valid")])
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
    found = [image.relative_to(tmp_path / "images").as_posix() for image, _ in pairs["train"]]
    assert found == ["north/0.jpg", "north/1.jpg", "south/0.jpg", "south/1.jpg"]
    assert all(image.parent.name == annotation.parent.name for image, annotation in pairs["train"])


def write(folder, images, annotations):
    """Files of these names, without suffix, in `images` and `annotations`."""
    for name in images:
        save(make_image(), folder / "images" / f"{name}.jpg")
    for name in annotations:
        save(make_label_map(), folder / "annotations" / f"{name}.png")


def names_of(pairs) -> list[tuple[str, str]]:
    return [(image.name, annotation.name) for image, annotation in pairs["train"]]


@pytest.mark.parametrize(
    ("image", "annotation"),
    [
        ("{}", "{}_mask"),
        ("{}", "{}_L"),
        ("{}_leftImg8bit", "{}_gtFine_labelTrainIds"),
        ("{}_sat", "{}_mask"),
        ("{}_image", "{}_Segmentation"),
        ("{}", "{}.jpg"),
        # Only the last suffix is no part of the name.
        ("{}.v2.final", "{}.v2.final"),
        ("{}_mask", "{}_mask"),
        ("bücher 日本 {}", "bücher 日本 {}"),
    ],
)
def test_names_of_an_image_and_its_label_map(tmp_path, image, annotation):
    stems = ("0001TP_006690", "aachen_000_019")
    write(tmp_path, [image.format(stem) for stem in stems], [annotation.format(stem) for stem in stems])
    assert names_of(find_pairs(tmp_path)) == [
        (f"{image.format(stem)}.jpg", f"{annotation.format(stem)}.png") for stem in stems
    ]


def test_letters_that_are_stored_in_two_ways(tmp_path):
    """An accent is part of the letter, or a sign of its own, as on macOS."""
    write(tmp_path, [unicodedata.normalize("NFC", "bücher")], [unicodedata.normalize("NFD", "bücher")])
    assert len(find_pairs(tmp_path)["train"]) == 1


def test_one_without_partner_where_names_have_endings(tmp_path):
    write(tmp_path, ["a", "b", "c"], ["a_mask", "c_mask"])
    with pytest.raises(ValueError, match=r"1 images have no label map .*: \S*/images/b\.jpg\. Add what is missing"):
        find_pairs(tmp_path)
    write(tmp_path, [], ["b_mask", "b_label"])
    with pytest.raises(
        ValueError, match=r"/annotations/b_label\.png and \S*/annotations/b_mask\.png have the same name"
    ):
        find_pairs(tmp_path)


@pytest.mark.parametrize("suffix", ["bmp", "gif", "TIF", "tiff", "webp", "JPEG", "PNG"])
def test_types_of_files(tmp_path, suffix):
    save(make_image(), tmp_path / "images" / f"0.{suffix}")
    save(make_label_map(), tmp_path / "masks" / f"0.{suffix}")
    assert load_pairs(tmp_path)["train"][0]["annotation"].size == (60, 40)


def test_folder_in_a_folder(tmp_path):
    """Archives are unpacked so. The splits in it are not taken for one."""
    write_ade20k(tmp_path / "ADEChallengeData2016")
    (tmp_path / "__MACOSX").mkdir()
    assert {name: len(pairs) for name, pairs in find_pairs(tmp_path).items()} == {"train": 3, "validation": 2}
    write_pairs(tmp_path / "more", "Kvasir-SEG/images", "Kvasir-SEG/masks")
    assert {name: len(pairs) for name, pairs in find_pairs(tmp_path / "more").items()} == {"train": 2}
    write_pairs(tmp_path / "single", "train/images", "train/masks")
    assert {name: len(pairs) for name, pairs in find_pairs(tmp_path / "single").items()} == {"train": 2}


def test_links(tmp_path):
    write_pairs(tmp_path / "elsewhere", "images", "masks")
    for name in ("images", "masks"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "more").symlink_to(tmp_path / "elsewhere" / name)
    assert len(find_pairs(tmp_path / "data")["train"]) == 2
    # Both are of no use, and are not left out in silence.
    (tmp_path / "data" / "images" / "9.jpg").symlink_to(tmp_path / "gone.jpg")
    (tmp_path / "data" / "masks" / "9.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(ValueError, match=r"1 links lead to files that are not there: \S*/images/9\.jpg"):
        find_pairs(tmp_path / "data")


def test_paths_are_absolute(tmp_path, monkeypatch):
    write_pairs(tmp_path / "data", "images", "masks")
    monkeypatch.chdir(tmp_path)
    splits = load_pairs("data")
    monkeypatch.chdir("/")
    assert splits["train"][0]["image"].size == (60, 40)


def test_paths_that_are_not_utf_8_are_named(tmp_path):
    write_pairs(tmp_path / os.fsdecode(b"\xff"), "images", "masks")
    with pytest.raises(ValueError, match=r"udcff/images/0\.jpg' is not UTF-8, which `datasets` needs\. Rename it"):
        load_pairs(tmp_path / os.fsdecode(b"\xff"))


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
    (tmp_path / "images" / ".ipynb_checkpoints").mkdir()
    others = ("images/.hidden.jpg", "images/Thumbs.db", "annotations/notes.txt")
    for name in (*others, "images/.ipynb_checkpoints/0-checkpoint.jpg"):
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
    with pytest.raises(ValueError, match=r"images has no image files .*Add them, or remove the folder"):
        find_pairs(tmp_path)


def test_folders_without_partner_are_named(tmp_path):
    write_pairs(tmp_path, "images/train", "annotations/train")
    save(make_image(), tmp_path / "images" / "valid" / "0.jpg")
    message = r"no folder \S*annotations/valid to go with \S*images/valid\. Add it, or move the other elsewhere"
    with pytest.raises(ValueError, match=message):
        find_pairs(tmp_path)
    (tmp_path / "images" / "valid").rename(tmp_path / "annotations" / "valid")
    with pytest.raises(ValueError, match=r"no folder \S*images/valid to go with \S*annotations/valid"):
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


ORDERS = ["images/{} annotations/{}", "{}/images {}/annotations"]


def write_folders(folder, order, *names):
    for number, name in enumerate(names, 1):
        write_pairs(folder, *order.format(name, name).split(), number=number)


def sizes_of(splits):
    return {name: len(pairs) for name, pairs in splits.items()}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("names", "unknown", "example"),
    [
        (
            ("train2017", "val2017"),
            "train2017, val2017",
            " (as in --train_split train2017 --validation_split val2017)",
        ),
        (
            ("train_set", "val_set"),
            "train_set, val_set",
            " (as in --train_split train_set --validation_split val_set)",
        ),
        (("trn", "val"), "trn", " (as in --train_split trn)"),
        (("train", "valset"), "valset", " (as in --validation_split valset)"),
        (("train", "val", "extra"), "extra", ""),
        (("MyTrain", "MyTest"), "MyTest, MyTrain", " (as in --train_split MyTrain)"),
        (("berlin", "test-2019"), "berlin, test-2019", ""),
        (("train2017",), "train2017", " (as in --train_split train2017)"),
    ],
)
def test_splits_whose_names_do_not_say_which_are_refused(tmp_path, order, names, unknown, example):
    """They are neither merged into one split nor left out."""
    write_folders(tmp_path, order, *names)
    with pytest.raises(ValueError, match=rf"names that do not say which: {unknown}\. Name .*--train_split") as error:
        find_pairs(tmp_path)
    assert f"--train_split and --validation_split{example}, rename them" in str(error.value)
    assert sizes_of(find_pairs(tmp_path, names)) == {
        canonical_split(name): number for number, name in enumerate(names, 1)
    }
    # Nothing is lost of splits that are not named either.
    assert sum(sizes_of(find_pairs(tmp_path, allow_others=True)).values()) == sum(range(len(names) + 1))


@pytest.mark.parametrize("order", ORDERS)
def test_folders_that_are_no_splits_are_parts_of_one(tmp_path, order, caplog):
    write_folders(tmp_path, order, "berlin", "munich", "day_2")
    assert sizes_of(find_pairs(tmp_path)) == {"train": 6}
    assert "the folders berlin, day_2, munich are taken for parts of one split" in caplog.text
    # Once one of them is asked for, the others need names that say which split they are.
    with pytest.raises(ValueError, match="do not say which: day_2, munich"):
        find_pairs(tmp_path, ["berlin"])
    assert sizes_of(find_pairs(tmp_path, ["berlin"], allow_others=True)) == {"berlin": 1, "munich": 2, "day_2": 3}


def test_folders_in_splits_are_parts_of_them(tmp_path):
    for name in ("train/berlin", "train/munich/2019", "val/train_station", "val/val"):
        write_pairs(tmp_path, f"images/{name}", f"annotations/{name}", number=2)
    assert sizes_of(find_pairs(tmp_path)) == {"train": 4, "validation": 4}
    write_pairs(tmp_path, "images/train/berlin/val", "annotations/train/berlin/val")
    with pytest.raises(ValueError, match=r"in a folder val, which looks like a split, inside of \S*images/train"):
        find_pairs(tmp_path)


def test_splits_in_parts_are_refused(tmp_path):
    write_folders(tmp_path, "images/{} annotations/{}", "berlin/train", "berlin/val2", "munich/train")
    with pytest.raises(ValueError, match=r"(?s)berlin/train/0\.jpg lies in a folder train, .*layouts:\n    D/train"):
        find_pairs(tmp_path)


def test_files_beside_splits_are_refused(tmp_path):
    write_folders(tmp_path, "images/{} annotations/{}", "train", "val")
    save(make_image(), tmp_path / "images" / "9.jpg")
    with pytest.raises(
        ValueError, match=r"1 files lie beside the folders of splits, in none of them: \S*images/9\.jpg"
    ):
        find_pairs(tmp_path)


def test_splits_beside_what_is_whole_are_refused(tmp_path):
    write_pairs(tmp_path, "images", "annotations")
    write_pairs(tmp_path, "val/images", "val/annotations")
    with pytest.raises(ValueError, match="has images and annotations, and others in val"):
        find_pairs(tmp_path)


def test_splits_without_a_folder_of_label_maps(tmp_path, caplog):
    write_pairs(tmp_path, "train/images", "train/masks")
    for name in ("test/images", "test2/0"):
        save(make_image(), tmp_path / name / "0.jpg")
    (tmp_path / "val_scripts").mkdir()
    assert sizes_of(find_pairs(tmp_path)) == {"train": 2}
    assert caplog.text.count("is left out") == 2
    write_pairs(tmp_path, "val/images", "val/colours")
    with pytest.raises(ValueError, match=r"/val looks like a split, but does not have both"):
        find_pairs(tmp_path)


def test_folders_of_one_split_with_two_names(tmp_path):
    """Images and label maps each have their own; two of one side are refused."""
    write_pairs(tmp_path, "images/training", "annotations/Train")
    write_pairs(tmp_path, "images/val", "annotations/validation")
    # Empty folders are not of a split.
    (tmp_path / "images" / "notes").mkdir()
    assert sizes_of(find_pairs(tmp_path)) == {"train": 2, "validation": 2}
    write_pairs(tmp_path, "images/valid", "annotations/valid")
    with pytest.raises(ValueError, match="images has two folders of the validation split"):
        find_pairs(tmp_path)


def test_what_is_no_regular_file_is_refused(tmp_path):
    write_pairs(tmp_path, "images", "annotations")
    (tmp_path / "images" / "0.jpg").unlink()
    os.mkfifo(tmp_path / "images" / "0.jpg")
    with pytest.raises(ValueError, match=r"1 files are no regular files: \S*images/0\.jpg \(a pipe\)"):
        find_pairs(tmp_path)
