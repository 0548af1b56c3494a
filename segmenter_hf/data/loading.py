"""Loading image / label-map datasets and their label names."""

import json
from pathlib import Path

from datasets import DatasetDict, load_dataset
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError


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
        The splits, and the label names from the source's `id2label.json`.

    Raises:
        ValueError: if a column or the label names are missing (before the data are downloaded).
    """
    id2label = load_id2label(source)
    splits = load_dataset(source)
    for name, split in splits.items():
        missing = {image_column, annotation_column} - set(split.column_names)
        if missing:
            raise ValueError(
                f"The {name} split of {source} has the columns {split.column_names}, expected {sorted(missing)} too. "
                "Name yours with --image_column_name and --annotation_column_name."
            )
    return splits, id2label


def load_id2label(source: str) -> dict[int, str]:
    """
    The label names in `id2label.json` of a folder or of a dataset on the Hub, in the order of the labels.

    Raises:
        ValueError: if there is no such file, or the labels are not 0, 1, 2...
    """
    if Path(source).is_dir():
        path = Path(source) / "id2label.json"
    else:
        try:
            path = Path(hf_hub_download(source, "id2label.json", repo_type="dataset"))
        except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError) as error:
            raise ValueError(
                f"{source} is no folder, and no dataset on the Hub whose id2label.json can be downloaded: {error}"
            ) from error
    if not path.is_file():
        raise ValueError(
            f'{source} has no id2label.json. Add one that names each label: {{"0": "sky", "1": "building"}}.'
        )
    id2label = {int(index): label for index, label in json.loads(path.read_text(encoding="utf-8")).items()}
    if sorted(id2label) != list(range(len(id2label))):
        raise ValueError(f"id2label.json of {source} must name the labels 0 to n - 1, got {sorted(id2label)}.")
    return dict(sorted(id2label.items()))
