"""What conversion writes beside a model: a card, with the licences and notices of the weights that it converts."""

from pathlib import Path

from transformers import PreTrainedModel

from ..conversion.released import ReleasedCheckpoint, find_row
from ..outputs import write_text
from .cards import FOLDER_PLACEHOLDER, make_converted_card
from .documents import CARD_FILE
from .figures import published_figures
from .origins import find_starting_weights
from .repository import write_card_and_licence


def add_documents(folder: Path, source: str | Path | ReleasedCheckpoint, model: PreTrainedModel):
    """
    Writes what is known of the terms of converted weights, so that whoever uses or trains them finds it: the card of a
    released checkpoint, and its licence; of other sources their notices and licences, and a card that names these and
    what the weights are from. Where nothing is known, there is no card.
    """
    row = find_row(source)
    if row is not None:
        # No repository is known in which it will be.
        write_card_and_licence(folder, row, FOLDER_PLACEHOLDER, None, published_figures(row), model)
        return
    weights = find_starting_weights(str(source))
    if not (weights.terms.is_known or weights.documents or weights.base_model):
        return
    weights = weights.save_documents(folder)
    write_text(folder / CARD_FILE, str(make_converted_card(weights)))


__all__ = ["add_documents"]
