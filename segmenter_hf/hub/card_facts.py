"""
What cards say beside the table of released checkpoints, read from `facts/`: of data sets, of the code that trained the
weights, of the encoders that training started from, and whom to cite.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..evaluation.record import make_checked


FACTS_FOLDER = Path(__file__).parent / "facts"
HUB_URL = "https://huggingface.co"


@dataclass(frozen=True)
class Dataset:
    """
    A data set that models were trained on.

    Args:
        name (`str`): Its name for readers.
        url (`str`): Its home page.
        type (`str`): Its identifier in a model index.
        num_training_images (`int`): Size of the training split.
        num_validation_images (`int`): Size of the validation split, on which figures are published.
        label_note (`str`): What label maps need before they fit the model's labels.
        limits (`str`): What models trained on it have not seen, and what is known of its labels.
        terms (`str`): The terms of its images, to follow "of".
        recipe (`Mapping[str, Any]`): How long and how fast the original implementation trained on it.
        widget_images (`Mapping[str, str]`): Images that cards offer to their readers: address by title.
        hub_id (`str`, *optional*): Its id on the Hub, if there is one that is not a copy by a third party.
    """

    name: str
    url: str
    type: str
    num_training_images: int
    num_validation_images: int
    label_note: str
    limits: str
    terms: str
    recipe: Mapping[str, Any]
    widget_images: Mapping[str, str]
    hub_id: str | None = None


@dataclass(frozen=True)
class CodeBase:
    """
    The code base that a checkpoint is from.

    Args:
        name (`str`): Its name for readers.
        url (`str`): Where its code is.
        results_url (`str`): Where it publishes figures.
        citations (`list[str]`): Keys of `CITATIONS`, beside those of the encoder's weights.
    """

    name: str
    url: str
    results_url: str
    citations: list[str]

    @property
    def link(self) -> str:
        """Its name in Markdown, linked, with its article before the link."""
        article, name = re.fullmatch("(the )?(.*)", self.name).groups(default="")
        return f"{article}[{name}]({self.url})"


@dataclass(frozen=True)
class PretrainedWeights:
    """
    The encoder weights that training started from.

    Args:
        text (`str`): What they are, in Markdown, to follow "from", or the link where they have one.
        citations (`list[str]`): Keys of `CITATIONS`.
        base_model (`str`, *optional*): Their id on the Hub, where exactly these weights are there.
    """

    text: str
    citations: list[str]
    base_model: str | None = None

    @property
    def description(self) -> str:
        """What they are, in Markdown, to follow "from"."""
        return self.text if self.base_model is None else f"{link_repository(self.base_model)}: {self.text}"


def link_repository(repo_id: str) -> str:
    """A model on the Hub, in Markdown."""
    return f"[`{repo_id}`]({HUB_URL}/{repo_id})"


def _read_table(name: str, row_class: type) -> dict[str, Any]:
    rows = yaml.safe_load((FACTS_FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    return {key: make_checked(row_class, values, f"row of {name}.yaml") for key, values in rows.items()}


DATASETS = _read_table("datasets", Dataset)
SOURCES = _read_table("sources", CodeBase)
PRETRAINED_WEIGHTS = _read_table("pretrained_weights", PretrainedWeights)
# These are entries of BibTeX by their keys.
CITATIONS = {
    re.match(r"@\w+\{(\w+),", entry)[1]: entry
    for entry in (FACTS_FOLDER / "citations.bib").read_text(encoding="utf-8").strip().split("\n\n")
}


__all__ = ["CITATIONS", "DATASETS", "HUB_URL", "PRETRAINED_WEIGHTS", "SOURCES", "link_repository"]
