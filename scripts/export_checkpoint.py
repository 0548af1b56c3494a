#!/usr/bin/env python
"""
Save a trained model for shipping: float16 weights that load as float32, at half the size.

    python scripts/export_checkpoint.py MODEL OUTPUT_DIR

COST: seconds. RESULT: OUTPUT_DIR with model.safetensors in float16, config.json with "dtype": "float32", the image
processor's settings and the code that loads them; README and NOTICE in OUTPUT_DIR are left alone.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

import segmenter_hf  # noqa: F401 (registers the Auto classes)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder or Hub id of a Segmenter")
    parser.add_argument("output_dir", type=Path, help="folder to write into")
    args = parser.parse_args()

    args.output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.output_dir.parent) as folder:
        written = Path(folder)
        AutoModelForSemanticSegmentation.from_pretrained(args.model, dtype=torch.float16).save_pretrained(written)
        AutoImageProcessor.from_pretrained(args.model).save_pretrained(written)
        config_file = written / "config.json"
        config = json.loads(config_file.read_text(encoding="utf-8"))
        config["dtype"] = "float32"
        config_file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        for file in written.iterdir():
            # safetensors files are readable by their owner only; what ships must be readable by all.
            file.chmod(0o644)
            os.replace(file, args.output_dir / file.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
