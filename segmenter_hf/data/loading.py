"""Loading datasets of images and label maps, wherever they are, with their label names."""

import glob
import logging
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict, Features, Image, load_dataset_builder, load_from_disk
from datasets.exceptions import DatasetsError
from PIL import Image as PILImage

from ..image_processing_segmenter import to_labels
from ..inputs import check_regular_file
from .columns import find_columns, is_array_feature
from .examples import COLUMNS, ColumnNames, remember_files
from .label_names import LABELS_FILE, find_label_names, label_names_of_features, load_label_names
from .pairs import KNOWN_SPLITS, LAYOUTS, canonical_split, load_pairs, name_some, similar_split


logger = logging.getLogger(__name__)

# Files with these suffixes hold examples, and their names say of which split they are.
SHARD_SUFFIXES = {".arrow", ".parquet", ".tar", ".zip"}
# `datasets` reads these files beside them.
OTHER_NAMES = {"README.md", "dataset_dict.json", "dataset_info.json", "state.json", LABELS_FILE}
# `load_dataset` makes something of files with these suffixes.
TABLE_SUFFIXES = {".arrow", ".csv", ".gz", ".jsonl", ".parquet", ".tar", ".zip"}


@dataclass(frozen=True)
class SegmentationData:
    """
    A dataset of images and label maps.

    Args:
        source (`str`): Where it is from.
        splits (`DatasetDict`): Its splits, each with the columns `image` and `annotation`, which are decoded when they
            are read. Label maps are not converted: palette files keep their indices.
        id2label (`dict[int, str]`): The name of each label.
        original_columns ([`ColumnNames`]): What the two columns are called in the source.
        held_out_share (`float`, *optional*): The share of the training split that became the validation split.
    """

    source: str
    splits: DatasetDict
    id2label: dict[int, str]
    original_columns: ColumnNames
    held_out_share: float | None = None

    @property
    def num_labels(self) -> int:
        return len(self.id2label)

    def split(self, name: str, flag: str | None = None) -> Dataset:
        """
        A split by its name, or by another that means the same (`val` for `validation`).

        Args:
            name (`str`): The name.
            flag (`str`, *optional*): The flag that names another, for the error.

        Raises:
            ValueError: if there is none; the message lists the splits.
        """
        found = _find_split(self.splits, name)
        if found is not None:
            return self.splits[found]
        remedy = f" Name one with {flag}." if flag else ""
        raise ValueError(f"{self.source} has no split {name}, only {', '.join(self.splits)}.{remedy}")


def _find_split(splits: DatasetDict, name: str) -> str | None:
    """The split of that name, or the only one whose name means the same."""
    same = [each for each in splits if canonical_split(each) == canonical_split(name)]
    return name if name in splits else same[0] if len(same) == 1 else None


