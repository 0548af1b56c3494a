"""
The released checkpoints: where they are, what they are, how they were evaluated, and what was published of them.

Sources: the table of the original implementation's README (https://github.com/rstrudel/segmenter), its
segm/config.yml and segm/eval/miou.py; MMSegmentation's configs/segmenter/README.md and the configs beside it; the file
names of AugReg (https://github.com/google-research/vision_transformer).
"""

import difflib
from dataclasses import asdict, dataclass
from pathlib import Path

import huggingface_hub.constants

from ..configuration_segmenter import SegmenterConfig
from ..data.labels import load_label_set
from ..evaluation.record import EvaluationProtocol
from ..image_processing_pil_segmenter import SegmenterImageProcessorPil
from ..modeling_segmenter import SegmenterForSemanticSegmentation, SegmenterModel, SegmenterPreTrainedModel
from . import encoders, original
from .download import download_file
from .errors import ConversionError


ORIGINAL_URL = "https://www.rocq.inria.fr/cluster-willow/rstrudel/segmenter/checkpoints"
MMSEGMENTATION_URL = "https://download.openmmlab.com/mmsegmentation/v0.5"
AUGREG_URL = "https://storage.googleapis.com/vit_models/augreg"

# By how many pixels neighbouring windows overlap in both evaluations (segm/eval/miou.py; `test_cfg` of the configs).
WINDOW_OVERLAP = 32
# Short side in pixels to which evaluation resizes the images of a data set (`im_size` in segm/config.yml).
EVALUATION_IM_SIZES = {"ade20k": 512, "pascal_context": 520, "cityscapes": 1024}
# Distance in pixels of the windows of the evaluation within training, which variant.yml states (segm/config.yml).
TRAINING_WINDOW_STRIDES = {"ade20k": 512, "pascal_context": 320, "cityscapes": 512}
# The encoders of both implementations were trained to classify these.
IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class Architecture:
    """
    An encoder (`model` in segm/config.yml). The fields are those of [`SegmenterConfig`].
    """

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    patch_size: int
    use_distillation_token: bool = False


ARCHITECTURES = {
    "vit_tiny_patch16_384": Architecture(192, 12, 3, 16),
    "vit_small_patch16_384": Architecture(384, 12, 6, 16),
    "vit_small_patch32_384": Architecture(384, 12, 6, 32),
    "vit_base_patch8_384": Architecture(768, 12, 12, 8),
    "vit_base_patch16_384": Architecture(768, 12, 12, 16),
    "vit_base_patch32_384": Architecture(768, 12, 12, 32),
    "vit_large_patch16_384": Architecture(1024, 24, 16, 16),
    "vit_large_patch32_384": Architecture(1024, 24, 16, 32),
    "deit_tiny_distilled_patch16_224": Architecture(192, 12, 3, 16, use_distillation_token=True),
    "deit_small_distilled_patch16_224": Architecture(384, 12, 6, 16, use_distillation_token=True),
    "deit_base_distilled_patch16_224": Architecture(768, 12, 12, 16, use_distillation_token=True),
    "deit_base_distilled_patch16_384": Architecture(768, 12, 12, 16, use_distillation_token=True),
}

# What the sources do differently: the fields of SegmenterConfig that follow from where a checkpoint comes from.
SOURCE_SETTINGS = {
    "original": {
        "layer_norm_eps": original.LAYER_NORM_EPS,
        "position_embedding_interpolation": "bilinear",
        "decoder_dropout_prob": 0.1,
        "decoder_drop_path_rate": 0.0,
    },
    "mmsegmentation": {
        "layer_norm_eps": encoders.LAYER_NORM_EPS,
        "position_embedding_interpolation": "bicubic",
        "decoder_dropout_prob": 0.0,
        "decoder_drop_path_rate": 0.1,
    },
    "augreg": {
        "layer_norm_eps": encoders.LAYER_NORM_EPS,
        "position_embedding_interpolation": "bilinear",
    },
    "mmsegmentation-encoder": {
        "layer_norm_eps": encoders.LAYER_NORM_EPS,
        "position_embedding_interpolation": "bicubic",
    },
}


@dataclass(frozen=True)
class ReleasedFile:
    """
    A file of a released checkpoint.

    Args:
        url (`str`): Where it is.
        name (`str`): What it is called where it is kept.
        sha256_prefix (`str`, *optional*): The first hexadecimal digits of its SHA-256, where they are known.
            MMSegmentation names its files after the first eight.
        size (`int`, *optional*): Its size in bytes, where it is known.
    """

    url: str
    name: str
    sha256_prefix: str | None = None
    size: int | None = None


