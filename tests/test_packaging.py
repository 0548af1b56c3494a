"""What an installed copy contains, as opposed to the checkout that all other tests run in."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .common import REPOSITORY, run_python


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Folder with a non-editable install, from a copy of the sources: building leaves files behind."""
    sources, target = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("installed")
    shutil.copytree(
        REPOSITORY / "segmenter_hf", sources / "segmenter_hf", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, sources)
    # Nothing is downloaded: setuptools is among the requirements of the tests, the rest is not asked for.
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--no-build-isolation"]
    result = subprocess.run([*install, "--target", target, sources], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return target


def test_every_file_of_the_package_is_installed(installed):
    def files(folder: Path) -> set[str]:
        paths = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        return {path.relative_to(folder).as_posix() for path in paths}

    assert files(installed / "segmenter_hf") == files(REPOSITORY / "segmenter_hf")


def test_default_checkpoint_is_whole(installed):
    checkpoint = installed / "segmenter_hf" / "checkpoints" / "camvid"
    names = {path.name for path in checkpoint.iterdir() if path.is_file()}
    assert names >= {"README.md", "NOTICE", "config.json", "preprocessor_config.json", "model.safetensors"}
    # A pointer that a partial checkout leaves in place of the weights has some hundred bytes.
    assert (checkpoint / "model.safetensors").stat().st_size > 1_000_000


def test_installed_copy_segments(installed, tmp_path):
    code = """
import json, sys
sys.path.insert(0, sys.argv[1])
import segmenter_hf
from PIL import Image
from segmenter_hf.data.labels import load_label_set
from transformers import pipeline

segments = pipeline("image-segmentation", model=segmenter_hf.default_checkpoint())(Image.new("RGB", (64, 48)))
print(json.dumps({
    "file": segmenter_hf.__file__,
    "default_checkpoint": segmenter_hf.default_checkpoint(),
    "size": segments[0]["mask"].size,
    "labels": len(load_label_set("ade20k").id2label),
}))
"""
    report = json.loads(run_python(code, installed, cwd=tmp_path).stdout)
    package = installed / "segmenter_hf"
    assert Path(report["file"]) == package / "__init__.py"
    assert Path(report["default_checkpoint"]) == package / "checkpoints" / "camvid"
    assert report["size"] == [64, 48]
    assert report["labels"] == 150
    assert (package / "conversion" / "released.yaml").is_file()
    assert {path.name for path in (package / "conversion" / "licences").iterdir()} == {"apache-2.0.txt", "mit.txt"}


def test_version_and_licence_are_stated(installed):
    (metadata,) = installed.glob("segmenter_hf-*.dist-info/METADATA")
    text = metadata.read_text(encoding="utf-8")
    version = run_python("import segmenter_hf; print(segmenter_hf.__version__)", cwd=installed).stdout.strip()
    assert f"\nVersion: {version}\n" in text
    assert "\nLicense-Expression: Apache-2.0\n" in text
    licences = {path.name for path in metadata.parent.rglob("*") if path.is_file()}
    assert {"LICENSE", "NOTICE"} <= licences
