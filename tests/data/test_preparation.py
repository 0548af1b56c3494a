"""Official downloads as datasets of parquet files."""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from PIL import Image

from segmenter_hf.data import preparation
from segmenter_hf.data.checks import check_labels
from segmenter_hf.data.labels import load_label_set
from segmenter_hf.data.loading import load_segmentation_data
from segmenter_hf.data.preparation import CITYSCAPES_LABEL_IDS, PreparationError, prepare_dataset
from segmenter_hf.outputs import OutputError
from tests.common import REPOSITORY
from tests.data.datasets_on_disk import (
    make_image,
    make_label_map,
    save,
    write_ade20k,
    write_cityscapes,
    write_pascal_context,
)


SAMPLE = REPOSITORY.parent / "shared" / "data" / "ADEChallengeData2016"
# Cityscapes evaluates these classes. Each has its label id and name, as published.
CITYSCAPES_CLASSES = """
7 road, 8 sidewalk, 11 building, 12 wall, 13 fence, 17 pole, 19 traffic light, 20 traffic sign, 21 vegetation,
22 terrain, 23 sky, 24 person, 25 rider, 26 car, 27 truck, 28 bus, 31 train, 32 motorcycle, 33 bicycle
"""


def values_of(annotation) -> list[int]:
    return np.unique(annotation).tolist()


def test_ade20k(tmp_path):
    source = write_ade20k(tmp_path / "ADEChallengeData2016")
    prepared = prepare_dataset("ade20k", source, tmp_path / "out")
    assert prepared.num_images == {"train": 3, "validation": 2}
    assert [warning.split(",")[0] for warning in prepared.warnings] == [
        "The train split has 3 images",
        "The validation split has 2 images",
    ]
    images = {path.name: path.read_bytes() for path in source.rglob("*.jpg")}
    annotations = {path.name: path.read_bytes() for path in source.rglob("*.png")}
    shutil.rmtree(source)

    data = load_segmentation_data(tmp_path / "out", cache_dir=tmp_path / "cache")
    assert data.id2label == load_label_set("ade20k").id2label
    assert data.original_columns == ("image", "annotation")
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 3, "validation": 2}
    assert data.splits["train"][0]["image"].size == (60, 40)
    report = check_labels(data.splits["train"], 150, do_reduce_labels=True, id2label=data.id2label)
    assert [finding.kind for finding in report.findings] == ["never_seen"]
    # Files are embedded as they were, under their names.
    for split in ("train", "validation"):
        rows = pq.read_table(tmp_path / "out" / "data" / f"{split}-00000-of-00001.parquet").to_pylist()
        for row in rows:
            assert row["image"]["bytes"] == images[row["image"]["path"]]
            assert row["annotation"]["bytes"] == annotations[row["annotation"]["path"]]
    assert "--do_reduce_labels" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_folder_around_the_download(tmp_path):
    write_ade20k(tmp_path / "source" / "ADEChallengeData2016")
    assert prepare_dataset("ade20k", tmp_path / "source", tmp_path / "out").num_images["train"] == 3


def test_what_datasets_makes_of_it(tmp_path):
    prepare_dataset("ade20k", write_ade20k(tmp_path / "source"), tmp_path / "out")
    splits = load_dataset(str(tmp_path / "out"), cache_dir=tmp_path / "cache")
    assert {name: split.num_rows for name, split in splits.items()} == {"train": 3, "validation": 2}
    assert values_of(splits["validation"][1]["annotation"]) == [0, 1, 150]
    streamed = next(iter(load_dataset(str(tmp_path / "out"), split="validation", streaming=True)))
    assert streamed["image"].size == (60, 40)


def test_mapping_of_cityscapes():
    published = [entry.strip().split(" ", 1) for entry in CITYSCAPES_CLASSES.replace("\n", " ").split(",")]
    names = load_label_set("cityscapes").names
    assert {int(label_id): name for label_id, name in published} == dict(zip(CITYSCAPES_LABEL_IDS, names, strict=True))


