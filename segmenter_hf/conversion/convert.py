"""Converts a checkpoint of any format into a folder that `from_pretrained` loads."""

import contextlib
import filecmp
import re
from collections.abc import Iterator
from pathlib import Path

from transformers.utils import CONFIG_NAME

from .. import configuration_segmenter, image_processing_pil_segmenter, image_processing_segmenter, modeling_segmenter
from ..configuration_segmenter import SegmenterConfig
from ..image_processing_pil_segmenter import SegmenterImageProcessorPil
from ..modeling_segmenter import SegmenterPreTrainedModel
from ..output_folders import replacing_folder
from ..outputs import OutputError, refuse_unwritable
from .encoders import EncoderOptions
from .errors import ConversionError, refuse_os_errors
from .formats import FORMATS, Converted, check_no_options, find_format, load, unwrap
from .released import ReleasedCheckpoint, apply_protocol, fetch_released, find_released, is_released
from .reporting import hide_progress_bars, hold_warnings, silence_libraries
from .safe_loading import load_json
from .sources import read_source
from .state_dict import list_names
from .timm import NAME_PREFIX, load_named


# Of the folders beside its output, which killed processes leave and the next one removes.
TEMPORARY_PREFIX = ".converting-"
CODE_MODULES = (
    configuration_segmenter,
    modeling_segmenter,
    image_processing_segmenter,
    image_processing_pil_segmenter,
)
CODE_FILES = {Path(module.__file__).name for module in CODE_MODULES}
# In several files too, as older releases of transformers saved large models.
MODEL_FILES = re.compile(
    r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json|preprocessor_config\.json"
)
# The card, which says what wrote it, and the licences and notices of the weights.
CARD_FILE, CARD_MARK = "README.md", b"Converted by `segmenter_hf`"
LICENCE_FILE, LICENCES = "LICENSE", Path(__file__).parents[1] / "hub" / "licences"


def check_model_folder(output_dir: str | Path, overwrite: bool = False, source: str | Path | None = None) -> Path:
    """
    Refuses an output folder whose contents would be lost, and returns the folder that will be written: of a link the
    one that it points to, since beside it is where renaming works.

    Raises:
        ConversionError: if `output_dir` is a file, or a folder that is not empty; with `overwrite`, if it holds
            anything but a model that conversion wrote, or contains the source.
    """
    with refuse_os_errors(f"{output_dir} cannot be written"):
        return _check_model_folder(Path(output_dir).resolve(), overwrite, source)


def _check_model_folder(output_dir: Path, overwrite: bool, source: str | Path | None) -> Path:
    if not output_dir.exists():
        return output_dir
    if not output_dir.is_dir():
        raise ConversionError(f"{output_dir} is a file, not a folder.")
    if not any(output_dir.iterdir()):
        return output_dir
    if not overwrite:
        raise ConversionError(f"{output_dir} is not empty. Choose another folder, or pass --overwrite to replace it.")
    if source is not None and Path(source).resolve().is_relative_to(output_dir):
        raise ConversionError(f"{output_dir} contains the source {source} and is not overwritten.")
    foreign = find_foreign(output_dir, source)
    if foreign:
        raise ConversionError(
            f"{output_dir} is not overwritten, since conversion has not written all that is in it: "
            f"{list_names(foreign)}. Choose another folder, or move that away."
        )
    if not (output_dir / CONFIG_NAME).exists():
        raise ConversionError(f"{output_dir} holds no {CONFIG_NAME}, so it is no model folder and is not overwritten.")
    return output_dir


def find_foreign(folder: Path, source: str | Path | None = None) -> list[str]:
    """The names of what neither conversion, of that source, nor a push has written into a folder."""
    beside = []
    if source is not None and Path(source).exists():
        beside = [Path(source)] if Path(source).is_dir() else [Path(source).parent]
    return [path.name for path in folder.iterdir() if not _is_written(path, [LICENCES, *beside])]


def _is_written(path: Path, sources: list[Path]) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    if path.name == CONFIG_NAME:
        with contextlib.suppress(ConversionError):
            return load_json(path).get("model_type") == SegmenterConfig.model_type
        return False
    if path.name == CARD_FILE:
        return CARD_MARK in path.read_bytes()
    if path.name in CODE_FILES or MODEL_FILES.fullmatch(path.name) is not None:
        return True
    # Notices and licences: what is in two places is not lost in one.
    others = [file for source in sources for file in source.iterdir() if file.is_file()]
    return any(filecmp.cmp(path, file, shallow=False) for file in others)


@contextlib.contextmanager
def new_folder(output_dir: str | Path, overwrite: bool = False, source: str | Path | None = None) -> Iterator[Path]:
    """
    A folder to write into that gets the name `output_dir` when all is done. It is made at once, since there is no use
    in converting what cannot be written. See [`~segmenter_hf.output_folders.replacing_folder`].

    Raises:
        ConversionError: if the folder cannot be written, or contents of `output_dir` would be lost.
    """
    output_dir = check_model_folder(output_dir, overwrite, source)
    try:
        # Checked again, since converting takes a while in which the folder may have been filled.
        with replacing_folder(
            output_dir, TEMPORARY_PREFIX, lambda: check_model_folder(output_dir, overwrite, source)
        ) as folder:
            yield folder
    except OutputError as error:
        raise ConversionError(str(error)) from error


