"""The sliding-window protocols of the paper, single- and multi-scale, at the label maps' own size."""

import heapq
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed
from torch import nn
from tqdm.auto import tqdm
from transformers import BaseImageProcessor, BatchFeature, PreTrainedConfig
from transformers.image_utils import SizeDict

from ..data.examples import ExampleError, ExampleReader
from ..image_processing_segmenter import reduce_labels, to_labels
from ..processes import gather_objects, rank_and_number_of_processes
from .metrics import MeanIoU, confusion_matrix, iou_scores
from .record import MULTI_SCALES


# Probabilities are made of so many rows of pixels at a time: all of 150 labels at 2048 x 1024 would take 1.2 GB.
ROWS_AT_ONCE = 64


class NonFiniteScoresError(ArithmeticError):
    """Scores that are NaN or infinite, which no figure can be made of. All processes raise it alike."""


@torch.inference_mode()
def evaluate_sliding_window(
    model: nn.Module,
    image_processor: BaseImageProcessor,
    examples: Sequence[Mapping[str, Any]],
    window_batch_size: int = 8,
    autocast_dtype: torch.dtype | None = None,
    show_progress: bool = False,
    *,
    multi_scale: bool = False,
    exclude: Iterable[int] = (),
    worst_cases: "WorstCases | None" = None,
) -> dict[str, Any]:
    """
    Scores a model as the paper does: each image in windows (as `image_processor` cuts them), logits of overlapping
    windows averaged and resized to the image's own label map, one confusion matrix over all images.

    Where `torch.distributed` is initialised, each process scores the images whose index modulo the number of processes
    is its rank, and all return the same figures, which are those of a single process to the last digit.

    Args:
        model ([`SegmenterForSemanticSegmentation`]):
            Evaluated where it is, in evaluation mode. May be wrapped by PEFT, FSDP or DeepSpeed.
        image_processor ([`SegmenterImageProcessor`]): Its window, stride, sizes and normalisation are the protocol.
        examples (sequence of `dict`, such as a `datasets.Dataset`): Each with an `image` and an `annotation`, the
            label map of its size.
        window_batch_size (`int`, *optional*, defaults to 8): Windows of one image that are fed at once.
        autocast_dtype (`torch.dtype`, *optional*): Runs the model under autocast of this dtype.
        show_progress (`bool`, *optional*, defaults to `False`): Whether the first process shows a progress bar.
        multi_scale (`bool`, *optional*, defaults to `False`):
            Whether to average the probabilities of six sizes of each image, each also flipped.
        exclude (iterable of `int`, *optional*): Labels that the means leave out, see [`MeanIoU`].
        worst_cases ([`WorstCases`], *optional*): Gets the predictions of the images with the lowest scores.

    Returns:
        `dict`: what [`MeanIoU`] computes, with lists for arrays; `loss`, the mean over all labelled pixels of all
        windows (at scale 1), NaN if there are none; and `num_images`.

    Raises:
        ExampleError: if an image or a label map cannot be read, or they do not fit each other or the model. Only the
            process that scores it raises it.
        NonFiniteScoresError: if the model's scores are NaN or infinite.
        ValueError: if there are no examples, or the dataset is a streaming one.
    """
    reader = ExampleReader(examples)
    if not len(examples):
        raise ValueError("There are no examples to evaluate on.")
    rank, num_processes = rank_and_number_of_processes()
    feed = WindowFeed(model, window_batch_size, autocast_dtype)
    config = config_of(model)
    ignore_index = config.semantic_loss_ignore_index
    # A single logit tells two labels apart.
    metric = MeanIoU(max(2, config.num_labels), ignore_index, exclude=exclude)
    losses, num_pixels, broken = [], 0, None
    was_training = model.training
    model.eval()
    try:
        # Images are scored in rounds of one for each process. In the last round, some processes may have none.
        for start in tqdm(
            range(0, len(examples), num_processes),
            desc="Evaluating",
            unit="image" if num_processes == 1 else f"{num_processes} images",
            disable=not show_progress or rank != 0,
        ):
            index = start + rank
            if index >= len(examples) or broken is not None:
                feed.follow(2 * len(MULTI_SCALES) if multi_scale else 1, image_processor)
                continue
            try:
                with reader.naming(index, use="evaluated"):
                    image, annotation = reader[index]
                    reference = _read_labels(annotation, image_processor)
                    prediction, loss, pixels = _predict(
                        feed, image_processor, image, annotation, tuple(reference.shape), multi_scale
                    )
                    metric.add_batch(predictions=[prediction], references=[reference])
            except NonFiniteScoresError:
                # The other processes learn of it below: while they wait for this one, it cannot just stop.
                broken = index
                continue
            losses.append(loss)
            num_pixels += pixels
            if worst_cases is not None:
                worst_cases.add(index, prediction, reference, metric.num_labels, ignore_index)
    finally:
        model.train(was_training)

    # The sum rounds once, so that neither the order nor the number of processes shows in it.
    shares = gather_objects((losses, num_pixels, broken))
    broken = [index for *_, index in shares if index is not None]
    if broken:
        where = reader.describe(min(broken))
        raise NonFiniteScoresError(
            f"The model's scores are NaN or infinite, in example {min(broken)}{f' ({where})' if where else ''} first. "
            "Likely causes are a training that diverged (train with a lower learning rate, from an earlier checkpoint "
            "on), and float16, whose numbers end at 65504 (use bfloat16 or float32)."
        )
    num_pixels = sum(pixels for _, pixels, _ in shares)
    total_loss = math.fsum(loss for losses, *_ in shares for loss in losses)
    results = metric.compute()
    results |= {name: results[name].tolist() for name in ("per_category_iou", "per_category_accuracy")}
    results["loss"] = total_loss / num_pixels if num_pixels else math.nan
    return {**results, "num_images": len(examples)}


