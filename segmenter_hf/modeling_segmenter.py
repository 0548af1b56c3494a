# Copyright 2026 the segmenter_hf authors. Licensed under the Apache License, Version 2.0.
"""PyTorch Segmenter model."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput, SemanticSegmenterOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_segmenter import DECODERS, SegmenterConfig


# The image-segmentation pipeline looks model names up in this table, which registering with the Auto classes leaves
# alone: without the entry it logs that the model is not supported, although it is.
MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES["segmenter"] = "SegmenterForSemanticSegmentation"


@dataclass
class SegmenterSemanticSegmenterOutput(ModelOutput):
    """
    Output of [`SegmenterForSemanticSegmentation`].

    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*, returned when `labels` is given):
            Cross entropy (binary cross entropy with one label), averaged over the pixels that are not ignored.
        logits (`torch.FloatTensor` of shape `(batch_size, num_labels, grid_height, grid_width)`):
            Scores of each label on the patch grid of the padded input, before softmax. A side of the grid is that of
            the input divided by `patch_size`, rounded up.
        hidden_states (`tuple(torch.FloatTensor)`, *optional*, returned when `output_hidden_states=True`):
            Input of the first encoder layer and output of each, before the final LayerNorm, each of shape
            `(batch_size, num_prefix_tokens + num_patches, hidden_size)`.
        attentions (`tuple(torch.FloatTensor)`, *optional*, returned when `output_attentions=True`, eager only):
            Attention probabilities of each encoder layer, of shape `(batch_size, num_heads, sequence, sequence)`. The
            prefix tokens (class, then distillation) come first.
        decoder_hidden_states (`tuple(torch.FloatTensor)`, *optional*, returned when `output_hidden_states=True`):
            The same for the mask transformer, of shape `(batch_size, num_patches + num_labels, decoder_hidden_size)`.
        decoder_attentions (`tuple(torch.FloatTensor)`, *optional*, returned when `output_attentions=True`):
            The same for the mask transformer. Label `i` is token `num_patches + i`.
        window_offsets (`torch.LongTensor` of shape `(batch_size, 7)`, *optional*):
            What the image processor gave, for its `post_process_semantic_segmentation`.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    decoder_hidden_states: tuple[torch.FloatTensor, ...] | None = None
    decoder_attentions: tuple[torch.FloatTensor, ...] | None = None
    window_offsets: torch.LongTensor | None = None


def patch_grid(height: int, width: int, patch_size: int) -> tuple[int, int]:
    """
    Rows and columns of patches that cover `(height, width)` pixels. Written so that torch's exporter, which does not
    see through remainders, follows it from the pixels to the logits.
    """
    return (height + patch_size - 1) // patch_size, (width + patch_size - 1) // patch_size


class SegmenterPatchEmbeddings(nn.Module):
    """Embeds each patch of `(batch_size, num_channels, height, width)` pixels by one linear map."""

    def __init__(self, config: SegmenterConfig):
        super().__init__()
        self.patch_size = config.patch_size
        self.num_channels = config.num_channels
        self.projection = nn.Conv2d(
            config.num_channels, config.hidden_size, kernel_size=config.patch_size, stride=config.patch_size
        )

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        if pixel_values.ndim != 4 or pixel_values.shape[1] != self.num_channels:
            raise ValueError(
                f"`pixel_values` must have shape (batch_size, {self.num_channels}, height, width), got "
                f"{tuple(pixel_values.shape)}. Stack single images, and convert them to {self.num_channels} channels."
            )
        height, width = pixel_values.shape[-2:]
        rows, columns = patch_grid(height, width, self.patch_size)
        # Padding is done always, also by 0: a branch would tie exported programs to multiples of the patch size.
        padding = (0, columns * self.patch_size - width, 0, rows * self.patch_size - height)
        pixel_values = nn.functional.pad(pixel_values.to(self.projection.weight.dtype), padding)
        return self.projection(pixel_values)


