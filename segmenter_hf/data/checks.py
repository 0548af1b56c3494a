"""
Checks of label maps before training, which find what would otherwise fail in the middle of it, or teach nonsense.
"""

import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from datasets import Dataset, Image
from PIL import Image as PILImage
from PIL import ImageOps
from PIL.ExifTags import Base as ExifTag
from tqdm.auto import tqdm

from ..image_processing_pil_segmenter import IGNORE_INDEX
from .labels import load_label_set
from .pairs import name_some


logger = logging.getLogger(__name__)

# EXIF orientations that exchange width and height, and those that leave them.
TURNED, MIRRORED = (5, 6, 7, 8), (2, 3, 4)
MAX_NAMED_VALUES = 12
# Label sets whose published label maps have 0 for what is none of the classes, and 1 for the first.
ZERO_IS_UNLABELLED = ("ade20k", "pascal_context_59")


@dataclass
class Finding:
    """
    What is wrong with some label maps.

    Args:
        kind (`str`): `"unreadable"`, `"size"`, `"channels"`, `"fractions"`, `"values"`, `"binary"`, `"jpeg"`,
            `"exif"`, `"reduction"`, `"only_ignored"` or `"never_seen"`.
        is_error (`bool`): Whether training cannot work with it; otherwise it may be right.
        problem (`str`): What was found, with values and sizes.
        remedy (`str`): What to do.
        files (`list[str]`): The label maps concerned.
    """

    kind: str
    is_error: bool
    problem: str
    remedy: str
    files: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        where = f" In {len(self.files)} of the label maps: {name_some(self.files)}." if self.files else ""
        return f"{self.problem}{where} {self.remedy}"


class LabelError(ValueError):
    """Label maps that cannot be trained on."""


@dataclass
class LabelReport:
    """
    What the check of a split found.

    Args:
        split (`str`): Which one.
        num_checked (`int`): How many label maps were looked at.
        num_examples (`int`): How many there are.
        pixel_counts (`np.ndarray`): Pixels of each label, `(num_labels,)`, after reduction, of those looked at.
        num_ignored (`int`): Pixels that are ignored.
        findings (`list[Finding]`): What is wrong; errors come first.
    """

    split: str
    num_checked: int
    num_examples: int
    pixel_counts: np.ndarray
    num_ignored: int
    findings: list[Finding]

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.is_error]

    @property
    def warnings(self) -> list[Finding]:
        return [finding for finding in self.findings if not finding.is_error]

    def raise_for_errors(self):
        """
        Logs the warnings.

        Raises:
            LabelError: if there are errors; the message has all of them.
        """
        for finding in self.warnings:
            logger.warning("%s split: %s", self.split, finding)
        if self.errors:
            raise LabelError("\n".join(f"{self.split} split: {finding}" for finding in self.errors))

    def format_shares(self, id2label: dict[int, str] | None = None) -> str:
        """A line for each label, with its share of all pixels, and one for those that are ignored."""
        total = max(1, int(self.pixel_counts.sum()) + self.num_ignored)
        names = [(id2label or {}).get(index, f"label {index}") for index in range(len(self.pixel_counts))]
        rows = [*zip(names, self.pixel_counts, strict=True), ("(ignored)", self.num_ignored)]
        return "\n".join(f"{name:<24} {count / total:8.3%}" for name, count in rows)


