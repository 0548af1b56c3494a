"""The demo script, run as a user runs it."""

import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ..common import REPOSITORY


PHOTO = REPOSITORY / "scripts" / "images" / "china.jpg"


def run_script(*arguments):
    command = [sys.executable, REPOSITORY / "scripts" / "segment.py", *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=REPOSITORY)


@pytest.mark.slow
def test_segments_the_photo_of_the_demo(tmp_path):
    result = run_script(PHOTO, "--output_dir", tmp_path)
    assert result.returncode == 0, result.stderr
    shares = dict(re.findall(r"^  (.+?) +([\d.]+)%$", result.stdout, flags=re.MULTILINE))
    assert sum(map(float, shares.values())) == pytest.approx(100, abs=1)
    # The model knows these from roads.
    assert float(shares["sky"]) > 20
    assert float(shares["tree"]) > 20

    overlay = Image.open(tmp_path / "china_overlay.png")
    photo = Image.open(PHOTO)
    assert overlay.height == photo.height
    assert overlay.width > photo.width, "the legend stands beside the photo"
    assert str(tmp_path / "china_overlay.png") in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["china_overlay.png"]


@pytest.mark.slow
def test_odd_images_each_get_an_overlay_of_their_size(tmp_path):
    generator = np.random.default_rng(0)
    pixels = Image.fromarray(generator.integers(0, 256, (70, 90, 4), dtype=np.uint8))
    images = {
        "tiny.png": pixels.crop((0, 0, 1, 1)).convert("RGB"),
        "alpha.png": pixels,
        "palette.png": pixels.convert("RGB").convert("P"),
        "bits.png": pixels.convert("1"),
        "print.jpg": pixels.convert("RGB").convert("CMYK"),
    }
    for name, image in images.items():
        image.save(tmp_path / name)
    result = run_script(*(tmp_path / name for name in images), "--output_dir", tmp_path / "overlays")
    assert result.returncode == 0, result.stderr
    for name, image in images.items():
        overlay = Image.open(tmp_path / "overlays" / f"{name.partition('.')[0]}_overlay.png")
        assert overlay.height == image.height


def test_images_whose_overlays_would_be_one_file_are_refused(tmp_path):
    result = run_script(PHOTO, tmp_path / "china.png", "--output_dir", tmp_path / "overlays")
    assert result.returncode == 2
    assert "same name" in result.stderr
    assert not (tmp_path / "overlays").exists()


def test_files_that_are_no_images_are_refused_before_any_work(tmp_path):
    text = tmp_path / "notes.jpg"
    text.write_text("not an image")
    shutil.copy(PHOTO, tmp_path / "photo.jpg")
    for bad in (text, tmp_path / "missing.jpg"):
        result = run_script(tmp_path / "photo.jpg", bad, "--output_dir", tmp_path / "overlays")
        assert result.returncode == 2
        assert result.stderr.strip().splitlines()[-1].startswith(f"{bad}: not a readable image")
    assert not (tmp_path / "overlays").exists()
