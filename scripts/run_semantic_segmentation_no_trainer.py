#!/usr/bin/env python
"""
Train Segmenter for semantic segmentation with a plain loop on accelerate.
"""

import sys

from segmenter_hf.training.arguments import parse_arguments
from segmenter_hf.training.with_accelerate import AccelerateArguments, train


def main() -> int:
    train(*parse_arguments(AccelerateArguments, __doc__))
    return 0


if __name__ == "__main__":
    sys.exit(main())
