#!/usr/bin/env python
"""
Train Segmenter for semantic segmentation with transformers' `Trainer`.

    python scripts/run_semantic_segmentation.py --dataset_name DATASET_FOLDER --output_dir outputs/model
"""

import sys

from transformers import TrainingArguments

from segmenter_hf.training.arguments import parse_arguments
from segmenter_hf.training.with_trainer import train


def main() -> int:
    train(*parse_arguments(TrainingArguments, __doc__))
    return 0


if __name__ == "__main__":
    sys.exit(main())