@dataclass(frozen=True)
class ReleasedCheckpoint:
    """
    A row of the table.

    Args:
        name (`str`): What its source calls it.
        source (`str`): The format that it is converted from, one of
            [`~segmenter_hf.conversion.formats.FORMATS`].
        backbone (`str`): The encoder, one of `ARCHITECTURES`.
        files (`tuple[ReleasedFile, ...]`): The files, all of which are needed.
        licence (`str`): Identifier of the licence, as the Hub spells it.
        dataset (`str`): What it was trained on: `"ade20k"`, `"pascal_context"` or `"cityscapes"`; for encoders
            `"imagenet21k"` (and then fine-tuned on ImageNet-1k).
        crop_size (`int`): Side in pixels of the square images that it was trained on.
        num_parameters (`int`): Number of parameters of the converted model, exactly.
        num_dropped_parameters (`int`): Number of parameters of the ImageNet classifiers that the files hold besides,
            which nothing uses and conversion drops.
        decoder_type (`str`, *optional*): `"mask_transformer"` or `"linear"`; `None` for encoders.
        training_window_stride (`int`, *optional*): Distance in pixels of the windows in the evaluation that was part
            of training, which the checkpoint itself states; `None` for encoders.
        protocol (`EvaluationProtocol`, *optional*): That of the published figures; `None` for encoders.
        published_miou_percent_ss (`float`, *optional*): Published mean IoU in percent, single scale.
        published_miou_percent_ms (`float`, *optional*): The same at multiple scales, with flipping.
        published_num_parameters_millions (`float`, *optional*): Published number of parameters.
        published_training_memory_gb (`float`, *optional*): Published memory in GB that training took.
        published_fps (`float`, *optional*): Published number of images per second on a V100.
        notes (`str`): What else a reader should know.
        repo_suffix (`str`): What the name of the repository ends with, where the source published the model twice.
    """

    name: str
    source: str
    backbone: str
    files: tuple[ReleasedFile, ...]
    licence: str
    dataset: str
    crop_size: int
    num_parameters: int
    num_dropped_parameters: int = 0
    decoder_type: str | None = None
    training_window_stride: int | None = None
    protocol: EvaluationProtocol | None = None
    published_miou_percent_ss: float | None = None
    published_miou_percent_ms: float | None = None
    published_num_parameters_millions: float | None = None
    published_training_memory_gb: float | None = None
    published_fps: float | None = None
    notes: str = ""
    repo_suffix: str = ""

    @property
    def is_encoder(self) -> bool:
        return self.decoder_type is None

    @property
    def repo_name(self) -> str:
        """Name of the repository for the converted model, without the organisation."""
        encoder = self.backbone.rpartition("_")[0].replace("_", "-")  # without the size that it was pretrained at
        if self.is_encoder:
            name = f"segmenter-encoder-{encoder}-{self.crop_size}"
        else:
            decoder, dataset = self.decoder_type.partition("_")[0], self.dataset.replace("_", "-")
            name = f"segmenter-{encoder}-{decoder}-{dataset}-{self.crop_size}"
        return f"{name}{'-mmseg' if self.source.startswith('mmsegmentation') else ''}{self.repo_suffix}"

    @property
    def model_class(self) -> type[SegmenterPreTrainedModel]:
        """The class of the converted model."""
        return SegmenterModel if self.is_encoder else SegmenterForSemanticSegmentation

    @property
    def config(self) -> SegmenterConfig:
        """A new config like that of the converted model, as far as the table and its source tell it."""
        architecture = ARCHITECTURES[self.backbone]
        values = {"intermediate_size": 4 * architecture.hidden_size, **SOURCE_SETTINGS[self.source]}
        if not self.is_encoder:
            values["decoder_type"] = self.decoder_type
            values["id2label"] = load_label_set(original.DATASET_CONFIGS[self.dataset].label_set).id2label
        return SegmenterConfig(**asdict(architecture), **values, image_size=self.crop_size)

    @property
    def is_published_count_explained(self) -> bool:
        """Whether the published number of parameters is the exact one, rounded: of the model, or of the files."""
        counts = (self.num_parameters, self.num_parameters + self.num_dropped_parameters)
        return self.published_num_parameters_millions in {round(count / 1e6) for count in counts}

    def describe_parameters(self) -> str:
        """The number of parameters beside the published one, and what explains the difference, in one sentence."""
        text = f"{self.num_parameters:,} parameters"
        if self.num_dropped_parameters:
            with_dropped = self.num_parameters + self.num_dropped_parameters
            text += f" ({with_dropped:,} with the ImageNet classifiers that the files hold and conversion drops)"
        if self.published_num_parameters_millions is None:
            return f"{text}; no number was published."
        text += f"; published: {self.published_num_parameters_millions:g}M"
        if self.is_published_count_explained:
            return f"{text}, as it rounds to."
        return f"{text}, which the known contents of the files do not explain."