def check_labels(
    dataset: Dataset,
    num_labels: int,
    *,
    image_column: str = "image",
    annotation_column: str = "annotation",
    ignore_index: int = 255,
    do_reduce_labels: bool = False,
    id2label: dict[int, str] | None = None,
    sample_size: int | None = 200,
    seed: int = 0,
    split: str = "train",
    show_progress: bool = False,
) -> LabelReport:
    """
    Looks at the label maps of a split as training would read them. Memory does not grow with the split.

    Args:
        dataset (`Dataset`): The split, with columns of the type `Image`, decoded or not.
        num_labels (`int`): Labels from 0 to `num_labels - 1` are valid, and `ignore_index`.
        image_column (`str`, *optional*, defaults to `"image"`): Column of the images, of which only sizes are read.
        annotation_column (`str`, *optional*, defaults to `"annotation"`): Column of the label maps.
        ignore_index (`int`, *optional*, defaults to 255): Label of pixels that have none.
        do_reduce_labels (`bool`, *optional*, defaults to `False`): Whether 0 means unlabelled and the rest minus 1 is
            the label, as for the image processor.
        id2label (`dict[int, str]`, *optional*): The names of labels, for messages.
        sample_size (`int`, *optional*, defaults to 200): How many label maps to look at; `None` for all.
        seed (`int`, *optional*, defaults to 0): Draws which: the same ones each time.
        split (`str`, *optional*, defaults to `"train"`): Name of the split, for messages.
        show_progress (`bool`, *optional*, defaults to `False`): Whether to show a progress bar.

    Example:

    ```python
    >>> import numpy as np
    >>> from datasets import Dataset, Features, Image
    >>> from PIL import Image as PILImage
    >>> from segmenter_hf.data.checks import check_labels

    >>> label_map = PILImage.fromarray(np.array([[0, 7], [255, 1]], dtype=np.uint8))
    >>> columns = {"image": [PILImage.new("RGB", (2, 2))], "annotation": [label_map]}
    >>> dataset = Dataset.from_dict(columns, features=Features({"image": Image(), "annotation": Image()}))
    >>> print(check_labels(dataset, num_labels=2).errors[0].problem)
    Label maps hold 7, expected labels from 0 to 1, or 255 where pixels have none.

    ```"""
    rows = np.arange(len(dataset))
    if sample_size is not None and sample_size < len(dataset):
        rows = np.sort(np.random.default_rng(seed).choice(len(dataset), sample_size, replace=False))
    collector = _Collector(num_labels, ignore_index, do_reduce_labels)
    examples = _read(dataset, rows, image_column, annotation_column, split)
    for name, image, annotation in tqdm(
        examples, total=len(rows), desc=f"Checking labels of {split}", unit="image", disable=not show_progress
    ):
        collector.add(name, image, annotation)
    findings = collector.conclude(id2label or {}, len(rows), len(dataset))
    findings.sort(key=lambda finding: not finding.is_error)
    return LabelReport(split, len(rows), len(dataset), collector.pixel_counts, int(collector.num_ignored), findings)


def _read(
    dataset: Dataset, rows: np.ndarray, image_column: str, annotation_column: str, split: str
) -> Iterator[tuple[str, PILImage.Image | None, PILImage.Image | None]]:
    """The name of each label map, its image of which no pixel was read, and itself; `None` for what is no image."""
    columns = [image_column, annotation_column]
    encoded = dataset.with_format(None).select_columns(columns)
    for column in columns:
        encoded = encoded.cast_column(column, Image(decode=False))
    for row in rows:
        example = encoded[int(row)]
        path = (example[annotation_column] or {}).get("path")
        # Of embedded files, only their names are known.
        is_file = path is not None and (example[annotation_column]["bytes"] is None)
        name = path if is_file else f"row {row} of {split}" + (f" ({path})" if path else "")
        yield name, *(_open(example[column]) for column in columns)


def _open(value: dict | None) -> PILImage.Image | None:
    try:
        return PILImage.open(io.BytesIO(value["bytes"]) if value["bytes"] is not None else value["path"])
    except (OSError, TypeError, ValueError, SyntaxError):
        return None


