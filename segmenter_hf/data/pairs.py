"""
Folders of image files and label-map files, in one of three layouts, with a label map for each image:

    D/train/images, D/train/annotations, D/validation/images, D/validation/annotations
    D/images/training, D/annotations/training, D/images/validation, D/annotations/validation
    D/images, D/annotations

An image and its label map have the same name but for the suffix, and for usual endings: `street_leftImg8bit.png` and
`street_gtFine_labelTrainIds.png`, or `street.jpg` and `street_mask.png`. Both may lie in subfolders of the same name.
"""

import logging
import os
import re
import unicodedata
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, Features, Image

from ..inputs import irregular_kind


logger = logging.getLogger(__name__)

LAYOUTS = __doc__.split("\n\n")[1]
# Names are in lower case. The last of each are MMSegmentation's.
IMAGE_FOLDERS = ("images", "image", "img", "imgs", "img_dir")
ANNOTATION_FOLDERS = tuple(
    "annotations annotation labels label masks mask segmentations groundtruth gt ann_dir".split()
)
# `datasets` calls splits by the names on the right.
SPLIT_NAMES = {
    "training": "train",
    **dict.fromkeys(("val", "valid", "dev"), "validation"),
    **dict.fromkeys(("testing", "eval", "evaluation"), "test"),
}
KNOWN_SPLITS = {"train", "validation", "test"}
# Names of splits, in lower case, begin like these or have them as words inside.
SPLIT_WORDS = {
    "train": re.compile("^train|(?<![a-z])(train(ing)?|trn)(?![a-z])"),
    "validation": re.compile("^val|(?<![a-z])(val(id(ation)?)?|vld|dev(set)?)(?![a-z])"),
    "test": re.compile("^test|(?<![a-z])(test(ing)?|tst|eval(set|uation)?)(?![a-z])"),
}
SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
# Names of images and of label maps, in lower case and without suffix, may end like these. Longer endings come first.
IMAGE_ENDINGS = ("_leftimg8bit", "_image", "_img", "_sat", "_rgb")
ANNOTATION_ENDINGS = tuple(
    "_gtfine_labeltrainids _gtfine_labelids _labeltrainids _labelids _segmentation _annotation _groundtruth _labels "
    "_label _mask _seg _gt _l".split()
)
MAX_NAMED_FILES = 5


def canonical_split(name: str) -> str:
    """What `datasets` calls a split of this name; other names are left as they are."""
    lower = name.lower()
    return SPLIT_NAMES.get(lower, lower if lower in KNOWN_SPLITS else name)


def similar_split(name: str) -> str | None:
    """The split that a name looks like: `train2017`, `my-trn`, `val_set`, `TestImages`; `None` for other names."""
    # Capitals begin words too.
    words = re.sub("(?<=[a-z])(?=[A-Z])", "_", name).lower()
    return next((split for split, pattern in SPLIT_WORDS.items() if pattern.search(words)), None)


def find_pairs(
    folder: str | Path, named_splits: Collection[str] = (), allow_others: bool = False
) -> dict[str, list[tuple[Path, Path]]] | None:
    """
    Image and label-map files of each split, by name; `None` if the folder has none of the layouts. A folder that has
    one of them inside, and nothing else of the kind, is as good.

    Where the name of a folder looks like a split's, all beside it are splits. Where none does, they are parts of one.

    Args:
        folder (`str` or `Path`): The folder.
        named_splits (`Collection[str]`, *optional*): Names of splits beside those that are known.
        allow_others (`bool`, *optional*, defaults to `False`): Whether there may be splits of other names.

    Raises:
        ValueError: if an image has no label map, or a label map no image; if splits have names that say nothing, or
            would be left out. The message names them.
    """
    folder = Path(folder)

    def is_split(name: str) -> bool:
        return name in named_splits or similar_split(name) is not None

    sides = _find_folders(folder)
    if sides is not None:
        splits = _find_splits_inside(sides)
        for other in _subfolders(folder):
            if other not in sides and is_split(other.name) and _find_folders(other) is not None:
                raise ValueError(
                    f"{folder} has {sides[0].name} and {sides[1].name}, and others in {other.name}. Move either "
                    f"elsewhere, or all into one of these layouts:\n{LAYOUTS}"
                )
    else:
        found = {each: _find_folders(each) for each in _subfolders(folder)}
        splits = _by_split({each: pair for each, pair in found.items() if pair is not None})
        if not splits:
            return None
        for each, pair in found.items():
            if pair is None and is_split(each.name) and _has_images(each):
                if similar_split(each.name) != "test":
                    raise ValueError(
                        f"{each} looks like a split, but does not have both a folder of images and one of label maps, "
                        f"like {IMAGE_FOLDERS[0]} and {ANNOTATION_FOLDERS[0]}. Rename its folders, or move it "
                        "elsewhere."
                    )
                logger.info("%s is left out: it has no folders of images and of label maps.", each)
        if len(splits) == 1 and not any(map(is_split, splits)):
            return find_pairs(next(iter(splits.values()))[0].parent, named_splits, allow_others)

    alike = [name for name in splits if is_split(name)]
    if not alike:
        if splits:
            logger.info("%s: the folders %s are taken for parts of one split.", folder, name_some(sorted(splits)))
        parts = [sides] if sides is not None else list(splits.values())
        return {"train": [pair for part in parts for pair in _match_split(part, None)]}
    splits = {name: part for name, part in splits.items() if name in KNOWN_SPLITS or any(map(_has_images, part))}
    unknown = [name for name in splits if name not in KNOWN_SPLITS and name not in named_splits]
    if unknown and not allow_others:
        raise ValueError(_explain_unknown(folder, unknown, alike))
    loose = [str(file) for side in sides or () for file in side.iterdir() if _is_image(file)]
    if loose:
        raise ValueError(
            f"{len(loose)} files lie beside the folders of splits, in none of them: {name_some(sorted(loose))}. Move "
            "them into one, or elsewhere."
        )
    # Readers expect `train` first.
    names = sorted(splits, key=lambda name: (name != "train", name))
    return {name: _match_split(splits[name], name) for name in names}


