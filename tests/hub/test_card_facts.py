"""Facts of cards: complete, of the types that their reader promises, and citing what there is."""

from dataclasses import fields
from types import UnionType
from typing import get_origin

import pytest

from segmenter_hf.conversion.released import RELEASED
from segmenter_hf.hub.card_facts import CITATIONS, DATASETS, PRETRAINED_WEIGHTS, SOURCES


@pytest.mark.parametrize("table", [DATASETS, SOURCES, PRETRAINED_WEIGHTS], ids=["datasets", "sources", "weights"])
def test_values_have_their_types(table):
    for name, row in table.items():
        for field in fields(row):
            value = getattr(row, field.name)
            generic = get_origin(field.type)
            expected = field.type if generic in (None, UnionType) else generic
            assert isinstance(value, expected), f"{field.name} of {name} is {value!r}"
            assert not isinstance(value, str) or value == " ".join(value.split())
        assert set(getattr(row, "citations", ())) <= CITATIONS.keys()


def test_released_checkpoints_have_facts():
    for row in RELEASED.values():
        assert row.source in SOURCES and row.backbone in PRETRAINED_WEIGHTS
        assert row.is_encoder or row.dataset in DATASETS
