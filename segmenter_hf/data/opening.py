"""Opens the splits that training and evaluation work on: takes the examples asked for, and checks them."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from datasets import Dataset

from ..image_processing_segmenter import SegmenterImageProcessingMixin
from ..processes import gather_objects, rank_and_number_of_processes
from .checks import check_splits, find_unreadable
from .loading import SegmentationData
from .pairs import name_some


logger = logging.getLogger(__name__)

# This many label maps of each split are checked, unless all are.
NUM_CHECKED = 200


@dataclass(frozen=True)
class SplitChoice:
    """
    A split to open.

    Args:
        name (`str`): Its name, or another that means the same.
        flag (`str`): The flag that names it, for errors.
        max_samples (`int`, *optional*): How many examples to take, the first ones. Default: all.
    """

    name: str
    flag: str
    max_samples: int | None = None


def open_splits(
    data: SegmentationData,
    choices: Sequence[SplitChoice],
    image_processor: SegmenterImageProcessingMixin,
    *,
    model_id2label: Mapping[int, str] | None = None,
    ignore_index: int = 255,
    skip_unreadable: bool = False,
    check_all: bool = False,
) -> list[Dataset]:
    """
    Takes the splits of a dataset that are asked for, and checks their label maps and images.

    Args:
        data ([`SegmentationData`]): The dataset.
        choices (`Sequence[SplitChoice]`): The splits.
        image_processor ([`SegmenterImageProcessor`]): What reads images and reduces labels.
        model_id2label (`Mapping[int, str]`, *optional*): The labels of a model, which those of the dataset must equal.
        ignore_index (`int`, *optional*, defaults to 255): Label of pixels that have none.
        skip_unreadable (`bool`, *optional*, defaults to `False`): Whether to leave out, and log, examples that cannot
            be read. Each of several processes reads its share, and all leave out the same.
        check_all (`bool`, *optional*, defaults to `False`): Whether to check all examples in place of a sample.

    Returns:
        `list[Dataset]`: for each of the splits the examples to work on.

    Raises:
        LabelError: if label maps or images cannot be used; the message has what is wrong in all of the splits.
        ValueError: if there is no such split, or the model has other labels.
    """
    examples = [data.split(choice.name, choice.flag) for choice in choices]
    for index, choice in enumerate(choices):
        if choice.max_samples is not None:
            examples[index] = examples[index].select(range(min(choice.max_samples, len(examples[index]))))
    if model_id2label is not None:
        check_labels_agree(model_id2label, data)
    if skip_unreadable:
        examples = [
            leave_out_unreadable(split, choice.name, image_processor)
            for choice, split in zip(choices, examples, strict=True)
        ]
    splits: dict[str, Dataset] = {}
    for choice, split in zip(choices, examples, strict=True):
        # A split that is asked for twice begins with the same examples, so that the longer part stands for both.
        splits[choice.name] = max(splits.get(choice.name, split), split, key=len)
    check_splits(
        splits,
        data.id2label,
        ignore_index=ignore_index,
        do_reduce_labels=image_processor.do_reduce_labels,
        image_processor=image_processor,
        sample_size=None if check_all else NUM_CHECKED,
    )
    return examples


def check_labels_agree(id2label: Mapping[int, str], data: SegmentationData):
    """
    Raises:
        ValueError: if the labels of model and dataset are not the same, in the same order.
    """
    if id2label == data.id2label:
        return
    differing = [index for index in id2label.keys() | data.id2label if id2label.get(index) != data.id2label.get(index)]
    first = min(differing)
    remedy = "Train on this dataset, or order its labels as the model's."
    if all(name.startswith("LABEL_") for name in id2label.values()) and len(id2label) == len(data.id2label):
        remedy = "If they are the same labels, name them in the model's config.json (id2label and label2id)."
    raise ValueError(
        f"The {len(id2label)} labels of the model are not the {len(data.id2label)} of {data.source}: label {first} is "
        f"{id2label.get(first)!r} and {data.id2label.get(first)!r}. {remedy}"
    )


def leave_out_unreadable(examples: Dataset, split: str, image_processor: SegmenterImageProcessingMixin) -> Dataset:
    """
    The examples of a split that can be read; those that cannot are logged.

    Raises:
        ValueError: if none is left.
    """
    rank, num_processes = rank_and_number_of_processes()
    own = find_unreadable(examples, image_processor, indices=range(rank, len(examples), num_processes))
    unreadable = {index: name for names in gather_objects(own) for index, name in names.items()}
    if not unreadable:
        return examples
    message = (
        f"{split} split: {len(unreadable)} of {len(examples)} examples cannot be read: "
        f"{name_some([unreadable[index] for index in sorted(unreadable)])}."
    )
    if len(unreadable) == len(examples):
        raise ValueError(f"{message} None is left.")
    logger.warning("%s They are left out.", message)
    return examples.select([index for index in range(len(examples)) if index not in unreadable])


__all__ = ["SplitChoice", "open_splits"]
