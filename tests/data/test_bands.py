"""Image files of which Pillow drops bits or bands: all that is in them is read."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

from segmenter_hf.data.bands import TURNS, read_bands
from segmenter_hf.data.image_files import UnreadableImageError, read_image_file
from tests.common import encode_png, encode_tiff


def random_values(bands: int, dtype=np.uint16, height: int = 11, width: int = 7) -> np.ndarray:
    generator = np.random.default_rng(0)
    if np.dtype(dtype).kind == "f":
        return generator.random((height, width, bands)).astype(dtype)
    return generator.integers(0, np.iinfo(dtype).max, (height, width, bands), dtype=dtype, endpoint=True)


def encode(image: Image.Image, **settings) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, **settings)
    return buffer.getvalue()


def check(content: bytes, expected: np.ndarray, file_format: str):
    file = read_image_file(content, all_bands=True)
    assert (file.height, file.width, file.file_format) == (*expected.shape[:2], file_format)
    assert file.pixels.dtype == expected.dtype
    assert np.array_equal(file.pixels, expected)
    return file


@pytest.mark.parametrize("bands", [2, 3, 4])
def test_png_of_16_bits(bands):
    values = random_values(bands)
    check(encode_png(values), values if bands > 2 else values[..., [0, 0, 0, 1]], "PNG")


@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize(
    ("bands", "dtype", "photometric", "extra_samples"),
    [
        (3, np.uint16, 2, ()),
        (4, np.uint16, 2, (2,)),
        # GDAL writes near infrared like this.
        (4, np.uint16, 2, (0,)),
        (4, np.uint8, 2, (0,)),
        (4, np.uint16, 5, ()),
    ],
)
def test_tiff_without_another_library(bands, dtype, photometric, extra_samples, byte_order):
    values = random_values(bands, dtype)
    check(encode_tiff(values, photometric, extra_samples, byte_order), values, "TIFF")


@pytest.mark.parametrize(
    ("bands", "dtype", "photometric", "extra_samples"),
    [
        (6, np.uint16, 1, (0,) * 5),
        (6, np.uint16, 2, (0,) * 3),
        (5, np.uint8, 2, (0, 0)),
        (2, np.uint16, 1, (0,)),
        # These are multiplied by the alpha channel, and the values of the file are taken.
        (4, np.uint16, 2, (1,)),
        (3, np.float32, 2, ()),
        (13, np.float64, 1, (0,) * 12),
    ],
)
def test_tiff_with_tifffile(bands, dtype, photometric, extra_samples):
    pytest.importorskip("tifffile")
    values = random_values(bands, dtype)
    check(encode_tiff(values, photometric, extra_samples), values, "TIFF")


@pytest.mark.parametrize("compression", [None, "lzw", "zlib"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("settings", [{}, {"tile": (16, 16)}, {"predictor": True}, {"bigtiff": True}])
def test_tiff_as_other_programs_write_it(compression, planar, settings):
    tifffile = pytest.importorskip("tifffile")
    if "predictor" in settings and compression is None:
        pytest.skip("there is nothing to predict for")
    for bands, photometric in ((3, "rgb"), (4, "rgb"), (7, "minisblack")):
        values = random_values(bands, height=40, width=33)
        stored = np.moveaxis(values, -1, 0) if planar == "separate" else values
        buffer = io.BytesIO()
        tifffile.imwrite(
            buffer, stored, photometric=photometric, planarconfig=planar, compression=compression, **settings
        )
        check(buffer.getvalue(), values, "TIFF")


@pytest.mark.parametrize(("dtype", "low"), [(np.int16, 0), (np.int32, 0), (np.uint32, 0), (np.int16, -5)])
def test_other_whole_numbers(dtype, low):
    pytest.importorskip("tifffile")
    values = np.arange(5 * 6 * 6).reshape(5, 6, 6) * 100 % 30000 + low
    content = encode_tiff(values.astype(dtype), 1, (0,) * 5)
    if low < 0:
        with pytest.raises(UnreadableImageError, match="it holds values from -5 to .*, expected 0 to 65535"):
            read_image_file(content, all_bands=True)
    else:
        check(content, values.astype(np.uint16), "TIFF")


@pytest.mark.parametrize("orientation", [1, *TURNS])
def test_files_are_turned_as_pillow_turns_them(orientation):
    values = random_values(3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    of_8_bits = encode(Image.fromarray((values >> 8).astype(np.uint8)), format="PNG", exif=exif)
    photo = read_image_file(of_8_bits)
    # Pillow writes the part of the file that has the orientation behind the header.
    start = of_8_bits.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(of_8_bits[start : start + 4], "big")
    png = encode_png(values)
    contents = {"PNG": png[:33] + of_8_bits[start:end] + png[33:], "TIFF": encode_tiff(values, _274=orientation)}
    for file_format, content in contents.items():
        file = read_image_file(content, all_bands=True)
        assert (file.height, file.width, file.file_format) == (photo.height, photo.width, file_format)
        assert file.orientation == orientation
        assert np.array_equal(file.pixels >> 8, np.asarray(photo.pixels))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_what_pillow_reads_whole_is_left_to_it(mode, file_format):
    if (mode, file_format) in {("CMYK", "PNG"), ("F", "PNG")}:
        pytest.skip("there are no such files")
    grey = Image.linear_gradient("L").resize((7, 11))
    image = Image.fromarray(np.asarray(grey, dtype=np.uint16) * 257) if mode == "I;16" else grey.convert(mode)
    content = encode(image, format=file_format)
    assert read_bands(content) is None
    file = read_image_file(content, all_bands=True)
    assert file.pixels.mode == Image.open(io.BytesIO(content)).mode
    assert np.array_equal(np.asarray(file.pixels), np.asarray(Image.open(io.BytesIO(content))))


def test_frames_are_pages_of_their_own():
    """Smaller copies, which maps have for quick looks, are not."""
    first, second = (Image.fromarray(random_values(3, np.uint8)) for _ in range(2))
    pages = encode(first, format="TIFF", save_all=True, append_images=[second, second])
    assert read_image_file(pages).num_frames == 3
    assert np.array_equal(np.asarray(read_image_file(pages).pixels), np.asarray(first))
    tifffile = pytest.importorskip("tifffile")
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(random_values(3), photometric="rgb")
        writer.write(random_values(3)[::2, ::2], photometric="rgb", subfiletype=1)
        writer.write(random_values(1)[..., 0] > 9, photometric="minisblack", subfiletype=4)
    for all_bands in (True, False):
        assert read_image_file(buffer.getvalue(), all_bands=all_bands).num_frames == 1


@pytest.mark.parametrize(
    "content",
    [encode_png(random_values(3))[:200], encode_tiff(random_values(3))[:300], encode_png(random_values(3))[:30]],
)
def test_files_that_are_cut_off(content):
    with pytest.raises(UnreadableImageError):
        read_image_file(content, all_bands=True)


def test_tifffile_is_asked_for_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(UnreadableImageError, match=r'Pillow does not read.*: pip install "segmenter_hf\[tiff\]"'):
        read_image_file(encode_tiff(random_values(6), 1, (0,) * 5), all_bands=True)


def test_what_only_begins_like_a_tiff_file():
    with pytest.raises(UnreadableImageError):
        read_image_file(b"II*\0 and nothing of a TIFF file", all_bands=True)
