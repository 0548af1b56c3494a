"""
What the configs of MMSegmentation say about a Segmenter. Releases 0.x and 1.x put it in different places, and leave to
defaults what is the same in the configs that they come with (configs/segmenter).
"""

from collections.abc import Mapping
from typing import Any

from ..configuration_segmenter import POSITION_EMBEDDING_INTERPOLATIONS, SegmenterConfig
from ..data.labels import load_label_set
from ..image_processing_pil_segmenter import SegmenterImageProcessorPil
from ..inputs import read_bytes
from .errors import ConversionError, refuse_os_errors
from .python_config import MAX_CONFIG_LENGTH, parse_python_config
from .settings import Settings, describe, describe_differences, is_count, is_list_of, is_number
from .sources import Source
from .state_dict import check_num_patches, image_processor_of, make_config


CONFIG_FILE = "config.py"
# The heads of configs/segmenter: the mask transformer, and a fully convolutional head without convolutions.
DECODER_TYPES = {"SegmenterMaskTransformerHead": "mask_transformer", "FCNHead": "linear"}

# Defaults of the arguments that a config may leave out, as of mmseg/models/backbones/vit.py and
# mmseg/models/decode_heads/segmenter_mask_head.py (0.20 to 1.2), and of nn.LayerNorm.
LAYER_NORM_EPS = 1e-5
INTERPOLATION = "bicubic"
BACKBONE_IMAGE_SIZE = (224, 224)
BACKBONE_NUM_HEADS = 12
BACKBONE_SIZES = {"embed_dims": 768, "num_layers": 12, "patch_size": 16}
DECODER_DROP_PATH_RATE = 0.1

# Label sets of the data sets' classes (mmseg/datasets/*.py), and whether their label maps store 0 for "other", which
# is ignored, and label + 1 for the rest, unless the config says so itself.
DATASET_LABELS = {
    "ADE20KDataset": ("ade20k", True),
    "CityscapesDataset": ("cityscapes", False),
    "PascalContextDataset": ("pascal_context_60", False),
    "PascalContextDataset59": ("pascal_context_59", True),
}

TEST_PIPELINES = (
    "test_dataloader.dataset.pipeline",
    "data.test.pipeline",
    "test_pipeline",
    "val_dataloader.dataset.pipeline",
    "data.val.pipeline",
)
TRAIN_PIPELINES = ("train_dataloader.dataset.pipeline", "data.train.pipeline", "train_pipeline")
# These steps of a test pipeline are what the image processor does too, or do nothing to pixels in tests.
REPEATED_TRANSFORMS = {
    "Collect",
    "DefaultFormatBundle",
    "ImageToTensor",
    "MultiScaleFlipAug",
    "Normalize",
    "PackSegInputs",
    "RandomFlip",
    "Resize",
    "ResizeShortestEdge",
}

# A config may leave these out, but not say otherwise, since other values compute something that our models do not.
REQUIRED_VALUES = [
    ("model.backbone.in_channels", 3),
    ("model.backbone.with_cls_token", True),
    ("model.backbone.output_cls_token", False),
    ("model.backbone.patch_pad", "corner"),
    ("model.backbone.act_cfg.type", "GELU"),
    ("model.backbone.norm_cfg.type", "LN"),
    ("model.decode_head.align_corners", False),
    ("model.decode_head.input_transform", None),
]
REQUIRED_OF_MASK_TRANSFORMER = [
    ("model.decode_head.act_cfg.type", "GELU"),
    ("model.decode_head.norm_cfg.type", "LN"),
]


def read_config_text(source: Source) -> Settings:
    """The config of a checkpoint: its own text, or else that of `config.py`, or of the only Python file, beside it."""
    meta = source.contents.get("meta") if isinstance(source.contents, Mapping) else None
    meta = meta if isinstance(meta, Mapping) else {}
    # 0.x and 1.x store it under these names.
    for name in ("config", "cfg"):
        if isinstance(meta.get(name), str):
            return Settings(parse_python_config(meta[name], f"The config in {source.file.name}"), "the config")

    folder = source.file.parent
    files = [folder / CONFIG_FILE] if (folder / CONFIG_FILE).is_file() else list(folder.glob("*.py"))
    if len(files) != 1:
        raise ConversionError(
            f"{source.file} holds no text of its config. Put the config that training wrote into its work_dir beside "
            f"it, as {CONFIG_FILE}."
        )
    with refuse_os_errors(f"{files[0]} cannot be read"):
        text = read_bytes(files[0], MAX_CONFIG_LENGTH).decode()
    return Settings(parse_python_config(text, str(files[0])), files[0].name)


