"""Turns the state dict of another implementation into one of our models, accounting for every tensor."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers.image_utils import PILImageResampling

from ..configuration_segmenter import SegmenterConfig
from ..image_processing_pil_segmenter import SegmenterImageProcessorPil
from ..modeling_segmenter import SegmenterForSemanticSegmentation, SegmenterPreTrainedModel
from .errors import ConversionError


MAX_LISTED_NAMES = 12
PATCH_KERNEL = "segmenter.embeddings.patch_embeddings.projection.weight"
# Types of 8 bits and less come with scales that are stored apart.
WEIGHT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def list_names(names: Iterable[str]) -> str:
    """The sorted names in one line, at most `MAX_LISTED_NAMES` of them and the number of the others."""
    names = sorted(names)
    listed = ", ".join(names[:MAX_LISTED_NAMES]) or "none"
    return listed if len(names) <= MAX_LISTED_NAMES else f"{listed} and {len(names) - MAX_LISTED_NAMES} more"


def count_layers(state_dict: Mapping[str, Any], prefix: str) -> int:
    """Number of layers, the names of whose parameters are `prefix`, an index, a dot, and anything."""
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
    # The layers are counted, since the highest index is any number in a hostile file.
    return len({match[1] for match in map(pattern.match, state_dict) if match})


def find_weight_problem(value: Any) -> str | None:
    """
    What `value` is, if it is anything but a tensor of plain floating-point numbers: one that is sparse, quantised or
    without data, say, or with fewer numbers than elements, which in a hostile file can be any number.
    """
    if not torch.is_tensor(value):
        return f"a {type(value).__name__}"
    if value.dtype not in WEIGHT_DTYPES:
        return f"a tensor of {value.dtype}"
    if value.layout is not torch.strided or value.is_nested:
        return "a nested tensor" if value.is_nested else f"a tensor of layout {value.layout}"
    if value.is_meta or value.numel() * value.element_size() > value.untyped_storage().nbytes():
        return f"a tensor of shape {tuple(value.shape)} without as many numbers"
    return None


def check_dimensions(name: str, tensor: torch.Tensor, num_dimensions: int) -> torch.Tensor:
    """Returns `tensor` if it has `num_dimensions` dimensions and is not empty, and refuses it by `name` if not."""
    if tensor.ndim != num_dimensions or not tensor.numel():
        raise ConversionError(
            f"The weight {name} should have {num_dimensions} dimensions, but its shape is {tuple(tensor.shape)}."
        )
    return tensor


class StateDictConverter:
    """
    Moves the tensors of a state dict, key by key, to the names of our models, as contiguous float32 tensors. Each
    method takes away the key it is given; [`~StateDictConverter.finish`] fails if any was missing, or is left.

    Args:
        state_dict (`Mapping[str, torch.Tensor]`): The source's state dict. It is not changed. A tensor is asked for
            once, when it is moved, so that those of a file can be read one by one.
    """

    def __init__(self, state_dict: Mapping[str, torch.Tensor]):
        self.state_dict = state_dict
        self.remaining = set(state_dict)
        self.missing: list[str] = []
        self.not_finite: list[str] = []
        self.converted: dict[str, torch.Tensor] = {}

    def _pop(self, old: str) -> torch.Tensor | None:
        if old not in self.remaining:
            self.missing.append(old)
            return None
        self.remaining.remove(old)
        tensor = self.state_dict[old]
        problem = find_weight_problem(tensor)
        if problem is not None:
            raise ConversionError(
                f"{old} should be a weight, a dense tensor of float16, bfloat16, float32 or float64, but is {problem}."
            )
        tensor = tensor.detach().to(torch.float32)
        if not tensor.isfinite().all():
            self.not_finite.append(old)
        return tensor

    def move(self, old: str, new: str, function: Callable[[torch.Tensor], torch.Tensor] = lambda tensor: tensor):
        """Renames one tensor, changed by `function`."""
        tensor = self._pop(old)
        if tensor is not None:
            self.converted[new] = function(tensor).contiguous()

    def move_module(self, old: str, new: str):
        """Renames the weight and bias of a module."""
        for parameter in ("weight", "bias"):
            self.move(f"{old}.{parameter}", f"{new}.{parameter}")

    def split(self, old: str, new: Iterable[str]):
        """Cuts one tensor into equal parts along its first dimension."""
        new = list(new)
        tensor = self._pop(old)
        if tensor is None:
            return
        if tensor.ndim == 0 or len(tensor) % len(new):
            raise ConversionError(
                f"The weight {old} of shape {tuple(tensor.shape)} cannot be split into {len(new)} equal parts."
            )
        for name, part in zip(new, tensor.chunk(len(new)), strict=True):
            # The parts are copied, since files of safetensors cannot hold tensors that share memory.
            self.converted[name] = part.clone()

    def transpose(self, old: str, new: str):
        """Renames a matrix that the source uses as `x @ W`: the weight of a linear layer is its transpose."""
        self.move(old, new, lambda matrix: check_dimensions(old, matrix, 2).T)

    def drop_module(self, old: str):
        """Takes away the weight and bias of a module that our models have no use for, if they are there."""
        for parameter in ("weight", "bias"):
            self.remaining.discard(f"{old}.{parameter}")

    def drop_all(self, prefix: str):
        """Takes away everything whose name starts with `prefix`."""
        self.remaining = {name for name in self.remaining if not name.startswith(prefix)}

    def fill_zeros(self, new: str, *shape: int):
        """Makes a tensor of zeros: a bias that the source does without and our models have."""
        self.converted[new] = torch.zeros(shape)

    def finish(self, problem: str = "The weights do not have the expected names") -> dict[str, torch.Tensor]:
        """Returns the converted state dict."""
        if self.missing or self.remaining:
            raise ConversionError(
                f"{problem}: missing are {list_names(self.missing)}; left over are {list_names(self.remaining)}."
            )
        if self.not_finite:
            raise ConversionError(
                f"The weights hold NaN or infinity, as after a training that diverged: {list_names(self.not_finite)}. "
                "Convert an earlier checkpoint."
            )
        return self.converted


def architecture_of(state_dict: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """
    What a state dict with our names says about its architecture: the fields of [`SegmenterConfig`] that are shapes,
    and, since a number of patches can be more than one grid, `num_patches` in place of `image_size`.
    """

    def shape(name: str, num_dimensions: int) -> torch.Size:
        return check_dimensions(name, state_dict[name], num_dimensions).shape

    patches = shape(PATCH_KERNEL, 4)
    positions = shape("segmenter.embeddings.position_embeddings", 3)
    distilled = "segmenter.embeddings.distillation_token" in state_dict
    architecture = {
        "hidden_size": patches[0],
        "num_channels": patches[1],
        "patch_size": patches[2],
        "use_distillation_token": distilled,
        "num_patches": positions[1] - (2 if distilled else 1),
        "num_hidden_layers": count_layers(state_dict, "segmenter.layers."),
        "intermediate_size": shape("segmenter.layers.0.mlp.fc1.weight", 2)[0],
        "qkv_bias": "segmenter.layers.0.attention.q_proj.bias" in state_dict,
    }
    if "decoder.classifier.weight" in state_dict:
        architecture["decoder_type"] = "linear"
        architecture["num_labels"] = shape("decoder.classifier.weight", 2)[0]
    elif "decoder.class_embeddings" in state_dict:
        classes = shape("decoder.class_embeddings", 3)
        architecture["decoder_type"] = "mask_transformer"
        architecture["num_labels"] = classes[1]
        architecture["decoder_hidden_size"] = classes[2]
        architecture["decoder_num_hidden_layers"] = count_layers(state_dict, "decoder.layers.")
        if "decoder.layers.0.mlp.fc1.weight" in state_dict:
            architecture["decoder_intermediate_size"] = shape("decoder.layers.0.mlp.fc1.weight", 2)[0]
    return architecture


def check_num_patches(
    name: str, field: str, size: tuple[int, int], architecture: dict[str, Any], are_whole: bool = False
):
    """
    Refuses a size of images, `(height, width)` in pixels, as `field` of `name` states it, that does not fit the
    position embeddings; with `are_whole`, also one that is no multiple of the patch size.
    """
    (height, width), patch_size = size, architecture["patch_size"]
    has_rest = are_whole and (height % patch_size or width % patch_size)
    if has_rest or (height // patch_size) * (width // patch_size) != architecture["num_patches"]:
        raise ConversionError(
            f"{name} does not fit the weights: `{field}` is {height} x {width}, but the weights have position "
            f"embeddings for {architecture['num_patches']} patches of {patch_size} x {patch_size} pixels."
        )


def make_config(
    problem: str,
    architecture: dict[str, Any],
    image_size: tuple[int, int],
    id2label: dict[int, str] | None = None,
    **values: Any,
) -> SegmenterConfig:
    """
    The config of a model: its architecture, the size `(height, width)` in pixels that the position embeddings were
    trained for, the names of the labels, where they are known, and other fields. An error begins with `problem`.
    """
    values |= {name: value for name, value in architecture.items() if name != "num_patches"}
    if id2label is not None:
        values["id2label"] = id2label
        del values["num_labels"]
    height, width = image_size
    try:
        return SegmenterConfig(image_size=height if height == width else (height, width), **values)
    except (ValueError, StrictDataclassError) as error:
        # The message of a StrictDataclassError takes several lines.
        raise ConversionError(f"{problem}: {' '.join(str(error).split())}") from error


def image_processor_of(
    config: SegmenterConfig, image_mean: list[float], image_std: list[float], **settings: Any
) -> SegmenterImageProcessorPil:
    """The image processor of a model, with these settings, that resizes as all sources do."""
    return SegmenterImageProcessorPil(
        resample=PILImageResampling.BILINEAR,
        antialias=False,
        patch_size=config.patch_size,
        image_mean=image_mean,
        image_std=image_std,
        **settings,
    )


def build_model(
    config: SegmenterConfig,
    state_dict: dict[str, torch.Tensor],
    model_class: type[SegmenterPreTrainedModel] = SegmenterForSemanticSegmentation,
) -> SegmenterPreTrainedModel:
    """
    The model of `config` with exactly the tensors of `state_dict` as its parameters; nothing is initialised or copied.
    """
    with torch.device("meta"):
        model = model_class(config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    actual = {name: tuple(tensor.shape) for name, tensor in state_dict.items()}
    if expected.keys() != actual.keys():
        raise ConversionError(
            f"The weights do not make a Segmenter: missing are {list_names(expected.keys() - actual.keys())}; left "
            f"over are {list_names(actual.keys() - expected.keys())}."
        )
    different = [
        f"{name} {shape} instead of {expected[name]}" for name, shape in actual.items() if shape != expected[name]
    ]
    if different:
        raise ConversionError(f"The weights have shapes that do not fit together: {list_names(different)}.")
    model.load_state_dict(state_dict, strict=True, assign=True)
    return model.eval()


__all__ = [
    "PATCH_KERNEL",
    "StateDictConverter",
    "architecture_of",
    "build_model",
    "check_dimensions",
    "check_num_patches",
    "count_layers",
    "list_names",
    "make_config",
    "image_processor_of",
]
