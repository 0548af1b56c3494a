"""
Images of which Pillow drops bits or bands: 16-bit files of several channels, and TIFF files of any bands. They are
read as arrays.
"""

import io
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from PIL import Image as PILImage
from PIL import UnidentifiedImageError
from PIL.ExifTags import Base as ExifTag
from PIL.TiffImagePlugin import ImageFileDirectory_v2


PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# A PNG file says at these places how many bits each channel has, and which channels there are: one of the last numbers
# for several, which are grey and alpha, RGB, and RGBA.
PNG_BIT_DEPTH, PNG_COLOUR_TYPE, PNG_SEVERAL_CHANNELS = 24, 25, (4, 2, 6)
# TIFF and BigTIFF files begin with one of these, by their byte order.
TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
BIG_TIFF = 43
TIFF_PALETTE = 3
# A TIFF file says by these bits that a page is a smaller copy of another, or a mask.
TIFF_COPY_OR_MASK = 1 | 4
TIFF_EXTRA = 'pip install "segmenter_hf[tiff]"'

# Pillow keeps the upper byte of each value of 16-bit pixels in these layouts, by the byte order of the file, or the
# machine's (N). It keeps the lower byte if it is told the other order.
SEVERAL_CHANNELS = ("CMYK", "RGB", "RGBA", "RGBX")
OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
# EXIF's orientations ask for these turns.
TURNS = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels),
}


class BandsError(ValueError):
    """An image file whose bands cannot be read. The message is the reason, and does not name the file."""


class Bands(NamedTuple):
    """
    What was read of an image file.

    Args:
        pixels (`np.ndarray`): Upright, of shape `(height, width, bands)`, or `(height, width)` where there is one
            band; uint8, uint16 or floats.
        orientation (`int`): How EXIF said that stored pixels are to be turned, from 1 (not at all) to 8.
        num_frames (`int`): More than 1 for files of several pages, of which the first was read.
    """

    pixels: np.ndarray
    orientation: int
    num_frames: int


def is_candidate(head: bytes) -> bool:
    """Whether a file that begins like this may be one that Pillow does not read whole."""
    if head.startswith(PNG_SIGNATURE):
        is_whole = len(head) > PNG_COLOUR_TYPE
        return is_whole and head[PNG_BIT_DEPTH] == 16 and head[PNG_COLOUR_TYPE] in PNG_SEVERAL_CHANNELS
    return head[:4] in TIFF_SIGNATURES


def read_bands(content: bytes) -> Bands | None:
    """
    Reads an image file of which Pillow drops bits or bands; `None` for other files.

    Raises:
        BandsError: if there are more bits or bands than can be read.
        OSError, SyntaxError, ValueError: those of Pillow, for broken files.
    """
    if not is_candidate(content):
        return None
    try:
        image = PILImage.open(io.BytesIO(content))
    except UnidentifiedImageError:
        if content.startswith(PNG_SIGNATURE):
            raise
        return _read_with_tifffile(content)
    with image:
        layouts = {tile.args if isinstance(tile.args, str) else tile.args[0] for tile in image.tile}
        layout, _, order = layouts.pop().partition(";16") if len(layouts) == 1 else ("", "", "")
        if image.format == "PNG":
            if layout == "LA":
                # As RGBA, Pillow gives the bytes as they are, two for each value.
                image.tile = [tile._replace(args="RGBA") for tile in image.tile]
                pixels = np.asarray(image).view(">u2").astype(np.uint16)
                # Pillow has grey and alpha of 8 bits as RGBA, so these 16 bits become that too.
                pixels = pixels[..., [0, 0, 0, 1]]
            else:
                pixels = _read_both_bytes(content, layout, order)
                image.load()
            # The orientation may come behind the pixels.
            orientation = _read_orientation(image.getexif())
            return Bands(_turn(pixels, orientation), orientation, 1)

        tags = image.tag_v2
        bits, samples = tags.get(ExifTag.BitsPerSample, (1,)), tags.get(ExifTag.SamplesPerPixel, 1)
        if samples == 1 or tags.get(ExifTag.PhotometricInterpretation) == TIFF_PALETTE:
            return None
        orientation, num_frames = _read_orientation(tags), count_frames(image, content)
        is_interleaved = tags.get(ExifTag.PlanarConfiguration, 1) == 1
        # Pillow turns TIFF files itself, so what it reads is upright already.
        if max(bits) <= 8:
            if samples == len(image.getbands()):
                return None
            if layout == "RGBX" and is_interleaved:
                return Bands(_read_layout(content, layout), orientation, num_frames)
        elif order in OTHER_ORDER and layout in SEVERAL_CHANNELS and samples == len(layout) and is_interleaved:
            return Bands(_read_both_bytes(content, layout, order), orientation, num_frames)
    return _read_with_tifffile(content)


