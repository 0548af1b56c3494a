"""Loading datasets from wherever they are, with their label names."""

import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Array2D, ClassLabel, Dataset, DatasetDict, Features, List, Sequence, Value
from datasets import Image as ImageFeature

from segmenter_hf.data.checks import check_labels
from segmenter_hf.data.loading import load_segmentation_data
from segmenter_hf.evaluation.results import fingerprint
from tests.common import REPOSITORY
from tests.data.datasets_on_disk import make_image, make_label_map, write_ade20k, write_pairs


SHARED_DATA = REPOSITORY.parent / "shared" / "data"
NAMES = {"0": "sky", "1": "road", "2": "car"}


def make_splits(annotation_column="annotation", image_column="image", **columns) -> DatasetDict:
    features = {image_column: ImageFeature(), annotation_column: ImageFeature()}
    features |= {name: feature for name, (feature, _) in columns.items()}
    splits = {}
    for split, number in (("train", 6), ("validation", 2)):
        rows = {
            image_column: [make_image(seed=index) for index in range(number)],
            annotation_column: [make_label_map() for _ in range(number)],
            **{name: [value] * number for name, (_, value) in columns.items()},
        }
        splits[split] = Dataset.from_dict(rows, features=Features(features))
    return DatasetDict(splits)


def write_dataset(folder: Path, id2label=None, **settings) -> Path:
    """Two splits as parquet files with embedded bytes, like those on the Hub."""
    (folder / "data").mkdir(parents=True)
    for split, dataset in make_splits(**settings).items():
        dataset.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    if id2label is not None:
        (folder / "id2label.json").write_text(json.dumps(id2label), encoding="utf-8")
    return folder


def check(data, image_column="image", annotation_column="annotation", sizes=(6, 2)):
    assert {name: len(split) for name, split in data.splits.items()} == dict(
        zip(("train", "validation"), sizes, strict=False)
    )
    assert data.id2label == {0: "sky", 1: "road", 2: "car"}
    assert data.num_labels == 3
    assert data.original_columns == (image_column, annotation_column)
    for split in data.splits.values():
        assert split.column_names == ["image", "annotation"]
        assert split[0]["image"].size == (60, 40)
        assert np.unique(split[0]["annotation"]).tolist() == [0, 1, 2]


def test_parquet_folder_with_other_columns(tmp_path):
    columns = {"scene": (ClassLabel(names=["indoor", "outdoor"]), 1), "file": (Value("string"), "x")}
    folder = write_dataset(tmp_path, NAMES, image_column="pixel_values", annotation_column="label", **columns)
    check(load_segmentation_data(folder), "pixel_values", "label")


def test_parquet_file(tmp_path):
    folder = write_dataset(tmp_path, NAMES)
    data = load_segmentation_data(folder / "data" / "validation-00000-of-00001.parquet")
    assert {name: len(split) for name, split in data.splits.items()} == {"validation": 2}
    assert data.num_labels == 3


@pytest.mark.parametrize(
    ("files", "splits"),
    [
        (["train-00000-of-00002", "train-00001-of-00002", "val-00000-of-00001"], {"train": 12, "validation": 6}),
        (["data/train/0", "data/train/1", "data/validation/0"], {"train": 12, "validation": 6}),
        (["part-0", "part-1"], {"train": 12}),
    ],
)
def test_names_of_parquet_files(tmp_path, files, splits):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        make_splits()["train"].to_parquet(tmp_path / f"{name}.parquet")
    data = load_segmentation_data(tmp_path, labels="camvid", cache_dir=tmp_path / "cache")
    assert {name: len(split) for name, split in data.splits.items()} == splits


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.parquet", "train"),
        ("testing-0.parquet", "test"),
        ("dev.parquet", "validation"),
        ("VAL.PARQUET", "validation"),
        ("streets of [Ürümqi].parquet", "train"),
    ],
)
def test_names_of_a_parquet_file(tmp_path, name, split):
    make_splits()["train"].to_parquet(tmp_path / name)
    data = load_segmentation_data(tmp_path / name, labels="camvid", cache_dir=tmp_path / "cache")
    assert list(data.splits) == [split]


def test_folder_that_is_called_like_a_module_of_datasets(tmp_path, monkeypatch):
    write_dataset(tmp_path / "parquet", NAMES)
    monkeypatch.chdir(tmp_path)
    check(load_segmentation_data("parquet"))


