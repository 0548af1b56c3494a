#!/usr/bin/env python
"""
Compute the mean and standard deviation of each band of a dataset's images, as arguments of the training scripts.

    python scripts/compute_image_statistics.py --dataset_name DATASET --num_channels 4
    python scripts/compute_image_statistics.py --dataset_name DATASET --num_channels 6 --max_value 4095

COST: reads all images of the split once, about 200 of ADE20K's size a second on a CPU core. RESULT: one line on
standard output, such as `--num_channels 4 --image_mean 0.41 0.42 0.4 0.6 --image_std 0.2 0.21 0.2 0.25`, in the units
of the image processor, from 0 to 1.
"""

import argparse
import sys


try:
    from segmenter_hf.command_line import run
# Loading torch takes seconds, in which users interrupt. What else takes long, or may be missing, is imported later.
except KeyboardInterrupt:
    print("compute_image_statistics.py: interrupted.", file=sys.stderr)
    sys.exit(130)


def parse_arguments() -> argparse.Namespace:
    description, _, details = __doc__.strip().partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--dataset_name", required=True, help="Hub id, parquet file, or folder; see the training scripts"
    )
    parser.add_argument("--dataset_config_name", help="configuration of the dataset")
    parser.add_argument("--image_column_name", help="column of the images (default: detected)")
    parser.add_argument("--annotation_column_name", help="column of the label maps (default: detected)")
    parser.add_argument("--split", default="train", help="split to read (default: train)")
    parser.add_argument("--max_samples", type=int, help="read the first so many images")
    parser.add_argument("--num_channels", type=int, default=3, help="bands of the images (default: 3, RGB)")
    parser.add_argument("--max_value", type=int, help="what 16-bit images hold at most (default: 65535)")
    args = parser.parse_args()
    for name in ("max_samples", "num_channels"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(args, name)}")
    if args.max_value is not None and not 1 <= args.max_value <= 65535:
        parser.error(f"--max_value must be from 1 to 65535, got {args.max_value}")
    return args


def compute(args: argparse.Namespace):
    from segmenter_hf.data.loading import load_segmentation_data
    from segmenter_hf.data.statistics import compute_image_statistics

    data = load_segmentation_data(
        args.dataset_name,
        config_name=args.dataset_config_name,
        image_column=args.image_column_name,
        annotation_column=args.annotation_column_name,
        # The names of labels do not matter here.
        labels="camvid",
    )
    examples = data.split(args.split, "--split")
    if args.max_samples is not None:
        examples = examples.select(range(min(args.max_samples, len(examples))))
    given = {name: value for name, value in (("max_value", args.max_value),) if value is not None}
    mean, std = compute_image_statistics(examples, args.num_channels, show_progress=True, **given)
    flags = {"num_channels": [args.num_channels], **{name: [value] for name, value in given.items()}}
    flags |= {"image_mean": [f"{value:.4g}" for value in mean], "image_std": [f"{value:.4g}" for value in std]}
    print(*(f"--{name} {' '.join(map(str, values))}" for name, values in flags.items()))


def main() -> int:
    return run(
        lambda: compute(parse_arguments()), (OSError, ValueError), if_interrupted="Run it again.", extra="train"
    )


if __name__ == "__main__":
    sys.exit(main())