def count_frames(image: PILImage.Image, content: bytes) -> int:
    """Frames of an image file, or pages, but for masks and for smaller copies of the first."""
    if image.format != "TIFF":
        return getattr(image, "n_frames", 1)
    # Pillow would set itself up for each page, and fails on some, such as masks, so pages are counted here.
    file, page = io.BytesIO(content), ImageFileDirectory_v2(content[: 16 if BIG_TIFF in content[2:4] else 8])
    positions, number = set(), 0
    while page.next and page.next not in positions:
        positions.add(page.next)
        file.seek(page.next)
        page.load(file)
        number += not page.get(ExifTag.NewSubfileType, 0) & TIFF_COPY_OR_MASK
    return max(1, number)


def _read_orientation(tags: Mapping[int, Any]) -> int:
    orientation = tags.get(ExifTag.Orientation)
    return orientation if orientation in TURNS else 1


def _turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    return TURNS[orientation](pixels) if orientation in TURNS else pixels


def _read_both_bytes(content: bytes, layout: str, order: str) -> np.ndarray:
    """Both bytes of 16-bit values, which Pillow gives one at a time."""
    upper = _read_layout(content, layout)
    lower = _read_layout(content, layout, f"{layout};16{OTHER_ORDER[order]}")
    return upper.astype(np.uint16) << 8 | lower


def _read_layout(content: bytes, layout: str, raw_layout: str | None = None) -> np.ndarray:
    with PILImage.open(io.BytesIO(content)) as image:
        if layout == "RGBX":
            # Pillow would drop the fourth channel if the mode was RGB.
            image._mode = layout
        if raw_layout is not None:
            image.tile = [
                tile._replace(args=raw_layout if isinstance(tile.args, str) else (raw_layout, *tile.args[1:]))
                for tile in image.tile
            ]
        return np.asarray(image)


def _read_with_tifffile(content: bytes) -> Bands:
    try:
        import tifffile
    except ImportError as error:
        raise BandsError(f"it is a TIFF file that Pillow does not read, or not whole: {TIFF_EXTRA}") from error
    # tifffile and its codecs raise errors of nearly any kind on broken files.
    try:
        with tifffile.TiffFile(io.BytesIO(content)) as file:
            page = file.pages[0]
            axes, pixels = page.axes, page.asarray()
            orientation = _read_orientation({ExifTag.Orientation: page.tags.valueof(ExifTag.Orientation)})
            num_frames = sum(not each.subfiletype & TIFF_COPY_OR_MASK for each in file.pages)
    except Exception as error:
        raise BandsError(f"neither Pillow nor tifffile reads it ({error})") from error
    if axes not in ("YX", "YXS", "SYX"):
        raise BandsError(f"its axes are {axes}, expected those of height, width and bands")
    if axes == "SYX":
        pixels = np.moveaxis(pixels, 0, -1)
    return Bands(_turn(_to_supported_type(pixels), orientation), orientation, max(1, num_frames))


def _to_supported_type(pixels: np.ndarray) -> np.ndarray:
    """Whole numbers of other types as uint16."""
    if pixels.dtype.kind == "f" or pixels.dtype in (np.uint8, np.uint16):
        return pixels
    if pixels.dtype.kind not in "biu":
        raise BandsError(f"it holds {pixels.dtype} values, expected whole numbers or floats")
    if pixels.min() < 0 or pixels.max() > np.iinfo(np.uint16).max:
        raise BandsError(f"it holds values from {pixels.min()} to {pixels.max()}, expected 0 to 65535")
    return pixels.astype(np.uint16)


__all__ = ["Bands", "BandsError", "count_frames", "read_bands"]
