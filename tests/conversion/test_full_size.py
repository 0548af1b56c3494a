"""
Files of the real layout and size, with random weights, are converted in a memory that is bounded by theirs, into
models with the outputs that their source has and the number of parameters in the table of released checkpoints.
"""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from segmenter_hf import SegmenterForSemanticSegmentation, SegmenterModel
from segmenter_hf.conversion.released import ARCHITECTURES, find_released
from tests.common import random_pixel_values, run_python
from tests.conversion.encoder_checkpoints import make_augreg_arrays, make_timm_model
from tests.conversion.mmsegmentation_checkpoints import make_mmsegmentation_checkpoint, mmsegmentation_logits
from tests.conversion.original_checkpoints import make_original_checkpoint, original_logits


MEMORY_FILES = Path("/proc/self")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (MEMORY_FILES / "clear_refs").exists(), reason="peak memory is read as Linux tells it"),
]

# Prints the peak of the memory beyond what importing took, and the time.
CONVERT = """
import json, sys, time
from segmenter_hf.conversion import convert_checkpoint

def read_memory(name):
    return next(1024 * int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))

# From here on the kernel's peak is that of what follows.
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
before, start = read_memory("VmRSS"), time.perf_counter()
convert_checkpoint(sys.argv[1], sys.argv[2])
seconds = time.perf_counter() - start
print(json.dumps({"seconds": round(seconds, 1), "peak_bytes": read_memory("VmHWM") - before}))
"""
# A few modules that conversion imports when it needs them, which of a small model's checkpoint are a large part.
OVERHEAD_BYTES = 32 * 2**20

# Released checkpoints, and encoders with the decoder that was not released for them.
MODELS = [
    ("ade20k/seg_tiny_mask", None),
    ("ade20k/seg_small_mask", None),
    ("ade20k/seg_base_mask", None),
    ("ade20k/seg_large_mask_640", None),
    ("ade20k/seg_base_patch8", None),
    ("ade20k/seg_base_deit_mask", None),
    ("ade20k/seg_tiny_mask", "linear"),
    ("ade20k/seg_small_mask", "linear"),
    ("ade20k/seg_base_mask", "linear"),
    ("cityscapes/seg_large_linear", None),
]


@pytest.fixture
def folder(tmp_path) -> Iterator[Path]:
    yield tmp_path
    # pytest keeps the folders of several runs, and these hold gigabytes.
    shutil.rmtree(tmp_path)


def convert(source: Path, output_dir: Path, weights_file: Path, cwd: Path, weight_bytes: int | None = None) -> dict:
    """Converts within twice the memory of the file or, if `weight_bytes` says what they take in float32, of these."""
    measured = json.loads(run_python(CONVERT, source, output_dir, cwd=cwd).stdout.splitlines()[-1])
    file_bytes = os.path.getsize(weights_file)
    print(f"{weights_file.name}: {file_bytes / 1e6:.0f} MB, {measured}")
    assert measured["peak_bytes"] <= 2 * (weight_bytes or file_bytes) + OVERHEAD_BYTES
    return measured


