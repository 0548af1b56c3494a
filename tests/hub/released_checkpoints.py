"""Released checkpoints, and small files in the place of their downloads."""

from pathlib import Path

import numpy as np

from segmenter_hf.conversion.released import find_released
from tests.common import CODE_FILES, REPOSITORY
from tests.conversion.encoder_checkpoints import make_augreg_arrays
from tests.conversion.original_checkpoints import make_original_checkpoint


RESULTS_DIR = REPOSITORY / "model_cards" / "results"
# A mask transformer, a linear decoder and an encoder. Their files have no known checksum, so that small ones do.
NAMES = ("ade20k/seg_tiny_mask", "ade20k/seg_base_patch8", "vit_tiny_patch16_384")
ROWS = [find_released(name) for name in NAMES]
REPOS = [f"lab/{row.repo_name}" for row in ROWS]
MODEL_FILES = CODE_FILES | {"LICENSE", "README.md", "config.json", "model.safetensors", "preprocessor_config.json"}


def write_downloads(folder: Path) -> Path:
    make_original_checkpoint().write(folder / ROWS[0].repo_name)
    make_original_checkpoint(decoder="linear", patch_size=8, image_size=(32, 32)).write(folder / ROWS[1].repo_name)
    (folder / ROWS[2].repo_name).mkdir()
    with (folder / ROWS[2].repo_name / ROWS[2].files[0].name).open("wb") as file:
        np.savez(file, **make_augreg_arrays())
    return folder
