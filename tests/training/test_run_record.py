"""What a record holds, and what counts as a difference."""

import dataclasses
import json

import pytest
from transformers import TrainingArguments

from segmenter_hf.hub.training_facts import TrainingFacts
from segmenter_hf.training.arguments import DataArguments, MethodArguments, ModelArguments, TrainingError
from segmenter_hf.training.run_record import ADAPTER_FLAGS, DATA_FLAGS, RUN_FLAGS, RunRecord, find_differences

from .runs import AccelerateArguments


# The settings show these flags too: by data and labels, image processor, config and first weights, or by their names.
SHOWN = set(
    """
    model_name_or_path config_name image_processor_name model_revision num_channels hidden_size num_hidden_layers
    patch_size decoder_type decoder_num_hidden_layers decoder_dropout_prob drop_path_rate dataset_name
    dataset_config_name image_column_name annotation_column_name labels train_split train_val_split max_train_samples
    do_reduce_labels short_side long_side crop_height crop_width window_stride max_value image_mean image_std recipe
    class_balance skip_unreadable use_peft per_device_train_batch_size gradient_accumulation_steps mixed_precision
    optim_args
    """.split()
)
# These may change from one part of a run to the next.
FREE = set(
    """
    cache_dir token trust_remote_code attn_implementation validation_split max_eval_samples check_all_examples
    accept_changes output_dir per_device_eval_batch_size num_train_epochs max_train_steps logging_steps eval_steps
    checkpointing_steps save_total_limit resume_from_checkpoint gradient_checkpointing torch_compile
    dataloader_num_workers use_cpu with_tracking report_to push_to_hub hub_model_id hub_token hub_private_repo
    """.split()
)


def test_each_flag_either_decides_or_does_not():
    types = (ModelArguments, DataArguments, MethodArguments, AccelerateArguments)
    flags = {field.name for each in types for field in dataclasses.fields(each)}
    decide = {*DATA_FLAGS, *RUN_FLAGS, *ADAPTER_FLAGS}
    assert flags - decide - SHOWN - FREE == set(), "new flags: do they decide on the weights?"
    assert not SHOWN & FREE and not decide & (SHOWN | FREE)
    assert set(DATA_FLAGS) <= {field.name for field in dataclasses.fields(DataArguments)}
    assert set(ADAPTER_FLAGS) <= {field.name for field in dataclasses.fields(MethodArguments)}
    known = {field.name for each in (TrainingArguments, AccelerateArguments) for field in dataclasses.fields(each)}
    assert set(RUN_FLAGS) <= known


SETTINGS = {
    "train_data": {"num_images": 12, "sha256": "a" * 64},
    "labels": {"0": "sky", "1": "road"},
    "model": {"hidden_size": 64, "drop_path_rate": 0.1},
    "adapters": None,
    "lr_scheduler_type": "polynomial",
    "lr_scheduler_kwargs": {"power": 0.9},
    "learning_rate": 1e-3,
}


@pytest.mark.parametrize(
    ("changes", "expected", "is_fixed"),
    [
        ({}, [], False),
        (
            {"train_data": {"num_images": 12, "sha256": "b" * 64}},
            [f"train_data.sha256 {'a' * 12} -> {'b' * 12}"],
            False,
        ),
        ({"labels": {"0": "sky"}}, ["labels.1 road -> null"], False),
        ({"model": {"hidden_size": 64, "drop_path_rate": 0}}, ["model.drop_path_rate 0.1 -> 0"], False),
        ({"model": {"hidden_size": 96, "drop_path_rate": 0.1}}, ["model.hidden_size 64 -> 96"], True),
        # A field of a later release says nothing of the run.
        ({"model": {"hidden_size": 64, "drop_path_rate": 0.1, "new": 1}, "new": 2}, [], False),
        ({"adapters": {"lora_r": 8}}, ['adapters null -> {"lora_r": 8}'], True),
        ({"lr_scheduler_kwargs": None}, ['lr_scheduler_kwargs {"power": 0.9} -> null'], False),
        ({"lr_scheduler_kwargs": {"power": 0.9, "lr_end": 0.1}}, ["lr_scheduler_kwargs"], False),
        ({"lr_scheduler_type": "cosine"}, ["lr_scheduler_type polynomial -> cosine"], False),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, ["lr_scheduler_type"], True),
        ({"learning_rate": 0.0}, ["learning_rate 0.001 -> 0.0"], False),
    ],
)
def test_differences(changes, expected, is_fixed):
    differences = find_differences(SETTINGS, {**SETTINGS, **changes})
    assert len(differences) == len(expected)
    for difference, text in zip(differences, expected, strict=True):
        assert str(difference).startswith(text)
        assert difference.is_fixed == is_fixed


def test_a_record_is_readable_and_comes_back(tmp_path):
    facts = TrainingFacts(num_steps=8, num_epochs=1.5, accepted_differences=["from step 4 on: seed 1 -> 2"])
    record = RunRecord(SETTINGS, 10, None, "Straßen", False, facts, {"torch": "2.14"})
    record.write(tmp_path)
    text = (tmp_path / "training_record.json").read_text(encoding="utf-8")
    assert "Straßen" in text and '  "settings": {\n' in text
    assert RunRecord.read(tmp_path) == record
    assert RunRecord.read(tmp_path / "none") is None

    values = json.loads(text)
    # A later release may have written more.
    (tmp_path / "training_record.json").write_text(json.dumps({**values, "new": 1}), encoding="utf-8")
    assert RunRecord.read(tmp_path) == record
    for broken in (
        "{",
        "[]",
        "null",
        "{}",
        json.dumps({**values, "settings": 3}),
        json.dumps({**values, "training": 3}),
    ):
        (tmp_path / "training_record.json").write_text(broken, encoding="utf-8")
        with pytest.raises(TrainingError, match="training_record.json cannot be read"):
            RunRecord.read(tmp_path)
