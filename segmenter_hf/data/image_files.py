"""Image files as `datasets` reads them, upright by their EXIF orientation, with what else they say of themselves."""

import io
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image as PILImage
from PIL import ImageOps, PngImagePlugin, UnidentifiedImageError
from PIL.ExifTags import Base as ExifTag

from ..inputs import read_bytes
from .bands import PNG_SIGNATURE, count_frames, read_bands


# These EXIF orientations exchange width and height.
TURNED = (5, 6, 7, 8)
# The part of a PNG file that has an orientation begins like one of these. It may come behind the pixels.
PNG_EXIF = (b"eXIf", b"XML:com.adobe.xmp", b"Raw profile type exif")
# Pillow refuses PNG files in which these chunks, of texts and colour profiles, are large.
PNG_TEXTS = (b"iCCP", b"iTXt", b"tEXt", b"zTXt")


class UnreadableImageError(ValueError):
    """An image file that cannot be read. The message is the reason, and does not name the file."""


@dataclass(frozen=True)
class ImageFile:
    """
    What was read of an image file.

    Args:
        height (`int`): That of the upright image.
        width (`int`): Likewise.
        orientation (`int`): How EXIF says that stored pixels are to be turned, from 1 (not at all) to 8.
        file_format (`str`): Such as `"PNG"`.
        num_frames (`int`): More than 1 for animations and the like, of which only the first is read.
        pixels (`PIL.Image.Image` or `np.ndarray`, *optional*): The upright image, in the mode that the file has, if it
            was read; an array `(height, width, bands)` where Pillow does not have all of it.
    """

    height: int
    width: int
    orientation: int
    file_format: str
    num_frames: int
    pixels: PILImage.Image | np.ndarray | None = None


def read_image_file(source: bytes | str | Path, with_pixels: bool = True, all_bands: bool = False) -> ImageFile:
    """
    Reads an image file, or only what it says before the pixels.

    Args:
        source (`bytes`, `str` or `Path`): The file's content, or its path, which may be in an archive or elsewhere, as
            `datasets` writes it: `zip://masks/0.png::train.zip`.
        with_pixels (`bool`, *optional*, defaults to `True`): Whether to read the pixels.
        all_bands (`bool`, *optional*, defaults to `False`): Whether to read, as an array, what Pillow drops: the lower
            8 of 16 bits of several channels, and bands of TIFF files.

    Raises:
        UnreadableImageError: if it is missing, broken, too large, or no image file.
    """
    try:
        content = source if isinstance(source, bytes) else read_bytes(source)
        if not content:
            raise UnreadableImageError("it is empty")
        content = _without_large_texts(content)
        bands = read_bands(content) if all_bands else None
        if bands is not None:
            height, width = bands.pixels.shape[:2]
            file_format = "PNG" if content.startswith(PNG_SIGNATURE) else "TIFF"
            return ImageFile(height, width, bands.orientation, file_format, bands.num_frames, bands.pixels)
        with PILImage.open(io.BytesIO(content)) as image:
            if image.format == "EPS":
                raise UnreadableImageError("it is PostScript, a program, which would be run to see what it draws")
            file_format, num_frames = image.format, count_frames(image, content)
            # Pillow would decode the pixels to look for an orientation behind them, so there should be one.
            has_exif = file_format != "PNG" or any(mark in content for mark in PNG_EXIF)
            orientation = image.getexif().get(ExifTag.Orientation) if has_exif else None
            orientation = orientation if orientation in range(1, 9) else 1
            # Pillow turns TIFF files itself, and says the size of the upright image.
            is_turned = orientation in TURNED and file_format != "TIFF"
            width, height = image.size[::-1] if is_turned else image.size
            pixels = None
            if with_pixels:
                image.load()
                pixels = ImageOps.exif_transpose(image)
        return ImageFile(height, width, orientation, file_format, num_frames, pixels)
    # Pillow raises errors of nearly any kind on broken files.
    except Exception as error:
        raise UnreadableImageError(_explain(error)) from error


def _without_large_texts(content: bytes) -> bytes:
    """
    A PNG file without the texts and colour profiles for whose size Pillow would refuse it: they say nothing of the
    pixels. Other content is returned as it is.
    """
    if not content.startswith(PNG_SIGNATURE) or not any(name in content for name in PNG_TEXTS):
        return content
    parts, position, room = [PNG_SIGNATURE], len(PNG_SIGNATURE), PngImagePlugin.MAX_TEXT_MEMORY
    while position < len(content):
        end = position + 12 + int.from_bytes(content[position : position + 4], "big")
        name = content[position + 4 : position + 8]
        size = _text_size(name, content[position + 8 : end - 4]) if name in PNG_TEXTS else 0
        if size <= room:
            parts.append(content[position:end])
            room -= size
        position = end
    return b"".join(parts)


def _text_size(name: bytes, data: bytes) -> float:
    """Bytes of the text in a chunk when it is unpacked; infinite where they are more than Pillow unpacks."""
    text = data.partition(b"\0")[2]
    is_packed, text = (text[:1] != b"\0", text[2:]) if name == b"iTXt" else (name != b"tEXt", text)
    if not is_packed:
        return len(text)
    packed = text.split(b"\0", 2)[-1] if name == b"iTXt" else text[1:]
    try:
        size = len(zlib.decompressobj().decompress(packed, PngImagePlugin.MAX_TEXT_CHUNK + 1))
    # Pillow leaves out texts that are broken.
    except zlib.error:
        return 0
    return size if size <= PngImagePlugin.MAX_TEXT_CHUNK else math.inf


def _explain(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, UnidentifiedImageError):
        return "it is no image file, or of a kind that Pillow does not read"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, PILImage.DecompressionBombError):
        return f"it says that it has more than {2 * PILImage.MAX_IMAGE_PIXELS:,} pixels: cut it into parts"
    return str(error) or type(error).__name__


__all__ = ["TURNED", "ImageFile", "UnreadableImageError", "read_image_file"]
