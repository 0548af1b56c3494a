"""
Checkpoints of the original implementation (https://github.com/rstrudel/segmenter, commit 20d1bfa): `checkpoint.pth`, a
dict whose `model` is the state dict, and beside it `variant.yml`, the settings that it was trained with.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..configuration_segmenter import SegmenterConfig
from ..data.labels import load_label_set
from ..evaluation.record import EvaluationProtocol
from ..image_processing_pil_segmenter import SegmenterImageProcessorPil
from ..modeling_segmenter import SegmenterForSemanticSegmentation
from .errors import ConversionError
from .safe_loading import load_yaml
from .settings import Settings, describe_differences
from .sources import Source
from .state_dict import (
    StateDictConverter,
    architecture_of,
    build_model,
    check_num_patches,
    image_processor_of,
    list_names,
    make_config,
)
from .vision_transformer import NORMALIZATIONS, TIMM_NAMES, move_encoder, move_layers


VARIANT_FILE = "variant.yml"

# nn.LayerNorm's default, used throughout (segm/model/vit.py, segm/model/blocks.py, segm/model/decoder.py), where the
# AugReg weights that training starts from were trained with 1e-6.
LAYER_NORM_EPS = 1e-5
# The mask transformer has so many layers where variant.yml does not say it (segm/config.yml).
DECODER_NUM_LAYERS = 2
# The mask transformer has one head for each 64 channels, whatever the encoder has (segm/model/factory.py).
DECODER_HEAD_DIM = 64


@dataclass(frozen=True)
class DatasetConfig:
    """
    What the original implementation ties to a data set's name (segm/data/config/*.py).

    Args:
        label_set (`str`): Whose label names, see [`~segmenter_hf.data.labels.load_label_set`].
        max_ratio (`int`): Images are resized until the short side is `im_size`, or the long one this many times that.
        reduce_labels (`bool`): Whether label maps store 0 for "other", which is ignored, and label + 1 for the rest.
    """

    label_set: str
    max_ratio: int
    reduce_labels: bool


DATASET_CONFIGS = {
    "ade20k": DatasetConfig("ade20k", max_ratio=4, reduce_labels=True),
    "cityscapes": DatasetConfig("cityscapes", max_ratio=2, reduce_labels=False),
    "pascal_context": DatasetConfig("pascal_context_60", max_ratio=8, reduce_labels=False),
}
# Data sets that the original does not know get the ratio of ADE20K, the data set of most released checkpoints.
DEFAULT_MAX_RATIO = DATASET_CONFIGS["ade20k"].max_ratio


def recognise(source: Source) -> bool:
    """Whether the weights of a source have the original's names, as far as they are there."""
    names = ("encoder.cls_token", "encoder.pos_embed", "encoder.patch_embed.proj.weight")
    if not any(name in source.state_dict for name in names):
        return False
    # Without a decoder and variant.yml, they are the weights of some encoder in somebody's model.
    has_decoder = any(name.startswith("decoder.") for name in source.state_dict)
    return has_decoder or (source.file.parent / VARIANT_FILE).is_file()


