"""Repositories of released checkpoints are assembled as folders that load as what was converted, or not at all."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from segmenter_hf.hub import repository
from segmenter_hf.hub.client import PushError, make_manifest
from segmenter_hf.hub.repository import assemble, find_figures
from segmenter_hf.output_folders import temporary_folder
from tests.common import CODE_FILES, run_in_child
from tests.conversion.original_checkpoints import make_original_checkpoint
from tests.hub.released_checkpoints import MODEL_FILES, REPOS, RESULTS_DIR, ROWS


@pytest.fixture
def assemble_first(downloads, tmp_path):
    """Assembles the first of the checkpoints."""

    def run(cache_dir: Path = downloads, tag: str = "v1.0") -> Path:
        return assemble(ROWS[0], REPOS[0], tag, find_figures(ROWS[0], RESULTS_DIR), tmp_path / "work", cache_dir)

    return run


def test_card_says_what_the_model_is(assemble_first):
    folder = assemble_first()
    assert {path.name for path in folder.iterdir()} == MODEL_FILES
    card = (folder / "README.md").read_text()
    assert "width 64, 2 layers, 1 heads" in card and "mask transformer of 2 layers, width 64" in card


def test_folder_follows_what_it_is_made_from(assemble_first, tmp_path):
    folder = assemble_first()
    before = make_manifest(folder)
    (folder / "README.md").write_text("# Mine\n")
    assert make_manifest(assemble_first()) == before
    make_original_checkpoint(seed=1).write(tmp_path / "other" / ROWS[0].repo_name)
    changed = make_manifest(assemble_first(tmp_path / "other", "v2.0"))
    assert {entry.path for entry in set(changed) - set(before)} >= {"model.safetensors", "README.md"}
    assert 'revision = "v2.0"' in (folder / "README.md").read_text()


def spoil_weights(folder: Path, model):
    with torch.no_grad():
        model.get_parameter("decoder.mask_norm.bias").add_(1)


def spoil_settings(name: str, value):
    def spoil(folder: Path, model):
        path = folder / "preprocessor_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))

    return spoil


def spoil_config(folder: Path, model):
    config = json.loads((folder / "config.json").read_text())
    del config["auto_map"]["AutoModel"]
    (folder / "config.json").write_text(json.dumps(config))


def spoil_code(folder: Path, model):
    (folder / "modeling_segmenter.py").write_text("")


def spoil_files(folder: Path, model):
    (folder / "notes.txt").touch()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_weights, "weights, outputs"),
        (spoil_settings("image_mean", [0.1, 0.2, 0.3]), r"image processor \(pil\), image processor \(torchvision\)"),
        (spoil_settings("window_stride", 7), r"image processor \(pil\), image processor \(torchvision\)"),
        (spoil_settings("auto_map", {}), "code of the image processor"),
        (spoil_config, "config"),
        (spoil_code, "modeling_segmenter.py"),
        (spoil_files, "notes.txt"),
    ],
)
def test_what_does_not_load_as_converted_is_refused(spoil, message, assemble_first, tmp_path, monkeypatch):
    write = repository.write_card_and_licence

    def write_and_spoil(folder, row, repo_id, revision, figures, model):
        write(folder, row, repo_id, revision, figures, model)
        spoil(folder, model)

    monkeypatch.setattr(repository, "write_card_and_licence", write_and_spoil)
    with pytest.raises(PushError, match=f"does not load as what was converted. It differs in: {message}.$"):
        assemble_first()
    assert not (tmp_path / "work" / REPOS[0]).exists()


def test_leftovers_of_killed_runs_are_removed_and_nothing_else(assemble_first, tmp_path):
    parent = tmp_path / "work" / "lab"
    parent.mkdir(parents=True)

    def stop():
        with temporary_folder(parent, ".converting-") as folder:
            folder.mkdir()
            os._exit(9)

    assert run_in_child(stop) == 9
    (left,) = parent.glob(".*")
    own = parent / ".converting-photos"
    own.mkdir()
    (own / "photo.jpg").touch()
    assemble_first()
    assert list(parent.glob(".*")) == [own] and (own / "photo.jpg").exists() and left != own


def test_files_of_others_in_the_place_of_a_folder_are_not_removed(assemble_first):
    folder = assemble_first()
    # Earlier releases kept the windows in one of the other files: what they wrote is the project's own too.
    (folder / "windows_segmenter.py").unlink()
    assemble_first()
    assert {path.name for path in folder.glob("*.py")} == CODE_FILES
    (folder / ".git").mkdir()
    (folder / "notes.txt").write_text("mine")
    before = make_manifest(folder)
    with pytest.raises(PushError, match=r"holds what no push has put there: .git, notes.txt. Move that away, or pass"):
        assemble_first(tag="v2.0")
    assert make_manifest(folder) == before and (folder / ".git").is_dir()


def test_figures(tmp_path):
    results = Path(shutil.copytree(RESULTS_DIR, tmp_path / "results"))
    (results / f"{ROWS[0].repo_name}.json").write_text("{")
    with pytest.raises(PushError, match=f"The results of {ROWS[0].repo_name} in .* cannot be read"):
        find_figures(ROWS[0], results)
    (results / f"{ROWS[1].repo_name}.json").unlink()
    assert [figure.value_percent for figure in find_figures(ROWS[1], results)][:1] == [49.5], "those of the table"