def test_cityscapes(tmp_path):
    prepared = prepare_dataset("cityscapes", write_cityscapes(tmp_path / "source"), tmp_path / "out")
    assert prepared.num_images == {"train": 2, "validation": 1}
    data = load_segmentation_data(tmp_path / "out", cache_dir=tmp_path / "cache")
    assert len(data.id2label) == 19
    labels = np.asarray(data.splits["validation"][0]["annotation"])
    # Each label id has two columns of pixels.
    train_ids = {label_id: train_id for train_id, label_id in enumerate(CITYSCAPES_LABEL_IDS)}
    assert labels[0].tolist() == [train_ids.get(label_id, 255) for label_id in range(34) for _ in range(2)]
    assert check_labels(data.splits["train"], 19, id2label=data.id2label).findings == []


def test_cityscapes_with_train_ids(tmp_path):
    """Those that its own scripts made are taken, as they are."""
    source = write_cityscapes(tmp_path / "source")
    write_cityscapes(source, kind="labelTrainIds", values=(18, 3, 255))
    prepare_dataset("cityscapes", source, tmp_path / "out")
    data = load_segmentation_data(tmp_path / "out", cache_dir=tmp_path / "cache")
    assert values_of(data.splits["train"][0]["annotation"]) == [3, 18, 255]


def test_label_ids_that_cityscapes_has_not(tmp_path):
    """They are not ignored in silence."""
    source = write_cityscapes(tmp_path / "source", values=(*range(33), 34))
    with pytest.raises(PreparationError, match=r"labelIds\.png holds 34, expected label ids up to 33"):
        prepare_dataset("cityscapes", source, tmp_path / "out")


def test_orientation_is_that_of_reading(tmp_path):
    """Files are embedded as they are, and turned by who reads them; label maps that are written anew are upright."""
    source = write_cityscapes(tmp_path / "source")
    for file in sorted(source.glob("*/train/aachen/*")):
        with Image.open(file) as image:
            image.load()
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(file, exif=exif)
    prepare_dataset("cityscapes", source, tmp_path / "out")
    example = load_segmentation_data(tmp_path / "out", cache_dir=tmp_path / "cache").splits["train"][0]
    assert example["image"].size == example["annotation"].size == (40, 68)


@pytest.mark.parametrize("folder", [".", "VOC2010"])
@pytest.mark.parametrize("num_classes", [59, 60])
def test_pascal_context(tmp_path, folder, num_classes):
    source = write_pascal_context(tmp_path / "source") / folder
    prepared = prepare_dataset(f"pascal_context_{num_classes}", source, tmp_path / "out")
    assert prepared.num_images == {"train": 2, "validation": 1}
    assert prepared.warnings == []
    data = load_segmentation_data(tmp_path / "out", cache_dir=tmp_path / "cache")
    assert len(data.id2label) == num_classes
    split = data.splits["validation"]
    assert values_of(split[0]["annotation"]) == [0, 1, 59]
    report = check_labels(split, num_classes, id2label=data.id2label, do_reduce_labels=num_classes == 59)
    assert report.pixel_counts.nonzero()[0].tolist() == ([0, 58] if num_classes == 59 else [0, 1, 59])


@pytest.mark.parametrize("name", preparation.DOWNLOADS)
def test_folders_of_something_else(tmp_path, name):
    with pytest.raises(PreparationError, match=r"nowhere is no folder of .*Expected.*\n.*\.jpg|leftImg8bit"):
        prepare_dataset(name, tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "source").mkdir()
    with pytest.raises(PreparationError, match="does not have the files of"):
        prepare_dataset(name, tmp_path / "source", tmp_path / "out")
    assert os.listdir(tmp_path) == ["source"]


@pytest.mark.parametrize(
    ("name", "write", "missing", "message"),
    [
        ("ade20k", write_ade20k, "annotations/training/ADE_train_00000002.png", "1 images have no label map"),
        ("ade20k", write_ade20k, "images/validation/ADE_val_00000002.jpg", "1 label maps have no image"),
        (
            "cityscapes",
            write_cityscapes,
            "gtFine/val/lindau/lindau_000000_000019_gtFine_labelIds.png",
            "1 label maps are missing",
        ),
        ("pascal_context_60", write_pascal_context, "VOC2010/JPEGImages/2008_000002.jpg", "1 files that .*train.txt"),
    ],
)
def test_missing_files_are_named(tmp_path, name, write, missing, message):
    source = write(tmp_path / "source")
    (source / missing).unlink()
    with pytest.raises(PreparationError, match=message) as error:
        prepare_dataset(name, source, tmp_path / "out")
    assert missing.rpartition("/")[2].rpartition(".")[0] in str(error.value)
    assert "Expected layout" in str(error.value)
    assert os.listdir(tmp_path) == ["source"]