class SegmenterEmbeddings(nn.Module):
    """Patch embeddings preceded by the class (and distillation) token, plus position embeddings of any grid."""

    def __init__(self, config: SegmenterConfig):
        super().__init__()
        self.num_prefix_tokens = 2 if config.use_distillation_token else 1
        self.patch_grid = config.patch_grid
        self.interpolation = config.position_embedding_interpolation
        num_positions = self.patch_grid[0] * self.patch_grid[1] + self.num_prefix_tokens

        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.distillation_token = (
            nn.Parameter(torch.zeros(1, 1, config.hidden_size)) if config.use_distillation_token else None
        )
        self.patch_embeddings = SegmenterPatchEmbeddings(config)
        self.position_embeddings = nn.Parameter(torch.zeros(1, num_positions, config.hidden_size))
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def interpolate_position_embeddings(self, height: int, width: int) -> torch.Tensor:
        """`(1, num_prefix_tokens + height * width, hidden_size)` for a grid of `height` x `width` patches."""
        prefix = self.position_embeddings[:, : self.num_prefix_tokens]
        patches = self.position_embeddings[:, self.num_prefix_tokens :]
        patches = patches.unflatten(1, self.patch_grid).permute(0, 3, 1, 2)
        # Resizing to the same grid is the identity, and without a branch on it a program exports with any grid.
        patches = nn.functional.interpolate(
            patches, size=(height, width), mode=self.interpolation, align_corners=False
        )
        return torch.cat((prefix, patches.flatten(2).transpose(1, 2)), dim=1)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        patches = self.patch_embeddings(pixel_values)
        batch_size, _, height, width = patches.shape
        tokens = [self.cls_token.expand(batch_size, -1, -1)]
        if self.distillation_token is not None:
            tokens.append(self.distillation_token.expand(batch_size, -1, -1))
        # (batch_size, hidden_size, height, width) -> (batch_size, num_prefix_tokens + height * width, hidden_size)
        embeddings = torch.cat((*tokens, patches.flatten(2).transpose(1, 2)), dim=1)
        return self.dropout(embeddings + self.interpolate_position_embeddings(height, width))


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Unpack[TransformersKwargs],
) -> tuple[torch.Tensor, torch.Tensor]:
    attn_weights = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        attn_weights = attn_weights + attention_mask
    attn_weights = nn.functional.softmax(attn_weights, dim=-1, dtype=torch.float32).to(query.dtype)
    attn_weights = nn.functional.dropout(attn_weights, p=dropout, training=module.training)

    attn_output = torch.matmul(attn_weights, value).transpose(1, 2).contiguous()
    return attn_output, attn_weights


