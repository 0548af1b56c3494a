"""The models: what they compute, how they train, and what they do in the hands of torch, transformers and PEFT."""

import copy
import json

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import Trainer, TrainingArguments, set_seed
from transformers.modeling_outputs import SemanticSegmenterOutput

from segmenter_hf import (
    SegmenterConfig,
    SegmenterForSemanticSegmentation,
    SegmenterImageProcessorPil,
    SegmenterModel,
    modeling_segmenter,
)
from segmenter_hf.configuration_segmenter import DECODERS, DecoderType
from segmenter_hf.hub.cards import make_trained_card
from segmenter_hf.modeling_segmenter import SegmenterDropPath, SegmenterLayer

from .common import random_labels, random_pixel_values, tiny_config


DECODER_TYPES = ["mask_transformer", "linear"]


def tiny_model(**config_overrides) -> SegmenterForSemanticSegmentation:
    """In evaluation mode; weights are ten times as large as usual, for attention and logits that are not uniform."""
    set_seed(0)
    return SegmenterForSemanticSegmentation(tiny_config(**{"initializer_range": 0.2, **config_overrides})).eval()


def resize_matrix(old_size: int, new_size: int, mode: str) -> np.ndarray:
    """
    Weights `(new_size, old_size)` of resizing along one axis, from the definition: linear or cubic (a = -0.75) kernel
    at pixel centres, borders repeated, no antialiasing.
    """

    def kernel(distance: float) -> float:
        if mode == "bilinear":
            return max(0.0, 1 - distance)
        if distance <= 1:
            return 1.25 * distance**3 - 2.25 * distance**2 + 1
        return -0.75 * (distance**3 - 5 * distance**2 + 8 * distance - 4) if distance < 2 else 0.0

    matrix = np.zeros((new_size, old_size))
    for new in range(new_size):
        centre = (new + 0.5) * old_size / new_size - 0.5
        for old in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            matrix[new, min(max(old, 0), old_size - 1)] += kernel(abs(centre - old))
    return matrix


def upsampled(logits: torch.Tensor, patch_size: int, height: int, width: int) -> np.ndarray:
    """Logits of each pixel, in float64: the patch grid enlarged by the patch size, then cropped."""
    rows = resize_matrix(logits.shape[-2], logits.shape[-2] * patch_size, "bilinear")
    columns = resize_matrix(logits.shape[-1], logits.shape[-1] * patch_size, "bilinear")
    return (rows @ logits.detach().double().numpy() @ columns.T)[..., :height, :width]


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


# Sizes and inputs


@pytest.mark.parametrize("decoder_type", DECODER_TYPES)
@pytest.mark.parametrize("use_distillation_token", [False, True])
@pytest.mark.parametrize(
    ("hidden_size", "num_hidden_layers", "num_attention_heads", "patch_size"),
    [(192, 12, 3, 16), (384, 12, 6, 32), (768, 12, 12, 8), (1024, 24, 16, 16)],
)
def test_released_sizes_on_the_meta_device(
    hidden_size, num_hidden_layers, num_attention_heads, patch_size, use_distillation_token, decoder_type
):
    with torch.device("meta"):
        model = SegmenterForSemanticSegmentation(
            SegmenterConfig(
                hidden_size=hidden_size,
                num_hidden_layers=num_hidden_layers,
                num_attention_heads=num_attention_heads,
                intermediate_size=4 * hidden_size,
                patch_size=patch_size,
                use_distillation_token=use_distillation_token,
                decoder_type=decoder_type,
                num_labels=150,
            )
        )

    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    prefix_tokens = 1 + use_distillation_token
    # Four d x d attention maps, two d x 4d ones of the MLP, their biases, two LayerNorms.
    layer = 12 * hidden_size**2 + 13 * hidden_size
    encoder = (
        (3 * patch_size**2 + 1) * hidden_size
        + (prefix_tokens + (512 // patch_size) ** 2 + prefix_tokens) * hidden_size
        + num_hidden_layers * layer
        + 2 * hidden_size
    )
    linear = (hidden_size + 1) * 150
    # Projection with bias, classes, two layers, LayerNorm, two projections without bias, mask norm.
    mask = (hidden_size + 1) * hidden_size + 150 * hidden_size + 2 * layer + 2 * hidden_size + 2 * hidden_size**2 + 300
    assert model.num_parameters() == encoder + (linear if decoder_type == "linear" else mask)


@pytest.mark.parametrize("decoder_type", DECODER_TYPES)
@pytest.mark.parametrize("patch_size", [8, 16, 32])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (17, 33), (32, 32), (64, 8), (31, 95)])
def test_any_height_and_width(height, width, patch_size, decoder_type):
    model = tiny_model(patch_size=patch_size, decoder_type=decoder_type, use_distillation_token=True)
    pixel_values = random_pixel_values(height=height, width=width)
    with torch.no_grad():
        outputs = model(pixel_values, labels=random_labels(height=height, width=width))

    grid = (-(-height // patch_size), -(-width // patch_size))
    assert outputs.logits.shape == (2, 5, *grid)
    assert outputs.loss.isfinite()
    # Images are padded with zeros at the bottom and right.
    padded = torch.zeros(2, 3, grid[0] * patch_size, grid[1] * patch_size)
    padded[..., :height, :width] = pixel_values
    with torch.no_grad():
        torch.testing.assert_close(model(padded).logits, outputs.logits)
        encoded = model.segmenter(pixel_values).last_hidden_state
    assert encoded.shape == (2, 2 + grid[0] * grid[1], 32)


def test_logits_lie_on_the_grid_where_their_pixels_are():
    # With one attention-free layer left to patch embedding and classifier, a patch sees nothing but itself.
    model = tiny_model(decoder_type="linear")
    for layer in model.segmenter.layers:
        nn.init.zeros_(layer.attention.o_proj.weight)
    pixel_values = random_pixel_values(1, 24, 40)
    changed = pixel_values.clone()
    changed[..., 8:16, 24:32] += 1
    with torch.no_grad():
        difference = (model(changed).logits - model(pixel_values).logits).abs().amax(1)[0]
    assert difference[1, 3] > 0.01
    difference[1, 3] = 0
    assert torch.equal(difference, torch.zeros(3, 5))


@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 1, 32, 32), (2, 4, 32, 32), (1, 2, 3, 32, 32)])
def test_pixel_values_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"`pixel_values` must have shape \(batch_size, 3, height, width\), got"):
        tiny_model()(torch.zeros(shape))