def _original(
    name: str,
    backbone: str,
    decoder_type: str,
    crop_size: int,
    num_parameters: int,
    training_window_stride: int | None = None,
    **published,
) -> ReleasedCheckpoint:
    dataset = name.partition("/")[0]
    im_size = EVALUATION_IM_SIZES[dataset]
    architecture = ARCHITECTURES[backbone]
    # segm/model/factory.py makes every encoder with these classifiers, and loads its files strictly.
    num_classifiers = 2 if architecture.use_distillation_token else 1
    return ReleasedCheckpoint(
        name=name,
        source="original",
        backbone=backbone,
        files=tuple(
            ReleasedFile(f"{ORIGINAL_URL}/{name}/{file}", file)
            # The small one first, so that an address that is wrong costs no time.
            for file in (original.VARIANT_FILE, "checkpoint.pth")
        ),
        licence="mit",
        dataset=dataset,
        crop_size=crop_size,
        num_parameters=num_parameters,
        num_dropped_parameters=num_classifiers * IMAGENET_CLASSES * (architecture.hidden_size + 1),
        decoder_type=decoder_type,
        training_window_stride=training_window_stride or TRAINING_WINDOW_STRIDES[dataset],
        protocol=EvaluationProtocol(
            window_size=crop_size,
            window_stride=crop_size - WINDOW_OVERLAP,
            shortest_edge=im_size,
            longest_edge=original.DATASET_CONFIGS[dataset].max_ratio * im_size,
        ),
        **published,
    )


def _mmsegmentation(
    name: str,
    file_suffix: str,
    backbone: str,
    decoder_type: str,
    crop_size: int,
    num_parameters: int,
    longest_edge: int = 2048,
    **published,
) -> ReleasedCheckpoint:
    file = f"{name}_{file_suffix}.pth"
    stride = crop_size - WINDOW_OVERLAP
    return ReleasedCheckpoint(
        name=name,
        source="mmsegmentation",
        backbone=backbone,
        files=(
            ReleasedFile(
                f"{MMSEGMENTATION_URL}/segmenter/{name}/{file}", file, sha256_prefix=file_suffix.rpartition("-")[2]
            ),
        ),
        licence="apache-2.0",
        dataset="ade20k",
        crop_size=crop_size,
        num_parameters=num_parameters,
        decoder_type=decoder_type,
        # `test_cfg` is one, for the evaluations within and after training.
        training_window_stride=stride,
        # `img_scale` of the test pipeline.
        protocol=EvaluationProtocol(crop_size, stride, shortest_edge=crop_size, longest_edge=longest_edge),
        **published,
    )


def _augreg(backbone: str, file: str, num_parameters: int) -> ReleasedCheckpoint:
    file = f"{file}-res_384.npz"
    return ReleasedCheckpoint(
        name=backbone,
        source="augreg",
        backbone=backbone,
        files=(ReleasedFile(f"{AUGREG_URL}/{file}", file),),
        licence="apache-2.0",
        dataset="imagenet21k",
        crop_size=384,
        num_parameters=num_parameters,
        num_dropped_parameters=IMAGENET_CLASSES * (ARCHITECTURES[backbone].hidden_size + 1),
        notes="timm calls it augreg_in21k_ft_in1k. The encoder that training in both implementations starts from.",
    )


def _mmsegmentation_encoder(name: str, file_suffix: str, backbone: str, num_parameters: int) -> ReleasedCheckpoint:
    file = f"{name}_{file_suffix}.pth"
    return ReleasedCheckpoint(
        name=name,
        source="mmsegmentation-encoder",
        backbone=backbone,
        files=(
            ReleasedFile(
                f"{MMSEGMENTATION_URL}/pretrain/segmenter/{file}", file, sha256_prefix=file_suffix.rpartition("-")[2]
            ),
        ),
        licence="apache-2.0",
        dataset="imagenet21k",
        crop_size=384,
        num_parameters=num_parameters,
        notes=f"The weights of {backbone} in MMSegmentation's names, without the classifier.",
    )


