"""Both training scripts for tests: as modules, and as users run them, on models and images that take moments."""

import json
import os
import subprocess
import sys
from pathlib import Path

from transformers import TrainingArguments

from segmenter_hf.training import run_with_trainer
from tests.common import REPOSITORY, load_script


LOOP = load_script("run_semantic_segmentation_no_trainer")
AccelerateArguments = LOOP.AccelerateArguments
# Records of runs have these names for the scripts.
MODULES = {"trainer": run_with_trainer, "accelerate": LOOP}
RUN_TYPES = {"trainer": TrainingArguments, "accelerate": AccelerateArguments}
SCRIPTS = {
    "trainer": REPOSITORY / "scripts" / "run_semantic_segmentation.py",
    "accelerate": REPOSITORY / "scripts" / "run_semantic_segmentation_no_trainer.py",
}
SIZES = "--hidden_size 64 --decoder_num_hidden_layers 1 --short_side 40 --crop_height 32 --crop_width 32".split()


def run_command(*command, environment: dict[str, str] | None = None) -> str:
    """What a command prints, which must succeed."""
    result = subprocess.run(
        [str(each) for each in command],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, **(environment or {})},
        timeout=600,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def run_script(kind: str, *arguments, launcher: tuple = (sys.executable,), environment: dict | None = None) -> str:
    """What a script prints, which must succeed."""
    return run_command(*launcher, SCRIPTS[kind], *arguments, environment=environment)


def history_of(folder: Path) -> list[dict]:
    """What a finished run has logged."""
    return json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
