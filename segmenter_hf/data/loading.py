"""Loading datasets of images and label maps, wherever they are, with their label names."""

import logging
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset, DatasetDict, Image, load_dataset, load_from_disk

from .columns import find_columns
from .label_names import find_label_names, label_names_of_features, load_label_names
from .pairs import LAYOUTS, load_pairs


logger = logging.getLogger(__name__)

# What splits are called besides, if there is none of the name that is asked for.
SPLIT_ALIASES = {"train": ("training",), "validation": ("val", "valid", "dev")}
# Of other files that `load_dataset` makes something of.
OTHER_SUFFIXES = {".csv", ".gz", ".jsonl", ".tar", ".zip"}


@dataclass(frozen=True)
class SegmentationData:
    """
    A dataset of images and label maps.

    Args:
        source (`str`): Where it is from.
        splits (`DatasetDict`): Its splits, each with the two columns below; images are decoded when they are read.
        id2label (`dict[int, str]`): The name of each label.
        image_column (`str`): Column of the images.
        annotation_column (`str`): Column of the label maps. They are not converted: palette files keep their indices.
    """

    source: str
    splits: DatasetDict
    id2label: dict[int, str]
    image_column: str
    annotation_column: str

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
        for each in (name, *SPLIT_ALIASES.get(name, ())):
            if each in self.splits:
                return self.splits[each]
        remedy = f" Name one with {flag}." if flag else ""
        raise ValueError(f"{self.source} has no split {name}, only {', '.join(self.splits)}.{remedy}")


def load_segmentation_data(
    source: str | Path,
    config_name: str | None = None,
    image_column: str | None = None,
    annotation_column: str | None = None,
    labels: str | Path | None = None,
    train_val_split: float | None = None,
    seed: int = 0,
    cache_dir: str | Path | None = None,
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

    Raises:
        ValueError: if it is not there, columns or label names are missing or ambiguous, or files have no partner.

    Example:

    ```python
    >>> from segmenter_hf.data.loading import load_segmentation_data

    >>> data = load_segmentation_data("path/to/ADEChallengeData2016", labels="ade20k")  # doctest: +SKIP
    >>> data.split("validation")[0][data.annotation_column]  # doctest: +SKIP
    <PIL.PngImagePlugin.PngImageFile image mode=L size=683x512>

    ```"""
    source = str(source)
    # Before the data: without names there is no need to download them.
    own_names = None if labels is not None else find_label_names(source)
    id2label = load_label_names(labels) if labels is not None else own_names
    splits = _load_splits(source, config_name, cache_dir)
    features = next(iter(splits.values())).features
    if id2label is None:
        id2label = label_names_of_features(features)
    if id2label is None:
        raise ValueError(
            f"{source} has no id2label.json, and its features name no classes. Add that file, which names each label "
            'like {"0": "sky", "1": "building"}, or name one, or a built-in set, with --labels.'
        )
    image_column, annotation_column = find_columns(features, image_column, annotation_column, source)
    for name, split in splits.items():
        missing = {image_column, annotation_column} - set(split.column_names)
        if missing:
            raise ValueError(f"The {name} split of {source} has the columns {split.column_names}, not {missing}.")
        # Others would be decoded with each row. Without a mode, palette files keep their indices.
        split = split.select_columns([image_column, annotation_column])
        for column in (image_column, annotation_column):
            if split.features[column] != Image():
                split = split.cast_column(column, Image())
        splits[name] = split
    data = SegmentationData(source, splits, id2label, image_column, annotation_column)
    if train_val_split is not None and not {"validation", *SPLIT_ALIASES["validation"]} & set(splits):
        parts = data.split("train").train_test_split(train_val_split, seed=seed)
        splits["train"], splits["validation"] = parts["train"], parts["test"]
    sizes = {name: len(split) for name, split in splits.items()}
    logger.info("%s: %s images, columns %s and %s.", source, sizes, image_column, annotation_column)
    return data


def load_segmentation_dataset(
    source: str, image_column: str = "image", annotation_column: str = "annotation"
) -> tuple[DatasetDict, dict[int, str]]:
    """The splits and the label names of `load_segmentation_data`, where the names of the columns are known."""
    data = load_segmentation_data(source, image_column=image_column, annotation_column=annotation_column)
    return data.splits, data.id2label


def load_id2label(source: str) -> dict[int, str]:
    """
    The label names in `id2label.json` of a folder or of a dataset on the Hub, in the order of the labels.

    Raises:
        ValueError: if there is no such file, or the labels are not 0, 1, 2...
    """
    id2label = find_label_names(source)
    if id2label is None:
        raise ValueError(
            f'{source} has no id2label.json. Add one that names each label: {{"0": "sky", "1": "building"}}.'
        )
    return id2label


def _load_splits(source: str, config_name: str | None, cache_dir: str | Path | None) -> DatasetDict:
    path = Path(source)
    if path.is_file():
        if path.suffix != ".parquet":
            raise ValueError(f"{source} is a file, expected a parquet file or a folder.")
        # The split by the file's name, as in folders: `validation-00000-of-00001.parquet`.
        split = path.stem.partition("-")[0]
        known = {"train", "test", "validation", "training", *SPLIT_ALIASES["validation"]}
        loaded = load_dataset(
            "parquet", data_files={split if split in known else "train": source}, cache_dir=cache_dir
        )
    elif path.is_dir():
        loaded = _load_folder(path, config_name, cache_dir)
    else:
        loaded = _load_dataset(source, config_name, cache_dir)
    loaded = loaded if isinstance(loaded, DatasetDict) else DatasetDict({"train": loaded})
    if not any(len(split) for split in loaded.values()):
        raise ValueError(f"{source} has no images.")
    return DatasetDict({name: split for name, split in loaded.items() if len(split)})


def _load_folder(path: Path, config_name: str | None, cache_dir: str | Path | None) -> Dataset | DatasetDict:
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return load_from_disk(str(path))
    # `load_dataset` would take the folders of pairs for classes. With metadata, and with tables, it knows better.
    tables = [each for pattern in ("*", "*/*") for each in path.glob(pattern) if each.suffix in (".parquet", ".arrow")]
    if not tables and not any(any(path.glob(f"{folder}metadata.*")) for folder in ("", "*/", "*/*/")):
        loaded = load_pairs(path)
        if loaded is not None:
            return loaded
        if not any(file.suffix in OTHER_SUFFIXES for file in path.rglob("*")):
            raise ValueError(
                f"{path} has neither parquet files, nor images and label maps in one of these layouts:\n{LAYOUTS}"
            )
    return _load_dataset(str(path), config_name, cache_dir)


def _load_dataset(source: str, config_name: str | None, cache_dir: str | Path | None) -> DatasetDict:
    try:
        return load_dataset(source, name=config_name, cache_dir=cache_dir)
    except (OSError, RuntimeError, ValueError) as error:
        # `datasets` lists the configurations, but does not know what chooses one here.
        remedy = " Choose with --dataset_config_name." if "config" in str(error).lower() else ""
        raise ValueError(f"{source} cannot be loaded: {error}{remedy}") from error


__all__ = ["SegmentationData", "load_id2label", "load_segmentation_data", "load_segmentation_dataset"]
