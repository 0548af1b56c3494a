"""The evaluations of one tiny model, which the tests of cards read too."""

from ..evaluation.conftest import model, several, single


__all__ = ["model", "several", "single"]
