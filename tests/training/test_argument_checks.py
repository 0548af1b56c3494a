"""What both training scripts refuse before the work, and what they say has no effect."""

import json

import pytest
from transformers import TrainingArguments

from segmenter_hf.training import accelerate_support
from segmenter_hf.training.arguments import TrainingError, parse_arguments
from segmenter_hf.training.run_script import run_script
from segmenter_hf.training.run_with_trainer import check_arguments

from ..data.datasets_on_disk import write_pairs
from .runs import LOOP, AccelerateArguments


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(write_pairs(tmp_path_factory.mktemp("pairs"), "images", "annotations"))


def parse(folder, arguments, run_type):
    own = ["--dataset_name", folder, "--use_cpu", "True", "--output_dir", f"{folder}/output"]
    parsed = parse_arguments(run_type, "", [*own, *arguments.split()])
    if run_type is TrainingArguments:
        check_arguments(parsed[3], parsed[2])
    return parsed


BOTH = [
    ("--max_train_samples 0", "--max_train_samples must be at least 1, got 0. Leave it out for all examples"),
    ("--max_train_samples -1", "--max_train_samples must be at least 1, got -1"),
    ("--max_eval_samples -1", "--max_eval_samples must be at least 1, got -1"),
    ("--short_side 0", "--short_side must be at least 1, got 0"),
    ("--crop_width -3", "--crop_width must be at least 1, got -3"),
    ("--min_scale nan", "--min_scale must be above 0, got nan"),
    ("--max_scale inf", "--max_scale must be above 0, got inf"),
    ("--min_scale 3", "--min_scale must be at most --max_scale, got 3.0 and 2.0"),
    ("--max_class_share 1.5", "--max_class_share must be above 0 and at most 1, got 1.5"),
    ("--class_balance nan", "--class_balance must be at least 0 and at most 1, got nan"),
    ("--train_val_split 1", "--train_val_split must be above 0 and below 1, got 1.0"),
    ("--drop_path_rate 1", "--drop_path_rate must be at least 0 and below 1, got 1.0"),
    ("--label_smoothing_factor 1", "--label_smoothing_factor must be at least 0 and below 1, got 1.0"),
    ("--use_peft --lora_r 0", "--lora_r must be at least 1, got 0"),
    ("--learning_rate nan", "--learning_rate must be at least 0, got nan"),
    ("--adam_beta2 1", "--adam_beta2 must be at least 0 and below 1, got 1.0"),
    ("--num_train_epochs 0", "--num_train_epochs must be above 0, got 0.0. To evaluate only"),
    ("--num_train_epochs inf", "--num_train_epochs must be above 0, got inf"),
    ("--per_device_train_batch_size 0", "--per_device_train_batch_size must be at least 1, got 0"),
    ("--gradient_accumulation_steps 0", "--gradient_accumulation_steps must be at least 1, got 0"),
    ("--logging_steps 0", "--logging_steps must be above 0, got 0"),
    ("--save_total_limit -1", "--save_total_limit must be at least 1, got -1"),
    ("--seed -1", "--seed must be at least 0 and below 4294967296, got -1"),
    ("--seed 1.5", "argument --seed: invalid int value: '1.5'. --help lists all arguments"),
    ("--train_split=", "--train_split must not be empty"),
    ("--no_such_flag", "unrecognized arguments: --no_such_flag"),
    ("--optim sgd --optim_args momentum=x", "--optim sgd .*cannot be used: could not convert string to float: 'x'"),
    ("--optim adamw_torch --optim_args a=1", "--optim_args: a would have no effect with --optim adamw_torch"),
    ("--optim_args momentum", "momentum"),
    ("--recipe ade20k --learning_rate 1e-5", "lr_end .1e-05. must be smaller than initial lr"),
    (
        "--lr_scheduler_type warmup_stable_decay",
        "--lr_scheduler_type warmup_stable_decay cannot be used: .*decay_steps",
    ),
    ("--lr_scheduler_kwargs power", "--lr_scheduler_"),
    ('--lr_scheduler_kwargs {"a":1}', "unexpected keyword argument 'a'"),
]
TRAINER = [
    ("--max_steps 0", "--max_steps must be at least 1 or -1, got 0"),
    ("--warmup_steps 2.5", "--warmup_steps must be a whole number, or below 1 for a share of all steps, got 2.5"),
    ("--save_steps 0", "--save_steps must be above 0, got 0"),
    ("--do_eval --eval_strategy epoch", "--do_eval without --do_train trains nothing, but --eval_strategy does."),
    ("--eval_steps inf --eval_strategy steps", "--eval_steps must be at least 0, got inf"),
    ("--data_seed -1", "--data_seed must be at least 0"),
    ("--neftune_noise_alpha 5", "--neftune_noise_alpha is not supported: its noise is for embeddings of text"),
    ("--use_liger_kernel", "--use_liger_kernel is not supported"),
    ("--hub_revision dev", "--hub_revision is not supported: models are pushed to the main branch"),
    ("--metric_for_best_model mIoU", "--metric_for_best_model must be among loss, mean_iou.*, got 'mIoU'"),
    ("--do_train False", "--do_train False leaves nothing to do: pass --do_eval too"),
    (
        "--dataloader_persistent_workers",
        "--dataloader_persistent_workers needs --dataloader_num_workers of at least 1",
    ),
    ("--torch_compile_mode fast", "--torch_compile_mode must be among default, .*, got 'fast'"),
    ("--torch_compile_backend fast", "--torch_compile_backend must be among .*inductor.*, got 'fast'"),
    ("--report_to printer", "--report_to must be among .*tensorboard.*, got 'printer'"),
    ("--report_to wandb", "--report_to wandb: it is not installed. pip install wandb"),
    ('--accelerator_config {"split_batches":true}', "split_batches is not supported"),
    ("--optim adamw_bnb_8bit", "--optim adamw_bnb_8bit cannot be used: .*bitsandbytes"),
]
ACCELERATE = [
    ("--max_train_steps 0", "--max_train_steps must be at least 1, got 0"),
    ("--num_warmup_steps nan", "--num_warmup_steps must be at least 0, got nan"),
    ("--checkpointing_steps 0", "--checkpointing_steps must be a number of steps, epoch or no, got 0"),
    ("--lr_scheduler_type reduce_lr_on_plateau", "reduce_lr_on_plateau needs the script with `Trainer`"),
    ("--with_tracking --report_to printer", "--report_to must be among .*tensorboard.*, got 'printer'"),
]


