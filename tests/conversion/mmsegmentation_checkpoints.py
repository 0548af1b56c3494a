"""
Checkpoints in the formats of MMSegmentation 0.x and 1.x, of any size and with random weights, and what MMSegmentation
computes with them, written from its description for one purpose: to be compared with. Neither it nor mmengine is
needed: classes of their names are made for the time of saving.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F


@contextmanager
def foreign_class(name: str, *bases: type, **attributes) -> Iterator[type]:
    """A class of that dotted name, whose modules can be imported, as pickling asks for, until the block ends."""
    module, _, class_name = name.rpartition(".")
    parts = module.split(".")
    names = [".".join(parts[: index + 1]) for index in range(len(parts))]
    before = {name: sys.modules.get(name) for name in names}
    sys.modules.update({name: ModuleType(name) for name in names if before[name] is None})
    foreign = type(class_name, bases or (object,), {"__module__": module, **attributes})
    setattr(sys.modules[module], class_name, foreign)
    try:
        yield foreign
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]


def to_text(value: Any) -> str:
    """A value as mmcv and mmengine write it into the text of a config."""
    if isinstance(value, dict):
        return f"dict({', '.join(f'{key}={to_text(item)}' for key, item in value.items())})"
    if isinstance(value, list):
        return f"[{', '.join(map(to_text, value))}]"
    if isinstance(value, tuple):
        return f"({' '.join(f'{to_text(item)},' for item in value)})"
    return repr(value)


@dataclass
class MMSegmentationCheckpoint:
    """
    Args:
        state_dict (`dict[str, torch.Tensor]`): MMSegmentation's names and layout.
        config (`dict[str, Any]`): The variables of its config.
        release (`int`): 0 or 1, by which the files differ.
        meta (`dict[str, Any]`): What the checkpoint says beside its weights and config.
    """

    state_dict: dict[str, torch.Tensor]
    config: dict[str, Any]
    release: int
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def config_text(self) -> str:
        return "".join(f"{name} = {to_text(value)}\n" for name, value in self.config.items())

    def write(self, folder: Path, with_config: bool = True, **save_kwargs) -> Path:
        """Writes `checkpoint.pth`, as mmcv (0.x) or mmengine (1.x) does, and returns the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "checkpoint.pth"
        text_field = {0: "config", 1: "cfg"}[self.release]
        meta = {**self.meta, **({text_field: self.config_text} if with_config else {})}
        if self.release == 0:
            torch.save({"meta": {"iter": 160000, **meta}, "state_dict": self.state_dict}, path, **save_kwargs)
            return folder
        with (
            foreign_class("mmengine.config.config.ConfigDict", dict) as config_dict,
            foreign_class("mmengine.logging.history_buffer.HistoryBuffer", mean=lambda self: 0.0) as history_buffer,
        ):
            # mmengine's own pickles refer to the method by `getattr(HistoryBuffer, "mean")` too.
            history_buffer.mean.__qualname__ = "HistoryBuffer.mean"
            history_buffer.mean.__module__ = history_buffer.__module__
            history = history_buffer()
            history.__dict__ = {"_log_history": np.arange(3.0), "statistics_methods": {"mean": history_buffer.mean}}
            checkpoint = {
                "meta": {**meta, "dataset_meta": config_dict(meta.get("dataset_meta", {}))},
                "state_dict": self.state_dict,
                "message_hub": {"log_scalars": {"train/loss": history}, "runtime_info": {"lr": np.float64(0.1)}},
                "optimizer": {"state": {}, "param_groups": [{"lr": 0.001, "momentum": 0.9, "params": [0, 1]}]},
                "param_schedulers": [{"last_step": 3}],
            }
            torch.save(checkpoint, path, **save_kwargs)
        return folder


