"""Image files as `datasets` reads them, upright by their EXIF orientation, with what else they say of themselves."""

import io
from dataclasses import dataclass
from pathlib import Path

import fsspec
from PIL import Image as PILImage
from PIL import ImageOps, UnidentifiedImageError
from PIL.ExifTags import Base as ExifTag


# EXIF orientations that exchange width and height.
TURNED = (5, 6, 7, 8)
# What the part of a PNG file begins with that has an orientation; it may come behind the pixels.
PNG_EXIF = (b"eXIf", b"XML:com.adobe.xmp", b"Raw profile type exif")


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
        pixels (`PIL.Image.Image`, *optional*): The upright image, in the mode that the file has, if it was read.
    """

    height: int
    width: int
    orientation: int
    file_format: str
    num_frames: int
    pixels: PILImage.Image | None = None


def read_image_file(source: bytes | str | Path, with_pixels: bool = True) -> ImageFile:
    """
    Reads an image file, or only what it says before the pixels.

    Args:
        source (`bytes`, `str` or `Path`): The file's content, or its path, which may be in an archive or elsewhere, as
            `datasets` writes it: `zip://masks/0.png::train.zip`.
        with_pixels (`bool`, *optional*, defaults to `True`): Whether to read the pixels.

    Raises:
        UnreadableImageError: if it is missing, broken, too large, or no image file.
    """
    try:
        content = source if isinstance(source, bytes) else _read_bytes(source)
        if not content:
            raise UnreadableImageError("it is empty")
        with PILImage.open(io.BytesIO(content)) as image:
            file_format, num_frames = image.format, getattr(image, "n_frames", 1)
            # To look for an orientation that may come behind them, Pillow would decode the pixels.
            has_exif = file_format != "PNG" or any(mark in content for mark in PNG_EXIF)
            orientation = image.getexif().get(ExifTag.Orientation) if has_exif else None
            orientation = orientation if orientation in range(1, 9) else 1
            # Of TIFF files, Pillow says, and later reads, the upright image itself.
            is_turned = orientation in TURNED and file_format != "TIFF"
            width, height = image.size[::-1] if is_turned else image.size
            pixels = None
            if with_pixels:
                image.load()
                pixels = ImageOps.exif_transpose(image)
        return ImageFile(height, width, orientation, file_format, num_frames, pixels)
    # On broken files, Pillow raises errors of nearly any kind.
    except Exception as error:
        raise UnreadableImageError(_explain(error)) from error


def _read_bytes(path: str | Path) -> bytes:
    if "://" not in str(path):
        return Path(path).read_bytes()
    with fsspec.open(str(path), "rb") as file:
        return file.read()


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
