"""
Converts every released checkpoint and pushes it to the Hub, each into a repository of its own with a model card.

    python scripts/push_all_to_hub.py --org ORG [--only NAME ...] [--dry_run]

Run it again after it was interrupted, or failed: it continues where it was, and uploads nothing that the Hub has. When
all is there it changes nothing. The token is that of `hf auth login`, or HF_TOKEN; it must be allowed to write.

Cost: the 24 checkpoints have 13.5 GB of weights, which are downloaded (with what training left in the files beside
them), kept, converted into as much again, and uploaded. Each run converts them anew, 5 s for 100 million parameters on
a CPU, to compare them with what has the tag, unless that is there and the download was deleted.
Result: ORG has a repository for each checkpoint (`convert_checkpoint.py --list_released` names them), with weights,
config, preprocessor settings, code and card, under a tag that the card pins; and a collection for each family. With
--dry_run everything is made and verified on this machine, and listed, but nothing is pushed.
Exit code: 0 if all is there, 1 if some checkpoints failed, 2 if nothing can be done: a token that the Hub does not
accept, say, or a name that is none.
"""

import argparse
import sys
from pathlib import Path


try:
    from segmenter_hf.command_line import print_line, run, user_path
# While torch is loaded, which takes seconds. What else takes long, or may be missing, is imported in functions.
except KeyboardInterrupt:
    print("push_all_to_hub.py: interrupted.", file=sys.stderr)
    sys.exit(130)


RESULTS_DIR = Path(__file__).resolve().parent.parent / "model_cards" / "results"


def parse_arguments() -> argparse.Namespace:
    from segmenter_hf.hub.cards import TAG

    description, _, details = __doc__.strip().partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--org", required=True, help="organisation or user that the repositories belong to")
    parser.add_argument("--only", metavar="NAME", nargs="+", help="only these released checkpoints")
    parser.add_argument("--dry_run", action="store_true", help="make and verify everything, list it, and push nothing")
    parser.add_argument("--private", action="store_true", help="make new repositories and collections private")
    parser.add_argument("--tag", default=TAG, help="tag of the pushed contents, which the cards pin (%(default)s)")
    parser.add_argument(
        "--work_dir", type=user_path, help="where repositories are assembled (default: in Hugging Face's cache)"
    )
    parser.add_argument(
        "--cache_dir", type=user_path, help="where downloads are kept (default: in Hugging Face's cache)"
    )
    return parser.parse_args()


def push(args: argparse.Namespace) -> int:
    from huggingface_hub.utils import tqdm

    from segmenter_hf.conversion.released import RELEASED, find_released
    from segmenter_hf.hub.client import format_manifest
    from segmenter_hf.hub.release import push_released

    failures = 0
    # Each once, in the order of the table, which is that of the collections.
    names = None if args.only is None else {find_released(name).name for name in args.only}
    rows = [row for row in RELEASED.values() if names is None or row.name in names]
    outcomes = push_released(
        rows,
        args.org,
        RESULTS_DIR,
        work_dir=args.work_dir,
        cache_dir=args.cache_dir,
        tag=args.tag,
        private=args.private,
        dry_run=args.dry_run,
    )
    for outcome in tqdm(outcomes, total=len(rows), desc="Checkpoints", unit="repository"):
        if outcome.error is not None:
            failures += 1
            tqdm.write(f"{outcome.repo_id}: {outcome.error}", file=sys.stderr)
        elif args.dry_run:
            tqdm.write(format_manifest(outcome.repo_id, outcome.files))
        elif outcome.files:
            size = sum(entry.size for entry in outcome.files) / 1e6
            tqdm.write(f"{outcome.repo_id}: {len(outcome.files)} files uploaded, {size:.1f} MB, tag {args.tag}")
        else:
            tqdm.write(f"{outcome.repo_id}: unchanged")
    if failures:
        print_line(f"{failures} of {len(rows)} failed. Run it again when the reasons are mended.")
    return 1 if failures else 0


def start() -> int:
    from segmenter_hf.conversion import ConversionError
    from segmenter_hf.hub.client import PushError
    from segmenter_hf.outputs import OutputError

    args = parse_arguments()
    return run(
        lambda: push(args), (ConversionError, OutputError, PushError), if_interrupted="Run it again to continue."
    )


def main() -> int:
    return run(start, extra="convert")


if __name__ == "__main__":
    sys.exit(main())
