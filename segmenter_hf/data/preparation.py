"""
The official downloads of ADE20K, Cityscapes and Pascal Context as datasets of parquet files, which hold the images and
label maps themselves. Files are read and written one after the other, so that memory does not grow with their number.
"""

import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Image
from PIL import Image as PILImage
from tqdm.auto import tqdm

from ..image_processing_segmenter import IGNORE_INDEX
from ..inputs import read_bytes
from ..output_folders import replacing_folder
from ..outputs import refuse_unwritable, write_text
from .image_files import read_image_file
from .label_names import LABELS_FILE
from .labels import load_label_set
from .pairs import match_files, name_some


# Groups of rows are small, so that reading one row, or streaming, does not take much more than that row.
ROWS_PER_GROUP = 100
BYTES_PER_GROUP = 32 * 2**20
BYTES_PER_SHARD = 500 * 2**20
# Folders beside the output have this name until they are complete. The next run removes what killed ones left.
TEMPORARY_PREFIX = ".preparing-"
CARD_FILE, CARD_MARK = "README.md", "Made by `scripts/prepare_dataset.py` of segmenter_hf"
SHORT_NAMES = {"train": "train", "validation": "val"}
# Files of other splits are not this module's, so that they are never removed.
SHARD_NAME = re.compile(rf"data/({'|'.join(SHORT_NAMES)})-\d{{5}}-of-\d{{5}}\.parquet")

# By cityscapesscripts/helpers/labels.py (of 4b832633e8ba), these label ids, of all 34, have the train ids 0 to 18. The
# licence plate, whose ids are both -1, is not part of images.
CITYSCAPES_LABEL_IDS = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
NUM_CITYSCAPES_LABEL_IDS = 34


class PreparationError(ValueError):
    """A download that cannot be made into a dataset. The message is meant for the user."""


@dataclass(frozen=True)
class Download:
    """
    How a download looks, and what becomes of it.

    Args:
        title (`str`): Name of the data set.
        homepage (`str`): Where its terms are.
        expected (`str`): The folders, for errors.
        num_images (`dict[str, int | None]`): Images in each split of the complete download; `None` if lists that come
            along tell which.
        label_set (`str`): Names of the labels.
        list_files (`Callable`): From the folder and a split, the image and label-map files; `None` without that split.
        relabel (`Callable`, *optional*): From a label-map file and what is stored in it, `(height, width)`, the
            labels. Default: files stay as they are.
        max_value (`int`): The largest value in what is written (other than 255).
        note (`str`): What users of the dataset must know of the labels.
    """

    title: str
    homepage: str
    expected: str
    num_images: dict[str, int | None]
    label_set: str
    list_files: Callable[[Path, str], list[tuple[Path, Path]] | None]
    max_value: int
    note: str
    relabel: Callable[[Path, np.ndarray], np.ndarray] | None = None


def _root(source: Path, name: str) -> Path:
    """The folder of that name in `source`, or `source` itself if that is it already."""
    return source / name if (source / name).is_dir() else source


def _list_ade20k(source: Path, split: str) -> list[tuple[Path, Path]] | None:
    name = {"train": "training", "validation": "validation"}[split]
    root = _root(source, "ADEChallengeData2016")
    images, annotations = root / "images" / name, root / "annotations" / name
    if not images.is_dir() and not annotations.is_dir():
        return None
    return match_files(images, annotations)


def _list_cityscapes(source: Path, split: str) -> list[tuple[Path, Path]] | None:
    name = SHORT_NAMES[split]
    images = source / "leftImg8bit" / name
    if not images.is_dir():
        return None
    pairs, missing = [], []
    for image in sorted(images.glob("*/*_leftImg8bit.png")):
        stem = image.name.removesuffix("_leftImg8bit.png")
        folder = source / "gtFine" / name / image.parent.name
        # Cityscapes' own scripts make the first of these, if they were run.
        files = [folder / f"{stem}_gtFine_{kind}.png" for kind in ("labelTrainIds", "labelIds")]
        annotation = next((file for file in files if file.is_file()), None)
        if annotation is None:
            missing.append(str(files[-1]))
        else:
            pairs.append((image, annotation))
    if missing:
        raise PreparationError(
            f"{len(missing)} label maps are missing: {name_some(missing)}. Unpack gtFine_trainvaltest.zip beside "
            "leftImg8bit_trainvaltest.zip."
        )
    return pairs


