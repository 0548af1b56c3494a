"""What conversion writes beside a model: a card, with the licences and notices of the weights that it converts."""

from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData
from transformers import PreTrainedModel

from ..conversion.released import ReleasedCheckpoint, find_row
from ..outputs import write_text
from .documents import CARD_FILE
from .figures import published_figures
from .markdown import inline_code, paragraph
from .origins import find_starting_weights
from .repository import write_card_and_licence
from .trained_text import FOLDER, name_terms


def add_documents(folder: Path, source: str | Path | ReleasedCheckpoint, model: PreTrainedModel):
    """
    Writes what is known of the terms of converted weights, so that whoever uses or trains them finds it: the card of a
    released checkpoint, and its licence; of other sources their notices and licences, and a card that names these and
    what the weights are from. Where nothing is known, there is no card.
    """
    row = find_row(source)
    if row is not None:
        # No repository is known in which it will be.
        write_card_and_licence(folder, row, FOLDER, None, published_figures(row), model)
        return
    weights = find_starting_weights(str(source))
    if not (weights.terms.is_known or weights.documents or weights.base_model):
        return
    weights = weights.save_documents(folder)
    terms = weights.terms
    licence = "No licence of them is known: ask who published them before you use them."
    if terms.is_known:
        licence = f"They are under the terms of those: {name_terms(terms)}."
    files = ", ".join(map(inline_code, weights.documents))
    data = ModelCardData(
        license=terms.license,
        license_name=terms.name,
        license_link=terms.link,
        library_name="transformers",
        base_model=weights.base_model,
        tags=["vision", "segmenter", "custom_code"],
    )
    text = paragraph(
        f"Converted by `segmenter_hf` from {weights.description}. Nothing was trained.",
        licence,
        "The code beside them is Apache-2.0.",
        f"Beside this card, of the source: {files}." if files else "",
    )
    write_text(folder / CARD_FILE, str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n# Converted weights\n\n{text}\n")))


__all__ = ["add_documents"]