def test_parquet_of_other_programs(tmp_path):
    """The files lack the metadata of `datasets`: columns are structs of bytes and path, or bytes alone."""
    rows = []
    for _ in range(2):
        encoded = []
        for image in (make_image(), make_label_map()):
            buffer = io.BytesIO()
            image.save(buffer, format="PNG")
            encoded.append(buffer.getvalue())
        rows.append({"image": {"bytes": encoded[0], "path": "x.png"}, "mask": encoded[1]})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "part.parquet")
    (tmp_path / "names.json").write_text(json.dumps(NAMES), encoding="utf-8")
    data = load_segmentation_data(tmp_path / "part.parquet", labels=tmp_path / "names.json")
    check(data, annotation_column="mask", sizes=(2,))


def test_saved_dataset(tmp_path):
    splits = make_splits(annotation_column="mask")
    splits.save_to_disk(tmp_path / "both")
    splits["train"].save_to_disk(tmp_path / "one")
    for name in ("both", "one"):
        (tmp_path / name / "id2label.json").write_text(json.dumps(NAMES), encoding="utf-8")
    check(load_segmentation_data(tmp_path / "both"), annotation_column="mask")
    check(load_segmentation_data(tmp_path / "one"), annotation_column="mask", sizes=(6,))


def test_label_maps_that_are_arrays(tmp_path):
    """They become image files, of the type that suffices."""
    maps = [np.array(make_label_map()), np.array(make_label_map((0, 1, 700), dtype=np.uint16))]
    maps += [np.array(make_label_map((0, 1, 70000), dtype=np.int32)), None]
    images = [make_image(seed=index) for index in range(4)]
    for number, feature in enumerate((Array2D((None, 60), "int32"), List(List(Value("int64"))))):
        features = Features({"image": ImageFeature(), "label": feature})
        rows = [None if each is None else each.tolist() for each in maps]
        Dataset.from_dict({"image": images, "label": rows}, features=features).save_to_disk(tmp_path / str(number))
        split = load_segmentation_data(tmp_path / str(number), labels="camvid").splits["train"]
        for row, image, expected in zip(split, images, maps, strict=True):
            np.testing.assert_array_equal(np.asarray(row["image"]), np.asarray(image))
            assert (row["annotation"] is None) == (expected is None)
            if expected is not None:
                np.testing.assert_array_equal(np.asarray(row["annotation"]), expected)
        assert [label and label.mode for label in split["annotation"]] == ["L", "I;16", "I", None]


@pytest.mark.parametrize(("dtype", "odd"), [("int32", -1), ("int64", 2**31), ("uint64", 2**64 - 1), ("int8", -128)])
def test_arrays_of_what_is_no_label_are_refused(tmp_path, dtype, odd):
    """It is in the last of all rows, of which the check of labels would look at some."""
    maps = [np.zeros((2, 3), dtype=dtype) for _ in range(3)]
    maps[2][1, 2] = odd
    for number, feature in enumerate((Array2D((2, 3), dtype), List(List(Value(dtype))))):
        features = Features({"image": ImageFeature(), "label": feature})
        columns = {"image": [make_image(2, 3)] * 3, "label": maps}
        Dataset.from_dict(columns, features=features).save_to_disk(tmp_path / str(number))
        # numpy has no type that holds all integers of 64 bits with and without sign.
        shown = odd if odd < 2**63 else r"1.8446744073709552e\+19"
        match = rf"Row 2 of the column label must hold labels, .*, got {shown}\. Store 255 where"
        with pytest.raises(ValueError, match=match):
            load_segmentation_data(tmp_path / str(number), labels="camvid")


def test_arrays_of_booleans_are_masks(tmp_path):
    features = Features({"image": ImageFeature(), "mask": Array2D((2, 3), "bool")})
    mask = np.array([[True, False, True], [False, False, True]])
    Dataset.from_dict({"image": [make_image(2, 3)], "mask": [mask]}, features=features).save_to_disk(tmp_path)
    (example,) = load_segmentation_data(tmp_path, labels="camvid").splits["train"]
    np.testing.assert_array_equal(np.asarray(example["annotation"]), mask.astype(np.uint8))