def test_other_numbers_of_channels():
    model = tiny_model(num_channels=5)
    assert model(torch.zeros(1, 5, 16, 16)).logits.shape == (1, 5, 2, 2)


@pytest.mark.parametrize("decoder_type", DECODER_TYPES)
@pytest.mark.parametrize("weights_dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_pixel_values_are_cast_to_the_dtype_of_the_weights(weights_dtype, decoder_type):
    model = tiny_model(decoder_type=decoder_type)
    pixel_values, labels = random_pixel_values(), random_labels()
    with torch.no_grad():
        expected = model(pixel_values, labels=labels)
        outputs = model.to(weights_dtype)(pixel_values, labels=labels)
    assert outputs.logits.dtype == weights_dtype
    assert outputs.loss.dtype == torch.float32
    tolerance = 1e-5 if weights_dtype == torch.float64 else 0.05
    torch.testing.assert_close(outputs.loss, expected.loss, rtol=tolerance, atol=0)


def test_window_offsets_are_handed_through():
    window_offsets = torch.arange(14).reshape(2, 7)
    model = tiny_model()
    assert model(random_pixel_values(), window_offsets=window_offsets).window_offsets is window_offsets
    assert "window_offsets" not in model(random_pixel_values())
    # Trainer gathers what a model returns and drops what the configuration names here.
    assert "window_offsets" in model.config.keys_to_ignore_at_inference


@pytest.mark.parametrize("decoder_type", DECODER_TYPES)
def test_return_dict_false_gives_the_same_values_in_a_tuple(decoder_type):
    model = tiny_model(decoder_type=decoder_type)
    inputs = {"pixel_values": random_pixel_values(), "labels": random_labels(), "output_hidden_states": True}
    with torch.no_grad():
        outputs = model(**inputs)
        by_argument = model(**inputs, return_dict=False)
        model.config.return_dict = False
        by_config = model(**inputs)
    for as_tuple in (by_argument, by_config):
        assert isinstance(as_tuple, tuple)
        assert len(as_tuple) == len(outputs)
        assert torch.equal(as_tuple[0], outputs.loss)
        assert torch.equal(as_tuple[1], outputs.logits)


# Position embeddings


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("grid", [(7, 9), (2, 3), (5, 3), (1, 1)])
def test_position_embeddings_are_resized_as_by_the_definition(grid, mode):
    model = tiny_model(image_size=(32, 48), position_embedding_interpolation=mode, use_distillation_token=True)
    embeddings = model.segmenter.embeddings
    with torch.no_grad():
        resized = embeddings.interpolate_position_embeddings(*grid)

    trained = embeddings.position_embeddings.detach()
    # (grid, hidden_size) -> (hidden_size, rows, columns): rows of patches come first
    patches = trained[0, 2:].double().numpy().reshape(4, 6, 32).transpose(2, 0, 1)
    expected = resize_matrix(4, grid[0], mode) @ patches @ resize_matrix(6, grid[1], mode).T
    assert torch.equal(resized[:, :2], trained[:, :2]), "class and distillation token have no place on the grid"
    np.testing.assert_allclose(resized[0, 2:].numpy(), expected.reshape(32, -1).T, atol=1e-6)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_position_embeddings_of_the_trained_grid_are_exact(mode):
    embeddings = tiny_model(image_size=(32, 48), position_embedding_interpolation=mode).segmenter.embeddings
    assert torch.equal(embeddings.interpolate_position_embeddings(4, 6), embeddings.position_embeddings)


def test_distillation_token_follows_the_class_token():
    embeddings = tiny_model(use_distillation_token=True).segmenter.embeddings
    with torch.no_grad():
        tokens = embeddings(random_pixel_values())
        expected = torch.cat((embeddings.cls_token, embeddings.distillation_token), dim=1)
        expected = expected + embeddings.position_embeddings[:, :2]
    assert tokens.shape == (2, 2 + 16, 32)
    torch.testing.assert_close(tokens[:, :2], expected.expand(2, -1, -1))


# Hidden states and attentions


@pytest.mark.parametrize("num_hidden_layers, decoder_num_hidden_layers", [(2, 1), (1, 2), (3, 3)])
def test_hidden_states_and_attentions_of_encoder_and_decoder(num_hidden_layers, decoder_num_hidden_layers):
    model = tiny_model(
        num_hidden_layers=num_hidden_layers,
        decoder_num_hidden_layers=decoder_num_hidden_layers,
        use_distillation_token=True,
        attn_implementation="eager",
    )
    pixel_values = random_pixel_values(height=20, width=36)
    with torch.no_grad():
        outputs = model(pixel_values, output_hidden_states=True, output_attentions=True)
        encoded = model.segmenter(pixel_values, output_hidden_states=True, output_attentions=True)

    num_patches = 3 * 5
    assert len(outputs.hidden_states) == num_hidden_layers + 1
    assert {states.shape for states in outputs.hidden_states} == {(2, 2 + num_patches, 32)}
    assert len(outputs.attentions) == num_hidden_layers
    assert {weights.shape for weights in outputs.attentions} == {(2, 4, 2 + num_patches, 2 + num_patches)}
    assert len(outputs.decoder_hidden_states) == decoder_num_hidden_layers + 1
    assert {states.shape for states in outputs.decoder_hidden_states} == {(2, num_patches + 5, 24)}
    assert len(outputs.decoder_attentions) == decoder_num_hidden_layers
    assert {weights.shape for weights in outputs.decoder_attentions} == {(2, 3, num_patches + 5, num_patches + 5)}
    for weights in outputs.attentions + outputs.decoder_attentions:
        assert weights.min() >= 0
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))

    torch.testing.assert_close(encoded.hidden_states, outputs.hidden_states, rtol=0, atol=0)
    torch.testing.assert_close(encoded.attentions, outputs.attentions, rtol=0, atol=0)
    with torch.no_grad():
        # They are from what enters the first layer to what leaves the last, before the final LayerNorm.
        assert torch.equal(outputs.hidden_states[0], model.segmenter.embeddings(pixel_values))
        assert torch.equal(model.segmenter.layernorm(outputs.hidden_states[-1]), encoded.last_hidden_state)
        projected = model.decoder.projection(encoded.last_hidden_state[:, 2:])
        torch.testing.assert_close(outputs.decoder_hidden_states[0][:, :num_patches], projected)
        classes = model.decoder.class_embeddings.expand(2, -1, -1)
        assert torch.equal(outputs.decoder_hidden_states[0][:, num_patches:], classes)


