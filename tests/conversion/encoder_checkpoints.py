"""Random encoders in the formats of other code bases, small unless told otherwise, and how they are compared."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from segmenter_hf import SegmenterModel
from segmenter_hf.conversion.formats import FORMATS
from segmenter_hf.conversion.sources import Source


# float32 sums taken in another order (queries, keys and values by one projection or by three) differ by some 1e-6 in
# models this small.
TOLERANCE = 1e-4

VIT_MEAN_AND_STD = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
DEIT_MEAN_AND_STD = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Gives all weights values that differ from what initialisation gives, so that each of them matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_token = name.endswith(("token", "pos_embed", "position_embeddings"))
            parameter.copy_((1.0 if is_token else 0.1) * torch.randn(parameter.shape, generator=generator))
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1.0)
    return model.eval()


def make_timm_model(distilled: bool = False, **overrides) -> VisionTransformer:
    """timm's own Vision Transformer."""
    settings = {"img_size": 64, "patch_size": 16, "embed_dim": 64, "depth": 2, "num_heads": 1, "num_classes": 10}
    model_class = VisionTransformerDistilled if distilled else VisionTransformer
    return randomise(model_class(**{**settings, **overrides}))


def write_timm_folder(folder: Path, model: VisionTransformer, config: dict) -> Path:
    """A folder as downloaded from a repository of timm, and returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def make_augreg_arrays(
    hidden_size: int = 64,
    num_heads: int = 1,
    num_layers: int = 2,
    intermediate_size: int = 128,
    patch_size: int = 16,
    image_size: int = 64,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """What vit_jax writes to an `.npz`: shapes and names are those of Flax's modules."""
    generator = np.random.default_rng(seed)
    head_dim = hidden_size // num_heads
    num_positions = (image_size // patch_size) ** 2 + 1
    arrays = {}

    def add(name: str, *shape: int, std: float = 0.1, mean: float = 0.0):
        arrays[name] = (mean + std * generator.standard_normal(shape, dtype=np.float32)).astype(np.float32)

    def add_layer_norm(name: str):
        add(f"{name}/scale", hidden_size, mean=1.0)
        add(f"{name}/bias", hidden_size)

    add("embedding/kernel", patch_size, patch_size, 3, hidden_size)
    add("embedding/bias", hidden_size)
    add("cls", 1, 1, hidden_size, std=1.0)
    add("Transformer/posembed_input/pos_embedding", 1, num_positions, hidden_size, std=1.0)
    for layer in (f"Transformer/encoderblock_{index}" for index in range(num_layers)):
        add_layer_norm(f"{layer}/LayerNorm_0")
        for part in ("query", "key", "value"):
            add(f"{layer}/MultiHeadDotProductAttention_1/{part}/kernel", hidden_size, num_heads, head_dim)
            add(f"{layer}/MultiHeadDotProductAttention_1/{part}/bias", num_heads, head_dim)
        add(f"{layer}/MultiHeadDotProductAttention_1/out/kernel", num_heads, head_dim, hidden_size)
        add(f"{layer}/MultiHeadDotProductAttention_1/out/bias", hidden_size)
        add_layer_norm(f"{layer}/LayerNorm_2")
        add(f"{layer}/MlpBlock_3/Dense_0/kernel", hidden_size, intermediate_size)
        add(f"{layer}/MlpBlock_3/Dense_0/bias", intermediate_size)
        add(f"{layer}/MlpBlock_3/Dense_1/kernel", intermediate_size, hidden_size)
        add(f"{layer}/MlpBlock_3/Dense_1/bias", hidden_size)
    add_layer_norm("Transformer/encoder_norm")
    for head in ("pre_logits", "head"):
        add(f"{head}/kernel", hidden_size, 10)
        add(f"{head}/bias", 10)
    return arrays


def to_mmsegmentation(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """timm's names -> those that vitjax2mmseg.py writes, which has no heads."""
    replacements = {
        "patch_embed.proj.": "patch_embed.projection.",
        "blocks.": "layers.",
        "norm1.": "ln1.",
        "norm2.": "ln2.",
        "norm.": "ln1.",
        "attn.qkv.": "attn.attn.in_proj_",
        "attn.proj.": "attn.attn.out_proj.",
        "mlp.fc1.": "ffn.layers.0.0.",
        "mlp.fc2.": "ffn.layers.1.",
    }
    renamed = {}
    for name, tensor in state_dict.items():
        if name.startswith("head"):
            continue
        for old, new in replacements.items():
            name = name.replace(old, new)
        renamed[name] = tensor
    return renamed


def as_source(state_dict: dict[str, torch.Tensor]) -> Source:
    """A file `a.pth` with these weights, as it would be read."""
    return Source(Path("a.pth"), Path("a.pth"), state_dict)


def formats_of(source: Source) -> list[str]:
    """The formats that a source is recognised as, of which there should be one."""
    return [name for name, format in FORMATS.items() if format.recognise(source)]


def mean_and_std(image_processor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    settings = image_processor.to_dict()
    return tuple(settings["image_mean"]), tuple(settings["image_std"])


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    np.savez(path, **arrays)
    return path


def write_pth(path: Path, contents: dict) -> Path:
    torch.save(contents, path)
    return path


def assert_same_outputs(model: SegmenterModel, expected: torch.Tensor, pixel_values: torch.Tensor):
    with torch.no_grad():
        last_hidden_state = model(pixel_values).last_hidden_state
    torch.testing.assert_close(last_hidden_state, expected, atol=TOLERANCE, rtol=0)
