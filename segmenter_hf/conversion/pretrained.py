"""Encoders that other libraries load: folders of transformers' ViT and DeiT, and models of timm by their names."""

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from transformers.utils import logging as transformers_logging

from .encoders import (
    TIMM_NAMES,
    Encoder,
    EncoderFacts,
    EncoderOptions,
    convert_fused,
    finish,
    make_encoder,
    read_normalization,
)
from .errors import ConversionError
from .safe_loading import load_json, load_torch_file
from .settings import Settings
from .sources import CONFIG_FILE, Source
from .state_dict import StateDictConverter, count_layers, list_names


# What stands before the name of a timm model where a source is asked for.
TIMM_PREFIX = "timm:"
# The modules of timm whose models are Vision Transformers; which of them are plain ones, the weights tell.
TIMM_MODULES = ("vision_transformer", "deit")

PREPROCESSOR_FILE = "preprocessor_config.json"
TRANSFORMERS_MODELS = {"vit": "ViTModel", "deit": "DeiTModel"}

# transformers 5.4, the oldest release that this package runs on, names the parts of a layer as in the keys here. Later
# releases took the names on the right, which are ours, too. Files hold the older ones to this day.
OLDER_LAYER_NAMES = {
    "layernorm_before": "layernorm_before",
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
    "layernorm_after": "layernorm_after",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}
LAYER_NAMES = {name: name for name in OLDER_LAYER_NAMES.values()}
# Prefix of a layer's index, and the names of its parts.
NAMING_SCHEMES = (("layers.", LAYER_NAMES), ("encoder.layer.", OLDER_LAYER_NAMES))


def is_transformers(source: Source) -> bool:
    """Whether the source is a folder of transformers: a `config.json` with a `model_type`."""
    return source.file.name == CONFIG_FILE and isinstance(source.contents, Mapping) and "model_type" in source.contents


@contextmanager
def silence_transformers() -> Iterator[None]:
    """Keeps transformers from printing a progress bar, and a report on weights that a bare encoder leaves unused."""
    verbosity, has_progress_bar = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if has_progress_bar:
            transformers_logging.enable_progress_bar()


