"""
Encoders without a decoder, to start training from: AugReg's `.npz` files (google-research/vision_transformer, commit
06862cd, vit_jax/models_vit.py), state dicts of timm and DeiT, and the same AugReg weights in MMSegmentation's names,
as its tools/model_converters/vitjax2mmseg.py (commit 08c567b) writes them.

AugReg's weights were trained with Flax's approximation of GELU. All who use them in PyTorch (timm, MMSegmentation, the
original implementation) compute the exact one, and so does what is converted here.
"""

import copy
import logging
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers.image_utils import PILImageResampling

from ..configuration_segmenter import SegmenterConfig
from ..image_processing_pil_segmenter import SegmenterImageProcessorPil
from ..modeling_segmenter import SegmenterModel
from .errors import ConversionError
from .original import NORMALIZATIONS
from .reporting import warn
from .safe_loading import load_json
from .settings import Settings, describe, describe_differences, is_number
from .sources import CONFIG_FILE, Source, strip_prefix
from .state_dict import (
    StateDictConverter,
    architecture_of,
    build_model,
    check_dimensions,
    count_layers,
    list_names,
    make_config,
)
from .vision_transformer import MMSEGMENTATION_NAMES, TIMM_NAMES, FusedNames, move_encoder


logger = logging.getLogger(__name__)

Encoder = tuple[SegmenterModel, SegmenterImageProcessorPil]
# Mean and standard deviation per channel of images scaled to 0..1.
Normalization = tuple[list[float], list[float]]

# Of AugReg (vit_jax leaves Flax's default), timm, DeiT and MMSegmentation alike.
LAYER_NORM_EPS = 1e-6
# Width of a head in every encoder that Segmenter was published with.
HEAD_DIM = 64
# Widths of ViT-H ("An Image is Worth 16x16 Words", table 1), ViT-g and ViT-G ("Scaling Vision Transformers", table 2),
# multiples of 64 whose heads are wider.
WIDTHS_WITH_WIDER_HEADS = {1280: 16, 1408: 16, 1664: 16}
# Layers of the published encoders of each width: those of the paper's, and the above.
PUBLISHED_NUM_LAYERS = {192: 12, 384: 12, 768: 12, 1024: 24, 1280: 32, 1408: 40, 1664: 48}
# Architectures of timm that have so many.
TIMM_ARCHITECTURE = re.compile(r"(vit|deit)_(tiny|small|base|large|huge)(_distilled)?_patch\d+_\d+")
TIMM_WIDTHS = {"tiny": 192, "small": 384, "base": 768, "large": 1024, "huge": 1280}
# Images are resized until the short side is that of the window, or the long one this many times that, as for ADE20K.
MAX_RATIO = 4

# To which position embeddings are resized: 8192 x 8192 pixels in patches of 16, for which they take a gigabyte.
MAX_PATCHES = 2**18

# Files of vit_jax before it used Flax's linen hold the weights under this prefix, beside the optimizer's state.
OPTIMIZER_PREFIX = "opt/target/"
# Arguments of timm's VisionTransformer that change what it computes.
UNSUPPORTED_TIMM_ARGUMENTS = ("act_layer", "attn_layer", "block_fn", "embed_layer", "mlp_layer", "norm_layer")


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


def is_augreg(source: Source) -> bool:
    """Whether the names are those of a Vision Transformer in JAX, of which AugReg's are one kind."""
    return any(source.has_names(f"{prefix}embedding/kernel") for prefix in ("", OPTIMIZER_PREFIX))


def is_timm(source: Source) -> bool:
    """Whether the names are those of a transformer of timm or DeiT."""
    return source.has_names(f"{TIMM_NAMES.projection}.weight")


def is_mmsegmentation_encoder(source: Source) -> bool:
    """Whether the names are those of an encoder of MMSegmentation, and not of a segmentation model."""
    return source.has_names(f"{MMSEGMENTATION_NAMES.projection}.weight")


def finish(converter: StateDictConverter, name: Any) -> dict[str, torch.Tensor]:
    """
    The converted state dict.

    Raises:
        ConversionError: if tensors are missing or left over: `name`, the source, is no plain Vision Transformer.
    """
    if converter.missing or converter.remaining:
        raise ConversionError(
            f"{name} is not a plain pre-norm Vision Transformer with a class token, the only encoder that Segmenter "
            f"has: missing are {list_names(converter.missing)}; left over are {list_names(converter.remaining)}."
        )
    return converter.finish()


