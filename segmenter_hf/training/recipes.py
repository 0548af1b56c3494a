"""
Named defaults of training runs. Whatever is given on the command line has precedence over them.

The three of the paper are those of the original implementation (rstrudel/segmenter): segm/config.yml for epochs,
batch, learning rate and sizes, segm/train.py for the rest. Its optimiser `sgd` is timm's, with Nesterov momentum.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..configuration_segmenter import SegmenterConfig
from ..data.labels import LABEL_SETS, load_label_set
from ..image_processing_segmenter import SegmenterImageProcessingMixin


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """
    A way to train.

    Args:
        name (`str`): What `--recipe` takes.
        title (`str`): What it is, for readers.
        batch_size (`int`): Crops of one step, over all processes and accumulated steps, that the learning rate is for.
        training (`Mapping`): Defaults of `TrainingArguments`.
        data (`Mapping`): Sizes in pixels of images (`short_side`, `long_side`), of square crops and windows (`crop`),
            and their `window_stride`; and `do_reduce_labels`. For models whose checkpoint says nothing of them.
        model (`Mapping`): Settings of the config, likewise.
        label_sets (`tuple[str, ...]`): Built-in label sets that it is for.
    """

    name: str
    title: str
    batch_size: int
    training: Mapping[str, Any]
    data: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    label_sets: tuple[str, ...] = ()


def _paper(name: str, title: str, epochs: int, batch_size: int, learning_rate: float, **settings: Any) -> Recipe:
    return Recipe(
        name=name,
        title=f"{title}, as in the paper",
        batch_size=batch_size,
        training={
            "num_train_epochs": epochs,
            "optim": "sgd",
            "optim_args": "momentum=0.9,nesterov=true",
            "learning_rate": learning_rate,
            "weight_decay": 0.0,
            "lr_scheduler_type": "polynomial",
            "lr_scheduler_kwargs": {"power": 0.9, "lr_end": 1e-5},
            "warmup_steps": 0,
            # It clips no gradients.
            "max_grad_norm": 0.0,
        },
        model={"drop_path_rate": 0.1, "decoder_dropout_prob": 0.1},
        **settings,
    )


def _adamw(learning_rate: float, warmup_steps: float, epochs: int) -> dict[str, Any]:
    return {
        "num_train_epochs": epochs,
        "optim": "adamw_torch",
        "learning_rate": learning_rate,
        "weight_decay": 0.05,
        # Of a Vision Transformer's training: the default of 0.999 forgets the large gradients of the start too slowly.
        "adam_beta2": 0.99,
        "lr_scheduler_type": "cosine",
        # Below 1, a share of all steps.
        "warmup_steps": warmup_steps,
        "max_grad_norm": 1.0,
    }


RECIPES = {
    recipe.name: recipe
    for recipe in (
        _paper(
            *("ade20k", "ADE20K", 64, 8, 1e-3),
            data={"short_side": 512, "long_side": 2048, "crop": 512, "window_stride": 512, "do_reduce_labels": True},
            label_sets=("ade20k",),
        ),
        _paper(
            *("pascal_context", "Pascal Context", 256, 16, 1e-3),
            data={"short_side": 520, "long_side": 4160, "crop": 480, "window_stride": 320},
            label_sets=("pascal_context_59", "pascal_context_60"),
        ),
        _paper(
            *("cityscapes", "Cityscapes", 216, 8, 1e-2),
            data={"short_side": 1024, "long_side": 2048, "crop": 768, "window_stride": 512},
            label_sets=("cityscapes",),
        ),
        Recipe(
            name="finetune",
            title="fine-tuning on a data set of one's own",
            batch_size=8,
            training=_adamw(learning_rate=1e-4, warmup_steps=0.05, epochs=50),
        ),
        Recipe(
            name="from_scratch",
            title="training from random initialisation",
            batch_size=8,
            training=_adamw(learning_rate=1e-3, warmup_steps=0.05, epochs=150),
        ),
    )
}


def choose_recipe(id2label: Mapping[int, str] | None, has_weights: bool) -> Recipe:
    """
    The recipe for a run that names none: the paper's for the data sets that it has one for, which their label names
    tell, otherwise `finetune`, or `from_scratch` without weights to start from.
    """
    for recipe in RECIPES.values():
        for name in recipe.label_sets:
            if name in LABEL_SETS and id2label == load_label_set(name).id2label and has_weights:
                return recipe
    return RECIPES["finetune" if has_weights else "from_scratch"]


def announce(recipe: Recipe, crops: int, accumulated: int, processes: int, learning_rate: float) -> int:
    """Logs the recipe and the effective batch, which it returns, and warns if that is not the recipe's."""
    batch_size = crops * accumulated * processes
    logger.info("Recipe %s: %s.", recipe.name, recipe.title)
    logger.info(
        "Effective batch %d: %d crops x %d accumulated x %d processes.", batch_size, crops, accumulated, processes
    )
    problem = describe_other_batch(recipe, batch_size, learning_rate)
    if problem is not None:
        logger.warning(problem)
    return batch_size


