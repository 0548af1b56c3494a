"""Converted folders have the card, notices and licences of their weights."""

import os

import pytest
from huggingface_hub import ModelCard

from segmenter_hf.conversion import ConversionError, convert_checkpoint
from segmenter_hf.conversion.convert import CARD_MARK, LICENCES
from segmenter_hf.hub.converted import add_documents
from segmenter_hf.hub.origins import Terms, load_starting_weights
from tests.common import CODE_FILES, REPOSITORY
from tests.conversion.original_checkpoints import make_original_checkpoint


OUTPUT_FILES = {"config.json", "model.safetensors", "preprocessor_config.json"} | CODE_FILES


@pytest.fixture
def source(tmp_path):
    return make_original_checkpoint().write(tmp_path / "source")


def test_terms_of_the_source_come_along(source, tmp_path):
    """In a card, which a training finds that starts from the folder; and again, when the folder is overwritten."""
    card = "---\nlicense: other\nlicense_link: TERMS.md\nbase_model: lab/start\n---\n# Mine\n"
    for name, text in (("README.md", card), ("NOTICE", "no"), ("TERMS.md", "no!"), ("notes.txt", "mine")):
        (source / name).write_text(text)
    output_dir = tmp_path / "output"
    for overwrite in (False, True):
        # The file, and the folder that it is in.
        named = source if overwrite else source / "checkpoint.pth"
        convert_checkpoint(named, output_dir, overwrite=overwrite, add_documents=add_documents)
        assert set(os.listdir(output_dir)) == OUTPUT_FILES | {"README.md", "NOTICE", "TERMS.md"}
        assert (output_dir / "NOTICE").read_text() == "no"
        start = load_starting_weights(str(output_dir))
        assert start.terms == Terms("other", "terms-of-the-starting-weights", "TERMS.md")
        assert start.base_model == "lab/start" and set(start.documents) == {"NOTICE", "TERMS.md"}
        assert str(tmp_path) not in (output_dir / "README.md").read_text()
    (output_dir / "NOTICE").write_text("of another")
    with pytest.raises(ConversionError, match="output is not overwritten, .* in it: NOTICE. Choose"):
        convert_checkpoint(source, output_dir, overwrite=True)


def test_released_checkpoints_come_with_card_and_licence(source, tmp_path, monkeypatch):
    monkeypatch.setattr("segmenter_hf.conversion.convert.fetch_released", lambda row, cache_dir: source)
    for overwrite in (False, True):
        convert_checkpoint(
            "ade20k/seg_tiny_mask", tmp_path / "output", overwrite=overwrite, add_documents=add_documents
        )
    assert set(os.listdir(tmp_path / "output")) == OUTPUT_FILES | {"README.md", "LICENSE"}
    card = ModelCard.load(tmp_path / "output" / "README.md")
    assert "revision" not in card.text and 'model="path/to/this/folder"' in card.text
    start = load_starting_weights(str(tmp_path / "output"))
    assert start.terms == Terms("mit") and start.documents == {"LICENSE": (LICENCES / "mit.txt").read_bytes()}
    assert start.base_model == "timm/vit_tiny_patch16_384.augreg_in21k_ft_in1k"


def test_every_card_tells_that_conversion_wrote_it():
    for card in (REPOSITORY / "model_cards").glob("*.md"):
        assert CARD_MARK in card.read_bytes(), card


def test_names_that_are_not_utf_8(source, tmp_path):
    renamed, output_dir = source.rename(tmp_path / os.fsdecode(b"source-\xff")), tmp_path / "output"
    (renamed / "NOTICE").write_text("Mine.")
    convert_checkpoint(renamed, output_dir, add_documents=add_documents)
    assert "`source-\\udcff`" in (output_dir / "README.md").read_text(encoding="utf-8")