def break_colours(file):
    make_label_map().convert("RGB").save(file)


def break_size(file):
    make_label_map(width=50).save(file)


def break_values(file):
    make_label_map((0, 1, 151)).save(file)


def break_content(file):
    file.write_bytes(file.read_bytes()[:60])


def break_type(file):
    file.write_text("not found", encoding="utf-8")


def break_depth(file):
    make_label_map(dtype=np.uint16).save(file)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_colours, r"shape \(40, 60, 3\), expected one of 8 bits .* \(40, 60\): it is no label map of ADE20K"),
        (break_size, r"shape \(40, 50\), expected one of 8 bits .* \(40, 60\)"),
        (break_values, "holds 151, expected at most 150"),
        (break_type, "cannot be read: it is no image file"),
        (break_depth, "uint16 values"),
        (break_content, "cannot be read: .*truncated.*Unpack both again"),
    ],
)
def test_wrong_label_maps_are_named_and_nothing_is_left(tmp_path, damage, message):
    source = write_ade20k(tmp_path / "source")
    file = source / "annotations" / "validation" / "ADE_val_00000002.png"
    damage(file)
    with pytest.raises(PreparationError, match=message) as error:
        prepare_dataset("ade20k", source, tmp_path / "out")
    assert str(file) in str(error.value)
    assert os.listdir(tmp_path) == ["source"]


def test_palette_label_maps_keep_their_indices(tmp_path):
    source = write_ade20k(tmp_path / "source")
    palette = make_label_map((0, 2, 7))
    palette.putpalette([200, 10, 10, 30, 220, 30] * 128)
    palette.save(source / "annotations" / "training" / "ADE_train_00000001.png")
    prepare_dataset("ade20k", source, tmp_path / "out")
    data = load_segmentation_data(tmp_path / "out", cache_dir=tmp_path / "cache")
    assert values_of(data.splits["train"][0]["annotation"]) == [0, 2, 7]


def test_output_folder(tmp_path):
    source, out = write_ade20k(tmp_path / "source"), tmp_path / "new" / "out"
    prepare_dataset("ade20k", source, out)
    with pytest.raises(PreparationError, match="not empty.*--overwrite"):
        prepare_dataset("ade20k", source, out)
    write_ade20k(source, num_train=4)
    prepare_dataset("ade20k", source, out, overwrite=True)
    assert len(load_segmentation_data(out, cache_dir=tmp_path / "cache").splits["train"]) == 4
    assert os.listdir(out.parent) == ["out"]
    # A failure leaves what was there.
    break_values(source / "annotations" / "validation" / "ADE_val_00000002.png")
    with pytest.raises(PreparationError):
        prepare_dataset("ade20k", source, out, overwrite=True)
    assert os.listdir(out.parent) == ["out"]
    assert len(pq.read_table(out / "data" / "train-00000-of-00001.parquet")) == 4
    # What something else wrote is not overwritten, although there are label names in it.
    shutil.copy(out / "id2label.json", source)
    with pytest.raises(PreparationError, match="other files than those that this script writes"):
        prepare_dataset("ade20k", source, source, overwrite=True)
    assert (source / "images").is_dir()


def write_file(name: str):
    def write(folder):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("mine")

    return write


def link_shard(folder):
    shard = folder / "data" / "train-00000-of-00001.parquet"
    shard.rename(folder.parent / "shard")
    shard.symlink_to(folder.parent / "shard")