def convert_checkpoint(
    source: str | Path,
    output_dir: str | Path,
    overwrite: bool = False,
    format: str | None = None,
    encoder_options: EncoderOptions | None = None,
    allow_missing_checksums: bool = False,
) -> SegmenterPreTrainedModel:
    """
    Converts a checkpoint into a folder with `model.safetensors`, `config.json`, `preprocessor_config.json` and the
    code that loads them, with this package or by `trust_remote_code=True`; with the notices and licences that stand
    beside the source, if there are any, and a README.md that names them.

    The folder appears complete or not at all: it is written beside its place, and renamed. `source_sha256` in
    `config.json`, which `save_pretrained` keeps, has the SHA-256 of each file that the weights are from. Compare it
    with what their publisher says: files of safetensors, and of `torch.save` before PyTorch 1.6, hold no checksums by
    which damage would show.

    Args:
        source (`str` or `Path`): What to convert: a file of weights, or the folder that holds it, of a Segmenter of
            the original implementation (with `variant.yml` beside it) or of MMSegmentation (with `config.py` beside
            it, if it has no config inside), or of a Vision Transformer to start training from: AugReg's `.npz`, files
            of timm, DeiT and MMSegmentation, folders of transformers; or `timm:NAME`, which timm downloads.
        output_dir (`str` or `Path`): The folder to write. Missing parents are made.
        overwrite (`bool`, *optional*, defaults to `False`): Whether a model that conversion wrote there before is
            replaced. A folder with anything else in it never is.
        format (`str`, *optional*): One of [`~segmenter_hf.conversion.formats.FORMATS`]. By default, the contents tell.
        encoder_options (`EncoderOptions`, *optional*): What files of encoders do not say.
        allow_missing_checksums (`bool`, *optional*, defaults to `False`): Whether a file may be without checksums that
            `torch.save` wrote after `torch.serialization.set_crc32_options(False)`.

    Returns:
        The model as it was saved, in evaluation mode: a [`SegmenterForSemanticSegmentation`], or of an encoder a
        [`SegmenterModel`].

    Raises:
        ConversionError: if the source cannot be converted, or the output cannot be written, in one line.
    """
    with hold_warnings(), new_folder(output_dir, overwrite, source) as folder, silence_libraries():
        model, image_processor = load_checkpoint(source, format, encoder_options, allow_missing_checksums)
        save_checkpoint(model, image_processor, folder, output_dir)
        # Not before: it imports this module.
        from ..hub.converted import write_source_documents

        write_source_documents(folder, source)
    return model


def convert_released(
    name: str,
    output_dir: str | Path,
    cache_dir: str | Path | None = None,
    overwrite: bool = False,
    format: str | None = None,
    encoder_options: EncoderOptions | None = None,
    allow_missing_checksums: bool = False,
) -> SegmenterPreTrainedModel:
    """
    Downloads a released checkpoint and converts it, with the windows and sizes of its published evaluation, its card
    and its licence.

    Args:
        name (`str`): A name that [`~segmenter_hf.conversion.released.find_released`] knows.
        cache_dir (`str` or `Path`, *optional*): Where downloads are kept. See
            [`~segmenter_hf.conversion.released.fetch_released`].

    The other arguments, what is returned, and errors are those of [`convert_checkpoint`].
    """
    released = find_released(name)
    # Before a download of hours, not after it.
    check_released_options(released, format, encoder_options)
    with hold_warnings(), new_folder(output_dir, overwrite) as folder:
        source = fetch_released(released, cache_dir)
        check_model_folder(output_dir, overwrite, source)
        with silence_libraries():
            model, image_processor = load_checkpoint(source, released.source, encoder_options, allow_missing_checksums)
            save_checkpoint(model, apply_protocol(image_processor, released), folder, output_dir)
        # Not before: it imports this module.
        from ..hub.converted import write_released_documents

        write_released_documents(folder, released, model)
    return model


def check_released_options(released: ReleasedCheckpoint, format: str | None, options: EncoderOptions | None):
    """
    Raises:
        ConversionError: if what is asked for does not fit the released checkpoint.
    """
    if format not in (None, released.source):
        raise ConversionError(f"{released.name} is of the format {released.source}, not {format}. Leave --format out.")
    if not released.is_encoder:
        check_no_options(released.name, released.source, options or EncoderOptions())


def load_checkpoint(
    source: str | Path,
    format: str | None = None,
    encoder_options: EncoderOptions | None = None,
    allow_missing_checksums: bool = False,
) -> Converted:
    """
    Model and image processor of a checkpoint of any format. See [`convert_checkpoint`] for arguments and errors.
    """
    options = encoder_options or EncoderOptions()
    if format is not None and format not in FORMATS:
        raise ConversionError(f"There is no format {format!r}. The formats are {', '.join(FORMATS)}.")
    if str(source).startswith(NAME_PREFIX):
        if format not in (None, "timm"):
            raise ConversionError(f"{source} names a model of timm, which is not of the format {format}.")
        return load_named(str(source).removeprefix(NAME_PREFIX), options)
    if is_released(source):
        raise ConversionError(
            f"{source} does not exist here. The released checkpoint of that name: --released {source}"
        )
    source = read_source(source, allow_missing_checksums)
    source = unwrap(source, FORMATS if format is None else [format])
    return load(source, format or find_format(source), options)


def save_checkpoint(
    model: SegmenterPreTrainedModel, image_processor: SegmenterImageProcessorPil, folder: Path, output_dir: str | Path
):
    """
    Saves model and image processor into a folder.

    Raises:
        OutputError: if that fails, naming `output_dir`, the name that the folder is to have.
    """
    with refuse_unwritable(output_dir), hide_progress_bars():
        model.save_pretrained(folder)
        image_processor.save_pretrained(folder)


__all__ = ["convert_checkpoint", "convert_released", "load_checkpoint"]
