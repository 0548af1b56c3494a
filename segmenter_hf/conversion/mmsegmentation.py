"""
Segmenter checkpoints of MMSegmentation (https://github.com/open-mmlab/mmsegmentation): a dict whose `state_dict` has
the weights `backbone.*` and `decode_head.*`, and whose `meta` has the text of the config and the names of the labels.
Releases 0.x and 1.x differ in where the config says what. And the encoders that they start from: AugReg's weights in
MMSegmentation's names, as its tools/model_converters/vitjax2mmseg.py (commit 08c567b) writes them.
"""

import logging
from collections.abc import Mapping

import torch

from ..image_processing_pil_segmenter import SegmenterImageProcessorPil
from ..modeling_segmenter import SegmenterForSemanticSegmentation
from .encoders import Encoder, EncoderFacts, EncoderOptions, convert_fused, make_encoder
from .mmsegmentation_config import (
    check_agreement,
    check_model,
    list_unrepeated,
    read_config,
    read_config_text,
    read_image_processor,
    read_labels,
    read_normalization,
)
from .reporting import warn
from .sources import Source
from .state_dict import PATCH_KERNEL, StateDictConverter, architecture_of, build_model, check_dimensions, list_names
from .vision_transformer import MMSEGMENTATION_NAMES, NORMALIZATIONS, move_encoder, move_layers


logger = logging.getLogger(__name__)


def recognise(source: Source) -> bool:
    """Whether the weights of a source are those of a model of MMSegmentation with backbone and head."""
    has_part = [any(name.startswith(part) for name in source.state_dict) for part in ("backbone.", "decode_head.")]
    return all(has_part)


def recognise_encoder(source: Source) -> bool:
    """Whether the names are those of an encoder of MMSegmentation, and not of a segmentation model."""
    return f"{MMSEGMENTATION_NAMES.projection}.weight" in source.state_dict


def convert_state_dict(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """
    Renames and splits the tensors of MMSegmentation into a state dict of [`SegmenterForSemanticSegmentation`]. Depth
    and kind of decoder are those of the keys.

    Args:
        state_dict (`Mapping[str, torch.Tensor]`): Keys `backbone.*` and `decode_head.*`. It is not changed.

    Returns:
        `dict[str, torch.Tensor]`: float32 tensors under our names.
    """
    converter = StateDictConverter(state_dict)
    # Some heads only help training, and EMAHook of 0.x keeps a copy of all weights.
    converter.drop_all("auxiliary_head.")
    converter.drop_all("ema_")
    move_encoder(converter, MMSEGMENTATION_NAMES, "backbone.")
    if "decode_head.conv_seg.weight" in state_dict:
        # The linear decoder is a 1x1 convolution.
        name = "decode_head.conv_seg.weight"
        converter.move(name, "decoder.classifier.weight", lambda kernel: check_dimensions(name, kernel, 4).flatten(1))
        converter.move("decode_head.conv_seg.bias", "decoder.classifier.bias")
        return converter.finish()

    converter.move_module("decode_head.dec_proj", "decoder.projection")
    converter.move("decode_head.cls_emb", "decoder.class_embeddings")
    move_layers(converter, MMSEGMENTATION_NAMES, "decode_head.layers.", "decoder.layers.", min_layers=1)
    converter.move_module("decode_head.decoder_norm", "decoder.layernorm")
    converter.move("decode_head.patch_proj.weight", "decoder.patch_projection.weight")
    converter.move("decode_head.classes_proj.weight", "decoder.class_projection.weight")
    converter.move_module("decode_head.mask_norm", "decoder.mask_norm")
    return converter.finish()


def load(source: Source) -> tuple[SegmenterForSemanticSegmentation, SegmenterImageProcessorPil]:
    """
    Model and image processor of a Segmenter that was trained with MMSegmentation. A model that takes images with blue
    first becomes one that takes them with red first: its patch embedding's channels are put in that order.

    Args:
        source (`Source`): A checkpoint of release 0.x or 1.x, with the text of its config in it or beside it.
    """
    settings = read_config_text(source)
    check_model(settings)
    state_dict = convert_state_dict(source.state_dict)
    architecture = architecture_of(state_dict)
    check_agreement(settings, architecture, source.state_dict)
    config = read_config(source, settings, architecture)
    image_mean, image_std, is_rgb = read_normalization(settings)
    if not is_rgb:
        state_dict[PATCH_KERNEL] = state_dict[PATCH_KERNEL].flip(1)
        image_mean, image_std = image_mean[::-1], image_std[::-1]
    image_processor = read_image_processor(source, settings, config, image_mean, image_std)
    model = build_model(config, state_dict)
    unrepeated = list_unrepeated(settings)
    if unrepeated:
        warn(
            logger,
            "The image processor does not do all that MMSegmentation does to this checkpoint's images in tests. "
            "Results differ for images that this changes: %s.",
            list_names(unrepeated),
        )
    if read_labels(source, settings, config.num_labels)[0] is None:
        settings.warn_of_unknown_labels("dataset_type", config.num_labels)
    return model, image_processor


def load_encoder(source: Source, options: EncoderOptions) -> Encoder:
    """Model and image processor of an encoder in MMSegmentation's names."""
    facts = EncoderFacts(normalization=NORMALIZATIONS["vit"], position_embedding_interpolation="bicubic")
    return make_encoder(convert_fused(source.state_dict, MMSEGMENTATION_NAMES, source.path), facts, options)


__all__ = ["convert_state_dict", "load", "load_encoder", "recognise", "recognise_encoder"]
