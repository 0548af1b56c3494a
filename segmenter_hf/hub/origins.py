"""What a model was made from: the weights that training started from and the data, as far as a card may tell."""

import re
from dataclasses import dataclass

from ..conversion.released import find_released, is_released
from .card_facts import PRETRAINED_WEIGHTS, SOURCES
from .card_text import LICENCE_NAMES, link_source
from .markdown import inline_code
from .names import base_name, is_hub_id, public_name


HUB_URL = "https://huggingface.co"


@dataclass(frozen=True)
class StartingWeights:
    """
    The weights that training started from.

    Args:
        description (`str`): What they are, in Markdown, to follow "from".
        base_model (`str`, *optional*): Their id on the Hub, where exactly these weights are there.
        citations (`tuple[str, ...]`): Keys of `CITATIONS`, beside that of Segmenter.
        licence (`str`, *optional*): What they are licensed under, where it is known.
        is_random (`bool`): Whether there are none.
    """

    description: str
    base_model: str | None = None
    citations: tuple[str, ...] = ()
    licence: str | None = None
    is_random: bool = False


def find_starting_weights(name: str | None, is_from_scratch: bool | None = None) -> StartingWeights | None:
    """
    The weights of a name as the training scripts take it: a released checkpoint's, a Hub id, or a path.

    Args:
        name (`str`, *optional*): The name.
        is_from_scratch (`bool`, *optional*): Whether there are none.

    Returns:
        [`StartingWeights`], or `None` where nothing is known.

    Raises:
        ValueError: if there are some and none.
    """
    if name is None:
        return StartingWeights("random initialisation", is_random=True) if is_from_scratch else None
    if is_from_scratch:
        raise ValueError(f"Training cannot have started from scratch and from {name}. Leave one out.")
    # Their names look like ids of the Hub.
    if is_released(name):
        row = find_released(name)
        weights, licence = PRETRAINED_WEIGHTS[row.backbone], LICENCE_NAMES[row.licence]
        if row.is_encoder:
            return StartingWeights(weights.description, weights.base_model, weights.citations, licence)
        citations = tuple(key for key in SOURCES[row.source].citations if key != "segmenter") + weights.citations
        text = f"the released checkpoint `{row.name}` of {link_source(row)}"
        return StartingWeights(text, None, citations, licence)
    if is_hub_id(name):
        citations = [each.citations for each in PRETRAINED_WEIGHTS.values() if each.base_model == name]
        return StartingWeights(f"[`{name}`]({HUB_URL}/{name})", name, citations[0] if citations else ())
    return StartingWeights(f"the weights {inline_code(base_name(name))}, which were given as a file or folder")


def describe_dataset(name: str) -> str:
    """A data set in Markdown: linked if it is on the Hub, otherwise by the last part of its path."""
    return f"[`{name}`]({HUB_URL}/datasets/{name})" if is_hub_id(name) else inline_code(base_name(name))


def make_dataset_entry(name: str) -> dict[str, str]:
    """`type` and `name` of a data set in a model index, neither of which may be missing."""
    slug = re.sub("[^a-z0-9]+", "_", base_name(name).lower()).strip("_") or "dataset"
    return {"type": name if is_hub_id(name) else slug, "name": public_name(name)}


__all__ = ["StartingWeights", "describe_dataset", "find_starting_weights", "make_dataset_entry"]