def convert_state_dict(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """
    Renames, splits and transposes the tensors of the original implementation into a state dict of
    [`SegmenterForSemanticSegmentation`]. Depth, kind of decoder and distillation token are those of the keys.

    Args:
        state_dict (`Mapping[str, torch.Tensor]`): Keys `encoder.*` and `decoder.*`. It is not changed.

    Returns:
        `dict[str, torch.Tensor]`: float32 tensors under our names.
    """
    converter = StateDictConverter(state_dict)

    move_encoder(converter, TIMM_NAMES, "encoder.")
    # Training keeps the ImageNet classifiers of the class and the distillation token, which nothing uses.
    converter.drop_module("encoder.head")
    converter.drop_module("encoder.head_dist")

    if "decoder.head.weight" in state_dict:
        converter.move_module("decoder.head", "decoder.classifier")
        return converter.finish()

    converter.move_module("decoder.proj_dec", "decoder.projection")
    converter.move("decoder.cls_emb", "decoder.class_embeddings")
    move_layers(converter, TIMM_NAMES, "decoder.blocks.", "decoder.layers.")
    converter.move_module("decoder.decoder_norm", "decoder.layernorm")
    converter.transpose("decoder.proj_patch", "decoder.patch_projection.weight")
    converter.transpose("decoder.proj_classes", "decoder.class_projection.weight")
    converter.move_module("decoder.mask_norm", "decoder.mask_norm")
    return converter.finish()


def check_agreement(variant: Settings, architecture: dict[str, Any], checkpoint_num_labels: int | None):
    """
    Compares what `variant.yml` states with what the weights are. Fields that it does not state agree.

    Args:
        variant (`Settings`): The values of `variant.yml`.
        architecture (`dict[str, Any]`): What [`~segmenter_hf.conversion.state_dict.architecture_of`] returns.
        checkpoint_num_labels (`int`, *optional*): `n_cls` as the checkpoint itself states it.
    """
    num_labels = architecture["num_labels"]
    decoder_type = variant.get_text("net_kwargs.decoder.name")
    # segm/model/factory.py makes the linear decoder for any name with that word in it.
    if decoder_type is not None and "linear" in decoder_type:
        decoder_type = "linear"
    counts = {
        "net_kwargs.d_model": "hidden_size",
        "net_kwargs.n_layers": "num_hidden_layers",
        "net_kwargs.patch_size": "patch_size",
        "net_kwargs.n_cls": "num_labels",
        "net_kwargs.decoder.n_cls": "num_labels",
    }
    fields = {field: (variant.get_count(field), architecture[name]) for field, name in counts.items()}
    fields["net_kwargs.distilled"] = (variant.get_flag("net_kwargs.distilled"), architecture["use_distillation_token"])
    fields["net_kwargs.decoder.name"] = (decoder_type, architecture["decoder_type"])
    if architecture["decoder_type"] == "mask_transformer":
        num_layers = variant.get_number("net_kwargs.decoder.n_layers", DECODER_NUM_LAYERS)
        fields["net_kwargs.decoder.n_layers"] = (num_layers, architecture["decoder_num_hidden_layers"])

    differences = describe_differences(fields)
    # segm/model/blocks.py always has these biases.
    if not architecture["qkv_bias"]:
        differences.append("the weights lack the biases of queries, keys and values")
    if checkpoint_num_labels is not None and checkpoint_num_labels != num_labels:
        differences.append(
            f"`n_cls` of the checkpoint is {checkpoint_num_labels!r}, but its weights say {num_labels!r}"
        )
    if differences:
        raise ConversionError(f"{VARIANT_FILE} does not fit the weights: {'; '.join(differences)}.")


def read_label_names(variant: Settings, num_labels: int) -> dict[int, str] | None:
    """
    The label names of the data set that `variant.yml` names, or `None` where they are not known, or are not
    `num_labels`: users trained on data of their own under that name.
    """
    dataset = DATASET_CONFIGS.get(variant.get_text("dataset_kwargs.dataset"))
    if dataset is None:
        return None
    label_set = load_label_set(dataset.label_set)
    return label_set.id2label if len(label_set) == num_labels else None


def read_config(variant: Settings, architecture: dict[str, Any]) -> SegmenterConfig:
    """
    The config of a checkpoint: shapes as the weights tell them, the rest from `variant.yml`. Values that it lacks, as
    some released files do, are the defaults of the original implementation.
    """
    if architecture["num_labels"] < 2:
        raise ConversionError("The checkpoint has a single class, whose probability by softmax is 1 everywhere.")
    if architecture["num_channels"] != 3:
        raise ConversionError(
            f"The checkpoint takes images of {architecture['num_channels']} channels, where the original's are RGB."
        )
    values = {}
    if architecture["decoder_type"] == "mask_transformer":
        values["decoder_num_attention_heads"] = max(1, architecture["decoder_hidden_size"] // DECODER_HEAD_DIM)
    # The defaults are those of `VisionTransformer` in segm/model/vit.py, and of the decoder in segm/config.yml.
    for name, field, default in (
        ("hidden_dropout_prob", "net_kwargs.dropout", 0.1),
        ("drop_path_rate", "net_kwargs.drop_path_rate", 0.0),
        ("decoder_dropout_prob", "net_kwargs.decoder.dropout", 0.1),
        ("decoder_drop_path_rate", "net_kwargs.decoder.drop_path_rate", 0.0),
    ):
        values[name] = variant.get_number(field, default)
    # segm/model/blocks.py has one rate for both.
    values["attention_probs_dropout_prob"] = values["hidden_dropout_prob"]

    image_size = variant.require_size("net_kwargs.image_size")
    check_num_patches(VARIANT_FILE, "net_kwargs.image_size", image_size, architecture, are_whole=True)
    num_attention_heads = variant.require_count("net_kwargs.n_heads")
    # It was compared with the weights already. Without it, nothing tells whether the last layers are there.
    variant.require_count("net_kwargs.n_layers")
    return make_config(
        f"{VARIANT_FILE} and the weights do not make a model",
        architecture,
        image_size,
        read_label_names(variant, architecture["num_labels"]),
        **values,
        num_attention_heads=num_attention_heads,
        layer_norm_eps=LAYER_NORM_EPS,
        decoder_layer_norm_eps=LAYER_NORM_EPS,
        position_embedding_interpolation="bilinear",
    )


def read_normalization(variant: Settings, distilled: bool) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel of images scaled to 0..1."""
    fields = ("dataset_kwargs.normalization", "net_kwargs.normalization")
    stated = {field: name for field in fields if (name := variant.get_text(field)) is not None}
    if len(set(stated.values())) > 1:
        contradiction = " but ".join(f"`{field}` is {name!r}" for field, name in stated.items())
        raise ConversionError(f"{VARIANT_FILE} contradicts itself: {contradiction}.")
    # segm/config.yml normalises as DeiT exactly where the encoder is a distilled one.
    name = next(iter(stated.values()), "deit" if distilled else "vit")
    if name not in NORMALIZATIONS:
        raise ConversionError(
            f"`normalization` of {VARIANT_FILE} must be one of {list_names(NORMALIZATIONS)}, got {name!r}."
        )
    return NORMALIZATIONS[name]


def read_image_processor(variant: Settings, config: SegmenterConfig) -> SegmenterImageProcessorPil:
    """
    The image processor that repeats the original's evaluation in training: its resize, windows and normalisation.
    """
    dataset = DATASET_CONFIGS.get(variant.get_text("dataset_kwargs.dataset"))
    # A user's own classes under a data set's name do not imply that the label maps have that data set's offset.
    has_labels_of_dataset = read_label_names(variant, config.num_labels) is not None
    im_size = variant.require_count("inference_kwargs.im_size")
    window_size = variant.require_count("inference_kwargs.window_size")
    window_stride = variant.require_count("inference_kwargs.window_stride")
    if window_stride > window_size:
        raise ConversionError(
            f"`inference_kwargs.window_stride` ({window_stride}) of {VARIANT_FILE} must be at most "
            f"`inference_kwargs.window_size` ({window_size}), or pixels between the windows would have no label."
        )
    max_ratio = DEFAULT_MAX_RATIO if dataset is None else dataset.max_ratio
    protocol = EvaluationProtocol(window_size, window_stride, shortest_edge=im_size, longest_edge=max_ratio * im_size)
    return image_processor_of(
        config,
        *read_normalization(variant, config.use_distillation_token),
        **protocol.image_processor_settings,
        do_split_image=True,
        do_reduce_labels=has_labels_of_dataset and dataset.reduce_labels,
    )


def load(source: Source) -> tuple[SegmenterForSemanticSegmentation, SegmenterImageProcessorPil]:
    """
    Model and image processor of a checkpoint of the original implementation.

    Args:
        source (`Source`): Its `checkpoint.pth`, beside which lies `variant.yml`.
    """
    variant_file = source.file.parent / VARIANT_FILE
    if not variant_file.is_file():
        raise ConversionError(
            f"{variant_file.parent} holds no {VARIANT_FILE}, which belongs beside {source.file.name}."
        )
    variant = Settings(load_yaml(variant_file), VARIANT_FILE)
    state_dict = convert_state_dict(source.state_dict)
    architecture = architecture_of(state_dict)
    contents = Settings({"n_cls": source.contents.get("n_cls")}, source.file.name)
    check_agreement(variant, architecture, contents.get_count("n_cls"))
    config = read_config(variant, architecture)
    image_processor = read_image_processor(variant, config)
    model = build_model(config, state_dict)
    if read_label_names(variant, config.num_labels) is None:
        variant.warn_of_unknown_labels("dataset_kwargs.dataset", config.num_labels)
    return model, image_processor


__all__ = ["convert_state_dict", "load", "recognise"]