@pytest.mark.parametrize(
    ("arguments", "message", "run_type"),
    [
        *((*case, run_type) for case in BOTH for run_type in (TrainingArguments, AccelerateArguments)),
        *((*case, TrainingArguments) for case in TRAINER),
        *((*case, AccelerateArguments) for case in ACCELERATE),
    ],
)
def test_wrong_arguments_are_refused_at_once(folder, arguments, message, run_type):
    with pytest.raises(ValueError, match=message) as refusal:
        parse(folder, arguments, run_type)
    assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.parametrize("run_type", [TrainingArguments, AccelerateArguments])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--lora_r 4", "--lora_r has no effect without --use_peft."),
        ("--model_revision dev", "--model_revision has no effect without --model_name_or_path."),
        ("--model_name_or_path x --hidden_size 64", "--hidden_size has no effect with --model_name_or_path"),
        ("--model_name_or_path x --config_name y", "--config_name has no effect with --model_name_or_path"),
        ("--config_name y --patch_size 8", "--patch_size has no effect with --config_name"),
        ("--recipe ade20k --adam_beta1 0.5", "--adam_beta1 has no effect with --optim sgd."),
        ("--hub_model_id lab/model", "--hub_model_id has no effect without --push_to_hub."),
    ],
)
def test_what_has_no_effect_is_said(folder, arguments, message, run_type, capsys):
    parse(folder, arguments, run_type)
    (line,) = capsys.readouterr().err.splitlines()
    assert f": warning: {message}" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--remove_unused_columns True", "--remove_unused_columns has no effect: samples have no columns."),
        ("--remove_unused_columns False", None),
        ("--train_sampling_strategy group_by_length", "the order of the samples depends on seed and epoch alone"),
        ("--include_for_metrics inputs", "evaluation adds up figures image by image"),
        ("--eval_accumulation_steps 2", "evaluation adds up figures image by image"),
        ("--do_predict", "there is no split to predict on"),
        ("--eval_steps 3", "--eval_steps has no effect without --eval_strategy steps"),
        ("--metric_for_best_model mean_iou", "no effect without --load_best_model_at_end"),
        ("--push_to_hub --do_eval", "--push_to_hub has no effect with --do_eval and without --do_train"),
        ("--push_to_hub --eval_strategy epoch", None),
        ("--do_eval --max_steps 5", "--max_steps has no effect with --do_eval and without --do_train"),
        (
            "--lr_scheduler_type reduce_lr_on_plateau --eval_strategy epoch --warmup_steps 2",
            "--warmup_steps has no effect with --lr_scheduler_type reduce_lr_on_plateau",
        ),
        ("--max_steps 5 --num_train_epochs 2", "--num_train_epochs has no effect with a number of steps"),
        ("--max_steps 5 --warmup_steps 5", "--learning_rate is not reached: 5 steps of warm-up"),
        ("--max_steps 5 --warmup_steps 2", None),
    ],
)
def test_what_has_no_effect_on_trainer_is_said(folder, arguments, message, capsys):
    parse(folder, arguments, TrainingArguments)
    lines = [line for line in capsys.readouterr().err.splitlines() if ": warning: " in line]
    assert len(lines) == (message is not None)
    assert message is None or message in lines[0]


def test_settings_of_a_recipe_go_with_its_optimiser_and_schedule(folder):
    for run_type in (TrainingArguments, AccelerateArguments):
        *_, args, _ = parse(folder, "--recipe ade20k --optim adamw_torch --lr_scheduler_type cosine", run_type)
        assert (args.optim_args, args.lr_scheduler_kwargs) == (None, None)
        *_, args, _ = parse(folder, "--recipe ade20k --optim sgd --lr_scheduler_type polynomial", run_type)
        assert args.optim_args == "momentum=0.9,nesterov=true" and args.lr_scheduler_kwargs["power"] == 0.9