def without_scope(name: Any) -> Any:
    """The name of a class without what may precede it: its registry's scope, or its module (`mmseg.FCNHead`)."""
    return name.rpartition(".")[2] if isinstance(name, str) else name


def get_type(settings: Settings, field: str) -> str | None:
    """The class that a part of the config names."""
    return without_scope(settings.get_text(f"{field}.type"))


def get_dataset(settings: Settings) -> tuple[str, bool] | tuple[None, bool]:
    """Label set of the data set that the config names, and whether its label maps store 0 for what is ignored."""
    fields = ("dataset_type", "test_dataloader.dataset.type", "data.test.type")
    name = next((name for field in fields if isinstance(name := settings.get(field), str)), None)
    return DATASET_LABELS.get(without_scope(name), (None, False))


def check_model(settings: Settings):
    """Refuses configs of models that compute something else than Segmenter does."""
    for field, types in (
        ("model", ["EncoderDecoder"]),
        ("model.backbone", ["VisionTransformer"]),
        ("model.decode_head", list(DECODER_TYPES)),
    ):
        name = get_type(settings, field)
        if name not in types:
            raise ConversionError(
                f"{settings.name} is no Segmenter's: `{field}.type` must be {' or '.join(types)}, got "
                f"{describe(name)}."
            )
    is_mask_transformer = get_type(settings, "model.decode_head") == "SegmenterMaskTransformerHead"
    for field, expected in [*REQUIRED_VALUES, *(REQUIRED_OF_MASK_TRANSFORMER if is_mask_transformer else [])]:
        value = settings.get(field)
        if value is not None and value != expected:
            raise settings.refuse(field, repr(expected), value)


def check_agreement(settings: Settings, architecture: dict[str, Any], state_dict: Mapping[str, Any]):
    """
    Compares what the config states with what the weights are.

    Args:
        settings ([`~segmenter_hf.conversion.settings.Settings`]): The config.
        architecture (`dict[str, Any]`): What [`~segmenter_hf.conversion.state_dict.architecture_of`] returns.
        state_dict (`Mapping[str, Any]`): The source's weights.
    """
    if architecture["num_labels"] < 2:
        raise ConversionError(
            "The checkpoint has one output channel (`out_channels=1` of MMSegmentation, with a threshold of its own). "
            "Only heads with a channel for each of two or more classes are converted."
        )
    counts = {
        "model.backbone.embed_dims": "hidden_size",
        "model.backbone.num_layers": "num_hidden_layers",
        "model.backbone.patch_size": "patch_size",
        "model.decode_head.in_channels": "hidden_size",
        "model.decode_head.num_classes": "num_labels",
    }
    defaults = {f"model.backbone.{name}": size for name, size in BACKBONE_SIZES.items()}
    flags = {"model.backbone.qkv_bias": "backbone.layers.0.attn.attn.in_proj_bias" in state_dict}
    if architecture["decoder_type"] == "mask_transformer":
        counts["model.decode_head.embed_dims"] = "decoder_hidden_size"
        counts["model.decode_head.num_layers"] = "decoder_num_hidden_layers"
        settings.require_count("model.decode_head.num_layers")
        flags["model.decode_head.qkv_bias"] = "decode_head.layers.0.attn.attn.in_proj_bias" in state_dict
    differences = describe_differences(
        # `check_model` refuses any other number in the config.
        {"model.backbone.in_channels": (3, architecture["num_channels"])}
        | {
            field: (settings.get_count(field) or defaults.get(field), architecture[name])
            for field, name in counts.items()
        }
        # The default of these flags is `True`.
        | {field: (settings.get_flag(field) is not False, actual) for field, actual in flags.items()}
    )
    if settings.get_flag("model.backbone.patch_bias") and "backbone.patch_embed.projection.bias" not in state_dict:
        differences.append("`model.backbone.patch_bias` is True, but the weights lack that bias")
    decoder_type = DECODER_TYPES[get_type(settings, "model.decode_head")]
    if decoder_type != architecture["decoder_type"]:
        differences.append(
            f"`model.decode_head.type` is {get_type(settings, 'model.decode_head')!r}, but the weights are those of "
            f"the decoder {architecture['decoder_type']!r}"
        )
    if differences:
        raise ConversionError(f"{settings.name} does not fit the weights: {'; '.join(differences)}.")
    check_decoder_input(settings, architecture["num_hidden_layers"])


