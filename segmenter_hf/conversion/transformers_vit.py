"""Folders of transformers' ViT and DeiT."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig
from transformers.activations import ACT2FN
from transformers.utils import CONFIG_NAME, IMAGE_PROCESSOR_NAME

from .encoders import (
    Encoder,
    EncoderFacts,
    EncoderOptions,
    make_encoder,
    not_a_plain_vision_transformer,
    read_normalization,
)
from .errors import ConversionError
from .safe_loading import LazyTensors, load_json
from .settings import Settings, describe, describe_differences
from .sources import TRANSFORMERS_FILES, Source, list_prefixes
from .state_dict import StateDictConverter, architecture_of, count_layers, list_names


MODEL_TYPES = ("vit", "deit")

# Files have the names on the left to this day. In memory, releases of transformers after 5.4 have those on the right,
# which are ours.
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
# This stands before a layer's index; the names of its parts follow.
NAMING_SCHEMES = (("layers.", LAYER_NAMES), ("encoder.layer.", OLDER_LAYER_NAMES))


def recognise(source: Source) -> bool:
    """Whether the source is a folder of transformers: a `config.json` with a `model_type`."""
    return source.file.name == CONFIG_NAME and isinstance(source.contents, Mapping) and "model_type" in source.contents


def load_tensors(source: Source) -> Mapping[str, torch.Tensor]:
    """The tensors in a folder of transformers, under the names that its files have."""
    folder = source.file.parent
    for name in TRANSFORMERS_FILES:
        index_file = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return Source(source.path, folder / name, source.read_weights(folder / name)).state_dict
        if index_file.is_file():
            return load_shards(source, index_file)
    raise ConversionError(f"{folder} has a {CONFIG_NAME}, but no file named {' or '.join(TRANSFORMERS_FILES)}.")


def load_shards(source: Source, index_file: Path) -> Mapping[str, torch.Tensor]:
    """The tensors of several files, beside which an index says in which of them each is."""
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
    tokens = ("embeddings.cls_token", f"{model_type}.embeddings.cls_token")
    prefixes = list_prefixes(state_dict)
    wrapper = next((prefix for prefix in prefixes if any(prefix + token in state_dict for token in tokens)), "")
    # Beside the encoder there may be a head, and the token of masked patches, which nothing else uses.
    names = {
        name.removeprefix(f"{model_type}."): wrapper + name
        for name in (name.removeprefix(wrapper) for name in state_dict)
        if re.search(r"(^|\.)(embeddings|encoder|layers|layernorm)\.", name) and not name.endswith(".mask_token")
    }
    return LazyTensors(file, names, lambda name: state_dict[names[name]])


def check_agreement(settings: Settings, architecture: dict[str, Any]):
    """Compares what `config.json` states, or leaves to defaults, with what the weights are."""
    sizes = ("hidden_size", "num_hidden_layers", "intermediate_size", "num_channels")
    differences = describe_differences(
        {field: (settings.get_count(field), architecture[field]) for field in sizes}
        | {"qkv_bias": (settings.get_flag("qkv_bias"), architecture["qkv_bias"])}
        | {"patch_size": (list(settings.require_size("patch_size")), [architecture["patch_size"]] * 2)}
    )
    height, width = settings.require_size("image_size")
    num_patches = (height // architecture["patch_size"]) * (width // architecture["patch_size"])
    if num_patches != architecture["num_patches"]:
        differences.append(
            f"`image_size` makes {num_patches} patches, but the weights have position embeddings for "
            f"{architecture['num_patches']}"
        )
    if differences:
        raise ConversionError(f"The weights do not fit {settings.name}: {'; '.join(differences)}.")


def convert_state_dict(state_dict: Mapping[str, torch.Tensor], name: Any) -> dict[str, torch.Tensor]:
    """
    Renames the tensors of transformers' `ViTModel` or `DeiTModel`, of any release, into those of
    [`SegmenterForSemanticSegmentation`].

    Args:
        state_dict (`Mapping[str, torch.Tensor]`): The tensors of the bare model.
        name (`Any`): What errors call the source.
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
            # Queries, keys and values may have no biases. If only some of them do, making the model finds that.
            if not new.endswith(("q_proj", "k_proj", "v_proj")) or f"{old}.bias" in state_dict:
                converter.move(f"{old}.bias", f"{new}.bias")
    converter.move_module("layernorm", "segmenter.layernorm")
    return converter.finish(not_a_plain_vision_transformer(name))


def read_config(source: Source) -> Settings:
    """What `config.json` states, and what it leaves to the defaults of its model."""
    model_type = source.contents.get("model_type")
    if model_type not in MODEL_TYPES:
        raise ConversionError(
            f"{source.path} holds a model of type {describe(model_type)}, whose encoder is not Segmenter's. Of "
            f"transformers' models, those of type {' and '.join(MODEL_TYPES)} can be converted."
        )
    stated = {field: value for field, value in source.contents.items() if value is not None}
    return Settings({**AutoConfig.for_model(model_type).to_dict(), **stated}, str(source.file))


def read_preprocessor(source: Source) -> tuple[list[float], list[float]] | None:
    """Mean and standard deviation that a folder of transformers states, or `None` if it does not."""
    file = source.file.parent / IMAGE_PROCESSOR_NAME
    if not file.is_file():
        return None
    return read_normalization(Settings(load_json(file), str(file)), "image_mean", "image_std")


def load(source: Source, options: EncoderOptions) -> Encoder:
    """
    Model and image processor of a folder of transformers with a ViT or a DeiT, whatever its head. Its own code, if it
    has any, is not run.
    """
    settings = read_config(source)
    hidden_act = settings.get_text("hidden_act")
    if hidden_act not in ACT2FN:
        raise settings.refuse("hidden_act", "an activation of transformers", hidden_act)
    facts = EncoderFacts(
        num_attention_heads=settings.get_count("num_attention_heads"),
        normalization=read_preprocessor(source),
        image_size=settings.require_size("image_size"),
        # This is how ViTEmbeddings.interpolate_pos_encoding resizes them.
        position_embedding_interpolation="bicubic",
        layer_norm_eps=settings.get_eps("layer_norm_eps"),
        hidden_act=hidden_act,
    )
    weights = drop_heads(load_tensors(source), settings.get_text("model_type"), source.file)
    converted = convert_state_dict(weights, source.path)
    check_agreement(settings, architecture_of(converted))
    return make_encoder(converted, facts, options)


__all__ = ["load", "recognise"]