def make_mmsegmentation_checkpoint(
    release: int = 1,
    num_classes: int = 7,
    embed_dims: int = 64,
    num_heads: int = 1,
    num_layers: int = 2,
    mlp_ratio: int = 4,
    patch_size: int = 16,
    img_size: tuple[int, int] = (64, 64),
    qkv_bias: bool = True,
    patch_bias: bool | None = None,
    head: str = "SegmenterMaskTransformerHead",
    head_embed_dims: int | None = None,
    head_num_heads: int = 1,
    head_num_layers: int = 2,
    head_qkv_bias: bool = True,
    seed: int = 0,
) -> MMSegmentationCheckpoint:
    """A random checkpoint. All its weights differ from what initialisation gives, so that each of them matters."""
    generator = torch.Generator().manual_seed(seed)
    head_embed_dims = head_embed_dims or embed_dims
    if patch_bias is None:
        patch_bias = release == 0

    def random(*shape: int, std: float = 0.1, mean: float = 0.0) -> torch.Tensor:
        return mean + std * torch.randn(*shape, generator=generator)

    state_dict: dict[str, torch.Tensor] = {}

    def linear(name: str, num_outputs: int, *inputs: int, bias: bool = True):
        state_dict[f"{name}.weight"] = random(num_outputs, *inputs)
        if bias:
            state_dict[f"{name}.bias"] = random(num_outputs)

    def layer_norm(name: str, width: int):
        state_dict[f"{name}.weight"] = random(width, mean=1.0)
        state_dict[f"{name}.bias"] = random(width)

    def layers(part: str, number: int, width: int, bias: bool):
        for name in (f"{part}.layers.{index}" for index in range(number)):
            layer_norm(f"{name}.ln1", width)
            state_dict[f"{name}.attn.attn.in_proj_weight"] = random(3 * width, width)
            if bias:
                state_dict[f"{name}.attn.attn.in_proj_bias"] = random(3 * width)
            linear(f"{name}.attn.attn.out_proj", width, width, bias=bias)
            layer_norm(f"{name}.ln2", width)
            linear(f"{name}.ffn.layers.0.0", mlp_ratio * width, width)
            linear(f"{name}.ffn.layers.1", width, mlp_ratio * width)

    num_patches = (img_size[0] // patch_size) * (img_size[1] // patch_size)
    state_dict["backbone.cls_token"] = random(1, 1, embed_dims, std=1.0)
    state_dict["backbone.pos_embed"] = random(1, num_patches + 1, embed_dims, std=1.0)
    linear("backbone.patch_embed.projection", embed_dims, 3, patch_size, patch_size, bias=patch_bias)
    layers("backbone", num_layers, embed_dims, qkv_bias)
    layer_norm("backbone.ln1", embed_dims)
    decode_head = {"type": head, "in_channels": embed_dims, "num_classes": num_classes, "dropout_ratio": 0.0}
    if head == "FCNHead":
        linear("decode_head.conv_seg", num_classes, embed_dims, 1, 1)
        decode_head |= {"channels": embed_dims, "num_convs": 0, "concat_input": False}
    else:
        state_dict["decode_head.cls_emb"] = random(1, num_classes, head_embed_dims, std=1.0)
        linear("decode_head.dec_proj", head_embed_dims, embed_dims)
        linear("decode_head.patch_proj", head_embed_dims, head_embed_dims, bias=False)
        linear("decode_head.classes_proj", head_embed_dims, head_embed_dims, bias=False)
        layers("decode_head", head_num_layers, head_embed_dims, head_qkv_bias)
        layer_norm("decode_head.decoder_norm", head_embed_dims)
        layer_norm("decode_head.mask_norm", num_classes)
        decode_head |= {"channels": head_embed_dims, "embed_dims": head_embed_dims, "num_heads": head_num_heads}
        decode_head |= {"num_layers": head_num_layers, "qkv_bias": head_qkv_bias}

    backbone = {
        "type": "VisionTransformer",
        "img_size": img_size,
        "patch_size": patch_size,
        "in_channels": 3,
        "embed_dims": embed_dims,
        "num_layers": num_layers,
        "num_heads": num_heads,
        "mlp_ratio": mlp_ratio,
        "qkv_bias": qkv_bias,
        "drop_path_rate": 0.1,
        "attn_drop_rate": 0.0,
        "drop_rate": 0.0,
        "final_norm": True,
        "norm_cfg": {"type": "LN", "eps": 1e-6, "requires_grad": True},
        "with_cls_token": True,
        "interpolate_mode": "bicubic",
    }
    model = {"type": "EncoderDecoder", "pretrained": None, "backbone": backbone, "decode_head": decode_head}
    model["test_cfg"] = {"mode": "slide", "crop_size": (64, 64), "stride": (48, 48)}
    config: dict[str, Any] = {"model": model, "dataset_type": "ADE20KDataset"}
    normalization = {"mean": [120.0, 110.0, 100.0], "std": [60.0, 55.0, 50.0]}
    names, palette = [f"thing {index}" for index in range(num_classes)], [[i, 255 - i, 0] for i in range(num_classes)]
    if release == 0:
        normalization["to_rgb"] = True
        steps = [
            {"type": "Resize", "keep_ratio": True},
            {"type": "RandomFlip"},
            {"type": "Normalize", **normalization},
        ]
        steps += [{"type": "ImageToTensor", "keys": ["img"]}, {"type": "Collect", "keys": ["img"]}]
        augmentation = {"type": "MultiScaleFlipAug", "img_scale": (256, 96), "flip": False, "transforms": steps}
        config["img_norm_cfg"] = normalization
        config["train_pipeline"] = [
            {"type": "LoadImageFromFile"},
            {"type": "LoadAnnotations", "reduce_zero_label": True},
        ]
        config["data"] = {"test": {"pipeline": [{"type": "LoadImageFromFile"}, augmentation]}}
        return MMSegmentationCheckpoint(state_dict, config, release, {"CLASSES": tuple(names), "PALETTE": palette})

    model["data_preprocessor"] = {"type": "SegDataPreProcessor", **normalization, "bgr_to_rgb": True, "size": (64, 64)}
    config["test_pipeline"] = [
        {"type": "LoadImageFromFile"},
        {"type": "Resize", "scale": (256, 96), "keep_ratio": True},
        {"type": "LoadAnnotations", "reduce_zero_label": True},
        {"type": "PackSegInputs"},
    ]
    return MMSegmentationCheckpoint(
        state_dict, config, release, {"dataset_meta": {"classes": tuple(names), "palette": palette}}
    )


def mmsegmentation_logits(checkpoint: MMSegmentationCheckpoint, pixel_values: torch.Tensor) -> torch.Tensor:
    """
    What `encode_decode` of MMSegmentation computes for images of shape `(batch_size, 3, height, width)`: logits of
    shape `(batch_size, num_classes, height, width)`.
    """
    weights, model = checkpoint.state_dict, checkpoint.config["model"]
    backbone, head = model["backbone"], model["decode_head"]
    patch_size = backbone["patch_size"]

    def layer_norm(x: torch.Tensor, name: str, part: dict[str, Any]) -> torch.Tensor:
        eps = part.get("norm_cfg", {}).get("eps", 1e-5)
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], eps=eps)

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    def attention(x: torch.Tensor, name: str, num_heads: int) -> torch.Tensor:
        query, key, value = (
            F.linear(x, weight, bias).unflatten(2, (num_heads, -1)).transpose(1, 2)
            for weight, bias in zip(
                weights[f"{name}.in_proj_weight"].chunk(3),
                weights.get(f"{name}.in_proj_bias", torch.zeros(3 * x.shape[-1])).chunk(3),
                strict=True,
            )
        )
        probabilities = (query @ key.mT / query.shape[-1] ** 0.5).softmax(dim=-1)
        return linear((probabilities @ value).transpose(1, 2).flatten(2), f"{name}.out_proj")

    def layers(x: torch.Tensor, name: str, part: dict[str, Any]) -> torch.Tensor:
        for layer in (f"{name}.layers.{index}" for index in range(part["num_layers"])):
            x = x + attention(layer_norm(x, f"{layer}.ln1", part), f"{layer}.attn.attn", part["num_heads"])
            hidden = linear(layer_norm(x, f"{layer}.ln2", part), f"{layer}.ffn.layers.0.0")
            x = x + linear(F.gelu(hidden), f"{layer}.ffn.layers.1")
        return x

    size = pixel_values.shape[-2:]
    pixel_values = F.pad(pixel_values, (0, -size[1] % patch_size, 0, -size[0] % patch_size))
    projection = "backbone.patch_embed.projection"
    patches = F.conv2d(
        pixel_values, weights[f"{projection}.weight"], weights.get(f"{projection}.bias"), stride=patch_size
    )
    grid = patches.shape[-2:]
    positions = weights["backbone.pos_embed"]
    positions_2d = positions[:, 1:].unflatten(1, [side // patch_size for side in backbone["img_size"]])
    positions_2d = F.interpolate(positions_2d.permute(0, 3, 1, 2), size=grid, mode=backbone["interpolate_mode"])
    x = torch.cat((weights["backbone.cls_token"].expand(len(patches), -1, -1), patches.flatten(2).mT), dim=1)
    x = x + torch.cat((positions[:, :1], positions_2d.flatten(2).mT), dim=1)
    x = layer_norm(layers(x, "backbone", backbone), "backbone.ln1", backbone)[:, 1:]

    if head["type"] == "FCNHead":
        masks = F.linear(x, weights["decode_head.conv_seg.weight"][..., 0, 0], weights["decode_head.conv_seg.bias"])
    else:
        classes = weights["decode_head.cls_emb"].expand(len(x), -1, -1)
        x = torch.cat((linear(x, "decode_head.dec_proj"), classes), dim=1)
        x = layer_norm(layers(x, "decode_head", head), "decode_head.decoder_norm", head)
        patches = F.normalize(linear(x[:, : -classes.shape[1]], "decode_head.patch_proj"), dim=2)
        classes = F.normalize(linear(x[:, -classes.shape[1] :], "decode_head.classes_proj"), dim=2)
        masks = layer_norm(patches @ classes.mT, "decode_head.mask_norm", head)
    return F.interpolate(masks.mT.unflatten(2, grid), size=size, mode="bilinear")


def mmsegmentation_slide_logits(checkpoint: MMSegmentationCheckpoint, pixel_values: torch.Tensor) -> torch.Tensor:
    """What `slide_inference` of MMSegmentation computes, of the same shapes as [`mmsegmentation_logits`]."""
    test_cfg = checkpoint.config["model"]["test_cfg"]
    (height, width), (crop_height, crop_width) = pixel_values.shape[-2:], test_cfg["crop_size"]
    sums, counts = 0, torch.zeros(height, width)
    rows, columns = (
        max(side - crop + stride - 1, 0) // stride + 1
        for side, crop, stride in zip((height, width), test_cfg["crop_size"], test_cfg["stride"], strict=True)
    )
    for row in range(rows):
        for column in range(columns):
            bottom = min(row * test_cfg["stride"][0] + crop_height, height)
            right = min(column * test_cfg["stride"][1] + crop_width, width)
            top, left = max(bottom - crop_height, 0), max(right - crop_width, 0)
            logits = mmsegmentation_logits(checkpoint, pixel_values[..., top:bottom, left:right])
            sums = sums + F.pad(logits, (left, width - right, top, height - bottom))
            counts[top:bottom, left:right] += 1
    return sums / counts
