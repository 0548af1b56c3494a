"""The label names of a dataset: from a JSON file, a built-in set, the Hub, or the dataset's own features."""

import json
import re
from pathlib import Path

from datasets import ClassLabel, Features, List, Sequence
from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from ..inputs import check_regular_file
from .labels import LABEL_SETS, load_label_set


LABELS_FILE = "id2label.json"
# Columns of these names have the classes of the label maps. Others are of whole images, like the kind of scene.
CLASS_COLUMNS = {"classes", "classnames", "categories", "categorynames", "labelnames", "labels", "presentclasses"}


def load_label_names(labels: str | Path) -> dict[int, str]:
    """
    Label names from a JSON file or by the name of a built-in set, in the order of the labels.

    Args:
        labels (`str` or `Path`): A name of `LABEL_SETS`; or a file that has `{"0": "sky", "1": "road"}`,
            `["sky", "road"]`, `{"sky": 0, "road": 1}`, or one of them as `id2label` (as a model's `config.json` does).

    Raises:
        ValueError: if there is no such file or set, or the file has something else, or is no regular one.
    """
    path = Path(labels)
    check_regular_file(path)
    if path.is_file():
        return read_label_names(path)
    if str(labels) in LABEL_SETS:
        return load_label_set(str(labels)).id2label
    raise ValueError(f"--labels {labels} is neither a JSON file nor one of {', '.join(LABEL_SETS)}.")


def read_label_names(path: Path) -> dict[int, str]:
    """Label names from a JSON file; see `load_label_names`."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON file: {error}") from error
    if isinstance(stored, dict) and isinstance(stored.get("id2label"), (dict, list)):
        stored = stored["id2label"]
    if isinstance(stored, list):
        id2label = dict(enumerate(stored))
    elif isinstance(stored, dict) and stored and all(type(value) is int for value in stored.values()):
        id2label = {index: name for name, index in stored.items()}
        if len(id2label) != len(stored):
            raise ValueError(f"{path} gives one label to several names.")
    elif isinstance(stored, dict) and all(re.fullmatch("-?[0-9]+", index) for index in stored):
        id2label = {int(index): name for index, name in stored.items()}
    else:
        id2label = {}
    if not id2label or not all(isinstance(name, str) and name for name in id2label.values()):
        raise ValueError(f'{path} must name each label: {{"0": "sky", "1": "building"}} or ["sky", "building"].')
    if sorted(id2label) != list(range(len(id2label))):
        remedy = " If 0 means unlabelled, pass --do_reduce_labels, and name the next 0." if 1 == min(id2label) else ""
        raise ValueError(f"{path} must name the labels 0 to n - 1, got {sorted(id2label)}.{remedy}")
    names = list(id2label.values())
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{path} gives several labels the name {', '.join(twice)}. Give each its own.")
    return dict(sorted(id2label.items()))


def find_label_names(source: str | Path) -> dict[int, str] | None:
    """
    Label names of a dataset by its `id2label.json`: in the folder, in that of the file, or in the repository on the
    Hub. `None` if it has none.

    Raises:
        ValueError: if the file is wrong, or `source` is neither a file or folder nor on the Hub.
    """
    path = Path(source)
    if path.exists():
        # The files of a dataset on disk may be in its `data` folder.
        folders = [path] if path.is_dir() else [path.parent, path.parent.parent]
        for file in (folder / LABELS_FILE for folder in folders):
            check_regular_file(file)
            if file.is_file():
                return read_label_names(file)
        return None
    try:
        return read_label_names(Path(hf_hub_download(str(source), LABELS_FILE, repo_type="dataset")))
    except HFValidationError as error:
        raise ValueError(
            f"{source} is no file or folder, and no name of a dataset on the Hub (OWNER/NAME)."
        ) from error
    except LocalEntryNotFoundError as error:
        # This is an `EntryNotFoundError` too, but what the Hub has is not known, unless it was asked before.
        if try_to_load_from_cache(str(source), LABELS_FILE, repo_type="dataset") is _CACHED_NO_EXIST:
            return None
        raise ValueError(
            f"{source} is no file or folder, and the {LABELS_FILE} of that dataset cannot be downloaded: {error} "
            "Without a connection, name the labels with --labels."
        ) from error
    except EntryNotFoundError:
        return None
    except HfHubHTTPError as error:
        raise ValueError(
            f"{source} is no file or folder, and no dataset on the Hub whose {LABELS_FILE} can be downloaded: {error}"
        ) from error


def label_names_of_features(features: Features) -> dict[int, str] | None:
    """Label names of a column of class labels, like `classes` of datasets that list those in each image, if any."""
    found = []
    for name, feature in features.items():
        while isinstance(feature, (List, Sequence)):
            feature = feature.feature
        if isinstance(feature, ClassLabel) and "".join(filter(str.isalnum, name.lower())) in CLASS_COLUMNS:
            found.append(dict(enumerate(feature.names)))
    return found[0] if len(found) == 1 else None


__all__ = ["find_label_names", "label_names_of_features", "load_label_names", "read_label_names"]
