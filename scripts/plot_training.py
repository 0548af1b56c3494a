#!/usr/bin/env python
"""
Draw loss, learning rate and mean IoU of one or several training runs.

    python scripts/plot_training.py outputs/model --output_file curves.png
    python scripts/plot_training.py outputs/a outputs/b --names small large --smooth 0.9 --x epoch

RUN is the output folder of either training script, when it is done or while it trains (up to the last checkpoint).
COST: some seconds. RESULT: a PNG (or PDF or SVG, by its name) of three panels over the same steps or epochs: losses in
training and evaluation, learning rates, and mean IoU in percent, whose best value is marked and named for each run.
Exit code 2 when a run has no history.
"""

import argparse
import sys
from pathlib import Path


try:
    from segmenter_hf.command_line import run, user_path
# Loading torch takes seconds. What else takes long, or may be missing, is imported in functions.
except KeyboardInterrupt:
    print("plot_training.py: interrupted.", file=sys.stderr)
    sys.exit(130)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=user_path, metavar="RUN", help="output folders of training")
    parser.add_argument("--output_file", type=user_path, default=Path("curves.png"), help="default: curves.png")
    parser.add_argument("--names", nargs="+", help="names of the runs, in their order (default: of the folders)")
    parser.add_argument(
        "--smooth", type=float, default=0.0, help="from 0, the default, to less than 1: how much to smooth losses"
    )
    parser.add_argument("--x", choices=["step", "epoch"], default="step", help="what to draw over (default: step)")
    return parser.parse_args()


def plot(args: argparse.Namespace):
    from segmenter_hf.outputs import check_output_file
    from segmenter_hf.training.curves import check_format, draw_curves, read_runs, save_figure

    check_format(args.output_file)
    check_output_file(args.output_file)
    runs = read_runs(args.runs, args.names)
    save_figure(draw_curves(runs, x=args.x, smoothing=args.smooth), args.output_file)
    print(f"curves: {args.output_file}")


def main() -> int:
    return run(
        lambda: plot(parse_arguments()), (OSError, ValueError), if_interrupted="Run it again.", extra="plot,train"
    )


if __name__ == "__main__":
    sys.exit(main())
