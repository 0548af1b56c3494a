"""
Folders of image files and label-map files, in one of three layouts, with a label map for each image:

    D/train/images, D/train/annotations, D/validation/images, D/validation/annotations
    D/images/training, D/annotations/training, D/images/validation, D/annotations/validation
    D/images, D/annotations

An image and its label map have the same name but for the suffix; both may lie in subfolders of the same name.
"""

from pathlib import Path

from datasets import Dataset, DatasetDict, Features, Image


LAYOUTS = __doc__.split("\n\n")[1]
IMAGE_FOLDERS = ("images", "image", "img", "imgs")
ANNOTATION_FOLDERS = ("annotations", "annotation", "labels", "label", "masks", "mask", "segmentations")
# As `datasets` calls them.
SPLIT_NAMES = {"training": "train", "val": "validation", "valid": "validation", "dev": "validation", "testing": "test"}
KNOWN_SPLITS = {"train", "validation", "test"}
SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
MAX_NAMED_FILES = 5


def find_pairs(folder: str | Path) -> dict[str, list[tuple[Path, Path]]] | None:
    """
    Image and label-map files of each split, by name; `None` if the folder has none of the layouts.

    Raises:
        ValueError: if an image has no label map, or a label map no image; the message names them.
    """
    folder = Path(folder)
    found = _find_folders(folder)
    if found is None:
        subfolders = {each.name: _find_folders(each) for each in _subfolders(folder)}
        splits = {name: pair for name, pair in subfolders.items() if pair is not None}
    else:
        # Splits inside are those that both have; other subfolders are part of the files' names.
        names = [{each.name for each in _subfolders(side)} for side in found]
        inside = [name for name in sorted(names[0] | names[1]) if SPLIT_NAMES.get(name, name) in KNOWN_SPLITS]
        # Test images are often published without label maps.
        inside = [name for name in inside if name in names[1] or SPLIT_NAMES.get(name, name) != "test"]
        splits = {name: (found[0] / name, found[1] / name) for name in inside} or {"train": found}
    if not splits:
        return None
    pairs = {}
    for name, (images, annotations) in splits.items():
        split = SPLIT_NAMES.get(name, name)
        if split in pairs:
            raise ValueError(f"{folder} has two folders of the {split} split. Rename or remove one.")
        pairs[split] = match_files(images, annotations)
    # `train` first, as readers expect.
    return dict(sorted(pairs.items(), key=lambda item: (item[0] != "train", item[0])))


def _subfolders(folder: Path) -> list[Path]:
    return sorted(each for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))


def _find_folders(folder: Path) -> tuple[Path, Path] | None:
    """The folders of images and of label maps in a folder, if both are there."""
    names = {each.name for each in _subfolders(folder)}
    images = [name for name in IMAGE_FOLDERS if name in names]
    annotations = [name for name in ANNOTATION_FOLDERS if name in names]
    if not images or not annotations:
        return None
    if len(images) > 1 or len(annotations) > 1:
        raise ValueError(
            f"{folder} has several folders that could hold the images ({images}) or the label maps ({annotations}). "
            "Move the others elsewhere."
        )
    return folder / images[0], folder / annotations[0]


def match_files(images: Path, annotations: Path) -> list[tuple[Path, Path]]:
    """
    The image files below a folder, each with the label map of its name below another.

    Raises:
        ValueError: if there are none, or some are left over, or two have one name.
    """
    sides = [_list_files(images), _list_files(annotations)]
    for folder, files, others in zip((images, annotations), sides, reversed(sides), strict=True):
        if not files:
            raise ValueError(f"{folder} has no image files (of the types {', '.join(sorted(SUFFIXES))}).")
        alone = sorted(str(file) for name, file in files.items() if name not in others)
        if alone:
            what = "images have no label map" if folder == images else "label maps have no image"
            other = annotations if folder == images else images
            raise ValueError(
                f"{len(alone)} {what} of the same name (but for the suffix) in {other}: {name_some(alone)}. Add what "
                "is missing, or remove these."
            )
    return [(file, sides[1][name]) for name, file in sorted(sides[0].items())]


def _list_files(folder: Path) -> dict[str, Path]:
    """Path in the folder without the suffix, to the file."""
    files = {}
    for file in sorted(folder.rglob("*")) if folder.is_dir() else []:
        name = str(file.relative_to(folder).with_suffix(""))
        if file.suffix.lower() not in SUFFIXES or file.name.startswith(".") or not file.is_file():
            continue
        if name in files:
            raise ValueError(f"{files[name]} and {file} have the same name but for the suffix. Remove one of them.")
        files[name] = file
    return files


def name_some(names: list[str]) -> str:
    """The first few of some names, and how many more there are."""
    rest = len(names) - MAX_NAMED_FILES
    return ", ".join(names[:MAX_NAMED_FILES]) + (f" and {rest} more" if rest > 0 else "")


def load_pairs(folder: str | Path) -> DatasetDict | None:
    """Columns `image` and `annotation` that refer to the files, which are not copied; `None` for other layouts."""
    pairs = find_pairs(folder)
    if pairs is None:
        return None
    # No mode: converting would turn the indices of palette files into greys, and clip 16 bits to 8.
    features = Features({"image": Image(), "annotation": Image()})
    return DatasetDict(
        {
            split: Dataset.from_dict(
                {
                    "image": [str(image.resolve()) for image, _ in files],
                    "annotation": [str(annotation.resolve()) for _, annotation in files],
                },
                features=features,
            )
            for split, files in pairs.items()
        }
    )


__all__ = ["LAYOUTS", "find_pairs", "load_pairs", "match_files"]
