"""The configuration: defaults, refusals, labels, and what survives saving and loading."""

import copy
import json
import pickle

import pytest

from segmenter_hf import SegmenterConfig

from .common import tiny_config


def round_trip(config: SegmenterConfig, folder, **overrides) -> SegmenterConfig:
    config.save_pretrained(folder)
    return SegmenterConfig.from_pretrained(folder, **overrides)


# Defaults


def test_defaults_are_seg_b_mask_16():
    config = SegmenterConfig()
    expected = {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "hidden_act": "gelu",
        "image_size": 512,
        "patch_size": 16,
        "qkv_bias": True,
        "layer_norm_eps": 1e-5,
        "drop_path_rate": 0.1,
        "use_distillation_token": False,
        "position_embedding_interpolation": "bilinear",
        "decoder_type": "mask_transformer",
        "decoder_hidden_size": 768,
        "decoder_num_hidden_layers": 2,
        "decoder_num_attention_heads": 12,
        "decoder_intermediate_size": 3072,
        "decoder_dropout_prob": 0.1,
        "decoder_drop_path_rate": 0.0,
        "decoder_layer_norm_eps": 1e-5,
        "semantic_loss_ignore_index": 255,
    }
    assert {name: getattr(config, name) for name in expected} == expected
    assert config.model_type == "segmenter"


@pytest.mark.parametrize(
    ("hidden_size", "expected"),
    [(192, (192, 3, 768)), (384, (384, 6, 1536)), (1024, (1024, 16, 4096)), (32, (32, 1, 128)), (128, (128, 2, 512))],
)
def test_decoder_sizes_follow_the_encoders_width(hidden_size, expected):
    config = SegmenterConfig(hidden_size=hidden_size, num_attention_heads=1)
    sizes = (config.decoder_hidden_size, config.decoder_num_attention_heads, config.decoder_intermediate_size)
    assert sizes == expected


def test_decoder_sizes_follow_the_decoders_width():
    config = SegmenterConfig(decoder_hidden_size=256)
    assert (config.decoder_num_attention_heads, config.decoder_intermediate_size) == (4, 1024)


def test_decoder_sizes_that_are_given_stay():
    config = SegmenterConfig(decoder_hidden_size=96, decoder_num_attention_heads=8, decoder_intermediate_size=100)
    assert (config.decoder_hidden_size, config.decoder_num_attention_heads) == (96, 8)
    assert config.decoder_intermediate_size == 100


@pytest.mark.parametrize(
    ("image_size", "patch_size", "expected"),
    [(512, 16, (32, 32)), (100, 16, (6, 6)), ((48, 64), 8, (6, 8)), ([48, 64], 32, (1, 2))],
)
def test_patch_grid(image_size, patch_size, expected):
    assert SegmenterConfig(image_size=image_size, patch_size=patch_size).patch_grid == expected