_ROWS = (
    _original(
        "ade20k/seg_tiny_mask",
        "vit_tiny_patch16_384",
        "mask_transformer",
        crop_size=512,
        num_parameters=6_713_388,
        published_miou_percent_ss=38.1,
        published_miou_percent_ms=38.8,
        published_num_parameters_millions=7,
        published_fps=52.4,
    ),
    _original(
        "ade20k/seg_small_mask",
        "vit_small_patch16_384",
        "mask_transformer",
        crop_size=512,
        num_parameters=26_033_964,
        published_miou_percent_ss=45.3,
        published_miou_percent_ms=46.9,
        published_num_parameters_millions=27,
        published_fps=34.8,
    ),
    _original(
        "ade20k/seg_base_mask",
        "vit_base_patch16_384",
        "mask_transformer",
        crop_size=512,
        num_parameters=102_497_580,
        published_miou_percent_ss=48.5,
        published_miou_percent_ms=50.0,
        published_num_parameters_millions=106,
        published_fps=24.1,
    ),
    _original(
        "ade20k/seg_base_patch8",
        "vit_base_patch8_384",
        "linear",
        crop_size=512,
        num_parameters=88_466_838,
        published_miou_percent_ss=49.5,
        published_miou_percent_ms=50.5,
        published_num_parameters_millions=89,
        published_fps=4.2,
    ),
    _original(
        "ade20k/seg_large_mask_640",
        "vit_large_patch16_384",
        "mask_transformer",
        crop_size=640,
        num_parameters=333_234_476,
        training_window_stride=640,
        published_miou_percent_ss=51.8,
        published_miou_percent_ms=53.6,
        published_num_parameters_millions=334,
        notes="To which size images were resized for the published figures is not known. The protocol has the 512 "
        "pixels that the evaluation script takes for ADE20K by default; training evaluated with 640.",
    ),
    _original(
        "ade20k/seg_base_deit_linear",
        "deit_base_distilled_patch16_384",
        "linear",
        crop_size=512,
        num_parameters=86_551_446,
        published_miou_percent_ss=47.1,
        published_miou_percent_ms=48.1,
        published_num_parameters_millions=87,
        published_fps=27.3,
    ),
    _original(
        "ade20k/seg_base_deit_mask",
        "deit_base_distilled_patch16_384",
        "mask_transformer",
        crop_size=512,
        num_parameters=102_499_116,
        published_miou_percent_ss=48.7,
        published_miou_percent_ms=50.1,
        published_num_parameters_millions=106,
        published_fps=24.1,
    ),
    _original(
        "pascal_context/seg_large_mask",
        "vit_large_patch16_384",
        "mask_transformer",
        crop_size=480,
        num_parameters=332_425_336,
        published_miou_percent_ss=58.1,
        published_miou_percent_ms=59.0,
        published_num_parameters_millions=334,
        notes="The same number of parameters was published for ADE20K's model, which has more position embeddings and "
        "classes, and rounds to it.",
    ),
    _original(
        "cityscapes/seg_large_mask",
        "vit_large_patch16_384",
        "mask_transformer",
        crop_size=768,
        num_parameters=333_820_966,
        published_miou_percent_ss=79.1,
        published_miou_percent_ms=81.3,
        published_num_parameters_millions=322,
        notes="The number of parameters given here is that of the two decoder layers of the paper. The published one "
        "is what a single layer gives: 321,224,742, or 322,249,742 with the classifier. Which of them the file has is "
        "not known here. Conversion reads the number of layers from it, and the card of a pushed model says it.",
    ),
    _original(
        "cityscapes/seg_large_linear",
        "vit_large_patch16_384",
        "linear",
        crop_size=768,
        num_parameters=305_479_699,
        notes="No figures were published with this file.",
    ),
    _mmsegmentation(
        "segmenter_vit-t_mask_8x1_512x512_160k_ade20k",
        "20220105_151706-ffcf7509",
        "vit_tiny_patch16_384",
        "mask_transformer",
        crop_size=512,
        num_parameters=6_713_388,
        published_miou_percent_ss=39.99,
        published_miou_percent_ms=40.83,
        published_training_memory_gb=1.21,
        published_fps=27.98,
    ),
    _mmsegmentation(
        "segmenter_vit-s_linear_8x1_512x512_160k_ade20k",
        "20220105_151713-39658c46",
        "vit_small_patch16_384",
        "linear",
        crop_size=512,
        num_parameters=22_041_366,
        published_miou_percent_ss=45.75,
        published_miou_percent_ms=46.82,
        published_training_memory_gb=1.78,
        published_fps=28.07,
    ),
    _mmsegmentation(
        "segmenter_vit-s_mask_8x1_512x512_160k_ade20k",
        "20220105_151706-511bb103",
        "vit_small_patch16_384",
        "mask_transformer",
        crop_size=512,
        num_parameters=26_033_964,
        published_miou_percent_ss=46.19,
        published_miou_percent_ms=47.85,
        published_training_memory_gb=2.03,
        published_fps=24.80,
    ),
    _mmsegmentation(
        "segmenter_vit-b_mask_8x1_512x512_160k_ade20k",
        "20220105_151706-bc533b08",
        "vit_base_patch16_384",
        "mask_transformer",
        crop_size=512,
        num_parameters=102_497_580,
        published_miou_percent_ss=49.60,
        published_miou_percent_ms=51.07,
        published_training_memory_gb=4.20,
        published_fps=13.20,
    ),
    _mmsegmentation(
        "segmenter_vit-l_mask_8x1_640x640_160k_ade20k",
        "20220614_024513-4783a347",
        "vit_large_patch16_384",
        "mask_transformer",
        crop_size=640,
        num_parameters=333_234_476,
        longest_edge=2560,
        published_miou_percent_ss=51.65,
        published_miou_percent_ms=53.58,
        published_training_memory_gb=16.99,
        published_fps=3.03,
        notes="MMSegmentation published two trainings of this model. This is the later one, of June 2022, which the "
        "tables of its later releases 0.x have. The earlier one is "
        "segmenter-vit-large-patch16-mask-ade20k-640-mmseg-20220105 here.",
    ),
    _mmsegmentation(
        "segmenter_vit-l_mask_8x1_512x512_160k_ade20k",
        "20220105_162750-7ef345be",
        "vit_large_patch16_384",
        "mask_transformer",
        crop_size=640,
        num_parameters=333_234_476,
        published_miou_percent_ss=52.16,
        published_miou_percent_ms=53.65,
        published_training_memory_gb=16.56,
        published_fps=2.62,
        notes="MMSegmentation published two trainings of this model. This is the earlier one, of January 2022, which "
        "the index of models of its earlier releases 0.x and of 1.x has; the name of its config says 512, the config "
        "itself 640. The later one is segmenter-vit-large-patch16-mask-ade20k-640-mmseg here.",
        repo_suffix="-20220105",
    ),
    _augreg(
        "vit_tiny_patch16_384",
        "Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0--imagenet2012-steps_20k-lr_0.03",
        num_parameters=5_597_376,
    ),
    _augreg(
        "vit_small_patch16_384",
        "S_16-i21k-300ep-lr_0.001-aug_light1-wd_0.03-do_0.0-sd_0.0--imagenet2012-steps_20k-lr_0.03",
        num_parameters=21_811_584,
    ),
    _augreg(
        "vit_base_patch16_384",
        "B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0--imagenet2012-steps_20k-lr_0.01",
        num_parameters=86_090_496,
    ),
    _augreg(
        "vit_large_patch16_384",
        "L_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.1-sd_0.1--imagenet2012-steps_20k-lr_0.01",
        num_parameters=303_690_752,
    ),
    _mmsegmentation_encoder("vit_tiny_p16_384", "20220308-cce8c795", "vit_tiny_patch16_384", 5_597_376),
    _mmsegmentation_encoder("vit_small_p16_384", "20220308-410f6037", "vit_small_patch16_384", 21_811_584),
    _mmsegmentation_encoder("vit_base_p16_384", "20220308-96dfe169", "vit_base_patch16_384", 86_090_496),
    _mmsegmentation_encoder("vit_large_p16_384", "20220308-d4efb41d", "vit_large_patch16_384", 303_690_752),
)