def _relabel_cityscapes(file: Path, stored: np.ndarray) -> np.ndarray:
    if file.name.endswith("_labelTrainIds.png"):
        return stored
    unknown = stored[(stored >= NUM_CITYSCAPES_LABEL_IDS) & (stored != IGNORE_INDEX)]
    if unknown.size:
        raise PreparationError(
            f"{file} holds {unknown[0]}, expected label ids up to {NUM_CITYSCAPES_LABEL_IDS - 1}: it is no label map "
            "of Cityscapes."
        )
    table = np.full(256, IGNORE_INDEX, dtype=np.uint8)
    table[CITYSCAPES_LABEL_IDS] = np.arange(len(CITYSCAPES_LABEL_IDS))
    return table[stored]


def _list_pascal_context(source: Path, split: str) -> list[tuple[Path, Path]] | None:
    root = _root(_root(source, "VOCdevkit"), "VOC2010")
    names = root / "ImageSets" / "SegmentationContext" / f"{SHORT_NAMES[split]}.txt"
    if not names.is_file():
        return None
    stems = names.read_text(encoding="utf-8").split()
    pairs = [
        (root / "JPEGImages" / f"{stem}.jpg", root / "SegmentationClassContext" / f"{stem}.png") for stem in stems
    ]
    missing = [str(file) for pair in pairs for file in pair if not file.is_file()]
    if missing:
        raise PreparationError(f"{len(missing)} files that {names} lists are missing: {name_some(missing)}.")
    return pairs


PASCAL_CONTEXT = {
    "title": "Pascal Context",
    "homepage": "https://cs.stanford.edu/~roozbeh/pascal-context/",
    "expected": """\
VOC2010/JPEGImages/2008_000002.jpg ...
VOC2010/SegmentationClassContext/2008_000002.png ... (labels 0 to 59, where 0 is background)
VOC2010/ImageSets/SegmentationContext/train.txt, val.txt
The last two are written by MMSegmentation's tools/dataset_converters/pascal_context.py from VOC 2010 and
trainval_merged.json, which this script does not read itself.""",
    "num_images": {"train": None, "validation": None},
    "list_files": _list_pascal_context,
    "max_value": 59,
}
DOWNLOADS = {
    "ade20k": Download(
        title="ADE20K (scene parsing benchmark, 150 classes)",
        homepage="https://sceneparsing.csail.mit.edu/",
        expected="""\
ADEChallengeData2016/images/training/ADE_train_00000001.jpg ... and images/validation/
ADEChallengeData2016/annotations/training/ADE_train_00000001.png ... and annotations/validation/""",
        num_images={"train": 20210, "validation": 2000},
        label_set="ade20k",
        list_files=_list_ade20k,
        max_value=150,
        note="In label maps, 0 is other and 1 to 150 are the classes: train with --do_reduce_labels.",
    ),
    "cityscapes": Download(
        title="Cityscapes (fine annotations)",
        homepage="https://www.cityscapes-dataset.com/license/",
        expected="""\
leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png ... and leftImg8bit/val/
gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png (or ..._labelTrainIds.png) ... and gtFine/val/""",
        num_images={"train": 2975, "validation": 500},
        label_set="cityscapes",
        list_files=_list_cityscapes,
        relabel=_relabel_cityscapes,
        max_value=18,
        note="In label maps, 0 to 18 are the classes and 255 is ignored.",
    ),
    "pascal_context_60": Download(
        **PASCAL_CONTEXT,
        label_set="pascal_context_60",
        note="In label maps, 0 is background, which is a class, and 1 to 59 are the others.",
    ),
    "pascal_context_59": Download(
        **PASCAL_CONTEXT,
        label_set="pascal_context_59",
        note="In label maps, 0 is background and 1 to 59 are the classes: train with --do_reduce_labels.",
    ),
}


@dataclass(frozen=True)
class Prepared:
    """
    What was written.

    Args:
        num_images (`dict[str, int]`): Images of each split.
        num_bytes (`int`): Size of the parquet files.
        warnings (`list[str]`): What users should know of the download.
    """

    num_images: dict[str, int]
    num_bytes: int
    warnings: list[str]


