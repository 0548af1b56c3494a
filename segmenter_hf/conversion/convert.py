"""Converts a checkpoint of another implementation into a folder that `from_pretrained` loads."""

import os
import tempfile
from pathlib import Path

from safetensors import SafetensorError

from ..modeling_segmenter import SegmenterForSemanticSegmentation
from .errors import ConversionError
from .original import load_original


def check_output_dir(output_dir: Path, source: Path, overwrite: bool):
    """
    Refuses an output folder whose contents would be lost.

    Raises:
        ConversionError: if `output_dir` is a file, or a folder that is not empty; with `overwrite`, if it holds no
            model that `save_pretrained` wrote, or contains the source.
    """
    if not output_dir.exists():
        return
    if not output_dir.is_dir():
        raise ConversionError(f"{output_dir} is a file, not a folder.")
    if not any(output_dir.iterdir()):
        return
    if not overwrite:
        raise ConversionError(f"{output_dir} is not empty. Choose another folder, or pass --overwrite to replace it.")
    if source.resolve().is_relative_to(output_dir.resolve()):
        raise ConversionError(f"{output_dir} contains the source {source} and is not overwritten.")
    if not (output_dir / "config.json").is_file():
        raise ConversionError(f"{output_dir} holds no config.json, so it is no model folder and is not overwritten.")


def convert_checkpoint(
    source: str | Path, output_dir: str | Path, overwrite: bool = False
) -> SegmenterForSemanticSegmentation:
    """
    Converts a checkpoint of the original implementation into a folder with `model.safetensors`, `config.json`,
    `preprocessor_config.json` and the code that loads them, with this package or by `trust_remote_code=True`.

    The folder appears complete or not at all: it is written beside its place, and renamed.

    Args:
        source (`str` or `Path`): A folder with `checkpoint.pth` and `variant.yml`, or a file with `variant.yml` beside
            it.
        output_dir (`str` or `Path`): The folder to write. Missing parents are made.
        overwrite (`bool`, *optional*, defaults to `False`): Whether a model folder that is there already is replaced.

    Returns:
        [`SegmenterForSemanticSegmentation`]: the model as it was saved, in evaluation mode.

    Raises:
        ConversionError: if the source cannot be converted, or the output cannot be written, in one line.
    """
    source = Path(source)
    # Of a link, the folder that it points to is written: beside it is where renaming works.
    output_dir = Path(output_dir).resolve()
    check_output_dir(output_dir, source, overwrite)
    model, image_processor = load_original(source)

    try:
        output_dir.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{output_dir.name}-", dir=output_dir.parent) as folder:
            # A folder inside, because temporary folders are readable by their owner only.
            written = Path(folder) / "model"
            model.save_pretrained(written)
            image_processor.save_pretrained(written)
            # Again, since converting takes a while in which the folder may have been filled.
            check_output_dir(output_dir, source, overwrite)
            if output_dir.exists():
                os.rename(output_dir, Path(folder) / "replaced")
            os.rename(written, output_dir)
    except (OSError, SafetensorError) as error:
        raise ConversionError(f"{output_dir} cannot be written: {error}.") from error
    return model


__all__ = ["convert_checkpoint"]
