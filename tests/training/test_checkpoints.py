"""Which checkpoints are complete."""

import json

import pytest
import torch

from segmenter_hf import SegmenterForSemanticSegmentation
from segmenter_hf.training.arguments import TrainingError
from segmenter_hf.training.checkpoints import (
    check_fits,
    decide_checkpoint,
    find_last_checkpoint,
    refuse_unloadable,
    replacing_files,
)

from ..common import tiny_config


def write_checkpoint(folder, step):
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    torch.save({"state": torch.arange(1000)}, checkpoint / "optimizer.pt")
    torch.save({"state": torch.arange(1000)}, checkpoint / "rng_state_1.pth")
    (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": step}), encoding="utf-8")
    return checkpoint


def test_the_one_with_the_most_steps(tmp_path):
    for step in (900, 1000, 50):
        write_checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-2000").write_text("a file", encoding="utf-8")
    (tmp_path / "checkpoint-best").mkdir()
    assert find_last_checkpoint(tmp_path).name == "checkpoint-1000"


def test_none(tmp_path):
    assert find_last_checkpoint(tmp_path) is None
    assert find_last_checkpoint(tmp_path / "missing") is None


@pytest.mark.parametrize(
    ("file", "part"),
    [("trainer_state.json", 0.5), ("trainer_state.json", None), ("optimizer.pt", 0.9), ("rng_state_1.pth", 0.5)],
)
def test_those_that_a_kill_cut_short_are_passed_over(tmp_path, caplog, file, part):
    write_checkpoint(tmp_path, 10)
    damaged = write_checkpoint(tmp_path, 20) / file
    contents = damaged.read_bytes()
    damaged.unlink()
    if part is not None:
        damaged.write_bytes(contents[: int(part * len(contents))])
    assert find_last_checkpoint(tmp_path).name == "checkpoint-10"
    assert file in caplog.text and "checkpoint-20 is not complete" in caplog.text


def test_files_are_replaced_only_when_all_are_written(tmp_path):
    (tmp_path / "old.json").write_text("old", encoding="utf-8")
    (tmp_path / "kept.json").write_text("kept", encoding="utf-8")
    with pytest.raises(RuntimeError), replacing_files(tmp_path) as folder:
        (folder / "old.json").write_text("half", encoding="utf-8")
        raise RuntimeError
    assert (tmp_path / "old.json").read_text() == "old"
    with replacing_files(tmp_path) as folder:
        (folder / "old.json").write_text("new", encoding="utf-8")
    assert sorted((file.name, file.read_text()) for file in tmp_path.iterdir()) == [
        ("kept.json", "kept"),
        ("old.json", "new"),
    ]


def test_which_checkpoint_is_resumed(tmp_path):
    assert decide_checkpoint(None, tmp_path) is None
    for wish in ("True", True):
        with pytest.raises(TrainingError, match="has no complete checkpoint"):
            decide_checkpoint(wish, tmp_path)
    first, last = (write_checkpoint(tmp_path, step) for step in (10, 20))
    assert decide_checkpoint(None, tmp_path) == decide_checkpoint("true", tmp_path) == last
    assert decide_checkpoint(str(first), tmp_path) == first
    assert decide_checkpoint("False", tmp_path) is None
    # What a run leaves at its end looks like a checkpoint, but for the optimiser.
    (tmp_path / "trainer_state.json").write_text(json.dumps({"global_step": 90}), encoding="utf-8")
    with pytest.raises(
        TrainingError, match=f"{tmp_path} is the folder of a run. Name a checkpoint in it: {first.name}, "
    ):
        decide_checkpoint(str(tmp_path), tmp_path)
    with pytest.raises(TrainingError, match="missing is no complete checkpoint"):
        decide_checkpoint(str(tmp_path / "missing"), tmp_path)


def test_weights_of_another_model_are_refused_by_name_and_shape(tmp_path):
    model = SegmenterForSemanticSegmentation(tiny_config())
    model.save_pretrained(tmp_path)
    check_fits(tmp_path, model)
    check_fits(tmp_path, torch.compile(model))
    check_fits(tmp_path / "sharded", model)

    for overrides, message in [
        ({"num_labels": 4}, r"is \(1, 5, 24\) there and \(1, 4, 24\) here, and \d+ more differ\. Pass the sizes"),
        ({"num_hidden_layers": 3}, r"segmenter\.layers\.2\.[\w.]+ is missing there and \(32,\) here"),
        ({"num_hidden_layers": 1}, r"segmenter\.layers\.1\.[\w.]+ is \(32,\) there and missing here"),
    ]:
        with pytest.raises(TrainingError, match=message):
            check_fits(tmp_path, SegmenterForSemanticSegmentation(tiny_config(**overrides)))

    (tmp_path / "model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(TrainingError, match="cannot be loaded into this run"):
        check_fits(tmp_path, model)


def test_a_state_that_does_not_load_is_one_line():
    linear = torch.nn.Linear(2, 3)
    with pytest.raises(TrainingError, match="checkpoint-5 cannot be loaded .*size mismatch") as refusal:
        with refuse_unloadable("checkpoint-5"):
            torch.nn.Linear(2, 4).load_state_dict(linear.state_dict())
    assert len(str(refusal.value).splitlines()) == 1
    optimizer, other = (
        torch.optim.SGD([{"params": [weight]} for weight in weights])
        for weights in (linear.parameters(), [linear.weight])
    )
    with pytest.raises(TrainingError, match="different number of parameter groups"):
        with refuse_unloadable("checkpoint-5"):
            other.load_state_dict(optimizer.state_dict())
    with pytest.raises(RuntimeError, match="Connection closed by peer"):
        with refuse_unloadable("checkpoint-5"):
            raise RuntimeError("[gloo] Connection closed by peer")