class SegmenterAttention(nn.Module):
    def __init__(
        self, config: SegmenterConfig, hidden_size: int, num_heads: int, hidden_dropout: float, dropout: float
    ):
        super().__init__()
        self.config = config
        self.head_dim = hidden_size // num_heads
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = dropout
        self.is_causal = False

        self.q_proj = nn.Linear(hidden_size, hidden_size, bias=config.qkv_bias)
        self.k_proj = nn.Linear(hidden_size, hidden_size, bias=config.qkv_bias)
        self.v_proj = nn.Linear(hidden_size, hidden_size, bias=config.qkv_bias)
        self.o_proj = nn.Linear(hidden_size, hidden_size)
        self.dropout = nn.Dropout(hidden_dropout)

    def forward(
        self, hidden_states: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        # (batch_size, sequence, hidden_size) -> (batch_size, num_heads, sequence, head_dim)
        hidden_shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        query = self.q_proj(hidden_states).view(hidden_shape).transpose(1, 2)
        key = self.k_proj(hidden_states).view(hidden_shape).transpose(1, 2)
        value = self.v_proj(hidden_states).view(hidden_shape).transpose(1, 2)

        attention_interface: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        attn_output, attn_weights = attention_interface(
            self,
            query,
            key,
            value,
            None,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        attn_output = attn_output.reshape(hidden_states.shape).contiguous()
        return self.dropout(self.o_proj(attn_output)), attn_weights


class SegmenterMLP(nn.Module):
    def __init__(self, config: SegmenterConfig, hidden_size: int, intermediate_size: int, dropout: float):
        super().__init__()
        self.activation_fn = ACT2FN[config.hidden_act]
        self.fc1 = nn.Linear(hidden_size, intermediate_size)
        self.fc2 = nn.Linear(intermediate_size, hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = self.dropout(self.activation_fn(self.fc1(hidden_states)))
        return self.dropout(self.fc2(hidden_states))


class SegmenterDropPath(nn.Module):
    """Stochastic depth: in training, drops the whole residual branch of a random share of the samples."""

    def __init__(self, drop_prob: float):
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if self.drop_prob == 0.0 or not self.training:
            return hidden_states
        keep_prob = 1.0 - self.drop_prob
        shape = (hidden_states.shape[0],) + (1,) * (hidden_states.ndim - 1)
        return hidden_states * hidden_states.new_empty(shape).bernoulli_(keep_prob) / keep_prob

    def extra_repr(self) -> str:
        return f"drop_prob={self.drop_prob:.4f}"


class SegmenterLayer(GradientCheckpointingLayer):
    """Pre-norm transformer layer, the same in the encoder and in the mask transformer."""

    def __init__(
        self,
        config: SegmenterConfig,
        hidden_size: int,
        num_heads: int,
        intermediate_size: int,
        hidden_dropout: float,
        attention_dropout: float,
        drop_path: float,
        layer_norm_eps: float,
    ):
        super().__init__()
        self.layernorm_before = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.attention = SegmenterAttention(config, hidden_size, num_heads, hidden_dropout, attention_dropout)
        self.layernorm_after = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.mlp = SegmenterMLP(config, hidden_size, intermediate_size, hidden_dropout)
        self.drop_path = SegmenterDropPath(drop_path)

    def forward(self, hidden_states: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> torch.Tensor:
        attn_output, _ = self.attention(self.layernorm_before(hidden_states), **kwargs)
        hidden_states = hidden_states + self.drop_path(attn_output)
        return hidden_states + self.drop_path(self.mlp(self.layernorm_after(hidden_states)))


def linear_drop_path_rates(last_rate: float, num_layers: int) -> list[float]:
    """Stochastic depth of each layer, growing linearly from 0 at the first to `last_rate` at the last."""
    return [last_rate * index / max(1, num_layers - 1) for index in range(num_layers)]


def list_names(names: set[str]) -> str:
    """The first few of many names, and how many more there are."""
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(sorted(names)[:3]) + rest or "none"


class SegmenterPreTrainedModel(PreTrainedModel):
    """
    What [`SegmenterModel`] and [`SegmenterForSemanticSegmentation`] share: loading, which refuses weights that do not
    fit the config, and initial weights. It has no `forward`.
    """

    config: SegmenterConfig
    base_model_prefix = "segmenter"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["SegmenterEmbeddings", "SegmenterLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": SegmenterLayer, "attentions": SegmenterAttention}
    _input_embed_layer = "patch_embeddings"

    @staticmethod
    def _finalize_model_loading(model, load_config, loading_info):
        # This is the last step of `from_pretrained`, which would give what is missing random values, and log a table.
        model._check_loaded_weights(
            set(loading_info.missing_keys), set(loading_info.unexpected_keys), load_config.ignore_mismatched_sizes
        )
        return PreTrainedModel._finalize_model_loading(model, load_config, loading_info)

    def _check_loaded_weights(self, missing: set[str], unexpected: set[str], may_replace_decoder: bool):
        """
        Refuses files and a config that describe different models. Fine are an encoder's weights, which get a new
        decoder, and those of a whole model for an encoder.

        Args:
            missing (`set[str]`): Names of weights of the model that the files lack.
            unexpected (`set[str]`): Names of weights in the files that the model lacks.
            may_replace_decoder (`bool`): Whether the files may have a decoder of another type, which gets lost.

        Raises:
            ValueError: if weights of the encoder or the decoder are missing or left over. The message names them, and
                the fields of the config that decide on them.
        """
        expected = set(self.state_dict())
        # As the library has it, a model is new where there are no weights of any: those have names of several parts.
        if expected <= missing and not any("." in name for name in unexpected):
            return
        modules = {name for name, _ in self.base_model.named_children()}

        def split(names: set[str]) -> tuple[set[str], set[str]]:
            """Names of the encoder, as they are without a decoder around it, and of the decoder."""
            encoder = {name.removeprefix(f"{self.base_model_prefix}.") for name in names}
            decoder = {name for name in names if name.startswith("decoder.")}
            return {name for name in encoder if name.partition(".")[0] in modules}, decoder

        (missing_encoder, missing_decoder), (extra_encoder, extra_decoder) = split(missing), split(unexpected)
        encoder, decoder = split((expected - missing) | unexpected)
        is_new_decoder = split(expected)[1] == missing_decoder
        if is_new_decoder and (may_replace_decoder or not missing_decoder or not decoder):
            missing_decoder, extra_decoder, decoder = set(), set(), set()
        if not encoder:
            missing_encoder, extra_encoder = missing, unexpected
        missing, extra = missing_encoder | missing_decoder, extra_encoder | extra_decoder
        if missing or extra:
            raise ValueError(
                f"The weights in {self.name_or_path or 'the `state_dict`'} do not fit its config: missing are "
                f"{list_names(missing)}; left over are {list_names(extra)}. {self._explain(encoder, decoder)}"
            )

    def _explain(self, encoder: set[str], decoder: set[str]) -> str:
        """Which fields of the config say something else than the names of weights."""
        if not encoder:
            return "They are those of another model, or their names have a prefix: convert them."
        stored = {
            "num_hidden_layers": len({name.split(".")[1] for name in encoder if name.startswith("layers.")}),
            "qkv_bias": any("q_proj" in name and name.endswith(".bias") for name in encoder),
            "use_distillation_token": "embeddings.distillation_token" in encoder,
        }
        for decoder_type, row in DECODERS.items():
            if f"decoder.{row.own_weight}" in decoder:
                stored["decoder_type"] = decoder_type
                if "decoder_num_hidden_layers" in row.settings:
                    layers = {name.split(".")[2] for name in decoder if name.startswith("decoder.layers.")}
                    stored["decoder_num_hidden_layers"] = len(layers)
        differing = [
            f"`{name}` is {getattr(self.config, name)!r}, and {value!r} in the weights"
            for name, value in stored.items()
            if getattr(self.config, name) != value
        ]
        if not differing:
            return "They are incomplete, or those of a changed model, such as one with adapters."
        advice = ""
        if stored.get("decoder_type", self.config.decoder_type) != self.config.decoder_type:
            advice = " For a new decoder pass `ignore_mismatched_sizes=True`."
        return f"The config's {'; '.join(differing)}.{advice}"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        std = self.config.initializer_range
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, SegmenterEmbeddings):
            init.trunc_normal_(module.cls_token, std=std)
            init.trunc_normal_(module.position_embeddings, std=std)
            if module.distillation_token is not None:
                init.trunc_normal_(module.distillation_token, std=std)


class SegmenterModel(SegmenterPreTrainedModel):
    """
    The Vision Transformer encoder: patch embeddings, pre-norm layers and a final LayerNorm.

    Args:
        config ([`SegmenterConfig`]): Its sizes. Weights are random; `SegmenterModel.from_pretrained` loads a folder or
            a repository of the Hub, of which it leaves a decoder out.
    """

    def __init__(self, config: SegmenterConfig):
        super().__init__(config)
        self.embeddings = SegmenterEmbeddings(config)
        self.layers = nn.ModuleList(
            SegmenterLayer(
                config,
                hidden_size=config.hidden_size,
                num_heads=config.num_attention_heads,
                intermediate_size=config.intermediate_size,
                hidden_dropout=config.hidden_dropout_prob,
                attention_dropout=config.attention_probs_dropout_prob,
                drop_path=drop_path,
                layer_norm_eps=config.layer_norm_eps,
            )
            for drop_path in linear_drop_path_rates(config.drop_path_rate, config.num_hidden_layers)
        )
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, pixel_values: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> BaseModelOutput:
        r"""
        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, num_channels, height, width)`):
                Normalised images of any height and width. They are zero-padded at the bottom and right to a multiple
                of `config.patch_size`, and cast to the dtype of the weights.

        Returns:
            [`BaseModelOutput`] with `last_hidden_state` of shape
            `(batch_size, num_prefix_tokens + ceil(height / patch_size) * ceil(width / patch_size), hidden_size)`: the
            class token, the distillation token if there is one, then the patches row by row.
        """
        hidden_states = self.embeddings(pixel_values)
        for layer in self.layers:
            hidden_states = layer(hidden_states, **kwargs)
        return BaseModelOutput(last_hidden_state=self.layernorm(hidden_states))


class SegmenterLinearDecoder(nn.Module):
    """Classifies each patch embedding by one linear layer."""

    def __init__(self, config: SegmenterConfig):
        super().__init__()
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, patches: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> SemanticSegmenterOutput:
        """`(batch_size, num_patches, hidden_size)` -> logits `(batch_size, num_patches, num_labels)`."""
        return SemanticSegmenterOutput(logits=self.classifier(patches))


class SegmenterMaskTransformerDecoder(SegmenterPreTrainedModel):
    """
    Refines patches and learned class embeddings together; a patch's logit for a class is their cosine similarity,
    normalised over the classes. A model of its own because the library records hidden states and attentions per model.
    """

    _can_record_outputs = {"hidden_states": OutputRecorder(SegmenterLayer), "attentions": SegmenterAttention}
    # By this field newer releases of transformers count back from the last layer, as in `output_hidden_states=[-1]`;
    # older ones do not take it as an argument.
    _can_record_outputs["hidden_states"].num_hidden_layers_key = "decoder_num_hidden_layers"

    def __init__(self, config: SegmenterConfig):
        super().__init__(config)
        hidden_size = config.decoder_hidden_size
        self.projection = nn.Linear(config.hidden_size, hidden_size)
        self.class_embeddings = nn.Parameter(torch.zeros(1, config.num_labels, hidden_size))
        self.layers = nn.ModuleList(
            SegmenterLayer(
                config,
                hidden_size=hidden_size,
                num_heads=config.decoder_num_attention_heads,
                intermediate_size=config.decoder_intermediate_size,
                hidden_dropout=config.decoder_dropout_prob,
                attention_dropout=config.decoder_dropout_prob,
                drop_path=drop_path,
                layer_norm_eps=config.decoder_layer_norm_eps,
            )
            for drop_path in linear_drop_path_rates(config.decoder_drop_path_rate, config.decoder_num_hidden_layers)
        )
        self.layernorm = nn.LayerNorm(hidden_size, eps=config.decoder_layer_norm_eps)
        self.patch_projection = nn.Linear(hidden_size, hidden_size, bias=False)
        self.class_projection = nn.Linear(hidden_size, hidden_size, bias=False)
        self.mask_norm = nn.LayerNorm(config.num_labels, eps=config.decoder_layer_norm_eps)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if module is self:
            init.trunc_normal_(self.class_embeddings, std=self.config.initializer_range)
            # This is the scale of the original implementation's `proj_patch` and `proj_classes`. Children are
            # initialised before their parents, so it replaces what is drawn for linear layers.
            init.normal_(self.patch_projection.weight, std=self.config.decoder_hidden_size**-0.5)
            init.normal_(self.class_projection.weight, std=self.config.decoder_hidden_size**-0.5)

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, patches: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> SemanticSegmenterOutput:
        """`(batch_size, num_patches, hidden_size)` -> logits `(batch_size, num_patches, num_labels)`."""
        num_patches = patches.shape[1]
        classes = self.class_embeddings.expand(patches.shape[0], -1, -1)
        hidden_states = torch.cat((self.projection(patches), classes), dim=1)
        for layer in self.layers:
            hidden_states = layer(hidden_states, **kwargs)
        hidden_states = self.layernorm(hidden_states)

        patches = nn.functional.normalize(self.patch_projection(hidden_states[:, :num_patches]), dim=-1)
        classes = nn.functional.normalize(self.class_projection(hidden_states[:, num_patches:]), dim=-1)
        return SemanticSegmenterOutput(logits=self.mask_norm(patches @ classes.transpose(1, 2)))


class SegmenterForSemanticSegmentation(SegmenterPreTrainedModel):
    """
    Segmenter with its decoder, which `config.decoder_type` names. [`SegmenterImageProcessor`] makes images into its
    inputs and its outputs into segmentation maps.

    Args:
        config ([`SegmenterConfig`]): Its sizes and labels. Weights are random; `from_pretrained` loads a folder or a
            repository of the Hub. From an encoder's, or with another `num_labels` and `ignore_mismatched_sizes=True`,
            it makes a model whose decoder, or whose part of it that depends on the labels, is yet to be trained.

    Raises:
        ValueError: if the config has labels that the decoder cannot have.

    Example:

    ```python
    >>> import torch
    >>> from PIL import Image
    >>> from segmenter_hf import SegmenterForSemanticSegmentation, SegmenterImageProcessorPil, default_checkpoint

    >>> model = SegmenterForSemanticSegmentation.from_pretrained(default_checkpoint())
    >>> image_processor = SegmenterImageProcessorPil.from_pretrained(default_checkpoint())
    >>> image = Image.new("RGB", (200, 100))
    >>> with torch.no_grad():
    ...     outputs = model(**image_processor(image, return_tensors="pt"))
    >>> (segmentation,) = image_processor.post_process_semantic_segmentation(outputs, [(image.height, image.width)])
    >>> segmentation.shape
    torch.Size([100, 200])

    ```"""

    # Trainer would divide by the number of labels that are not -100 if it thought that the loss accepts the count, and
    # so scale loss and gradients by the number of accumulation steps and processes.
    accepts_loss_kwargs = False

    def __init__(self, config: SegmenterConfig):
        super().__init__(config)
        config.validate_architecture()
        config.check_labels()
        self.segmenter = SegmenterModel(config)
        self.decoder = globals()[DECODERS[config.decoder_type].class_name](config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        window_offsets: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SegmenterSemanticSegmenterOutput:
        r"""
        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, num_channels, height, width)`):
                Normalised images or windows of any height and width, as the image processor makes them.
            labels (`torch.LongTensor` of shape `(batch_size, height, width)`, *optional*):
                A label in `[0, num_labels)` (0 or 1 if `num_labels` is 1) for each pixel, or
                `config.semantic_loss_ignore_index`.
            window_offsets (`torch.LongTensor` of shape `(batch_size, 7)`, *optional*):
                Where the windows lie in their images; handed through to the output, for post-processing.

        Returns:
            [`SegmenterSemanticSegmenterOutput`]

        Raises:
            ValueError: if shapes do not fit, or a label is out of range.

        Example:

        ```python
        >>> import torch
        >>> from segmenter_hf import SegmenterForSemanticSegmentation, default_checkpoint

        >>> model = SegmenterForSemanticSegmentation.from_pretrained(default_checkpoint())
        >>> outputs = model(torch.zeros(1, 3, 100, 200))
        >>> outputs.logits.shape[-2:] == (-(-100 // model.config.patch_size), -(-200 // model.config.patch_size))
        True

        ```"""
        # `return_dict=False`, from the caller or the config, is for this model's output only.
        encoded = self.segmenter(pixel_values, return_dict=True, **kwargs)
        patches = encoded.last_hidden_state[:, self.segmenter.embeddings.num_prefix_tokens :]
        decoded = self.decoder(patches, return_dict=True, **kwargs)

        # (batch_size, num_patches, num_labels) -> (batch_size, num_labels, ceil(height / P), ceil(width / P))
        height, width = pixel_values.shape[-2:]
        grid = patch_grid(height, width, self.config.patch_size)
        logits = decoded.logits.transpose(1, 2).unflatten(2, grid)

        loss = None
        if labels is not None:
            loss = self.compute_loss(logits, labels, height, width)

        return SegmenterSemanticSegmenterOutput(
            loss=loss,
            logits=logits,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
            decoder_hidden_states=decoded.hidden_states,
            decoder_attentions=decoded.attentions,
            window_offsets=window_offsets,
        )

    def compute_loss(
        self,
        logits: torch.Tensor,
        labels: torch.Tensor,
        height: int,
        width: int,
        class_weights: torch.Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> torch.Tensor:
        """
        Pixel-wise (binary) cross entropy of `logits` upsampled to the padded input, averaged over the pixels of
        `(height, width)` whose label is not ignored; zero, with a graph, where all are. `class_weights`, of shape
        `(num_labels,)` (two of them if `num_labels` is 1), multiply the pixels of each label, for training on rare
        classes; `label_smoothing`, from 0 to 1, is the share of the target that is spread over all labels. Both are
        those of `torch.nn.functional.cross_entropy`.
        """
        if labels.shape != (logits.shape[0], height, width):
            raise ValueError(
                f"`labels` must have shape {(logits.shape[0], height, width)}, that of `pixel_values` without "
                f"channels, got {tuple(labels.shape)}."
            )
        ignore_index = self.config.semantic_loss_ignore_index
        padded_size = (logits.shape[-2] * self.config.patch_size, logits.shape[-1] * self.config.patch_size)
        # Padded labels are ignored, as cropping the logits would do, but in a way that exports with any size.
        padding = (0, padded_size[1] - width, 0, padded_size[0] - height)
        labels = nn.functional.pad(labels.long(), padding, value=ignore_index)
        valid = labels != ignore_index
        if not torch.compiler.is_compiling():
            self._check_labels(labels, valid)

        logits = nn.functional.interpolate(logits.float(), size=padded_size, mode="bilinear", align_corners=False)
        if label_smoothing and self.config.num_labels == 1:
            # A single logit tells two labels apart, over which the target is spread.
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        if logits.shape[1] == 1:
            targets = torch.where(valid, labels, 0).to(logits.dtype)
            losses = nn.functional.binary_cross_entropy_with_logits(logits.squeeze(1), targets, reduction="none")
            if class_weights is not None:
                losses = losses * class_weights[targets.long()]
            loss = torch.where(valid, losses, 0).sum()
        else:
            loss = nn.functional.cross_entropy(
                logits,
                labels,
                weight=class_weights,
                ignore_index=ignore_index,
                reduction="sum",
                label_smoothing=label_smoothing,
            )
        return loss / valid.sum().clamp(min=1)

    def _check_labels(self, labels: torch.Tensor, valid: torch.Tensor):
        last_label = max(2, self.config.num_labels) - 1
        outside = valid & ((labels < 0) | (labels > last_label))
        if outside.any():
            raise ValueError(
                f"`labels` must be 0 to {last_label} or {self.config.semantic_loss_ignore_index} (ignored), got "
                f"{labels[outside].unique()[:5].tolist()}. Check `num_labels`, whether the label maps need "
                "`do_reduce_labels` (0 means unlabelled), or map those values to the ignored one."
            )


__all__ = ["SegmenterForSemanticSegmentation", "SegmenterModel", "SegmenterPreTrainedModel"]
