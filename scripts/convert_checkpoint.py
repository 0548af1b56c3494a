"""
Converts a checkpoint of the original Segmenter implementation into a folder that `from_pretrained` loads.

    python scripts/convert_checkpoint.py SOURCE OUTPUT_DIR

SOURCE is a folder that holds checkpoint.pth and variant.yml, as published with
https://github.com/rstrudel/segmenter, or a .pth file with variant.yml beside it. Nothing in either is executed.

Cost: seconds, for reading and writing the weights once, and memory for at most twice their size.
Result: OUTPUT_DIR with model.safetensors, config.json, preprocessor_config.json and the modelling code, which
AutoModelForSemanticSegmentation and pipeline("image-segmentation") load; its outputs are those of the original within
1e-4. A source that cannot be converted gives one line that says why and exit code 2, and leaves nothing behind.
"""

import argparse
import sys

from segmenter_hf.conversion import ConversionError, convert_checkpoint


def main() -> int:
    description, _, details = __doc__.strip().partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="SOURCE", help="folder of checkpoint.pth and variant.yml, or the .pth file")
    parser.add_argument(
        "output_dir", metavar="OUTPUT_DIR", help="folder to write; without --overwrite it must be empty or not exist"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the model that is already in OUTPUT_DIR")
    args = parser.parse_args()

    try:
        model = convert_checkpoint(args.source, args.output_dir, overwrite=args.overwrite)
    except ConversionError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    config = model.config
    print(
        f"{args.output_dir}: {config.decoder_type} decoder, {config.num_labels} labels, "
        f"patch size {config.patch_size}, {model.num_parameters() / 1e6:.1f}M parameters"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