def test_arrays_that_are_no_label_maps_are_named(tmp_path):
    features = Features({"image": ImageFeature(), "label": List(List(Value("int64")))})
    rows = {"image": [make_image()] * 2, "label": [[[0, 1], [1, 0]], [[0, 1], [1]]]}
    Dataset.from_dict(rows, features=features).save_to_disk(tmp_path)
    with pytest.raises(ValueError, match="Row 1 of the column label is no label map: its rows have different lengths"):
        load_segmentation_data(tmp_path, labels="camvid")


def test_features_that_are_not_decoded(tmp_path):
    splits = make_splits().cast_column("image", ImageFeature(decode=False))
    splits.cast_column("annotation", ImageFeature(decode=False)).save_to_disk(tmp_path)
    (tmp_path / "id2label.json").write_text(json.dumps(NAMES), encoding="utf-8")
    check(load_segmentation_data(tmp_path))


def test_splits_without_label_maps_are_left_out(tmp_path, caplog):
    splits = make_splits()
    splits["test"] = splits["train"].remove_columns("annotation")
    splits = DatasetDict({"test": splits["test"], "train": splits["train"]})
    splits.save_to_disk(tmp_path)
    data = load_segmentation_data(tmp_path, labels="camvid")
    assert list(data.splits) == ["train"]
    assert "the test split is left out, which has the columns ['image'], not annotation" in caplog.text


def test_other_tables_in_a_folder_of_pairs(tmp_path):
    """They are not taken for the dataset, nor for metadata that pairs the files."""
    write_pairs(tmp_path, "images", "masks", number=6)
    (tmp_path / "metadata.json").write_text("{}", encoding="utf-8")
    (tmp_path / "metadata.csv").write_text("id,weather\n0,rain\n", encoding="utf-8")
    make_splits()["train"].remove_columns("annotation").to_parquet(tmp_path / "index.parquet")
    check(load_segmentation_data(tmp_path), sizes=(6,))


def test_archive_with_metadata(tmp_path):
    """Its files are read where they are, by the check of labels too."""
    write_pairs(tmp_path / "content", "images", "masks", number=3)
    rows = [{"file_name": f"images/{index}.jpg", "mask_file_name": f"masks/{index}.png"} for index in range(3)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "content" / "metadata.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "content" / "id2label.json").unlink()
    shutil.make_archive(tmp_path / "dataset" / "train", "zip", tmp_path / "content")
    shutil.rmtree(tmp_path / "content")
    data = load_segmentation_data(tmp_path / "dataset", labels="camvid", cache_dir=tmp_path / "cache")
    report = check_labels(data.split("train"), 3)
    assert report.findings == [] and report.num_checked == 3


def test_web_dataset(tmp_path):
    with tarfile.open(tmp_path / "train-000.tar", "w") as archive:
        for index in range(2):
            for suffix, image in (("jpg", make_image()), ("mask.png", make_label_map())):
                buffer = io.BytesIO()
                image.save(buffer, format="PNG" if suffix == "mask.png" else "JPEG")
                member = tarfile.TarInfo(f"{index:04d}.{suffix}")
                member.size = len(buffer.getvalue())
                archive.addfile(member, io.BytesIO(buffer.getvalue()))
    (tmp_path / "id2label.json").write_text(json.dumps(NAMES), encoding="utf-8")
    check(load_segmentation_data(tmp_path, cache_dir=tmp_path / "cache"), "jpg", "mask.png", sizes=(2,))


def test_folder_of_pairs(tmp_path):
    write_pairs(tmp_path, "images/training", "annotations/training", number=4)
    write_pairs(tmp_path, "images/validation", "annotations/validation", number=1)
    check(load_segmentation_data(tmp_path), sizes=(4, 1))


def test_image_folder_with_metadata(tmp_path):
    """It pairs files itself, by `metadata.jsonl`."""
    for split, number in (("train", 3), ("validation", 1)):
        write_pairs(tmp_path / split, "images", "annotations", number=number)
        (tmp_path / split / "id2label.json").unlink()
        rows = [
            {"image_file_name": f"images/{index}.jpg", "annotation_file_name": f"annotations/{index}.png"}
            for index in range(number)
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / split / "metadata.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "names.json").write_text(json.dumps(NAMES), encoding="utf-8")
    check(load_segmentation_data(tmp_path, labels=tmp_path / "names.json"), sizes=(3, 1))


def test_label_names_of_features_and_given_ones(tmp_path):
    classes = {"classes": (Sequence(ClassLabel(names=["sky", "road", "car"])), [0, 2])}
    folder = write_dataset(tmp_path / "classes", **classes)
    check(load_segmentation_data(folder))
    folder = write_dataset(tmp_path / "both", {"0": "a", "1": "b"}, **classes)
    assert load_segmentation_data(folder).id2label == {0: "a", 1: "b"}
    assert load_segmentation_data(folder, labels="camvid").num_labels == 11


def test_missing_names_are_refused(tmp_path):
    folder = write_dataset(tmp_path)
    with pytest.raises(ValueError, match=r"no id2label\.json, and its features name no classes.*--labels"):
        load_segmentation_data(folder)


def test_sources_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"user/name is no file or folder"):
        load_segmentation_data("user/name")
    with pytest.raises(ValueError, match=r"user/name cannot be loaded"):
        load_segmentation_data("user/name", labels="camvid")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"neither parquet files, nor images .*\n    D/train/images"):
        load_segmentation_data(tmp_path / "empty", labels="camvid")
    (tmp_path / "notes.txt").write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match="expected a parquet file or a folder"):
        load_segmentation_data(tmp_path / "notes.txt", labels="camvid")
    for name in ("broken.parquet", "empty.parquet"):
        (tmp_path / name).write_bytes(b"PAR1 broken" * (name[0] == "b"))
        with pytest.raises(ValueError, match=f"{name} cannot be loaded: .*arquet"):
            load_segmentation_data(tmp_path / name, labels="camvid", cache_dir=tmp_path / "cache")


