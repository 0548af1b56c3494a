#!/usr/bin/env python
"""
Train Segmenter for semantic segmentation with a plain loop on accelerate, to the weights that `Trainer` gives.

    python scripts/run_semantic_segmentation_no_trainer.py --model_name_or_path ade20k/seg_small_mask \\
        --dataset_name DATASET --output_dir outputs/model
    accelerate launch scripts/run_semantic_segmentation_no_trainer.py ...

COST and RESULT: those of run_semantic_segmentation.py. The loop is in segmenter_hf/training/with_accelerate.py.
"""

import sys


try:
    from segmenter_hf.command_line import run
    from segmenter_hf.processes import leave
# While torch is loaded, which takes seconds. What else takes long, or may be missing, is imported in functions.
except KeyboardInterrupt:
    print("run_semantic_segmentation_no_trainer.py: interrupted.", file=sys.stderr)
    sys.exit(130)


def train() -> int:
    # Here, where a library that is missing is one line.
    from segmenter_hf.training import with_accelerate
    from segmenter_hf.training.arguments import run_script

    return run_script(with_accelerate.AccelerateArguments, __doc__, with_accelerate.train)


def main() -> int:
    return run(train, extra="train")


if __name__ == "__main__":
    leave(main())
