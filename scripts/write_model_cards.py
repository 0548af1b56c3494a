"""
Writes the model cards of all released checkpoints, and the published figures that they are made from.

    python scripts/write_model_cards.py
    python scripts/write_model_cards.py --check
    python scripts/write_model_cards.py --add_results ade20k/seg_tiny_mask results.json

Cost: seconds, no network.
Result: model_cards/*.md, and model_cards/results/*.json, in which measured figures stay as they are. --add_results
adds one, from what scripts/evaluate_semantic_segmentation.py wrote of the converted checkpoint, in place of that of
the same protocol. With --check nothing is written: exit code 1 and the names of the files that are stale, if any is.
"""

import argparse
import sys
from pathlib import Path


try:
    from segmenter_hf.command_line import run, user_path
# While torch is loaded, which takes seconds. What else takes long, or may be missing, is imported in functions.
except KeyboardInterrupt:
    print("write_model_cards.py: interrupted.", file=sys.stderr)
    sys.exit(130)


CARDS = Path(__file__).resolve().parent.parent / "model_cards"


def read_evaluation(name: str, path: str):
    """A released checkpoint, and what evaluation wrote of it."""
    from segmenter_hf.conversion.released import find_released
    from segmenter_hf.evaluation.results import read_results_file

    return find_released(name), read_results_file(path)


def parse_arguments() -> argparse.Namespace:
    description, _, details = __doc__.strip().partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing, exit with 1 if a file is stale")
    parser.add_argument(
        "--add_results",
        nargs=2,
        action="append",
        default=[],
        metavar=("RELEASED_NAME", "RESULTS_FILE"),
        help="add a measured figure of a released checkpoint; may be given several times",
    )
    parser.add_argument("--folder", type=user_path, default=CARDS, help="default: model_cards of this repository")
    args = parser.parse_args()
    if args.check and args.add_results:
        parser.error("--check writes nothing: leave out --add_results")
    return args


def write(args: argparse.Namespace) -> int:
    from segmenter_hf.hub.card_folder import add_results, list_stale, write_documents

    if args.check:
        stale = list_stale(args.folder)
        for file in stale:
            print(f"stale: {file}", file=sys.stderr)
        if stale:
            print(
                "Run `python scripts/write_model_cards.py`, and remove files of no released checkpoint.",
                file=sys.stderr,
            )
        return 1 if stale else 0
    if args.add_results:
        for file in add_results(args.folder, [read_evaluation(*given) for given in args.add_results]):
            print(f"added to {file}")
    for file in write_documents(args.folder):
        print(f"wrote {file}")
    return 0


def main() -> int:
    return run(lambda: write(parse_arguments()), (OSError, ValueError), extra="convert,evaluate")


if __name__ == "__main__":
    sys.exit(main())