def test_configurations(tmp_path):
    write_dataset(tmp_path, NAMES)
    files = "".join(
        f"- config_name: {name}\n  data_files:\n  - split: train\n    path: data/{split}-*.parquet\n"
        for name, split in (("large", "train"), ("small", "validation"))
    )
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{files}---\n", encoding="utf-8")
    check(load_segmentation_data(tmp_path, config_name="small", cache_dir=tmp_path / "cache"), sizes=(2,))
    with pytest.raises(ValueError, match=r"(?s)large.*small.*--dataset_config_name"):
        load_segmentation_data(tmp_path, cache_dir=tmp_path / "cache")


def test_pictures_alone_are_refused(tmp_path):
    """`load_dataset` takes their folders for classes."""
    write_pairs(tmp_path, "cats/one", "dogs/two")
    with pytest.raises(ValueError, match="neither parquet files, nor images"):
        load_segmentation_data(tmp_path)


def test_fingerprint_is_that_of_the_files(tmp_path):
    write_pairs(tmp_path, "images", "annotations", number=3)
    splits = [load_segmentation_data(tmp_path).splits["train"] for _ in range(2)]
    assert splits[0]._fingerprint == splits[1]._fingerprint


def test_splits_by_name(tmp_path):
    splits = make_splits()
    DatasetDict({"train": splits["train"], "val": splits["validation"]}).save_to_disk(tmp_path)
    data = load_segmentation_data(tmp_path, labels="camvid")
    assert len(data.split("validation")) == len(data.split("val")) == 2
    with pytest.raises(ValueError, match=r"no split test, only train, val. Name one with --validation_split"):
        data.split("test", "--validation_split")


def test_splits_by_other_names(tmp_path):
    splits = make_splits()
    names = {"Training": "train", "dev": "validation", "testing": "validation", "extra": "train"}
    DatasetDict({name: splits[source] for name, source in names.items()}).save_to_disk(tmp_path / "some")
    data = load_segmentation_data(tmp_path / "some", labels="camvid")
    sizes = {"train": 6, "validation": 2, "val": 2, "test": 2, "extra": 6, "dev": 2}
    assert {name: len(data.split(name)) for name in sizes} == sizes
    # Nobody guesses which of two is meant.
    DatasetDict({"val": splits["train"], "dev": splits["validation"]}).save_to_disk(tmp_path / "two")
    data = load_segmentation_data(tmp_path / "two", labels="camvid")
    assert len(data.split("dev")) == 2
    with pytest.raises(ValueError, match="no split validation, only val, dev"):
        data.split("validation")


