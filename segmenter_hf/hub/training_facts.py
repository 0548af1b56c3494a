"""How a model was trained, as data that its card puts into words."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


# Schedules of transformers that know no warm-up, and that take no settings, whatever is asked for.
WITHOUT_WARMUP = {"constant", "greedy", "reduce_lr_on_plateau"}
WITHOUT_SETTINGS = {"constant", "constant_with_warmup"}


@dataclass(frozen=True)
class TrainingFacts:
    """
    What is known of a training run. The card says nothing of what is `None`.

    Args:
        recipe, recipe_title (`str`, *optional*): Name of the recipe, and what it is, for readers.
        recipe_changes (`Sequence[str]`, *optional*): What was done otherwise than it says.
        is_from_scratch (`bool`, *optional*): Whether all weights were new.
        dataset_config_name (`str`, *optional*): The configuration of the dataset.
        split (`str`, *optional*): The split that was trained on.
        num_images, num_split_images (`int`, *optional*): On how many of its images, and how many it has.
        held_out_share (`float`, *optional*): The share of it, before that, that was held out for evaluation.
        num_epochs (`float`, *optional*): Passes over them.
        num_steps (`int`, *optional*): Steps of the optimiser.
        per_device_batch_size (`int`, *optional*): Crops of a process in a forward pass.
        gradient_accumulation_steps (`int`, *optional*): Forward passes of a step.
        num_processes (`int`, *optional*): Processes, each with a device.
        optimizer (`str`, *optional*): Name of the optimiser.
        optimizer_settings (`Mapping`, *optional*): Its settings by name, beside the following two.
        learning_rate, weight_decay (`float`, *optional*): The largest learning rate, and the weight decay.
        max_grad_norm (`float`, *optional*): Norm that gradients were clipped to; 0 for none.
        lr_scheduler, lr_scheduler_settings (*optional*): How the learning rate decays, and settings of that by name.
        warmup_steps (`float`, *optional*): Steps of warm-up; below 1, a share of all.
        crop_height, crop_width (`int`, *optional*): Sides of training crops in pixels.
        min_scale, max_scale (`float`, *optional*): Least and largest random scale of images.
        max_class_share (`float`, *optional*): Crops in which one class covers this share were drawn again.
        horizontal_flip (`bool`, *optional*): Whether half of the crops were flipped.
        photometric_distortion (`bool`, *optional*): Whether brightness, contrast, saturation and hue were changed.
        class_balance (`float`, *optional*): The loss of each class was weighted by its frequency to minus this power.
        label_smoothing (`float`, *optional*): Share of the target that was spread over all labels.
        lora_rank (`int`, *optional*): Rank of low-rank adapters, where those were trained and then merged.
        lora_alpha, lora_dropout (`float`, *optional*): Their scale, times the rank, and dropout of their input.
        lora_target_modules (`Sequence[str]`, *optional*): Layers of the encoder that had one.
        precision (`str`, *optional*): Such as `"float32"`, or `"bfloat16 autocast"`.
        seed, data_seed (`int`, *optional*): Of weights, order and augmentation; of the order, where that has its own.
        hardware (`str`, *optional*): What it ran on.
        train_seconds (`float`, *optional*): How long, in all its parts.
        is_resumed (`bool`, *optional*): Whether it was interrupted.
        accepted_differences (`Sequence[str]`): What it was resumed with that differs from what it began with, a line
            for each: `"from step 120 on: learning_rate 1e-4 -> 1e-5"`. The settings here are then of the last part.
        train_loss (`float`, *optional*): Mean loss over the run.
        selected_by (`str`, *optional*): The figure on the evaluation split by which the saved weights were chosen
            among checkpoints; `None` where they are the last ones.
        selected_step (`int`, *optional*): After how many steps these were saved.
        versions (`Mapping[str, str]`, *optional*): Version of each package.
        command (`str`, *optional*): What was run. The card leaves out what tells of the machine.
    """

    recipe: str | None = None
    recipe_title: str | None = None
    recipe_changes: Sequence[str] | None = None
    is_from_scratch: bool | None = None
    dataset_config_name: str | None = None
    split: str | None = None
    num_images: int | None = None
    num_split_images: int | None = None
    held_out_share: float | None = None
    num_epochs: float | None = None
    num_steps: int | None = None
    per_device_batch_size: int | None = None
    gradient_accumulation_steps: int | None = None
    num_processes: int | None = None
    optimizer: str | None = None
    optimizer_settings: Mapping[str, Any] | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    max_grad_norm: float | None = None
    lr_scheduler: str | None = None
    lr_scheduler_settings: Mapping[str, Any] | None = None
    warmup_steps: float | None = None
    crop_height: int | None = None
    crop_width: int | None = None
    min_scale: float | None = None
    max_scale: float | None = None
    max_class_share: float | None = None
    horizontal_flip: bool | None = None
    photometric_distortion: bool | None = None
    class_balance: float | None = None
    label_smoothing: float | None = None
    lora_rank: int | None = None
    lora_alpha: float | None = None
    lora_dropout: float | None = None
    lora_target_modules: Sequence[str] | None = None
    precision: str | None = None
    seed: int | None = None
    data_seed: int | None = None
    hardware: str | None = None
    train_seconds: float | None = None
    is_resumed: bool | None = None
    accepted_differences: Sequence[str] = ()
    train_loss: float | None = None
    selected_by: str | None = None
    selected_step: int | None = None
    versions: Mapping[str, str] | None = None
    command: str | None = None

    @property
    def effective_batch_size(self) -> int | None:
        """Crops of a step: of a forward pass, times those accumulated, times processes."""
        factors = (self.per_device_batch_size, self.gradient_accumulation_steps, self.num_processes)
        return None if None in factors else math.prod(factors)

    @property
    def num_warmup_steps(self) -> int | None:
        """Steps of warm-up; `None` where they are a share of an unknown number."""
        if self.warmup_steps is None or 0 < self.warmup_steps < 1 and self.num_steps is None:
            return None
        is_share = 0 < self.warmup_steps < 1
        return math.ceil(self.warmup_steps * self.num_steps) if is_share else int(self.warmup_steps)


__all__ = ["WITHOUT_SETTINGS", "WITHOUT_WARMUP", "TrainingFacts"]