def convert_augreg(state_dict: Mapping[str, torch.Tensor], name: Any) -> dict[str, torch.Tensor]:
    """
    Renames, reshapes and transposes the arrays of an AugReg file into tensors of [`SegmenterForSemanticSegmentation`].

    Args:
        state_dict (`Mapping[str, torch.Tensor]`): The arrays, in layouts of JAX: a linear map is `x @ kernel`, and the
            heads of queries, keys and values are a dimension of their own.
        name (`Any`): What errors call the source.

    Raises:
        ConversionError: if arrays are missing, left over, or of other dimensions.
    """
    converter = StateDictConverter(state_dict)

    def move(old: str, new: str, num_dimensions: int, function: Callable[[torch.Tensor], torch.Tensor]):
        converter.move_with(old, new, lambda array: function(check_dimensions(old, array, num_dimensions)))

    def move_layer_norm(old: str, new: str):
        converter.move(f"{old}/scale", f"{new}.weight")
        converter.move(f"{old}/bias", f"{new}.bias")

    converter.move("cls", "segmenter.embeddings.cls_token")
    converter.move("Transformer/posembed_input/pos_embedding", "segmenter.embeddings.position_embeddings")
    # (height, width, num_channels, hidden_size) -> (hidden_size, num_channels, height, width)
    patches = "segmenter.embeddings.patch_embeddings.projection"
    move("embedding/kernel", f"{patches}.weight", 4, lambda kernel: kernel.permute(3, 2, 0, 1))
    converter.move("embedding/bias", f"{patches}.bias")

    dotted_names = {array_name.replace("/", "."): None for array_name in state_dict}
    # At least one layer, so that a file without any is refused for what it lacks.
    for index in range(max(1, count_layers(dotted_names, "Transformer.encoderblock_"))):
        old, new = f"Transformer/encoderblock_{index}", f"segmenter.layers.{index}"
        move_layer_norm(f"{old}/LayerNorm_0", f"{new}.layernorm_before")
        attention = f"{old}/MultiHeadDotProductAttention_1"
        for array_name, projection in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
            # (hidden_size, num_heads, head_dim) -> (num_heads * head_dim, hidden_size), and the bias alike
            part = f"{new}.attention.{projection}"
            move(f"{attention}/{array_name}/kernel", f"{part}.weight", 3, lambda kernel: kernel.flatten(1).T)
            move(f"{attention}/{array_name}/bias", f"{part}.bias", 2, torch.flatten)
        # (num_heads, head_dim, hidden_size) -> (hidden_size, num_heads * head_dim)
        move(f"{attention}/out/kernel", f"{new}.attention.o_proj.weight", 3, lambda kernel: kernel.flatten(0, 1).T)
        converter.move(f"{attention}/out/bias", f"{new}.attention.o_proj.bias")
        move_layer_norm(f"{old}/LayerNorm_2", f"{new}.layernorm_after")
        for array_name, part in (("Dense_0", "fc1"), ("Dense_1", "fc2")):
            converter.transpose(f"{old}/MlpBlock_3/{array_name}/kernel", f"{new}.mlp.{part}.weight")
            converter.move(f"{old}/MlpBlock_3/{array_name}/bias", f"{new}.mlp.{part}.bias")
    move_layer_norm("Transformer/encoder_norm", "segmenter.layernorm")

    # The classifier, and the layer before it that files without fine-tuning have.
    for prefix in ("head/", "pre_logits/"):
        converter.drop_all(prefix)
    return finish(converter, name)


def convert_fused(state_dict: Mapping[str, torch.Tensor], names: FusedNames, name: Any) -> dict[str, torch.Tensor]:
    """
    Renames and splits the tensors of timm, DeiT or MMSegmentation into those of [`SegmenterForSemanticSegmentation`].

    Args:
        state_dict (`Mapping[str, torch.Tensor]`): The source's state dict.
        names (`FusedNames`): What it calls its modules.
        name (`Any`): What errors call the source.

    Raises:
        ConversionError: if tensors are missing, left over, or of other dimensions.
    """
    converter = StateDictConverter(state_dict)
    move_encoder(converter, names)
    # Classifiers of the class and the distillation token, and the layer before them that older releases of timm had.
    for head in ("head", "head_dist", "pre_logits.fc"):
        converter.drop_module(head)
    return finish(converter, name)