def test_attention_weights_are_those_of_the_queries_and_keys():
    model = tiny_model(attn_implementation="eager")
    with torch.no_grad():
        outputs = model(random_pixel_values(), output_hidden_states=True, output_attentions=True)
        for layer, states, weights, num_heads in [
            (model.segmenter.layers[1], outputs.hidden_states[1], outputs.attentions[1], 4),
            (model.decoder.layers[0], outputs.decoder_hidden_states[0], outputs.decoder_attentions[0], 3),
        ]:
            states = layer.layernorm_before(states)
            for head in range(num_heads):
                channels = slice(8 * head, 8 * head + 8)
                queries = layer.attention.q_proj(states)[..., channels]
                keys = layer.attention.k_proj(states)[..., channels]
                expected = (queries @ keys.transpose(1, 2) / 8**0.5).softmax(-1)
                torch.testing.assert_close(weights[:, head], expected)


def test_outputs_are_asked_for_by_config_too():
    model = tiny_model(attn_implementation="eager", output_hidden_states=True, output_attentions=True)
    outputs = model(random_pixel_values())
    assert [len(outputs[name]) for name in ("hidden_states", "attentions")] == [3, 2]
    assert [len(outputs[name]) for name in ("decoder_hidden_states", "decoder_attentions")] == [2, 1]
    outputs = model(random_pixel_values(), output_hidden_states=False, output_attentions=False)
    assert list(outputs) == ["logits"]


def test_last_hidden_states_of_encoder_and_decoder_by_negative_index():
    # Counted back from each one's own number of layers.
    model = tiny_model(num_hidden_layers=3, decoder_num_hidden_layers=1)
    with torch.no_grad():
        selected = model(random_pixel_values(), output_hidden_states=[-1])
        everything = model(random_pixel_values(), output_hidden_states=True)
    assert torch.equal(selected.hidden_states[-1], everything.hidden_states[-1])
    assert torch.equal(selected.decoder_hidden_states[-1], everything.decoder_hidden_states[-1])


def test_linear_decoder_has_no_states_of_its_own():
    model = tiny_model(decoder_type="linear", attn_implementation="eager")
    outputs = model(random_pixel_values(), output_hidden_states=True, output_attentions=True)
    assert list(outputs) == ["logits", "hidden_states", "attentions"]


def test_mask_transformer_logits_are_normalised_cosine_similarities():
    model = tiny_model()
    with torch.no_grad():
        model.decoder.mask_norm.weight.normal_()
        model.decoder.mask_norm.bias.normal_()
        outputs = model(random_pixel_values(), output_hidden_states=True)
        states = model.decoder.layernorm(outputs.decoder_hidden_states[-1]).double()
        patches = states[:, :16] @ model.decoder.patch_projection.weight.double().T
        classes = states[:, 16:] @ model.decoder.class_projection.weight.double().T
    cosines = (patches @ classes.transpose(1, 2)) / (patches.norm(dim=-1)[..., None] * classes.norm(dim=-1)[:, None])
    variance, mean = torch.var_mean(cosines, dim=-1, correction=0, keepdim=True)
    expected = (cosines - mean) / (variance + 1e-5).sqrt()
    expected = expected * model.decoder.mask_norm.weight + model.decoder.mask_norm.bias
    actual = outputs.logits.flatten(2).transpose(1, 2).double()
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


# Attention implementations


