"""
Folders of image files and label-map files, in one of three layouts, with a label map for each image:

    D/train/images, D/train/annotations, D/validation/images, D/validation/annotations
    D/images/training, D/annotations/training, D/images/validation, D/annotations/validation
    D/images, D/annotations

An image and its label map have the same name but for the suffix, and for usual endings: `street_leftImg8bit.png` and
`street_gtFine_labelTrainIds.png`, or `street.jpg` and `street_mask.png`. Both may lie in subfolders of the same name.
"""

import os
import unicodedata
from pathlib import Path

from datasets import Dataset, DatasetDict, Features, Image


LAYOUTS = __doc__.split("\n\n")[1]
# In lower case. The last of each are MMSegmentation's.
IMAGE_FOLDERS = ("images", "image", "img", "imgs", "img_dir")
ANNOTATION_FOLDERS = (
    *("annotations", "annotation", "labels", "label", "masks", "mask", "segmentations", "groundtruth", "gt"),
    "ann_dir",
)
# As `datasets` calls them.
SPLIT_NAMES = {
    "training": "train",
    **dict.fromkeys(("val", "valid", "dev"), "validation"),
    **dict.fromkeys(("testing", "eval", "evaluation"), "test"),
}
KNOWN_SPLITS = {"train", "validation", "test"}
SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
# Of names of images and of label maps without suffix, in lower case, the longer ones first.
IMAGE_ENDINGS = ("_leftimg8bit", "_image", "_img", "_sat", "_rgb")
ANNOTATION_ENDINGS = (
    *("_gtfine_labeltrainids", "_gtfine_labelids", "_labeltrainids", "_labelids"),
    *("_segmentation", "_annotation", "_groundtruth", "_labels", "_label", "_mask", "_seg", "_gt", "_l"),
)
MAX_NAMED_FILES = 5


def canonical_split(name: str) -> str:
    """What `datasets` calls a split of this name; other names are left as they are."""
    lower = name.lower()
    return SPLIT_NAMES.get(lower, lower if lower in KNOWN_SPLITS else name)


def find_pairs(folder: str | Path) -> dict[str, list[tuple[Path, Path]]] | None:
    """
    Image and label-map files of each split, by name; `None` if the folder has none of the layouts. A folder that has
    one of them inside, and nothing else of the kind, is as good.

    Raises:
        ValueError: if an image has no label map, or a label map no image; the message names them.
    """
    folder = Path(folder)
    found = _find_folders(folder)
    if found is None:
        subfolders = {each: _find_folders(each) for each in _subfolders(folder)}
        subfolders = {each: pair for each, pair in subfolders.items() if pair is not None}
        if len(subfolders) == 1:
            (inner,) = subfolders
            if canonical_split(inner.name) not in KNOWN_SPLITS:
                return find_pairs(inner)
        splits = {each.name: pair for each, pair in subfolders.items()}
    else:
        # Splits inside are those that both have; other subfolders are part of the files' names.
        names = [{each.name for each in _subfolders(side)} for side in found]
        inside = [name for name in sorted(names[0] | names[1]) if canonical_split(name) in KNOWN_SPLITS]
        # Test images are often published without label maps.
        inside = [name for name in inside if name in names[1] or canonical_split(name) != "test"]
        splits = {name: (found[0] / name, found[1] / name) for name in inside} or {"train": found}
    if not splits:
        return None
    pairs = {}
    for name, (images, annotations) in splits.items():
        split = canonical_split(name)
        if split in pairs:
            raise ValueError(f"{folder} has two folders of the {split} split. Rename or remove one.")
        pairs[split] = match_files(images, annotations)
    # `train` first, as readers expect.
    return dict(sorted(pairs.items(), key=lambda item: (item[0] != "train", item[0])))


def _subfolders(folder: Path) -> list[Path]:
    return sorted(each for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))


def _find_folders(folder: Path) -> tuple[Path, Path] | None:
    """The folders of images and of label maps in a folder, if both are there."""
    names = [each.name for each in _subfolders(folder)]
    images = [name for name in names if name.lower() in IMAGE_FOLDERS]
    annotations = [name for name in names if name.lower() in ANNOTATION_FOLDERS]
    if not images or not annotations:
        return None
    if len(images) > 1 or len(annotations) > 1:
        raise ValueError(
            f"{folder} has several folders that could hold the images ({images}) or the label maps ({annotations}). "
            "Move the others elsewhere."
        )
    return folder / images[0], folder / annotations[0]