@pytest.mark.parametrize(("name", "decoder_type"), MODELS)
def test_original(name, decoder_type, folder):
    released = find_released(name)
    config = released.config
    checkpoint = make_original_checkpoint(
        n_cls=config.num_labels,
        d_model=config.hidden_size,
        n_heads=config.num_attention_heads,
        n_layers=config.num_hidden_layers,
        patch_size=config.patch_size,
        image_size=(released.crop_size, released.crop_size),
        distilled=config.use_distillation_token,
        decoder=decoder_type or released.decoder_type,
        dataset=released.dataset,
        window_size=released.crop_size,
        window_stride=released.training_window_stride,
        im_size=released.protocol.shortest_edge,
    )
    source = checkpoint.write(folder / "source")
    convert(source, folder / "model", source / "checkpoint.pth", cwd=folder)

    model = SegmenterForSemanticSegmentation.from_pretrained(folder / "model")
    if decoder_type is None:
        assert model.num_parameters() == released.num_parameters
    pixel_values = random_pixel_values(1, 5 * config.patch_size, 7 * config.patch_size)
    with torch.no_grad():
        logits = model(pixel_values).logits
    upsampled = torch.nn.functional.interpolate(logits, size=pixel_values.shape[-2:], mode="bilinear")
    # Random weights of this width make large numbers of which float32 keeps seven digits.
    torch.testing.assert_close(upsampled, original_logits(checkpoint, pixel_values), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(
    "name", ["segmenter_vit-s_linear_8x1_512x512_160k_ade20k", "segmenter_vit-l_mask_8x1_640x640_160k_ade20k"]
)
def test_mmsegmentation(name, folder):
    released = find_released(name)
    config = released.config
    is_linear = released.decoder_type == "linear"
    checkpoint = make_mmsegmentation_checkpoint(
        release=0,
        num_classes=config.num_labels,
        embed_dims=config.hidden_size,
        num_heads=config.num_attention_heads,
        num_layers=config.num_hidden_layers,
        img_size=(released.crop_size, released.crop_size),
        head="FCNHead" if is_linear else "SegmenterMaskTransformerHead",
        head_num_heads=config.decoder_num_attention_heads,
    )
    # The format before PyTorch 1.6, which cannot be mapped: the released files may be of it.
    source = checkpoint.write(folder / "source", _use_new_zipfile_serialization=False)
    convert(source, folder / "model", source / "checkpoint.pth", cwd=folder)

    model = SegmenterForSemanticSegmentation.from_pretrained(folder / "model")
    assert model.num_parameters() == released.num_parameters
    pixel_values = random_pixel_values(1, 80, 112)
    with torch.no_grad():
        logits = model(pixel_values).logits
    upsampled = torch.nn.functional.interpolate(logits, size=pixel_values.shape[-2:], mode="bilinear")
    torch.testing.assert_close(upsampled, mmsegmentation_logits(checkpoint, pixel_values), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_384", "vit_large_patch16_384"])
def test_augreg(name, folder):
    architecture = ARCHITECTURES[name]
    arrays = make_augreg_arrays(
        hidden_size=architecture.hidden_size,
        num_heads=architecture.num_attention_heads,
        num_layers=architecture.num_hidden_layers,
        intermediate_size=4 * architecture.hidden_size,
        patch_size=architecture.patch_size,
        image_size=384,
    )
    np.savez(folder / "encoder.npz", **arrays)
    convert(folder / "encoder.npz", folder / "model", folder / "encoder.npz", cwd=folder)

    model = SegmenterModel.from_pretrained(folder / "model")
    assert model.num_parameters() == find_released(name).num_parameters
    last_layer = f"Transformer/encoderblock_{architecture.num_hidden_layers - 1}"
    kernel = arrays[f"{last_layer}/MlpBlock_3/Dense_1/kernel"]
    assert torch.equal(model.layers[-1].mlp.fc2.weight, torch.from_numpy(kernel.T.copy()))


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_float16_and_the_like(dtype, kind, folder):
    """The result alone takes twice the memory of the file."""
    weights = make_timm_model(img_size=384, embed_dim=768, depth=12, num_heads=12).state_dict()
    weight_bytes = 4 * sum(tensor.numel() for tensor in weights.values())
    weights = {name: tensor.to(dtype) for name, tensor in weights.items()}
    path = folder / "weights"
    if kind == "safetensors":
        save_file(weights, path)
    else:
        torch.save(weights, path, _use_new_zipfile_serialization=kind == "zip")
    convert(path, folder / "model", path, cwd=folder, weight_bytes=weight_bytes)
    model = SegmenterModel.from_pretrained(folder / "model")
    assert torch.equal(model.embeddings.position_embeddings, weights["pos_embed"].float())
