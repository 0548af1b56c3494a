"""What the card of a run says: what was used, where it is not what was asked for."""

import json

import pytest
from huggingface_hub import ModelCard
from transformers import Trainer, TrainingArguments

import segmenter_hf
from segmenter_hf import SegmenterImageProcessorPil
from segmenter_hf.training import run_with_trainer
from segmenter_hf.training.arguments import parse_arguments
from segmenter_hf.training.recipes import RECIPES, find_changes
from segmenter_hf.training.run_record import describe_optimizer

from ..common import tiny_config
from ..data.datasets_on_disk import write_pairs
from .runs import LOOP, AccelerateArguments


SCRIPTS = {TrainingArguments: run_with_trainer, AccelerateArguments: LOOP}


def parse(run_type, *arguments, dataset="x", output_dir="out"):
    arguments = [*arguments, "--dataset_name", dataset, "--output_dir", output_dir, "--use_cpu", "True"]
    return parse_arguments(run_type, "", [str(each) for each in arguments])


def train(run_type, dataset, start, output_dir, *arguments):
    """A run of one of the scripts, in this process; returns its card, and the text of it in one line."""
    sizes = ["--short_side", 40, "--crop_height", 32, "--crop_width", 32, "--per_device_train_batch_size", 2]
    sizes += ["--max_train_samples", 3, "--max_eval_samples", 1, "--train_val_split", 0.34]
    start = [] if start is None else ["--model_name_or_path", start]
    SCRIPTS[run_type].train(*parse(run_type, *start, *sizes, *arguments, dataset=dataset, output_dir=output_dir))
    card = ModelCard.load(output_dir / "README.md")
    return card, " ".join(card.text.split())


def test_runs_one_on_the_other_keep_notices_and_say_what_was_done(tmp_path):
    dataset = write_pairs(tmp_path / "data", "images", "annotations", number=6)
    first, second = tmp_path / "first", tmp_path / "second"
    best = ["--max_steps", 4, "--eval_strategy", "steps", "--eval_steps", 1, "--save_steps", 1]
    best += ["--load_best_model_at_end", "True", "--bf16_full_eval", "True", "--report_to", "none"]
    start = segmenter_hf.default_checkpoint()
    card, text = train(TrainingArguments, dataset, start, first, *best, "--data_seed", 7)
    state = json.loads((first / "trainer_state.json").read_text())
    assert f"Length: 4 steps, or 2 epochs; the saved weights are those after step {state['best_global_step']}." in text
    assert "Recipe: `finetune`, fine-tuning on a data set of one's own, but for length, batch." in text
    assert "Data: `data`, split `train`, 3 images, after 34 percent were held out for evaluation" in text
    assert (
        "2 crops a step (2 on a device x 1 accumulated x 1 process), or what is left at the end of an epoch." in text
    )
    assert "`cosine`, 1 steps of warm-up." in text and "Seed: 42, 7 of the order of the images." in text
    assert "Precision: float32." in text, "of training, not of the evaluation"
    assert "split `validation` (1 of its 3 images): **" in text
    assert card.data.license_name == "camvid-research-and-demonstration"

    again, text = train(AccelerateArguments, dataset, first, second, "--max_train_steps", 1)
    assert again.data.license_name == card.data.license_name and again.data.license_link == "NOTICE"
    for folder in (first, second):
        assert (folder / "NOTICE").read_bytes() == open(f"{start}/NOTICE", "rb").read()
        for file in [*folder.glob("*.json"), *folder.glob("*.md")]:
            if file.name != "training_record.json":
                assert str(tmp_path) not in file.read_text(), file.name


def changes(run_type, recipe, *arguments, batch_size=8, model=None, **processor):
    """What differs from a recipe, of a run that has its sizes."""
    data = RECIPES[recipe].data
    settings = {"do_split_image": True, "antialias": False}
    if data:
        settings |= {
            "size": {"shortest_edge": data["short_side"], "longest_edge": data["long_side"]},
            "crop_size": {"height": data["crop"], "width": data["crop"]},
            "window_stride": data["window_stride"],
            "do_reduce_labels": data.get("do_reduce_labels", False),
        }
    image_processor = SegmenterImageProcessorPil(**{**settings, **processor})
    config = tiny_config(**{**RECIPES[recipe].model, **(model or {})})
    *_, args, parsed = parse(run_type, "--recipe", recipe, *arguments)
    return find_changes(parsed, args, image_processor, config, batch_size)


@pytest.mark.parametrize("run_type", SCRIPTS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_that_are_followed_have_no_changes(run_type, recipe):
    assert changes(run_type, recipe, batch_size=RECIPES[recipe].batch_size) == []


@pytest.mark.parametrize("run_type", SCRIPTS)
def test_changes_of_recipes(run_type):
    is_trainer = run_type is TrainingArguments
    steps = "max_steps" if is_trainer else "max_train_steps"
    warmup = "warmup_steps" if is_trainer else "num_warmup_steps"
    assert changes(run_type, "finetune", "--learning_rate", 2e-4, f"--{steps}", 10) == ["length", "learning rate"]
    assert changes(run_type, "finetune", f"--{warmup}", 100, batch_size=4) == ["warm-up", "batch"]
    assert changes(run_type, "ade20k", "--optim", "adamw_torch") == ["optimiser"]
    assert changes(run_type, "ade20k", "--lr_scheduler_kwargs", '{"power": 1.0}') == ["schedule"]
    crop = {"height": 512, "width": 640}
    assert changes(run_type, "ade20k", crop_size=crop, model={"drop_path_rate": 0.0}) == [
        "size of crops",
        "stochastic depth",
    ]
    # A linear decoder has no dropout to change.
    assert changes(run_type, "ade20k", model={"decoder_type": "linear", "decoder_dropout_prob": 0.0}) == []


@pytest.mark.parametrize(
    ("run_type", "arguments", "expected"),
    [
        (TrainingArguments, ["--optim", "adamw_torch"], {"betas": [0.9, 0.99], "eps": 1e-8}),
        # `Trainer` does not read this one.
        (TrainingArguments, ["--optim_args", "amsgrad=true"], {"betas": [0.9, 0.99], "eps": 1e-8}),
        (TrainingArguments, ["--optim", "sgd", "--optim_args", "momentum=0.9"], {"momentum": "0.9"}),
        (AccelerateArguments, ["--optim", "sgd", "--optim_args", "momentum=0.9,nesterov=true"],
         {"momentum": "0.9", "nesterov": "true"}),
        (AccelerateArguments, ["--optim", "sgd"], {}),
    ],
)  # fmt: skip
def test_settings_of_optimizers(run_type, arguments, expected):
    *_, args, _ = parse(run_type, "--recipe", "finetune", *arguments)
    settings = describe_optimizer(args)
    assert settings == expected
    if run_type is TrainingArguments:
        used = Trainer.get_optimizer_cls_and_kwargs(args)[1]
        used = {name: list(value) if name == "betas" else str(value) for name, value in used.items() if name != "lr"}
        assert used.pop("fused", "False") == "False"
        assert used == {name: value if name == "betas" else str(value) for name, value in settings.items()}
