"""Assembles the repository of a released checkpoint as a folder, and verifies it, before anything is pushed."""

import json
import shutil
from pathlib import Path

import torch
from huggingface_hub import HfApi
from transformers import AutoImageProcessor, PreTrainedModel
from transformers.utils import is_torchvision_available

from ..configuration_segmenter import SegmenterConfig
from ..conversion.convert import (
    CARD_FILE,
    CODE_FILES,
    LICENCE_FILE,
    LICENCES,
    TEMPORARY_PREFIX,
    load_checkpoint,
    save_checkpoint,
)
from ..conversion.released import ReleasedCheckpoint, apply_protocol, fetch_released
from ..conversion.reporting import hold_warnings, silence_libraries
from ..conversion.state_dict import list_names
from ..evaluation.record import Figure
from ..image_processing_pil_segmenter import SegmenterImageProcessorPil
from ..modeling_segmenter import SegmenterForSemanticSegmentation, SegmenterModel
from ..output_folders import replacing_folder
from ..outputs import write_text
from .cards import make_card
from .client import PushError, call_hub
from .figures import read_figures, update_figures


# The licence is that of the weights: MIT asks for its notice to come along. The code states its own.
REPOSITORY_FILES = {
    CARD_FILE,
    LICENCE_FILE,
    "config.json",
    "model.safetensors",
    "preprocessor_config.json",
    *CODE_FILES,
}


def find_figures(row: ReleasedCheckpoint, results_dir: Path) -> list[Figure]:
    """
    The figures that the card of a checkpoint shows.

    Raises:
        PushError: if they are not what a card can show.
    """
    try:
        return update_figures(row, read_figures(results_dir, row))
    except ValueError as error:
        raise PushError(f"The results of {row.repo_name} in {results_dir} cannot be read: {error}") from error


def write_card_and_licence(
    folder: Path,
    row: ReleasedCheckpoint,
    repo_id: str,
    revision: str | None,
    figures: list[Figure],
    model: PreTrainedModel,
):
    """Writes the card, which says of the model what it is, and the licence of its weights."""
    write_text(folder / CARD_FILE, str(make_card(row, figures, repo_id, revision, model)))
    write_text(folder / LICENCE_FILE, (LICENCES / f"{row.licence}.txt").read_text(encoding="utf-8"))


def assemble(
    row: ReleasedCheckpoint, repo_id: str, tag: str, figures: list[Figure], work_dir: Path, cache_dir: Path | None
) -> Path:
    """
    Makes the folder that is pushed: the converted checkpoint with the code that loads it, its card and its licence.

    Args:
        row (`ReleasedCheckpoint`): Which checkpoint.
        repo_id (`str`): Where it will be.
        tag (`str`): The revision that its card pins.
        figures (`list[Figure]`): Its figures.
        work_dir (`Path`): Where assembled folders are kept.
        cache_dir (`Path`, *optional*): Where downloads are kept.

    Returns:
        The folder.

    Raises:
        ConversionError: if it cannot be downloaded or converted.
        OutputError: if it cannot be written.
        PushError: if what was assembled does not load as what was converted, or files of others are in its place.
    """
    folder = work_dir / repo_id
    with (
        hold_warnings(),
        replacing_folder(folder, TEMPORARY_PREFIX, lambda: check_assembled(folder)) as unfinished,
    ):
        source = fetch_released(row, cache_dir)
        with silence_libraries():
            model, image_processor = load_checkpoint(source, row.source)
            image_processor = apply_protocol(image_processor, row)
            save_checkpoint(model, image_processor, unfinished, folder)
            write_card_and_licence(unfinished, row, repo_id, tag, figures, model)
            verify(unfinished, model, image_processor)
    return folder


def assemble_documents(
    folder: Path, api: HfApi, row: ReleasedCheckpoint, repo_id: str, tag: str, figures: list[Figure]
):
    """
    Writes into an empty folder those files of a repository that the source of its weights is not needed for: the code,
    the licence and the card, which says of the model what the config under a tag says.
    """
    settings = {"revision": tag, "local_dir": folder}
    config = SegmenterConfig.from_json_file(
        call_hub(f"Reading {repo_id}", api.hf_hub_download, repo_id, "config.json", **settings)
    )
    # The number of weights is all that the card says of them, so that no memory is taken for them.
    with torch.device("meta"):
        model = (SegmenterModel if row.is_encoder else SegmenterForSemanticSegmentation)(config)
    write_card_and_licence(folder, row, repo_id, tag, figures, model)
    for path in CODE_FILES.values():
        shutil.copy(path, folder)


def check_assembled(folder: Path):
    """
    Raises:
        PushError: if there is anything in a folder that no push has put there.
    """
    if not folder.exists():
        return
    foreign = [
        path.name
        for path in folder.iterdir()
        if path.is_symlink() or not path.is_file() or path.name not in REPOSITORY_FILES
    ]
    if foreign:
        raise PushError(
            f"{folder} holds what no push has put there: {list_names(foreign)}. Move that away, or pass another "
            "--work_dir."
        )


def read_code(file: Path) -> dict | None:
    """What a file of settings says of the code that loads them."""
    return json.loads(file.read_text(encoding="utf-8")).get("auto_map")


@torch.no_grad()
def verify(folder: Path, model: PreTrainedModel, image_processor: SegmenterImageProcessorPil):
    """
    Loads an assembled folder and compares it with what was converted: weights, outputs, config and image processor, in
    both of its backends where there are both. Its files must be those of a repository that needs no package, and the
    code in them that of this one.

    Raises:
        PushError: if anything differs.
    """
    loaded = type(model).from_pretrained(folder).eval()
    differences = []
    expected, actual = model.state_dict(), loaded.state_dict()
    if expected.keys() != actual.keys() or not all(torch.equal(expected[name], actual[name]) for name in expected):
        differences.append("weights")
    patch_size = model.config.patch_size
    pixel_values = torch.linspace(-1, 1, 3 * 3 * 5 * patch_size**2).view(1, 3, 3 * patch_size, 5 * patch_size)
    if not torch.allclose(model(pixel_values)[0], loaded(pixel_values)[0], rtol=1e-5, atol=1e-6):
        differences.append("outputs")
    config, settings = model.config.to_dict(), image_processor.to_dict()
    is_same = loaded.config.to_diff_dict() == model.config.to_diff_dict()
    if not is_same or read_code(folder / "config.json") != config["auto_map"]:
        differences.append("config")
    for backend in ("pil", "torchvision") if is_torchvision_available() else ("pil",):
        if AutoImageProcessor.from_pretrained(folder, backend=backend).to_dict() != settings:
            differences.append(f"image processor ({backend})")
    if read_code(folder / "preprocessor_config.json") != settings["auto_map"]:
        differences.append("code of the image processor")
    differences += [name for name, path in CODE_FILES.items() if (folder / name).read_bytes() != path.read_bytes()]
    differences += sorted({path.name for path in folder.iterdir()} ^ REPOSITORY_FILES)
    if differences:
        raise PushError(f"{folder} does not load as what was converted. It differs in: {', '.join(differences)}.")


__all__ = ["assemble", "assemble_documents", "find_figures", "verify", "write_card_and_licence"]
