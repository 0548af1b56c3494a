"""What sets training of a segmentation model apart from `Trainer`'s defaults."""

import math

import torch
from transformers import Trainer

from ..evaluation.protocol import evaluate_sliding_window


class SegmentationTrainer(Trainer):
    """
    [`Trainer`] whose evaluation is the sliding-window protocol, so that a number seen in training is the number the
    evaluation gives (with `bf16`, under autocast to it). `processing_class` is the image processor, whose windows and
    normalisation the protocol uses; `eval_dataset` holds images and label maps as they are, not the tensors of the
    training transform.
    """

    def __init__(
        self,
        *args,
        image_column: str = "image",
        annotation_column: str = "annotation",
        class_weights: torch.Tensor | None = None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.image_column = image_column
        self.annotation_column = annotation_column
        self.class_weights = class_weights

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if self.class_weights is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = self.accelerator.unwrap_model(model).compute_loss(
            outputs.logits, labels, *labels.shape[-2:], class_weights=self.class_weights.to(labels.device)
        )
        return (loss, outputs) if return_outputs else loss

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        eval_dataset = eval_dataset if eval_dataset is not None else self.eval_dataset
        if isinstance(eval_dataset, dict):
            metrics = {}
            for name, dataset in eval_dataset.items():
                metrics.update(self.evaluate(dataset, ignore_keys, f"{metric_key_prefix}_{name}"))
            return metrics
        results = evaluate_sliding_window(
            self.model,
            self.processing_class,
            eval_dataset,
            image_column=self.image_column,
            annotation_column=self.annotation_column,
            window_batch_size=self.args.eval_batch_size,
            autocast_dtype=torch.bfloat16 if self.args.bf16 else None,
        )
        names = self.model.config.id2label
        metrics = {name: results[name] for name in ("loss", "mean_iou", "mean_accuracy", "overall_accuracy")}
        # Classes that do not occur have no IoU, and NaN is no JSON.
        for index, iou in enumerate(results["per_category_iou"]):
            metrics[f"iou/{names[index]}"] = None if math.isnan(iou) else iou
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics
