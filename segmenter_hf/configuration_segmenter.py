# Copyright 2026 the segmenter_hf authors. Licensed under the Apache License, Version 2.0.
"""Segmenter model configuration."""

from dataclasses import dataclass

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig
from transformers.utils import logging


logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class DecoderType:
    """
    What there is to know of a decoder besides its code: a row of `DECODERS`.

    Args:
        class_name (`str`): Its class in `modeling_segmenter.py`, which is made of a config, and whose `forward` takes
            patches `(batch_size, num_patches, hidden_size)` and gives logits `(batch_size, num_patches, num_labels)`.
        own_weight (`str`): The name in it of a weight that no other decoder has, by which files tell whose they are.
        description (`str`): What model cards call it.
        settings (`tuple[str, ...]`): Those fields of [`SegmenterConfig`] that are for it, and not for all decoders.
        title (`str`): What it adds to the name of a model, as in "Seg-B-Mask/16".
        no_single_label (`str`, *optional*): Why it cannot make a binary model, if it cannot.
    """

    class_name: str
    own_weight: str
    description: str
    settings: tuple[str, ...] = ()
    title: str = ""
    no_single_label: str | None = None


# Each decoder has a row, by its name in `decoder_type`: adding one takes its class and a row here.
DECODERS = {
    "mask_transformer": DecoderType(
        "SegmenterMaskTransformerDecoder",
        own_weight="class_embeddings",
        description="a mask transformer",
        settings=(
            "decoder_hidden_size",
            "decoder_num_hidden_layers",
            "decoder_num_attention_heads",
            "decoder_intermediate_size",
            "decoder_dropout_prob",
            "decoder_drop_path_rate",
            "decoder_layer_norm_eps",
        ),
        title="-Mask",
        no_single_label="whose LayerNorm over one class has no gradient",
    ),
    "linear": DecoderType("SegmenterLinearDecoder", own_weight="classifier.weight", description="a linear layer"),
}
POSITION_EMBEDDING_INTERPOLATIONS = ("bilinear", "bicubic")

# In a folder that holds these files, `trust_remote_code=True` finds the classes by these names.
MODEL_AUTO_MAP = {
    "AutoConfig": "configuration_segmenter.SegmenterConfig",
    "AutoModel": "modeling_segmenter.SegmenterModel",
    "AutoModelForSemanticSegmentation": "modeling_segmenter.SegmenterForSemanticSegmentation",
}