# Refusals


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_attention_heads": 5}, r"`hidden_size` \(768\) must be a multiple of `num_attention_heads` \(5\)"),
        ({"decoder_num_attention_heads": 7}, r"`decoder_hidden_size` \(768\) must be a multiple of"),
        ({"decoder_hidden_size": 100, "decoder_num_attention_heads": 3}, "`decoder_num_attention_heads` \\(3\\)"),
        ({"decoder_type": "unet"}, "`decoder_type` must be one of .*'mask_transformer', 'linear'.*got 'unet'"),
        ({"position_embedding_interpolation": "nearest"}, "`position_embedding_interpolation` must be .*'nearest'"),
        ({"num_labels": 1}, '`num_labels=1` does not work .*Use `num_labels=2`.*or `decoder_type="linear"`'),
        ({"num_labels": 0}, "`id2label` must name the labels"),
        ({"id2label": {1: "a", 2: "b"}}, r"`id2label` must name the labels 0 to 1, got \[1, 2\]"),
        ({"num_labels": 3, "id2label": {0: "a", 1: "b"}}, "`num_labels=3` does not fit `id2label`, which names 2"),
        (
            {"num_labels": 1, "decoder_type": "linear", "id2label": {0: "crack"}},
            "binary model .* names both labels, 0 and 1",
        ),
        ({"num_labels": 2, "palette": [[0, 0, 0]]}, "`palette` must have red, green and blue .* for each of 2 labels"),
        ({"num_labels": 2, "palette": [[0, 0, 0], [0, 0, 256]]}, r"`palette` must .*, got .*\[0, 0, 256\]"),
        ({"num_labels": 2, "palette": [[0, 0, 0], [0, 0, -1]]}, r"`palette` must .*, got .*\[0, 0, -1\]"),
        ({"num_labels": 2, "palette": [[0, 0, 0], [0, 0]]}, r"`palette` must .*, got .*\[0, 0\]"),
        ({"num_labels": 2, "palette": [[0, 0, 0], []]}, "`palette` must have red, green and blue"),
        ({"image_size": 8}, r"`image_size` \(8\) must be at least `patch_size` \(16\)"),
        ({"image_size": (64, 8)}, r"`image_size` \(\(64, 8\)\) must be at least `patch_size` \(16\)"),
        ({"image_size": [64, 64, 64]}, r"`image_size` must be an int or \(height, width\)"),
        ({"decoder_num_hidden_layers": -1}, "`decoder_num_hidden_layers` must not be negative, got -1"),
        *(
            ({name: 0}, f"`{name}` must be at least 1, got 0")
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
            )
        ),
        *(
            ({name: value}, f"`{name}` must be at least 0 and below 1, got {value}")
            for name in (
                "hidden_dropout_prob",
                "attention_probs_dropout_prob",
                "drop_path_rate",
                "decoder_dropout_prob",
                "decoder_drop_path_rate",
            )
            for value in (-0.1, 1.0)
        ),
    ],
    ids=str,
)
def test_values_that_cannot_work_are_refused_by_name(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        SegmenterConfig(**settings)
    # Nor do they come in by the back door.
    SegmenterConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        SegmenterConfig.from_pretrained(tmp_path, **settings)


@pytest.mark.parametrize(
    "settings", [{"hidden_size": "768"}, {"layer_norm_eps": None}, {"decoder_type": 1}, {"image_size": "512"}], ids=str
)
def test_values_of_another_type_are_refused_by_name(settings):
    (name,) = settings
    with pytest.raises(Exception, match=f"'{name}'") as error:
        SegmenterConfig(**settings)
    assert type(error.value).__name__ == "StrictDataclassFieldValidationError"


def test_decoder_heads_do_not_matter_to_the_linear_decoder():
    assert SegmenterConfig(hidden_size=100, num_attention_heads=4, decoder_type="linear").decoder_type == "linear"


# Labels


def test_names_give_the_number_of_labels():
    config = SegmenterConfig(id2label={0: "sky", 1: "road", 2: "tree"})
    assert config.num_labels == 3
    assert config.label2id == {"sky": 0, "road": 1, "tree": 2}


def test_number_of_labels_gives_placeholder_names():
    config = SegmenterConfig(num_labels=3)
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    assert config.label2id == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}
    config.num_labels = 2
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1"}


def test_setting_the_same_number_of_labels_keeps_their_names():
    config = SegmenterConfig(id2label={0: "sky", 1: "road"})
    config.num_labels = 2
    assert config.id2label == {0: "sky", 1: "road"}


def test_names_survive_json_with_integer_keys(tmp_path):
    id2label = {0: "sky", 1: "road", 2: "tree"}
    loaded = round_trip(SegmenterConfig(id2label=id2label), tmp_path)
    assert loaded.id2label == id2label
    assert loaded.label2id == {"sky": 0, "road": 1, "tree": 2}
    assert loaded.num_labels == 3


def test_string_keys_are_numbers(tmp_path):
    """As JSON has them."""
    id2label = {str(index): f"label {index}" for index in range(12)}
    expected = {index: f"label {index}" for index in range(12)}
    stored = tiny_config().to_dict()
    for config in (
        SegmenterConfig(id2label=id2label),
        SegmenterConfig.from_dict({**stored, "id2label": id2label, "label2id": None}),
        round_trip(tiny_config(), tmp_path, id2label=id2label),
    ):
        assert config.id2label == expected
        assert config.label2id == {name: index for index, name in expected.items()}


