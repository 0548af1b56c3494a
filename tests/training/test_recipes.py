"""Recipes, and the arguments that they are defaults of."""

import json
import math

import pytest
import torch
from transformers import TrainingArguments, get_scheduler

from segmenter_hf.data.labels import load_label_set
from segmenter_hf.training.arguments import parse_arguments
from segmenter_hf.training.recipes import RECIPES, choose_recipe, describe_other_batch

from ..data.datasets_on_disk import write_pairs
from .runs import AccelerateArguments


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(write_pairs(tmp_path_factory.mktemp("pairs"), "images", "annotations"))


def parse(folder, *arguments, run_type=TrainingArguments):
    own = ["--use_cpu", "True", "--output_dir", f"{folder}/output"]
    return parse_arguments(run_type, "", ["--dataset_name", folder, *own, *map(str, arguments)])


@pytest.mark.parametrize(
    ("name", "batch", "lr", "epochs", "steps"),
    [("ade20k", 8, 1e-3, 64, 161_728), ("cityscapes", 8, 1e-2, 216, 80_352)],
)
def test_the_papers_optimiser_and_schedule(folder, name, batch, lr, epochs, steps):
    """The learning rate of segm/optim/scheduler.py's PolynomialLR, and timm's `sgd`, which has Nesterov momentum."""
    *_, args, recipe = parse(folder, "--recipe", name)
    images = {"ade20k": 20_210, "cityscapes": 2_975}[name]
    assert args.per_device_train_batch_size == batch
    assert math.ceil(images / batch) * int(args.num_train_epochs) == steps
    assert args.max_grad_norm == 0 and args.weight_decay == 0 and args.warmup_steps == 0

    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=args.learning_rate)
    scheduler = get_scheduler(
        args.lr_scheduler_type, optimizer, 0, steps, scheduler_specific_kwargs=args.lr_scheduler_kwargs
    )
    for step in (0, 1, 1000, steps // 2, steps - 1):
        expected = (lr - 1e-5) * (1 - step / steps) ** 0.9 + 1e-5
        assert lr * scheduler.lr_lambdas[0](step) == pytest.approx(expected, rel=1e-9)
    assert args.optim_args == "momentum=0.9,nesterov=true"


def test_recipe_of_pascal_context_has_a_batch_of_16(folder):
    *_, args, recipe = parse(folder, "--recipe", "pascal_context", "--gradient_accumulation_steps", 4)
    assert (args.per_device_train_batch_size, args.num_train_epochs) == (4, 256)
    assert describe_other_batch(recipe, 16, 1e-3) is None


def test_processes_share_the_batch(folder, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    *_, args, _ = parse(folder, "--recipe", "ade20k", run_type=AccelerateArguments)
    assert args.per_device_train_batch_size == 2


def test_another_batch_is_warned_of_with_the_scaled_learning_rate():
    message = describe_other_batch(RECIPES["ade20k"], 32, 1e-3)
    assert "is 32" in message and "is 8" in message and "--learning_rate 0.004" in message


def test_what_is_given_has_precedence(folder):
    *_, args, _ = parse(folder, "--recipe", "ade20k", "--learning_rate", 0.5, "--num_train_epochs", 2)
    assert (args.learning_rate, args.num_train_epochs) == (0.5, 2)
    assert args.lr_scheduler_kwargs == {"power": 0.9, "lr_end": 1e-5}


def test_both_scripts_get_the_same_values(folder):
    for name in RECIPES:
        *_, args, _ = parse(folder, "--recipe", name)
        *_, other, _ = parse(folder, "--recipe", name, run_type=AccelerateArguments)
        assert other.num_warmup_steps == args.warmup_steps
        for field in ("learning_rate", "adam_beta2", "weight_decay", "max_grad_norm", "optim", "num_train_epochs"):
            assert getattr(other, field) == getattr(args, field), (name, field)
        for field in ("lr_scheduler_type", "lr_scheduler_kwargs", "optim_args", "per_device_train_batch_size"):
            assert getattr(other, field) == getattr(args, field), (name, field)


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_arguments_may_be_in_a_file(folder, tmp_path, suffix):
    given = {"dataset_name": folder, "recipe": "ade20k", "learning_rate": 0.25, "use_cpu": True}
    given["output_dir"] = str(tmp_path)
    file = tmp_path / f"arguments.{suffix}"
    file.write_text(json.dumps(given), encoding="utf-8")
    _, data_args, method_args, args, recipe = parse_arguments(TrainingArguments, "", [str(file)])
    assert (data_args.dataset_name, method_args.recipe, recipe.name) == (folder, "ade20k", "ade20k")
    assert (args.learning_rate, args.num_train_epochs, args.optim) == (0.25, 64, "sgd")


def test_without_a_name_the_labels_decide():
    for name, recipe in [("ade20k", "ade20k"), ("pascal_context_59", "pascal_context"), ("cityscapes", "cityscapes")]:
        assert choose_recipe(load_label_set(name).id2label, has_weights=True).name == recipe
        assert choose_recipe(load_label_set(name).id2label, has_weights=False).name == "from_scratch"
    assert choose_recipe({0: "cat", 1: "dog"}, has_weights=True).name == "finetune"
    assert choose_recipe(None, has_weights=False).name == "from_scratch"


def test_without_a_name_and_with_the_label_names_of_a_file(folder):
    # Its own names are none of a recipe's; no weights.
    assert parse(folder)[-1].name == "from_scratch"
    assert parse(folder, "--labels", "ade20k", "--model_name_or_path", "somewhere")[-1].name == "ade20k"


def test_unknown_recipes_and_values_are_refused(folder):
    with pytest.raises(ValueError, match="invalid choice: 'ade'.*from_scratch"):
        parse(folder, "--recipe", "ade")
    with pytest.raises(ValueError, match="--eval_steps must be a number of steps, epoch or no, got never"):
        parse(folder, "--eval_steps", "never", run_type=AccelerateArguments)
