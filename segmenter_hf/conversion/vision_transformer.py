"""
What code bases with queries, keys and values in one matrix call the parts of a Vision Transformer, and how its weights
are moved from their names to ours. The layers of mask transformers are of the same kind.
"""

from dataclasses import dataclass

from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_STANDARD_MEAN,
    IMAGENET_STANDARD_STD,
)

from .state_dict import StateDictConverter, count_layers


# Mean and standard deviation per channel of images scaled to 0..1, by the names that the original has for them
# (segm/data/utils.py, `STATS`). AugReg and MMSegmentation take those of "vit" too.
NORMALIZATIONS = {
    "vit": (IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD),
    "deit": (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
}


@dataclass(frozen=True)
class FusedNames:
    """
    What a code base calls the modules of its encoder.

    Args:
        has_optional_biases (`bool`): Whether its models may lack biases that ours have, so that one that is not there
            is 0, and not missing.
    """

    projection: str
    layers: str
    layernorm: str
    layernorm_before: str
    qkv: str  # `weight` or `bias` follows
    o_proj: str
    layernorm_after: str
    fc1: str
    fc2: str
    has_optional_biases: bool = False


# DeiT has these names too, and the original Segmenter, whose encoder is timm's.
TIMM_NAMES = FusedNames(
    projection="patch_embed.proj",
    layers="blocks",
    layernorm="norm",
    layernorm_before="norm1",
    qkv="attn.qkv.",
    o_proj="attn.proj",
    layernorm_after="norm2",
    fc1="mlp.fc1",
    fc2="mlp.fc2",
)
# Release 1.x trains without the bias of the patch embedding, which the released files, of 0.x, have. With
# `qkv_bias=False` it trains without all biases of the attention, its output's included.
MMSEGMENTATION_NAMES = FusedNames(
    projection="patch_embed.projection",
    layers="layers",
    layernorm="ln1",
    layernorm_before="ln1",
    qkv="attn.attn.in_proj_",
    o_proj="attn.attn.out_proj",
    layernorm_after="ln2",
    fc1="ffn.layers.0.0",
    fc2="ffn.layers.1",
    has_optional_biases=True,
)


def move_encoder(converter: StateDictConverter, names: FusedNames, old: str = "", new: str = "segmenter."):
    """
    Moves the weights of an encoder.

    Args:
        converter (`StateDictConverter`): What moves them.
        names (`FusedNames`): What the source calls its modules.
        old (`str`): Prefix of the source's names, with the dot.
        new (`str`): Prefix of ours, with the dot.
    """
    state_dict = converter.state_dict
    converter.move(f"{old}cls_token", f"{new}embeddings.cls_token")
    if f"{old}dist_token" in state_dict:
        converter.move(f"{old}dist_token", f"{new}embeddings.distillation_token")
    converter.move(f"{old}pos_embed", f"{new}embeddings.position_embeddings")
    _move_linear(converter, names, f"{old}{names.projection}", f"{new}embeddings.patch_embeddings.projection")
    move_layers(converter, names, f"{old}{names.layers}.", f"{new}layers.", min_layers=1)
    converter.move_module(f"{old}{names.layernorm}", f"{new}layernorm")


def move_layers(converter: StateDictConverter, names: FusedNames, old: str, new: str, min_layers: int = 0):
    """
    Moves all transformer layers whose names are the prefix `old`, an index, and a dot; and `min_layers` of them if
    there are less, so that a state dict without them is refused for what it lacks.
    """
    state_dict = converter.state_dict
    # Where biases are optional, those of queries, keys and values are there together with that of the output.
    ends = (f".{names.qkv}bias", f".{names.o_proj}.bias")[: 1 + names.has_optional_biases]
    with_bias = [name for name in state_dict if name.endswith(ends)]
    has_bias = any(name.startswith(old) for name in with_bias)
    for index in range(max(min_layers, count_layers(state_dict, old))):
        before, after = f"{old}{index}", f"{new}{index}"
        converter.move_module(f"{before}.{names.layernorm_before}", f"{after}.layernorm_before")
        projections = [f"{after}.attention.{part}_proj" for part in "qkv"]
        converter.split(f"{before}.{names.qkv}weight", [f"{name}.weight" for name in projections])
        if has_bias:
            converter.split(f"{before}.{names.qkv}bias", [f"{name}.bias" for name in projections])
            converter.move_module(f"{before}.{names.o_proj}", f"{after}.attention.o_proj")
        else:
            _move_linear(converter, names, f"{before}.{names.o_proj}", f"{after}.attention.o_proj")
        if with_bias and not has_bias and names.has_optional_biases:
            # Encoder and decoder of our models both have them, or neither does.
            for name in projections:
                _fill_bias(converter, name)
        converter.move_module(f"{before}.{names.layernorm_after}", f"{after}.layernorm_after")
        converter.move_module(f"{before}.{names.fc1}", f"{after}.mlp.fc1")
        converter.move_module(f"{before}.{names.fc2}", f"{after}.mlp.fc2")


def _move_linear(converter: StateDictConverter, names: FusedNames, old: str, new: str):
    if names.has_optional_biases and f"{old}.bias" not in converter.state_dict:
        converter.move(f"{old}.weight", f"{new}.weight")
        _fill_bias(converter, new)
    else:
        converter.move_module(old, new)


def _fill_bias(converter: StateDictConverter, new: str):
    weight = converter.converted.get(f"{new}.weight")
    if weight is not None:
        converter.fill_zeros(f"{new}.bias", *weight.shape[:1])


__all__ = ["MMSEGMENTATION_NAMES", "NORMALIZATIONS", "TIMM_NAMES", "FusedNames", "move_encoder", "move_layers"]