def load_segmentation_data(
    source: str | Path,
    config_name: str | None = None,
    image_column: str | None = None,
    annotation_column: str | None = None,
    labels: str | Path | None = None,
    train_val_split: float | None = None,
    seed: int = 0,
    cache_dir: str | Path | None = None,
    train_split: str = "train",
    validation_split: str = "validation",
    allow_other_splits: bool = False,
) -> SegmentationData:
    """
    Loads a dataset with a column of images and one of label maps.

    Args:
        source (`str` or `Path`): A dataset on the Hub; or a folder that `load_dataset` reads, like one of parquet
            files; a parquet file; what `save_to_disk` wrote; or a folder of files (see `segmenter_hf.data.pairs`).
        config_name (`str`, *optional*): Which configuration, if the dataset has several.
        image_column (`str`, *optional*): Column of the images. Default: by name and type.
        annotation_column (`str`, *optional*): Column of the label maps. Default: by name and type.
        labels (`str` or `Path`, *optional*): A JSON file of label names, or the name of a built-in set. Default: the
            dataset's own, by `id2label.json` or its features.
        train_val_split (`float`, *optional*): Share of the training split that becomes the validation split, if the
            dataset has none.
        seed (`int`, *optional*, defaults to 0): Draws that share.
        cache_dir (`str` or `Path`, *optional*): Where `datasets` keeps what it reads.
        train_split (`str`, *optional*, defaults to `"train"`): What the training split is called.
        validation_split (`str`, *optional*, defaults to `"validation"`): What the validation split is called.
        allow_other_splits (`bool`, *optional*, defaults to `False`): Whether folders may have splits whose names are
            neither known nor the two above. They are splits too; otherwise they are refused.

    Raises:
        ValueError: if it is not there, columns or label names are missing or ambiguous, files have no partner, or it
            is not known which split they are of.

    Example:

    ```python
    >>> from segmenter_hf.data.loading import load_segmentation_data

    >>> data = load_segmentation_data("path/to/ADEChallengeData2016", labels="ade20k")  # doctest: +SKIP
    >>> data.split("validation")[0]["annotation"]  # doctest: +SKIP
    <PIL.PngImagePlugin.PngImageFile image mode=L size=683x512>

    ```"""
    if not isinstance(source, (str, os.PathLike)):
        streaming = " Streaming is not supported." if "Iterable" in type(source).__name__ else ""
        raise ValueError(
            f"Expected the name or the folder of a dataset, got {type(source).__name__}.{streaming} Store it with "
            "`save_to_disk`; or pass its splits to `check_splits`, `TrainingDataset` and `evaluate_sliding_window`."
        )
    if train_val_split is not None and not 0 < train_val_split < 1:
        raise ValueError(f"--train_val_split must be a share between 0 and 1, got {train_val_split}.")
    source = str(Path(source).expanduser()) if str(source).startswith("~") else str(source)
    # Names come before the data, which need not be downloaded without them.
    id2label = load_label_names(labels) if labels is not None else find_label_names(source)
    splits = _load_splits(source, config_name, cache_dir, (train_split, validation_split), allow_other_splits)
    first = _find_split(splits, train_split) or next(iter(splits))
    features = splits[first].features
    if id2label is None:
        id2label = label_names_of_features(features)
    if id2label is None:
        raise ValueError(
            f"{source} has no id2label.json, and its features name no classes. Add that file, which names each label "
            'like {"0": "sky", "1": "building"}, or name one, or a built-in set, with --labels.'
        )
    columns = find_columns(features, image_column, annotation_column, source)
    for name, split in list(splits.items()):
        missing = [column for column in columns if column not in split.column_names]
        if missing:
            # Test images are often published without label maps.
            message = "%s: the %s split is left out, which has the columns %s, not %s."
            logger.warning(message, source, name, split.column_names, " and ".join(missing))
            del splits[name]
        else:
            splits[name] = _select_images(split, columns)
    data = SegmentationData(source, splits, id2label, columns)
    if train_val_split is not None and _find_split(splits, "validation") is None:
        train = data.split(train_split, "--train_split")
        known = _find_split(splits, train_split)
        others = [name for name in splits if name != known and similar_split(name) == "validation"]
        if others:
            raise ValueError(
                f"{source} has no split validation, and {', '.join(others)} may be meant. Name one with "
                "--validation_split."
            )
        try:
            parts = train.train_test_split(train_val_split, seed=seed)
        except ValueError as error:
            raise ValueError(f"{source} cannot be divided by --train_val_split {train_val_split}: {error}") from error
        splits[_find_split(splits, train_split)], splits["validation"] = parts["train"], parts["test"]
        data = replace(data, held_out_share=train_val_split)
    sizes = {name: len(split) for name, split in splits.items()}
    logger.info("%s: %s images, columns %s and %s.", source, sizes, *columns)
    return data


def _select_images(split: Dataset, columns: ColumnNames) -> Dataset:
    """The two columns as images, called `image` and `annotation`. Others would be decoded with each row."""
    split = split.select_columns(list(columns))
    for column in columns:
        if is_array_feature(split.features[column]):
            features = Features({**split.features, column: Image()})
            settings = {"with_indices": True, "features": features, "writer_batch_size": 16}
            description = f"Storing {column} as images"
            split = split.map(array_to_image, fn_kwargs={"column": column}, desc=description, **settings)
        # Without a mode, palette files keep their indices.
        elif split.features[column] != Image():
            split = split.cast_column(column, Image())
    # This comes last, so that errors of the rows above have the names that users know.
    return split.rename_columns(dict(zip(columns, COLUMNS, strict=True)))


def array_to_image(example: dict, index: int, column: str) -> dict:
    """
    A label map that a row of a dataset holds as an array, as an image of the type that suffices.

    Raises:
        ValueError: if it is none; the message names row and column.
    """
    rows = example[column]
    # `Array2D` gives NaN where there is no array.
    if not isinstance(rows, list):
        return {column: None}
    if len({len(row) for row in rows}) != 1:
        raise ValueError(f"Row {index} of the column {column} is no label map: its rows have different lengths.")
    labels = to_labels(np.asarray(rows), f"Row {index} of the column {column}").numpy()
    # The type of the column says little: lists are of 64 bits.
    sufficient = [each for each in (np.uint8, np.uint16) if labels.max() <= np.iinfo(each).max]
    return {column: PILImage.fromarray(labels.astype([*sufficient, np.int32][0]))}


