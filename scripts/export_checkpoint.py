#!/usr/bin/env python
"""
Save a trained model for shipping: float16 weights that load as float32, at half the size.

    python scripts/export_checkpoint.py MODEL OUTPUT_DIR [--without_code]

COST: seconds. RESULT: OUTPUT_DIR with model.safetensors in float16, config.json with "dtype": "float32", the image
processor's settings and the code that loads them. Those of its files that are there already are replaced, once all are
written; others in OUTPUT_DIR, such as README and NOTICE, are left alone. Notices and licences of MODEL come along, and
its card where OUTPUT_DIR has none, which states the licence and what the weights were made from.
"""

import argparse
import json
import os
import shutil
import sys


try:
    from segmenter_hf.command_line import run, user_path
# While torch is loaded, which takes seconds. What else takes long, or may be missing, is imported in functions.
except KeyboardInterrupt:
    print("export_checkpoint.py: interrupted.", file=sys.stderr)
    sys.exit(130)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder or Hub id of a Segmenter")
    parser.add_argument("output_dir", type=user_path, help="folder to write into")
    parser.add_argument(
        "--without_code",
        action="store_true",
        help="leave the code out, of a model that is only loaded where the package is installed",
    )
    return parser.parse_args()


def export(args: argparse.Namespace):
    import torch
    from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation
    from transformers.utils import CONFIG_NAME, IMAGE_PROCESSOR_NAME, cached_file

    from segmenter_hf.conversion.convert import CARD_FILE
    from segmenter_hf.hub.origins import load_starting_weights
    from segmenter_hf.output_folders import temporary_folder
    from segmenter_hf.outputs import check_output_dir, making_folders, refuse_unwritable, replacing_file

    check_output_dir(args.output_dir)
    model = AutoModelForSemanticSegmentation.from_pretrained(args.model, dtype=torch.float16)
    image_processor = AutoImageProcessor.from_pretrained(args.model)
    card = cached_file(args.model, CARD_FILE, _raise_exceptions_for_missing_entries=False)
    with refuse_unwritable(args.output_dir), making_folders(args.output_dir):
        # They are the same weights, under the same terms, which are there before the weights are.
        load_starting_weights(args.model).save_documents(args.output_dir)
        if card is not None and not (args.output_dir / CARD_FILE).exists():
            with replacing_file(args.output_dir / CARD_FILE) as unfinished:
                shutil.copyfile(card, unfinished)
        with temporary_folder(args.output_dir, ".exporting-") as folder:
            model.save_pretrained(folder)
            image_processor.save_pretrained(folder)
            for name in (CONFIG_NAME, IMAGE_PROCESSOR_NAME):
                settings = json.loads((folder / name).read_text(encoding="utf-8"))
                if name == CONFIG_NAME:
                    settings["dtype"] = "float32"
                if args.without_code:
                    settings.pop("auto_map")
                (folder / name).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
            if args.without_code:
                for file in folder.glob("*.py"):
                    file.unlink()
            for file in folder.iterdir():
                # safetensors files are readable by their owner only; what ships must be readable by all.
                file.chmod(0o644)
                os.replace(file, args.output_dir / file.name)


def main() -> int:
    # OSError and ValueError: those of transformers about a model that is not there, or is none of a Segmenter.
    return run(
        lambda: export(parse_arguments()), (OSError, ValueError), if_interrupted="Run it again.", extra="convert"
    )


if __name__ == "__main__":
    sys.exit(main())