def _find_splits_inside(sides: tuple[Path, Path]) -> dict[str, tuple[Path, Path]]:
    """The folders in one of images and in one of label maps, by split, of which either may not be there."""
    images, annotations = (_by_split({each: each for each in _subfolders(side)}) for side in sides)
    names = sorted(images.keys() | annotations.keys())
    # Test images are often published without label maps.
    tests = [name for name in names if similar_split(name) == "test" and name not in annotations]
    for name in tests if len(names) > len(tests) else []:
        logger.info("%s is left out: there are no label maps for it.", images[name])
        names.remove(name)
    splits = {}
    for name in names:
        folder = (images.get(name) or annotations[name]).name
        splits[name] = images.get(name, sides[0] / folder), annotations.get(name, sides[1] / folder)
    return splits


def _by_split(folders: Mapping[Path, Any]) -> dict[str, Any]:
    """What belongs to each folder, by what the split of its name is called."""
    found = {}
    for folder, value in folders.items():
        split = canonical_split(folder.name)
        if split in found:
            raise ValueError(f"{folder.parent} has two folders of the {split} split. Rename or remove one.")
        found[split] = value
    return found


def _match_split(part: tuple[Path, Path], split: str | None) -> list[tuple[Path, Path]]:
    """The files of a split; `None` is one of which no folder has the name. Refuses other splits inside of it."""
    pairs = match_files(*part)
    for image, _ in pairs:
        for name in image.relative_to(part[0]).parts[:-1]:
            if canonical_split(name) in KNOWN_SPLITS - {split} if split is not None else similar_split(name):
                raise ValueError(
                    f"{image} lies in a folder {name}, which looks like a split, inside of {part[0]}, which is one or "
                    f"a part of one. Move the files into one of these layouts:\n{LAYOUTS}"
                )
    return pairs


def _explain_unknown(folder: Path, unknown: list[str], alike: list[str]) -> str:
    named = [name for name in unknown if name in alike]
    remedy = ""
    if named:
        remedy = f" If {', '.join(named)} should be part of a split, find a name that does not look like one."
    flags = [
        f"--{split}_split {name}"
        for split in ("train", "validation")
        for name in [each for each in unknown if similar_split(each) == split][:1]
    ]
    example = f" (as in {' '.join(flags)})" if flags else ""
    return (
        f"{folder} has folders of splits, of which these have names that do not say which: {', '.join(unknown)}. Name "
        f"those to use with --train_split and --validation_split{example}, rename them to train, validation or test, "
        f"or move them elsewhere.{remedy}"
    )


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES and not file.name.startswith(".")


def _has_images(folder: Path) -> bool:
    return any(_is_image(Path(name)) for _, _, names in os.walk(folder, followlinks=True) for name in names)


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
    for folder, names, other in zip(folders, files, folders[::-1], strict=True):
        if not folder.is_dir():
            raise ValueError(f"There is no folder {folder} to go with {other}. Add it, or move the other elsewhere.")
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
        ValueError: if some are links to what is not there, or no regular files.
    """
    files, broken, irregular = [], [], []
    for root, subfolders, names in os.walk(folder, followlinks=True):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in names:
            if name.startswith(".") or os.path.splitext(name)[1].lower() not in SUFFIXES:
                continue
            path = os.path.join(root, name)
            files.append(os.path.relpath(path, folder))
            if not os.path.isfile(path):
                (irregular if os.path.exists(path) else broken).append(path)
    if broken:
        raise ValueError(
            f"{len(broken)} links lead to files that are not there: {name_some(sorted(broken))}. Mend or remove them."
        )
    if irregular:
        names = [f"{path} ({irregular_kind(path)})" for path in sorted(irregular)]
        raise ValueError(f"{len(names)} files are no regular files: {name_some(names)}. Replace or remove them.")
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


def load_pairs(
    folder: str | Path, named_splits: Collection[str] = (), allow_others: bool = False
) -> DatasetDict | None:
    """
    Columns `image` and `annotation` that refer to the files, which are not copied; `None` for other layouts. The
    arguments are those of [`find_pairs`].
    """
    # Paths are absolute, so that files are found from other working folders, as of workers, too.
    pairs = find_pairs(Path(folder).resolve(), named_splits, allow_others)
    if pairs is None:
        return None
    for path in (path for files in pairs.values() for pair in files for path in pair):
        try:
            str(path).encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"The path {str(path)!a} is not UTF-8, which `datasets` needs. Rename it.") from error
    # The features have no mode, which would turn the indices of palette files into greys, and clip 16 bits to 8.
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


__all__ = [
    "LAYOUTS",
    "canonical_split",
    "find_pairs",
    "load_pairs",
    "match_files",
    "name_some",
    "similar_split",
]
