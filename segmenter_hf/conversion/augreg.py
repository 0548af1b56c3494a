"""
AugReg's `.npz` files (google-research/vision_transformer, commit 06862cd, vit_jax/models_vit.py).

Their weights were trained with Flax's approximation of GELU. All who use them in PyTorch (timm, MMSegmentation, the
original implementation) compute the exact one, and so does what is converted here.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from .encoders import Encoder, EncoderFacts, EncoderOptions, make_encoder, not_a_plain_vision_transformer
from .sources import Source, strip_prefix
from .state_dict import StateDictConverter, check_dimensions, count_layers
from .vision_transformer import NORMALIZATIONS


# Files of vit_jax before it used Flax's linen hold the weights under this prefix, beside the optimizer's state.
OPTIMIZER_PREFIX = "opt/target/"


def recognise(source: Source) -> bool:
    """Whether the names are those of a Vision Transformer in JAX, of which AugReg's are one kind."""
    return any(f"{prefix}embedding/kernel" in source.state_dict for prefix in ("", OPTIMIZER_PREFIX))


def convert_state_dict(state_dict: Mapping[str, torch.Tensor], name: Any) -> dict[str, torch.Tensor]:
    """
    Renames, reshapes and transposes the arrays of an AugReg file into tensors of [`SegmenterForSemanticSegmentation`].

    Args:
        state_dict (`Mapping[str, torch.Tensor]`): The arrays, in layouts of JAX: a linear map is `x @ kernel`, and the
            heads of queries, keys and values are a dimension of their own.
        name (`Any`): What errors call the source.
    """
    converter = StateDictConverter(state_dict)

    def move(old: str, new: str, num_dimensions: int, function: Callable[[torch.Tensor], torch.Tensor]):
        converter.move(old, new, lambda array: function(check_dimensions(old, array, num_dimensions)))

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
    # One layer is expected at least, so that a file without any is refused for what it lacks.
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

    # Files have a classifier, and without fine-tuning a layer before it.
    for prefix in ("head/", "pre_logits/"):
        converter.drop_all(prefix)
    return converter.finish(not_a_plain_vision_transformer(name))


def load(source: Source, options: EncoderOptions) -> Encoder:
    """Model and image processor of an AugReg `.npz`."""
    state_dict = source.state_dict
    if any(name.startswith(OPTIMIZER_PREFIX) for name in state_dict):
        state_dict = strip_prefix(source.file, state_dict, OPTIMIZER_PREFIX)
    converted = convert_state_dict(state_dict, source.path)
    # (hidden_size, num_heads, head_dim)
    query = state_dict["Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel"]
    facts = EncoderFacts(num_attention_heads=query.shape[1], normalization=NORMALIZATIONS["vit"])
    return make_encoder(converted, facts, options)


__all__ = ["convert_state_dict", "load", "recognise"]