def check_decoder_input(settings: Settings, num_layers: int):
    """Refuses decoders that take another of the backbone's outputs than that of the last layer."""
    last = num_layers - 1
    indices = settings.get("model.backbone.out_indices")
    if not isinstance(indices, (list, tuple)):
        indices = [last if indices in (None, -1) else indices]
    # Outputs are in the order of the layers, whatever that of the indices. The embeddings come before, if asked for.
    outputs = [index for index in range(num_layers) if index in indices]
    if settings.get_flag("model.backbone.out_origin"):
        outputs.insert(0, -1)
    index = settings.get("model.decode_head.in_index")
    if last not in outputs or index not in (None, -1, outputs.index(last)):
        raise ConversionError(
            f"{settings.name} is no Segmenter's: of the backbone's outputs (`model.backbone.out_indices` "
            f"{describe(indices)}) the decoder must take that of the last layer, {last}, and "
            f"`model.decode_head.in_index` is {describe(index)}."
        )


def read_image_size(settings: Settings, architecture: dict[str, Any]) -> tuple[int, int]:
    """`(height, width)` in pixels that the position embeddings were trained for."""
    field = "model.backbone.img_size"
    stated = settings.get(field)
    if isinstance(stated, (list, tuple)) and len(stated) == 1:
        settings = Settings({"model": {"backbone": {"img_size": stated[0]}}}, settings.name)
    image_size = settings.get_size(field) or BACKBONE_IMAGE_SIZE
    check_num_patches(settings.name, field, image_size, architecture)
    return image_size


def is_colour(value: Any) -> bool:
    return is_list_of(lambda channel: type(channel) is int and 0 <= channel < 256, value, 3)


def get_meta(source: Source) -> Settings:
    """What the checkpoint says beside its weights and config."""
    return Settings(source.contents if isinstance(source.contents, dict) else {}, source.file.name)


def read_labels(source: Source, settings: Settings, num_labels: int) -> tuple[dict[int, str] | None, list | None]:
    """
    Names and colours of the labels: those that the checkpoint or the config states, or else of the data set that the
    config names. `None` for what is not known, or is not that of `num_labels` labels.
    """
    meta = get_meta(source)

    def find(name: str) -> Any:
        # 0.x and 1.x store them in the checkpoint, and users state those of their own data in the config.
        for place, field in (
            (meta, f"meta.{name.upper()}"),
            (meta, f"meta.dataset_meta.{name}"),
            (meta, f"meta.dataset_meta.{name.upper()}"),
            (settings, f"data.test.{name}"),
            (settings, f"test_dataloader.dataset.metainfo.{name}"),
            (settings, f"metainfo.{name}"),
        ):
            values = place.get(field)
            if isinstance(values, (list, tuple)) and len(values) == num_labels:
                return values
        return None

    classes, palette = find("classes"), find("palette")
    label_set, _ = get_dataset(settings)
    if classes is None and label_set is not None and len(label_set := load_label_set(label_set)) == num_labels:
        classes, palette = label_set.names, palette or label_set.palette
    if classes is not None and not all(isinstance(name, str) for name in classes):
        classes = None
    # A palette of NumPy's, which is not read, is one that 0.x drew at random for data without.
    if palette is not None and not all(map(is_colour, palette)):
        palette = None
    return (
        None if classes is None else dict(enumerate(classes)),
        None if palette is None else [list(colour) for colour in palette],
    )


