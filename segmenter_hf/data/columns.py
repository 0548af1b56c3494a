"""Which columns of a dataset hold the images and the label maps."""

from pathlib import Path

from datasets import Array2D, Features, Image, LargeList, List, Sequence, Value

from .examples import ColumnNames
from .pairs import SUFFIXES


# Names are in lower case, without underscores and the like; none is in both sets. The last two of images are those of
# WebDataset, which calls columns by the suffix of their files.
IMAGE_NAMES = set("image images img imgs pixelvalues picture photo rgb leftimage inputimage jpg jpeg".split())
ANNOTATION_NAMES = set(
    "annotation annotations label labels labelmap labelmaps mask masks segmentation segmentationmask segmentationmap "
    "segmask segmap semanticseg semseg semanticmask semanticsegmentation semanticlabel semanticlabels groundtruth gt "
    "target seg".split()
)


def is_image_feature(feature) -> bool:
    """
    Whether a column can be read as images: `Image`, or what parquet files that `datasets` did not write have in its
    place, encoded bytes with or without a path.
    """
    if isinstance(feature, Image):
        return True
    if isinstance(feature, dict):
        return set(feature) in ({"bytes"}, {"bytes", "path"}) and is_image_feature(feature["bytes"])
    return isinstance(feature, Value) and feature.dtype in ("binary", "large_binary")


def is_array_feature(feature) -> bool:
    """Whether a column holds rows of whole numbers, as label maps that are stored as arrays do."""
    if isinstance(feature, Array2D):
        return _is_whole(feature.dtype)
    depth = 0
    while isinstance(feature, (List, LargeList, Sequence)):
        feature, depth = feature.feature, depth + 1
    return depth == 2 and isinstance(feature, Value) and _is_whole(feature.dtype)


def _is_whole(dtype: str) -> bool:
    return dtype.startswith(("int", "uint", "bool"))


def _is_known(name: str, names: set[str]) -> bool:
    # Columns of WebDataset may end in a suffix.
    name = name[: -len(suffix)] if (suffix := Path(name).suffix.lower()) in SUFFIXES else name
    return "".join(filter(str.isalnum, name.lower())) in names


def find_columns(
    features: Features, image_column: str | None = None, annotation_column: str | None = None, source: str = "dataset"
) -> ColumnNames:
    """
    The columns of images and of label maps: those that are named, or else those whose names and types tell. A column
    of images with an unknown name is taken when it is the only one left.

    Args:
        features (`Features`): The columns and their types.
        image_column (`str`, *optional*): Column of the images, if known.
        annotation_column (`str`, *optional*): Column of the label maps, if known.
        source (`str`, *optional*): Where the columns are from, for errors.

    Raises:
        ValueError: if a column is not there, holds no images, or is one of several that could be meant; the message
            lists them and names the flag that tells.

    Example:

    ```python
    >>> from datasets import Features, Image, Value
    >>> from segmenter_hf.data.columns import find_columns

    >>> find_columns(Features({"pixel_values": Image(), "label": Image(), "scene": Value("string")}))
    ColumnNames(image='pixel_values', annotation='label')

    ```"""
    candidates = [name for name, feature in features.items() if is_image_feature(feature)]
    arrays = [name for name, feature in features.items() if is_array_feature(feature)]
    for flag, column in (("image", image_column), ("annotation", annotation_column)):
        if column is None:
            continue
        if column not in features:
            raise ValueError(
                f"{source} has the columns {list(features)}, expected {column} too. Name yours with "
                f"--{flag}_column_name."
            )
        if column not in candidates and (column not in arrays or flag == "image"):
            raise ValueError(
                f"The column {column} of {source} holds {features[column]}, expected images. Those that do: "
                f"{candidates}. Name one with --{flag}_column_name.{_explain_strings({column: features[column]})}"
            )
    if image_column is not None and image_column == annotation_column:
        raise ValueError(f"The column {image_column} of {source} cannot hold both the images and the label maps.")

    free = [name for name in candidates if name not in (image_column, annotation_column)]
    known_images = [name for name in free if _is_known(name, IMAGE_NAMES)]
    # Arrays come last, since those of such a name may be something else, such as boxes.
    known_annotations = [name for name in free if _is_known(name, ANNOTATION_NAMES)] or [
        name for name in arrays if _is_known(name, ANNOTATION_NAMES) and name != annotation_column
    ]
    if image_column is None:
        image_column = _choose("image", known_images, free, known_annotations, annotation_column, features, source)
    if annotation_column is None:
        free = [name for name in free if name != image_column]
        annotation_column = _choose(
            "annotation", known_annotations, free, known_images, image_column, features, source
        )
    return ColumnNames(image_column, annotation_column)


def _choose(flag, known, free, known_others, other_column, features, source) -> str:
    """The only column with a known name; or the only one that is left, if the other kind is known."""
    if len(known) == 1:
        return known[0]
    rest = [name for name in free if name not in known_others]
    if not known and len(rest) == 1 and (other_column is not None or len(known_others) == 1):
        return rest[0]
    what = "images" if flag == "image" else "label maps"
    if len(free) < (1 if other_column else 2):
        raise ValueError(
            f"{source} has no column of {what}: of its columns {list(features)}, those that hold images are "
            f"{[name for name in features if is_image_feature(features[name])]}. A dataset has a column of images and "
            "one of label maps; a folder of files has images/ and annotations/ (see segmenter_hf.data.pairs)."
            f"{_explain_strings(features)}"
        )
    raise ValueError(
        f"Several columns of {source} could hold the {what}: {known or free}. Name one with --{flag}_column_name."
    )


def _explain_strings(features) -> str:
    """What to do if columns hold the names of files."""
    strings = [name for name, each in features.items() if isinstance(each, Value) and "string" in each.dtype]
    names = [name for name in strings if _is_known(name, IMAGE_NAMES | ANNOTATION_NAMES)]
    if not names:
        return ""
    columns = " and ".join(f"{name}_file_name" for name in names)
    return (
        f" If {' and '.join(names)} should be names of files, store the table beside these as metadata.csv or "
        f"metadata.jsonl, in {columns}: then they are read as images."
    )


__all__ = ["find_columns", "is_array_feature", "is_image_feature"]
