"""One tiny model and its evaluations, which the tests of records and of cards read."""

import pytest
import torch

from .evaluations import NAMES, evaluate, make_tiny_model


@pytest.fixture(scope="session")
def model():
    return make_tiny_model(NAMES)


@pytest.fixture(scope="session")
def single(model):
    """In single scale."""
    return evaluate(model)


@pytest.fixture(scope="session")
def several(model):
    """At several scales, in bfloat16."""
    return evaluate(model, multi_scale=True, autocast_dtype=torch.bfloat16)
