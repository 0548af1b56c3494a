#!/usr/bin/env python
"""
Train Segmenter for semantic segmentation with transformers' `Trainer`.

    python scripts/run_semantic_segmentation.py --dataset_name DATASET_FOLDER --output_dir outputs/model \\
        --max_steps 4900 --learning_rate 8e-4 --warmup_steps 300

COST and RESULT: those of the checkpoint that ships with the package, with its command, are in its card,
segmenter_hf/checkpoints/camvid/README.md.

The dataset is a folder (or Hub id) that `datasets.load_dataset` reads, with an image and a label-map column and an
`id2label.json`. All options of `TrainingArguments` apply but --do_train, --do_eval and --do_predict: it trains, then
evaluates. Without `--model_name_or_path` a model is trained from random initialisation.
"""

import sys

from transformers import HfArgumentParser, TrainingArguments

from segmenter_hf.training.semantic_segmentation import DataArguments, ModelArguments, train


def main() -> int:
    parser = HfArgumentParser((ModelArguments, DataArguments, TrainingArguments))
    model_args, data_args, training_args = parser.parse_args_into_dataclasses()
    train(model_args, data_args, training_args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
