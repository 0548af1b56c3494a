"""What trackers are told of training runs: read back from where they keep it, and compared with the run's history."""

import json
import sqlite3

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from segmenter_hf.training.curves import read_curves

from ..data.datasets_on_disk import write_pairs
from .runs import history_of, run_script


pytestmark = pytest.mark.slow

# Arguments of each script, and where TensorBoard's events are.
RUNS = {
    "trainer": ({"max_steps": 4, "eval_strategy": "steps", "save_strategy": "no", "run_name": "small"}, "runs/*"),
    "accelerate": (
        {"max_train_steps": 4, "checkpointing_steps": "no", "with_tracking": True},
        "semantic_segmentation",
    ),
}
# Both name what is tracked by what comes before the slash.
TRACKED = {
    "loss": "train/loss",
    "learning_rate": "train/learning_rate",
    "grad_norm": "train/grad_norm",
    "eval_loss": "eval/loss",
    "eval_mean_iou": "eval/mean_iou",
    "eval_iou/sky": "eval/iou/sky",
    "eval_iou/road": "eval/iou/road",
}


def run(kind, folder):
    dataset = write_pairs(folder / "dataset", "images", "annotations", number=10, values=(0, 1))
    # There are so many labels that some are not predicted either, whose IoU is no number.
    absent = [f"absent {index}" for index in range(100)]
    (dataset / "id2label.json").write_text(json.dumps(["sky", "road", *absent]), encoding="utf-8")
    arguments = {
        **RUNS[kind][0],
        "dataset_name": str(dataset),
        "output_dir": str(folder / "output"),
        **{"hidden_size": 64, "num_hidden_layers": 1, "decoder_num_hidden_layers": 1},
        **{"short_side": 40, "crop_height": 32, "crop_width": 32, "per_device_train_batch_size": 2},
        **{"use_cpu": True, "logging_steps": 1, "eval_steps": "2" if kind == "accelerate" else 2},
        # A list of trackers takes a file of arguments: on the command line there is one of them, or "all".
        "report_to": ["tensorboard", "trackio"],
    }
    (folder / "arguments.json").write_text(json.dumps(arguments), encoding="utf-8")
    return run_script(kind, folder / "arguments.json", environment={"TRACKIO_DIR": str(folder / "trackio")})


def expected_of(history):
    """Values by tracked name and step, the last of those that were logged at a step."""
    return {
        tracked: {entry["step"]: entry[name] for entry in history if name in entry}
        for name, tracked in TRACKED.items()
    }


def read_tensorboard(folder):
    events = EventAccumulator(str(folder)).Reload()
    return {name: {event.step: event.value for event in events.Scalars(name)} for name in events.Tags()["scalars"]}


def read_trackio(folder):
    """From the SQLite file of the one project: values by name and step, of the one run."""
    (database,) = folder.glob("*.db")
    connection = sqlite3.connect(database)
    rows = connection.execute("SELECT run_name, step, metrics FROM metrics ORDER BY id").fetchall()
    connection.close()
    assert len({run_name for run_name, _, _ in rows}) == 1
    values = {}
    for _, step, metrics in rows:
        metrics = json.loads(metrics)
        # `Trainer` lets trackio count logs, and logs the step beside them.
        step = metrics.pop("train/global_step", step)
        for name, value in metrics.items():
            values.setdefault(name, {})[step] = value
    return values


@pytest.mark.parametrize("kind", list(RUNS))
def test_trackers_are_told_what_the_history_has(kind, tmp_path):
    output = run(kind, tmp_path)
    history = history_of(tmp_path / "output")
    expected = expected_of(history)
    assert expected["train/loss"].keys() == {1, 2, 3, 4}
    assert expected["eval/mean_iou"].keys() == {2, 4}
    assert sum(name.startswith("eval_iou/absent") for name in history[-1]) < 100
    # `Trainer` says so of a value that is none, and threads that trackers write from of their errors.
    for complaint in ("is incorrect so we dropped this attribute", "None", "Traceback"):
        assert complaint not in output

    (folder,) = (tmp_path / "output").glob(RUNS[kind][1])
    tensorboard, trackio = read_tensorboard(folder), read_trackio(tmp_path / "trackio")
    assert all(value is not None for values in trackio.values() for value in values.values())
    for name, values in expected.items():
        # TensorBoard keeps 32 bits.
        assert tensorboard[name] == pytest.approx(values, rel=1e-6), name
        assert trackio[name] == values, name

    curves = read_curves(tmp_path / "output", "run")
    assert dict(zip(curves.training_loss.steps, curves.training_loss.values, strict=True)) == expected["train/loss"]
    assert dict(zip(curves.mean_iou.steps, curves.mean_iou.values, strict=True)) == expected["eval/mean_iou"]