def decide_num_attention_heads(hidden_size: int, stated: int | None, option: int | None) -> int:
    """
    The number of heads that the source states, or else the user, or else one per 64 channels.

    Raises:
        ConversionError: if the user contradicts the source, or nothing tells the number.
    """
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
    """
    `(height, width)` in pixels that the position embeddings were trained for.

    Raises:
        ConversionError: if the source does not state it, and they make no square grid.
    """
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


def read_image_size(image_size: int | tuple[int, int], patch_size: int) -> tuple[int, int]:
    """
    `(height, width)` in pixels that the user asks for.

    Raises:
        ConversionError: if it is not a multiple of the patch size.
    """
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

    Raises:
        ConversionError: if values do not fit together, or nothing tells them.
    """
    if architecture["num_channels"] != 3:
        raise ConversionError(
            f"The encoder takes images of {architecture['num_channels']} channels; only those of RGB can be converted."
        )
    values = {name: value for name, value in architecture.items() if name != "num_patches"}
    num_attention_heads = decide_num_attention_heads(
        architecture["hidden_size"], facts.num_attention_heads, options.num_attention_heads
    )
    # The decoder's default, one head per 64 channels, does not divide every width. The encoder's number does.
    if architecture["hidden_size"] % max(1, architecture["hidden_size"] // HEAD_DIM):
        values["decoder_num_attention_heads"] = num_attention_heads
    height, width = decide_trained_size(architecture, facts.image_size)
    return make_config(
        "The weights and options do not make a model",
        **values,
        num_attention_heads=num_attention_heads,
        image_size=height if height == width else (height, width),
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


def make_image_processor(config: SegmenterConfig, normalization: Normalization) -> SegmenterImageProcessorPil:
    """The image processor of the published protocol, with windows of the size that the encoder is prepared for."""
    is_square = isinstance(config.image_size, int)
    height, width = (config.image_size, config.image_size) if is_square else config.image_size
    shortest_edge = min(height, width)
    image_mean, image_std = normalization
    return SegmenterImageProcessorPil(
        size={"shortest_edge": shortest_edge, "longest_edge": MAX_RATIO * shortest_edge},
        resample=PILImageResampling.BILINEAR,
        antialias=False,
        do_split_image=True,
        crop_size={"height": height, "width": width},
        window_stride=shortest_edge,
        patch_size=config.patch_size,
        image_mean=image_mean,
        image_std=image_std,
    )


def make_encoder(state_dict: dict[str, torch.Tensor], facts: EncoderFacts, options: EncoderOptions) -> Encoder:
    """
    Model and image processor of an encoder.

    Args:
        state_dict (`dict[str, torch.Tensor]`): The weights under the names of [`SegmenterForSemanticSegmentation`].
        facts (`EncoderFacts`): What its source says.
        options (`EncoderOptions`): What the user says.

    Raises:
        ConversionError: if weights, facts and options do not fit together.
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
            *(config.num_hidden_layers, config.hidden_size, published),
        )
    state_dict = {name.removeprefix("segmenter."): tensor for name, tensor in state_dict.items()}
    model = build_model(config, state_dict, SegmenterModel)
    if options.image_size is not None:
        model = resize_position_embeddings(model, *read_image_size(options.image_size, config.patch_size))

    assumed = "deit" if config.use_distillation_token else "vit"
    normalization = facts.normalization or NORMALIZATIONS[assumed]
    if options.normalization is not None:
        normalization = NORMALIZATIONS[options.normalization]
    image_processor = make_image_processor(model.config, normalization)
    if facts.normalization is None and options.normalization is None:
        mean, std = normalization
        other = "vit" if assumed == "deit" else "deit"
        warn(
            logger,
            "The source does not say how images are normalized: mean %s and standard deviation %s are assumed. Pass "
            "--normalization %s if it was trained with mean %s and standard deviation %s.",
            *(mean, std, other, *NORMALIZATIONS[other]),
        )
    return model, image_processor


def read_normalization(settings: Settings, mean_field: str, std_field: str) -> Normalization | None:
    """
    Mean and standard deviation per channel of images scaled to 0..1, as a source's configuration states them; `None`
    if it does not.

    Raises:
        ConversionError: if they are not three numbers each, or a deviation is not positive.
    """
    mean, std = settings.get(mean_field), settings.get(std_field)
    if mean is None or std is None:
        return None
    for field, values in ((mean_field, mean), (std_field, std)):
        is_triple = isinstance(values, (list, tuple)) and len(values) == 3
        if not is_triple or not all(map(is_number, values)):
            raise settings.refuse(field, "three numbers", values)
    if min(std) <= 0:
        raise settings.refuse(std_field, "three positive numbers", std)
    return mean, std