def link_data(folder):
    (folder / "data").rename(folder.parent / "data")
    (folder / "data").symlink_to(folder.parent / "data")


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (write_file("notes.txt"), "notes.txt"),
        (write_file("README.md"), "README.md"),
        (write_file("data/mine.parquet"), "data/mine.parquet"),
        (write_file("data/README.md"), "data/README.md"),
        (write_file("data/test-00000-of-00001.parquet"), "data/test-00000-of-00001.parquet"),
        (write_file("train-00000-of-00001.parquet"), "train-00000-of-00001.parquet"),
        (write_file(".git/HEAD"), ".git"),
        (lambda folder: (folder / "data" / "folder").mkdir(), "data/folder"),
        (lambda folder: (folder / "README.md").unlink(), "data, data/train-00000-of-00001.parquet"),
        (link_shard, "data/train-00000-of-00001.parquet"),
        (link_data, "data"),
    ],
)
@pytest.mark.parametrize("by_link", [False, True])
def test_what_it_has_not_written_is_never_removed(write, name, by_link, tmp_path):
    source, out = write_ade20k(tmp_path / "source"), tmp_path / "out"
    prepare_dataset("ade20k", source, out)
    write(out)
    before = sorted((path, path.is_file() and path.read_bytes()) for path in tmp_path.rglob("*"))
    (tmp_path / "link").symlink_to(out)
    output_dir = tmp_path / "link" if by_link else out
    with pytest.raises(
        PreparationError, match=f"{output_dir} has other files .*not overwritten: {re.escape(name)}[.,]"
    ):
        prepare_dataset("ade20k", source, output_dir, overwrite=True)
    (tmp_path / "link").unlink()
    assert sorted((path, path.is_file() and path.read_bytes()) for path in tmp_path.rglob("*")) == before


def test_names_that_are_not_utf_8(tmp_path):
    source, name = write_ade20k(tmp_path / "source"), os.fsdecode(b"\xff")
    for kind, suffix in (("images", ".jpg"), ("annotations", ".png")):
        file = source / kind / "training" / f"ADE_train_00000001{suffix}"
        file.rename(file.with_name(f"{name}{suffix}"))
    prepare_dataset("ade20k", source, tmp_path / f"out-{name}")
    with (tmp_path / f"out-{name}" / "data" / "train-00000-of-00001.parquet").open("rb") as file:
        shard = pq.read_table(file).to_pylist()
    assert {"\\udcff.jpg", "\\udcff.png"} < {row[column]["path"] for row in shard for column in row}


