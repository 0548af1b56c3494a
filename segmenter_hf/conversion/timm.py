"""
Vision Transformers of timm and DeiT: state dicts, folders as downloaded from a repository of timm, and models of timm
by their names.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from transformers.utils import CONFIG_NAME

from .checksums import sha256_of
from .encoders import (
    PUBLISHED_NUM_LAYERS,
    Encoder,
    EncoderFacts,
    EncoderOptions,
    convert_fused,
    make_encoder,
    read_normalization,
)
from .errors import ConversionError
from .reporting import silence_libraries
from .safe_loading import load_json
from .settings import Settings, describe_differences
from .sources import TRANSFORMERS_FILES, Source
from .state_dict import architecture_of, list_names
from .vision_transformer import NORMALIZATIONS, TIMM_NAMES


# This stands before the name of a timm model where a source is asked for.
NAME_PREFIX = "timm:"
# The modules of timm whose models are Vision Transformers. The weights tell which of them are plain ones.
MODULES = ("vision_transformer", "deit")
# Architectures of timm that have as many layers as the published ones of their width.
ARCHITECTURE = re.compile(r"(vit|deit)_(tiny|small|base|large|huge)(_distilled)?_patch\d+_\d+")
WIDTHS = {"tiny": 192, "small": 384, "base": 768, "large": 1024, "huge": 1280}
# Arguments of timm's VisionTransformer that change what it computes.
UNSUPPORTED_ARGUMENTS = ("act_layer", "attn_layer", "block_fn", "embed_layer", "mlp_layer", "norm_layer")


def recognise(source: Source) -> bool:
    """Whether the names are those of a transformer of timm or DeiT."""
    return f"{TIMM_NAMES.projection}.weight" in source.state_dict


def read_config(source: Source) -> Settings | None:
    """The `config.json` that timm's repositories have beside the weights, or `None` if there is none."""
    file = source.file.parent / CONFIG_NAME
    values = load_json(file) if file.is_file() else {}
    if "architecture" not in values:
        return None
    # Older files have the fields of `pretrained_cfg` beside the architecture.
    return Settings({"pretrained_cfg": values, **values}, str(file))


def check_layers(settings: Settings, architecture: dict[str, Any]) -> int | None:
    """
    The number of layers that the `config.json` of a repository of timm states, itself or by the architecture's name;
    `None` if it does not.
    """
    field, stated = "model_args.depth", settings.get_count("model_args.depth")
    name = ARCHITECTURE.fullmatch(settings.get_text("architecture") or "")
    if stated is None and name is not None and architecture["hidden_size"] == WIDTHS[name[2]]:
        field, stated = "architecture", PUBLISHED_NUM_LAYERS[WIDTHS[name[2]]]
    differences = describe_differences({field: (stated, architecture["num_hidden_layers"])})
    if differences:
        raise ConversionError(
            f"The weights do not fit {settings.name}: the number of layers by {'; '.join(differences)}."
        )
    return stated


def load(source: Source, options: EncoderOptions) -> Encoder:
    """
    Model and image processor of a state dict of timm or DeiT: a file, or a folder as downloaded from a repository of
    timm, whose `config.json` states the normalisation.
    """
    converted = convert_fused(source.state_dict, TIMM_NAMES, source.path)
    settings = read_config(source)
    if settings is None:
        # There is one family of models with a distillation token.
        facts = EncoderFacts(normalization=NORMALIZATIONS["deit"] if "dist_token" in source.state_dict else None)
    else:
        # By these arguments a model differs from its architecture's name, and need not in its weights' names.
        others = [name for name in UNSUPPORTED_ARGUMENTS if settings.get(f"model_args.{name}") is not None]
        if others:
            raise ConversionError(
                f"{settings.name} asks for layers that Segmenter does not have: {list_names(others)}."
            )
        facts = EncoderFacts(
            num_attention_heads=settings.get_count("model_args.num_heads"),
            normalization=read_normalization(settings, "pretrained_cfg.mean", "pretrained_cfg.std"),
            num_hidden_layers=check_layers(settings, architecture_of(converted)),
        )
    return make_encoder(converted, facts, options)


def load_named(name: str, options: EncoderOptions) -> Encoder:
    """
    Model and image processor of a model of timm with its pretrained weights, which timm downloads, or finds in the
    cache of the Hub.

    Args:
        name (`str`): Architecture and weights, as in `"vit_tiny_patch16_384.augreg_in21k_ft_in1k"`.
        options (`EncoderOptions`): What the user says.
    """
    try:
        import timm
        from timm.models import is_model_in_modules
    except ImportError as error:
        raise ConversionError(f"{NAME_PREFIX}{name} needs timm: pip install timm") from error
    if not timm.is_model(name):
        raise ConversionError(
            f"timm {timm.__version__} knows no model {name!r}. timm.list_pretrained('vit_*') lists those with weights."
        )
    if not is_model_in_modules(name, MODULES):
        raise ConversionError(
            f"{NAME_PREFIX}{name} is not a plain pre-norm Vision Transformer, the only encoder that Segmenter has."
        )
    try:
        with silence_libraries():
            model = timm.create_model(name, pretrained=True)
    # timm raises it for names of weights that do not exist.
    except RuntimeError as error:
        raise ConversionError(
            f"timm cannot load {name!r}: {first_line(error)}. timm.list_pretrained('vit_*') lists those with weights."
        ) from error
    # All that can go wrong with a download is for several libraries to say.
    except Exception as error:
        raise ConversionError(
            f"timm cannot get the weights of {name!r}: {first_line(error)}. Without a network, pass model.safetensors "
            "of its repository, one of https://huggingface.co/timm, downloaded by other means."
        ) from error

    converted = convert_fused(model.state_dict(), TIMM_NAMES, f"{NAME_PREFIX}{name}")
    # The activation does not show in the weights.
    activation = model.blocks[0].mlp.act
    if type(activation).__name__ != "GELU" or getattr(activation, "approximate", "none") != "none":
        raise ConversionError(f"{NAME_PREFIX}{name} computes {type(activation).__name__} where Segmenter has GELU.")
    facts = EncoderFacts(
        num_attention_heads=model.blocks[0].attn.num_heads,
        normalization=(list(model.pretrained_cfg["mean"]), list(model.pretrained_cfg["std"])),
        image_size=tuple(
            side * patch for side, patch in zip(model.patch_embed.grid_size, model.patch_embed.patch_size, strict=True)
        ),
        layer_norm_eps=model.norm.eps,
        num_hidden_layers=len(model.blocks),
    )
    encoder = make_encoder(converted, facts, options)
    encoder[0].config.source_sha256 = {file.name: sha256_of(file) for file in find_cached_files(model.pretrained_cfg)}
    return encoder


def first_line(error: Exception) -> str:
    """What to quote of an error of another library."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(". ")


def find_cached_files(pretrained_cfg: Mapping[str, Any]) -> list[Path]:
    """The file of weights that timm has in the cache of the Hub; none if it has them from elsewhere."""
    repo_id, _, revision = (pretrained_cfg.get("hf_hub_id") or "").partition("@")
    # timm takes the first of these that is there.
    for name in TRANSFORMERS_FILES:
        file = try_to_load_from_cache(repo_id, name, revision=revision or None) if repo_id else None
        if isinstance(file, str):
            return [Path(file)]
    return []


__all__ = ["NAME_PREFIX", "load", "load_named", "recognise"]