@strict
class SegmenterConfig(PreTrainedConfig):
    r"""
    Configuration of [`SegmenterModel`] and [`SegmenterForSemanticSegmentation`]: the plain Vision Transformer encoder
    and the decoder of "Segmenter: Transformer for Semantic Segmentation" (Strudel et al., ICCV 2021, arXiv
    2105.05633). The defaults are Seg-B-Mask/16 of the original implementation.

    Args:
        hidden_size (`int`, *optional*, defaults to 768): Width of the encoder.
        num_hidden_layers (`int`, *optional*, defaults to 12): Number of encoder layers.
        num_attention_heads (`int`, *optional*, defaults to 12): Attention heads of each encoder layer.
        intermediate_size (`int`, *optional*, defaults to 3072): Width of the encoder's MLPs.
        hidden_act (`str`, *optional*, defaults to `"gelu"`): Activation of the MLPs of encoder and decoder.
        hidden_dropout_prob (`float`, *optional*, defaults to 0.0): Dropout after the encoder's embeddings, attention
            projections and MLP layers.
        attention_probs_dropout_prob (`float`, *optional*, defaults to 0.0): Dropout on the encoder's attention
            weights.
        drop_path_rate (`float`, *optional*, defaults to 0.1): Stochastic depth of the last encoder layer; it grows
            linearly from 0 at the first.
        initializer_range (`float`, *optional*, defaults to 0.02): Standard deviation of the truncated normal that
            initialises new weights.
        layer_norm_eps (`float`, *optional*, defaults to 1e-5): Epsilon of the encoder's LayerNorms. The original
            implementation uses 1e-5, MMSegmentation and the AugReg weights 1e-6.
        image_size (`int` or `(height, width)`, *optional*, defaults to 512): Size in pixels whose patch grid the
            position embeddings were trained for. Other sizes are fed as they are: the embeddings are interpolated.
        patch_size (`int`, *optional*, defaults to 16): Side of a patch in pixels.
        num_channels (`int`, *optional*, defaults to 3): Number of input channels.
        qkv_bias (`bool`, *optional*, defaults to `True`): Whether queries, keys and values have a bias.
        use_distillation_token (`bool`, *optional*, defaults to `False`): Whether a distillation token follows the
            class token, as in distilled DeiT encoders.
        position_embedding_interpolation (`str`, *optional*, defaults to `"bilinear"`): How position embeddings are
            resized to another grid: `"bilinear"` (original implementation) or `"bicubic"` (MMSegmentation).
        decoder_type (`str`, *optional*, defaults to `"mask_transformer"`): `"mask_transformer"` or `"linear"`.
        decoder_hidden_size (`int`, *optional*): Width of the mask transformer. Defaults to `hidden_size`.
        decoder_num_hidden_layers (`int`, *optional*, defaults to 2): Number of mask transformer layers.
        decoder_num_attention_heads (`int`, *optional*): Defaults to one head per 64 channels, at least one.
        decoder_intermediate_size (`int`, *optional*): Width of the mask transformer's MLPs. Defaults to four times
            `decoder_hidden_size`.
        decoder_dropout_prob (`float`, *optional*, defaults to 0.1): Dropout everywhere in the mask transformer's
            layers.
        decoder_drop_path_rate (`float`, *optional*, defaults to 0.0): Stochastic depth of the last mask transformer
            layer; it grows linearly from 0 at the first.
        decoder_layer_norm_eps (`float`, *optional*, defaults to 1e-5): Epsilon of the mask transformer's LayerNorms.
        semantic_loss_ignore_index (`int`, *optional*, defaults to 255): Label that the loss ignores.
        palette (`list[list[int]]`, *optional*): For drawing, the colour of each name in `id2label`: red, green and
            blue from 0 to 255. Other labels than those it was made for drop it.

    `num_labels=1` makes a binary model (linear decoder only): one logit a pixel, whose sigmoid is the probability of
    label 1, while `id2label` names both labels 0 and 1.

    Labels of one name, and a `label2id` that says something else than `id2label` (which counts), are warned of.

    Raises:
        ValueError: for a combination that cannot work; the message names the field.

    Example:

    ```python
    >>> from segmenter_hf import SegmenterConfig, SegmenterForSemanticSegmentation

    >>> configuration = SegmenterConfig(hidden_size=192, num_attention_heads=3, intermediate_size=768, num_labels=150)
    >>> model = SegmenterForSemanticSegmentation(configuration)
    >>> configuration.decoder_num_attention_heads
    3

    ```"""

    model_type = "segmenter"
    keys_to_ignore_at_inference = ["window_offsets"]

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    drop_path_rate: float | int = 0.1
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    image_size: int | list[int] | tuple[int, int] = 512
    patch_size: int = 16
    num_channels: int = 3
    qkv_bias: bool = True
    use_distillation_token: bool = False
    position_embedding_interpolation: str = "bilinear"
    decoder_type: str = "mask_transformer"
    decoder_hidden_size: int | None = None
    decoder_num_hidden_layers: int = 2
    decoder_num_attention_heads: int | None = None
    decoder_intermediate_size: int | None = None
    decoder_dropout_prob: float | int = 0.1
    decoder_drop_path_rate: float | int = 0.0
    decoder_layer_norm_eps: float = 1e-5
    semantic_loss_ignore_index: int = 255
    palette: list[list[int]] | None = None

    def __post_init__(self, **kwargs):
        if self.decoder_hidden_size is None:
            self.decoder_hidden_size = self.hidden_size
        if self.decoder_num_attention_heads is None:
            self.decoder_num_attention_heads = max(1, self.decoder_hidden_size // 64)
        if self.decoder_intermediate_size is None:
            self.decoder_intermediate_size = 4 * self.decoder_hidden_size

        num_labels = kwargs.get("num_labels")
        if num_labels is not None and self.id2label is not None and len(self.id2label) != max(2, num_labels):
            raise ValueError(
                f"`num_labels={num_labels}` does not fit `id2label`, which names {len(self.id2label)} label(s). A "
                "binary model (`num_labels=1`) names both labels, 0 and 1."
            )
        # There is one logit but two names, so the length of `id2label` does not tell `num_labels=1`.
        self.is_binary = num_labels == 1
        if self.is_binary and self.id2label is not None:
            kwargs.pop("num_labels")
        super().__post_init__(**kwargs)
        self.match_label_names()
        # The library wraps what a validator raises in an error of its own; a user gets the plain ValueError.
        self.validate_architecture()

    def match_label_names(self):
        """Makes `label2id` what `id2label` says, and warns where the two disagree, or names tell no labels apart."""
        names = list(self.id2label.values())
        label2id = {label: index for index, label in self.id2label.items()}
        if len(label2id) < len(names):
            repeated = {
                name: [index for index, other in self.id2label.items() if other == name]
                for name in label2id
                if names.count(name) > 1
            }
            logger.warning(
                f"`id2label` has several labels of one name, {repeated}, which `label2id`, the masks of a pipeline "
                "and the figures of an evaluation cannot tell apart. Rename them."
            )
        # Numbers may be strings, as in the keys of `id2label` in JSON.
        elif self.label2id and {(name, str(index)) for name, index in self.label2id.items()} == {
            (name, str(index)) for name, index in label2id.items()
        }:
            return
        elif self.label2id and len(self.label2id) == len(label2id):
            logger.warning(
                f"`label2id` is not what `id2label` says, which counts: {self.label2id} becomes {label2id}."
            )
        self.label2id = label2id

    @property
    def num_labels(self) -> int:
        """`int`: number of logits per pixel, 1 for a binary model although `id2label` names two labels then."""
        if getattr(self, "is_binary", False):
            return 1
        return len(self.id2label) if self.id2label is not None else None

    @num_labels.setter
    def num_labels(self, num_labels: int):
        if self.id2label is not None and num_labels == self.num_labels:
            return
        self.is_binary = num_labels == 1
        # Colours belong to the labels that are replaced. There are none yet while the config is made.
        if self.id2label is not None:
            self.palette = None
        self.id2label = {index: f"LABEL_{index}" for index in range(2 if self.is_binary else num_labels)}
        self.label2id = {label: index for index, label in self.id2label.items()}

    @property
    def patch_grid(self) -> tuple[int, int]:
        """`(height, width)` in patches of the grid that the position embeddings were trained for."""
        size = (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size
        return size[0] // self.patch_size, size[1] // self.patch_size

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        # The library lets a stored `id2label` win over a `num_labels` that the caller passes, with a warning only; and
        # it sets the other overrides after validation. Here overrides replace the stored values before the config is
        # made, and what they make meaningless is dropped.
        config_dict = dict(config_dict)
        label_fields = ("num_labels", "id2label", "label2id")
        kwargs = {name: value for name, value in kwargs.items() if value is not None or name not in label_fields}
        overridden = {name for name in kwargs if name in cls.__dataclass_fields__ or name == "num_labels"} - {"dtype"}
        stored_num_labels = config_dict.get("num_labels", len(config_dict.get("id2label") or (0, 1)))
        if "id2label" in overridden or kwargs.get("num_labels", stored_num_labels) != stored_num_labels:
            # New names for the two labels of a binary model leave it a binary one.
            if stored_num_labels == 1 and len(kwargs.get("id2label", ())) == 2:
                kwargs.setdefault("num_labels", 1)
                overridden.add("num_labels")
            for name in (*label_fields, "palette"):
                config_dict.pop(name, None)
        for name in overridden:
            config_dict[name] = kwargs.pop(name)
        return super().from_dict(config_dict, **kwargs)

    def to_dict(self):
        output = super().to_dict()
        if output.pop("is_binary", False):
            output["num_labels"] = 1
        # The library names only the saved class in a folder that holds code; an encoder is as good a start for the
        # segmentation model as the other way round, so where one is named locally, the other's code is there too. What
        # names a subclass stays, and so do references to a Hub repository ("repository--module.class") without one.
        auto_map = output.get("auto_map", {})
        if any(
            auto_map.get(name) == MODEL_AUTO_MAP[name] for name in ("AutoModel", "AutoModelForSemanticSegmentation")
        ):
            output["auto_map"] = {
                **auto_map,
                **{
                    name: reference
                    for name, reference in MODEL_AUTO_MAP.items()
                    if auto_map.get(name, reference).rpartition("--")[2] == reference
                },
            }
        return output

    def validate_architecture(self):
        """Part of `@strict`-powered validation: refuses, by name, values that cannot work together."""
        for name in (
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "patch_size",
            "num_channels",
            "decoder_hidden_size",
            "decoder_num_attention_heads",
            "decoder_intermediate_size",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if self.decoder_num_hidden_layers < 0:
            raise ValueError(
                f"`decoder_num_hidden_layers` must not be negative, got {self.decoder_num_hidden_layers}."
            )
        if not isinstance(self.image_size, int) and len(self.image_size) != 2:
            raise ValueError(f"`image_size` must be an int or (height, width), got {self.image_size}.")
        if min(self.patch_grid) < 1:
            raise ValueError(
                f"`image_size` ({self.image_size}) must be at least `patch_size` ({self.patch_size}) in both "
                "directions."
            )
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"`hidden_size` ({self.hidden_size}) must be a multiple of `num_attention_heads` "
                f"({self.num_attention_heads})."
            )
        if self.position_embedding_interpolation not in POSITION_EMBEDDING_INTERPOLATIONS:
            raise ValueError(
                f"`position_embedding_interpolation` must be one of {POSITION_EMBEDDING_INTERPOLATIONS}, got "
                f"{self.position_embedding_interpolation!r}."
            )
        for name in (
            "hidden_dropout_prob",
            "attention_probs_dropout_prob",
            "drop_path_rate",
            "decoder_dropout_prob",
            "decoder_drop_path_rate",
        ):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 0 and below 1, got {getattr(self, name)}.")
        if self.decoder_type not in DECODERS:
            raise ValueError(f"`decoder_type` must be one of {tuple(DECODERS)}, got {self.decoder_type!r}.")
        has_heads = "decoder_num_attention_heads" in DECODERS[self.decoder_type].settings
        if has_heads and self.decoder_hidden_size % self.decoder_num_attention_heads:
            raise ValueError(
                f"`decoder_hidden_size` ({self.decoder_hidden_size}) must be a multiple of "
                f"`decoder_num_attention_heads` ({self.decoder_num_attention_heads})."
            )
        # One name without `num_labels=1` is what the library's own tests of configurations pass, and an encoder does
        # not mind: the segmentation model refuses it.
        if self.is_binary or len(self.id2label) != 1:
            self.check_labels()

    def check_labels(self):
        """Refuses labels that [`SegmenterForSemanticSegmentation`] cannot have."""
        reason = DECODERS[self.decoder_type].no_single_label
        if self.num_labels == 1 and reason is not None:
            raise ValueError(
                f'`num_labels=1` does not work with `decoder_type="{self.decoder_type}"`, {reason}. Use '
                '`num_labels=2` (background and object) or `decoder_type="linear"`.'
            )
        if self.num_labels < 1 or sorted(self.id2label) != list(range(max(2, self.num_labels))):
            raise ValueError(
                f"`id2label` must name the labels 0 to {max(2, self.num_labels) - 1}, got {sorted(self.id2label)}. "
                "A binary model (`num_labels=1`) names both labels, 0 and 1."
            )
        if self.palette is not None and (
            len(self.palette) != len(self.id2label)
            or not all(len(colour) == 3 and min(colour) >= 0 and max(colour) <= 255 for colour in self.palette)
        ):
            raise ValueError(
                f"`palette` must have red, green and blue from 0 to 255 for each of {len(self.id2label)} labels, got "
                f"{self.palette}."
            )


__all__ = ["SegmenterConfig"]