@pytest.mark.parametrize("decoder_type", DECODER_TYPES)
def test_sdpa_equals_eager(decoder_type):
    model = tiny_model(decoder_type=decoder_type, qkv_bias=False)
    assert model.config._attn_implementation == "sdpa"
    results = {}
    for implementation in ("sdpa", "eager"):
        model.set_attn_implementation(implementation)
        model.zero_grad()
        outputs = model(random_pixel_values(height=25, width=40), labels=random_labels(height=25, width=40))
        outputs.loss.backward()
        results[implementation] = (outputs.logits.detach(), gradients(model))
    torch.testing.assert_close(results["sdpa"], results["eager"], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_flex_attention_equals_eager():
    # Flex attention takes head widths from 16 on.
    model = tiny_model(num_attention_heads=2, decoder_hidden_size=32, decoder_num_attention_heads=2)
    with torch.no_grad():
        model.set_attn_implementation("eager")
        expected = model(random_pixel_values()).logits
        model.set_attn_implementation("flex_attention")
        torch.testing.assert_close(model(random_pixel_values()).logits, expected, rtol=1e-4, atol=1e-4)


# Initialisation


@pytest.mark.parametrize("config_overrides", [{}, {"decoder_type": "linear", "use_distillation_token": True}])
def test_every_weight_is_initialised(config_overrides):
    config = tiny_config(initializer_range=0.02, hidden_size=128, decoder_hidden_size=120, **config_overrides)
    with torch.device("meta"):
        model = SegmenterForSemanticSegmentation(config)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
    model.init_weights()

    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif "norm" in name:
            assert torch.equal(parameter, torch.ones_like(parameter)), name
        else:
            std = 120**-0.5 if name in ("decoder.patch_projection.weight", "decoder.class_projection.weight") else 0.02
            # Four standard errors of a standard deviation.
            assert parameter.std().item() == pytest.approx(std, rel=4 / (2 * parameter.numel()) ** 0.5), name


@pytest.mark.parametrize("decoder_type", DECODER_TYPES)
@pytest.mark.parametrize("use_distillation_token", [False, True])
def test_every_parameter_gets_a_gradient(use_distillation_token, decoder_type):
    model = tiny_model(decoder_type=decoder_type, use_distillation_token=use_distillation_token).train()
    model(random_pixel_values(), labels=random_labels()).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # A bias of the keys adds the same to all scores of a query: softmax takes it away again.
        if not name.endswith("k_proj.bias"):
            assert parameter.grad.abs().max() > 1e-8, name


def test_weight_matrices_are_linear_layers():
    # Quantisers and PEFT only see those.
    matrices = {
        type(module)
        for module in tiny_model().modules()
        if any(parameter.ndim == 2 for parameter in module.parameters(recurse=False))
    }
    assert matrices == {nn.Linear}


# Dropout and stochastic depth


def test_drop_path_drops_whole_samples_at_its_rate():
    set_seed(0)
    drop_path = SegmenterDropPath(0.3)
    samples = drop_path(torch.ones(20_000, 2, 3))
    per_sample = samples[:, 0, 0]
    assert torch.equal(samples, per_sample[:, None, None].expand(-1, 2, 3)), "a sample is kept or dropped as a whole"
    dropped = per_sample == 0
    torch.testing.assert_close(per_sample[~dropped], torch.full((20_000,), 1 / 0.7)[~dropped])
    # Three standard errors of a share.
    assert dropped.float().mean().item() == pytest.approx(0.3, abs=3 * (0.3 * 0.7 / 20_000) ** 0.5)


def test_drop_path_does_nothing_in_evaluation_or_at_rate_0():
    states = torch.randn(4, 3, 2)
    assert SegmenterDropPath(0.9).eval()(states) is states
    assert SegmenterDropPath(0.0).train()(states) is states


def test_drop_path_rates_grow_linearly_over_the_depth():
    model = tiny_model(
        num_hidden_layers=5, drop_path_rate=0.4, decoder_num_hidden_layers=3, decoder_drop_path_rate=0.2
    )
    assert [layer.drop_path.drop_prob for layer in model.segmenter.layers] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert [layer.drop_path.drop_prob for layer in model.decoder.layers] == pytest.approx([0, 0.1, 0.2])


@pytest.mark.parametrize(
    "field",
    [
        "hidden_dropout_prob",
        "attention_probs_dropout_prob",
        "drop_path_rate",
        "decoder_dropout_prob",
        "decoder_drop_path_rate",
    ],
)
@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
def test_each_dropout_is_random_in_training_and_off_in_evaluation(attn_implementation, field):
    model = tiny_model(decoder_num_hidden_layers=2, attn_implementation=attn_implementation, **{field: 0.5})
    pixel_values = random_pixel_values()
    with torch.no_grad():
        assert torch.equal(model(pixel_values).logits, model(pixel_values).logits)
        model.train()
        first, second = model(pixel_values, output_hidden_states=True), model(pixel_values, output_hidden_states=True)
    assert not torch.equal(first.logits, second.logits)
    encoder_is_random = not torch.equal(first.hidden_states[-1], second.hidden_states[-1])
    assert encoder_is_random == (not field.startswith("decoder"))


# Loss


def expected_loss(logits: torch.Tensor, labels: torch.Tensor, ignore_index: int) -> float:
    """Mean cross entropy over the pixels that are not ignored, pixel by pixel."""
    height, width = labels.shape[-2:]
    logits = upsampled(logits, 8, height, width)
    losses = []
    for sample, row, column in np.ndindex(*labels.shape):
        label = labels[sample, row, column].item()
        if label != ignore_index:
            pixel = logits[sample, :, row, column]
            losses.append(np.log(np.exp(pixel).sum()) - pixel[label])
    return float(np.mean(losses))


@pytest.mark.parametrize("decoder_type", DECODER_TYPES)
@pytest.mark.parametrize("ignore_index", [255, -100, 2])
def test_loss_is_the_cross_entropy_of_the_upsampled_logits(ignore_index, decoder_type):
    model = tiny_model(decoder_type=decoder_type, semantic_loss_ignore_index=ignore_index)
    labels = random_labels(height=13, width=22)
    labels[:, 3:9, 5:] = ignore_index
    with torch.no_grad():
        outputs = model(random_pixel_values(height=13, width=22), labels=labels)
    assert outputs.loss.item() == pytest.approx(expected_loss(outputs.logits, labels, ignore_index), rel=1e-5)


def test_loss_of_a_binary_model_is_the_binary_cross_entropy():
    model = tiny_model(decoder_type="linear", num_labels=1)
    labels = random_labels(height=13, width=22, num_labels=2)
    labels[:, 3:9, 5:] = 255
    with torch.no_grad():
        outputs = model(random_pixel_values(height=13, width=22), labels=labels)
    assert outputs.logits.shape == (2, 1, 2, 3)
    probabilities = 1 / (1 + np.exp(-upsampled(outputs.logits, 8, 13, 22)[:, 0]))
    labels = labels.numpy()
    expected = np.where(labels == 1, -np.log(probabilities), -np.log(1 - probabilities))[labels != 255].mean()
    assert outputs.loss.item() == pytest.approx(expected, rel=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("config_overrides", [{}, {"decoder_type": "linear", "num_labels": 1}])
def test_class_weights_multiply_the_pixels_of_each_label(config_overrides):
    model = tiny_model(**config_overrides)
    weights = torch.tensor([0.5, 3.0, 2.0, 1.0, 0.0][: max(2, model.config.num_labels)])
    labels = random_labels(num_labels=len(weights))
    logits = model(random_pixel_values()).logits
    weighted = model.compute_loss(logits, labels, 32, 32, class_weights=weights)
    # The share of each label's pixels is had by ignoring those of all others.
    total = 0.0
    for label, weight in enumerate(weights):
        only_one = torch.where(labels == label, labels, 255)
        total += weight * model.compute_loss(logits, only_one, 32, 32) * (labels == label).sum()
    assert weighted.item() == pytest.approx((total / labels.numel()).item(), rel=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("config_overrides", [{}, {"decoder_type": "linear", "num_labels": 1}])
def test_label_smoothing_spreads_the_target_over_all_labels(config_overrides):
    model = tiny_model(**config_overrides)
    weights = torch.tensor([0.5, 3.0, 2.0, 1.0, 0.0][: max(2, model.config.num_labels)])
    labels = random_labels(num_labels=len(weights))
    labels[0, :5] = 255
    logits = 10 * model(random_pixel_values()).logits
    for class_weights in (None, weights):
        smoothed = model.compute_loss(logits, labels, 32, 32, class_weights=class_weights, label_smoothing=0.3)
        scores = torch.nn.functional.interpolate(logits, size=(32, 32), mode="bilinear")
        if scores.shape[1] == 1:
            scores = torch.cat([torch.zeros_like(scores), scores], dim=1)
        terms = -scores.log_softmax(dim=1) * (1 if class_weights is None else class_weights[:, None, None])
        valid = labels != 255
        of_target = terms.gather(1, labels.where(valid, 0)[:, None])[:, 0]
        expected = (0.7 * of_target + 0.3 * terms.mean(dim=1))[valid].mean()
        assert smoothed.item() == pytest.approx(expected.item(), rel=1e-5)
        plain = model.compute_loss(logits, labels, 32, 32, class_weights=class_weights)
        assert abs(smoothed.item() - plain.item()) > 0.01
        not_smoothed = model.compute_loss(logits, labels, 32, 32, class_weights=class_weights, label_smoothing=0.0)
        assert not_smoothed.item() == plain.item()


@pytest.mark.parametrize(
    "config_overrides", [{}, {"decoder_type": "linear"}, {"decoder_type": "linear", "num_labels": 1}]
)
def test_loss_of_a_batch_without_labelled_pixels_is_zero_with_zero_gradients(config_overrides):
    model = tiny_model(**config_overrides).train()
    loss = model(random_pixel_values(), labels=torch.full((2, 32, 32), 255)).loss
    assert loss.item() == 0
    loss.backward()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.grad, torch.zeros_like(parameter)), name


@pytest.mark.parametrize(
    ("config_overrides", "label"),
    [
        ({}, 5),
        ({}, -1),
        ({}, 254),
        ({"semantic_loss_ignore_index": -100}, 255),
        ({"decoder_type": "linear", "num_labels": 1}, 2),
    ],
)
def test_labels_out_of_range_are_named(config_overrides, label):
    labels = torch.zeros(2, 32, 32, dtype=torch.long)
    labels[1, 4, 7] = label
    with pytest.raises(ValueError, match=rf"`labels` must be 0 to [14] .*got \[{label}\]"):
        tiny_model(**config_overrides)(random_pixel_values(), labels=labels)


@pytest.mark.parametrize("shape", [(2, 4, 4), (2, 1, 32, 32), (1, 32, 32), (2, 32, 24)])
def test_labels_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"`labels` must have shape \(2, 32, 32\)"):
        tiny_model()(random_pixel_values(), labels=torch.zeros(shape, dtype=torch.long))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_labels_of_other_integer_types(dtype):
    model = tiny_model()
    labels = random_labels()
    labels[0, :5] = 255
    with torch.no_grad():
        expected = model(random_pixel_values(), labels=labels).loss
        assert torch.equal(model(random_pixel_values(), labels=labels.to(dtype)).loss, expected)


@pytest.mark.parametrize("id2label", [{0: "building"}, {0: "a", 1: "b", 2: "c"}])
def test_models_of_labels_that_cannot_work_are_refused(id2label):
    # Changed after the configuration was made, which refuses the second by itself.
    config = tiny_config()
    config.id2label = id2label
    config.is_binary = len(id2label) == 3
    with pytest.raises(ValueError, match="num_labels=1"):
        SegmenterForSemanticSegmentation(config)


# Training


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("decoder_type", DECODER_TYPES)
def test_gradient_checkpointing_gives_equal_gradients(decoder_type, use_reentrant):
    # There is dropout, for which the recomputation has to draw the same random numbers again.
    model = tiny_model(
        decoder_type=decoder_type, hidden_dropout_prob=0.2, drop_path_rate=0.2, decoder_dropout_prob=0.2
    ).train()

    def step():
        model.zero_grad()
        set_seed(1)
        loss = model(random_pixel_values(), labels=random_labels()).loss
        loss.backward()
        return loss.detach(), gradients(model)

    expected = step()
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    calls = []
    layers = [module for module in model.modules() if isinstance(module, SegmenterLayer)]
    for layer in layers:
        layer.attention.register_forward_hook(lambda *_: calls.append(1))
    actual = step()
    assert len(calls) == 2 * len(layers), "each layer runs once forward and once again in the backward pass"
    assert actual[1].keys() == expected[1].keys()
    torch.testing.assert_close(actual, expected)


def train(model: nn.Module, folder, per_device_train_batch_size: int, gradient_accumulation_steps: int) -> list[dict]:
    """Two steps of plain SGD on eight samples with Trainer; returns what it logged after each."""
    labels = random_labels(8)
    labels[:, :4] = 255
    samples = [
        {"pixel_values": pixel_values, "labels": label_map}
        for pixel_values, label_map in zip(random_pixel_values(8), labels, strict=True)
    ]
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=per_device_train_batch_size,
        gradient_accumulation_steps=gradient_accumulation_steps,
        max_steps=2,
        optim="sgd",
        learning_rate=0.1,
        lr_scheduler_type="constant",
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        remove_unused_columns=False,
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=samples)
    trainer.train()
    return [entry for entry in trainer.state.log_history if "grad_norm" in entry]


