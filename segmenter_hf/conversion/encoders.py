"""
What encoders without a decoder have in common, whatever they are from: what the user may say about them, what their
source does, and how a model and an image processor are made from that, to start training from.
"""

import copy
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..configuration_segmenter import SegmenterConfig
from ..evaluation.record import EvaluationProtocol, Sides
from ..image_processing_pil_segmenter import SegmenterImageProcessorPil
from ..modeling_segmenter import SegmenterModel
from .errors import ConversionError
from .reporting import warn
from .settings import Settings, describe, is_list_of, is_number
from .state_dict import (
    StateDictConverter,
    architecture_of,
    build_model,
    image_processor_of,
    list_names,
    make_config,
)
from .vision_transformer import NORMALIZATIONS, FusedNames, move_encoder


logger = logging.getLogger(__name__)

Encoder = tuple[SegmenterModel, SegmenterImageProcessorPil]
# They are mean and standard deviation per channel, of images scaled to 0..1.
Normalization = tuple[list[float], list[float]]

# AugReg (vit_jax leaves Flax's default), timm, DeiT and MMSegmentation all have this epsilon.
LAYER_NORM_EPS = 1e-6
# Every encoder that Segmenter was published with has heads of this width.
HEAD_DIM = 64
# The widths of ViT-H ("An Image is Worth 16x16 Words", table 1), ViT-g and ViT-G ("Scaling Vision Transformers", table
# 2) are multiples of 64, but their heads are wider. These are their numbers of heads.
WIDTHS_WITH_WIDER_HEADS = {1280: 16, 1408: 16, 1664: 16}
# Layers of the published encoders of each width: those that the paper takes, and the above.
PUBLISHED_NUM_LAYERS = {192: 12, 384: 12, 768: 12, 1024: 24, 1280: 32, 1408: 40, 1664: 48}
# Images are resized until the short side is that of the window, or the long one this many times that, as for ADE20K.
MAX_RATIO = 4
# Position embeddings are resized to at most those of 8192 x 8192 pixels in patches of 16, which take a gigabyte.
MAX_PATCHES = 2**18


@dataclass(frozen=True)
class EncoderOptions:
    """
    What the user says about an encoder. `None`: as its source says, or else as documented here.

    Args:
        image_size (`int` or `(height, width)`, *optional*): Size in pixels to whose grid the position embeddings are
            resized; a multiple of the patch size. Defaults to the one that they were trained for.
        num_attention_heads (`int`, *optional*): Attention heads of a layer, where the source does not hold them.
            Defaults to one per 64 channels.
        position_embedding_interpolation (`str`, *optional*): `"bilinear"` or `"bicubic"`. Defaults to what the
            source's code base resizes by: bicubic for MMSegmentation and transformers, and for all others bilinear, as
            the original implementation does.
        normalization (`str`, *optional*): `"vit"` (mean and standard deviation 0.5) or `"deit"` (those of ImageNet).
    """

    image_size: int | tuple[int, int] | None = None
    num_attention_heads: int | None = None
    position_embedding_interpolation: str | None = None
    normalization: str | None = None


@dataclass(frozen=True)
class EncoderFacts:
    """
    What a source says about its encoder beside the weights, or what holds for all sources of its kind.

    Args:
        num_attention_heads (`int`, *optional*): `None` if it does not say.
        normalization (`tuple[list[float], list[float]]`, *optional*): Mean and standard deviation, `None` if it does
            not say.
        image_size (`(height, width)`, *optional*): Size in pixels that the position embeddings were trained for.
            `None` if it does not say: then their grid is a square.
        position_embedding_interpolation (`str`): How its code base resizes position embeddings.
        layer_norm_eps (`float`): Epsilon of its LayerNorms.
        hidden_act (`str`): Activation of its MLPs.
        num_hidden_layers (`int`, *optional*): `None` if it does not say.
    """

    num_attention_heads: int | None = None
    normalization: Normalization | None = None
    image_size: tuple[int, int] | None = None
    position_embedding_interpolation: str = "bilinear"
    layer_norm_eps: float = LAYER_NORM_EPS
    hidden_act: str = "gelu"
    num_hidden_layers: int | None = None


