"""What may be wrong with label maps, and what to do about it."""

from dataclasses import dataclass, field

import numpy as np
from PIL import Image as PILImage

from ..image_processing_segmenter import IGNORE_INDEX
from .examples import ExampleFile
from .image_files import TURNED, ImageFile, UnreadableImageError
from .labels import find_label_set
from .pairs import name_some


MAX_NAMED_VALUES = 12
# An image of more colours is taken for a photograph rather than for a map in which each class has a colour.
MAX_COLOURS = 1000
# Larger values of a label map are sorted rather than counted, which would take a table of that length.
MAX_COUNTED_VALUE = 2**16

# Several findings have these remedies.
STORE_FIRST_CHANNEL = "Image.open(file).getchannel(0)"
STORE_FOREGROUND = "Image.fromarray((np.asarray(Image.open(file)) > {threshold}).astype(np.uint8))"


@dataclass
class Finding:
    """
    What is wrong with some label maps, or their images.

    Args:
        kind (`str`): `"unreadable"`, `"size"`, `"exif"`, `"channels"`, `"frames"`, `"jpeg"`, `"fractions"`,
            `"values"`, `"binary"`, `"palette"`, `"reduction"`, `"only_ignored"`, `"ignored_label"` or `"never_seen"`;
            of images also `"bands"`, `"range"`, `"depth"` or `"dark"`.
        is_error (`bool`): Whether training cannot work with it; otherwise it may be right.
        problem (`str`): What was found, with values and sizes, and what was expected.
        remedy (`str`): What to do.
        files (`list[str]`): The files concerned.
    """

    kind: str
    is_error: bool
    problem: str
    remedy: str
    files: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        number = f"{len(self.files)} file{'s' if len(self.files) > 1 else ''}"
        where = f" Found in {number}: {name_some(self.files)}." if self.files else ""
        return f"{self.problem}{where} {self.remedy}"


def _list_values(values: list[int]) -> str:
    if len(values) <= MAX_NAMED_VALUES:
        return ", ".join(map(str, values))
    return f"{', '.join(map(str, values[:MAX_NAMED_VALUES]))}... ({len(values)} values up to {values[-1]})"


