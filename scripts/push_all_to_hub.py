"""
Converts every released checkpoint and pushes it to the Hub, each into a repository of its own with a model card.

    python scripts/push_all_to_hub.py --org ORG [--only NAME ...] [--dry_run]

Run it again after it was interrupted, or failed: it continues where it was, and uploads nothing that the Hub has. When
all is there it changes nothing. The token is that of `hf auth login`, or HF_TOKEN; it must be allowed to write.

Cost: the 24 checkpoints have 13.5 GB of weights, which are downloaded (with what training left in the files beside
them), kept, converted into as much again, and uploaded.
Result: ORG has a repository for each checkpoint (`convert_checkpoint.py --list_released` names them), with weights,
config, preprocessor settings, code and card, under a tag that the card pins; and a collection for each family. With
--dry_run everything is made and verified on this machine, and listed, but nothing is pushed.
Exit code: 0 if all is there, 1 if some checkpoints failed, 2 if nothing can be done: a token that the Hub does not
accept, say, or a name that is none.
"""

import argparse
import sys
from pathlib import Path

from huggingface_hub.utils import tqdm

from segmenter_hf.conversion import ConversionError
from segmenter_hf.conversion.released import RELEASED, find_released
from segmenter_hf.hub.cards import TAG
from segmenter_hf.hub.push import PushError, format_manifest, push_released


RESULTS_DIR = Path(__file__).resolve().parent.parent / "model_cards" / "results"


def main() -> int:
    description, _, details = __doc__.strip().partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--org", required=True, help="organisation or user that the repositories belong to")
    parser.add_argument("--only", metavar="NAME", nargs="+", help="only these released checkpoints")
    parser.add_argument("--dry_run", action="store_true", help="make and verify everything, list it, and push nothing")
    parser.add_argument("--private", action="store_true", help="make new repositories and collections private")
    parser.add_argument("--tag", default=TAG, help="tag of the pushed contents, which the cards pin (%(default)s)")
    parser.add_argument("--work_dir", help="where repositories are assembled (default: in Hugging Face's cache)")
    parser.add_argument("--cache_dir", help="where downloads are kept (default: in Hugging Face's cache)")
    args = parser.parse_args()

    failures = 0
    try:
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
                tqdm.write(format_manifest(outcome.repo_id, outcome.manifest))
            elif outcome.uploaded:
                size = sum(entry.size for entry in outcome.uploaded) / 1e6
                tqdm.write(f"{outcome.repo_id}: {len(outcome.uploaded)} files uploaded, {size:.1f} MB, tag {args.tag}")
            else:
                tqdm.write(f"{outcome.repo_id}: unchanged")
    except (ConversionError, PushError) as error:
        print(f"push_all_to_hub.py: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("push_all_to_hub.py: interrupted. Run it again to continue.", file=sys.stderr)
        return 130
    if failures:
        print(
            f"push_all_to_hub.py: {failures} of {len(rows)} failed. Run it again when the reasons are mended.",
            file=sys.stderr,
        )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
