"""
Writes the model cards of all released checkpoints, and the published figures that they are made from.

    python scripts/write_model_cards.py
    python scripts/write_model_cards.py --check

Cost: seconds, no network.
Result: model_cards/*.md, and model_cards/results/*.json, in which measured figures stay as they are. With --check
nothing is written: exit code 1 and the names of the files that are stale, if any is.
"""

import argparse
import sys
from pathlib import Path

from segmenter_hf.hub.cards import list_stale, write_documents


FOLDER = Path(__file__).resolve().parent.parent / "model_cards"


def main() -> int:
    description, _, details = __doc__.strip().partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing, exit with 1 if a file is stale")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="default: model_cards of this repository")
    args = parser.parse_args()

    try:
        if not args.check:
            for file in write_documents(args.folder):
                print(f"wrote {file}")
            return 0
        stale = list_stale(args.folder)
    except ValueError as error:
        print(f"write_model_cards.py: error: {error}", file=sys.stderr)
        return 2
    for file in stale:
        print(f"stale: {file}", file=sys.stderr)
    if stale:
        print(
            "Run `python scripts/write_model_cards.py`, and remove files of no released checkpoint.", file=sys.stderr
        )
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