def _count_values(stored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values of an array of whole numbers, in order, and how often each occurs."""
    if stored.dtype.kind in "bu" and stored.max() < MAX_COUNTED_VALUE:
        # This is many times as fast as sorting.
        counts = np.bincount(stored.ravel())
        values = np.flatnonzero(counts)
        return values, counts[values]
    return np.unique(stored.astype(np.int64), return_counts=True)


def voc_palette() -> np.ndarray:
    """The palette of Pascal VOC, `(256, 3)`, which other data sets and drawing programs use too."""
    index = np.arange(256)
    bits = [sum(((index >> (3 * bit + channel)) & 1) << (7 - bit) for bit in range(3)) for channel in range(3)]
    return np.stack(bits, axis=1).astype(np.uint8)


class FindingCollector:
    """Findings of files that are looked at one by one."""

    def __init__(self):
        self.findings: dict[tuple, Finding] = {}

    def _find(self, kind: str, problem: str, remedy: str, file: str | None = None, is_error: bool = True):
        # One kind may have several remedies, each of which is a finding. The problem is that of its first file.
        key = (kind, remedy, problem if kind == "unreadable" else None)
        finding = self.findings.setdefault(key, Finding(kind, is_error, problem, remedy))
        if file is not None:
            finding.files.append(file)


class LabelMapFindingCollector(FindingCollector):
    """Sorts label maps by what is wrong with them, one by one, and concludes from all of them."""

    def __init__(self, num_labels: int, ignore_index: int, do_reduce_labels: bool):
        super().__init__()
        self.num_labels, self.ignore_index, self.do_reduce_labels = num_labels, ignore_index, do_reduce_labels
        self.pixel_counts = np.zeros(num_labels, dtype=np.int64)
        self.num_ignored = self.num_zeros = 0
        self.values: set[int] = set()
        # These label maps hold 255, or 0 and 255, only.
        self.binary: list[str] = []
        # These label maps have values that are out of range. What they have in common tells the cause.
        self.outside: list[str] = []
        self.outside_values: set[int] = set()
        self.outside_modes: set[str] = set()
        self.outside_formats: set[str] = set()
        # For each label, this is its colour in the first palette that has it, and the file of that.
        self.colours: dict[int, tuple[tuple[int, ...], str]] = {}

    def add(self, image_source: ExampleFile, annotation_source: ExampleFile) -> ImageFile | None:
        """Considers a label map, and returns its image, if that can be read."""
        image = self._read(image_source, "Images", all_bands=True)
        annotation = self._read(annotation_source, "Label maps")
        if annotation is None:
            return image
        name = annotation_source.name
        if image is not None:
            self._compare_sizes(name, image, annotation)
        if annotation.num_frames > 1:
            problem = f"Label maps have {annotation.num_frames} frames, of which only the first is read."
            remedy = "Store the one that has the labels as a file of its own, if it is not the first."
            self._find("frames", problem, remedy, name, is_error=False)
        if annotation.file_format == "JPEG":
            problem = "Label maps are JPEG files, whose compression changes labels along borders."
            self._find("jpeg", problem, "Make them anew from the source, as PNG.", name, is_error=False)
        values = np.asarray(annotation.pixels)
        if values.ndim > 2:
            self._add_channels(name, annotation, values)
        else:
            self._add_values(name, annotation, values)
        return image

    def _read(self, source: ExampleFile, what: str, all_bands: bool = False) -> ImageFile | None:
        try:
            return source.read(with_pixels=True, all_bands=all_bands)
        except UnreadableImageError as error:
            problem = f"{what} cannot be read."
            remedy = "Replace or remove them; training leaves them out with --skip_unreadable."
            self._find("unreadable", problem, remedy, f"{source.name} ({error})")
            return None

    def _compare_sizes(self, name: str, image: ImageFile, annotation: ImageFile):
        size, image_size = (annotation.height, annotation.width), (image.height, image.width)
        turned = [each.orientation in TURNED for each in (image, annotation)]
        if size != image_size:
            problem = (
                f"Label maps do not have the size of their images: the first is {size[0]} high and {size[1]} wide, "
                f"its image {image_size[0]} high and {image_size[1]} wide."
            )
            if size != image_size[::-1]:
                remedy = "Resize the label maps to their images (to the nearest label), or pair them anew."
            elif turned == [True, False]:
                remedy = (
                    "These images have an EXIF orientation by which they are turned when they are read, and their "
                    "label maps were made without: turn those too, or store the images without the orientation."
                )
            elif turned == [False, True]:
                remedy = (
                    "These label maps have an EXIF orientation by which they are turned when they are read, and their "
                    "images have none: store the label maps without it."
                )
            else:
                remedy = "Height and width are exchanged: transpose the label maps, or turn the images."
            self._find("size", problem, remedy, name)
        # Where only one of the two is turned, equal sizes show that it is right.
        elif image.orientation != annotation.orientation and (turned[0] == turned[1] or size == size[::-1]):
            problem = (
                f"By EXIF, images and label maps are turned or mirrored differently when they are read (orientation "
                f"{image.orientation} of the first image, {annotation.orientation} of its label map); their sizes do "
                "not show whether that is right."
            )
            remedy = (
                "Look at one with its label map. If they disagree, turn the label map too, or store both without an "
                "orientation."
            )
            self._find("exif", problem, remedy, name, is_error=False)

    def _add_channels(self, name: str, annotation: ImageFile, values: np.ndarray):
        colours = values[..., :3] if values.shape[-1] > 2 else values[..., :1]
        is_first_enough = (colours == colours[..., :1]).all() or not colours[..., 1:].any()
        number = len(annotation.pixels.getcolors(MAX_COLOURS) or ())
        problem = (
            f"Label maps have {values.shape[-1]} channels ({annotation.pixels.mode}), expected one, which holds the "
            f"labels; the first has {number or f'more than {MAX_COLOURS}'} colours."
        )
        if is_first_enough:
            remedy = f"The other channels add nothing, so store the first: {STORE_FIRST_CHANNEL}."
        elif not number:
            remedy = "If these are photographs, name the column of the label maps with --annotation_column_name."
        else:
            remedy = (
                "Store in place of each colour its index in the list of classes, as 8-bit PNG. If a file with a "
                "palette was converted, take the original: its pixels are the labels."
            )
        self._find("channels", problem, remedy, name)
        if is_first_enough:
            # This tells what else would be found once that is done.
            self._add_values(name, annotation, values[..., 0])

    def _add_values(self, name: str, annotation: ImageFile, stored: np.ndarray):
        if stored.dtype.kind == "f":
            odd = stored[~((stored == np.floor(stored)) & (np.abs(stored) < 2**31))]
            if odd.size:
                remedy = (
                    f"Store labels, and {self.ignore_index} where there is none, as 8-bit PNG. If they were scaled, "
                    "to the range from 0 to 1 for instance, undo that."
                )
                self._find("fractions", f"Label maps hold {odd[0]:g}, expected whole numbers.", remedy, name)
                return
            stored = stored.astype(np.int64)
        values, counts = _count_values(stored)
        self.values.update(values.tolist())
        if values.tolist() in ([255], [0, 255]):
            self.binary.append(name)
        labels = values
        if self.do_reduce_labels:
            self.num_zeros += int(counts[values == 0].sum())
            labels = np.where((values == 0) | (values == IGNORE_INDEX), IGNORE_INDEX, values - 1)
        is_ignored = labels == self.ignore_index
        is_valid = (labels >= 0) & (labels < self.num_labels) & ~is_ignored
        np.add.at(self.pixel_counts, labels[is_valid], counts[is_valid])
        self.num_ignored += int(counts[is_ignored].sum())
        outside = values[~is_valid & ~is_ignored]
        if len(outside):
            self.outside.append(name)
            self.outside_values.update(outside.tolist())
            self.outside_modes.add(annotation.pixels.mode)
            self.outside_formats.add(annotation.file_format)
        elif is_ignored.all():
            remedy = "Nothing is learnt from these: remove them, or look at whether their labels were lost."
            self._find("only_ignored", "All pixels of label maps are ignored.", remedy, name, is_error=False)
        if annotation.pixels.mode == "P":
            self._compare_palettes(name, annotation.pixels.getpalette("RGB") or [], values.tolist())

    def _compare_palettes(self, name: str, palette: list[int], values: list[int]):
        for value in values:
            colour = tuple(palette[3 * value : 3 * value + 3])
            first_colour, first_name = self.colours.setdefault(value, (colour, name))
            if colour != first_colour:
                problem = (
                    f"The palettes of label maps disagree, for instance on {value}, which is {first_colour} in "
                    f"{first_name} and {colour} in {name}."
                )
                remedy = (
                    "Labels are the indices, not the colours. If classes were drawn in colours, and each file made "
                    "its own palette, store in place of each colour the index of its class."
                )
                self._find("palette", problem, remedy, name, is_error=False)
                return

    def conclude(self, id2label: dict[int, str], num_checked: int, num_examples: int) -> list[Finding]:
        remedy = f"If 255 is the foreground, store 1 in its place: {STORE_FOREGROUND.format(threshold=127)}."
        # A set with just these two may have one class and ignored pixels, but then there is nothing to learn.
        if self.values == {0, 255} and self.ignore_index == 255:
            problem = "All label maps hold 0 and 255 only, and 255 is ignored."
            # All that could be said of ignored pixels follows from this.
            self.findings = {key: each for key, each in self.findings.items() if each.kind != "only_ignored"}
            self.findings["binary"] = Finding("binary", True, problem, remedy, self.binary)
            return list(self.findings.values())
        if self.num_labels == 2 and self.ignore_index == 255 and 2 * len(self.binary) > num_checked:
            problem = f"{len(self.binary)} of {num_checked} label maps hold 0 and 255 only, and 255 is ignored."
            self.findings["binary"] = Finding("binary", False, problem, remedy, self.binary)
        if self.outside:
            self.findings["values"] = Finding("values", True, *self._explain_outside(), self.outside)
        for finding in self.findings.values():
            finding.is_error |= finding.kind == "only_ignored" and len(finding.files) == num_checked
        self._look_for_reduction(id2label)
        # Broken maps were not counted, so that nothing can be said.
        if not any(each.is_error for each in self.findings.values()):
            self._look_for_missing(id2label, num_checked, num_examples)
        return list(self.findings.values())

    def _explain_outside(self) -> tuple[str, str]:
        """The problem with values that are out of range, and the remedy."""
        outside, last = sorted(self.outside_values), self.num_labels - 1
        if self.do_reduce_labels:
            expected = f"labels from 1 to {last + 1}, or 0 (by --do_reduce_labels) or {self.ignore_index}"
        else:
            expected = f"labels from 0 to {last}, or {self.ignore_index}"
        problem = f"Label maps hold {_list_values(outside)}, expected {expected} where pixels have none."

        largest = max(self.values)
        is_mask = min(self.values) == 0 and (len(self.values) == 2 or 100 <= largest <= 255)
        greys = np.unique(np.asarray(PILImage.fromarray(voc_palette()[None]).convert("L")))
        if is_mask and self.num_labels == 2 and not self.do_reduce_labels:
            store = STORE_FOREGROUND.format(threshold=largest // 2)
            remedy = f"If these are masks from 0 to {largest}, sharp or smoothed, store 1 in the foreground: {store}."
        elif self.outside_formats == {"JPEG"}:
            remedy = "These are JPEG files, whose compression changes labels: make them anew from the source, as PNG."
        elif outside == [self.num_labels] and not self.do_reduce_labels:
            remedy = (
                "If labels start at 1 and 0 means unlabelled, as in ADE20K, pass --do_reduce_labels. If 0 is a class "
                "too, a name is missing (--labels)."
            )
        elif outside[-1] > 255:
            remedy = (
                "Values above 255 are often numbers of objects, or of the class times 256 or 1000 plus one of the "
                "object: store the class alone, as 8-bit PNG."
            )
        elif (
            len(outside) > 1
            and self.outside_modes == {"L"}
            and set(outside) <= set(greys.tolist())
            and len(self.values) <= self.num_labels + 1
        ):
            remedy = (
                "These are the greys of Pascal VOC's palette: palette files were converted with convert('L'). Take "
                "the original files as they are, or np.asarray(Image.open(file)), which has the indices."
            )
        elif len(outside) == 1 and not self.do_reduce_labels:
            remedy = (
                f"If {outside[0]} means unlabelled, store {self.ignore_index} in its place. If it is a class, name it "
                "(--labels)."
            )
        else:
            remedy = (
                "If these are classes, name all of them (--labels), or renumber them from 0 without gaps. If they "
                f"mean unlabelled, store {self.ignore_index} in their place."
            )
        if self.outside_modes == {"P"}:
            remedy += (
                " These files have a palette, whose indices are the labels. Where colours were drawn, and quantised "
                "for the file, the indices mean nothing: store in place of each colour the index of its class."
            )
        return problem, remedy

    def _look_for_reduction(self, id2label: dict[int, str]):
        """What tells whether 0 means unlabelled where all values are in range."""
        if self.do_reduce_labels and {0, IGNORE_INDEX} <= self.values:
            self._find(
                "reduction",
                f"Label maps hold {IGNORE_INDEX} and 0, and --do_reduce_labels takes both for unlabelled.",
                "If they were reduced before, leave the flag out: it would be done twice.",
                is_error=False,
            )
        known = find_label_set(id2label)
        is_reducible = known is not None and known.zero_is_unlabelled
        if is_reducible and not self.do_reduce_labels and 0 in self.values and IGNORE_INDEX not in self.values:
            self._find(
                "reduction",
                f"The label names are those of {known.name}, whose label maps have 0 for what is none of them, and "
                f"these hold 0 and never {IGNORE_INDEX}.",
                "If they are as published, pass --do_reduce_labels: without, each pixel is taken for the next class.",
                is_error=False,
            )

    def _look_for_missing(self, id2label: dict[int, str], num_checked: int, num_examples: int):
        """Labels that are never seen, or never learnt."""
        names = [
            f"{index} ({id2label[index]})" if index in id2label else str(index) for index in range(self.num_labels)
        ]
        if 0 <= self.ignore_index < self.num_labels:
            problem = f"Pixels of the label {names[self.ignore_index]} are ignored: `ignore_index` is that label."
            remedy = "It is neither learnt nor measured."
            self._find("ignored_label", problem, remedy, is_error=False)
        unseen = [index for index in np.flatnonzero(self.pixel_counts == 0).tolist() if index != self.ignore_index]
        if not unseen:
            return
        named = name_some([names[index] for index in unseen])
        problem = f"{len(unseen)} of {self.num_labels} labels are never seen: {named}."
        remedy = "Without examples, a class is neither learnt nor measured; remove its name if there are none at all."
        if num_checked < num_examples:
            remedy = (
                f"That was in {num_checked} of {num_examples} label maps; --check_all_examples looks at all of them."
            )
        total = max(1, self.pixel_counts.sum() + self.num_ignored)
        if self.do_reduce_labels and self.num_labels - 1 in unseen and self.num_zeros:
            remedy += (
                f" With --do_reduce_labels, 0 is ignored ({self.num_zeros / total:.1%} of the pixels): leave the flag "
                "out if 0 is a class."
            )
        if not self.do_reduce_labels and min(self.values, default=0) == 1:
            remedy += " If labels start at 1, they are off by one: pass --do_reduce_labels, without a name for 0."
        self._find("never_seen", problem, remedy, is_error=False)


__all__ = ["Finding", "FindingCollector", "LabelMapFindingCollector"]
