"""
Checkpoints in the format of the original implementation, of any size and with random weights, and what the original
computes with them, written from its description for one purpose: to be compared with.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.nn import functional as F


@dataclass
class OriginalCheckpoint:
    """
    Args:
        state_dict (`dict[str, torch.Tensor]`): The original's names and layout.
        variant (`dict[str, Any]`): What `variant.yml` holds.
        n_cls (`int`): Number of classes that `checkpoint.pth` states beside the weights.
    """

    state_dict: dict[str, torch.Tensor]
    variant: dict[str, Any]
    n_cls: int

    def write(self, folder: Path) -> Path:
        """Writes `checkpoint.pth` and `variant.yml` as the original's training does, and returns the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint = {
            "model": self.state_dict,
            "optimizer": {"state": {}, "param_groups": [{"lr": 0.001, "momentum": 0.9, "params": [0, 1]}]},
            "n_cls": self.n_cls,
            "lr_scheduler": {"base_lrs": [0.001], "last_epoch": 10},
            "epoch": 63,
        }
        torch.save(checkpoint, folder / "checkpoint.pth")
        # The default dumper writes tuples with the tag that safe loaders do not know, as the original's does.
        (folder / "variant.yml").write_text(yaml.dump(self.variant))
        return folder


def make_original_checkpoint(
    n_cls: int = 7,
    d_model: int = 64,
    n_heads: int = 1,
    n_layers: int = 2,
    patch_size: int = 16,
    image_size: tuple[int, int] = (64, 64),
    distilled: bool = False,
    decoder: str = "mask_transformer",
    decoder_layers: int = 2,
    dataset: str = "ade20k",
    window_size: int = 64,
    window_stride: int = 48,
    im_size: int = 64,
    seed: int = 0,
) -> OriginalCheckpoint:
    """A random checkpoint. All its weights differ from what initialisation gives, so that each of them matters."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int, std: float = 0.1, mean: float = 0.0) -> torch.Tensor:
        return mean + std * torch.randn(*shape, generator=generator)

    state_dict: dict[str, torch.Tensor] = {}

    def linear(name: str, num_outputs: int, *inputs: int):
        state_dict[f"{name}.weight"] = random(num_outputs, *inputs)
        state_dict[f"{name}.bias"] = random(num_outputs)

    def layer_norm(name: str, width: int):
        state_dict[f"{name}.weight"] = random(width, mean=1.0)
        state_dict[f"{name}.bias"] = random(width)

    def blocks(prefix: str, number: int):
        for name in (f"{prefix}.blocks.{index}" for index in range(number)):
            layer_norm(f"{name}.norm1", d_model)
            layer_norm(f"{name}.norm2", d_model)
            linear(f"{name}.attn.qkv", 3 * d_model, d_model)
            linear(f"{name}.attn.proj", d_model, d_model)
            linear(f"{name}.mlp.fc1", 4 * d_model, d_model)
            linear(f"{name}.mlp.fc2", d_model, 4 * d_model)

    num_patches = (image_size[0] // patch_size) * (image_size[1] // patch_size)
    state_dict["encoder.cls_token"] = random(1, 1, d_model, std=1.0)
    if distilled:
        state_dict["encoder.dist_token"] = random(1, 1, d_model, std=1.0)
        linear("encoder.head_dist", 10, d_model)
    state_dict["encoder.pos_embed"] = random(1, num_patches + 1 + distilled, d_model, std=1.0)
    linear("encoder.patch_embed.proj", d_model, 3, patch_size, patch_size)
    blocks("encoder", n_layers)
    layer_norm("encoder.norm", d_model)
    linear("encoder.head", 10, d_model)

    decoder_kwargs = {"n_cls": n_cls, "name": decoder}
    if decoder == "linear":
        linear("decoder.head", n_cls, d_model)
    else:
        decoder_kwargs |= {"drop_path_rate": 0.0, "dropout": 0.1, "n_layers": decoder_layers}
        state_dict["decoder.cls_emb"] = random(1, n_cls, d_model, std=1.0)
        state_dict["decoder.proj_patch"] = random(d_model, d_model)
        state_dict["decoder.proj_classes"] = random(d_model, d_model)
        blocks("decoder", decoder_layers)
        linear("decoder.proj_dec", d_model, d_model)
        layer_norm("decoder.decoder_norm", d_model)
        layer_norm("decoder.mask_norm", n_cls)

    normalization = "deit" if distilled else "vit"
    variant = {
        "dataset_kwargs": {
            "crop_size": image_size[0],
            "dataset": dataset,
            "image_size": im_size,
            "normalization": normalization,
        },
        "inference_kwargs": {"im_size": im_size, "window_size": window_size, "window_stride": window_stride},
        "net_kwargs": {
            "backbone": "deit_base_distilled_patch16_384" if distilled else "vit_base_patch16_384",
            "d_model": d_model,
            "decoder": decoder_kwargs,
            "distilled": distilled,
            "drop_path_rate": 0.1,
            "dropout": 0.0,
            "image_size": image_size,
            "n_cls": n_cls,
            "n_heads": n_heads,
            "n_layers": n_layers,
            "normalization": normalization,
            "patch_size": patch_size,
        },
    }
    return OriginalCheckpoint(state_dict, variant, n_cls)


def original_logits(checkpoint: OriginalCheckpoint, pixel_values: torch.Tensor) -> torch.Tensor:
    """
    What the original computes for images of shape `(batch_size, 3, height, width)`: logits of shape
    `(batch_size, n_cls, height, width)`.
    """
    weights, net_kwargs = checkpoint.state_dict, checkpoint.variant["net_kwargs"]
    d_model, patch_size = net_kwargs["d_model"], net_kwargs["patch_size"]

    def layer_norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], eps=1e-5)

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def attention(x: torch.Tensor, name: str, num_heads: int) -> torch.Tensor:
        # (batch_size, sequence, 3 * d_model) -> 3 x (batch_size, num_heads, sequence, head_dim)
        query, key, value = linear(x, f"{name}.qkv").unflatten(2, (3, num_heads, -1)).permute(2, 0, 3, 1, 4)
        probabilities = (query @ key.mT / (d_model // num_heads) ** 0.5).softmax(dim=-1)
        return linear((probabilities @ value).transpose(1, 2).flatten(2), f"{name}.proj")

    def blocks(x: torch.Tensor, prefix: str, number: int, num_heads: int) -> torch.Tensor:
        for name in (f"{prefix}.blocks.{index}" for index in range(number)):
            x = x + attention(layer_norm(x, f"{name}.norm1"), f"{name}.attn", num_heads)
            x = x + linear(F.gelu(linear(layer_norm(x, f"{name}.norm2"), f"{name}.mlp.fc1")), f"{name}.mlp.fc2")
        return x

    height, width = pixel_values.shape[-2:]
    pixel_values = F.pad(pixel_values, (0, -width % patch_size, 0, -height % patch_size))
    patches = F.conv2d(
        pixel_values,
        weights["encoder.patch_embed.proj.weight"],
        weights["encoder.patch_embed.proj.bias"],
        stride=patch_size,
    )
    grid = patches.shape[-2:]
    prefix = [weights[name] for name in ("encoder.cls_token", "encoder.dist_token") if name in weights]
    tokens = [token.expand(len(patches), -1, -1) for token in prefix]
    trained_grid = tuple(side // patch_size for side in net_kwargs["image_size"])
    positions = weights["encoder.pos_embed"]
    positions_2d = positions[:, len(prefix) :].unflatten(1, trained_grid).permute(0, 3, 1, 2)
    positions_2d = F.interpolate(positions_2d, size=grid, mode="bilinear").flatten(2).mT
    x = torch.cat((*tokens, patches.flatten(2).mT), dim=1)
    x = x + torch.cat((positions[:, : len(prefix)], positions_2d), dim=1)
    x = layer_norm(blocks(x, "encoder", net_kwargs["n_layers"], net_kwargs["n_heads"]), "encoder.norm")
    x = x[:, len(prefix) :]

    if net_kwargs["decoder"]["name"] == "linear":
        masks = linear(x, "decoder.head")
    else:
        classes = weights["decoder.cls_emb"].expand(len(x), -1, -1)
        x = torch.cat((linear(x, "decoder.proj_dec"), classes), dim=1)
        x = blocks(x, "decoder", net_kwargs["decoder"]["n_layers"], d_model // 64)
        x = layer_norm(x, "decoder.decoder_norm")
        num_classes = classes.shape[1]
        patches, classes = x[:, :-num_classes] @ weights["decoder.proj_patch"], x[:, -num_classes:]
        classes = classes @ weights["decoder.proj_classes"]
        patches, classes = (y / y.norm(dim=-1, keepdim=True) for y in (patches, classes))
        masks = layer_norm(patches @ classes.mT, "decoder.mask_norm")
    masks = masks.mT.unflatten(2, grid)
    padded_size = (grid[0] * patch_size, grid[1] * patch_size)
    return F.interpolate(masks, size=padded_size, mode="bilinear")[..., :height, :width]