def prepare_dataset(
    name: str, source: str | Path, output_dir: str | Path, overwrite: bool = False, show_progress: bool = False
) -> Prepared:
    """
    Writes a download as parquet files, with label names and a card. `output_dir` is complete or not there, and what an
    interrupted run left is made anew: see [`~segmenter_hf.output_folders.replacing_folder`].

    Args:
        name (`str`): One of `DOWNLOADS`.
        source (`str` or `Path`): The folder of the download.
        output_dir (`str` or `Path`): Folder to write, which `load_dataset` reads.
        overwrite (`bool`, *optional*, defaults to `False`): Whether to replace a dataset that this function wrote
            there before. A folder with anything else in it is never replaced.
        show_progress (`bool`, *optional*, defaults to `False`): Whether to show a progress bar.

    Raises:
        OutputError: if `output_dir` cannot be written.
        PreparationError: if files are missing, or are not those of the data set; the message says how they should be.
    """
    download, source, output_dir = DOWNLOADS[name], Path(source), Path(output_dir)
    with replacing_folder(output_dir, TEMPORARY_PREFIX, lambda: check_dataset_folder(output_dir, overwrite)) as folder:
        splits = find_splits(download, source)
        with tqdm(
            total=sum(map(len, splits.values())), desc=download.title, unit="image", disable=not show_progress
        ) as progress:
            # Only what is written can fail here: files that cannot be read raise a PreparationError.
            with refuse_unwritable(output_dir):
                (folder / "data").mkdir(parents=True)
                for split, pairs in splits.items():
                    write_shards(folder / "data", split, _encode(download, pairs, progress))
                write_text(
                    folder / LABELS_FILE, json.dumps(load_label_set(download.label_set).id2label, indent=2) + "\n"
                )
                write_text(folder / CARD_FILE, make_dataset_card(download, splits))
        num_bytes = sum(file.stat().st_size for file in (folder / "data").iterdir())
    num_images = {split: len(pairs) for split, pairs in splits.items()}
    return Prepared(num_images, num_bytes, describe_incomplete(download, num_images))


def check_dataset_folder(output_dir: Path, overwrite: bool):
    """
    Raises:
        PreparationError: if files would be lost with a folder: it is not empty, or with `overwrite`, holds anything
            but a dataset that was prepared.
    """
    if not output_dir.is_dir() or not any(output_dir.iterdir()):
        return
    if not overwrite:
        raise PreparationError(f"{output_dir} is not empty. Name another folder, or pass --overwrite.")
    paths, data = list(output_dir.iterdir()), output_dir / "data"
    if data.is_dir() and not data.is_symlink():
        paths += data.iterdir()
    is_prepared = (output_dir / CARD_FILE).is_file()
    foreign = sorted(
        path.relative_to(output_dir).as_posix()
        for path in paths
        if not (is_prepared and _is_written(path, output_dir))
    )
    if foreign:
        raise PreparationError(
            f"{output_dir} has other files than those that this script writes, so it is not overwritten: "
            f"{name_some(foreign)}. Name another folder, or move them away."
        )


def _is_written(path: Path, folder: Path) -> bool:
    """Whether `prepare_dataset` writes a file, or folder, of that name, and with it is all that would be lost."""
    name = path.relative_to(folder).as_posix()
    if path.is_symlink() or not path.is_file():
        return name == "data" and path.is_dir() and not path.is_symlink()
    if name == CARD_FILE:
        return CARD_MARK in path.read_text(encoding="utf-8", errors="replace")
    return name == LABELS_FILE or SHARD_NAME.fullmatch(name) is not None


def find_splits(download: Download, source: Path) -> dict[str, list[tuple[Path, Path]]]:
    """
    Image and label-map files of each split.

    Raises:
        PreparationError: if there are none, or some have no partner.
    """
    splits = {}
    for split in download.num_images:
        try:
            pairs = download.list_files(source, split)
        except ValueError as error:
            raise PreparationError(f"{error}\nExpected layout of {download.title}:\n{download.expected}") from error
        if pairs:
            splits[split] = pairs
    if not splits:
        problem = "does not have the files" if source.is_dir() else "is no folder"
        raise PreparationError(
            f"{source} {problem} of {download.title}. Expected, with SOURCE the folder in which it begins:\n"
            f"{download.expected}"
        )
    return splits


