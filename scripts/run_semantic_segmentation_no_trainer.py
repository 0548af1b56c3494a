#!/usr/bin/env python
"""
Train Segmenter for semantic segmentation with a plain loop on accelerate, to the weights that `Trainer` gives.

    python scripts/run_semantic_segmentation_no_trainer.py --model_name_or_path ade20k/seg_small_mask \\
        --dataset_name DATASET --output_dir outputs/model
    accelerate launch scripts/run_semantic_segmentation_no_trainer.py ...

COST and RESULT: those of run_semantic_segmentation.py. The loop is in segmenter_hf/training/with_accelerate.py.
"""

import sys

from segmenter_hf.training.arguments import run_script
from segmenter_hf.training.with_accelerate import AccelerateArguments, train


def main() -> int:
    return run_script(AccelerateArguments, __doc__, train)


if __name__ == "__main__":
    sys.exit(main())
