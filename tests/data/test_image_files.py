"""Image files, upright as `datasets` reads them, and what it says of those that cannot be read."""

import io
import struct
import zipfile
import zlib

import numpy as np
import pytest
from datasets import Image as ImageFeature
from PIL import EpsImagePlugin, Image

from segmenter_hf.data.image_files import UnreadableImageError, read_image_file
from tests.data.datasets_on_disk import make_image, make_label_map


def encode(image: Image.Image, file_format: str, orientation: int = 1, **settings) -> bytes:
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    image.save(buffer, format=file_format, **({"exif": exif} if orientation != 1 else {}), **settings)
    return buffer.getvalue()


def with_late_exif(png: bytes, orientation: int) -> bytes:
    """With the orientation behind the pixels, where some programs write it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
    return png[:-12] + chunk + png[-12:]


def check_is_as_datasets_reads(content: bytes, orientation: int):
    expected = ImageFeature().decode_example({"bytes": content, "path": None})
    for with_pixels in (False, True):
        read = read_image_file(content, with_pixels)
        assert (read.width, read.height) == expected.size
        assert read.orientation == orientation
    np.testing.assert_array_equal(np.asarray(read.pixels), np.asarray(expected))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_orientation(file_format, orientation):
    check_is_as_datasets_reads(encode(make_image(), file_format, orientation), orientation)


def test_orientation_behind_the_pixels():
    check_is_as_datasets_reads(with_late_exif(encode(make_image(), "PNG"), 6), 6)


def test_orientations_that_do_not_exist():
    for orientation in (0, 9, 700):
        read = read_image_file(encode(make_image(), "JPEG", orientation))
        assert (read.height, read.width, read.orientation) == (40, 60, 1)


def test_modes_and_frames_are_those_of_the_file(tmp_path):
    frames = [make_label_map((index, 1, 2)) for index in range(3)]
    (tmp_path / "map.gif").write_bytes(encode(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    read = read_image_file(tmp_path / "map.gif")
    assert (read.file_format, read.num_frames) == ("GIF", 3)
    sixteen_bits = read_image_file(encode(make_label_map((0, 1, 700), dtype=np.uint16), "PNG"))
    assert np.unique(sixteen_bits.pixels).tolist() == [0, 1, 700]
    assert read_image_file(encode(make_image(), "PNG"), with_pixels=False).pixels is None


def test_files_in_archives(tmp_path):
    """`datasets` refers to them so."""
    with zipfile.ZipFile(tmp_path / "train.zip", "w") as archive:
        archive.writestr("masks/0.png", encode(make_label_map(), "PNG"))
    read = read_image_file(f"zip://masks/0.png::{tmp_path / 'train.zip'}")
    assert np.unique(read.pixels).tolist() == [0, 1, 2]


def test_what_cannot_be_read(tmp_path):
    complete = encode(make_label_map(range(40)), "PNG")
    header = b"IHDR" + struct.pack(">II", 20000, 20000) + complete[24:29]
    bomb = complete[:12] + header + struct.pack(">I", zlib.crc32(header)) + complete[33:]
    (tmp_path / "folder.png").mkdir()
    for source, reason in (
        (b"", "it is empty"),
        (b"<html>404</html>", "no image file"),
        (complete[: len(complete) // 2], "truncated"),
        (bomb, "more than 178,956,970 pixels: cut it into parts"),
        (tmp_path / "gone.png", "no such file"),
        (tmp_path / "folder.png", "Is a directory"),
    ):
        with pytest.raises(UnreadableImageError, match=reason):
            read_image_file(source)
    # Only the pixels are incomplete.
    assert read_image_file(complete[: len(complete) // 2], with_pixels=False).width == 60


def test_programs_are_not_run(monkeypatch):
    """Whatever the name of the file, Pillow has Ghostscript run it, where that is installed."""
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: pytest.fail("It was run."))
    for with_pixels in (True, False):
        with pytest.raises(UnreadableImageError, match="it is PostScript, a program"):
            read_image_file(encode(make_image(), "EPS"), with_pixels)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("file_format", ["BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP"])
def test_bytes_that_are_wrong_raise_nothing_else(file_format):
    """Whatever Pillow makes of them. Seldom, it makes pixels."""
    generator, complete = np.random.default_rng(0), encode(make_label_map(), file_format)
    unreadable = 0
    for _ in range(100):
        content = np.frombuffer(complete, dtype=np.uint8).copy()
        # Sizes and types are in these first bytes.
        wrong = generator.integers(0, min(len(content), 120), 4)
        content[wrong] = generator.integers(0, 256, 4)
        for with_pixels in (False, True):
            try:
                read_image_file(content.tobytes(), with_pixels)
            except UnreadableImageError as error:
                unreadable += 1
                assert str(error)
    assert unreadable
