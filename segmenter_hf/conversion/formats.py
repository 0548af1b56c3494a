"""The formats of checkpoints that are converted, and how each is told from the others: by content, not by names."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..image_processing_pil_segmenter import SegmenterImageProcessorPil
from ..modeling_segmenter import SegmenterPreTrainedModel
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
from .sources import Source
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


def recognise(source: Source) -> Format:
    """
    The format of a source.

    Raises:
        ConversionError: if it is of none; the message says what it holds.
    """
    for format in FORMATS.values():
        if format.matches(source):
            return format
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
        ConversionError: if the source is not of the format or is broken, or if there are options for an encoder, but
            it holds a whole model.
    """
    if not isinstance(source.contents, Mapping):
        raise ConversionError(
            f"{source.file} is no checkpoint: it holds an object of type {type(source.contents).__name__}, where a "
            "dictionary of weights is expected."
        )
    if format.is_encoder:
        return format.load(source, options)
    check_no_options(source.path, format.name, options)
    return format.load(source)


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


__all__ = ["FORMATS", "Converted", "Format", "check_no_options", "load", "recognise"]
