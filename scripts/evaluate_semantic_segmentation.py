#!/usr/bin/env python
"""
Score a model on a dataset by the sliding-window protocol at the label maps' own size.

    python scripts/evaluate_semantic_segmentation.py --model MODEL --dataset_name DATASET_FOLDER

COST: about a fifth of a second an image on two CPU cores with the shipped checkpoint. RESULT: mean IoU,
mean and overall accuracy and each class's IoU, as fractions, with the protocol and the versions they were measured
with, as JSON. Classes that do not occur are null.
"""

import argparse
import json
import math
import os
import sys
from pathlib import Path

import torch
import transformers
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

import segmenter_hf
from segmenter_hf.data.loading import load_segmentation_dataset
from segmenter_hf.evaluation.protocol import evaluate_sliding_window


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", default=segmenter_hf.default_checkpoint(), help="folder or Hub id (default: shipped)"
    )
    parser.add_argument("--dataset_name", required=True, help="folder or Hub id that datasets.load_dataset reads")
    parser.add_argument("--split", default="validation", help="split to score on (default: validation)")
    parser.add_argument(
        "--window_batch_size", type=int, default=8, help="windows of an image fed at once (default: 8)"
    )
    parser.add_argument("--output_file", type=Path, help="JSON file to write (default: only print)")
    args = parser.parse_args()

    splits, id2label = load_segmentation_dataset(args.dataset_name)
    model = AutoModelForSemanticSegmentation.from_pretrained(args.model)
    image_processor = AutoImageProcessor.from_pretrained(args.model)
    if model.config.id2label != id2label:
        print(
            f"The labels of the model, {list(model.config.id2label.values())}, are not those of the dataset, "
            f"{list(id2label.values())}. Train on this dataset, or order its labels as the model's.",
            file=sys.stderr,
        )
        return 2
    results = evaluate_sliding_window(
        model, image_processor, splits[args.split], window_batch_size=args.window_batch_size, show_progress=True
    )
    for name in ("per_category_iou", "per_category_accuracy"):
        values = enumerate(results[name])
        results[name] = {id2label[index]: None if math.isnan(value) else value for index, value in values}
    results["protocol"] = {
        "split": args.split,
        "scales": "single",
        "do_split_image": image_processor.do_split_image,
        "size": dict(image_processor.size),
        "window": dict(image_processor.crop_size),
        "window_stride": image_processor.window_stride,
        "antialias": image_processor.antialias,
    }
    results["versions"] = {module.__name__: module.__version__ for module in (segmenter_hf, torch, transformers)}
    text = json.dumps(results, indent=2)
    print(text)
    if args.output_file is not None:
        unfinished = args.output_file.with_name(args.output_file.name + ".part")
        unfinished.write_text(text + "\n", encoding="utf-8")
        os.replace(unfinished, args.output_file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