RELEASED = {row.name: row for row in _ROWS}


def _rows_by_name() -> dict[str, ReleasedCheckpoint]:
    return RELEASED | {row.repo_name: row for row in RELEASED.values()}


def is_released(source: str | Path) -> bool:
    """Whether what a user names is a released checkpoint, by a name that [`find_released`] knows, and no path here."""
    return str(source) in _rows_by_name() and not Path(source).exists()


def find_released(name: str) -> ReleasedCheckpoint:
    """
    The released checkpoint of that name.

    Args:
        name (`str`): What its source calls it, or the name of the repository for the converted model.

    Raises:
        ConversionError: for an unknown name; the message lists those that are close to it.

    Example:

    ```python
    >>> from segmenter_hf.conversion.released import find_released

    >>> released = find_released("ade20k/seg_tiny_mask")
    >>> released.repo_name, released.protocol.window_stride, released.published_miou_percent_ss
    ('segmenter-vit-tiny-patch16-mask-ade20k-512', 480, 38.1)

    ```"""
    rows = _rows_by_name()
    if name in rows:
        return rows[name]
    matches = difflib.get_close_matches(name.lower(), rows, n=3)
    hint = f" Did you mean {' or '.join(matches)}?" if matches else ""
    raise ConversionError(f"There is no released checkpoint {name!r}.{hint} --list_released lists them all.")


