"""Label names and palettes of the data sets that released checkpoints, and the shipped one, were trained on."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


# Each is a JSON file beside this module. Pascal Context is used with 59 classes, or with 60: background is one too.
LABEL_SETS = ("ade20k", "camvid", "cityscapes", "pascal_context_59", "pascal_context_60")


@dataclass(frozen=True)
class LabelSet:
    """
    The classes of a data set, in the order of their labels.

    Args:
        name (`str`): One of `LABEL_SETS`.
        names (`tuple[str, ...]`): The name of each label.
        palette (`tuple[tuple[int, int, int], ...]`): The colour of each label, red, green and blue from 0 to 255.
    """

    name: str
    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]

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
    path = Path(__file__).parent / "label_sets" / f"{name}.json"
    stored = json.loads(path.read_text(encoding="utf-8"))
    names = tuple(stored["id2label"][str(index)] for index in range(len(stored["id2label"])))
    return LabelSet(name=name, names=names, palette=tuple(tuple(colour) for colour in stored["palette"]))


def with_integer_keys(id2label: Mapping[int | str, str]) -> dict[int, str]:
    """Names of labels, of which JSON makes the labels strings."""
    return {int(label): name for label, name in id2label.items()}


__all__ = ["LABEL_SETS", "LabelSet", "load_label_set", "with_integer_keys"]
