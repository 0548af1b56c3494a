"""Label names and palettes of the data sets that released checkpoints, and the shipped one, were trained on."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


# Each JSON file in it is a label set, which needs no more to be known. Pascal Context is used with 59 classes, or with
# 60, where background is one too.
LABEL_SETS_FOLDER = Path(__file__).parent / "label_sets"
LABEL_SETS = tuple(sorted(path.stem for path in LABEL_SETS_FOLDER.glob("*.json")))


@dataclass(frozen=True)
class LabelSet:
    """
    The classes of a data set, in the order of their labels.

    Args:
        name (`str`): One of `LABEL_SETS`.
        names (`tuple[str, ...]`): The name of each label.
        palette (`tuple[tuple[int, int, int], ...]`): The colour of each label, red, green and blue from 0 to 255.
        zero_is_unlabelled (`bool`, *optional*, defaults to `False`): Whether label maps, as published, have 0 for what
            is none of the classes, and 1 for the first.
    """

    name: str
    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    zero_is_unlabelled: bool = False

    @property
    def id2label(self) -> dict[int, str]:
        """`dict[int, str]`: the names as model configs store them."""
        return dict(enumerate(self.names))

    def __len__(self) -> int:
        return len(self.names)


def load_label_set(name: str) -> LabelSet:
    """
    Label names and palette of a data set.

    Args:
        name (`str`): One of `LABEL_SETS`.

    Raises:
        ValueError: for an unknown name; the message lists the known ones.

    Example:

    ```python
    >>> from segmenter_hf.data.labels import load_label_set

    >>> cityscapes = load_label_set("cityscapes")
    >>> len(cityscapes), cityscapes.names[:3], cityscapes.palette[0]
    (19, ('road', 'sidewalk', 'building'), (128, 64, 128))

    ```"""
    if name not in LABEL_SETS:
        raise ValueError(f"Unknown label set {name!r}, the known ones are {', '.join(LABEL_SETS)}.")
    stored = json.loads((LABEL_SETS_FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    names = tuple(stored["id2label"][str(index)] for index in range(len(stored["id2label"])))
    palette = tuple(tuple(colour) for colour in stored["palette"])
    return LabelSet(name, names, palette, stored.get("zero_is_unlabelled", False))


def find_label_set(id2label: Mapping[int | str, str]) -> LabelSet | None:
    """The label set that has exactly these names, if there is one."""
    id2label = with_integer_keys(id2label)
    return next((each for each in map(load_label_set, LABEL_SETS) if each.id2label == id2label), None)


def with_integer_keys(id2label: Mapping[int | str, str]) -> dict[int, str]:
    """Names of labels, of which JSON makes the labels strings."""
    return {int(label): name for label, name in id2label.items()}


__all__ = ["LABEL_SETS", "LabelSet", "find_label_set", "load_label_set", "with_integer_keys"]
