"""Examples as training and evaluation read them, and the names by which errors call them."""

import io
import json
import os
import re
import shutil
import struct
import zlib

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, IterableDatasetDict
from datasets import Image as ImageFeature
from PIL import Image, PngImagePlugin
from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader, IterableDataset

from segmenter_hf import SegmenterForSemanticSegmentation, SegmenterImageProcessorPil
from segmenter_hf.data.augmentation import SegmentationAugmentation
from segmenter_hf.data.examples import ExampleError, ExampleReader, require_length
from segmenter_hf.data.loading import load_segmentation_data
from segmenter_hf.evaluation.protocol import evaluate_sliding_window
from segmenter_hf.evaluation.results import fingerprint
from segmenter_hf.training.samples import TrainingDataset
from segmenter_hf.training.segmentation_trainer import SegmentationTrainer
from tests.common import encode_png, encode_tiff, tiny_config
from tests.data.datasets_on_disk import make_image, make_label_map, save, write_pairs


FEATURES = Features({"image": ImageFeature(), "annotation": ImageFeature()})


def damage(file):
    """Changes a byte of the pixels, which the sum at the end of a chunk of a PNG shows."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)


def cut_off(file):
    file.write_bytes(file.read_bytes()[:-400])


def make_bomb(file):
    """A PNG that says that it has 400 million pixels."""
    content = file.read_bytes()
    header = b"IHDR" + struct.pack(">II", 20000, 20000) + content[24:29]
    file.write_bytes(content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:])


def make_pipe(file):
    file.unlink()
    os.mkfifo(file)


def make_link_to_device(file):
    file.unlink()
    file.symlink_to("/dev/zero")


def remove(file):
    file.unlink()


SPOILT = [
    (damage, "broken|CRC|cannot be read"),
    (cut_off, "truncated"),
    (make_bomb, "more than 178,956,970 pixels"),
    (make_pipe, "it is a pipe, expected a regular file"),
    (make_link_to_device, "it is a device, expected a regular file"),
    (remove, "there is no such file"),
]


@pytest.fixture
def dataset(tmp_path):
    """Files of noise, so that all of them is needed."""
    paths = {"image": [], "annotation": []}
    for index in range(3):
        paths["image"].append(str(save(make_image(seed=index), tmp_path / "images" / f"{index}.png")))
        paths["annotation"].append(str(save(make_label_map(), tmp_path / "annotations" / f"{index}.png")))
    return Dataset.from_dict(paths, features=FEATURES)


@pytest.mark.parametrize("is_embedded", [False, True])
def test_pixels_are_those_of_datasets(tmp_path, is_embedded):
    palette = make_label_map((0, 3, 4))
    palette.putpalette([200, 10, 10, 30, 220, 30] * 128)
    turned = make_image(30, 50)
    turned.getexif()[0x0112] = 6
    images = [make_image(), turned, make_image().convert("RGBA")]
    maps = [make_label_map(dtype=np.uint16), palette, make_label_map().convert("1")]
    rows = {"image": [], "annotation": []}
    for name, column in (("image", images), ("annotation", maps)):
        for index, image in enumerate(column):
            path = save(image, tmp_path / name / f"{index}.png", exif=image.getexif())
            rows[name].append({"bytes": path.read_bytes() if is_embedded else None, "path": str(path)})
    dataset = Dataset.from_dict(rows, features=FEATURES)
    reader = ExampleReader(dataset)
    assert len(reader) == 3
    for index in range(3):
        for read, column in zip(reader[index], ("image", "annotation"), strict=True):
            expected = dataset[index][column]
            assert read.mode == expected.mode
            np.testing.assert_array_equal(np.asarray(read), np.asarray(expected))
    # Images are read in the mode that the dataset asks for.
    grey = dataset.cast_column("image", ImageFeature(mode="L"))
    assert ExampleReader(grey)[0][0].mode == "L"
    # Transforms of users decide what is read.
    changed = dataset.with_transform(lambda batch: {"image": [1], "annotation": [2]})
    assert ExampleReader(changed)[0] == (1, 2)
    renamed = dataset.rename_columns({"image": "photo", "annotation": "mask"})
    assert ExampleReader(renamed.with_transform(lambda batch: {"image": [1], "annotation": [2]}))[0] == (1, 2)
    with pytest.raises(ValueError, match=r"columns image and annotation, got \['photo', 'mask'\]\. Rename yours"):
        ExampleReader(renamed)


@pytest.mark.parametrize(("spoil", "reason"), SPOILT)
@pytest.mark.parametrize("column", ["image", "annotation"])
def test_training_says_in_one_line_which_file_is_bad(dataset, tmp_path, spoil, reason, column):
    """It is so once torch has passed it on from a worker too, with the traceback for its message."""
    file = tmp_path / f"{column}s" / "1.png"
    # The image is noise, whose pixels take many bytes.
    save(make_image() if column == "image" else make_image().convert("L"), file)
    spoil(file)
    with pytest.raises(ExampleError) as error:
        try:
            samples_of(dataset)[1]
        except ExampleError:
            ExceptionWrapper(where="in DataLoader worker process 0").reraise()
    message = str(error.value)
    assert message.startswith("Training example 1 (") and "\n" not in message
    assert str(file) in message and re.search(reason, message)
    assert f"the {'image' if column == 'image' else 'label map'} cannot be read" in message
    assert "Replace or remove it; training leaves such examples out with --skip_unreadable" in message


def samples_of(dataset) -> TrainingDataset:
    processor = SegmenterImageProcessorPil(crop_size={"height": 32, "width": 32})
    return TrainingDataset(dataset, SegmentationAugmentation(processor), seed=0)


@pytest.mark.slow
def test_errors_of_real_workers(dataset, tmp_path):
    damage(tmp_path / "images" / "1.png")
    with pytest.raises(ExampleError, match=r"^Training example 1 \(.*\n?.*skip_unreadable\.$"):
        list(DataLoader(samples_of(dataset), batch_size=None, num_workers=1))


def png_with(*chunks: tuple[bytes, bytes]) -> bytes:
    """A photo with further chunks in front of its pixels."""
    buffer = io.BytesIO()
    make_image().save(buffer, format="PNG")
    content = buffer.getvalue()
    for name, data in reversed(chunks):
        chunk = struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        content = content[:33] + chunk + content[33:]
    return content


LARGE = zlib.compress(bytes(PngImagePlugin.MAX_TEXT_CHUNK + 1))


@pytest.mark.parametrize(
    "chunks",
    [
        [(b"iCCP", b"profile\0\0" + LARGE)],
        [(b"zTXt", b"workflow\0\0" + LARGE)],
        [(b"iTXt", b"workflow\0\1\0en\0\0" + LARGE)],
        [(b"tEXt", b"workflow\0" + b"x" * (3 * PngImagePlugin.MAX_TEXT_CHUNK))],
        [(b"zTXt", b"part\0\0" + zlib.compress(b"x" * PngImagePlugin.MAX_TEXT_CHUNK))] * 3,
    ],
)
def test_large_texts_and_profiles_do_not_keep_images_from_being_read(chunks, monkeypatch):
    # The limit of all texts together is 64 MB.
    monkeypatch.setattr(PngImagePlugin, "MAX_TEXT_MEMORY", int(2.5 * PngImagePlugin.MAX_TEXT_CHUNK))
    content = png_with((b"tEXt", b"Title\0kept"), *chunks)
    with pytest.raises(ValueError, match="MAX_TEXT|too large"):
        Image.open(io.BytesIO(content)).load()
    dataset = Dataset.from_dict(
        {"image": [{"bytes": content, "path": None}], "annotation": [make_label_map()]}, features=FEATURES
    )
    image = ExampleReader(dataset)[0][0]
    np.testing.assert_array_equal(np.asarray(image), np.asarray(make_image()))
    assert image.info["Title"] == "kept"


def test_orientations_in_texts_are_kept_beside_large_ones():
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    content = png_with((b"zTXt", b"workflow\0\0" + LARGE), (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp))
    rows = {"image": [{"bytes": content, "path": None}], "annotation": [make_label_map()]}
    image, _ = ExampleReader(Dataset.from_dict(rows, features=FEATURES))[0]
    assert image.size == (40, 60)


def test_links_to_regular_files_are_read(dataset, tmp_path):
    file = tmp_path / "images" / "1.png"
    file.rename(tmp_path / "elsewhere.png")
    file.symlink_to(tmp_path / "elsewhere.png")
    image, _ = ExampleReader(dataset)[1]
    np.testing.assert_array_equal(np.asarray(image), np.asarray(make_image(seed=1)))


def test_embedded_files_are_named_by_their_parquet_file(tmp_path):
    """And by where they are in it, whatever was selected and divided before."""
    rows = [{"image": make_image(seed=index), "annotation": make_label_map()} for index in range(5)]
    for part, chosen in enumerate((rows[:2], rows[2:])):
        dataset = Dataset.from_list(chosen, features=FEATURES)
        dataset.to_parquet(tmp_path / "data" / f"train-0000{part}-of-00002.parquet")
    data = load_segmentation_data(
        tmp_path / "data", labels="camvid", train_val_split=0.4, cache_dir=tmp_path / "cache"
    )
    found = set()
    for split in data.splits.values():
        reader = ExampleReader(split)
        for index in range(len(reader)):
            row, part = re.fullmatch(
                r"row (\d) of .*data/train-0000(\d)-of-00002\.parquet", reader.describe(index)
            ).groups()
            seed = int(row) + 2 * int(part)
            np.testing.assert_array_equal(np.asarray(reader[index][0]), np.asarray(make_image(seed=seed)))
            found.add(seed)
    assert found == set(range(5))


def test_names_in_an_embedded_row_come_with_it():
    embedded = {"bytes": b"", "path": "0.jpg"}
    rows = {"image": [embedded, None], "annotation": [{**embedded, "path": "0.png"}, None]}
    reader = ExampleReader(Dataset.from_dict(rows, features=FEATURES))
    assert reader.describe(0) == "row 0 of the dataset (0.jpg, 0.png)"
    assert reader.describe(1) == "row 1 of the dataset"
    with pytest.raises(ExampleError, match="the image cannot be read: there is none"):
        with reader.naming(1):
            reader[1]


def test_examples_that_are_stored_nowhere_have_numbers():
    examples = [{"image": make_image(), "annotation": make_label_map(width=3)}]
    reader = ExampleReader(examples)
    with pytest.raises(ExampleError, match=r"^Example 0 cannot be used: no\.$"):
        with reader.naming(0):
            raise ValueError("no.")
    # This is no matter of the example.
    with pytest.raises(ZeroDivisionError):
        with reader.naming(0):
            1 / 0  # noqa: B018


@pytest.mark.parametrize(("bits", "suffix", "bands"), [(10, "png", 3), (12, "tif", 3), (14, "tif", 4), (16, "png", 1)])
def test_16_bit_files_train_and_are_scored_as_their_8_bit_copies(tmp_path, bits, suffix, bands):
    """Scaled by what they hold at most, whoever reads them, to the last bit."""
    max_value, samples, figures = 2**bits - 1, [], []
    model = SegmenterForSemanticSegmentation(tiny_config(num_channels=bands)).eval()
    for of_bytes in (True, False):
        images = []
        for index in range(3):
            values = np.random.default_rng(index).integers(0, 256, (40, 60, bands), dtype=np.uint8)
            path = tmp_path / f"{index}_{of_bytes}.{suffix}"
            if not of_bytes:
                values = np.round(values * (max_value / 255)).astype(np.uint16)
            if suffix == "tif":
                path.write_bytes(encode_tiff(values, 2, (0,) * (bands - 3)))
            elif of_bytes:
                Image.fromarray(values if bands > 1 else values[..., 0]).save(path)
            else:
                path.write_bytes(encode_png(values))
            images.append(str(path))
        maps = [str(save(make_label_map(), tmp_path / f"{index}_map.png")) for index in range(3)]
        examples = Dataset.from_dict({"image": images, "annotation": maps}, features=FEATURES)
        image_processor = SegmenterImageProcessorPil(
            do_split_image=True,
            size={"shortest_edge": 36},
            crop_size={"height": 32, "width": 32},
            window_stride=16,
            patch_size=8,
            do_convert_rgb=bands == 3,
            image_mean=[0.5] * bands,
            image_std=[0.2] * bands,
            max_value=max_value,
        )
        dataset = TrainingDataset(examples, SegmentationAugmentation(image_processor), seed=0)
        samples.append(torch.stack([dataset[index]["pixel_values"] for index in range(3)]))
        for multi_scale in (False, True):
            found = evaluate_sliding_window(model, image_processor, examples, multi_scale=multi_scale)
            # Figures are compared as text, in which NaN equals NaN.
            figures.append(str(found))
    assert samples[0].std() > 0.5
    assert torch.equal(*samples)
    assert figures[:2] == figures[2:] and figures[0] != figures[1]


class Stream(IterableDataset):
    """A dataset of torch that has no length."""

    def __iter__(self):
        yield {}


@pytest.mark.parametrize(
    "examples",
    [
        Dataset.from_list([{"image": 1}]).to_iterable_dataset(),
        IterableDatasetDict({"train": Dataset.from_list([{"image": 1}]).to_iterable_dataset()}),
        *(Stream(), (each for each in ()), iter([])),
    ],
)
@pytest.mark.parametrize(
    "use",
    [
        require_length,
        fingerprint,
        lambda examples: evaluate_sliding_window(None, None, examples),
        lambda examples: TrainingDataset(examples, None, seed=0),
        lambda examples: SegmentationTrainer(train_dataset=examples),
        lambda examples: SegmentationTrainer(eval_dataset=examples),
    ],
)
def test_streams_and_generators_are_refused(examples, use):
    with pytest.raises(ValueError, match=r"streaming is not supported\. .*`streaming=True`.*from_generator"):
        use(examples)
    require_length([])


def test_archive_members_are_named(tmp_path):
    write_pairs(tmp_path / "content", "images", "masks", number=3)
    cut_off(tmp_path / "content" / "images" / "2.jpg")
    rows = [{"file_name": f"images/{index}.jpg", "mask_file_name": f"masks/{index}.png"} for index in range(3)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "content" / "metadata.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "content" / "id2label.json").unlink()
    shutil.make_archive(tmp_path / "dataset" / "train", "zip", tmp_path / "content")
    data = load_segmentation_data(tmp_path / "dataset", labels="camvid", cache_dir=tmp_path / "cache")
    reader = ExampleReader(data.split("train"))
    with pytest.raises(ExampleError, match=r"zip://images/2\.jpg::\S*train\.zip, .*truncated"):
        with reader.naming(2):
            reader[2]