def _shape(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _list_values(values: list[int]) -> str:
    if len(values) <= MAX_NAMED_VALUES:
        return ", ".join(map(str, values))
    return f"{', '.join(map(str, values[:MAX_NAMED_VALUES]))}... ({len(values)} values up to {values[-1]})"


def voc_palette() -> np.ndarray:
    """The palette of Pascal VOC, `(256, 3)`, which other data sets and drawing programs use too."""
    index = np.arange(256)
    bits = [sum(((index >> (3 * bit + channel)) & 1) << (7 - bit) for bit in range(3)) for channel in range(3)]
    return np.stack(bits, axis=1).astype(np.uint8)


class _Collector:
    """Sorts label maps by what is wrong with them, one by one, and concludes from all of them."""

    def __init__(self, num_labels: int, ignore_index: int, do_reduce_labels: bool):
        self.num_labels, self.ignore_index, self.do_reduce_labels = num_labels, ignore_index, do_reduce_labels
        self.findings: dict[tuple, Finding] = {}
        self.pixel_counts = np.zeros(num_labels, dtype=np.int64)
        self.num_ignored = self.num_zeros = 0
        # Stored values and the label maps with some that are out of range.
        self.values: set[int] = set()
        self.outside: list[str] = []
        self.outside_values: set[int] = set()
        self.modes_outside: set[str] = set()

    def add(self, name: str, image: PILImage.Image | None, annotation: PILImage.Image | None):
        if image is None:
            self._find("unreadable", "Images cannot be read.", "Replace or remove them.", name)
        if annotation is None:
            self._find("unreadable", "Label maps cannot be read.", "Replace or remove them.", name)
            return
        file_format, mode = annotation.format, annotation.mode
        try:
            # As `datasets` does for images and label maps alike.
            annotation = ImageOps.exif_transpose(annotation)
            values = np.asarray(annotation)
        except (OSError, SyntaxError, ValueError) as error:
            self._find("unreadable", f"Label maps cannot be read ({error}).", "Replace or remove them.", name)
            return
        if image is not None:
            self._compare_sizes(name, image, annotation.size)
        if file_format == "JPEG":
            problem = "Label maps are JPEG files, whose compression changes labels along borders."
            self._find("jpeg", problem, "Make them anew from the source, as PNG.", name, is_error=False)
        if values.ndim > 2:
            self._add_channels(name, values)
            return
        if values.dtype.kind == "f":
            if (values != np.floor(values)).any():
                remedy = "Labels are whole numbers: store them as 8-bit PNG."
                self._find("fractions", "Label maps hold fractions.", remedy, name)
                return
            values = values.astype(np.int64)
        self._add_values(name, mode, values)

    def _find(self, kind: str, problem: str, remedy: str, file: str | None = None, is_error: bool = True):
        # By the remedy too: one kind may have several.
        finding = self.findings.setdefault((kind, remedy), Finding(kind, is_error, problem, remedy))
        if file is not None:
            finding.files.append(file)

    def _compare_sizes(self, name: str, image: PILImage.Image, size: tuple[int, int]):
        stored = image.size
        orientation = image.getexif().get(ExifTag.Orientation, 1)
        upright = stored[::-1] if orientation in TURNED else stored
        if size != upright:
            problem = f"Sizes differ, of the first the label map is {_shape(size)} and its image {_shape(upright)}."
            if size == stored:
                remedy = (
                    "These images have an EXIF orientation by which they are turned when they are read, and their "
                    "label maps were made without: turn those too, or store the images without the orientation."
                )
            elif size == upright[::-1]:
                remedy = "Width and height are exchanged: transpose the label maps, or turn the images."
            else:
                remedy = "Resize the label maps to their images (to the nearest label), or pair them anew."
            self._find("size", problem, remedy, name)
        elif orientation in MIRRORED or (orientation in TURNED and size == size[::-1]):
            problem = (
                f"Images have EXIF orientation {orientation}, by which they are turned or mirrored when they are "
                "read; by their sizes, the label maps may be either way."
            )
            remedy = (
                "Look at one with its label map. If they disagree, turn the label map too, or store the image without "
                "the orientation."
            )
            self._find("exif", problem, remedy, name, is_error=False)

    def _add_channels(self, name: str, values: np.ndarray):
        channels = values.shape[-1]
        colours = values[..., :3] if channels > 2 else values[..., :1]
        if (colours == colours[..., :1]).all():
            remedy = "Their colours are greys, so store one channel: Image.open(file).convert('L')."
        elif not colours[..., 1:].any():
            remedy = "Only red is used, so store that channel: Image.open(file).getchannel('R')."
        else:
            remedy = (
                "Labels take one channel: store in place of each colour its index in the list of classes, as 8-bit "
                "PNG. If a file with a palette was converted, take the original: its pixels are the labels."
            )
        found = len(np.unique(colours.reshape(-1, colours.shape[-1]), axis=0))
        problem = f"Label maps have {channels} channels, the first with {found} colours."
        self._find("channels", problem, remedy, name)

    def _add_values(self, name: str, mode: str, stored: np.ndarray):
        if stored.dtype == np.uint8:
            # Many times as fast as sorting.
            counts = np.bincount(stored.ravel(), minlength=256)
            values = np.flatnonzero(counts)
            counts = counts[values]
        else:
            values, counts = np.unique(stored.astype(np.int64), return_counts=True)
        self.values.update(values.tolist())
        labels = values
        if self.do_reduce_labels:
            self.num_zeros += int(counts[values == 0].sum())
            labels = np.where((values == 0) | (values == self.ignore_index), self.ignore_index, values - 1)
        is_ignored = labels == self.ignore_index
        is_valid = (labels >= 0) & (labels < self.num_labels) & ~is_ignored
        np.add.at(self.pixel_counts, labels[is_valid], counts[is_valid])
        self.num_ignored += int(counts[is_ignored].sum())
        outside = values[~is_valid & ~is_ignored]
        if len(outside):
            self.outside.append(name)
            self.outside_values.update(outside.tolist())
            self.modes_outside.add(mode)
        elif is_ignored.all():
            remedy = "Nothing is learnt from these: remove them, or look at whether their labels were lost."
            self._find("only_ignored", "All pixels are ignored.", remedy, name, is_error=False)

    def conclude(self, id2label: dict[int, str], num_checked: int, num_examples: int) -> list[Finding]:
        # A set with just these two may have one class and ignored pixels, but then there is nothing to learn.
        if self.values == {0, 255} and self.ignore_index == 255:
            self._find(
                "binary",
                "All label maps hold 0 and 255 only, and 255 is ignored.",
                "If 255 is the foreground, store 1 in its place: Image.open(file).point(lambda value: value // 255).",
            )
            # All else that could be said follows from this.
            self.findings = {
                key: each for key, each in self.findings.items() if each.kind not in ("only_ignored", "never_seen")
            }
            return list(self.findings.values())
        if self.outside:
            problem, remedy = self._explain_outside()
            self.findings["values"] = Finding("values", True, problem, remedy, self.outside)
        self._look_for_reduction(id2label)
        unseen = [index for index in range(self.num_labels) if not self.pixel_counts[index]]
        # Broken maps were not counted, so that nothing can be said.
        if unseen and not any(each.is_error for each in self.findings.values()):
            self._find_unseen(unseen, id2label, num_checked, num_examples)
        return list(self.findings.values())

    def _explain_outside(self) -> tuple[str, str]:
        outside, last = sorted(self.outside_values), self.num_labels - 1
        if self.do_reduce_labels:
            problem = (
                f"Label maps hold {_list_values(outside)}, expected labels from 1 to {last + 1}, or 0 (by "
                f"--do_reduce_labels) or {self.ignore_index} where pixels have none."
            )
        else:
            problem = (
                f"Label maps hold {_list_values(outside)}, expected labels from 0 to {last}, or {self.ignore_index} "
                "where pixels have none."
            )
        greys = np.unique(np.asarray(PILImage.fromarray(voc_palette()[None]).convert("L")))
        is_palette = self.modes_outside == {"P"}
        if outside == [self.num_labels] and not self.do_reduce_labels:
            remedy = (
                "If labels start at 1 and 0 means unlabelled, as in ADE20K, pass --do_reduce_labels. If 0 is a class "
                "too, its name is missing from the label names."
            )
        elif outside[-1] > 255:
            remedy = (
                "Values above 255 are often numbers of objects, or of the class times 256 or 1000 plus one of the "
                "object: store the class alone, as 8-bit PNG."
            )
        elif is_palette:
            remedy = (
                "These files have a palette, whose indices are the labels. Where their colours were drawn and "
                "quantised, the indices mean nothing: store in place of each colour the index of its class."
            )
        elif len(outside) > 1 and set(outside) <= set(greys.tolist()) and len(self.values) <= self.num_labels + 1:
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
        names = [load_label_set(name) for name in ZERO_IS_UNLABELLED]
        known = next((each.name for each in names if each.id2label == id2label), None)
        if known and not self.do_reduce_labels and 0 in self.values and IGNORE_INDEX not in self.values:
            self._find(
                "reduction",
                f"The label names are those of {known}, whose label maps have 0 for what is none of them, and these "
                f"hold 0 and never {IGNORE_INDEX}.",
                "If they are as published, pass --do_reduce_labels: without, each pixel is taken for the next class.",
                is_error=False,
            )

    def _find_unseen(self, unseen: list[int], id2label: dict[int, str], num_checked: int, num_examples: int):
        names = name_some([f"{index} ({id2label[index]})" if index in id2label else str(index) for index in unseen])
        problem = f"{len(unseen)} of {self.num_labels} labels are never seen: {names}."
        remedy = "Without examples, a class is neither learnt nor measured; remove its name if there are none at all."
        if num_checked < num_examples:
            remedy = (
                f"That was in {num_checked} of {num_examples} label maps; --check_all_labels looks at all of them."
            )
        total = max(1, self.pixel_counts.sum() + self.num_ignored)
        if self.do_reduce_labels and self.num_labels - 1 in unseen and self.num_zeros:
            remedy += (
                f" With --do_reduce_labels, 0 is ignored ({self.num_zeros / total:.1%} of the pixels): leave the flag "
                "out if 0 is a class."
            )
        if not self.do_reduce_labels and unseen[0] == 0 and len(unseen) == 1:
            remedy += " If labels start at 1, they are off by one: pass --do_reduce_labels, without a name for 0."
        self._find("never_seen", problem, remedy, is_error=False)


__all__ = ["Finding", "LabelError", "LabelReport", "check_labels"]
