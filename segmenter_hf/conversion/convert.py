"""Converts a checkpoint of any format into a folder that `from_pretrained` loads."""

import contextlib
import filecmp
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from transformers.dynamic_module_utils import get_relative_import_files
from transformers.utils import CONFIG_NAME

from .. import image_processing_segmenter, modeling_segmenter
from ..configuration_segmenter import SegmenterConfig
from ..image_processing_pil_segmenter import SegmenterImageProcessorPil
from ..modeling_segmenter import SegmenterPreTrainedModel
from ..output_folders import replacing_folder
from ..outputs import OutputError, refuse_unwritable
from .encoders import EncoderOptions
from .errors import ConversionError, refuse_os_errors
from .formats import FORMATS, Converted, check_options, find_format, load, strip_wrappers
from .released import ReleasedCheckpoint, apply_protocol, fetch_released, find_row, suggest_released
from .reporting import hide_progress_bars, hold_warnings, silence_libraries
from .safe_loading import load_json
from .sources import MissingSource, read_source
from .state_dict import list_names
from .timm import NAME_PREFIX, load_named


# Killed processes leave folders of this prefix beside their output, and the next one removes them.
TEMPORARY_PREFIX = ".converting-"
# The code that the library copies beside a model and its image processor: paths by names, found as the library does.
CODE_FILES = {
    Path(file).name: Path(file)
    for module in (modeling_segmenter, image_processing_segmenter)
    for file in (module.__file__, *get_relative_import_files(module.__file__))
}
# Older releases of transformers saved large models in several files.
MODEL_FILES = re.compile(
    r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json|preprocessor_config\.json"
)
# Each card of a converted model says what wrote it.
CARD_FILE, CARD_MARK = "README.md", b"Converted by `segmenter_hf`"
# The texts of the licences that weights in the table of released checkpoints have, by their identifiers.
LICENCE_FILE, LICENCES = "LICENSE", Path(__file__).with_name("licences")

# A function that adds files to a folder. It gets the folder's path, the source and the model.
AddDocuments = Callable[[Path, str | Path | ReleasedCheckpoint, SegmenterPreTrainedModel], None]


def check_model_folder(output_dir: Path, overwrite: bool, source: str | Path | ReleasedCheckpoint):
    """Refuses an output folder whose contents would be lost."""
    if not output_dir.exists():
        return
    if not output_dir.is_dir():
        raise ConversionError(f"{output_dir} is a file, not a folder.")
    if not any(output_dir.iterdir()):
        return
    if not overwrite:
        raise ConversionError(f"{output_dir} is not empty. Choose another folder, or pass --overwrite to replace it.")
    beside_source = []
    if not isinstance(source, ReleasedCheckpoint) and Path(source).exists():
        if Path(source).resolve().is_relative_to(output_dir):
            raise ConversionError(f"{output_dir} contains the source {source} and is not overwritten.")
        beside_source = [Path(source) if Path(source).is_dir() else Path(source).parent]
    foreign = [path.name for path in output_dir.iterdir() if not _is_written(path, [LICENCES, *beside_source])]
    if foreign:
        raise ConversionError(
            f"{output_dir} is not overwritten, since conversion has not written all that is in it: "
            f"{list_names(foreign)}. Choose another folder, or move that away."
        )
    if not (output_dir / CONFIG_NAME).exists():
        raise ConversionError(f"{output_dir} holds no {CONFIG_NAME}, so it is no model folder and is not overwritten.")


def _is_written(path: Path, folders_of_terms: list[Path]) -> bool:
    """Whether conversion, or a push, has written a file: of a model, a card, or a copy of terms in those folders."""
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
    # What is in two places, as copies of notices and licences are, is not lost in one.
    others = [file for folder in folders_of_terms for file in folder.iterdir() if file.is_file()]
    return any(filecmp.cmp(path, file, shallow=False) for file in others)


@contextlib.contextmanager
def new_folder(output_dir: str | Path, overwrite: bool, source: str | Path | ReleasedCheckpoint) -> Iterator[Path]:
    """
    A folder to write into that gets the name `output_dir` when all is done. It is made at once, since there is no use
    in converting what cannot be written. See [`~segmenter_hf.output_folders.replacing_folder`].
    """
    with refuse_os_errors(f"{output_dir} cannot be written"):
        # A link is followed, since renaming works beside the folder that it points to.
        output_dir = Path(output_dir).resolve()
        check_model_folder(output_dir, overwrite, source)
    try:
        # The folder may be filled while a model is converted, so this checks it again.
        check = partial(check_model_folder, output_dir, overwrite, source)
        with replacing_folder(output_dir, TEMPORARY_PREFIX, check) as folder:
            yield folder
    except OutputError as error:
        raise ConversionError(str(error)) from error