def not_a_plain_vision_transformer(name: Any) -> str:
    """What is wrong with a source, of that name, whose tensors are not those of Segmenter's encoder."""
    return f"{name} is not a plain pre-norm Vision Transformer with a class token, the only encoder that Segmenter has"


def convert_fused(state_dict: Mapping[str, torch.Tensor], names: FusedNames, name: Any) -> dict[str, torch.Tensor]:
    """
    Renames and splits the tensors of timm, DeiT or MMSegmentation into those of [`SegmenterForSemanticSegmentation`].

    Args:
        state_dict (`Mapping[str, torch.Tensor]`): The source's state dict.
        names (`FusedNames`): What it calls its modules.
        name (`Any`): What errors call the source.
    """
    converter = StateDictConverter(state_dict)
    move_encoder(converter, names)
    # These classify the class and the distillation token. Older releases of timm had a layer before the classifier.
    for head in ("head", "head_dist", "pre_logits.fc"):
        converter.drop_module(head)
    return converter.finish(not_a_plain_vision_transformer(name))


def decide_num_attention_heads(hidden_size: int, stated: int | None, option: int | None) -> int:
    """The number of heads that the source states, or else the user, or else one per 64 channels."""
    if stated is not None and option is not None and stated != option:
        raise ConversionError(
            f"The encoder's number of attention heads is {stated}, not {option}. Leave --num_attention_heads out."
        )
    if stated is not None or option is not None:
        return option if stated is None else stated
    if hidden_size in WIDTHS_WITH_WIDER_HEADS or hidden_size % HEAD_DIM:
        published = WIDTHS_WITH_WIDER_HEADS.get(hidden_size)
        hint = f", {published} in the published models of this width" if published else ""
        raise ConversionError(
            f"The file does not hold the number of attention heads, and at a width of {hidden_size} it cannot be "
            f"taken for one per {HEAD_DIM} channels. Pass --num_attention_heads{hint}."
        )
    return hidden_size // HEAD_DIM


def decide_trained_size(architecture: dict[str, Any], stated: tuple[int, int] | None) -> tuple[int, int]:
    """`(height, width)` in pixels that the position embeddings were trained for."""
    if stated is not None:
        return stated
    num_patches, patch_size = architecture["num_patches"], architecture["patch_size"]
    side = math.isqrt(max(0, num_patches))
    if side == 0 or side * side != num_patches:
        tokens = "the class and distillation tokens" if architecture["use_distillation_token"] else "a class token"
        raise ConversionError(
            f"The position embeddings should be those of {tokens} and of a square grid of patches, but beside "
            f"{tokens} there are {num_patches}. Convert a model that was trained on squares: --image_size gives it "
            "any shape."
        )
    return side * patch_size, side * patch_size


