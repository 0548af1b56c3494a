#!/usr/bin/env python
"""
Score a model on a dataset by the sliding-window protocol at the label maps' own size.

    python scripts/evaluate_semantic_segmentation.py --model_name_or_path MODEL --dataset_name DATASET \\
        --output_file results.json
    python scripts/evaluate_semantic_segmentation.py ... --multi_scale
    torchrun --nproc_per_node 8 scripts/evaluate_semantic_segmentation.py ...

COST: about a fifth of a second an image on a CPU core with the shipped checkpoint, 20 times that with --multi_scale
(six sizes of each image, each also flipped). RESULT: mean IoU, mean and overall accuracy and each class's IoU, as
fractions, with the protocol, the dataset's fingerprint, the command and the versions they were measured with, as JSON.
Classes that do not occur are null. The same as training's own evaluation gives, with --bf16 if it was trained with it.
"""

import argparse
import sys


try:
    from segmenter_hf import default_checkpoint
    from segmenter_hf.command_line import run, user_path
    from segmenter_hf.processes import leave
# Loading torch takes seconds, in which users interrupt. What else takes long, or may be missing, is imported later.
except KeyboardInterrupt:
    print("evaluate_semantic_segmentation.py: interrupted.", file=sys.stderr)
    sys.exit(130)


def parse_arguments() -> argparse.Namespace:
    description, _, details = __doc__.strip().partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model_name_or_path",
        "--model",
        default=default_checkpoint(),
        help="folder or Hub id (default: the shipped checkpoint)",
    )
    parser.add_argument("--backend", choices=("torchvision", "pil"), help="of the image processor")
    parser.add_argument("--attn_implementation", help="attention: sdpa, eager...")
    parser.add_argument("--device", help="cpu, cuda... (default: an accelerator if there is one)")
    parser.add_argument("--bf16", action="store_true", help="run the model under autocast to bfloat16")
    parser.add_argument(
        "--window_batch_size", type=int, default=8, help="windows of an image fed at once (default: 8)"
    )

    data = parser.add_argument_group("data")
    data.add_argument(
        "--dataset_name", required=True, help="Hub id, parquet file, or folder; see the training scripts"
    )
    data.add_argument("--dataset_config_name", help="configuration of the dataset")
    data.add_argument("--image_column_name", help="column of the images (default: detected)")
    data.add_argument("--annotation_column_name", help="column of the label maps (default: detected)")
    data.add_argument("--labels", help="names of the labels: a JSON file or a built-in set (default: the dataset's)")
    data.add_argument("--split", default="validation", help="split to score on (default: validation)")
    data.add_argument("--max_eval_samples", type=int, help="score the first so many images")
    data.add_argument(
        "--max_value",
        type=int,
        help="what 16-bit images hold at most, such as 4095 for 12 bits (default: the image processor's)",
    )
    data.add_argument(
        "--do_reduce_labels",
        action=argparse.BooleanOptionalAction,
        help="whether 0 means unlabelled in the label maps, as in ADE20K (default: the image processor's)",
    )

    protocol = parser.add_argument_group("protocol", "The image processor's, but for:")
    protocol.add_argument("--multi_scale", action="store_true", help="average six sizes, each also flipped")
    protocol.add_argument("--short_side", type=int, help="short side in pixels that images are resized to")
    protocol.add_argument("--window_stride", type=int, help="distance of windows in pixels")
    protocol.add_argument(
        "--antialias", action=argparse.BooleanOptionalAction, help="whether to smooth images before reducing them"
    )
    protocol.add_argument(
        "--exclude_classes", nargs="+", default=[], help="names or numbers of labels that the means leave out"
    )

    output = parser.add_argument_group("output")
    output.add_argument("--output_file", type=user_path, help="JSON file to write (default: only print)")
    output.add_argument("--worst_cases", type=int, default=0, metavar="N", help="draw the N images that went worst")
    output.add_argument("--worst_cases_dir", type=user_path, help="folder for those pictures")
    args = parser.parse_args()
    if (args.worst_cases > 0) != (args.worst_cases_dir is not None):
        parser.error("--worst_cases and --worst_cases_dir belong together")
    return args


def start() -> int:
    from segmenter_hf.data.examples import ExampleError
    from segmenter_hf.evaluation.command import EvaluationError, evaluate

    args = parse_arguments()

    def work():
        evaluate(args)

    # Only the process that was to score an example knows of its error.
    return run(work, (EvaluationError,), (ExampleError,), if_interrupted="Run it again: it starts anew.")


def main() -> int:
    return run(start, extra="evaluate")


if __name__ == "__main__":
    leave(main())