def describe_other_batch(recipe: Recipe, batch_size: int, learning_rate: float) -> str | None:
    """What to know where the effective batch is not the recipe's, if it is not."""
    if batch_size == recipe.batch_size:
        return None
    scaled = learning_rate * batch_size / recipe.batch_size
    return (
        f"The effective batch is {batch_size}, that of the recipe {recipe.name} is {recipe.batch_size}: results may "
        f"differ. Change --per_device_train_batch_size, --gradient_accumulation_steps or the number of processes, or "
        f"scale the learning rate along with it (--learning_rate {scaled:.3g})."
    )


# What cards call the values of a recipe.
WORDS = {
    "num_train_epochs": "length",
    "optim": "optimiser",
    "optim_args": "optimiser",
    "adam_beta2": "optimiser",
    "learning_rate": "learning rate",
    "weight_decay": "weight decay",
    "lr_scheduler_type": "schedule",
    "lr_scheduler_kwargs": "schedule",
    "warmup_steps": "warm-up",
    "max_grad_norm": "clipping of gradients",
    "short_side": "size of images",
    "long_side": "size of images",
    "crop": "size of crops",
    "window_stride": "distance of windows",
    "do_reduce_labels": "label 0",
    "drop_path_rate": "stochastic depth",
    "decoder_dropout_prob": "dropout",
}


def find_changes(
    recipe: Recipe, args: Any, image_processor: SegmenterImageProcessingMixin, config: SegmenterConfig, batch_size: int
) -> list[str]:
    """
    What a run has done otherwise than its recipe, in the words of `WORDS`.

    Args:
        recipe ([`Recipe`]): The recipe.
        args (`TrainingArguments` or `AccelerateArguments`): The script's own arguments.
        image_processor ([`SegmenterImageProcessor`]), config ([`SegmenterConfig`]): What the run trains with.
        batch_size (`int`): Crops of one step.
    """
    used = {name: getattr(args, name, None) for name in recipe.training}
    if "warmup_steps" in used and hasattr(args, "num_warmup_steps"):
        used["warmup_steps"] = args.num_warmup_steps
    if (getattr(args, "max_steps", None) or getattr(args, "max_train_steps", None) or 0) > 0:
        used["num_train_epochs"] = None
    size, crop = image_processor.size, image_processor.crop_size
    used |= {
        "short_side": size.shortest_edge,
        "long_side": size.longest_edge,
        "crop": crop.height if crop.height == crop.width else None,
        "window_stride": image_processor.window_stride,
        "do_reduce_labels": image_processor.do_reduce_labels,
        **{name: getattr(config, name) for name in recipe.model},
    }
    if config.decoder_type == "linear":
        used["decoder_dropout_prob"] = recipe.model.get("decoder_dropout_prob")
    expected = {**recipe.training, **recipe.data, **recipe.model}
    changed = [WORDS[name] for name, value in expected.items() if not _is_same(used[name], value)]
    return list(dict.fromkeys([*changed, *(["batch"] if batch_size != recipe.batch_size else [])]))


def _is_same(used: Any, value: Any) -> bool:
    used = getattr(used, "value", used)
    if type(used) in (int, float) and type(value) in (int, float):
        return math.isclose(used, value)
    return used == value


__all__ = ["RECIPES", "Recipe", "announce", "choose_recipe", "describe_other_batch", "find_changes"]