def released_folder(released: ReleasedCheckpoint, cache_dir: str | Path | None = None) -> Path:
    """The folder that the files of a released checkpoint are kept in. See [`fetch_released`]."""
    if cache_dir is None:
        cache_dir = Path(huggingface_hub.constants.HF_HOME) / "segmenter_hf"
    return Path(cache_dir) / released.repo_name


def fetch_released(released: ReleasedCheckpoint, cache_dir: str | Path | None = None, progress: bool = True) -> Path:
    """
    Downloads the files of a released checkpoint that are not there yet. See
    [`~segmenter_hf.conversion.download.download_file`] for what happens to interrupted ones.

    Args:
        released (`ReleasedCheckpoint`): A row of the table.
        cache_dir (`str` or `Path`, *optional*): They are kept in a folder of `repo_name` in this one. Defaults to
            `segmenter_hf` in Hugging Face's cache (`HF_HOME`).
        progress (`bool`, *optional*, defaults to `True`): Whether to show a progress bar.

    Returns:
        `Path`: what [`~segmenter_hf.conversion.sources.read_source`] reads: the file, or the folder of several.

    Raises:
        ConversionError: if a file cannot be downloaded, or is not the expected one.
    """
    folder = released_folder(released, cache_dir)
    paths = [
        download_file(
            file.url,
            folder / file.name,
            expected_size=file.size,
            sha256_prefix=file.sha256_prefix,
            progress=progress,
        )
        for file in released.files
    ]
    return paths[0] if len(paths) == 1 else folder


def apply_protocol(
    image_processor: SegmenterImageProcessorPil, released: ReleasedCheckpoint
) -> SegmenterImageProcessorPil:
    """
    The image processor with the sizes and windows of the published evaluation, where the checkpoint itself states
    those of the evaluation within training. That of an encoder is returned as it is.
    """
    if released.protocol is None:
        return image_processor
    settings = released.protocol.image_processor_settings
    return type(image_processor).from_dict({**image_processor.to_dict(), **settings})


def format_table() -> str:
    """The released checkpoints as a table of plain text, with the notes below it."""
    rows = [("name", "dataset", "decoder", "crop", "mIoU", "params", "licence", "repository")]
    for row in RELEASED.values():
        figures = (row.published_miou_percent_ss, row.published_miou_percent_ms)
        published = row.published_num_parameters_millions
        rows.append(
            (
                row.name,
                row.dataset,
                row.decoder_type or "-",
                str(row.crop_size),
                "-" if None in figures else " / ".join(map(str, figures)),
                f"{row.num_parameters / 1e6:.1f}M" + (f" ({published:g}M)" if published is not None else ""),
                row.licence,
                row.repo_name,
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += ["", "mIoU: published, in percent, single scale / multiple scales and flipped. Parameters: (published)."]
    for row in RELEASED.values():
        unexplained = row.published_num_parameters_millions is not None and not row.is_published_count_explained
        remarks = [row.describe_parameters()] * unexplained + [row.notes] * bool(row.notes)
        if remarks and not row.is_encoder:
            lines.append(f"{row.name}: {' '.join(remarks)}")
    return "\n".join(lines)


__all__ = [
    "ARCHITECTURES",
    "RELEASED",
    "Architecture",
    "ReleasedCheckpoint",
    "ReleasedFile",
    "apply_protocol",
    "fetch_released",
    "find_released",
    "format_table",
    "is_released",
    "released_folder",
]
