"""The sliding-window evaluation protocol of the paper, at the labels' own size."""

from collections.abc import Iterable
from contextlib import nullcontext

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import BaseImageProcessor, PreTrainedModel

from ..image_processing_pil_segmenter import reduce_labels
from .metrics import MeanIoU


@torch.inference_mode()
def evaluate_sliding_window(
    model: PreTrainedModel,
    image_processor: BaseImageProcessor,
    examples: Iterable[dict],
    image_column: str = "image",
    annotation_column: str = "annotation",
    window_batch_size: int = 8,
    autocast_dtype: torch.dtype | None = None,
    show_progress: bool = False,
) -> dict:
    """
    Scores a model as the paper does: each image in windows (as `image_processor` cuts them), logits of overlapping
    windows averaged and resized to the image's own label map, one confusion matrix over all images.

    Args:
        model ([`SegmenterForSemanticSegmentation`]): Evaluated where it is, in evaluation mode.
        image_processor ([`SegmenterImageProcessor`]): Its window, stride, sizes and normalisation are the protocol.
        examples (iterable of `dict`): Each with an image and a label map of the same size.
        window_batch_size (`int`, *optional*, defaults to 8): Windows of one image that are fed at once.
        autocast_dtype (`torch.dtype`, *optional*): Runs the model under autocast of this dtype.

    Returns:
        `dict`: what [`MeanIoU`] computes, plus `loss`, the mean over all windows' pixels, and `num_images`.
    """
    ignore_index = model.config.semantic_loss_ignore_index
    metric = MeanIoU(max(2, model.config.num_labels), ignore_index)
    total_loss, total_pixels, num_images = 0.0, 0, 0
    autocast = torch.autocast(model.device.type, autocast_dtype) if autocast_dtype is not None else nullcontext()
    was_training = model.training
    model.eval()
    try:
        for example in tqdm(examples, desc="Evaluating", unit="image", disable=not show_progress):
            annotation = example[annotation_column]
            inputs = image_processor(example[image_column], segmentation_maps=annotation, return_tensors="pt")
            inputs = inputs.to(model.device)
            outputs = []
            for start in range(0, len(inputs["pixel_values"]), window_batch_size):
                windows = {name: value[start : start + window_batch_size] for name, value in inputs.items()}
                with autocast:
                    output = model(**windows)
                num_pixels = (windows["labels"] != ignore_index).sum().item()
                total_loss += output.loss.item() * num_pixels
                total_pixels += num_pixels
                outputs.append(output)
            outputs = type(outputs[0])(
                logits=torch.cat([output.logits for output in outputs]), window_offsets=inputs["window_offsets"]
            )
            reference = torch.from_numpy(np.array(annotation)).long()
            if image_processor.do_reduce_labels:
                reference = reduce_labels(reference)
            prediction = image_processor.post_process_semantic_segmentation(outputs, [reference.shape])[0]
            metric.add_batch(predictions=[prediction], references=[reference])
            num_images += 1
    finally:
        model.train(was_training)
    results = metric.compute()
    results |= {name: results[name].tolist() for name in ("per_category_iou", "per_category_accuracy")}
    return {**results, "loss": total_loss / max(1, total_pixels), "num_images": num_images}