def match_files(images: str | Path, annotations: str | Path) -> list[tuple[Path, Path]]:
    """
    The image files below a folder, each with the label map of its name below another.

    Raises:
        ValueError: if there are none, or some are left over, or two have one name.
    """
    folders = [Path(images), Path(annotations)]
    files = [_list_files(folder) for folder in folders]
    for folder, names in zip(folders, files, strict=True):
        if not names:
            raise ValueError(
                f"{folder} has no image files (of the types {', '.join(sorted(SUFFIXES))}). Add them, or remove the "
                "folder."
            )
    by_name = [_by_key(folder, names, ()) for folder, names in zip(folders, files, strict=True)]
    if by_name[0].keys() != by_name[1].keys():
        endings = (IMAGE_ENDINGS, ANNOTATION_ENDINGS)
        without = [_by_key(*each) for each in zip(folders, files, endings, strict=True)]
        by_name = min(by_name, without, key=lambda sides: len(sides[0].keys() ^ sides[1].keys()))
    for side, what in enumerate(("images have no label map", "label maps have no image")):
        alone = [str(folders[side] / by_name[side][key]) for key in by_name[side].keys() - by_name[1 - side].keys()]
        if alone:
            raise ValueError(
                f"{len(alone)} {what} of the same name (but for the suffix, and endings like _mask) in "
                f"{folders[1 - side]}: {name_some(sorted(alone))}. Add what is missing, or remove these."
            )
    return [(folders[0] / file, folders[1] / by_name[1][key]) for key, file in sorted(by_name[0].items())]


def _list_files(folder: Path) -> list[str]:
    """
    Paths in the folder of its image files.

    Raises:
        ValueError: if some are links to what is not there.
    """
    files, broken = [], []
    for root, subfolders, names in os.walk(folder, followlinks=True):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in names:
            if name.startswith(".") or os.path.splitext(name)[1].lower() not in SUFFIXES:
                continue
            path = os.path.join(root, name)
            files.append(os.path.relpath(path, folder))
            if not os.path.exists(path):
                broken.append(path)
    if broken:
        raise ValueError(
            f"{len(broken)} links lead to files that are not there: {name_some(sorted(broken))}. Mend or remove them."
        )
    return sorted(files)


def _by_key(folder: Path, files: list[str], endings: tuple[str, ...]) -> dict[str, str]:
    """Files by what an image and its label map have in common: the path without the suffix, and without an ending."""
    found = {}
    for file in files:
        # One and the same letter may be stored in two ways, by the system that a file is from.
        key = unicodedata.normalize("NFC", os.path.splitext(file)[0])
        if endings:
            # Some tools append a suffix instead of replacing it.
            stem, suffix = os.path.splitext(key)
            key = stem if suffix.lower() in SUFFIXES else key
            key = next((key[: -len(each)] for each in endings if key.lower().endswith(each)), key)
        if key in found:
            raise ValueError(
                f"{folder / found[key]} and {folder / file} have the same name but for the suffix or ending. Remove "
                "one of them."
            )
        found[key] = file
    return found


def name_some(names: list[str]) -> str:
    """The first few of some names, and how many more there are."""
    rest = len(names) - MAX_NAMED_FILES
    return ", ".join(names[:MAX_NAMED_FILES]) + (f" and {rest} more" if rest > 0 else "")


def load_pairs(folder: str | Path) -> DatasetDict | None:
    """Columns `image` and `annotation` that refer to the files, which are not copied; `None` for other layouts."""
    # So that they are found from other working folders, as of workers, too.
    pairs = find_pairs(Path(folder).resolve())
    if pairs is None:
        return None
    # No mode: converting would turn the indices of palette files into greys, and clip 16 bits to 8.
    features = Features({"image": Image(), "annotation": Image()})
    return DatasetDict(
        {
            split: Dataset.from_dict(
                {
                    "image": [str(image) for image, _ in files],
                    "annotation": [str(annotation) for _, annotation in files],
                },
                features=features,
            )
            for split, files in pairs.items()
        }
    )


__all__ = ["LAYOUTS", "canonical_split", "find_pairs", "load_pairs", "match_files", "name_some"]