def test_labels_of_one_name_are_warned_of(tmp_path, caplog):
    id2label = {0: "road", 1: "car", 2: "road"}
    config = SegmenterConfig(id2label=id2label)
    assert config.num_labels == 3
    config.save_pretrained(tmp_path)
    caplog.clear()
    for make in (lambda: SegmenterConfig(id2label=id2label), lambda: SegmenterConfig.from_pretrained(tmp_path)):
        assert make().id2label == id2label
        (record,) = caplog.records
        assert "several labels of one name, {'road': [0, 2]}" in record.getMessage()
        caplog.clear()
    SegmenterConfig(id2label={0: "road", 1: "car"}, label2id={"road": "0", "car": "1"})
    SegmenterConfig(num_labels=3)
    assert not caplog.records


@pytest.mark.parametrize("label2id", [{"road": 1, "car": 0}, {"road": "zero", "car": "one"}, {"sky": 0, "car": 1}])
def test_names_count_where_numbers_contradict_them(label2id, caplog):
    config = SegmenterConfig(id2label={0: "road", 1: "car"}, label2id=label2id)
    (record,) = caplog.records
    assert f"is not what `id2label` says, which counts: {label2id} becomes" in record.getMessage()
    assert config.label2id == {"road": 0, "car": 1}


@pytest.mark.parametrize("id2label", [None, {0: "background", 1: "crack"}])
def test_binary_models_have_one_logit_and_two_names(id2label, tmp_path):
    settings = {} if id2label is None else {"id2label": id2label}
    config = tiny_config(decoder_type="linear", **{"num_labels": 1, **settings})
    loaded = round_trip(config, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["num_labels"] == 1
    for each in (config, loaded, copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert each.num_labels == 1
        assert each.id2label == (id2label or {0: "LABEL_0", 1: "LABEL_1"})
        assert each.label2id == {name: index for index, name in each.id2label.items()}


# Palette

PALETTE = [[70, 130, 180], [128, 64, 128], [107, 142, 35]]


def test_there_is_no_palette_by_default(tmp_path):
    assert SegmenterConfig().palette is None
    assert round_trip(tiny_config(), tmp_path).palette is None


def test_palette_survives_saving_and_copying(tmp_path):
    config = tiny_config(id2label={0: "sky", 1: "road", 2: "tree"}, palette=PALETTE)
    for each in (round_trip(config, tmp_path), copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert each.palette == PALETTE
        assert each.id2label == config.id2label
    assert round_trip(config, tmp_path, num_labels=3).palette == PALETTE


def test_a_binary_model_has_a_colour_for_both_labels():
    config = tiny_config(decoder_type="linear", num_labels=1, palette=PALETTE[:2])
    assert config.palette == PALETTE[:2]
    with pytest.raises(ValueError, match="`palette` must .* for each of 2 labels"):
        tiny_config(decoder_type="linear", num_labels=1, palette=PALETTE[:1])


@pytest.mark.parametrize("labels", [{"num_labels": 2}, {"id2label": {0: "cat", 1: "dog", 2: "cow"}}])
def test_other_labels_drop_the_palette(labels, tmp_path):
    """Colours belong to names, whether or not there are as many."""
    config = tiny_config(id2label={0: "sky", 1: "road", 2: "tree"}, palette=PALETTE)
    assert round_trip(config, tmp_path, **labels).palette is None
    colours = [[1, 2, 3]] * len(labels.get("id2label", range(2)))
    assert round_trip(config, tmp_path, palette=colours, **labels).palette == colours


def test_setting_another_number_of_labels_drops_the_palette():
    config = tiny_config(id2label={0: "sky", 1: "road", 2: "tree"}, palette=PALETTE)
    config.num_labels = 3
    assert config.palette == PALETTE
    config.num_labels = 4
    assert config.palette is None


# Saving and loading


def test_every_field_survives_json(tmp_path):
    values = {
        "hidden_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "intermediate_size": 50,
        "hidden_act": "relu",
        "hidden_dropout_prob": 0.01,
        "attention_probs_dropout_prob": 0.02,
        "drop_path_rate": 0.03,
        "initializer_range": 0.04,
        "layer_norm_eps": 1e-6,
        "image_size": [40, 48],
        "patch_size": 8,
        "num_channels": 4,
        "qkv_bias": False,
        "use_distillation_token": True,
        "position_embedding_interpolation": "bicubic",
        "decoder_type": "linear",
        "decoder_hidden_size": 30,
        "decoder_num_hidden_layers": 1,
        "decoder_num_attention_heads": 5,
        "decoder_intermediate_size": 31,
        "decoder_dropout_prob": 0.05,
        "decoder_drop_path_rate": 0.06,
        "decoder_layer_norm_eps": 1e-7,
        "semantic_loss_ignore_index": 0,
        "palette": [[index, 0, 255] for index in range(SegmenterConfig().num_labels)],
    }
    assert values.keys() == SegmenterConfig.__annotations__.keys() - {"model_type"}
    default = SegmenterConfig()
    assert not [name for name, value in values.items() if getattr(default, name) == value]

    loaded = round_trip(SegmenterConfig(**values), tmp_path)
    assert {name: getattr(loaded, name) for name in values} == values


def test_overrides_replace_what_is_stored(tmp_path):
    loaded = round_trip(tiny_config(), tmp_path, decoder_type="linear", drop_path_rate=0.2, image_size=(24, 16))
    assert (loaded.decoder_type, loaded.drop_path_rate, loaded.image_size) == ("linear", 0.2, (24, 16))
    assert loaded.hidden_size == 32


def test_another_number_of_labels_drops_the_stored_names(tmp_path):
    config = tiny_config(id2label={0: "sky", 1: "road", 2: "tree"})
    loaded = round_trip(config, tmp_path, num_labels=2)
    assert loaded.num_labels == 2
    assert loaded.id2label == {0: "LABEL_0", 1: "LABEL_1"}


def test_the_same_number_of_labels_keeps_the_stored_names(tmp_path):
    config = tiny_config(id2label={0: "sky", 1: "road", 2: "tree"})
    assert round_trip(config, tmp_path, num_labels=3).id2label == config.id2label


def test_other_names_replace_the_stored_ones(tmp_path):
    config = tiny_config(id2label={0: "sky", 1: "road", 2: "tree"})
    loaded = round_trip(config, tmp_path, id2label={0: "cat", 1: "dog"})
    assert loaded.num_labels == 2
    assert loaded.label2id == {"cat": 0, "dog": 1}


def test_new_names_leave_a_binary_model_a_binary_one(tmp_path):
    binary = tiny_config(decoder_type="linear", num_labels=1)
    renamed = round_trip(binary, tmp_path, id2label={0: "background", 1: "crack"})
    assert renamed.num_labels == 1
    assert renamed.id2label == {0: "background", 1: "crack"}
    assert renamed.label2id == {"background": 0, "crack": 1}
    assert round_trip(binary, tmp_path, id2label={0: "a", 1: "b", 2: "c"}).num_labels == 3
    assert round_trip(binary, tmp_path, id2label={0: "a", 1: "b"}, num_labels=2).num_labels == 2


def test_none_is_no_override_of_labels(tmp_path):
    config = tiny_config(id2label={0: "sky", 1: "road", 2: "car"})
    assert round_trip(config, tmp_path, num_labels=None, id2label=None).id2label == config.id2label


def test_between_binary_and_other_models(tmp_path):
    binary = tiny_config(decoder_type="linear", num_labels=1)
    assert round_trip(binary, tmp_path).num_labels == 1
    several = round_trip(binary, tmp_path, num_labels=4)
    assert (several.num_labels, len(several.id2label)) == (4, 4)
    assert round_trip(several, tmp_path, num_labels=1).num_labels == 1


def test_unknown_overrides_are_handed_back(tmp_path):
    tiny_config().save_pretrained(tmp_path)
    config, unused = SegmenterConfig.from_pretrained(
        tmp_path, num_labels=4, no_such_field=3, return_unused_kwargs=True
    )
    assert unused == {"no_such_field": 3}
    assert config.num_labels == 4


def test_loading_leaves_the_dictionary_alone():
    stored = tiny_config().to_dict()
    before = copy.deepcopy(stored)
    SegmenterConfig.from_dict(stored, num_labels=7, decoder_type="linear")
    assert stored == before