def test_folders_beside_it_are_not_touched_whatever_they_are_called(tmp_path):
    source, out = write_ade20k(tmp_path / "source"), tmp_path / "out"
    for name in (".out.unfinished", ".out.replaced", ".preparing-out"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "photo.jpg").touch()
    (tmp_path / "link").symlink_to(out)
    for folder in (out, tmp_path / "link"):
        prepare_dataset("ade20k", source, folder, overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert all((tmp_path / name / "photo.jpg").exists() for name in (".out.unfinished", ".out.replaced"))
    assert sorted(os.listdir(tmp_path)) == [
        ".out.replaced",
        ".out.unfinished",
        ".preparing-out",
        "link",
        "out",
        "source",
    ]


def test_a_disk_that_fills_up_costs_one_error_and_leaves_the_dataset(tmp_path, monkeypatch):
    source, out = write_ade20k(tmp_path / "source"), tmp_path / "out"
    prepare_dataset("ade20k", source, out)
    before = (out / "data" / "train-00000-of-00001.parquet").read_bytes()

    def fill(*arguments, **settings):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", fill)
    with pytest.raises(OutputError, match="out cannot be written: No space left on device"):
        prepare_dataset("ade20k", source, out, overwrite=True)
    assert (out / "data" / "train-00000-of-00001.parquet").read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["out", "source"]


def test_what_cannot_be_written_is_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(preparation, "find_splits", None)
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(OutputError, match="file.* cannot be written"):
            prepare_dataset("ade20k", tmp_path, out, overwrite=True)


def test_shards_and_groups(tmp_path, monkeypatch):
    source = write_ade20k(tmp_path / "source", num_train=23)
    size = (source / "images" / "training" / "ADE_train_00000001.jpg").stat().st_size
    monkeypatch.setattr(preparation, "ROWS_PER_GROUP", 2)
    monkeypatch.setattr(preparation, "BYTES_PER_SHARD", 5 * size)
    prepare_dataset("ade20k", source, tmp_path / "out")
    shards = sorted((tmp_path / "out" / "data").glob("train-*.parquet"))
    assert [shard.name for shard in shards] == [
        f"train-{index:05d}-of-{len(shards):05d}.parquet" for index in range(len(shards))
    ]
    assert len(shards) == 4
    assert pq.ParquetFile(shards[0]).metadata.num_row_groups == 3
    data = load_segmentation_data(tmp_path / "out", cache_dir=tmp_path / "cache")
    assert len(data.splits["train"]) == 23
    assert data.splits["train"][22]["image"].size == (60, 40)


def test_interrupted_run_leaves_nothing_that_loads_and_starts_anew(tmp_path):
    source, out = write_ade20k(tmp_path / "source", num_train=300), tmp_path / "out"
    code = (
        "import sys, time\n"
        "from segmenter_hf.data import preparation\n"
        "preparation.ROWS_PER_GROUP = 1\n"
        "write = preparation.write_shards\n"
        "def slow(folder, split, rows):\n"
        "    return write(folder, split, (time.sleep(0.05) or row for row in rows))\n"
        "preparation.write_shards = slow\n"
        "preparation.prepare_dataset('ade20k', *sys.argv[1:])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, source, out])

    def find_unfinished() -> list[int]:
        return [file.stat().st_size for file in tmp_path.glob(".preparing-*/new/data/train-00000.parquet")]

    deadline = time.monotonic() + 60
    while not any(find_unfinished()) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert any(find_unfinished()) and not out.exists()
    prepared = prepare_dataset("ade20k", source, out)
    assert prepared.num_images == {"train": 300, "validation": 2}
    assert sorted(os.listdir(tmp_path)) == ["out", "source"]
    assert sorted(os.listdir(out / "data")) == [
        "train-00000-of-00001.parquet",
        "validation-00000-of-00001.parquet",
    ]


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="no sample")
def test_sample_of_ade20k(tmp_path):
    prepared = prepare_dataset("ade20k", SAMPLE, tmp_path / "out")
    assert prepared.num_images == {"validation": 2}
    assert "The train split has 0 images, the complete download has 20210." in prepared.warnings
    data = load_segmentation_data(tmp_path / "out", cache_dir=tmp_path / "cache")
    original = load_segmentation_data(SAMPLE, labels="ade20k")
    for prepared_row, row in zip(data.splits["validation"], original.splits["validation"], strict=True):
        for column in ("image", "annotation"):
            np.testing.assert_array_equal(np.asarray(prepared_row[column]), np.asarray(row[column]))
    names = {data.id2label[value - 1] for value in values_of(data.splits["validation"][0]["annotation"]) if value}
    assert "building" in names or "wall" in names


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    """Peak memory above that of the imports, for 60 and for 600 MB of images."""
    code = (
        "import resource, sys\n"
        "from segmenter_hf.data.preparation import prepare_dataset\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "prepare_dataset('ade20k', *sys.argv[1:])\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)\n"
    )
    image = save(make_image(600, 600), tmp_path / "image.png").read_bytes()
    label_map = save(make_label_map(height=600, width=600), tmp_path / "map.png").read_bytes()
    megabytes = []
    for number in (60, 600):
        source = tmp_path / f"source{number}"
        for folder in ("images/validation", "annotations/validation"):
            (source / folder).mkdir(parents=True)
        for index in range(number):
            (source / "images" / "validation" / f"{index}.jpg").write_bytes(image)
            (source / "annotations" / "validation" / f"{index}.png").write_bytes(label_map)
        command = [sys.executable, "-c", code, source, tmp_path / f"out{number}"]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        megabytes.append(float(result.stdout))
        shutil.rmtree(source)
    assert megabytes[1] < megabytes[0] + 60


def test_pipes_are_not_read(tmp_path):
    source = write_cityscapes(tmp_path / "source")
    image = next((source / "leftImg8bit" / "train").rglob("*.png"))
    image.unlink()
    os.mkfifo(image)
    with pytest.raises(PreparationError, match=f"{image.name} or .* cannot be read: it is a pipe, expected a regular"):
        prepare_dataset("cityscapes", source, tmp_path / "out")
