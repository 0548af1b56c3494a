"""
Converts a checkpoint of another implementation into a folder that `from_pretrained` loads.

    python scripts/convert_checkpoint.py SOURCE OUTPUT_DIR

SOURCE is a file of weights or the folder that holds it, the id of a repository of the Hub, or, where there is no such
path, the name of a released checkpoint (--list_released), such as ade20k/seg_base_mask: that is downloaded, resuming
what an earlier run left, checked, and saved with the protocol of its published evaluation. Other sources are told by
their contents:

    original                checkpoint.pth with variant.yml beside it, as published with
                            https://github.com/rstrudel/segmenter
    mmsegmentation          a Segmenter of MMSegmentation 0.x or 1.x; the config, if it is not inside, beside it
    augreg                  Vision Transformer weights in JAX's layout (.npz)
    timm                    a Vision Transformer of timm or DeiT (.pth, .safetensors or a folder with one), or
                            timm:NAME, which timm downloads
    mmsegmentation-encoder  the weights that MMSegmentation's Segmenters start from
    transformers            a folder of a ViT or DeiT of transformers

What wrappers put before all names of weights (_orig_mod., module., model., net.) is left out of them. The first two
give a model that segments, the others an encoder: SegmenterForSemanticSegmentation.from_pretrained loads it beneath a
new decoder, to be trained. Nothing in a file is executed.

A file whose contents do not fit its checksums is refused. Those of safetensors, and of torch.save before PyTorch 1.6,
hold none: compare the SHA-256, which is printed and kept in config.json (source_sha256), with the publisher's.

Cost: seconds, for reading and writing the weights once, and memory for at most twice their size, or for files of half
precision twice what they have in float32.
Result: OUTPUT_DIR with model.safetensors, config.json, preprocessor_config.json and the modelling code, which
AutoModelForSemanticSegmentation and pipeline("image-segmentation") load; its outputs are those of the source within
1e-4. A source that cannot be converted gives one line that says why and exit code 2, and leaves nothing behind.
"""

import argparse
import sys


try:
    from segmenter_hf.command_line import run, user_path
# While torch is loaded, which takes seconds. What else takes long, or may be missing, is imported in functions.
except KeyboardInterrupt:
    print("convert_checkpoint.py: interrupted.", file=sys.stderr)
    sys.exit(130)


def parse_size(text: str) -> tuple[int, int]:
    """`(height, width)` of a number of pixels, or of two with an x between."""
    sides = [int(side) for side in text.split("x")]
    if len(sides) > 2 or min(sides) < 1:
        raise ValueError(text)
    return sides[0], sides[-1]


class ListReleased(argparse.Action):
    """Prints the table of released checkpoints and exits, as --help does."""

    def __call__(self, parser, namespace, values, option_string=None):
        from segmenter_hf.conversion.released import format_table

        print(format_table())
        parser.exit()


