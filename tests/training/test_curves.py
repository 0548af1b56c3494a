"""Histories of runs, and what is drawn of them."""

import logging
import math

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image
from transformers import TrainerState

from segmenter_hf.training.curves import (
    draw_curves,
    extract_curve,
    find_best,
    read_curves,
    read_runs,
    save_figure,
    smooth,
)


def make_history(num_steps, mean_ious, per_epoch=4):
    """Each step's loss, `1 / step`, and evaluations at the ends of epochs, as the training scripts log them."""
    history = []
    for step in range(1, num_steps + 1):
        at = {"epoch": step / per_epoch, "step": step}
        history.append({"loss": 1 / step, "grad_norm": 1.5, "learning_rate": 0.1 * (1 - step / num_steps), **at})
        if step % per_epoch == 0 and step // per_epoch <= len(mean_ious):
            mean_iou = mean_ious[step // per_epoch - 1]
            history.append({"eval_loss": 2 / step, "eval_mean_iou": mean_iou, "eval_iou/road": 0.5, **at})
    return history


def write_state(folder, history, global_step=None):
    folder.mkdir(parents=True, exist_ok=True)
    state = TrainerState(log_history=history, global_step=global_step or history[-1]["step"])
    state.save_to_json(str(folder / "trainer_state.json"))
    return folder


def lines_of(axes):
    return [line.get_xydata().tolist() for line in axes.get_lines()]


def test_each_quantity_of_a_run(tmp_path):
    history = make_history(8, [0.2, 0.4])
    # `Trainer` adds such an entry at the end.
    history.append({"train_runtime": 3.0, "train_loss": 0.7, "epoch": 2.0, "step": 8})
    run = read_curves(write_state(tmp_path / "run", history), "small")
    assert run.name == "small"
    np.testing.assert_array_equal(run.training_loss.steps, range(1, 9))
    np.testing.assert_array_equal(run.training_loss.epochs, np.arange(1, 9) / 4)
    np.testing.assert_array_equal(run.training_loss.values, 1 / np.arange(1, 9))
    np.testing.assert_allclose(run.learning_rate.values, 0.1 * (1 - np.arange(1, 9) / 8))
    np.testing.assert_array_equal(run.evaluation_loss.values, [2 / 4, 2 / 8])
    np.testing.assert_array_equal(run.mean_iou.steps, [4, 8])
    np.testing.assert_array_equal(run.mean_iou.values, [0.2, 0.4])


def test_what_a_resumed_run_went_back_over_is_replaced():
    def entries(steps, loss):
        return [{"loss": loss, "step": step, "epoch": step / 10} for step in steps]

    # Twice from the checkpoint of step 4, the second time with a log every two steps; step 10 has two entries.
    history = entries(range(1, 8), 1.0) + entries(range(5, 8), 2.0) + entries((6, 8, 10), 3.0) + entries([10], 4.0)
    curve = extract_curve(history, "loss")
    assert curve.steps.tolist() == [1, 2, 3, 4, 5, 6, 8, 10]
    assert curve.values.tolist() == [1, 1, 1, 1, 2, 3, 3, 4]


def test_missing_values_are_left_out():
    history = [{"eval_mean_iou": value, "step": step, "epoch": 1.0} for step, value in enumerate([None, 0.5])]
    assert extract_curve(history, "eval_mean_iou").values.tolist() == [0.5]
    assert len(extract_curve(history, "loss")) == 0


def test_a_run_that_still_trains_is_read_from_its_last_complete_checkpoint(tmp_path, caplog):
    history = make_history(12, [0.1, 0.2, 0.3])
    write_state(tmp_path / "checkpoint-4", history[:5])
    write_state(tmp_path / "checkpoint-8", history[:10])
    torn = write_state(tmp_path / "checkpoint-12", history) / "trainer_state.json"
    torn.write_bytes(torn.read_bytes()[:-50])
    with caplog.at_level(logging.WARNING):
        assert read_curves(tmp_path, "run").mean_iou.values.tolist() == [0.1, 0.2]
    assert "checkpoint-12 is not complete" in caplog.text


def test_the_state_with_more_steps_is_read(tmp_path):
    # At the end there is an evaluation more than in the checkpoint of the same step.
    history = make_history(8, [0.1, 0.2])
    write_state(tmp_path / "checkpoint-8", history[:-1])
    write_state(tmp_path, history)
    assert read_curves(tmp_path, "run").mean_iou.values.tolist() == [0.1, 0.2]
    # The run has been made longer since.
    write_state(tmp_path / "checkpoint-12", make_history(12, [0.1, 0.2, 0.3]))
    assert read_curves(tmp_path, "run").mean_iou.values.tolist() == [0.1, 0.2, 0.3]


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (None, "has neither trainer_state.json nor a complete checkpoint"),
        ("{", "cannot be read as JSON"),
        ("[1]", "holds a list, expected the state"),
        ('{"hidden_size": 192}', "has no log_history"),
        ('{"log_history": []}', "has no losses and no evaluations yet"),
        ('{"log_history": [{"loss": "low", "step": 1, "epoch": 1.0}]}', "has loss = 'low' at step 1"),
        ('{"log_history": [{"loss": 0.5, "step": 1}]}', "at step 1 of epoch None"),
    ],
)
def test_what_is_no_run_is_refused(tmp_path, contents, message):
    if contents is not None:
        (tmp_path / "trainer_state.json").write_text(contents, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_curves(tmp_path, "run")


def test_names_tell_runs_apart(tmp_path, monkeypatch):
    for name in ("a/run", "b/run", "c"):
        write_state(tmp_path / name, make_history(4, []))
    monkeypatch.chdir(tmp_path)
    assert [run.name for run in read_runs(["a/run", "c"])] == ["run", "c"]
    assert [run.name for run in read_runs(["a/run", "b/run"])] == ["a/run", "b/run"]
    monkeypatch.chdir(tmp_path / "c")
    assert [run.name for run in read_runs(["."])] == ["c"]
    with pytest.raises(ValueError, match="a name for each run, got 1 for 2"):
        read_runs(["../a/run", "../b/run"], ["one"])


def test_smoothing():
    # These were computed by hand: 0.5 * 4 / 0.5 = 4, then (0.5 * 2 + 0.5 * 1) / 0.75 = 2.
    np.testing.assert_allclose(smooth(np.array([4.0, 1.0]), 0.5), [4, 2])
    np.testing.assert_allclose(smooth(np.array([3.0, 3.0, 3.0]), 0.9), [3, 3, 3])
    noise = np.random.default_rng(0).normal(size=200)
    np.testing.assert_array_equal(smooth(noise, 0.0), noise)
    assert smooth(noise, 0.9).std() < 0.5 * noise.std()
    # A step whose loss overflowed.
    values = smooth(np.array([4.0, math.nan, 1.0]), 0.5)
    assert math.isnan(values[1])
    np.testing.assert_allclose(values[[0, 2]], [4, 2])


def test_best_evaluation():
    def curve(*values):
        entries = [{"value": value, "step": step, "epoch": step} for step, value in enumerate(values)]
        return extract_curve(entries, "value")

    assert find_best(curve(0.1, 0.4, 0.3, 0.4)) == 1
    assert find_best(curve(math.nan, 0.1)) == 1
    assert find_best(curve(math.nan)) is None
    assert find_best(curve()) is None


def test_figure_of_one_run(tmp_path):
    (run,) = read_runs([write_state(tmp_path / "small", make_history(12, [0.1, 0.432, 0.3]))])
    loss, rate, iou = draw_curves([run]).axes
    assert lines_of(loss)[0] == [[step, 1 / step] for step in range(1, 13)]
    assert lines_of(loss)[1] == [[4, 2 / 4], [8, 2 / 8], [12, 2 / 12]]
    assert lines_of(rate)[0][-1] == [12, 0]
    curve, best = lines_of(iou)
    assert curve == [[4, 10], [8, pytest.approx(43.2)], [12, 30]]
    assert best == [[8, pytest.approx(43.2)]]
    (label,) = [text.get_text() for text in iou.get_legend().get_texts()]
    assert label == "small: best 43.2 % at step 8"
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["small", "training", "evaluation"]
    assert [axes.get_ylabel() for axes in (loss, rate, iou)] == [
        "loss (nats per pixel)",
        "learning rate",
        "mean IoU (%)",
    ]
    assert iou.get_xlabel() == "steps of the optimiser"
    assert loss.get_xlim() == iou.get_xlim()


def test_figure_of_several_runs_over_epochs(tmp_path):
    folders = [write_state(tmp_path / "long", make_history(12, [0.1, 0.2, 0.3]))]
    folders += [write_state(tmp_path / "short", make_history(4, [], per_epoch=2))]
    loss, _, iou = draw_curves(read_runs(folders), x="epoch", smoothing=0.5).axes
    # The line of what was logged is there too, paler, behind the smoothed one.
    logged, smoothed = loss.get_lines()[:2]
    assert logged.get_xdata().tolist() == [step / 4 for step in range(1, 13)]
    assert logged.get_ydata().tolist() == [1 / step for step in range(1, 13)]
    assert smoothed.get_ydata().tolist() == smooth(logged.get_ydata(), 0.5).tolist()
    assert logged.get_alpha() < 1
    colours = {text.get_text(): to_hex(line.get_color()) for text, line in legend_of(loss)}
    assert colours["long"] == to_hex(logged.get_color()) == to_hex(iou.get_lines()[0].get_color())
    assert colours["short"] == to_hex(loss.get_lines()[-1].get_color()) != colours["long"]
    assert "training, smoothed by 0.5" in colours
    assert [text.get_text() for text, _ in legend_of(iou)] == ["long: best 30.0 % at epoch 3.0"]
    assert iou.get_xlabel() == "epochs"


def legend_of(axes):
    return list(zip(axes.get_legend().get_texts(), axes.get_legend().get_lines(), strict=True))


def test_more_runs_than_a_palette_has_colours(tmp_path):
    runs = read_runs([write_state(tmp_path / str(index), make_history(3, [])) for index in range(12)])
    colours = {to_hex(line.get_color()) for line in draw_curves(runs).axes[0].get_lines()}
    assert len(colours) == 12


def test_panels_without_curves_say_so(tmp_path):
    runs = read_runs([write_state(tmp_path, make_history(3, []))])
    _, _, iou = draw_curves(runs).axes
    assert [text.get_text() for text in iou.texts] == ["no evaluation logged"]


@pytest.mark.parametrize("settings", [{"x": "time"}, {"smoothing": 1.0}, {"smoothing": -0.1}])
def test_settings_are_checked(tmp_path, settings):
    runs = read_runs([write_state(tmp_path, make_history(3, []))])
    with pytest.raises(ValueError, match="got (1.0|-0.1|'time')"):
        draw_curves(runs, **settings)


def test_files_are_whole(tmp_path):
    figure = draw_curves(read_runs([write_state(tmp_path / "run", make_history(8, [0.1, 0.2]))]))
    output = tmp_path / "figures" / "curves.png"
    save_figure(figure, output)
    with Image.open(output) as image:
        assert image.format == "PNG"
        assert image.size == (1200, 1350)
        assert len(image.convert("RGB").getcolors(maxcolors=1 << 20)) > 20
    save_figure(figure, output.with_suffix(".pdf"))
    assert output.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
    with pytest.raises(ValueError, match="must end with .png, .pdf or .svg"):
        save_figure(figure, output.with_suffix(".txt"))
    assert {file.name for file in output.parent.iterdir()} == {"curves.png", "curves.pdf"}