def read_config(source: Source, settings: Settings, architecture: dict[str, Any]) -> SegmenterConfig:
    """
    The config of a checkpoint: shapes as the weights tell them, the rest from MMSegmentation's config and defaults.
    """
    interpolation = settings.get_text("model.backbone.interpolate_mode") or INTERPOLATION
    if interpolation not in POSITION_EMBEDDING_INTERPOLATIONS:
        raise settings.refuse(
            "model.backbone.interpolate_mode", " or ".join(POSITION_EMBEDDING_INTERPOLATIONS), interpolation
        )

    backbone, head = "model.backbone", "model.decode_head"
    decoder = {}
    if architecture["decoder_type"] == "mask_transformer":
        decoder = {
            "decoder_num_attention_heads": settings.require_count(f"{head}.num_heads"),
            "decoder_dropout_prob": settings.get_number(f"{head}.drop_rate", 0.0),
            "decoder_drop_path_rate": settings.get_number(f"{head}.drop_path_rate", DECODER_DROP_PATH_RATE),
            "decoder_layer_norm_eps": settings.get_eps(f"{head}.norm_cfg.eps", LAYER_NORM_EPS),
        }
    id2label, palette = read_labels(source, settings, architecture["num_labels"])
    return make_config(
        f"{settings.name} and the weights do not make a model",
        architecture,
        read_image_size(settings, architecture),
        id2label,
        **decoder,
        palette=palette,
        num_attention_heads=settings.get_count(f"{backbone}.num_heads") or BACKBONE_NUM_HEADS,
        hidden_dropout_prob=settings.get_number(f"{backbone}.drop_rate", 0.0),
        attention_probs_dropout_prob=settings.get_number(f"{backbone}.attn_drop_rate", 0.0),
        drop_path_rate=settings.get_number(f"{backbone}.drop_path_rate", 0.0),
        layer_norm_eps=settings.get_eps(f"{backbone}.norm_cfg.eps", LAYER_NORM_EPS),
        position_embedding_interpolation=interpolation,
    )


def list_transforms(settings: Settings, pipelines: tuple[str, ...] = TEST_PIPELINES) -> dict[str, dict[str, Any]]:
    """
    The settings of the transforms in the first pipeline that is there, by class, those that `MultiScaleFlipAug`
    contains among them. Of several of a class, the first.
    """
    pipeline = next((value for field in pipelines if (value := settings.get(field)) is not None), None)
    transforms: dict[str, dict[str, Any]] = {}

    def add(steps: Any):
        for step in steps if isinstance(steps, (list, tuple)) else []:
            if isinstance(step, dict) and isinstance(step.get("type"), str):
                transforms.setdefault(without_scope(step["type"]), step)

    add(pipeline)
    add(transforms.get("MultiScaleFlipAug", {}).get("transforms"))
    return transforms


def read_size(settings: Settings) -> dict[str, int] | None:
    """What the test pipeline resizes images to, as our image processor takes it, or `None` if it does not resize."""
    transforms = list_transforms(settings)
    augmentation, resize = (transforms.get(name, {}) for name in ("MultiScaleFlipAug", "Resize"))
    if "ResizeShortestEdge" in transforms:
        edges = Settings(transforms["ResizeShortestEdge"], f"ResizeShortestEdge in {settings.name}")
        return {"shortest_edge": edges.require_count("scale"), "longest_edge": edges.require_count("max_size")}
    if not resize:
        return None
    if resize.get("interpolation", "bilinear") != "bilinear":
        raise settings.refuse("interpolation` of the test pipeline's `Resize", "'bilinear'", resize["interpolation"])
    # 0.x keeps the aspect ratio by default, 1.x does not. Both give the width before the height.
    is_release_0 = bool(augmentation) or "img_scale" in resize
    places = ((augmentation, "img_scale"), (resize, "img_scale"), (resize, "scale"))
    field, scale = next(((name, step[name]) for step, name in places if step.get(name) is not None), ("scale", None))
    if isinstance(scale, (list, tuple)) and len(scale) == 1:
        scale = scale[0]
    elif field == "scale" and isinstance(scale, int):
        scale = scale, scale
    if not is_list_of(is_count, scale, 2):
        raise settings.refuse(f"{field}` of the test pipeline's `Resize", "one width and height in pixels", scale)
    if resize.get("keep_ratio", is_release_0):
        return {"shortest_edge": min(scale), "longest_edge": max(scale)}
    return {"height": scale[1], "width": scale[0]}


