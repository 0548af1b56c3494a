#!/usr/bin/env python
"""
Train Segmenter for semantic segmentation with transformers' `Trainer`.

    python scripts/run_semantic_segmentation.py --model_name_or_path ade20k/seg_small_mask --dataset_name DATASET \\
        --output_dir outputs/model
    torchrun --nproc_per_node 8 scripts/run_semantic_segmentation.py ...
    python scripts/run_semantic_segmentation.py arguments.json

COST and RESULT of training from random initialisation on CamVid, with the exact command: in the card of the shipped
checkpoint, segmenter_hf/checkpoints/camvid/README.md.

The folder then holds the model, its image processor and code, results.json with what was measured and how, and the
trainer's logs. Run again, the command goes on from the last complete checkpoint; of a run that is finished, it only
evaluates. Without --do_train and --do_eval it trains and evaluates; with --do_eval alone it only evaluates.
"""

import sys


try:
    from segmenter_hf.command_line import run
    from segmenter_hf.processes import leave
# Loading torch takes seconds. What else takes long, or may be missing, is imported in functions.
except KeyboardInterrupt:
    print("run_semantic_segmentation.py: interrupted.", file=sys.stderr)
    sys.exit(130)


def train() -> int:
    # A library that is missing here is one line.
    from segmenter_hf.training import run_with_trainer
    from segmenter_hf.training.run_script import run_script

    return run_script(run_with_trainer.TrainingArguments, __doc__, run_with_trainer.train)


def main() -> int:
    return run(train, extra="train")


if __name__ == "__main__":
    leave(main())
