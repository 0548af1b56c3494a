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

from ..configuration_segmenter import DECODERS, SegmenterConfig
from ..data.labels import find_label_set
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


# The paper trains in one way on all of its data sets, and clips no gradients.
PAPER_TRAINING = {
    "optim": "sgd",
    "optim_args": "momentum=0.9,nesterov=true",
    "weight_decay": 0.0,
    "lr_scheduler_type": "polynomial",
    "lr_scheduler_kwargs": {"power": 0.9, "lr_end": 1e-5},
    "warmup_steps": 0,
    "max_grad_norm": 0.0,
}
PAPER_MODEL = {"drop_path_rate": 0.1, "decoder_dropout_prob": 0.1}
PAPER = (
    # name, data set, epochs, batch size, learning rate, short side, long side, crop, window stride, is 0 unlabelled
    ("ade20k", "ADE20K", 64, 8, 1e-3, 512, 2048, 512, 512, True),
    ("pascal_context", "Pascal Context", 256, 16, 1e-3, 520, 4160, 480, 320, False),
    ("cityscapes", "Cityscapes", 216, 8, 1e-2, 1024, 2048, 768, 512, False),
)
# A data set of the paper is known by its label set, of which this one has two.
LABEL_SETS_OF = {"pascal_context": ("pascal_context_59", "pascal_context_60")}

OWN_TRAINING = {
    "optim": "adamw_torch",
    "weight_decay": 0.05,
    # Vision Transformers are often trained so: 0.999 forgets the large gradients of the start too slowly.
    "adam_beta2": 0.99,
    "lr_scheduler_type": "cosine",
    # A number below 1 is a share of all steps.
    "warmup_steps": 0.05,
    "max_grad_norm": 1.0,
}
OWN = (
    # name, title, epochs, batch size, learning rate
    ("finetune", "fine-tuning on a data set of one's own", 50, 8, 1e-4),
    ("from_scratch", "training from random initialisation", 150, 8, 1e-3),
)

RECIPES = {
    name: Recipe(
        name=name,
        title=f"{title}, as in the paper",
        batch_size=batch_size,
        training={"num_train_epochs": epochs, "learning_rate": learning_rate, **PAPER_TRAINING},
        data={
            "short_side": short_side,
            "long_side": long_side,
            "crop": crop,
            "window_stride": window_stride,
            **({"do_reduce_labels": True} if is_reduced else {}),
        },
        model=PAPER_MODEL,
        label_sets=LABEL_SETS_OF.get(name, (name,)),
    )
    for name, title, epochs, batch_size, learning_rate, short_side, long_side, crop, window_stride, is_reduced in PAPER
} | {
    name: Recipe(
        name=name,
        title=title,
        batch_size=batch_size,
        training={"num_train_epochs": epochs, "learning_rate": learning_rate, **OWN_TRAINING},
    )
    for name, title, epochs, batch_size, learning_rate in OWN
}


def choose_recipe(id2label: Mapping[int, str] | None, has_weights: bool) -> Recipe:
    """
    The recipe for a run that names none: the paper's for the data sets that it has one for, which their label names
    tell, otherwise `finetune`, or `from_scratch` without weights to start from.
    """
    if not has_weights:
        return RECIPES["from_scratch"]
    label_set = find_label_set(id2label or {})
    papers = (recipe for recipe in RECIPES.values() if label_set is not None and label_set.name in recipe.label_sets)
    return next(papers, RECIPES["finetune"])


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


# Cards call the values of a recipe by these words, and name them in this order.
PHRASES = {
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
    What a run has done otherwise than its recipe, in the words of `PHRASES`.

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
    if "decoder_dropout_prob" not in DECODERS[config.decoder_type].settings:
        used["decoder_dropout_prob"] = recipe.model.get("decoder_dropout_prob")
    expected = {**recipe.training, **recipe.data, **recipe.model}
    changed = [word for name, word in PHRASES.items() if name in expected and not _is_same(used[name], expected[name])]
    if batch_size != recipe.batch_size:
        changed.append("batch")
    return list(dict.fromkeys(changed))


def _is_same(used: Any, value: Any) -> bool:
    used = getattr(used, "value", used)
    if type(used) in (int, float) and type(value) in (int, float):
        return math.isclose(used, value)
    return used == value


__all__ = ["RECIPES", "Recipe", "announce", "choose_recipe", "describe_other_batch", "find_changes"]