def list_unrepeated(settings: Settings) -> list[str]:
    """What MMSegmentation does to images in its tests and our image processor does not, by name."""
    names = [
        name for name in list_transforms(settings) if name not in REPEATED_TRANSFORMS and not name.startswith("Load")
    ]
    pads = settings.get("model.data_preprocessor.test_cfg") is not None
    return names + ["padding by `data_preprocessor.test_cfg`"] * pads


def read_normalization(settings: Settings) -> tuple[list[float], list[float], bool]:
    """
    Mean and standard deviation per channel, as the model sees the channels, of images scaled to 0..1; and whether it
    sees red first.
    """
    for values, order in (
        (settings.get("model.data_preprocessor"), "bgr_to_rgb"),
        (settings.get("data_preprocessor"), "bgr_to_rgb"),
        (list_transforms(settings).get("Normalize"), "to_rgb"),
        (settings.get("img_norm_cfg"), "to_rgb"),
    ):
        if isinstance(values, dict) and values.get("mean") is not None and values.get("std") is not None:
            mean, std = values["mean"], values["std"]
            for name, channels in (("mean", mean), ("std", std)):
                if not is_list_of(is_number, channels, 3):
                    raise settings.refuse(name, "a number for each of three channels", channels)
            if min(std) <= 0:
                raise settings.refuse("std", "greater than 0", std)
            # `Normalize` of 0.x swaps by default, the preprocessor of 1.x does not. It swaps by either of its flags.
            is_rgb = bool(values.get(order, order == "to_rgb") or values.get("rgb_to_bgr"))
            return [value / 255 for value in mean], [value / 255 for value in std], is_rgb
    raise ConversionError(f"{settings.name} does not say how images are normalised (`mean` and `std`).")


def read_reduces_labels(source: Source, settings: Settings) -> bool:
    """Whether label maps store 0 for what is ignored, as the config says, or as its data set's class does."""
    pipelines = (list_transforms(settings, fields) for fields in (TEST_PIPELINES, TRAIN_PIPELINES))
    stated = [
        # Checkpoints of 1.x have that of the data set's class.
        get_meta(source).get("meta.dataset_meta.reduce_zero_label"),
        settings.get("test_dataloader.dataset.reduce_zero_label"),
        settings.get("data.test.reduce_zero_label"),
        *(transforms.get("LoadAnnotations", {}).get("reduce_zero_label") for transforms in pipelines),
    ]
    return next((value for value in stated if type(value) is bool), get_dataset(settings)[1])


def read_image_processor(
    source: Source, settings: Settings, config: SegmenterConfig, image_mean: list[float], image_std: list[float]
) -> SegmenterImageProcessorPil:
    """The image processor that repeats MMSegmentation's test: its resize, windows and normalisation."""
    size = read_size(settings)
    values = {"do_resize": False} if size is None else {"size": size}
    mode = settings.get_text("model.test_cfg.mode")
    if mode == "slide":
        window = settings.require_size("model.test_cfg.crop_size")
        stride = settings.require_size("model.test_cfg.stride")
        if any(step > side for step, side in zip(stride, window, strict=True)):
            description = f"at most `crop_size` {window}, or pixels between windows have no label"
            raise settings.refuse("model.test_cfg.stride", description, stride)
        values |= {
            "do_split_image": True,
            "crop_size": {"height": window[0], "width": window[1]},
            "window_stride": stride[0] if stride[0] == stride[1] else {"height": stride[0], "width": stride[1]},
        }
    elif mode != "whole":
        raise settings.refuse("model.test_cfg.mode", "'slide' or 'whole'", mode)
    do_reduce_labels = read_reduces_labels(source, settings)
    return image_processor_of(
        config, image_mean, image_std, **values, crop_logits=False, do_reduce_labels=do_reduce_labels
    )


__all__ = [
    "check_agreement",
    "check_model",
    "list_unrepeated",
    "read_config",
    "read_config_text",
    "read_image_processor",
    "read_labels",
    "read_normalization",
]