def test_splits_of_folders_that_are_named(tmp_path):
    for name in ("train2017", "val2017", "test2017"):
        write_pairs(tmp_path, f"images/{name}", f"annotations/{name}")
    with pytest.raises(ValueError, match="do not say which: test2017, train2017, val2017"):
        load_segmentation_data(tmp_path)
    names = {"train_split": "train2017", "validation_split": "val2017"}
    with pytest.raises(ValueError, match=r"do not say which: test2017\."):
        load_segmentation_data(tmp_path, **names)
    data = load_segmentation_data(tmp_path, **names, allow_other_splits=True)
    assert set(data.splits) == {"train2017", "val2017", "test2017"}
    assert {name: len(split) for name, split in data.splits.items()} == dict.fromkeys(data.splits, 2)


@pytest.mark.parametrize(
    ("files", "odd"),
    [
        (["train-00000-of-00001", "valset-00000-of-00001"], r"valset-00000-of-00001\.parquet \(left out\)"),
        (["trn", "tst"], r"tst\.parquet \(taken for train\)"),
        (["trn/0000", "val/0000"], r"trn/0000\.parquet \(left out\)"),
    ],
)
def test_parquet_files_that_would_be_of_no_or_the_wrong_split(tmp_path, files, odd):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        make_splits()["train"].to_parquet(tmp_path / f"{name}.parquet")
    with pytest.raises(ValueError, match=rf"{odd}.*data_files"):
        load_segmentation_data(tmp_path, labels="camvid", cache_dir=tmp_path / "cache")
    # The remedy helps.
    lines = "".join(f"  - split: {split}\n    path: {name}.parquet\n" for split, name in zip("ab", files, strict=True))
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files:\n{lines}---\n")
    data = load_segmentation_data(tmp_path, labels="camvid", cache_dir=tmp_path / "cache")
    assert {name: len(split) for name, split in data.splits.items()} == {"a": 6, "b": 6}


@pytest.mark.parametrize("names", [("val2017",), ("validset",), ("val", "dev")])
def test_no_part_is_cut_off_where_there_may_be_a_validation_split(tmp_path, names):
    splits = make_splits()
    DatasetDict({"train": splits["train"], **dict.fromkeys(names, splits["validation"])}).save_to_disk(tmp_path)
    match = rf"has no split validation, and {', '.join(names)} may be meant.*--validation_split"
    with pytest.raises(ValueError, match=match):
        load_segmentation_data(tmp_path, labels="camvid", train_val_split=0.2)


def test_datasets_themselves_are_refused():
    stream = make_splits()["train"].to_iterable_dataset()
    with pytest.raises(ValueError, match="got IterableDataset. Streaming is not supported. Store it"):
        load_segmentation_data(stream)
    with pytest.raises(ValueError, match="got DatasetDict. Store it with `save_to_disk`"):
        load_segmentation_data(make_splits())


def test_pipes_in_place_of_files(tmp_path):
    for name in ("data.parquet", "metadata.jsonl", "id2label.json"):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        os.mkfifo(folder / name)
        with pytest.raises(ValueError, match=rf"{name} is a pipe, expected a regular file"):
            load_segmentation_data(folder, labels="camvid")
        with pytest.raises(ValueError, match=rf"{name} is a pipe, expected a regular file"):
            load_segmentation_data(folder)
    with pytest.raises(ValueError, match="is a pipe"):
        load_segmentation_data(tmp_path / "data" / "data.parquet", labels="camvid")
    with pytest.raises(ValueError, match="is a pipe"):
        load_segmentation_data(tmp_path, labels=tmp_path / "id2label" / "id2label.json")


def test_validation_split_of_the_training_split(tmp_path):
    make_splits()["train"].save_to_disk(tmp_path / "one")
    make_splits().save_to_disk(tmp_path / "both")

    def load(name="one", **settings):
        splits = load_segmentation_data(tmp_path / name, labels="camvid", **settings).splits
        return {split: [np.asarray(image).tobytes() for image in rows["image"]] for split, rows in splits.items()}

    parts = load(train_val_split=0.34)
    assert {name: len(split) for name, split in parts.items()} == {"train": 3, "validation": 3}
    assert set(parts["train"]).isdisjoint(parts["validation"])
    assert load(train_val_split=0.34) == parts
    assert load(train_val_split=0.34, seed=1) != parts
    assert set(load()) == {"train"}
    # A split of its own is taken as it is.
    assert load("both", train_val_split=0.34) == load("both")
    shares = [
        load_segmentation_data(tmp_path / name, labels="camvid", train_val_split=0.34).held_out_share
        for name in ("one", "both")
    ]
    assert shares == [0.34, None]


