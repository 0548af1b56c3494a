"""
The folder `model_cards` of the repository: `<repository>.md` of each released checkpoint, and
`results/<repository>.json` of each that segments. Neither is edited by hand, but for measured figures.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import outputs
from ..conversion.released import RELEASED, ReleasedCheckpoint
from .cards import make_card
from .figures import figures_file, format_figures, measured_figure, read_figures, replace_measured, update_figures


# Stands for the organisation in committed cards; a push writes its own.
ORGANIZATION = "segmenter-hf"


def make_documents(folder: str | Path) -> dict[Path, str]:
    """
    What the files of results and cards of all released checkpoints should hold.

    Args:
        folder (`str` or `Path`): `model_cards` of the repository; measured results are read from its `results`.

    Returns:
        `dict[Path, str]`: the contents of each file. Encoders, which no figures belong to, have a card only.
    """
    folder = Path(folder)
    documents = {}
    for row in RELEASED.values():
        results = update_figures(row, read_figures(folder / "results", row))
        if not row.is_encoder:
            documents[figures_file(folder / "results", row)] = format_figures(row, results)
        documents[folder / f"{row.repo_name}.md"] = str(make_card(row, results, f"{ORGANIZATION}/{row.repo_name}"))
    return documents


def list_stale(folder: str | Path) -> list[Path]:
    """The files of results and cards that are missing, stale, or of no released checkpoint."""
    folder = Path(folder)
    documents = make_documents(folder)
    present = [*folder.glob("*.md"), *(folder / "results").glob("*.json")]
    return sorted([*_find_stale(documents), *(file for file in present if file not in documents)])


def _find_stale(documents: Mapping[Path, str]) -> list[Path]:
    # They are compared as bytes, since reading as text would take other line endings for the same.
    return [file for file, text in documents.items() if not file.is_file() or file.read_bytes() != text.encode()]


def write_documents(folder: str | Path) -> list[Path]:
    """
    Writes the files of results and cards that are missing or stale. Measured results stay. Files that are not of a
    released checkpoint are left alone, for their owner to remove.

    Returns:
        `list[Path]`: the files that were written.
    """
    documents = make_documents(folder)
    written = sorted(_find_stale(documents))
    _write({file: documents[file] for file in written})
    return written


def _write(documents: Mapping[Path, str]):
    # Whole files or none: those of figures hold measured ones that are nowhere else.
    for file in documents:
        outputs.check_output_file(file)
    for file, text in documents.items():
        outputs.write_text(file, text)


def add_results(folder: str | Path, evaluations: Sequence[tuple[ReleasedCheckpoint, Mapping[str, Any]]]) -> list[Path]:
    """
    Adds measured figures to the files of results, in place of those of the same protocol. All are checked before any
    is written. [`write_documents`] then makes the cards.

    Args:
        folder (`str` or `Path`): `model_cards` of the repository.
        evaluations (`Sequence[tuple[ReleasedCheckpoint, Mapping]]`): Checkpoints, and what evaluation wrote of each.

    Returns:
        `list[Path]`: the files of results, whether they changed or not.

    Raises:
        ValueError: if an evaluation is not one of that checkpoint on its data set, see
            [`~segmenter_hf.hub.figures.measured_figure`].
    """
    folder = Path(folder) / "results"
    results = {row: update_figures(row, read_figures(folder, row)) for row, _ in evaluations}
    for row, evaluation in evaluations:
        results[row] = replace_measured(results[row], measured_figure(row, evaluation))
    documents = {figures_file(folder, row): format_figures(row, added) for row, added in results.items()}
    _write(documents)
    return list(documents)


__all__ = ["ORGANIZATION", "add_results", "list_stale", "make_documents", "write_documents"]
