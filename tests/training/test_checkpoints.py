"""Which checkpoints are complete."""

import json

import pytest
import torch

from segmenter_hf.training.arguments import TrainingError
from segmenter_hf.training.checkpoints import decide_checkpoint, find_last_checkpoint, replacing_files


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
    with pytest.raises(TrainingError, match="missing is no complete checkpoint"):
        decide_checkpoint(str(tmp_path / "missing"), tmp_path)
