"""The formats of checkpoints that are converted, and how each is told from the others: by content, not by names."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from transformers.utils import CONFIG_NAME

from ..configuration_segmenter import SegmenterConfig
from ..image_processing_pil_segmenter import SegmenterImageProcessorPil
from ..modeling_segmenter import SegmenterPreTrainedModel
from . import augreg, mmsegmentation, original, timm, transformers_vit
from .checksums import sha256_of
from .encoders import EncoderOptions
from .errors import ConversionError
from .settings import describe
from .sources import Source, list_prefixes
from .state_dict import list_names


Converted = tuple[SegmenterPreTrainedModel, SegmenterImageProcessorPil]


@dataclass(frozen=True)
class Format:
    """
    A format of checkpoints.

    Args:
        recognise (`Callable[[Source], bool]`): Whether a source is of this format.
        load (`Callable`): Makes model and image processor of a source; of encoders, with options too.
        is_encoder (`bool`): Whether it holds an encoder only, of which training starts.
    """

    recognise: Callable[[Source], bool]
    load: Callable[..., Converted]
    is_encoder: bool = False


# The formats by what users call them. Each is in a module that says how it is recognised and loaded.
FORMATS = {
    "original": Format(original.recognise, original.load),
    "mmsegmentation": Format(mmsegmentation.recognise, mmsegmentation.load),
    "mmsegmentation-encoder": Format(mmsegmentation.recognise_encoder, mmsegmentation.load_encoder, is_encoder=True),
    "augreg": Format(augreg.recognise, augreg.load, is_encoder=True),
    "timm": Format(timm.recognise, timm.load, is_encoder=True),
    "transformers": Format(transformers_vit.recognise, transformers_vit.load, is_encoder=True),
}


def strip_wrappers(source: Source, names: Iterable[str]) -> Source:
    """
    The source without what stands before the names of all its weights, as wrappers of models put it there (`model.`,
    `net.`, `student.`), where with the rest of the names it is of one of these formats, and with all of them of none.
    """
    formats = [FORMATS[name] for name in names]
    for prefix in list_prefixes(source.state_dict):
        unwrapped = replace(source, prefix=prefix)
        if any(format.recognise(unwrapped) for format in formats):
            return unwrapped
    return source


def find_format(source: Source) -> str:
    """The name of a source's format."""
    for name, format in FORMATS.items():
        if format.recognise(source):
            return name
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


def load(source: Source, name: str, options: EncoderOptions) -> Converted:
    """Model and image processor of a source of the format `name`."""
    if transformers_vit.recognise(source) and source.contents["model_type"] == SegmenterConfig.model_type:
        folder = source.file.parent
        raise ConversionError(
            f"{folder} is a Segmenter of this package (a {CONFIG_NAME} of model_type segmenter), which needs no "
            "conversion: from_pretrained and --model_name_or_path take the folder as it is. Its encoder alone: "
            f"SegmenterModel.from_pretrained({str(folder)!r})."
        )
    if not isinstance(source.contents, Mapping):
        raise ConversionError(
            f"{source.file} is no checkpoint: it holds an object of type {type(source.contents).__name__}, where a "
            "dictionary of weights is expected."
        )
    check_options(source.path, name, options)
    format = FORMATS[name]
    model, image_processor = format.load(source, options) if format.is_encoder else format.load(source)
    # transformers saves and loads fields that it does not know too, so that this stays with the weights.
    model.config.source_sha256 = {file.name: sha256_of(file) for file in source.weights_files}
    return model, image_processor


def check_options(source: Any, name: str, options: EncoderOptions):
    """Refuses options for an encoder where sources of the format `name` are whole models."""
    if options != EncoderOptions() and not FORMATS[name].is_encoder:
        raise ConversionError(
            f"{source} holds a whole model (format {name}), which says itself what its image size, attention "
            "heads, interpolation and normalisation are. These options are for encoders."
        )


__all__ = ["FORMATS", "Converted", "Format", "check_options", "find_format", "load", "strip_wrappers"]
