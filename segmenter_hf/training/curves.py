"""Curves of training runs, from the history that both training scripts leave in `trainer_state.json`."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers.trainer import TRAINER_STATE_NAME

from ..outputs import replacing_file
from .checkpoints import find_last_checkpoint


# One of matplotlib's formats has pixels, two are for print.
PICTURE_FORMATS = (".png", ".pdf", ".svg")


@dataclass(frozen=True)
class Curve:
    """
    What a run logged of one quantity, in the order of its steps.

    Args:
        steps (`np.ndarray` of shape `(num_logged,)`): Steps of the optimiser done by then, each once.
        epochs (`np.ndarray` of shape `(num_logged,)`): Passes over the training split done by then, with fractions.
        values (`np.ndarray` of shape `(num_logged,)`): What was logged.
    """

    steps: np.ndarray
    epochs: np.ndarray
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class RunCurves:
    """
    The curves of one run, empty where it logged nothing of the kind.

    Args:
        name (`str`): What readers know the run by.
        training_loss ([`Curve`]): Mean over the steps since the last log.
        evaluation_loss ([`Curve`]): Over the evaluation split.
        learning_rate ([`Curve`]): Of the step that was logged.
        mean_iou ([`Curve`]): Over the evaluation split, as a fraction.
    """

    name: str
    training_loss: Curve
    evaluation_loss: Curve
    learning_rate: Curve
    mean_iou: Curve


def read_runs(runs: Sequence[str | Path], names: Sequence[str] | None = None) -> list[RunCurves]:
    """
    The curves of several runs, see [`read_curves`].

    Args:
        runs (`Sequence[str | Path]`): Their output folders.
        names (`Sequence[str]`, *optional*): Default: the names of the folders, or their paths where names are equal.
    """
    if names is None:
        names = [Path(run).resolve().name for run in runs]
        if len(set(names)) < len(names):
            names = [str(run) for run in runs]
    if len(names) != len(runs):
        raise ValueError(f"There must be a name for each run, got {len(names)} for {len(runs)}.")
    return [read_curves(run, name) for run, name in zip(runs, names, strict=True)]


def read_curves(run: str | Path, name: str) -> RunCurves:
    """
    The curves of a run that is done, or that has a checkpoint by now.

    Args:
        run (`str` or `Path`): Its output folder, of which the state at the end is read or that of the last complete
            checkpoint, whichever has more steps; or a `trainer_state.json`.
        name (`str`): What readers know it by.

    Raises:
        ValueError: if there is no history, or what is there is none.
    """
    run = Path(run)
    file, state = _read_state(run)
    history = state.get("log_history")
    if not isinstance(history, list) or not all(isinstance(entry, dict) for entry in history):
        raise ValueError(f"{file} has no log_history, expected a list of what was logged: it is no state of a run.")
    curves = {
        field: extract_curve(history, key, source=file)
        for field, key in (
            ("training_loss", "loss"),
            ("evaluation_loss", "eval_loss"),
            ("learning_rate", "learning_rate"),
            ("mean_iou", "eval_mean_iou"),
        )
    }
    if not any(map(len, curves.values())):
        raise ValueError(f"{file} has no losses and no evaluations yet. Wait for the run, or log more often.")
    return RunCurves(name=name, **curves)


def _read_state(run: Path) -> tuple[Path, dict[str, Any]]:
    if run.is_file():
        return run, _load(run)
    if not run.is_dir():
        raise ValueError(f"{run} is not there, expected the output folder of a training run.")
    candidates = [run / TRAINER_STATE_NAME] if (run / TRAINER_STATE_NAME).is_file() else []
    checkpoint = find_last_checkpoint(run)
    if checkpoint is not None:
        candidates.append(checkpoint / TRAINER_STATE_NAME)
    if not candidates:
        raise ValueError(
            f"{run} has neither {TRAINER_STATE_NAME} nor a complete checkpoint, expected the output folder of a "
            "training run that is done or has saved one."
        )
    # Where two have as many steps, the first is taken: the state at the end, which has the last evaluation.
    return max(((file, _load(file)) for file in candidates), key=lambda pair: pair[1].get("global_step", 0))


def _load(file: Path) -> dict[str, Any]:
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(state, dict):
        raise ValueError(f"{file} holds a {type(state).__name__}, expected the state of a training run.")
    return state


def extract_curve(history: Iterable[dict[str, Any]], key: str, source: str | Path = "The history") -> Curve:
    """
    One quantity of a history. Where a run went back, as one does that is resumed, what it had logged from there on is
    replaced by what it logged since.

    Args:
        history (`Iterable[dict]`): In the order of logging; each with `step` and `epoch`.
        key (`str`): Name of the quantity, such as `"eval_mean_iou"`.
        source (`str` or `Path`, *optional*): Where it is from, for errors.

    Raises:
        ValueError: if an entry has no step or epoch, or one that is no number.
    """
    points: list[tuple[float, float, float]] = []
    for entry in history:
        if entry.get(key) is None:
            continue
        point = tuple(entry.get(name) for name in ("step", "epoch", key))
        if not all(isinstance(value, int | float) for value in point):
            raise ValueError(f"{source} has {key} = {point[2]!r} at step {point[0]!r} of epoch {point[1]!r}.")
        while points and points[-1][0] >= point[0]:
            points.pop()
        points.append(point)
    steps, epochs, values = np.array(points, dtype=np.float64).reshape(-1, 3).T
    return Curve(steps, epochs, values)


def smooth(values: np.ndarray, weight: float) -> np.ndarray:
    """
    Exponential moving average without bias towards its start, as TensorBoard's.

    Args:
        values (`np.ndarray` of shape `(num_logged,)`): NaN and infinity stay as they are, and do not enter others.
        weight (`float`): Of the average so far against the next value: 0 leaves all as it is, 0.9 averages some ten.

    Returns:
        `np.ndarray` of shape `(num_logged,)`.
    """
    average, num_averaged, averages = 0.0, 0, []
    for value in values:
        if not math.isfinite(value):
            averages.append(value)
            continue
        average = weight * average + (1 - weight) * value
        num_averaged += 1
        averages.append(average / (1 - weight**num_averaged))
    return np.array(averages)


def find_best(curve: Curve) -> int | None:
    """Index of the largest value, the first of equals, if there is one."""
    finite = np.isfinite(curve.values)
    return int(np.argmax(np.where(finite, curve.values, -np.inf))) if finite.any() else None


def draw_curves(runs: Sequence[RunCurves], x: str = "step", smoothing: float = 0.0):
    """
    Losses, learning rates and mean IoU (with the best evaluation of each run marked), one below the other.

    Args:
        runs (`Sequence[RunCurves]`): Each gets a colour.
        x (`str`, *optional*, defaults to `"step"`): What they are drawn over, or `"epoch"`, which compares runs with
            other batch sizes.
        smoothing (`float`, *optional*, defaults to 0): From 0 up to but without 1, of training losses, see
            [`smooth`]. What was logged stays visible behind.

    Returns:
        `matplotlib.figure.Figure`: needs no display.
    """
    if x not in ("step", "epoch"):
        raise ValueError(f"Curves are drawn over step or epoch, got {x!r}.")
    if not 0 <= smoothing < 1:
        raise ValueError(f"Smoothing must be at least 0 and less than 1, got {smoothing}.")
    try:
        from matplotlib import colormaps
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D
    except ImportError as error:
        raise ValueError('Plots need Matplotlib: pip install "segmenter_hf[plot]".') from error

    few = len(runs) <= 10
    colours = colormaps["tab10"].colors if few else colormaps["turbo"](np.linspace(0.05, 0.95, len(runs)))
    figure = Figure(figsize=(8, 9), layout="constrained")
    loss_axes, rate_axes, iou_axes = figure.subplots(3, 1, sharex=True, height_ratios=(3, 1.5, 3))
    for run, colour in zip(runs, colours, strict=False):
        _draw(loss_axes, run.training_loss, x, colour, smoothing)
        _draw(loss_axes, run.evaluation_loss, x, colour, linestyle="--", marker="o")
        _draw(rate_axes, run.learning_rate, x, colour)
        _draw(iou_axes, run.mean_iou, x, colour, scale=100, linestyle="--", marker="o")

    loss_axes.set_ylabel("loss (nats per pixel)")
    rate_axes.set_ylabel("learning rate")
    iou_axes.set_ylabel("mean IoU (%)")
    iou_axes.set_xlabel("steps of the optimiser" if x == "step" else "epochs")
    iou_axes.set_xlim(left=0)

    handles = [Line2D([], [], color=colour, label=run.name) for run, colour in zip(runs, colours, strict=False)]
    has_evaluations = any(len(run.evaluation_loss) for run in runs)
    if has_evaluations or smoothing:
        title = "training" if not smoothing else f"training, smoothed by {smoothing:g}"
        handles.append(Line2D([], [], color="grey", label=title))
    if has_evaluations:
        handles.append(Line2D([], [], color="grey", linestyle="--", marker="o", markersize=3, label="evaluation"))
    loss_axes.legend(handles=handles, fontsize="small")

    bests = []
    for run, colour in zip(runs, colours, strict=False):
        best = find_best(run.mean_iou)
        if best is None:
            continue
        position, percent = _positions(run.mean_iou, x)[best], 100 * run.mean_iou.values[best]
        label = f"{run.name}: best {percent:.1f} % at {x} {position:.{0 if x == 'step' else 1}f}"
        style = {"color": colour, "marker": "*", "markersize": 12, "markeredgecolor": "black", "linestyle": "none"}
        bests += iou_axes.plot([position], [percent], label=label, zorder=3, **style)
    if bests:
        iou_axes.legend(handles=bests, fontsize="small")

    panels = (
        (loss_axes, "loss", [run.training_loss for run in runs] + [run.evaluation_loss for run in runs]),
        (rate_axes, "learning rate", [run.learning_rate for run in runs]),
        (iou_axes, "evaluation", [run.mean_iou for run in runs]),
    )
    for axes, title, curves in panels:
        axes.grid(alpha=0.3)
        if not any(map(len, curves)):
            note = {"ha": "center", "va": "center", "color": "grey", "transform": axes.transAxes}
            axes.text(0.5, 0.5, f"no {title} logged", **note)
            axes.set_yticks([])
    return figure


def _positions(curve: Curve, x: str) -> np.ndarray:
    return curve.steps if x == "step" else curve.epochs


def _draw(axes, curve: Curve, x: str, colour, smoothing: float = 0.0, scale: float = 1.0, **style):
    if not len(curve):
        return
    positions, values = _positions(curve, x), scale * curve.values
    if smoothing:
        axes.plot(positions, values, color=colour, alpha=0.25, linewidth=1)
        values = smooth(values, smoothing)
    if len(curve) == 1:
        style["marker"] = "o"
    axes.plot(positions, values, color=colour, linewidth=1.5, markersize=3, **style)


def save_figure(figure, output_file: str | Path):
    """
    Writes a figure of matplotlib in the format that the file's name ends with.

    Raises:
        OutputError: if it cannot be written.
        ValueError: if that is none of `PICTURE_FORMATS`.
    """
    output_file = Path(output_file)
    check_format(output_file)
    with replacing_file(output_file) as unfinished:
        figure.savefig(unfinished, format=output_file.suffix[1:].lower(), dpi=150)


def check_format(output_file: Path):
    """Refuses names of files that [`save_figure`] cannot write."""
    if output_file.suffix.lower() not in PICTURE_FORMATS:
        raise ValueError(f"{output_file} must end with {', '.join(PICTURE_FORMATS[:-1])} or {PICTURE_FORMATS[-1]}.")


__all__ = [
    "Curve",
    "RunCurves",
    "check_format",
    "draw_curves",
    "extract_curve",
    "find_best",
    "read_curves",
    "read_runs",
    "save_figure",
    "smooth",
]