def _load_splits(
    source: str,
    config_name: str | None,
    cache_dir: str | Path | None,
    named_splits: Collection[str],
    allow_other_splits: bool,
) -> DatasetDict:
    path = Path(source)
    check_regular_file(path)
    if path.is_file():
        if path.suffix.lower() != ".parquet":
            raise ValueError(f"{source} is a file, expected a parquet file or a folder. Archives must be unpacked.")
        # The name of the file says the split, as in folders: `validation-00000-of-00001.parquet`.
        split = canonical_split(path.stem.partition("-")[0])
        files = {split if split in KNOWN_SPLITS else "train": glob.escape(source)}
        loaded = _load_dataset(source, "parquet", data_files=files, cache_dir=cache_dir)
    elif path.is_dir():
        loaded = _load_folder(path, config_name, cache_dir, named_splits, allow_other_splits)
    else:
        loaded = _load_dataset(source, source, name=config_name, cache_dir=cache_dir)
    loaded = loaded if isinstance(loaded, DatasetDict) else DatasetDict({"train": loaded})
    if not any(len(split) for split in loaded.values()):
        raise ValueError(f"{source} has no images.")
    return DatasetDict({name: split for name, split in loaded.items() if len(split)})


def _load_folder(
    path: Path,
    config_name: str | None,
    cache_dir: str | Path | None,
    named_splits: Collection[str],
    allow_other_splits: bool,
) -> Dataset | DatasetDict:
    # `datasets` opens these files itself, and would wait for a pipe.
    for file in path.rglob("*"):
        if file.suffix in TABLE_SUFFIXES or file.name in OTHER_NAMES:
            check_regular_file(file)
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return load_from_disk(str(path))
    # `load_dataset` would take the folders of pairs for classes, unless metadata pair the files.
    if not _has_metadata(path):
        loaded = load_pairs(path, named_splits, allow_other_splits)
        if loaded is not None:
            return loaded
        if not any(file.suffix in TABLE_SUFFIXES for file in path.rglob("*")):
            raise ValueError(
                f"{path} has neither parquet files, nor images and label maps in one of these layouts:\n{LAYOUTS}\n"
                "The downloads of Cityscapes and Pascal Context have others: scripts/prepare_dataset.py reads them."
            )
    # The path is absolute because `datasets` has modules of its own, which a folder `parquet` would be taken for.
    return _load_dataset(str(path), str(path.absolute()), name=config_name, cache_dir=cache_dir)


def _check_files_of_splits(path: Path, data_files: Mapping[str, Collection[str]]):
    """
    Refuses files whose names look like a split's that is not the one for which `datasets` takes them, or of which it
    takes none. It knows other names than we do, leaves out what has none of them, and takes all for `train` if all do.
    """
    readme = path / "README.md"
    if readme.is_file() and "data_files:" in readme.read_text(encoding="utf-8", errors="replace"):
        return
    splits = {os.path.realpath(file): str(name) for name, files in data_files.items() for file in files}
    odd = []
    for file in path.rglob("*"):
        if file.suffix not in SHARD_SUFFIXES and file.name not in ("metadata.csv", "metadata.jsonl"):
            continue
        split = splits.get(os.path.realpath(file))
        similar = {similar_split(name) for name in (*file.relative_to(path).parts[:-1], file.stem)} - {None}
        if split is None and similar or split == "train" and similar and "train" not in similar:
            odd.append(f"{file.relative_to(path)} ({'left out' if split is None else 'taken for train'})")
    if odd:
        raise ValueError(
            f"{path} has files whose names look like splits, but which `datasets` takes for others: "
            f"{name_some(sorted(odd))}. Rename them or their folders to train, validation or test (as in "
            "train-00000-of-00001.parquet), or list the files of each split as `data_files` in README.md."
        )


def _has_metadata(path: Path) -> bool:
    """Whether there are tables by which `load_dataset` pairs files, and not others of that name."""
    for folder in ("", "*/", "*/*/"):
        for file in path.glob(f"{folder}metadata.*"):
            if file.suffix == ".parquet":
                return True
            if file.suffix in (".csv", ".jsonl"):
                with file.open(encoding="utf-8-sig", errors="replace") as lines:
                    if "file_name" in lines.readline():
                        return True
    return False


def _load_dataset(source: str, path: str, **settings) -> DatasetDict:
    try:
        # `load_dataset` does the same, but does not tell the files.
        builder = load_dataset_builder(path, **settings)
        if os.path.isdir(source):
            _check_files_of_splits(Path(source), builder.config.data_files or {})
        builder.download_and_prepare()
        loaded = builder.as_dataset()
        for name, split in loaded.items():
            remember_files(split, (builder.config.data_files or {}).get(name, []))
        return loaded
    except (DatasetsError, OSError, RuntimeError, ValueError) as error:
        # Some errors only say that something went wrong, and their cause says what.
        reason = f"{error} ({error.__cause__})" if error.__cause__ is not None else error
        # `datasets` lists the configurations, but does not know what chooses one here.
        remedy = " Choose with --dataset_config_name." if "config" in str(error).lower() else ""
        if set(source) & set("*?["):
            remedy += " (It takes *, ? and [ in names of folders for patterns: rename those.)"
        raise ValueError(f"{source} cannot be loaded: {reason}{remedy}") from error


__all__ = ["SegmentationData", "array_to_image", "load_segmentation_data"]