@pytest.mark.parametrize("decoder_type", DECODER_TYPES)
def test_accumulating_two_batches_equals_one_of_twice_the_size(decoder_type, tmp_path):
    # All samples have as many labelled pixels, and there is no dropout: the mean of means is the mean.
    whole, halves = tiny_model(decoder_type=decoder_type), tiny_model(decoder_type=decoder_type)
    before = copy.deepcopy(whole.state_dict())
    whole_log = train(whole, tmp_path, per_device_train_batch_size=4, gradient_accumulation_steps=1)
    halves_log = train(halves, tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=2)

    assert len(whole_log) == len(halves_log) == 2
    for whole_step, halves_step in zip(whole_log, halves_log, strict=True):
        assert halves_step["loss"] == pytest.approx(whole_step["loss"], rel=1e-4)
        assert halves_step["grad_norm"] == pytest.approx(whole_step["grad_norm"], rel=1e-3)
    torch.testing.assert_close(halves.state_dict(), whole.state_dict(), rtol=1e-3, atol=1e-5)
    changed = [name for name, value in whole.state_dict().items() if (value - before[name]).abs().max() > 1e-4]
    assert len(changed) > 10


def test_lora_on_queries_and_values(tmp_path):
    model = tiny_model()
    with torch.no_grad():
        expected = model(random_pixel_values()).logits
    lora = get_peft_model(
        copy.deepcopy(model), LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=True)
    )
    trainable = [name for name, parameter in lora.named_parameters() if parameter.requires_grad]
    # Matrices A and B for queries and values of two encoder layers and one of the decoder.
    assert len(trainable) == 2 * 2 * (2 + 1)
    assert all("lora_" in name for name in trainable)

    optimizer = torch.optim.SGD([parameter for parameter in lora.parameters() if parameter.requires_grad], lr=1.0)
    for _ in range(2):
        optimizer.zero_grad()
        lora(pixel_values=random_pixel_values(), labels=random_labels()).loss.backward()
        optimizer.step()
    lora.eval()
    with torch.no_grad():
        adapted = lora(pixel_values=random_pixel_values()).logits
    assert not torch.allclose(adapted, expected, atol=1e-3)

    lora.save_pretrained(tmp_path)
    with torch.no_grad():
        reloaded = PeftModel.from_pretrained(copy.deepcopy(model), tmp_path)
        torch.testing.assert_close(reloaded(pixel_values=random_pixel_values()).logits, adapted)
        merged = reloaded.merge_and_unload()
        assert type(merged) is SegmenterForSemanticSegmentation
        torch.testing.assert_close(merged(random_pixel_values()).logits, adapted, rtol=1e-4, atol=1e-4)


