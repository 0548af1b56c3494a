"""The folder of committed cards and figures: as the code makes it, and rewritten without losing measured figures."""

import dataclasses

from huggingface_hub import ModelCard

from segmenter_hf.conversion.released import RELEASED, find_released
from segmenter_hf.hub.card_folder import list_stale, make_documents, write_documents
from segmenter_hf.hub.figures import figures_file, format_figures, published_figures, read_figures
from tests.common import REPOSITORY
from tests.hub.evaluations import make_measured_figure


FOLDER = REPOSITORY / "model_cards"
ROWS = list(RELEASED.values())
MODELS = [row for row in ROWS if not row.is_encoder]


def test_committed_files_are_what_the_code_makes():
    stale = [str(file.relative_to(REPOSITORY)) for file in list_stale(FOLDER)]
    assert not stale, (
        f"{stale} are stale: run `python scripts/write_model_cards.py`, and remove those of no checkpoint."
    )


def test_every_released_checkpoint_has_a_card_and_every_model_its_figures():
    assert len({ModelCard.load(FOLDER / f"{row.repo_name}.md").text.partition("\n## ")[0] for row in ROWS}) == len(
        ROWS
    )
    assert {file.stem for file in FOLDER.glob("*.md")} == {row.repo_name for row in ROWS}
    assert {file.stem for file in (FOLDER / "results").glob("*.json")} == {row.repo_name for row in MODELS}


def test_writing_keeps_measured_figures_and_renews_published_ones(tmp_path):
    row = find_released("ade20k/seg_tiny_mask")
    wrong = dataclasses.replace(published_figures(row)[0], value_percent=99.0)
    file = figures_file(tmp_path / "results", row)
    file.parent.mkdir()
    file.write_text(format_figures(row, [wrong, make_measured_figure(row)]), encoding="utf-8")

    assert file in list_stale(tmp_path)
    written = write_documents(tmp_path)
    assert file in written and len(written) == len(ROWS) + len(MODELS)
    assert read_figures(tmp_path / "results", row) == [*published_figures(row), make_measured_figure(row)]
    assert "| 37.9 |" in (tmp_path / f"{row.repo_name}.md").read_text(encoding="utf-8")
    assert list_stale(tmp_path) == [] == write_documents(tmp_path)


def test_stale_files_are_found(tmp_path):
    for file, text in make_documents(tmp_path).items():
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(text.encode())
    changed, removed, *_ = tmp_path.glob("*.md")
    changed.write_bytes(changed.read_bytes().replace(b"\n", b"\r\n"))
    removed.unlink()
    stranger = tmp_path / "results" / "segmenter-of-nobody.json"
    stranger.write_text("{}")
    assert set(list_stale(tmp_path)) == {changed, removed, stranger}
    assert set(write_documents(tmp_path)) == {changed, removed}
    assert stranger.read_text() == "{}"
