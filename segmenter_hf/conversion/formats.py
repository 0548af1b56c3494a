"""The formats of checkpoints that are converted, and how each is told from the others: by content, not by names."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..configuration_segmenter import SegmenterConfig
from ..image_processing_pil_segmenter import SegmenterImageProcessorPil
from ..modeling_segmenter import SegmenterPreTrainedModel
from .checksums import sha256_of
from .encoders import (
    EncoderOptions,
    is_augreg,
    is_mmsegmentation_encoder,
    is_timm,
    load_augreg,
    load_mmsegmentation_encoder,
    load_timm,
)
from .errors import ConversionError
from .mmsegmentation import is_mmsegmentation, load_mmsegmentation
from .original import is_original, load_original
from .pretrained import is_transformers, load_transformers
from .settings import describe
from .sources import CONFIG_FILE, Source, list_prefixes
from .state_dict import list_names


Converted = tuple[SegmenterPreTrainedModel, SegmenterImageProcessorPil]


@dataclass(frozen=True)
class Format:
    """
    A format of checkpoints.

    Args:
        name (`str`): What users call it.
        matches (`Callable[[Source], bool]`): Whether a source is of this format.
        load (`Callable`): Makes model and image processor of a source; of encoders, with options too.
        is_encoder (`bool`): Whether it holds an encoder only, of which training starts.
    """

    name: str
    matches: Callable[[Source], bool]
    load: Callable[..., Converted]
    is_encoder: bool = False


FORMATS = {
    format.name: format
    for format in (
        Format("original", is_original, load_original),
        Format("mmsegmentation", is_mmsegmentation, load_mmsegmentation),
        Format("mmsegmentation-encoder", is_mmsegmentation_encoder, load_mmsegmentation_encoder, is_encoder=True),
        Format("augreg", is_augreg, load_augreg, is_encoder=True),
        Format("timm", is_timm, load_timm, is_encoder=True),
        Format("transformers", is_transformers, load_transformers, is_encoder=True),
    )
}


def unwrap(source: Source, formats: Iterable[Format]) -> Source:
    """
    The source without what stands before the names of all its weights, as wrappers of models put it there (`model.`,
    `net.`, `student.`), where with the rest of the names it is of one of these formats, and with all of them of none.
    """
    formats = list(formats)
    for prefix in list_prefixes(source.state_dict):
        unwrapped = replace(source, prefix=prefix)
        if any(format.matches(unwrapped) for format in formats):
            return unwrapped
    return source


def recognise(source: Source) -> Format:
    """
    The format of a source.

    Raises:
        ConversionError: if it is of none; the message says what it holds.
    """
    for format in FORMATS.values():
        if format.matches(source):
            return format
    if any(name.endswith("embeddings.patch_embeddings.projection.weight") for name in source.state_dict):
        raise ConversionError(
            f"{source.file} has the names of a model of transformers, or of a Segmenter that was converted already. "
            "Name the folder that holds its config.json as well."
        )
    if source.state_dict:
        holds = f"entries named {list_names(source.state_dict)}"
    elif isinstance(source.contents, Mapping):
        names = [name if isinstance(name, str) else describe(name) for name in source.unwrapped or source.contents]
        holds = f"{list_names(names)}, and no state dict, whose keys would all be names of tensors"
    else:
        holds = f"an object of type {type(source.contents).__name__}"
    raise ConversionError(
        f"{source.file} is of no format that can be converted ({', '.join(FORMATS)}): it holds {holds}."
    )


def load(source: Source, format: Format, options: EncoderOptions) -> Converted:
    """
    Model and image processor of a source.

    Raises:
        ConversionError: if the source is not of the format or is broken, or is a Segmenter of this package; or if
            there are options for an encoder, but it holds a whole model.
    """
    if is_transformers(source) and source.contents["model_type"] == SegmenterConfig.model_type:
        folder = source.file.parent
        raise ConversionError(
            f"{folder} is a Segmenter of this package (a {CONFIG_FILE} of model_type segmenter), which needs no "
            "conversion: from_pretrained and --model_name_or_path take the folder as it is. Its encoder alone: "
            f"SegmenterModel.from_pretrained({str(folder)!r})."
        )
    if not isinstance(source.contents, Mapping):
        raise ConversionError(
            f"{source.file} is no checkpoint: it holds an object of type {type(source.contents).__name__}, where a "
            "dictionary of weights is expected."
        )
    if not format.is_encoder:
        check_no_options(source.path, format.name, options)
    model, image_processor = format.load(source, options) if format.is_encoder else format.load(source)
    # The library saves and loads what it does not know too, so that this stays with the weights.
    model.config.source_sha256 = {file.name: sha256_of(file) for file in source.weights_files}
    return model, image_processor


def check_no_options(name: Any, format_name: str, options: EncoderOptions):
    """
    Raises:
        ConversionError: if there are options for an encoder, where `name` is a whole model.
    """
    if options != EncoderOptions():
        raise ConversionError(
            f"{name} holds a whole model (format {format_name}), which says itself what its image size, attention "
            "heads, interpolation and normalisation are. These options are for encoders."
        )


__all__ = ["FORMATS", "Converted", "Format", "check_no_options", "load", "recognise", "unwrap"]
