"""What a training run starts with: data, image processor and model, checked before any work is done."""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset
from transformers import PreTrainedModel

from ..data.augmentation import SegmentationAugmentation
from ..data.checks import check_splits, find_unreadable
from ..data.examples import ExampleReader
from ..data.loading import SegmentationData, load_segmentation_data
from ..data.pairs import name_some
from ..evaluation.protocol import _gather, _rank_and_number_of_processes
from ..hub.origins import StartingWeights, load_starting_weights
from ..image_processing_pil_segmenter import SegmenterImageProcessingMixin, reduce_labels, to_labels
from .arguments import DataArguments, MethodArguments, ModelArguments, refuse_unusable
from .recipes import Recipe
from .samples import TrainingDataset
from .starting_model import add_adapters, make_image_processor, make_model, starting_checkpoint


logger = logging.getLogger(__name__)

# How many label maps of each split are checked, unless all are.
NUM_CHECKED = 200


@dataclass
class TrainingSetup:
    """
    What a run starts with.

    Args:
        data ([`SegmentationData`]): The dataset, with its label names.
        train_dataset ([`TrainingDataset`], *optional*): Augmented samples; `None` where the run only evaluates.
        eval_dataset (`Dataset`): Images and label maps as they are.
        image_processor ([`SegmenterImageProcessor`]): What training, its evaluation and later inference share.
        model ([`SegmenterForSemanticSegmentation`]): The model, or with adapters the `PeftModel` around it.
        class_weights (`torch.Tensor`, *optional*): Of shape `(num_labels,)`.
        start ([`StartingWeights`], *optional*): What is known of the weights that the model has; `None` where the run
            only evaluates.
        start_weights (`str`, *optional*): SHA-256 of the weights that training starts from; `None` where all are new.
    """

    data: SegmentationData
    train_dataset: TrainingDataset | None
    eval_dataset: Dataset
    image_processor: SegmenterImageProcessingMixin
    model: PreTrainedModel
    class_weights: torch.Tensor | None
    start: StartingWeights | None = None
    start_weights: str | None = None


@refuse_unusable()
def prepare(
    model_args: ModelArguments,
    data_args: DataArguments,
    method_args: MethodArguments,
    recipe: Recipe,
    seed: int,
    output_dir: str | Path,
    do_train: bool = True,
) -> TrainingSetup:
    """
    Loads, checks and builds all that a run needs. The state of torch's random numbers decides on new weights. Weights
    of other formats are converted into `output_dir`, for as long as they are loaded.

    Raises:
        TrainingError: if data, labels, sizes or weights do not fit; the message says what to change.
    """
    data = load_segmentation_data(
        data_args.dataset_name,
        config_name=data_args.dataset_config_name,
        image_column=data_args.image_column_name,
        annotation_column=data_args.annotation_column_name,
        labels=data_args.labels,
        # Nothing is cut off where another split is asked for, or none to train on.
        train_val_split=data_args.train_val_split if data_args.validation_split == "validation" else None,
        train_split=data_args.train_split,
        validation_split=data_args.validation_split,
        # Where those that the run takes are all named, others do no harm.
        allow_other_splits=data_args.validation_split != "validation"
        and (data_args.train_split != "train" or not do_train),
        seed=seed,
        cache_dir=model_args.cache_dir,
    )
    train_examples = None
    if do_train:
        train_examples = _first(data.split(data_args.train_split, "--train_split"), data_args.max_train_samples)
    eval_examples = _first(data.split(data_args.validation_split, "--validation_split"), data_args.max_eval_samples)

    with starting_checkpoint(model_args, output_dir) as checkpoint:
        image_processor = make_image_processor(model_args, data_args, recipe, checkpoint)
        if data_args.skip_unreadable:
            settings = (data, image_processor)
            if do_train:
                train_examples = leave_out_unreadable(train_examples, data_args.train_split, *settings)
            eval_examples = leave_out_unreadable(eval_examples, data_args.validation_split, *settings)
        splits = {data_args.train_split: train_examples, data_args.validation_split: eval_examples}
        check_splits(
            {name: examples for name, examples in splits.items() if examples is not None},
            data.id2label,
            do_reduce_labels=image_processor.do_reduce_labels,
            image_processor=image_processor,
            sample_size=None if data_args.check_all_examples else NUM_CHECKED,
        )
        model, start_weights = make_model(model_args, recipe, checkpoint, image_processor, data.id2label)

    if not do_train:
        return TrainingSetup(data, None, eval_examples, image_processor, model, None)

    class_weights = None
    if method_args.class_balance:
        counts = count_labels(train_examples, data.num_labels, image_processor.do_reduce_labels)
        class_weights = balanced_class_weights(counts, method_args.class_balance)
    if method_args.use_peft:
        model = add_adapters(model, method_args)
    augmentation = SegmentationAugmentation(
        image_processor,
        (data_args.min_scale, data_args.max_scale),
        data_args.max_class_share,
        data_args.photometric_distortion,
    )
    train_dataset = TrainingDataset(train_examples, augmentation, seed)
    start = load_starting_weights(
        model_args.model_name_or_path, model_args.model_revision, model_args.cache_dir, model_args.token
    )
    return TrainingSetup(
        data, train_dataset, eval_examples, image_processor, model, class_weights, start, start_weights
    )


def _first(examples: Dataset, number: int | None) -> Dataset:
    return examples if number is None else examples.select(range(min(number, len(examples))))


def leave_out_unreadable(
    examples: Dataset, split: str, data: SegmentationData, image_processor: SegmenterImageProcessingMixin
) -> Dataset:
    """
    The examples of a split that can be read; those that cannot are logged. Of several processes, each reads its share,
    and all leave out the same.

    Raises:
        ValueError: if none is left.
    """
    rank, num_processes = _rank_and_number_of_processes()
    own = find_unreadable(
        examples,
        image_processor,
        indices=range(rank, len(examples), num_processes),
    )
    unreadable = {index: name for names in _gather(own) for index, name in names.items()}
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


def count_labels(examples: Dataset, num_labels: int, do_reduce_labels: bool = False) -> torch.Tensor:
    """Number of pixels of each label in a split, `(num_labels,)`; labels beyond are ignored ones."""
    counts = torch.zeros(num_labels, dtype=torch.int64)
    reader = ExampleReader(examples, ["annotation"])
    for index in range(len(reader)):
        with reader.naming(index, "Training example"):
            (annotation,) = reader[index]
            labels = to_labels(annotation, "Its label map").flatten()
        if do_reduce_labels:
            labels = reduce_labels(labels)
        counts += torch.bincount(labels[labels < num_labels], minlength=num_labels)
    return counts


def balanced_class_weights(counts: torch.Tensor, power: float) -> torch.Tensor:
    """Weights proportional to `frequency ** -power`, whose mean over all pixels is 1. Classes never seen weigh 0."""
    frequencies = counts / counts.sum()
    weights = torch.where(counts > 0, frequencies.clamp(min=1e-12) ** -power, 0)
    return weights / (weights * frequencies).sum()


__all__ = [
    "TrainingSetup",
    "balanced_class_weights",
    "count_labels",
    "leave_out_unreadable",
    "prepare",
]
