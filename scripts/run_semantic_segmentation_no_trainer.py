#!/usr/bin/env python
"""
Train Segmenter for semantic segmentation with a plain loop on accelerate.
"""

import sys

from segmenter_hf.training.arguments import run_script
from segmenter_hf.training.with_accelerate import AccelerateArguments, train


def main() -> int:
    return run_script(AccelerateArguments, __doc__, train)


if __name__ == "__main__":
    sys.exit(main())