def test_validation_split_of_a_training_split_with_another_name(tmp_path):
    DatasetDict({"full": make_splits()["train"]}).save_to_disk(tmp_path)
    data = load_segmentation_data(tmp_path, labels="camvid", train_val_split=0.34, train_split="full")
    assert {name: len(split) for name, split in data.splits.items()} == {"full": 3, "validation": 3}
    with pytest.raises(ValueError, match="no split train, only full. Name one with --train_split"):
        load_segmentation_data(tmp_path, labels="camvid", train_val_split=0.34)


@pytest.mark.parametrize("share", [0, 1, 1.5, -0.1])
def test_shares_that_cannot_be_split_off(tmp_path, share):
    with pytest.raises(ValueError, match=f"--train_val_split must be a share between 0 and 1, got {share}"):
        load_segmentation_data(tmp_path, labels="camvid", train_val_split=share)


def test_too_few_images_to_split(tmp_path):
    write_pairs(tmp_path, "images", "masks", number=1)
    with pytest.raises(ValueError, match="cannot be divided by --train_val_split 0.15"):
        load_segmentation_data(tmp_path, train_val_split=0.15)


def test_palettes_are_not_converted(tmp_path):
    """They are not, even where the dataset says that they should be."""
    palette = make_label_map()
    palette.putpalette([200, 10, 10, 30, 220, 30] * 128)
    columns = {"image": [make_image()], "annotation": [palette]}
    features = Features({"image": ImageFeature(), "annotation": ImageFeature(mode="L")})
    Dataset.from_dict(columns, features=features).save_to_disk(tmp_path)
    data = load_segmentation_data(tmp_path, labels="camvid")
    assert np.unique(data.splits["train"][0]["annotation"]).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("image_column", "annotation_column", "columns"),
    [
        ("pixel", "mask", {}),
        # These are columns that have one of the two names and hold something else.
        ("photo", "annotation", {"image": (ImageFeature(), make_image(8, 9))}),
        ("photo", "mask", {"image": (Value("string"), "0.jpg"), "annotation": (ImageFeature(), make_image(8, 9))}),
        ("annotation", "image", {}),
    ],
)
def test_columns_that_are_named(tmp_path, image_column, annotation_column, columns):
    names = {"image_column": image_column, "annotation_column": annotation_column}
    folder = write_dataset(tmp_path / "other", NAMES, **names, **columns)
    data = load_segmentation_data(folder, **names)
    check(data, **names)
    plain = load_segmentation_data(write_dataset(tmp_path / "plain", NAMES))
    assert fingerprint(data.split("train")) == fingerprint(plain.split("train"))


def test_errors_have_the_names_of_columns_that_users_know(tmp_path):
    folder = write_dataset(tmp_path, NAMES, image_column="pixel", annotation_column="mask")
    with pytest.raises(ValueError, match=r"has the columns \['pixel', 'mask'\], expected annotation too"):
        load_segmentation_data(folder, annotation_column="annotation")


def test_formats_that_were_saved_with_the_dataset(tmp_path):
    make_splits("mask", "photo")["train"].with_format("numpy", columns=["photo", "mask"]).save_to_disk(tmp_path)
    split = load_segmentation_data(tmp_path, labels="camvid").split("train")
    assert split.format["type"] == "numpy" and split.format["columns"] == ["image", "annotation"]
    assert np.unique(split[0]["annotation"]).tolist() == [0, 1, 2]


def test_ade20k_as_downloaded(tmp_path):
    """The official layout is one of pairs."""
    data = load_segmentation_data(write_ade20k(tmp_path), labels="ade20k")
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 3, "validation": 2}


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="no samples")
def test_samples(tmp_path):
    data = load_segmentation_data(SHARED_DATA / "camvid", cache_dir=tmp_path)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 367, "validation": 101}
    assert data.num_labels == 11
    data = load_segmentation_data(SHARED_DATA / "ADEChallengeData2016", labels="ade20k")
    assert [example["image"].size == example["annotation"].size for example in data.split("validation")] == [True] * 2
