"""[`SegmentationTrainer`], a `Trainer` whose evaluation is the sliding-window protocol."""

import logging
import math
import time
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, default_data_collator
from transformers.trainer_utils import PredictionOutput, TrainOutput, speed_metrics

from ..data.examples import require_length
from .checkpoints import (
    begin_checkpoint,
    find_missing,
    refuse_unloadable,
    remove_old_checkpoints,
    saving,
    write_trainer_state,
)
from .loss_and_metrics import compute_loss, evaluate_in_training, make_metrics
from .resuming import Course, read_options, restore_options
from .samples import EpochSampler, SetEpoch


logger = logging.getLogger(__name__)


class SegmentationTrainer(Trainer):
    """
    [`Trainer`] whose evaluation is the sliding-window protocol, so that a number seen in training is the number the
    evaluation script gives (with `bf16`, under autocast to it). `processing_class` is the image processor, whose
    windows and normalisation the protocol uses; `eval_dataset` holds images and label maps as they are, of which each
    process scores its share; `per_device_eval_batch_size` counts windows. No maps are gathered.

    Args:
        train_dataset ([`TrainingDataset`], *optional*):
            Its order is that of [`EpochSampler`], with the seed of the arguments.
        class_weights (`torch.Tensor` of shape `(num_labels,)`, *optional*): Weights of the labels in the loss.

    Attributes:
        last_evaluation (`dict`, *optional*): What the last evaluation measured, see [`evaluate_sliding_window`].
        course ([`Course`], *optional*): What checkpoints keep a record of. With it, only checkpoints that have one are
            removed by `save_total_limit`.
    """

    def __init__(self, *args, class_weights: torch.Tensor | None = None, **kwargs):
        kwargs.setdefault("data_collator", default_data_collator)
        # `Trainer` would offer `max_steps` for a remedy, with which streaming fails later.
        for examples in (kwargs.get("train_dataset"), kwargs.get("eval_dataset")):
            for split in examples.values() if isinstance(examples, dict) else [examples]:
                if split is not None:
                    require_length(split)
        super().__init__(*args, **kwargs)
        self.class_weights = class_weights
        self.last_evaluation: dict[str, Any] | None = None
        self.course: Course | None = None
        self.epoch_sampler = None
        if self.train_dataset is not None:
            data_seed = self.args.data_seed if self.args.data_seed is not None else self.args.seed
            self.epoch_sampler = EpochSampler(len(self.train_dataset), data_seed)
            self.add_callback(SetEpoch(self.epoch_sampler))

    def _get_train_sampler(self, train_dataset=None) -> EpochSampler:
        return self.epoch_sampler

    def count_steps(self) -> int:
        """Steps of the optimiser to make in all."""
        if self.args.max_steps > 0:
            return self.args.max_steps
        per_epoch = math.ceil(len(self.get_train_dataloader()) / self.args.gradient_accumulation_steps)
        return math.ceil(self.args.num_train_epochs * max(1, per_epoch))

    def train(self, *args, **kwargs) -> TrainOutput:
        if self.course is None:
            return super().train(*args, **kwargs)
        # `Trainer` itself removes any folder whose name begins like a checkpoint's.
        self.num_kept, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            return super().train(*args, **kwargs)
        finally:
            self.args.save_total_limit = self.num_kept

    def _init_training_state(self, *args, **kwargs):
        result = super()._init_training_state(*args, **kwargs)
        checkpoint = self.course and self.course.start.checkpoint
        if checkpoint and self.state.best_global_step:
            # It is kept by its whole path, where it is no more, or another run's, if the folder was moved.
            best = checkpoint.parent / f"checkpoint-{self.state.best_global_step}"
            self.state.best_model_checkpoint = str(best) if best.is_dir() and find_missing(best) is None else None
        return result

    def _run_epoch(self, *args, **kwargs):
        # A run that ended inside an epoch would make a step more whenever it is started again.
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    def _load_from_checkpoint(self, resume_from_checkpoint, *args, **kwargs):
        with refuse_unloadable(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, *args, **kwargs)

    def _load_optimizer_and_scheduler(self, checkpoint):
        if checkpoint is None or self.is_deepspeed_enabled:
            return super()._load_optimizer_and_scheduler(checkpoint)
        options, base_lrs = read_options(self.optimizer), list(getattr(self.lr_scheduler, "base_lrs", []))
        with refuse_unloadable(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)
        restore_options(self.optimizer, self.lr_scheduler, options, base_lrs)

    def _save_checkpoint(self, model, trial):
        if self.course is None:
            return super()._save_checkpoint(model, trial)
        output_dir, is_writer = Path(self.args.output_dir), self.args.should_save
        checkpoint = output_dir / f"checkpoint-{self.state.global_step}"
        with saving(checkpoint, output_dir, is_writer):
            if is_writer:
                begin_checkpoint(checkpoint, self.course.record_at(self.state.global_step, self.state.epoch))
            self.accelerator.wait_for_everyone()
            super()._save_checkpoint(model, trial)
            if is_writer:
                remove_old_checkpoints(output_dir, self.num_kept, self.state.best_model_checkpoint)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        # The loss of `Trainer` smooths labels along the wrong dimension, and ignores -100 only.
        loss, outputs = compute_loss(
            model, self.accelerator.unwrap_model(model), inputs, self.class_weights, self.args.label_smoothing_factor
        )
        return (loss, outputs) if return_outputs else loss

    def evaluate(
        self, eval_dataset=None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float | None]:
        """
        Scores the model by the sliding-window protocol.

        Args:
            eval_dataset (`Dataset` or `dict[str, Dataset]`, *optional*): Others than the trainer's own.
            ignore_keys (`list[str]`, *optional*): Has no effect: no outputs are gathered.
            metric_key_prefix (`str`, *optional*, defaults to `"eval"`): What names of metrics start with.

        Returns:
            `dict[str, float | None]`: loss, mean IoU, mean and overall accuracy, the IoU of each class, as fractions;
            `None` for classes that neither occur nor are predicted.
        """
        eval_dataset = eval_dataset if eval_dataset is not None else self.eval_dataset
        if isinstance(eval_dataset, dict):
            metrics = {}
            for name, dataset in eval_dataset.items():
                metrics.update(self.evaluate(dataset, ignore_keys, f"{metric_key_prefix}_{name}"))
            return metrics
        metrics = self._score(eval_dataset, metric_key_prefix)
        # Trackers know no missing values.
        self.log({name: value for name, value in metrics.items() if value is not None})
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def predict(
        self, test_dataset, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """
        Scores the model on another dataset, as `evaluate` does. There are no `predictions` in what is returned: maps
        at full size would fill the memory. The image-segmentation pipeline makes them one by one.
        """
        metrics = self._score(test_dataset, metric_key_prefix)
        self.control = self.callback_handler.on_predict(self.args, self.state, self.control, metrics)
        return PredictionOutput(predictions=None, label_ids=None, metrics=metrics)

    def score(self) -> dict[str, float | None]:
        """What `evaluate` returns, without telling trackers and history of it."""
        return self._score(self.eval_dataset, "eval")

    def _score(self, dataset, prefix: str) -> dict[str, float | None]:
        start_time = time.time()
        # The wrapper of a sharded model gathers its weights.
        model = self.model_wrapped if self.is_deepspeed_enabled or self.is_fsdp_enabled else self.model
        self.last_evaluation = evaluate_in_training(
            model,
            self.processing_class,
            dataset,
            window_batch_size=self.args.eval_batch_size,
            autocast_dtype=evaluation_dtype(self.args),
        )
        metrics = make_metrics(self.last_evaluation, self.model.config.id2label, prefix)
        return metrics | speed_metrics(prefix, start_time, num_samples=self.last_evaluation["num_images"])

    def save_state(self):
        if self.args.should_save:
            write_trainer_state(self.state, self.args.output_dir)

    def _determine_best_metric(self, metrics: dict[str, float | None], trial) -> bool:
        name = "eval_" + (self.args.metric_for_best_model or "").removeprefix("eval_")
        if name in metrics and metrics[name] is None:
            logger.warning("There is no %s, as no image has that label: no model is the best by it.", name)
            return False
        return super()._determine_best_metric(metrics, trial)

    def _save_rng_state(self, output_dir: str):
        super()._save_rng_state(output_dir)
        # The trainer's state, which is saved next, says that the checkpoint is complete.
        self.accelerator.wait_for_everyone()


def evaluation_dtype(args) -> torch.dtype | None:
    """The dtype of autocast in evaluation: that of training."""
    if args.bf16 or args.bf16_full_eval:
        return torch.bfloat16
    return torch.float16 if args.fp16 or args.fp16_full_eval else None


__all__ = ["SegmentationTrainer", "evaluation_dtype"]