def load_augreg(source: Source, options: EncoderOptions) -> Encoder:
    """
    Model and image processor of an AugReg `.npz`.

    Raises:
        ConversionError: if arrays are missing, left over, unreadable or pickled, or `options` do not fit them.
    """
    state_dict = source.state_dict
    if any(name.startswith(OPTIMIZER_PREFIX) for name in state_dict):
        state_dict = strip_prefix(source.file, state_dict, OPTIMIZER_PREFIX)
    converted = convert_augreg(state_dict, source.path)
    # (hidden_size, num_heads, head_dim)
    query = state_dict["Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel"]
    facts = EncoderFacts(num_attention_heads=query.shape[1], normalization=NORMALIZATIONS["vit"])
    return make_encoder(converted, facts, options)


def read_timm_config(source: Source) -> Settings | None:
    """
    The `config.json` that timm's repositories have beside the weights, or `None` if there is none.

    Raises:
        ConversionError: if it cannot be read.
    """
    file = source.file.parent / CONFIG_FILE
    values = load_json(file) if file.is_file() else {}
    if "architecture" not in values:
        return None
    # Older files have the fields of `pretrained_cfg` beside the architecture.
    return Settings({"pretrained_cfg": values, **values}, str(file))


def check_timm_layers(settings: Settings, architecture: dict[str, Any]) -> int | None:
    """
    The number of layers that the `config.json` of a repository of timm states, itself or by the architecture's name;
    `None` if it does not.

    Raises:
        ConversionError: if the weights have another one.
    """
    field, stated = "model_args.depth", settings.get_count("model_args.depth")
    name = TIMM_ARCHITECTURE.fullmatch(settings.get_text("architecture") or "")
    if stated is None and name is not None and architecture["hidden_size"] == TIMM_WIDTHS[name[2]]:
        field, stated = "architecture", PUBLISHED_NUM_LAYERS[TIMM_WIDTHS[name[2]]]
    differences = describe_differences({field: (stated, architecture["num_hidden_layers"])})
    if differences:
        raise ConversionError(
            f"The weights do not fit {settings.name}: the number of layers by {'; '.join(differences)}."
        )
    return stated


def load_timm(source: Source, options: EncoderOptions) -> Encoder:
    """
    Model and image processor of a state dict of timm or DeiT: a file, or a folder as downloaded from a repository of
    timm, whose `config.json` states the normalisation.

    Raises:
        ConversionError: if tensors are missing, left over or unreadable, or `options` do not fit them.
    """
    converted = convert_fused(source.state_dict, TIMM_NAMES, source.path)
    normalization = num_attention_heads = num_hidden_layers = None
    settings = read_timm_config(source)
    if settings is not None:
        normalization = read_normalization(settings, "pretrained_cfg.mean", "pretrained_cfg.std")
        # Arguments by which a model differs from its architecture's name, and need not in its weights' names.
        num_attention_heads = settings.get_count("model_args.num_heads")
        others = [name for name in UNSUPPORTED_TIMM_ARGUMENTS if settings.get(f"model_args.{name}") is not None]
        if others:
            raise ConversionError(
                f"{settings.name} asks for layers that Segmenter does not have: {list_names(others)}."
            )
        num_hidden_layers = check_timm_layers(settings, architecture_of(converted))
    elif "dist_token" in source.state_dict:
        # There is one family of models with such a token.
        normalization = NORMALIZATIONS["deit"]
    facts = EncoderFacts(
        num_attention_heads=num_attention_heads, normalization=normalization, num_hidden_layers=num_hidden_layers
    )
    return make_encoder(converted, facts, options)


def load_mmsegmentation_encoder(source: Source, options: EncoderOptions) -> Encoder:
    """
    Model and image processor of an encoder in MMSegmentation's names.

    Raises:
        ConversionError: if tensors are missing, left over or unreadable, or `options` do not fit them.
    """
    facts = EncoderFacts(normalization=NORMALIZATIONS["vit"], position_embedding_interpolation="bicubic")
    return make_encoder(convert_fused(source.state_dict, MMSEGMENTATION_NAMES, source.path), facts, options)


__all__ = [
    "EncoderOptions",
    "is_augreg",
    "is_mmsegmentation_encoder",
    "is_timm",
    "load_augreg",
    "load_mmsegmentation_encoder",
    "load_timm",
]
