"""Encoders that other libraries load: folders of transformers' ViT and DeiT, and models of timm by their names."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from transformers.activations import ACT2FN

from .checksums import sha256_of
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
from .reporting import silence_libraries
from .safe_loading import LazyTensors, load_json
from .settings import Settings, describe, describe_differences
from .sources import CONFIG_FILE, TRANSFORMERS_FILES, Source, list_prefixes
from .state_dict import StateDictConverter, architecture_of, count_layers, list_names


# What stands before the name of a timm model where a source is asked for.
TIMM_PREFIX = "timm:"
# The modules of timm whose models are Vision Transformers; which of them are plain ones, the weights tell.
TIMM_MODULES = ("vision_transformer", "deit")

PREPROCESSOR_FILE = "preprocessor_config.json"
TRANSFORMERS_MODELS = ("vit", "deit")
# Defaults of transformers' ViTConfig and DeiTConfig.
SIZES = {"hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 3072, "num_channels": 3}
PATCH_SIZE = (16, 16)
NUM_ATTENTION_HEADS = 12
IMAGE_SIZE = (224, 224)
LAYER_NORM_EPS = 1e-12
HIDDEN_ACT = "gelu"

# Files have the names in the keys here to this day; in memory, releases of transformers after 5.4 have those on the
# right, which are ours.
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


def first_line(error: Exception) -> str:
    """What to quote of an error of another library."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(". ")


def load_transformers_weights(source: Source) -> Mapping[str, torch.Tensor]:
    """
    The tensors in a folder of transformers, under the names that its files have.

    Raises:
        ConversionError: if there are none, or files of them are missing or broken.
    """
    folder = source.file.parent
    for name in TRANSFORMERS_FILES:
        index_file = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return Source(source.path, folder / name, source.read_weights(folder / name)).state_dict
        if index_file.is_file():
            return load_shards(source, index_file)
    raise ConversionError(f"{folder} has a {CONFIG_FILE}, but no file named {' or '.join(TRANSFORMERS_FILES)}.")


def load_shards(source: Source, index_file: Path) -> Mapping[str, torch.Tensor]:
    """
    The tensors of several files, beside which an index says in which of them each is.

    Raises:
        ConversionError: if the index is broken, or it names files that are not there, or not in its folder.
    """
    settings = Settings(load_json(index_file), str(index_file))
    files = settings.get("weight_map")
    if not isinstance(files, dict) or not all(
        isinstance(file, str) and file == Path(file).name for file in files.values()
    ):
        raise settings.refuse("weight_map", "the names of files in its folder by those of tensors", files)
    paths = [index_file.parent / name for name in sorted(set(files.values()))]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise ConversionError(f"{index_file.parent} lacks files that {index_file.name} names: {list_names(missing)}.")
    shards = {path.name: source.read_weights(path) for path in paths}
    tensors = LazyTensors(index_file, files, lambda name: shards[files[name]][name])
    return Source(source.path, index_file, tensors).state_dict


def drop_heads(state_dict: Mapping[str, torch.Tensor], model_type: str, file: Path) -> Mapping[str, torch.Tensor]:
    """The tensors of the bare encoder, without the prefixes that those with a head, and wrappers, give its names."""
    wrapper = next(
        (
            prefix
            for prefix in list_prefixes(state_dict)
            if any(f"{prefix}{model}embeddings.cls_token" in state_dict for model in ("", f"{model_type}."))
        ),
        "",
    )
    # Of what is beside the encoder only a head may be, and the token of masked patches, which nothing else uses.
    names = {
        name.removeprefix(f"{model_type}."): wrapper + name
        for name in (name.removeprefix(wrapper) for name in state_dict)
        if re.search(r"(^|\.)(embeddings|encoder|layers|layernorm)\.", name) and not name.endswith(".mask_token")
    }
    return LazyTensors(file, names, lambda name: state_dict[names[name]])


