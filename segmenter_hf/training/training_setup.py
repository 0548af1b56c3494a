"""What a training run starts with: data, image processor and model, checked before any work is done."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel

from ..data.augmentation import SegmentationAugmentation
from ..data.examples import ExampleReader
from ..data.loading import SegmentationData, load_segmentation_data
from ..data.opening import SplitChoice, open_splits
from ..hub.origins import StartingWeights, load_starting_weights
from ..image_processing_segmenter import SegmenterImageProcessingMixin, reduce_labels, to_labels
from .arguments import DataArguments, MethodArguments, ModelArguments, refuse_unusable
from .recipes import Recipe
from .samples import TrainingDataset
from .starting_model import add_adapters, make_image_processor, make_model, starting_checkpoint


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


@dataclass(frozen=True)
class Run:
    """
    What is known of a run when it begins.

    Args:
        model_args, data_args, method_args, recipe, setup: Those that it was started with.
        args (`TrainingArguments` or `AccelerateArguments`): The script's own.
        device (`torch.device`): Of the first process.
        num_processes (`int`): Their number.
        autocast_dtype (`torch.dtype`, *optional*): Of autocast, in training and in its evaluation.
    """

    model_args: ModelArguments
    data_args: DataArguments
    method_args: MethodArguments
    recipe: Recipe
    setup: TrainingSetup
    args: Any
    device: torch.device
    num_processes: int
    autocast_dtype: torch.dtype | None

    @property
    def per_device_batch_size(self) -> int:
        """Crops of a process in a forward pass: those of all of its devices, where `Trainer` gives it several."""
        return getattr(self.args, "train_batch_size", self.args.per_device_train_batch_size)

    @property
    def batch_size(self) -> int:
        """Crops of a step, over all processes and accumulated forward passes."""
        return self.per_device_batch_size * self.args.gradient_accumulation_steps * self.num_processes


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
    choices = [SplitChoice(data_args.validation_split, "--validation_split", data_args.max_eval_samples)]
    if do_train:
        choices.insert(0, SplitChoice(data_args.train_split, "--train_split", data_args.max_train_samples))
    names_validation = data_args.validation_split != "validation"
    # The data come before weights, whose download and conversion may take long.
    data = load_segmentation_data(
        data_args.dataset_name,
        config_name=data_args.dataset_config_name,
        image_column=data_args.image_column_name,
        annotation_column=data_args.annotation_column_name,
        labels=data_args.labels,
        # No validation split is cut off where the run names another.
        train_val_split=None if names_validation else data_args.train_val_split,
        seed=seed,
        cache_dir=model_args.cache_dir,
        train_split=data_args.train_split,
        validation_split=data_args.validation_split,
        # Other splits do no harm where those that the run takes are all named.
        allow_other_splits=names_validation and (data_args.train_split != "train" or not do_train),
    )
    with starting_checkpoint(model_args, output_dir) as checkpoint:
        image_processor = make_image_processor(model_args, data_args, recipe, checkpoint)
        *train_examples, eval_examples = open_splits(
            data,
            choices,
            image_processor,
            skip_unreadable=data_args.skip_unreadable,
            check_all=data_args.check_all_examples,
        )
        model, start_weights = make_model(model_args, recipe, checkpoint, image_processor, data.id2label)

    if not do_train:
        return TrainingSetup(data, None, eval_examples, image_processor, model, None)

    class_weights = None
    if method_args.class_balance:
        counts = count_labels(train_examples[0], data.num_labels, image_processor.do_reduce_labels)
        class_weights = balanced_class_weights(counts, method_args.class_balance)
    if method_args.use_peft:
        model = add_adapters(model, method_args)
    augmentation = SegmentationAugmentation(
        image_processor,
        (data_args.min_scale, data_args.max_scale),
        data_args.max_class_share,
        data_args.photometric_distortion,
    )
    train_dataset = TrainingDataset(train_examples[0], augmentation, seed)
    start = load_starting_weights(
        model_args.model_name_or_path, model_args.model_revision, model_args.cache_dir, model_args.token
    )
    return TrainingSetup(
        data, train_dataset, eval_examples, image_processor, model, class_weights, start, start_weights
    )


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


__all__ = ["Run", "TrainingSetup", "balanced_class_weights", "count_labels", "prepare"]