def test_lora_trains_through_reentrant_gradient_checkpointing():
    # Frozen embeddings leave the first checkpoint without an input that requires a gradient: the library's remedy has
    # to find the patch embeddings.
    lora = get_peft_model(tiny_model().train(), LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))

    def step():
        lora.zero_grad()
        lora(pixel_values=random_pixel_values(), labels=random_labels()).loss.backward()
        return gradients(lora)

    expected = step()
    lora.gradient_checkpointing_enable({"use_reentrant": True})
    lora.enable_input_require_grads()
    assert len(expected) == 12
    torch.testing.assert_close(step(), expected)


# Saving and loading


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("decoder_type", DECODER_TYPES)
def test_saving_and_loading_is_exact(decoder_type, dtype, tmp_path):
    model = tiny_model(decoder_type=decoder_type, use_distillation_token=True, num_labels=3).to(dtype)
    model.save_pretrained(tmp_path)
    loaded, info = SegmenterForSemanticSegmentation.from_pretrained(tmp_path, dtype="auto", output_loading_info=True)
    assert not any(info.values())
    assert loaded.dtype == dtype
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    assert not loaded.training
    with torch.no_grad():
        assert torch.equal(loaded(random_pixel_values()).logits, model(random_pixel_values()).logits)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_loading_in_another_dtype(dtype, tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    loaded = SegmenterForSemanticSegmentation.from_pretrained(tmp_path, dtype=dtype)
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
    with torch.no_grad():
        difference = loaded(random_pixel_values()).logits.float() - model(random_pixel_values()).logits
    assert difference.abs().mean() < 0.05


@pytest.mark.parametrize(
    ("decoder_type", "class_sized"),
    [
        ("mask_transformer", {"decoder.class_embeddings", "decoder.mask_norm.weight", "decoder.mask_norm.bias"}),
        ("linear", {"decoder.classifier.weight", "decoder.classifier.bias"}),
    ],
)
@pytest.mark.parametrize(
    "new_labels", [{"num_labels": 7}, {"id2label": {index: f"new {index}" for index in range(7)}}]
)
def test_another_number_of_labels_resets_the_class_sized_weights_only(new_labels, decoder_type, class_sized, tmp_path):
    model = tiny_model(decoder_type=decoder_type, id2label={index: f"old {index}" for index in range(5)})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1
    model.save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        SegmenterForSemanticSegmentation.from_pretrained(tmp_path, **new_labels)

    loaded, info = SegmenterForSemanticSegmentation.from_pretrained(
        tmp_path, **new_labels, ignore_mismatched_sizes=True, output_loading_info=True
    )
    assert {mismatch[0] for mismatch in info["mismatched_keys"]} == class_sized
    assert loaded.config.num_labels == len(loaded.config.id2label) == 7
    assert loaded(random_pixel_values()).logits.shape[1] == 7
    for name, value in loaded.state_dict().items():
        if name not in class_sized:
            assert torch.equal(value, model.state_dict()[name]), name
        elif name == "decoder.mask_norm.weight":
            assert torch.equal(value, torch.ones(7))
        elif name.endswith("bias"):
            assert torch.equal(value, torch.zeros(7))
        else:
            # Drawn anew around 0 with the configured standard deviation of 0.2, where the stored weights lie around 1.
            assert value.std().item() == pytest.approx(0.2, rel=0.3), name
            assert abs(value.mean().item()) < 0.1, name


def test_other_names_for_as_many_labels_keep_all_weights(tmp_path):
    model = tiny_model(id2label={index: f"old {index}" for index in range(5)})
    model.save_pretrained(tmp_path)
    id2label = {index: f"new {index}" for index in range(5)}
    loaded, info = SegmenterForSemanticSegmentation.from_pretrained(
        tmp_path, id2label=id2label, output_loading_info=True
    )
    assert not any(info.values())
    assert loaded.config.id2label == id2label
    assert loaded.config.label2id == {name: index for index, name in id2label.items()}


@pytest.mark.parametrize("decoder_type", DECODER_TYPES)
def test_encoder_folder_loads_with_a_fresh_decoder(decoder_type, tmp_path):
    encoder = tiny_model().segmenter
    encoder.save_pretrained(tmp_path)
    model, info = SegmenterForSemanticSegmentation.from_pretrained(
        tmp_path, decoder_type=decoder_type, num_labels=4, output_loading_info=True
    )
    decoder_weights = {f"decoder.{name}" for name in model.decoder.state_dict()}
    assert set(info.pop("missing_keys")) == decoder_weights
    assert not any(info.values())
    for name, value in model.segmenter.state_dict().items():
        assert torch.equal(value, encoder.state_dict()[name]), name
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_encoder_loads_from_a_segmentation_folder(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    encoder, info = SegmenterModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, model.segmenter.state_dict()[name]), name


def edit_config(folder, **fields):
    """Sets fields of a stored config, or removes those that are `None`."""
    file = folder / "config.json"
    config = json.loads(file.read_text()) | fields
    file.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))


