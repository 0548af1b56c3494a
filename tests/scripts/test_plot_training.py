"""The script that draws curves of runs, as users run it."""

import os
import subprocess
import sys

from PIL import Image

from ..common import REPOSITORY
from ..training.test_curves import make_history, write_state


def plot(*arguments):
    # No display, and a backend that would need one.
    environment = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    return subprocess.run(
        [sys.executable, REPOSITORY / "scripts" / "plot_training.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**environment, "MPLBACKEND": "tkagg"},
    )


def test_plots_without_a_display(tmp_path):
    runs = [write_state(tmp_path / name, make_history(8, [0.1, 0.2])) for name in ("a", "b")]
    output = tmp_path / "curves.png"
    result = plot(*runs, "--output_file", output, "--names", "small", "large", "--smooth", 0.9, "--x", "epoch")
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"curves: {output}\n"
    with Image.open(output) as image:
        assert image.format == "PNG"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "curves.png"]


def test_what_is_no_run_is_one_line(tmp_path):
    run = write_state(tmp_path / "run", make_history(8, []))
    output = tmp_path / "curves.png"
    result = plot(run, tmp_path / "absent", "--output_file", output)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line == (
        f"plot_training.py: error: {tmp_path / 'absent'} is not there, expected the output folder of a training run."
    )
    assert not output.exists()
