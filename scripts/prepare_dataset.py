#!/usr/bin/env python
"""
Turn the official download of ADE20K, Cityscapes or Pascal Context into a dataset of parquet files.

    python scripts/prepare_dataset.py ade20k ADEChallengeData2016 datasets/ade20k
    python scripts/prepare_dataset.py cityscapes cityscapes datasets/cityscapes
    python scripts/prepare_dataset.py pascal_context VOCdevkit/VOC2010 datasets/pascal_context --num_classes 60

COST: about 600 images of ADE20K's size, or 20 of Cityscapes', a second on a CPU core, and as much disk as the
download; memory does not grow with the number of images. RESULT: OUTPUT_DIR with the splits train and validation,
which datasets.load_dataset and the training scripts read; the terms of the data apply to it. Label maps of Cityscapes
become train ids; those of Pascal Context are taken as MMSegmentation's converter writes them. Interrupted, it leaves
no OUTPUT_DIR, and starts anew.
"""

import argparse
import sys
from pathlib import Path


try:
    from segmenter_hf.command_line import print_line, run, user_path
# Loading torch takes seconds, in which users interrupt. What else takes long, or may be missing, is imported later.
except KeyboardInterrupt:
    print("prepare_dataset.py: interrupted.", file=sys.stderr)
    sys.exit(130)


class UploadError(RuntimeError):
    """A dataset that is complete but could not be uploaded. The message is meant for the user."""


def parse_arguments() -> argparse.Namespace:
    description, _, details = __doc__.strip().partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", choices=("ade20k", "cityscapes", "pascal_context"), help="which download it is")
    parser.add_argument("source", metavar="SOURCE", type=user_path, help="its folder")
    parser.add_argument(
        "output_dir",
        metavar="OUTPUT_DIR",
        type=user_path,
        help="folder to write; without --overwrite it must be empty",
    )
    parser.add_argument(
        "--num_classes",
        type=int,
        choices=(59, 60),
        help="of Pascal Context: with background as a class (60, the default) or ignored (59)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what this script wrote into OUTPUT_DIR")

    hub = parser.add_argument_group("Hub", "With the token of `hf auth login`, or HF_TOKEN.")
    hub.add_argument("--push_to_hub", action="store_true", help="upload OUTPUT_DIR to the dataset --repo_id")
    hub.add_argument("--repo_id", metavar="OWNER/NAME", help="the dataset; it is made if there is none")
    hub.add_argument(
        "--public", action="store_true", help="make a new dataset public (default: private, as the terms may ask for)"
    )

    args = parser.parse_args()
    if args.push_to_hub != (args.repo_id is not None):
        parser.error("--push_to_hub and --repo_id belong together")
    if args.num_classes is not None and args.dataset != "pascal_context":
        parser.error("--num_classes is for pascal_context")
    return args


def push(folder: Path, repo_id: str, private: bool):
    """
    Makes a dataset on the Hub with the contents of a folder; what is there already is not sent again.

    Raises:
        UploadError: if that fails.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    # Shards that an earlier upload left, of which there may be more, would be read too.
    settings = {"repo_type": "dataset", "folder_path": folder, "delete_patterns": "data/*.parquet"}
    try:
        api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        api.upload_folder(repo_id=repo_id, commit_message="Upload the prepared dataset", **settings)
    # These are the errors of the Hub and of the connection, which uploads wrap in a RuntimeError.
    except (OSError, RuntimeError, ValueError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        log_in = "Log in with `hf auth login`, or set HF_TOKEN, to a token that may write."
        raise UploadError(
            f"{repo_id} was not uploaded: {error} {log_in if status in (401, 403) else ''} {folder} is "
            f"complete: `hf upload {repo_id} {folder} --repo-type dataset` uploads it without preparing it again."
        ) from error


def prepare(args: argparse.Namespace):
    from segmenter_hf.data.preparation import DOWNLOADS, prepare_dataset

    name = args.dataset if args.dataset != "pascal_context" else f"pascal_context_{args.num_classes or 60}"
    prepared = prepare_dataset(name, args.source, args.output_dir, overwrite=args.overwrite, show_progress=True)
    for warning in prepared.warnings:
        print_line(f"warning: {warning}")
    counts = ", ".join(f"{count} images for {split}" for split, count in prepared.num_images.items())
    print(f"{args.output_dir}: {counts}, {prepared.num_bytes / 1e6:,.1f} MB")
    print(DOWNLOADS[name].note)
    print(f"The terms of the data apply: {DOWNLOADS[name].homepage}")

    if args.push_to_hub:
        push(args.output_dir, args.repo_id, private=not args.public)
        print(f"{args.repo_id}: uploaded")


def start() -> int:
    from segmenter_hf.data.preparation import PreparationError

    args = parse_arguments()
    refusals = (OSError, PreparationError, UploadError)
    return run(lambda: prepare(args), refusals, if_interrupted="Run it again: it starts anew.")


def main() -> int:
    return run(start, extra="train")


if __name__ == "__main__":
    sys.exit(main())