@pytest.mark.parametrize(
    ("saved", "fields", "message"),
    [
        # The default is 12.
        (
            {},
            {"num_hidden_layers": None},
            r"missing are layers\.10\..*`num_hidden_layers` is 12, and 2 in the weights",
        ),
        ({}, {"num_hidden_layers": 1}, r"left over are layers\.1\..*`num_hidden_layers` is 1, and 2 in the weights"),
        ({}, {"decoder_num_hidden_layers": None}, r"`decoder_num_hidden_layers` is 2, and 1 in the weights"),
        ({}, {"decoder_num_hidden_layers": 0}, r"left over are decoder\.layers\.0\..*is 0, and 1 in the weights"),
        ({"qkv_bias": False}, {"qkv_bias": None}, "missing are .*q_proj.bias.*`qkv_bias` is True, and False in the"),
        ({}, {"qkv_bias": False}, "left over are .*q_proj.bias.*`qkv_bias` is False, and True in the weights"),
        (
            {"decoder_type": "linear"},
            {"decoder_type": None},
            "`decoder_type` is 'mask_transformer', and 'linear' in the weights.*`ignore_mismatched_sizes=True`",
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize("form", ["safetensors", "shards", "bin"])
def test_config_that_describes_a_part_of_the_weights_is_refused(saved, fields, message, form, tmp_path, caplog):
    model = tiny_model(**saved)
    model.save_pretrained(tmp_path, **({"max_shard_size": "20KB"} if form == "shards" else {}))
    if form == "bin":
        (tmp_path / "model.safetensors").unlink()
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    edit_config(tmp_path, **fields)
    with pytest.raises(ValueError, match=message):
        SegmenterForSemanticSegmentation.from_pretrained(tmp_path)
    assert not caplog.records, "the error says it all"
    if "decoder_type" not in fields:
        # That flag is for other sizes, as those of other labels.
        with pytest.raises(ValueError, match=message):
            SegmenterForSemanticSegmentation.from_pretrained(tmp_path, ignore_mismatched_sizes=True, num_labels=3)


@pytest.mark.parametrize("save_encoder", [True, False])
@pytest.mark.parametrize("num_layers", [1, 3])
def test_encoders_of_another_number_of_layers_are_refused(save_encoder, num_layers, tmp_path):
    model = tiny_model()
    (model.segmenter if save_encoder else model).save_pretrained(tmp_path)
    for model_class in (SegmenterModel, SegmenterForSemanticSegmentation):
        with pytest.raises(ValueError, match=rf"layers\.\d\..*`num_hidden_layers` is {num_layers}, and 2"):
            model_class.from_pretrained(tmp_path, num_hidden_layers=num_layers)


def test_incomplete_weights_are_refused(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    weights = model.state_dict()
    for name in ("segmenter.layernorm.bias", "segmenter.embeddings.cls_token", "decoder.mask_norm.bias"):
        some = {key: value for key, value in weights.items() if key != name}
        with pytest.raises(ValueError, match=rf"missing are {name.removeprefix('segmenter.')}; .*They are incomplete"):
            SegmenterForSemanticSegmentation.from_pretrained(None, config=model.config, state_dict=some)
    others = {f"net.{name}": value for name, value in weights.items()}
    for model_class in (SegmenterModel, SegmenterForSemanticSegmentation):
        with pytest.raises(ValueError, match="left over are net.*another model, or their names have a prefix"):
            model_class.from_pretrained(None, config=model.config, state_dict=others)
        # Nothing of them is a Segmenter's.
        with pytest.raises(ValueError, match="left over are blocks.0.attn.qkv.bias, .* and 1 more. They are those of"):
            foreign = ("blocks.0.attn.qkv.weight", "blocks.0.attn.qkv.bias", "head.weight", "head.bias")
            model_class.from_pretrained(None, config=model.config, state_dict=dict.fromkeys(foreign, torch.ones(5)))
    # What is beside the model does not matter to it.
    extended = {**weights, "criterion.weight": torch.ones(5)}
    loaded = SegmenterForSemanticSegmentation.from_pretrained(None, config=model.config, state_dict=extended)
    assert torch.equal(loaded.state_dict()["decoder.mask_norm.bias"], weights["decoder.mask_norm.bias"])


@pytest.mark.parametrize(("stored", "wanted"), [DECODER_TYPES, DECODER_TYPES[::-1]])
def test_another_decoder_is_made_where_it_is_asked_for(stored, wanted, tmp_path):
    model = tiny_model(decoder_type=stored)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="For a new decoder pass `ignore_mismatched_sizes=True`"):
        SegmenterForSemanticSegmentation.from_pretrained(tmp_path, decoder_type=wanted)
    loaded, info = SegmenterForSemanticSegmentation.from_pretrained(
        tmp_path, decoder_type=wanted, ignore_mismatched_sizes=True, output_loading_info=True
    )
    assert set(info["missing_keys"]) == {f"decoder.{name}" for name in loaded.decoder.state_dict()}
    for name, value in loaded.segmenter.state_dict().items():
        assert torch.equal(value, model.segmenter.state_dict()[name]), name


def test_deep_copies_are_equal_and_independent():
    model = tiny_model()
    with torch.no_grad():
        model(random_pixel_values(), output_hidden_states=True)  # which installs hooks
        duplicate = copy.deepcopy(model)
        expected = model(random_pixel_values(), output_hidden_states=True)
        actual = duplicate(random_pixel_values(), output_hidden_states=True)
        assert torch.equal(actual.logits, expected.logits)
        assert len(actual.hidden_states) == len(expected.hidden_states)
        duplicate.decoder.mask_norm.weight.zero_()
        duplicate.set_attn_implementation("eager")
        assert torch.equal(model(random_pixel_values()).logits, expected.logits)
    assert model.config._attn_implementation == model.decoder.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("memory", [0.7, 0.8, 0.9])
def test_runs_with_a_share_of_its_weights_on_disk(memory, tmp_path):
    model = tiny_model(use_distillation_token=True)
    model.save_pretrained(tmp_path / "model")
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    offloaded = SegmenterForSemanticSegmentation.from_pretrained(
        tmp_path / "model",
        device_map="auto",
        max_memory={"cpu": int(memory * size)},
        offload_folder=str(tmp_path / "offload"),
    )
    assert set(offloaded.hf_device_map.values()) == {"cpu", "disk"}
    # A residual connection may not cross devices: modules with one stay whole.
    whole = [name for name, module in model.named_modules() if type(module).__name__ in model._no_split_modules]
    assert len(whole) == 1 + 2 + 1
    assert not [key for key in offloaded.hf_device_map for name in whole if key.startswith(f"{name}.")]
    with torch.no_grad():
        torch.testing.assert_close(offloaded(random_pixel_values()).logits, model(random_pixel_values()).logits)


# Export and compilation


@pytest.mark.parametrize("with_labels", [False, True])
@pytest.mark.parametrize(
    "config_overrides",
    [
        {},
        {"decoder_type": "linear", "use_distillation_token": True},
        {"position_embedding_interpolation": "bicubic", "patch_size": 16, "image_size": 48},
    ],
)
def test_exported_program_takes_any_batch_height_and_width(config_overrides, with_labels):
    model = tiny_model(**config_overrides)

    def inputs(*size: int) -> dict[str, torch.Tensor]:
        # Labels are there too: to look at their values, and name those that are out of range, would stop the export.
        labels = {"labels": random_labels(*size)} if with_labels else {}
        return {"pixel_values": random_pixel_values(*size), **labels}

    batch = torch.export.Dim("batch")
    # Two patches in each direction are the least: the exporter takes sizes of 1 for constants.
    height = torch.export.Dim("height", min=model.config.patch_size + 1)
    width = torch.export.Dim("width", min=model.config.patch_size + 1)
    named = {"pixel_values": {0: batch, 2: height, 3: width}}
    inferred = {"pixel_values": dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)}
    if with_labels:
        named["labels"] = {0: batch, 1: height, 2: width}
        inferred["labels"] = dict.fromkeys((0, 1, 2), torch.export.Dim.DYNAMIC)

    for dynamic_shapes in (named, inferred):
        program = torch.export.export(model, (), inputs(2, 40, 56), dynamic_shapes=dynamic_shapes).module()
        for size in [(2, 40, 56), (3, 32, 32), (1, 18, 33), (4, 100, 17)]:
            with torch.no_grad():
                expected = model(**inputs(*size))
                actual = program(**inputs(*size))
            assert actual.keys() == expected.keys()
            torch.testing.assert_close(dict(actual), dict(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_compiled_model_equals_eager():
    torch.compiler.reset()
    model = tiny_model(num_hidden_layers=1)
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    for height, width in [(40, 32), (17, 57)]:
        pixel_values = random_pixel_values(2, height, width)
        with torch.no_grad():
            torch.testing.assert_close(compiled(pixel_values).logits, model(pixel_values).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("decoder_type", DECODER_TYPES)
def test_compiled_training_has_no_graph_break(decoder_type):
    # It goes as far as the forward and backward graphs, where models break: machine code for them takes minutes.
    torch.compiler.reset()
    model = tiny_model(decoder_type=decoder_type)
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    for height, width in [(40, 32), (17, 57)]:
        inputs = {"pixel_values": random_pixel_values(2, height, width), "labels": random_labels(2, height, width)}
        losses, all_gradients = [], []
        for module in (model, compiled):
            model.zero_grad()
            loss = module(**inputs).loss
            loss.backward()
            losses.append(loss.detach())
            all_gradients.append(gradients(model))
        torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(all_gradients[1], all_gradients[0], rtol=1e-3, atol=1e-4)


class ConvolutionalDecoder(nn.Module):
    """Mixes each patch with its neighbours in a row."""

    def __init__(self, config: SegmenterConfig):
        super().__init__()
        self.mixer = nn.Conv1d(config.hidden_size, config.num_labels, kernel_size=3, padding=1)

    def forward(self, patches: torch.Tensor, **kwargs) -> SemanticSegmenterOutput:
        return SemanticSegmenterOutput(logits=self.mixer(patches.transpose(1, 2)).transpose(1, 2))


def test_a_decoder_is_its_class_and_a_row_of_the_table(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"`decoder_type` must be one of \('mask_transformer', 'linear'\)"):
        tiny_config(decoder_type="convolutional")
    row = DecoderType("ConvolutionalDecoder", "mixer.weight", "a convolution", no_single_label="which is a test")
    monkeypatch.setattr(modeling_segmenter, "ConvolutionalDecoder", ConvolutionalDecoder, raising=False)
    monkeypatch.setitem(DECODERS, "convolutional", row)

    # Attention heads are no setting of it, so that they need not divide its width.
    model = tiny_model(decoder_type="convolutional", decoder_num_attention_heads=5)
    pixel_values, labels = random_pixel_values(height=20, width=30), random_labels(height=20, width=30)
    outputs = model(pixel_values, labels)
    assert outputs.logits.shape == (2, 5, 3, 4) and outputs.decoder_attentions is None
    outputs.loss.backward()
    assert gradients(model).keys() == dict(model.named_parameters()).keys()

    model.save_pretrained(tmp_path)
    loaded = SegmenterForSemanticSegmentation.from_pretrained(tmp_path).eval()
    assert loaded.config.decoder_type == "convolutional"
    assert torch.equal(loaded(pixel_values).logits, outputs.logits)
    with pytest.raises(ValueError, match="`decoder_type` is 'linear', and 'convolutional' in the weights"):
        SegmenterForSemanticSegmentation.from_pretrained(tmp_path, decoder_type="linear")
    with pytest.raises(ValueError, match='`num_labels=1` does not work with `decoder_type="convolutional"`, which is'):
        tiny_config(decoder_type="convolutional", num_labels=1)
    card = make_trained_card(model.config, SegmenterImageProcessorPil())
    assert "a plain Vision Transformer and a convolution that label" in " ".join(card.text.split())
