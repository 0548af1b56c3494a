"""Small datasets in the layouts that are read, made of real files. Images are noise, label maps have blocks."""

import json
from pathlib import Path

import numpy as np
from PIL import Image


def make_image(height: int = 40, width: int = 60, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def make_label_map(values=(0, 1, 2), height: int = 40, width: int = 60, dtype=np.uint8) -> Image.Image:
    """Columns of equal width, one for each value."""
    columns = np.array(values, dtype=dtype)[np.arange(width) * len(values) // width]
    return Image.fromarray(np.broadcast_to(columns, (height, width)).copy())


def save(image: Image.Image, path: Path, **settings) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **settings)
    return path


def write_pairs(folder: Path, images: str, annotations: str, number: int = 2, values=(0, 1, 2)) -> Path:
    """`number` images and label maps in two folders of `folder`, and label names in it."""
    for index in range(number):
        save(make_image(seed=index), folder / images / f"{index}.jpg")
        save(make_label_map(values), folder / annotations / f"{index}.png")
    (folder / "id2label.json").write_text(json.dumps(["sky", "road", "car"]), encoding="utf-8")
    return folder


def write_ade20k(folder: Path, num_train: int = 3, num_validation: int = 2) -> Path:
    for split, short, number in (("training", "train", num_train), ("validation", "val", num_validation)):
        for index in range(1, number + 1):
            name = f"ADE_{short}_{index:08d}"
            save(make_image(seed=index), folder / "images" / split / f"{name}.jpg")
            save(make_label_map((0, 1, 150)), folder / "annotations" / split / f"{name}.png")
    return folder


def write_cityscapes(folder: Path, kind: str = "labelIds", values=range(34)) -> Path:
    for split, city in (("train", "aachen"), ("train", "bochum"), ("val", "lindau")):
        stem = f"{city}_000000_000019"
        save(make_image(width=68), folder / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png")
        annotation = folder / "gtFine" / split / city / f"{stem}_gtFine_{kind}.png"
        save(make_label_map(tuple(values), width=68), annotation)
    save(make_image(), folder / "leftImg8bit" / "test" / "berlin" / "berlin_000000_000019_leftImg8bit.png")
    return folder


def write_pascal_context(folder: Path) -> Path:
    root = folder / "VOC2010"
    for split, stems in (("train", ["2008_000002", "2008_000003"]), ("val", ["2008_000007"])):
        for stem in stems:
            save(make_image(), root / "JPEGImages" / f"{stem}.jpg")
            save(make_label_map((0, 1, 59)), root / "SegmentationClassContext" / f"{stem}.png")
        names = root / "ImageSets" / "SegmentationContext" / f"{split}.txt"
        names.parent.mkdir(parents=True, exist_ok=True)
        names.write_text("\n".join(stems) + "\n", encoding="utf-8")
    # VOC has this photo, and Pascal Context does not.
    save(make_image(), root / "JPEGImages" / "2008_000099.jpg")
    return folder
