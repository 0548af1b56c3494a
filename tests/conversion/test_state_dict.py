"""Tensors change their names one by one, and none is lost, left or invented."""

import pytest
import torch

from segmenter_hf import SegmenterForSemanticSegmentation
from segmenter_hf.conversion import ConversionError
from segmenter_hf.conversion.state_dict import (
    StateDictConverter,
    architecture_of,
    build_model,
    count_layers,
    list_names,
)
from tests.common import tiny_config


def test_converter_moves_splits_transposes_and_drops():
    qkv, matrix = torch.randn(6, 2), torch.randn(2, 3)
    converter = StateDictConverter(
        {
            "norm.weight": torch.ones(2, dtype=torch.float16),
            "norm.bias": torch.zeros(2),
            "qkv": qkv,
            "matrix": matrix,
            "head.weight": torch.zeros(1),
        }
    )
    converter.move_module("norm", "layernorm")
    converter.split("qkv", ["q", "k", "v"])
    converter.transpose("matrix", "linear")
    converter.drop_module("head")
    converter.drop_module("absent")
    converted = converter.finish()
    assert list(converted) == ["layernorm.weight", "layernorm.bias", "q", "k", "v", "linear"]
    assert torch.equal(torch.cat([converted[name] for name in "qkv"]), qkv)
    assert torch.equal(converted["linear"], matrix.T)
    assert all(tensor.dtype == torch.float32 and tensor.is_contiguous() for tensor in converted.values())
    # Each in memory of its own, as safetensors files need it.
    assert len({tensor.untyped_storage().data_ptr() for tensor in converted.values()}) == len(converted)


def test_converter_refuses_missing_and_left_over_keys():
    converter = StateDictConverter({"a": torch.zeros(1), "b": torch.zeros(1)})
    converter.move("a", "x")
    converter.move("c", "y")
    converter.split("d", ["q", "k"])
    converter.transpose("e", "z")
    with pytest.raises(ConversionError, match="missing are c, d, e; left over are b"):
        converter.finish()


def test_names_are_listed_in_one_line():
    assert list_names([]) == "none"
    assert list_names(["b", "a"]) == "a, b"
    assert list_names(f"{index:02}" for index in range(15)).endswith("10, 11 and 3 more")
    assert str(ConversionError("a\nb\x1b[31m")) == "a b [31m"


def test_layers_are_counted_not_their_highest_index():
    state_dict = dict.fromkeys(("blocks.0.a", "blocks.0.b", "blocks.10.a", "blocks.99999999999.a", "other.blocks.7.a"))
    assert count_layers(state_dict, "blocks.") == 3
    assert count_layers(state_dict, "layers.") == 0


@pytest.mark.parametrize("overrides", [{}, {"decoder_type": "linear"}, {"use_distillation_token": True}])
def test_architecture_is_read_from_a_state_dict(overrides):
    config = tiny_config(**overrides)
    state_dict = SegmenterForSemanticSegmentation(config).state_dict()
    architecture = architecture_of(state_dict)
    assert architecture.pop("num_patches") == config.patch_grid[0] * config.patch_grid[1]
    assert architecture == {name: getattr(config, name) for name in architecture}
    assert ("decoder_hidden_size" in architecture) == (config.decoder_type == "mask_transformer")


def test_model_is_built_around_the_tensors():
    config = tiny_config()
    state_dict = SegmenterForSemanticSegmentation(config).state_dict()
    model = build_model(config, state_dict)
    assert not model.training
    for name, parameter in model.named_parameters():
        assert parameter.data_ptr() == state_dict[name].data_ptr(), name
        assert parameter.requires_grad

    weight = state_dict.pop("decoder.mask_norm.weight")
    state_dict["decoder.mask_norm.gamma"] = weight
    with pytest.raises(
        ConversionError, match=r"missing are decoder\.mask_norm\.weight; left over are decoder\.mask_norm\.gamma"
    ):
        build_model(config, state_dict)
    del state_dict["decoder.mask_norm.gamma"]
    state_dict["decoder.mask_norm.weight"] = torch.zeros(6)
    with pytest.raises(ConversionError, match=r"decoder.mask_norm.weight \(6,\) instead of \(5,\)"):
        build_model(config, state_dict)


def change(tensor: torch.Tensor, value: float) -> torch.Tensor:
    tensor[-1] = value
    return tensor


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_weights_that_are_no_numbers_are_refused_by_their_names(value, dtype):
    converter = StateDictConverter({f"old.{i}": torch.ones(3, dtype=dtype) for i in range(4)})
    for index in (1, 3):
        change(converter.state_dict[f"old.{index}"], value)
    for index in range(4):
        converter.move(f"old.{index}", f"new.{index}")
    with pytest.raises(ConversionError, match=r"hold NaN or infinity, .*: old\.1, old\.3\. Convert an earlier"):
        converter.finish()


def test_numbers_that_float32_cannot_hold_are_refused():
    converter = StateDictConverter({"old": torch.full((2,), 1e300, dtype=torch.float64)})
    converter.move("old", "new")
    with pytest.raises(ConversionError, match="hold NaN or infinity"):
        converter.finish()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("make", "got"),
    [
        (lambda: "text", "a str"),
        (lambda: [1.0], "a list"),
        (lambda: torch.zeros(2, dtype=torch.int64), "a tensor of torch.int64"),
        (lambda: torch.zeros(2, dtype=torch.complex64), "a tensor of torch.complex64"),
        (lambda: torch.zeros(2).to(torch.float8_e4m3fn), "a tensor of torch.float8_e4m3fn"),
        (lambda: torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8), "a tensor of torch.qint8"),
        (lambda: torch.eye(2).to_sparse(), "a tensor of layout torch.sparse_coo"),
        (lambda: torch.nested.nested_tensor([torch.zeros(2)]), "a nested tensor"),
        (lambda: torch.zeros(2, device="meta"), "a tensor of shape (2,) without as many numbers"),
        (lambda: torch.ones(1).expand(10**13), "a tensor of shape (10000000000000,) without as many numbers"),
    ],
)
def test_what_is_no_weight_is_refused_with_what_it_is(make, got):
    converter = StateDictConverter({"norm.weight": make()})
    with pytest.raises(ConversionError) as error:
        converter.move("norm.weight", "layernorm.weight")
    assert str(error.value).startswith("norm.weight should be a weight, a dense tensor of float16, bfloat16, float32")
    assert str(error.value).endswith(f"but is {got}.")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_weights_become_float32(dtype):
    converter = StateDictConverter({"old": torch.tensor([1.5, -2.0], dtype=dtype)})
    converter.move("old", "new")
    assert torch.equal(converter.finish()["new"], torch.tensor([1.5, -2.0]))
