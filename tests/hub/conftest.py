"""
The evaluations of one tiny model, which the tests of cards read too; and a Hub, with the downloads that are released
to it.
"""

from pathlib import Path

import pytest
from huggingface_hub import HfApi

from segmenter_hf.hub import client

from ..evaluation.conftest import model, several, single
from .hub_server import HubServer, prepare_client
from .released_checkpoints import write_downloads


__all__ = ["model", "several", "single"]


@pytest.fixture
def server():
    with HubServer(organizations=("lab",)) as server:
        yield server


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """Nobody waits: the seconds that a push would have, and those of the client itself, are kept here."""
    waits = prepare_client(monkeypatch)
    monkeypatch.setattr(client, "sleep", waits.append)
    return waits


@pytest.fixture
def api(server, waits) -> HfApi:
    return HfApi(endpoint=server.endpoint, token="hf_write")


@pytest.fixture(scope="session")
def downloads(tmp_path_factory) -> Path:
    """A cache of downloads, with small checkpoints in the place of the released ones."""
    return write_downloads(tmp_path_factory.mktemp("downloads"))