def describe_incomplete(download: Download, num_images: dict[str, int]) -> list[str]:
    """A sentence for each split that does not have the images of the complete download."""
    return [
        f"The {split} split has {num_images.get(split, 0)} images, the complete download has {expected or 'some'}."
        for split, expected in download.num_images.items()
        if num_images.get(split, 0) != (expected or num_images.get(split))
    ]


def _encode(download: Download, pairs: Iterable[tuple[Path, Path]], progress: tqdm) -> Iterator[dict]:
    """The rows of a split: files as they are, but for label maps whose labels change."""
    for image, annotation in pairs:
        try:
            image_bytes, annotation_bytes = read_bytes(image), read_bytes(annotation)
            header = read_image_file(image_bytes, with_pixels=False)
            # The indices are the labels of PNG files with a palette too.
            stored = np.asarray(read_image_file(annotation_bytes).pixels)
        except (OSError, ValueError) as error:
            raise PreparationError(f"{image} or {annotation} cannot be read: {error}. Unpack both again.") from error
        size = header.height, header.width
        if stored.dtype != np.uint8 or stored.shape != size:
            raise PreparationError(
                f"{annotation} has {stored.dtype} values of shape {stored.shape}, expected one of 8 bits for each "
                f"pixel of {image}, shape {size}: it is no label map of {download.title}."
            )
        if download.relabel is not None:
            stored = download.relabel(annotation, stored)
            buffer = io.BytesIO()
            PILImage.fromarray(stored).save(buffer, format="PNG")
            annotation_bytes = buffer.getvalue()
        largest = int(stored[stored != IGNORE_INDEX].max(initial=0))
        if largest > download.max_value:
            raise PreparationError(
                f"{annotation} holds {largest}, expected at most {download.max_value}: it is no label map of "
                f"{download.title}."
            )
        yield {
            "image": {"bytes": image_bytes, "path": _in_utf_8(image.name)},
            "annotation": {"bytes": annotation_bytes, "path": _in_utf_8(annotation.name)},
        }
        progress.update()


def _in_utf_8(name: str) -> str:
    """The name of a file, with what is not UTF-8 in it escaped."""
    return name.encode(errors="backslashreplace").decode()


def write_shards(folder: Path, split: str, rows: Iterable[dict]) -> list[Path]:
    """Writes rows to parquet files named as on the Hub, `train-00000-of-00003.parquet`, keeping few in memory."""
    # The schema has the metadata by which `datasets` knows that these are images.
    schema = Features({"image": Image(), "annotation": Image()}).arrow_schema
    shards, writer, group, group_bytes, shard_bytes = [], None, [], 0, 0

    def flush():
        nonlocal writer, group, group_bytes, shard_bytes
        if not group:
            return
        if writer is None:
            shards.append(folder / f"{split}-{len(shards):05d}.parquet")
            # Compressed files do not repeat, so that a dictionary of them would only take memory.
            writer = pq.ParquetWriter(shards[-1], schema, use_dictionary=False)
        writer.write_table(pa.Table.from_pylist(group, schema=schema))
        shard_bytes += group_bytes
        group, group_bytes = [], 0
        if shard_bytes >= BYTES_PER_SHARD:
            writer.close()
            writer, shard_bytes = None, 0

    try:
        for row in rows:
            group.append(row)
            group_bytes += sum(len(value["bytes"]) for value in row.values())
            if len(group) >= ROWS_PER_GROUP or group_bytes >= BYTES_PER_GROUP:
                flush()
        flush()
    finally:
        if writer is not None:
            writer.close()
    # Names have the number of shards, which is known only now.
    return [
        shard.rename(folder / f"{split}-{index:05d}-of-{len(shards):05d}.parquet")
        for index, shard in enumerate(shards)
    ]


def make_dataset_card(download: Download, splits: Iterable[str]) -> str:
    """The dataset's README.md: which files are which split, and where its terms are."""
    files = "".join(f"  - split: {split}\n    path: data/{split}-*.parquet\n" for split in splits)
    return (
        "---\ntask_categories:\n- image-segmentation\nconfigs:\n- config_name: default\n  data_files:\n"
        f"{files}---\n\n# {download.title}\n\n"
        f"{CARD_MARK} from the official download. {download.note} The names of labels are in `{LABELS_FILE}`.\n\n"
        f"The terms of the data apply: {download.homepage}\n"
    )


__all__ = ["DOWNLOADS", "Download", "Prepared", "PreparationError", "prepare_dataset"]