def check_image_size(image_size: int | tuple[int, int], patch_size: int) -> tuple[int, int]:
    """`(height, width)` in pixels that the user asks for."""
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(size) != 2 or any(side < 1 or side % patch_size for side in size):
        raise ConversionError(
            f"--image_size must be a height and a width that are multiples of the patch size, {patch_size} pixels, "
            f"got {' x '.join(map(describe, size))}."
        )
    num_patches = math.prod(side // patch_size for side in size)
    if num_patches > MAX_PATCHES:
        raise ConversionError(
            f"--image_size asks for position embeddings of {describe(num_patches)} patches; at most {MAX_PATCHES} are "
            "made."
        )
    return size


def read_config(architecture: dict[str, Any], facts: EncoderFacts, options: EncoderOptions) -> SegmenterConfig:
    """
    The config of an encoder as it was trained, with the paper's rates of dropout and stochastic depth, which are the
    defaults, and the default decoder to come.
    """
    if architecture["num_channels"] != 3:
        raise ConversionError(
            f"The encoder takes images of {architecture['num_channels']} channels; only those of RGB can be converted."
        )
    num_attention_heads = decide_num_attention_heads(
        architecture["hidden_size"], facts.num_attention_heads, options.num_attention_heads
    )
    # The decoder's default, one head per 64 channels, does not divide every width. The encoder's number does.
    is_divided = architecture["hidden_size"] % max(1, architecture["hidden_size"] // HEAD_DIM) == 0
    return make_config(
        "The weights and options do not make a model",
        architecture,
        decide_trained_size(architecture, facts.image_size),
        num_attention_heads=num_attention_heads,
        decoder_num_attention_heads=None if is_divided else num_attention_heads,
        layer_norm_eps=facts.layer_norm_eps,
        hidden_act=facts.hidden_act,
        position_embedding_interpolation=(
            options.position_embedding_interpolation or facts.position_embedding_interpolation
        ),
    )


@torch.no_grad()
def resize_position_embeddings(model: SegmenterModel, height: int, width: int) -> SegmenterModel:
    """The model whose position embeddings are those that `model` makes for images of `(height, width)` pixels."""
    config = copy.deepcopy(model.config)
    config.image_size = height if height == width else (height, width)
    embeddings = model.embeddings.interpolate_position_embeddings(*config.patch_grid)
    state_dict = {**model.state_dict(), "embeddings.position_embeddings": embeddings}
    return build_model(config, state_dict, SegmenterModel)


def make_encoder(state_dict: dict[str, torch.Tensor], facts: EncoderFacts, options: EncoderOptions) -> Encoder:
    """
    Model and image processor of an encoder.

    Args:
        state_dict (`dict[str, torch.Tensor]`): The weights under the names of [`SegmenterForSemanticSegmentation`].
        facts (`EncoderFacts`): What its source says.
        options (`EncoderOptions`): What the user says.
    """
    if options.normalization is not None and options.normalization not in NORMALIZATIONS:
        raise ConversionError(
            f"--normalization must be one of {list_names(NORMALIZATIONS)}, got {options.normalization!r}."
        )
    config = read_config(architecture_of(state_dict), facts, options)
    published = PUBLISHED_NUM_LAYERS.get(config.hidden_size, 0)
    if facts.num_hidden_layers is None and config.num_hidden_layers < published:
        warn(
            logger,
            "The encoder has %d layers, where published Vision Transformers of width %d have %d. The file does not "
            "say whether any are missing.",
            config.num_hidden_layers,
            config.hidden_size,
            published,
        )
    state_dict = {name.removeprefix("segmenter."): tensor for name, tensor in state_dict.items()}
    model = build_model(config, state_dict, SegmenterModel)
    if options.image_size is not None:
        model = resize_position_embeddings(model, *check_image_size(options.image_size, config.patch_size))

    assumed = "deit" if config.use_distillation_token else "vit"
    normalization = facts.normalization or NORMALIZATIONS[assumed]
    if options.normalization is not None:
        normalization = NORMALIZATIONS[options.normalization]
    image_size = model.config.image_size
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    # These are the sizes of the published protocol, with windows of the size that the encoder is prepared for.
    protocol = EvaluationProtocol(
        window_size=Sides(height, width),
        window_stride=min(height, width),
        shortest_edge=min(height, width),
        longest_edge=MAX_RATIO * min(height, width),
    )
    image_processor = image_processor_of(
        model.config, *normalization, **protocol.image_processor_settings, do_split_image=True
    )
    if facts.normalization is None and options.normalization is None:
        mean, std = normalization
        other = "vit" if assumed == "deit" else "deit"
        warn(
            logger,
            "The source does not say how images are normalized: mean %s and standard deviation %s are assumed. Pass "
            "--normalization %s if it was trained with mean %s and standard deviation %s.",
            mean,
            std,
            other,
            *NORMALIZATIONS[other],
        )
    return model, image_processor


def read_normalization(settings: Settings, mean_field: str, std_field: str) -> Normalization | None:
    """
    Mean and standard deviation per channel of images scaled to 0..1, as a source's configuration states them; `None`
    if it does not.
    """
    mean, std = settings.get(mean_field), settings.get(std_field)
    if mean is None or std is None:
        return None
    for field, values in ((mean_field, mean), (std_field, std)):
        if not is_list_of(is_number, values, 3):
            raise settings.refuse(field, "three numbers", values)
    if min(std) <= 0:
        raise settings.refuse(std_field, "three positive numbers", std)
    return mean, std


__all__ = [
    "Encoder",
    "EncoderFacts",
    "EncoderOptions",
    "convert_fused",
    "make_encoder",
    "not_a_plain_vision_transformer",
    "read_normalization",
]