@torch.inference_mode()
def segment_multi_scale(
    model: nn.Module,
    image_processor: BaseImageProcessor,
    image: Any,
    target_size: tuple[int, int] | None = None,
    window_batch_size: int = 8,
    autocast_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """
    Segments an image at six sizes, each also flipped, and averages their probabilities: the protocol of the paper's
    multi-scale figures.

    Args:
        model ([`SegmenterForSemanticSegmentation`]): In evaluation mode.
        image_processor ([`SegmenterImageProcessor`]): Its `size` is multiplied by each scale.
        image (`PIL.Image.Image`, array or tensor): As the image processor takes it.
        target_size (`tuple[int, int]`, *optional*): `(height, width)` of the result. Default: those of the image.
        window_batch_size (`int`, *optional*, defaults to 8): Windows that are fed at once.
        autocast_dtype (`torch.dtype`, *optional*): Runs the model under autocast of this dtype.

    Returns:
        `torch.Tensor`: probabilities, float32 of shape `(num_labels, height, width)`.
    """
    feed = WindowFeed(model, window_batch_size, autocast_dtype)
    if target_size is None:
        target_size = tuple(_to_tensor(image_processor, image).shape[-2:])
    passes = ((feed(inputs).outputs, flipped) for inputs, flipped in make_passes(image_processor, image))
    return average_probabilities(passes, image_processor, target_size)


def make_passes(
    image_processor: BaseImageProcessor, image: Any, annotation: Any = None
) -> Iterator[tuple[BatchFeature, bool]]:
    """
    Inputs of the model for each pass of the multi-scale protocol, and whether they are flipped. As in MMSegmentation's
    MultiScaleFlipAug, `size` times the scale is truncated, and images are flipped after they were resized. The pass at
    scale 1 that is not flipped is what the image processor makes by itself, with labels if there is an `annotation`.
    """
    original = _to_tensor(image_processor, image)
    settings = {"do_resize": False, "input_data_format": "channels_first", "return_tensors": "pt"}
    for scale in MULTI_SCALES:
        if image_processor.do_resize:
            size = {name: edge for name, edge in dict(image_processor.size).items() if edge}
        else:
            size = dict(zip(("height", "width"), original.shape[-2:], strict=True))
        size = SizeDict(**{name: max(1, int(edge * scale)) for name, edge in size.items()})
        resized = image_processor.resize(
            original, size, resample=image_processor.resample, antialias=image_processor.antialias
        )
        for flipped in (False, True):
            if scale == 1 and not flipped:
                yield image_processor(image, segmentation_maps=annotation, return_tensors="pt"), False
            else:
                yield image_processor(resized.flip(-1) if flipped else resized, **settings), flipped


def average_probabilities(
    passes: Iterable[tuple[Any, bool]], image_processor: BaseImageProcessor, target_size: tuple[int, int]
) -> torch.Tensor:
    """
    Mean of the probabilities of several passes over one image.

    Args:
        passes (iterable of `tuple`): Outputs of the model for all windows of the image, and whether it was flipped.
        image_processor ([`SegmenterImageProcessor`]): Puts the windows together.
        target_size (`tuple[int, int]`): `(height, width)` of the result.

    Returns:
        `torch.Tensor`: float32 of shape `(num_labels, height, width)`.
    """
    total, number = None, 0
    for outputs, flipped in passes:
        scores = image_processor.post_process_semantic_segmentation(
            outputs, target_sizes=[target_size], return_segmentation_scores=True
        )[0].segmentation_scores
        if total is None:
            total = torch.zeros_like(scores)
        # Rows are taken a few at a time, so that only scores and sum hold all labels at full size.
        for rows, sums in zip(scores.split(ROWS_AT_ONCE, dim=1), total.split(ROWS_AT_ONCE, dim=1), strict=True):
            probabilities = rows.sigmoid() if len(rows) == 1 else rows.softmax(dim=0)
            sums += probabilities.flip(-1) if flipped else probabilities
        del scores, rows
        number += 1
    return total.div_(number)


class Fed(NamedTuple):
    """
    What came of the windows of one image.

    Args:
        outputs (`ModelOutput`): `logits` of all windows, and their `window_offsets`.
        loss (`float`): Sum over the labelled pixels, 0 without labels.
        num_pixels (`int`): Their number.
    """

    outputs: Any
    loss: float
    num_pixels: int


class WindowFeed:
    """
    Feeds the windows of an image to a model, some at a time.

    Where the weights of the model are sharded over processes, each forward pass gathers them from all, so that all
    must make as many: then processes agree on the largest number for each image, and those with fewer windows feed
    some again, whose outputs are thrown away.

    Args:
        model (`nn.Module`): The model, perhaps wrapped.
        window_batch_size (`int`): Windows that are fed at once.
        autocast_dtype (`torch.dtype`, *optional*): Of autocast.
    """

    def __init__(self, model: nn.Module, window_batch_size: int, autocast_dtype: torch.dtype | None = None):
        if window_batch_size < 1:
            raise ValueError(f"`window_batch_size` must be at least 1, got {window_batch_size}.")
        self.model = model
        self.window_batch_size = window_batch_size
        self.device = next(model.parameters()).device
        self.is_lockstep = rank_and_number_of_processes()[1] > 1 and is_sharded(model)
        self.autocast = nullcontext()
        if autocast_dtype is not None:
            self.autocast = torch.autocast(self.device.type, autocast_dtype)

    def __call__(self, inputs: Mapping[str, torch.Tensor]) -> Fed:
        """Feeds `pixel_values`, and `labels` if there are any, of the windows of one image."""
        inputs = {name: value.to(self.device) for name, value in inputs.items()}
        ignore_index = config_of(self.model).semantic_loss_ignore_index
        batches = [
            {name: value[start : start + self.window_batch_size] for name, value in inputs.items()}
            for start in range(0, len(inputs["pixel_values"]), self.window_batch_size)
        ]
        num_more = self._agree_on_more(len(batches))
        logits, loss, num_pixels = [], [], 0
        for batch in batches:
            outputs = self._forward(batch)
            logits.append(outputs.logits)
            if "labels" in batch:
                pixels = (batch["labels"] != ignore_index).sum().item()
                loss.append(outputs.loss.item() * pixels)
                num_pixels += pixels
        for _ in range(num_more):
            self._forward(batches[-1])
        outputs = type(outputs)(logits=torch.cat(logits), window_offsets=inputs["window_offsets"])
        return Fed(outputs, math.fsum(loss), num_pixels)

    def follow(self, num_passes: int, image_processor: BaseImageProcessor):
        """Makes the forward passes that other processes make for their image, where this one has none."""
        if not self.is_lockstep:
            return
        size = image_processor.crop_size
        pixel_values = torch.zeros(1, config_of(self.model).num_channels, size.height, size.width, device=self.device)
        for _ in range(num_passes):
            for _ in range(self._agree_on_more(0)):
                self._forward({"pixel_values": pixel_values})

    def _forward(self, batch: Mapping[str, torch.Tensor]) -> Any:
        with self.autocast:
            return self.model(**batch)

    def _agree_on_more(self, number: int) -> int:
        """How many forward passes to make after one's own, where the process with the most makes none."""
        if not self.is_lockstep:
            return 0
        largest = torch.tensor(number, device=self.device)
        torch.distributed.all_reduce(largest, op=torch.distributed.ReduceOp.MAX)
        return largest.item() - number


def config_of(model: nn.Module) -> PreTrainedConfig:
    """The config of a model, also of a wrapped one: what DeepSpeed wraps around it has a `config` of its own."""
    return getattr(model, "module", model).config


def is_sharded(model: nn.Module) -> bool:
    """Whether forward passes of the model gather weights from other processes: FSDP, or DeepSpeed's ZeRO-3."""
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

    modules = any(isinstance(module, (FSDPModule, FullyShardedDataParallel)) for module in model.modules())
    return modules or any(hasattr(parameter, "ds_id") for parameter in model.parameters())


@dataclass
class WorstCases:
    """
    The images with the lowest scores, of which memory holds only so many predictions.

    Args:
        number (`int`): How many to keep.

    Attributes:
        cases (`list`): `(-score, -index, prediction)` as a heap. The score is the mean IoU of the labels that are in
            the label map or the prediction of the image.
    """

    number: int
    cases: list[tuple[float, int, np.ndarray]] = field(default_factory=list)

    def add(self, index: int, prediction: torch.Tensor, reference: torch.Tensor, num_labels: int, ignore_index: int):
        """Considers an image. One without labelled pixels has no score, and is not."""
        score = iou_scores(confusion_matrix(prediction, reference, num_labels, ignore_index))["mean_iou"]
        if math.isnan(score):
            return
        # Labels are kept in as few bytes as they need, since there may be many large maps.
        prediction = prediction.cpu().numpy().astype(np.uint8 if num_labels <= 256 else np.int32)
        heapq.heappush(self.cases, (-score, -index, prediction))
        if len(self.cases) > self.number:
            # The lowest of the negative scores is the best.
            heapq.heappop(self.cases)

    def select(self) -> list[tuple[int, float, np.ndarray]]:
        """Index, score and prediction of those among the worst of all processes that this one has, worst first."""
        keys = sorted(
            (case[:2] for cases in gather_objects([case[:2] for case in self.cases]) for case in cases), reverse=True
        )
        worst = set(keys[: self.number])
        own = sorted((case for case in self.cases if case[:2] in worst), key=lambda case: case[:2], reverse=True)
        return [(-index, -score, prediction) for score, index, prediction in own]


def _predict(
    feed: WindowFeed,
    image_processor: BaseImageProcessor,
    image: Any,
    annotation: Any,
    target_size: tuple[int, int],
    multi_scale: bool,
) -> tuple[torch.Tensor, float, int]:
    """The predicted labels of an image, and the sum of the loss over so many pixels at scale 1."""
    if not multi_scale:
        fed = feed(image_processor(image, segmentation_maps=annotation, return_tensors="pt"))
        if not fed.outputs.logits.isfinite().all():
            raise NonFiniteScoresError
        prediction = image_processor.post_process_semantic_segmentation(fed.outputs, [target_size])[0]
        return prediction, fed.loss, fed.num_pixels

    loss, num_pixels = 0.0, 0

    def feed_passes():
        nonlocal loss, num_pixels
        is_finite = True
        for inputs, flipped in make_passes(image_processor, image, annotation):
            fed = feed(inputs)
            loss, num_pixels = loss + fed.loss, num_pixels + fed.num_pixels
            is_finite = is_finite and fed.outputs.logits.isfinite().all().item()
            if is_finite:
                yield fed.outputs, flipped
        # This comes after all passes, since other processes make them with this one where the model is sharded.
        if not is_finite:
            raise NonFiniteScoresError

    probabilities = average_probabilities(feed_passes(), image_processor, target_size)
    prediction = probabilities[0] > 0.5 if len(probabilities) == 1 else probabilities.argmax(dim=0)
    return prediction.long(), loss, num_pixels


def _to_tensor(image_processor: BaseImageProcessor, image: Any) -> torch.Tensor:
    """An image of any kind as `(channels, height, width)`, as the image processor takes it before resizing."""
    image = image_processor._prepare_images_structure(image)[0]
    return image_processor.process_image(image, do_convert_rgb=image_processor.do_convert_rgb)


def _read_labels(annotation: Any, image_processor: BaseImageProcessor) -> torch.Tensor:
    labels = to_labels(annotation, "Its label map")
    return reduce_labels(labels) if image_processor.do_reduce_labels else labels


__all__ = [
    "ExampleError",
    "NonFiniteScoresError",
    "WindowFeed",
    "WorstCases",
    "average_probabilities",
    "evaluate_sliding_window",
    "is_sharded",
    "make_passes",
    "segment_multi_scale",
]
