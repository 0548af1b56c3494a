"""
Checks of label maps and images before training, which find what would otherwise fail in the middle of it, or teach
nonsense.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset, Image

from ..image_processing_pil_segmenter import SegmenterImageProcessorPil
from ..image_processing_segmenter import IGNORE_INDEX, SegmenterImageProcessingMixin
from .columns import is_array_feature
from .examples import COLUMNS, EXAMPLE_ERRORS, ExampleFile, ExampleReader, require_columns, require_length, row_name
from .findings import Finding, LabelMapFindingCollector
from .image_findings import ImageFindingCollector
from .labels import with_integer_keys
from .loading import array_to_image


logger = logging.getLogger(__name__)


class LabelError(ValueError):
    """Label maps or images that cannot be trained on."""


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

    def format_shares(self, id2label: Mapping[int | str, str] | None = None) -> str:
        """A line for each label, with its share of all pixels, and one for those that are ignored."""
        total = max(1, int(self.pixel_counts.sum()) + self.num_ignored)
        id2label = with_integer_keys(id2label or {})
        names = [id2label.get(index, f"label {index}") for index in range(len(self.pixel_counts))]
        rows = [*zip(names, self.pixel_counts, strict=True), ("(ignored)", self.num_ignored)]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}} {count / total:8.3%}" for name, count in rows)


def check_splits(
    splits: Mapping[str, Dataset], id2label: Mapping[int | str, str], **settings: Any
) -> dict[str, LabelReport]:
    """
    Checks the label maps and images of several splits, logs the shares of the labels in each and what may be wrong,
    and refuses what is.

    Args:
        splits (`Mapping[str, Dataset]`): Name to split, such as `{"train": ..., "validation": ...}`.
        id2label (`Mapping[int | str, str]`): The name of each label.
        **settings: The other arguments of [`check_labels`].

    Returns:
        `dict[str, LabelReport]`: the name of each split, and what was found.

    Raises:
        LabelError: if there are errors; the message has those of all splits.
    """
    if not isinstance(splits, Mapping):
        require_length(splits)
        raise ValueError('Expected splits by their names, such as {"train": dataset}, got ' + type(splits).__name__)
    id2label, reports = with_integer_keys(id2label), {}
    for name, split in splits.items():
        reports[name] = report = check_labels(split, len(id2label), id2label=id2label, split=name, **settings)
        number, shares = f"{report.num_checked} of {report.num_examples}", report.format_shares(id2label)
        logger.info("Pixels of each label in %s label maps of the %s split:\n%s", number, name, shares)
        for finding in report.warnings:
            logger.warning("%s split: %s", name, finding)
    errors = [f"{name} split: {finding}" for name, report in reports.items() for finding in report.errors]
    if errors:
        raise LabelError("\n".join(errors))
    return reports


def check_labels(
    dataset: Dataset,
    num_labels: int,
    *,
    ignore_index: int = 255,
    do_reduce_labels: bool = False,
    image_processor: SegmenterImageProcessingMixin | None = None,
    id2label: Mapping[int | str, str] | None = None,
    sample_size: int | None = 200,
    seed: int = 0,
    split: str = "train",
) -> LabelReport:
    """
    Looks at the label maps and images of a split as training would read them. Memory does not grow with the split.

    Args:
        dataset (`Dataset`): The split, with the columns `image` and `annotation` of the type `Image`, decoded or not;
            label maps may be arrays.
        num_labels (`int`): Labels from 0 to `num_labels - 1` are valid (0 and 1 with one label, as for a binary
            model), and `ignore_index`.
        ignore_index (`int`, *optional*, defaults to 255): Label of pixels that have none.
        do_reduce_labels (`bool`, *optional*, defaults to `False`): Whether 0 means unlabelled and the rest minus 1 is
            the label, as for the image processor.
        image_processor ([`SegmenterImageProcessor`], *optional*): What images are read by, which decides on the bands
            and values that they must have. Default: one with the defaults.
        id2label (`Mapping[int | str, str]`, *optional*): The names of labels, for messages.
        sample_size (`int`, *optional*, defaults to 200): How many label maps to look at; `None` for all.
        seed (`int`, *optional*, defaults to 0): Draws which: the same ones each time.
        split (`str`, *optional*, defaults to `"train"`): Name of the split, for messages.

    Raises:
        ValueError: if there are no labels, or pixels that reduction makes unlabelled would not be ignored; and for
            streaming datasets, or without the two columns.

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
    require_columns(dataset)
    if num_labels < 1:
        raise ValueError(f"Expected at least one label, got `num_labels={num_labels}`.")
    if do_reduce_labels and ignore_index != IGNORE_INDEX:
        raise ValueError(
            f"With --do_reduce_labels, pixels without a label get {IGNORE_INDEX}, so that must be `ignore_index`, got "
            f"{ignore_index}."
        )
    rows = np.arange(len(dataset))
    if sample_size is not None and sample_size < len(dataset):
        rows = np.sort(np.random.default_rng(seed).choice(len(dataset), sample_size, replace=False))
    collector = LabelMapFindingCollector(max(2, num_labels), ignore_index, do_reduce_labels)
    images = ImageFindingCollector(image_processor or SegmenterImageProcessorPil())
    encoded = dataset.with_format(None).select_columns(list(COLUMNS))
    # `datasets` would cut off the upper bits of large values if it made images of arrays.
    is_array = is_array_feature(dataset.features["annotation"])
    for column in COLUMNS[: 1 if is_array else 2]:
        encoded = encoded.cast_column(column, Image(decode=False))
    for row in rows.tolist():
        example = encoded[row]
        if is_array:
            stored = array_to_image(example, row, "annotation")["annotation"]
            example["annotation"] = None if stored is None else Image().encode_example(stored)
        name = row_name(encoded, row, split)
        image, annotation = (ExampleFile(example[column], name) for column in COLUMNS)
        image_file = collector.add(image, annotation)
        if image_file is not None:
            images.add(image.name, image_file)
    findings = collector.conclude(with_integer_keys(id2label or {}), len(rows), len(dataset)) + images.conclude()
    findings.sort(key=lambda finding: not finding.is_error)
    return LabelReport(split, len(rows), len(dataset), collector.pixel_counts, int(collector.num_ignored), findings)


def find_unreadable(
    examples: Dataset,
    image_processor: SegmenterImageProcessingMixin,
    *,
    indices: Iterable[int] | None = None,
) -> dict[int, str]:
    """
    Decodes images and label maps, and finds those that cannot be. What label maps hold is left to [`check_labels`].

    Args:
        examples (`Dataset`): A split.
        image_processor ([`SegmenterImageProcessor`]): What images are read by: those that it refuses for their values,
            whatever its `max_value`, are of no use either.
        indices (iterable of `int`, *optional*): Which examples to look at. Default: all.

    Returns:
        `dict[int, str]`: the index of each example that cannot be read, with its files and the reason.
    """
    reader = ExampleReader(examples)
    unreadable = {}
    for index in range(len(reader)) if indices is None else indices:
        try:
            image, _ = reader[index]
            image_processor.process_image(
                image, do_convert_rgb=image_processor.do_convert_rgb, max_value=np.iinfo(np.uint16).max
            )
        except EXAMPLE_ERRORS as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            unreadable[index] = f"{reader.describe(index) or f'example {index}'}: {reason}"
    return unreadable


__all__ = ["Finding", "LabelError", "LabelReport", "check_labels", "check_splits", "find_unreadable"]