def test_the_best_model_is_that_of_the_metric_that_was_named(folder):
    flags = "--load_best_model_at_end --eval_strategy epoch --save_strategy epoch"
    args = parse(folder, flags, TrainingArguments)[3]
    assert (args.metric_for_best_model, args.greater_is_better) == ("mean_iou", True)
    args = parse(folder, f"{flags} --metric_for_best_model loss", TrainingArguments)[3]
    assert (args.metric_for_best_model, args.greater_is_better) == ("loss", False)


def test_a_yes_needs_no_value(folder):
    # This flag may also be left open.
    for run_type in (TrainingArguments, AccelerateArguments):
        _, data_args, *_ = parse(folder, "--do_reduce_labels", run_type)
        assert data_args.do_reduce_labels is True
    assert parse(folder, "--do_reduce_labels False", TrainingArguments)[1].do_reduce_labels is False
    assert parse(folder, "", TrainingArguments)[1].do_reduce_labels is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"no_such_flag": 1}, "there are no arguments no_such_flag"),
        ({"per_device_train_batch_size": "8"}, "per_device_train_batch_size must be of type int, got '8'"),
        ({"learning_rate": None}, "learning_rate must be of type float, got None"),
        ({"max_train_samples": 2.0}, "max_train_samples must be of type int or null, got 2.0"),
        ({"use_peft": "yes"}, "use_peft must be of type bool, got 'yes'"),
        ({"seed": True}, "seed must be of type int, got True"),
        ({"lora_target_modules": "q_proj"}, r"lora_target_modules must be of type list\[str\], got 'q_proj'"),
        ({"image_mean": [0.5, "x"]}, r"image_mean must be of type list\[float\] or null, got \[0.5, 'x'\]"),
        ({"labels": 3}, "--labels 3 is neither a JSON file nor one of"),
        ({"decoder_type": "transformer"}, "decoder_type must be one of mask_transformer, linear, got 'transformer'"),
        ({"dataset_name": None}, "dataset_name must be of type str, got None"),
        ({"max_train_samples": 0}, "--max_train_samples must be at least 1, got 0"),
        ({"weight_decay": float("nan")}, "--weight_decay must be at least 0, got nan"),
    ],
)
def test_arguments_in_files_are_checked(folder, tmp_path, given, message):
    file = tmp_path / "arguments.json"
    file.write_text(json.dumps({"dataset_name": folder, **given}), encoding="utf-8")
    for run_type in (TrainingArguments, AccelerateArguments):
        with pytest.raises(ValueError, match=message):
            parse_arguments(run_type, "", [str(file)])


def test_files_of_arguments_that_cannot_be_read_are_named(folder, tmp_path):
    for name, text, message in [
        ("cut.json", '{"dataset_name": ', "cut.json cannot be read: Expecting value"),
        ("cut.yaml", "dataset_name: [", "cut.yaml cannot be read: while parsing"),
        (
            "code.yaml",
            "dataset_name: !!python/object/apply:os.getcwd []",
            "code.yaml cannot be read: could not determine",
        ),
        ("list.json", "[1]", "list.json must hold arguments by their names, got list"),
        ("empty.yaml", "", "empty.yaml must hold arguments by their names, got NoneType"),
        ("less.json", '{"seed": 1}', "less.json: dataset_name is missing"),
    ]:
        (tmp_path / name).write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            parse_arguments(AccelerateArguments, "", [str(tmp_path / name)])


def test_numbers_in_yaml_are_those_of_its_second_edition(folder, tmp_path):
    file = tmp_path / "arguments.yaml"
    text = f"dataset_name: {folder}\nlearning_rate: 1e-4\nadam_epsilon: 2.5E-8\neval_steps: 500\nseed: 7\n"
    file.write_text(text, encoding="utf-8")
    args = parse_arguments(AccelerateArguments, "", [str(file)])[3]
    assert (args.learning_rate, args.adam_epsilon) == (1e-4, 2.5e-8)
    # Text may be a number, as on the command line.
    assert (args.eval_steps, args.seed) == ("500", 7)


def test_a_script_says_in_one_line_what_is_wrong(folder, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["train.py", "--dataset_name", folder, "--short_side", "0"])
    assert run_script(AccelerateArguments, "", lambda *parsed: pytest.fail("it trains")) == 2
    assert capsys.readouterr().err == "train.py: error: --short_side must be at least 1, got 0.\n"


def test_what_the_machine_cannot_do_is_one_line(folder, monkeypatch):
    def refuse(**settings):
        raise ValueError("fp16 mixed precision requires a GPU")

    monkeypatch.setattr(accelerate_support, "Accelerator", refuse)
    with pytest.raises(TrainingError, match="fp16 mixed precision requires a GPU"):
        LOOP.train(*parse(folder, "--mixed_precision fp16", AccelerateArguments))
