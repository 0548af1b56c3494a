"""Loading image / label-map datasets and their label names."""

import json
from pathlib import Path

from datasets import DatasetDict, load_dataset


def load_segmentation_dataset(
    source: str, image_column: str = "image", annotation_column: str = "annotation"
) -> tuple[DatasetDict, dict[int, str]]:
    """
    Loads a dataset with an image and a label-map column.

    Args:
        source (`str`): Anything that `datasets.load_dataset` takes: a folder with parquet files or a Hub id.
        image_column (`str`, *optional*, defaults to `"image"`): Column of the images.
        annotation_column (`str`, *optional*, defaults to `"annotation"`): Column of the label maps.

    Returns:
        The splits, and the label names from `id2label.json` in a local `source`.

    Raises:
        ValueError: if a column or the label names are missing.
    """
    splits = load_dataset(source)
    for name, split in splits.items():
        missing = {image_column, annotation_column} - set(split.column_names)
        if missing:
            raise ValueError(
                f"The {name} split of {source} has the columns {split.column_names}, expected {sorted(missing)} too. "
                "Name yours with --image_column_name and --annotation_column_name."
            )
    id2label_file = Path(source) / "id2label.json"
    if not id2label_file.is_file():
        raise ValueError(
            f'{source} has no id2label.json. Add one that names each label: {{"0": "sky", "1": "building"}}.'
        )
    id2label = {int(index): label for index, label in json.loads(id2label_file.read_text(encoding="utf-8")).items()}
    return splits, id2label