def convert_checkpoint(
    source: str | Path | ReleasedCheckpoint,
    output_dir: str | Path,
    overwrite: bool = False,
    format: str | None = None,
    encoder_options: EncoderOptions | None = None,
    allow_missing_checksums: bool = False,
    cache_dir: str | Path | None = None,
    add_documents: AddDocuments | None = None,
) -> SegmenterPreTrainedModel:
    """
    Converts a checkpoint into a folder with `model.safetensors`, `config.json`, `preprocessor_config.json` and the
    code that loads them, with this package or by `trust_remote_code=True`.

    The folder appears complete or not at all: it is written beside its place, and renamed. `source_sha256` in
    `config.json`, which `save_pretrained` keeps, has the SHA-256 of each file that the weights are from. Compare it
    with what their publisher says: files of safetensors, and of `torch.save` before PyTorch 1.6, hold no checksums by
    which damage would show.

    Args:
        source (`str`, `Path` or `ReleasedCheckpoint`): What to convert. A file of weights, or the folder that holds
            it, of a Segmenter of the original implementation (with `variant.yml` beside it) or of MMSegmentation (with
            `config.py` beside it, if it has no config inside), or of a Vision Transformer to start training from:
            AugReg's `.npz`, files of timm, DeiT and MMSegmentation, folders of transformers. Where there is no such
            path, the name of a released checkpoint ([`~segmenter_hf.conversion.released.find_released`]), which is
            downloaded and gets the windows and sizes of its published evaluation; the id of a repository of the Hub;
            or `timm:NAME`, which timm downloads.
        output_dir (`str` or `Path`): The folder to write. Missing parents are made.
        overwrite (`bool`, *optional*, defaults to `False`): Whether a model that conversion wrote there before is
            replaced. A folder with anything else in it never is.
        format (`str`, *optional*): One of [`~segmenter_hf.conversion.formats.FORMATS`]. By default, the contents tell.
        encoder_options (`EncoderOptions`, *optional*): What files of encoders do not say.
        allow_missing_checksums (`bool`, *optional*, defaults to `False`): Whether a file may be without checksums that
            `torch.save` wrote after `torch.serialization.set_crc32_options(False)`.
        cache_dir (`str` or `Path`, *optional*): Where downloads of released checkpoints are kept. See
            [`~segmenter_hf.conversion.released.fetch_released`].
        add_documents (`Callable`, *optional*): Adds files to the folder, of which it gets the path, the source and the
            model. [`segmenter_hf.hub.converted.add_documents`] writes the card, and the licences and notices of the
            weights.

    Returns:
        The model as it was saved, in evaluation mode: a [`SegmenterForSemanticSegmentation`], or of an encoder a
        [`SegmenterModel`].

    Raises:
        ConversionError: if the source cannot be converted, or the output cannot be written, in one line.
    """
    source = find_row(source) or source
    with hold_warnings(), new_folder(output_dir, overwrite, source) as folder, silence_libraries():
        model, image_processor = load_checkpoint(source, format, encoder_options, allow_missing_checksums, cache_dir)
        save_checkpoint(model, image_processor, folder, output_dir)
        if add_documents is not None:
            add_documents(folder, source, model)
    return model


def load_checkpoint(
    source: str | Path | ReleasedCheckpoint,
    format: str | None = None,
    encoder_options: EncoderOptions | None = None,
    allow_missing_checksums: bool = False,
    cache_dir: str | Path | None = None,
) -> Converted:
    """
    Model and image processor of a checkpoint of any format. See [`convert_checkpoint`] for arguments and errors.
    """
    options = encoder_options or EncoderOptions()
    row = find_row(source)
    if format is not None and format not in FORMATS:
        raise ConversionError(f"There is no format {format!r}. The formats are {', '.join(FORMATS)}.")
    if row is not None:
        # What does not fit is said before a download of hours.
        if format not in (None, row.source):
            raise ConversionError(f"{row.name} is of the format {row.source}, not {format}. Leave --format out.")
        check_options(row.name, row.source, options)
        file = read_source(fetch_released(row, cache_dir), allow_missing_checksums)
        model, image_processor = load(file, row.source, options)
        return model, apply_protocol(image_processor, row)
    if str(source).startswith(NAME_PREFIX):
        if format not in (None, "timm"):
            raise ConversionError(f"{source} names a model of timm, which is not of the format {format}.")
        return load_named(str(source).removeprefix(NAME_PREFIX), options)
    try:
        file = read_source(source, allow_missing_checksums)
    except MissingSource as error:
        raise ConversionError(f"{error}{suggest_released(str(source))}") from error
    file = strip_wrappers(file, FORMATS if format is None else [format])
    return load(file, format or find_format(file), options)


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


__all__ = ["convert_checkpoint", "load_checkpoint", "save_checkpoint"]