def parse_arguments() -> argparse.Namespace:
    from segmenter_hf.conversion.formats import FORMATS

    description, _, details = __doc__.strip().partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        nargs="?",
        help="file, folder, name of a released checkpoint, id on the Hub, or timm:NAME",
    )
    parser.add_argument(
        "output_dir",
        metavar="OUTPUT_DIR",
        type=user_path,
        help="folder to write; without --overwrite it must be empty or not exist",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what conversion wrote into OUTPUT_DIR")
    parser.add_argument("--format", choices=FORMATS, help="the format of SOURCE, where its contents should not tell")
    parser.add_argument(
        "--allow_missing_checksums",
        action="store_true",
        help="take files that torch.save wrote after set_crc32_options(False), whose damage would not show",
    )

    released = parser.add_argument_group("released checkpoints")
    released.add_argument(
        "--released", metavar="NAME", help="the released checkpoint NAME, also where a path here has that name"
    )
    released.add_argument(
        "--cache_dir", type=user_path, help="folder of downloads (default: segmenter_hf in Hugging Face's cache)"
    )
    released.add_argument("--list_released", action=ListReleased, nargs=0, help="print the released checkpoints, exit")

    encoders = parser.add_argument_group("encoders", "What their files do not say, or you want otherwise.")
    encoders.add_argument(
        "--image_size",
        type=parse_size,
        metavar="SIZE",
        help="resize position embeddings to images of so many pixels: 512, or 512x1024 for HEIGHTxWIDTH",
    )
    encoders.add_argument("--num_attention_heads", type=int, help="default: one for each 64 channels")
    encoders.add_argument(
        "--position_embedding_interpolation",
        choices=("bilinear", "bicubic"),
        help="how position embeddings are resized, here and later (default: as the source does)",
    )
    encoders.add_argument(
        "--normalization",
        choices=("vit", "deit"),
        help="mean and standard deviation of images: vit 0.5 and 0.5, deit those of ImageNet (default: the source's)",
    )

    hub = parser.add_argument_group("Hub", "With the token of `hf auth login`, or HF_TOKEN.")
    hub.add_argument("--push_to_hub", action="store_true", help="upload OUTPUT_DIR to the repository --repo_id")
    hub.add_argument("--repo_id", metavar="OWNER/NAME", help="the repository; it is made if there is none")
    hub.add_argument("--private", action="store_true", help="make a new repository private")

    args = parser.parse_args()
    if args.push_to_hub != (args.repo_id is not None):
        parser.error("--push_to_hub and --repo_id belong together")
    if (args.source is None) != (args.released is not None):
        parser.error("name either SOURCE and OUTPUT_DIR, or --released NAME and OUTPUT_DIR")
    return args


def convert(args: argparse.Namespace):
    """
    Raises:
        ConversionError: if it fails, for reasons that nobody thought of too.
        OutputError, PushError: see [`push`].
    """
    from segmenter_hf import SegmenterForSemanticSegmentation
    from segmenter_hf.conversion import ConversionError, EncoderOptions, convert_checkpoint
    from segmenter_hf.conversion.released import find_released, find_row
    from segmenter_hf.hub.converted import add_documents

    try:
        row = find_row(args.source) if args.released is None else find_released(args.released)
        model = convert_checkpoint(
            row or args.source,
            args.output_dir,
            overwrite=args.overwrite,
            format=args.format,
            encoder_options=EncoderOptions(
                image_size=args.image_size,
                num_attention_heads=args.num_attention_heads,
                position_embedding_interpolation=args.position_embedding_interpolation,
                normalization=args.normalization,
            ),
            allow_missing_checksums=args.allow_missing_checksums,
            cache_dir=args.cache_dir,
            add_documents=add_documents,
        )
    except (ConversionError, ModuleNotFoundError):
        raise
    # Users, and whoever reads the log of many conversions, get one line of these too.
    except Exception as error:
        lines = str(error).strip().splitlines() or ["no message"]
        raise ConversionError(f"unexpected {type(error).__name__}: {lines[0]}. Please report this.") from error

    config = model.config
    if isinstance(model, SegmenterForSemanticSegmentation):
        kind = f"{config.decoder_type} decoder, {config.num_labels} labels"
    else:
        kind = f"encoder of {config.num_hidden_layers} layers for images of {config.image_size}"
    size = f"{model.num_parameters() / 1e6:.1f}M parameters"
    print(f"{args.output_dir}: {kind}, patch size {config.patch_size}, {size}")
    for file, sha256 in getattr(config, "source_sha256", {}).items():
        print(f"from {file}, SHA-256 {sha256}")

    if args.push_to_hub:
        push(args, row, model)


def push(args: argparse.Namespace, row, model):
    """
    Raises:
        OutputError: if card and licence cannot be written.
        PushError: if the Hub fails.
    """
    from huggingface_hub import HfApi

    from segmenter_hf.hub.client import push_folder
    from segmenter_hf.hub.figures import published_figures
    from segmenter_hf.hub.repository import write_card_and_licence

    if row is not None:
        write_card_and_licence(args.output_dir, row, args.repo_id, "main", published_figures(row), model)
    uploaded = push_folder(HfApi(), args.output_dir, args.repo_id, private=args.private)
    print(f"{args.repo_id}: {len(uploaded)} files uploaded")


def start() -> int:
    from segmenter_hf.conversion import ConversionError
    from segmenter_hf.hub.client import PushError

    args = parse_arguments()
    return run(lambda: convert(args), (ConversionError, PushError))


def main() -> int:
    return run(start, extra="convert")


if __name__ == "__main__":
    sys.exit(main())