def first_line(error: Exception) -> str:
    """What to quote of an error of another library."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(". ")


def load_transformers_model(source: Source, class_name: str) -> transformers.PreTrainedModel:
    """
    The bare encoder in a folder of transformers, without the head that it was saved with.

    Raises:
        ConversionError: if transformers cannot load it, weights are missing, or weights of an encoder are left over.
    """
    folder = source.file.parent
    # transformers refuses pickled code as well, but advises to allow it.
    if not any(folder.glob("*.safetensors")):
        for file in sorted(folder.glob("pytorch_model*.bin")):
            load_torch_file(file)
    try:
        with silence_transformers():
            model, loading_info = getattr(transformers, class_name).from_pretrained(
                folder,
                add_pooling_layer=False,
                local_files_only=True,
                # Whatever the folder asks for, which may not be installed.
                attn_implementation="eager",
                output_loading_info=True,
                # They are refused below, where the message can say which.
                ignore_mismatched_sizes=True,
            )
    # Of a folder that is broken in one of many ways, the libraries that transformers calls raise what they like.
    except Exception as error:
        raise ConversionError(f"transformers cannot load {class_name} from {folder}: {first_line(error)}.") from error

    different = [
        f"{name} {tuple(stored)} instead of {tuple(expected)}"
        for name, stored, expected in loading_info["mismatched_keys"]
    ]
    if different:
        raise ConversionError(f"The weights of {folder} do not fit its {CONFIG_FILE}: {list_names(different)}.")
    # transformers initialises what is missing at random, and ignores what is left over. Of the latter only the head
    # may be: without its last layers, say, an encoder would be another one.
    missing = set(loading_info["missing_keys"])
    left_over = {
        name
        for name in loading_info["unexpected_keys"]
        if re.search(r"(^|\.)(embeddings|encoder|layers|layernorm)\.", name) and not name.endswith(".mask_token")
    }
    if missing or left_over:
        converter = StateDictConverter(dict.fromkeys(left_over))
        converter.missing.extend(missing)
        finish(converter, folder)
    return model.eval()


def convert_transformers(state_dict: Mapping[str, torch.Tensor], name: Any) -> dict[str, torch.Tensor]:
    """
    Renames the tensors of transformers' `ViTModel` or `DeiTModel`, of any release, into those of
    [`SegmenterForSemanticSegmentation`].

    Args:
        state_dict (`Mapping[str, torch.Tensor]`): What the model's `state_dict()` returns.
        name (`Any`): What errors call the source.

    Raises:
        ConversionError: if tensors are missing or left over.
    """
    converter = StateDictConverter(state_dict)

    for token in ("cls_token", "distillation_token", "position_embeddings"):
        if token != "distillation_token" or f"embeddings.{token}" in state_dict:
            converter.move(f"embeddings.{token}", f"segmenter.embeddings.{token}")
    converter.move_module("embeddings.patch_embeddings.projection", "segmenter.embeddings.patch_embeddings.projection")

    prefix, layer_names = max(NAMING_SCHEMES, key=lambda scheme: count_layers(state_dict, scheme[0]))
    for index in range(max(1, count_layers(state_dict, prefix))):
        for old, new in layer_names.items():
            old, new = f"{prefix}{index}.{old}", f"segmenter.layers.{index}.{new}"
            converter.move(f"{old}.weight", f"{new}.weight")
            # Queries, keys and values may have none. Where one is needed but missing, making the model finds that.
            if f"{old}.bias" in state_dict:
                converter.move(f"{old}.bias", f"{new}.bias")
    converter.move_module("layernorm", "segmenter.layernorm")
    return finish(converter, name)


def load_transformers(source: Source, options: EncoderOptions) -> Encoder:
    """
    Model and image processor of a folder of transformers with a ViT or a DeiT, whatever its head. Its own code, if it
    has any, is not run.

    Raises:
        ConversionError: if it holds another model, cannot be loaded, or `options` do not fit it.
    """
    model_type = source.contents.get("model_type")
    class_name = TRANSFORMERS_MODELS.get(model_type) if isinstance(model_type, str) else None
    if class_name is None:
        raise ConversionError(
            f"{source.path} holds a model of type {model_type!r}, whose encoder is not Segmenter's. Of transformers' "
            f"models, those of type {' and '.join(TRANSFORMERS_MODELS)} can be converted."
        )
    model = load_transformers_model(source, class_name)
    config = model.config
    image_size = config.image_size
    preprocessor_file = source.file.parent / PREPROCESSOR_FILE
    normalization = None
    if preprocessor_file.is_file():
        settings = Settings(load_json(preprocessor_file), str(preprocessor_file))
        normalization = read_normalization(settings, "image_mean", "image_std")
    facts = EncoderFacts(
        num_attention_heads=config.num_attention_heads,
        normalization=normalization,
        image_size=(image_size, image_size) if isinstance(image_size, int) else tuple(image_size),
        # ViTEmbeddings.interpolate_pos_encoding
        position_embedding_interpolation="bicubic",
        layer_norm_eps=config.layer_norm_eps,
        hidden_act=config.hidden_act,
    )
    return make_encoder(convert_transformers(model.state_dict(), source.path), facts, options)


def load_timm_model(name: str, options: EncoderOptions) -> Encoder:
    """
    Model and image processor of a model of timm with its pretrained weights, which timm downloads, or finds in the
    cache of the Hub.

    Args:
        name (`str`): Architecture and weights, as in `"vit_tiny_patch16_384.augreg_in21k_ft_in1k"`.
        options (`EncoderOptions`): What the user says.

    Raises:
        ConversionError: if timm is not installed, does not know the name, or cannot get the weights; or if the model
            is not a plain Vision Transformer.
    """
    try:
        import timm
        from timm.models import is_model_in_modules
    except ImportError as error:
        raise ConversionError(f"{TIMM_PREFIX}{name} needs timm: pip install timm") from error
    if not timm.is_model(name):
        raise ConversionError(
            f"timm {timm.__version__} knows no model {name!r}. timm.list_pretrained('vit_*') lists those with weights."
        )
    if not is_model_in_modules(name, TIMM_MODULES):
        raise ConversionError(
            f"{TIMM_PREFIX}{name} is not a plain pre-norm Vision Transformer, the only encoder that Segmenter has."
        )
    try:
        model = timm.create_model(name, pretrained=True)
    except RuntimeError as error:  # timm's of names of weights that do not exist
        raise ConversionError(
            f"timm cannot load {name!r}: {first_line(error)}. timm.list_pretrained('vit_*') lists those with weights."
        ) from error
    # All that can go wrong with a download, which is for several libraries to say.
    except Exception as error:
        raise ConversionError(
            f"timm cannot get the weights of {name!r}: {first_line(error)}. Without a network, pass model.safetensors "
            "of its repository, one of https://huggingface.co/timm, downloaded by other means."
        ) from error

    converted = convert_fused(model.state_dict(), TIMM_NAMES, f"{TIMM_PREFIX}{name}")
    # Does not show in the weights.
    activation = model.blocks[0].mlp.act
    if type(activation).__name__ != "GELU" or getattr(activation, "approximate", "none") != "none":
        raise ConversionError(f"{TIMM_PREFIX}{name} computes {type(activation).__name__} where Segmenter has GELU.")
    facts = EncoderFacts(
        num_attention_heads=model.blocks[0].attn.num_heads,
        normalization=(list(model.pretrained_cfg["mean"]), list(model.pretrained_cfg["std"])),
        image_size=tuple(
            side * patch for side, patch in zip(model.patch_embed.grid_size, model.patch_embed.patch_size, strict=True)
        ),
        layer_norm_eps=model.norm.eps,
    )
    return make_encoder(converted, facts, options)


__all__ = ["TIMM_PREFIX", "is_transformers", "load_timm_model", "load_transformers"]
