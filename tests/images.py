"""Images and label maps for tests of the image processors."""

import numpy as np
import torch
from PIL import Image

from segmenter_hf import SegmenterImageProcessor, SegmenterImageProcessorPil


BACKENDS = {"torchvision": SegmenterImageProcessor, "pil": SegmenterImageProcessorPil}


def picture(height: int, width: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Smooth colours with some grain."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (5, 7, 3), dtype=np.uint8)).resize((width, height))
    grain = random.integers(-8, 9, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8)).convert(mode)


def pixels_of(image: Image.Image) -> torch.Tensor:
    """`(3, height, width)` float32 in 0..255."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float()


def label_map(height: int, width: int, num_labels: int = 7, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, num_labels, (height, width), dtype=np.uint8)