def check_agreement(settings: Settings, architecture: dict[str, Any]):
    """
    Compares what `config.json` states, or leaves to defaults, with what the weights are.

    Raises:
        ConversionError: if anything differs, naming each field and both values.
    """
    patch_size = settings.get_size("patch_size") or PATCH_SIZE
    height, width = settings.get_size("image_size") or IMAGE_SIZE
    num_patches = (height // architecture["patch_size"]) * (width // architecture["patch_size"])
    differences = describe_differences(
        {field: (settings.get_count(field) or default, architecture[field]) for field, default in SIZES.items()}
        # `True` is the default.
        | {"qkv_bias": (settings.get_flag("qkv_bias") is not False, architecture["qkv_bias"])}
        | {"patch_size": (list(patch_size), [architecture["patch_size"]] * 2)}
    )
    if num_patches != architecture["num_patches"]:
        differences.append(
            f"`image_size` makes {num_patches} patches, but the weights have position embeddings for "
            f"{architecture['num_patches']}"
        )
    if differences:
        raise ConversionError(f"The weights do not fit {settings.name}: {'; '.join(differences)}.")


def convert_transformers(state_dict: Mapping[str, torch.Tensor], name: Any) -> dict[str, torch.Tensor]:
    """
    Renames the tensors of transformers' `ViTModel` or `DeiTModel`, of any release, into those of
    [`SegmenterForSemanticSegmentation`].

    Args:
        state_dict (`Mapping[str, torch.Tensor]`): The tensors of the bare model.
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
            # Queries, keys and values may have none. If only some of them do, making the model finds that.
            if not new.endswith(("q_proj", "k_proj", "v_proj")) or f"{old}.bias" in state_dict:
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
    settings = Settings(source.contents, str(source.file))
    model_type = settings.get("model_type")
    if model_type not in TRANSFORMERS_MODELS:
        raise ConversionError(
            f"{source.path} holds a model of type {describe(model_type)}, whose encoder is not Segmenter's. Of "
            f"transformers' models, those of type {' and '.join(TRANSFORMERS_MODELS)} can be converted."
        )
    hidden_act = settings.get_text("hidden_act") or HIDDEN_ACT
    if hidden_act not in ACT2FN:
        raise settings.refuse("hidden_act", "an activation of transformers", hidden_act)
    layer_norm_eps = settings.get_number("layer_norm_eps")
    if layer_norm_eps is not None and not 0 <= layer_norm_eps < 1:
        raise settings.refuse("layer_norm_eps", "at least 0 and below 1", layer_norm_eps)
    facts = EncoderFacts(
        num_attention_heads=settings.get_count("num_attention_heads") or NUM_ATTENTION_HEADS,
        normalization=read_preprocessor(source),
        image_size=settings.get_size("image_size") or IMAGE_SIZE,
        # ViTEmbeddings.interpolate_pos_encoding
        position_embedding_interpolation="bicubic",
        layer_norm_eps=LAYER_NORM_EPS if layer_norm_eps is None else float(layer_norm_eps),
        hidden_act=hidden_act,
    )
    weights = drop_heads(load_transformers_weights(source), model_type, source.file)
    converted = convert_transformers(weights, source.path)
    check_agreement(settings, architecture_of(converted))
    return make_encoder(converted, facts, options)


def read_preprocessor(source: Source) -> tuple[list[float], list[float]] | None:
    """Mean and standard deviation that a folder of transformers states, or `None` if it does not."""
    file = source.file.parent / PREPROCESSOR_FILE
    if not file.is_file():
        return None
    return read_normalization(Settings(load_json(file), str(file)), "image_mean", "image_std")


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
        with silence_libraries():
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
        num_hidden_layers=len(model.blocks),
    )
    encoder = make_encoder(converted, facts, options)
    encoder[0].config.source_sha256 = {file.name: sha256_of(file) for file in find_timm_files(model.pretrained_cfg)}
    return encoder


def find_timm_files(pretrained_cfg: Mapping[str, Any]) -> list[Path]:
    """The file of weights that timm has in the cache of the Hub; none if it has them from elsewhere."""
    repo_id, _, revision = (pretrained_cfg.get("hf_hub_id") or "").partition("@")
    # timm takes the first that is there.
    for name in TRANSFORMERS_FILES:
        file = try_to_load_from_cache(repo_id, name, revision=revision or None) if repo_id else None
        if isinstance(file, str):
            return [Path(file)]
    return []


__all__ = ["TIMM_PREFIX", "is_transformers", "load_timm_model", "load_transformers"]
