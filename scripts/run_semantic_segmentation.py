#!/usr/bin/env python
"""
Train Segmenter for semantic segmentation with transformers' `Trainer`.

    python scripts/run_semantic_segmentation.py --dataset_name DATASET_FOLDER --output_dir outputs/model
"""

import sys

from transformers import TrainingArguments

from segmenter_hf.training.arguments import run_script
from segmenter_hf.training.with_trainer import train


def main() -> int:
    return run_script(TrainingArguments, __doc__, train)


if __name__ == "__main__":
    sys.exit(main())
