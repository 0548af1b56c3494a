"""What may be wrong with the types, bands and values of images, and what to do about it."""

import numpy as np

from ..image_processing_segmenter import SegmenterImageProcessingMixin
from .findings import Finding, FindingCollector
from .image_files import ImageFile


# Files of 8, 10, 11, 12 and 14 bits hold these values at most, where they are stored as 16 bits.
USUAL_MAX_VALUES = (255, 1023, 2047, 4095, 16383)
# Bytes that stay below in all images were not made for the eye, but are the upper 8 of 14 bits.
DARK = 63
STORE_BYTES = "Image.fromarray((255 * np.asarray(Image.open(file))).round().astype(np.uint8))"
STORE_BANDS = (
    "tifffile.imwrite(file, (65535 * tifffile.imread(file)).round().astype(np.uint16), photometric='minisblack', "
    "planarconfig='contig')"
)
# The conversion to RGB loses nothing of these modes of PIL.
COLOUR_MODES = {"1", "CMYK", "F", "HSV", "I", "L", "LAB", "P", "RGB", "YCbCr"}


class ImageFindingCollector(FindingCollector):
    """
    Sorts images by what is wrong with them, one by one, and concludes from all of them.

    Args:
        image_processor ([`SegmenterImageProcessor`]): What they are read by: the number of bands that it has means for
            (or RGB with `do_convert_rgb`), `max_value` and `do_rescale` say what is right.
    """

    def __init__(self, image_processor: SegmenterImageProcessingMixin):
        super().__init__()
        self.num_channels = count_bands(image_processor)
        self.max_value = image_processor.max_value
        self.float_limit = 255 if image_processor.do_rescale else 1
        # For each type, these are its files, and the largest value in all of them.
        self.files: dict[str, list[str]] = {"bytes": [], "16 bits": [], "floats": []}
        self.has_bands_of_floats = False
        self.largest: dict[str, float] = dict.fromkeys(self.files, 0)

    def add(self, name: str, image: ImageFile):
        pixels = np.asarray(image.pixels)
        mode = getattr(image.pixels, "mode", None)
        if image.num_frames > 1 and image.file_format != "MPO":
            problem = f"Images have {image.num_frames} frames, of which only the first is read."
            remedy = (
                "If they are bands, store them as bands of one frame: tifffile.imwrite(file, "
                'np.moveaxis(tifffile.imread(old), 0, -1), photometric="minisblack", planarconfig="contig").'
            )
            self._find("frames", problem, remedy, name, is_error=False)
        self._compare_bands(name, pixels, mode)
        if self._drops_last_band(pixels, mode):
            pixels = pixels[..., :-1]
        if pixels.dtype.kind == "f":
            self._add_floats(name, pixels)
        elif pixels.dtype == bool:
            pass
        elif pixels.dtype == np.uint8:
            self._add("bytes", name, pixels)
        else:
            self._add_16_bits(name, pixels)

    def _add(self, kind: str, name: str, pixels: np.ndarray):
        self.files[kind].append(name)
        self.largest[kind] = max(self.largest[kind], pixels.max())

    def _compare_bands(self, name: str, pixels: np.ndarray, mode: str | None):
        number = 1 if pixels.ndim == 2 else pixels.shape[-1]
        if mode in ("P", "PA"):
            number = 3
        what = f"{number} band{'s' if number > 1 else ''}{f' ({mode})' if mode else ''}"
        if self.num_channels is not None:
            if number != self.num_channels:
                remedy = f"Pass --num_channels {number} if all of them have as many, or leave out the odd ones."
                if mode in ("P", "PA") and self.num_channels == 1:
                    remedy = "These have a palette. Store its greys: Image.open(file).convert('L')."
                problem = f"Images have {what}, expected {self.num_channels}."
                self._find("bands", problem, remedy, name)
            return
        if mode in COLOUR_MODES or (mode or "").startswith("I") or number in (1, 3):
            return
        if not self._drops_last_band(pixels, mode):
            problem = f"Images have {what}, expected grey or RGB."
            self._find("bands", problem, f"Pass --num_channels {number} to train on all of them.", name)
        elif np.ptp(pixels[..., -1]):
            problem = f"Images have {what}, of which the last is dropped, as transparency is."
            remedy = f"If it is something to learn from, such as near infrared, pass --num_channels {number}."
            self._find("bands", problem, remedy, name, is_error=False)

    def _drops_last_band(self, pixels: np.ndarray, mode: str | None) -> bool:
        has_fourth = mode is None and pixels.ndim == 3 and pixels.shape[-1] == 4
        return self.num_channels is None and (has_fourth or mode in ("LA", "La", "RGBA", "RGBX", "RGBa"))

    def _add_16_bits(self, name: str, pixels: np.ndarray):
        self._add("16 bits", name, pixels)
        low, high = int(pixels.min()), int(pixels.max())
        if low < 0 or high > self.max_value:
            problem = f"Images hold values from {low} to {high}, expected 0 to {self.max_value} in 16-bit images."
            remedy = "Clip or scale them, and store them as 16-bit files without sign."
            if low >= 0 and high <= np.iinfo(np.uint16).max:
                remedy = "Pass what they hold at most with --max_value (65535 for all of 16 bits), or clip them."
            self._find("range", problem, remedy, name)

    def _add_floats(self, name: str, pixels: np.ndarray):
        if not np.isfinite(pixels).all():
            problem = "Images hold NaN or infinite values."
            self._find("range", problem, "Store a number in their place, and 255 in the label maps.", name)
            return
        self._add("floats", name, pixels)
        self.has_bands_of_floats |= pixels.ndim > 2
        if pixels.min() < 0 or pixels.max() > self.float_limit:
            problem = (
                f"Images hold floats from {pixels.min():g} to {pixels.max():g}, expected 0 to {self.float_limit}."
            )
            self._find("range", problem, "Scale them to that range, or store them as 8 or 16 bits.", name)

    def conclude(self) -> list[Finding]:
        """What is wrong, by what was added."""
        findings = list(self.findings.values())
        floats, deep, dark = (self.files[kind] for kind in ("floats", "16 bits", "bytes"))
        if floats and self.float_limit == 255 and self.largest["floats"] <= 1 and not self._has("range"):
            problem = f"Images hold floats up to {self.largest['floats']:g}, expected 0 to 255: all would be black."
            remedy = f"Store them as bytes: {STORE_BYTES}."
            if self.has_bands_of_floats:
                remedy = f"Store them as 16 bits: {STORE_BANDS}."
            findings.append(Finding("range", True, problem, remedy, floats))
        if deep and not self._has("range"):
            largest = int(self.largest["16 bits"])
            usual = next((each for each in USUAL_MAX_VALUES if each >= largest), self.max_value)
            if usual < self.max_value:
                problem = (
                    f"16-bit images hold {largest} at most, of {self.max_value}: scaled to bytes, no more than "
                    f"{round(largest * 255 / self.max_value)} of 255 is left of it."
                )
                remedy = f"If they are of {usual.bit_length()} bits, pass --max_value {usual}."
                findings.append(Finding("depth", False, problem, remedy, deep))
        if 0 < self.largest["bytes"] <= DARK:
            problem = f"Images hold {int(self.largest['bytes'])} at most, of 255: all are nearly black."
            remedy = (
                "If they were made of 10 to 16 bits, or of values from 0 to 1, scale them to 255 instead of cutting "
                "them, or store all bits, and pass --max_value."
            )
            findings.append(Finding("dark", False, problem, remedy, dark))
        return findings

    def _has(self, kind: str) -> bool:
        return any(finding.kind == kind for finding in self.findings.values())


def count_bands(image_processor: SegmenterImageProcessingMixin) -> int | None:
    """Bands that images must have: one for each mean, or any that become RGB."""
    return None if image_processor.do_convert_rgb else int(np.size(image_processor.image_mean))


__all__ = ["ImageFindingCollector", "count_bands"]
