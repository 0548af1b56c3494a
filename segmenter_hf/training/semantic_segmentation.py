"""Arguments and assembly of a training run."""

from dataclasses import dataclass, field

import numpy as np
import torch
from datasets import Dataset
from transformers import (
    AutoImageProcessor,
    AutoModelForSemanticSegmentation,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

from .. import SegmenterConfig, SegmenterForSemanticSegmentation, SegmenterImageProcessor
from ..data.augmentation import SegmentationAugmentation
from ..data.loading import load_segmentation_dataset
from ..image_processing_pil_segmenter import reduce_labels
from .trainer import SegmentationTrainer


@dataclass
class ModelArguments:
    """Which model is trained: a saved one, or a new one of the given sizes."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Checkpoint to start from; its sizes then apply. Default: random initialisation."},
    )
    hidden_size: int = field(default=192, metadata={"help": "Width of encoder and decoder."})
    num_hidden_layers: int = field(default=12, metadata={"help": "Number of encoder layers."})
    patch_size: int = field(default=16, metadata={"help": "Side of a patch in pixels."})
    decoder_num_hidden_layers: int = field(default=2, metadata={"help": "Number of mask transformer layers."})
    decoder_dropout_prob: float = field(default=0.1, metadata={"help": "Dropout in the mask transformer."})
    drop_path_rate: float = field(default=0.1, metadata={"help": "Stochastic depth of the last encoder layer."})


@dataclass
class DataArguments:
    """Which data, and at which size."""

    dataset_name: str = field(metadata={"help": "Folder or Hub id that datasets.load_dataset reads."})
    image_column_name: str = field(default="image", metadata={"help": "Column of the images."})
    annotation_column_name: str = field(default="annotation", metadata={"help": "Column of the label maps."})
    train_split: str = field(default="train", metadata={"help": "Split to train on."})
    validation_split: str = field(default="validation", metadata={"help": "Split to evaluate on."})
    short_side: int | None = field(
        default=None,
        metadata={"help": "Short side in pixels that images are resized to. Default: the checkpoint's, or 512."},
    )
    crop_height: int | None = field(
        default=None,
        metadata={"help": "Height of training crops and evaluation windows. Default: the checkpoint's, or 512."},
    )
    crop_width: int | None = field(
        default=None,
        metadata={"help": "Width of training crops and evaluation windows. Default: the checkpoint's, or 512."},
    )
    do_reduce_labels: bool = field(
        default=False,
        metadata={
            "help": "Whether 0 means unlabelled in the label maps, as in ADE20K: it is ignored, the rest minus 1."
        },
    )
    min_scale: float = field(default=0.5, metadata={"help": "Least random scale."})
    max_scale: float = field(default=2.0, metadata={"help": "Largest random scale."})
    class_balance: float = field(
        default=0.0,
        metadata={"help": "Weight the loss of each class by its frequency in the training split to minus this power."},
    )


def make_image_processor(
    data_args: DataArguments, model_args: ModelArguments, checkpoint: str | None = None
) -> SegmenterImageProcessor:
    """
    The image processor that training, its evaluation and later inference share: the checkpoint's, if there is one,
    with what the arguments say otherwise. Windows are as large as training crops, half of their shorter side apart.
    """
    if checkpoint is not None:
        image_processor = AutoImageProcessor.from_pretrained(checkpoint)
    else:
        image_processor = SegmenterImageProcessor(
            do_split_image=True, window_stride=256, patch_size=model_args.patch_size
        )
    settings = image_processor.to_dict()
    if data_args.short_side is not None:
        settings["size"] = {"shortest_edge": data_args.short_side, "longest_edge": 4 * data_args.short_side}
    if data_args.crop_height is not None or data_args.crop_width is not None:
        window = settings["crop_size"]
        height, width = data_args.crop_height or window["height"], data_args.crop_width or window["width"]
        settings["crop_size"] = {"height": height, "width": width}
        settings["window_stride"] = max(1, min(height, width) // 2)
    settings["do_reduce_labels"] = data_args.do_reduce_labels
    return type(image_processor).from_dict(settings)


def count_labels(
    dataset: Dataset, annotation_column: str, num_labels: int, do_reduce_labels: bool = False
) -> torch.Tensor:
    """Number of pixels of each label in a split, `(num_labels,)`; labels beyond are ignored ones."""
    counts = torch.zeros(num_labels, dtype=torch.int64)
    for example in dataset.select_columns(annotation_column):
        labels = torch.from_numpy(np.array(example[annotation_column])).flatten().long()
        if do_reduce_labels:
            labels = reduce_labels(labels)
        counts += torch.bincount(labels[labels < num_labels], minlength=num_labels)
    return counts


def balanced_class_weights(counts: torch.Tensor, power: float) -> torch.Tensor:
    """Weights proportional to `frequency ** -power`, whose mean over all pixels is 1. Classes never seen weigh 0."""
    frequencies = counts / counts.sum()
    weights = torch.where(counts > 0, frequencies.clamp(min=1e-12) ** -power, 0)
    return weights / (weights * frequencies).sum()


def train(
    model_args: ModelArguments, data_args: DataArguments, training_args: TrainingArguments
) -> SegmentationTrainer:
    """Trains, evaluates and saves model and image processor to `training_args.output_dir`."""
    set_seed(training_args.seed)
    image_processor = make_image_processor(data_args, model_args, model_args.model_name_or_path)
    splits, id2label = load_segmentation_dataset(
        data_args.dataset_name, data_args.image_column_name, data_args.annotation_column_name
    )
    if model_args.model_name_or_path is not None:
        model = AutoModelForSemanticSegmentation.from_pretrained(
            model_args.model_name_or_path, id2label=id2label, ignore_mismatched_sizes=True
        )
    else:
        config = SegmenterConfig(
            hidden_size=model_args.hidden_size,
            num_hidden_layers=model_args.num_hidden_layers,
            num_attention_heads=max(1, model_args.hidden_size // 64),
            intermediate_size=4 * model_args.hidden_size,
            image_size=(image_processor.crop_size.height, image_processor.crop_size.width),
            patch_size=model_args.patch_size,
            decoder_num_hidden_layers=model_args.decoder_num_hidden_layers,
            decoder_dropout_prob=model_args.decoder_dropout_prob,
            drop_path_rate=model_args.drop_path_rate,
            id2label=id2label,
        )
        model = SegmenterForSemanticSegmentation(config)

    augment = SegmentationAugmentation(image_processor, scale_range=(data_args.min_scale, data_args.max_scale))

    def transform(batch):
        pairs = zip(batch[data_args.image_column_name], batch[data_args.annotation_column_name], strict=True)
        examples = [augment(image, annotation) for image, annotation in pairs]
        return {name: [example[name] for example in examples] for name in examples[0]}

    class_weights = None
    if data_args.class_balance:
        counts = count_labels(
            splits[data_args.train_split],
            data_args.annotation_column_name,
            len(id2label),
            data_args.do_reduce_labels,
        )
        class_weights = balanced_class_weights(counts, data_args.class_balance)

    # Trainer would drop the image columns, which are not arguments of the model, before the transform sees them.
    training_args.remove_unused_columns = False
    trainer = SegmentationTrainer(
        model=model,
        args=training_args,
        train_dataset=splits[data_args.train_split].with_transform(transform),
        eval_dataset=splits[data_args.validation_split],
        data_collator=default_data_collator,
        processing_class=image_processor,
        image_column=data_args.image_column_name,
        annotation_column=data_args.annotation_column_name,
        class_weights=class_weights,
    )
    result = trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    trainer.save_model()
    trainer.save_state()
    trainer.log_metrics("train", result.metrics)
    trainer.save_metrics("train", result.metrics)
    metrics = trainer.evaluate()
    trainer.log_metrics("eval", metrics)
    trainer.save_metrics("eval", metrics)
    return trainer
