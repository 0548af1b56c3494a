#!/usr/bin/env python
"""
Train Segmenter for semantic segmentation with transformers' `Trainer`.

The checkpoint that ships with the package (COST: see segmenter_hf/checkpoints/camvid/README.md, with the result):

    python scripts/run_semantic_segmentation.py --dataset_name CAMVID_FOLDER --output_dir outputs/camvid

The dataset is a folder (or Hub id) that `datasets.load_dataset` reads, with an image and a label-map column and an
`id2label.json`. Without `--model_name_or_path` a model is trained from random initialisation.
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
