"""
Reads the table of released checkpoints, released.yaml: where they are, what they are, how they were evaluated, and
what was published of them.
"""

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import yaml

from ..configuration_segmenter import SegmenterConfig
from ..data.labels import load_label_set
from ..evaluation.record import EvaluationProtocol, make_checked
from ..image_processing_pil_segmenter import SegmenterImageProcessorPil
from ..modeling_segmenter import SegmenterForSemanticSegmentation, SegmenterModel, SegmenterPreTrainedModel
from . import original
from .download import download_file
from .errors import ConversionError


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

    Raises:
        ValueError: for values of other types.
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
    published_miou_percent_ss: float | int | None = None
    published_miou_percent_ms: float | int | None = None
    published_num_parameters_millions: float | int | None = None
    published_training_memory_gb: float | int | None = None
    published_fps: float | int | None = None
    notes: str = ""
    repo_suffix: str = ""

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "files" and not isinstance(value, field.type):
                expected = getattr(field.type, "__name__", field.type)
                raise ValueError(f"`{field.name}` must be {expected}, got {value!r}.")

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
        values = {"intermediate_size": 4 * architecture.hidden_size, **_TABLE["sources"][self.source]["config"]}
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


def read_row(values: Mapping[str, Any]) -> ReleasedCheckpoint:
    """
    A row of the file, with what its source says of all its rows.

    Raises:
        ValueError: for fields that are missing, unknown, or of another type, naming the row.
    """
    try:
        values = {**_TABLE["sources"][values["source"]], **values}
        del values["config"]
        url, files = values.pop("url"), values.pop("files")
        urls = [url.format(name=values["name"], file=file["name"]) for file in files]
        values["files"] = tuple(ReleasedFile(url, **file) for url, file in zip(urls, files, strict=True))
        if "protocol" in values:
            values["protocol"] = EvaluationProtocol.from_dict(values["protocol"])
        return make_checked(ReleasedCheckpoint, values, "released checkpoint")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"The released checkpoint {values.get('name')!r} of {TABLE_FILE.name}: {error}") from error


TABLE_FILE = Path(__file__).with_name("released.yaml")
_TABLE = yaml.safe_load(TABLE_FILE.read_text(encoding="utf-8"))
ARCHITECTURES = {name: Architecture(**values) for name, values in _TABLE["architectures"].items()}
RELEASED = {row.name: row for row in map(read_row, _TABLE["checkpoints"])}


def _rows_by_name() -> dict[str, ReleasedCheckpoint]:
    return RELEASED | {row.repo_name: row for row in RELEASED.values()}


def find_row(source: str | Path | ReleasedCheckpoint) -> ReleasedCheckpoint | None:
    """The released checkpoint that a source is, or that it names where no path here has that name; or `None`."""
    if isinstance(source, ReleasedCheckpoint):
        return source
    row = _rows_by_name().get(str(source))
    return None if row is None or Path(source).exists() else row


def is_released(source: str | Path) -> bool:
    """Whether what a user names is a released checkpoint, by a name that [`find_released`] knows, and no path here."""
    return find_row(source) is not None


def suggest_released(name: str) -> str:
    """What to say of a name in which there may be a slip; empty if no released checkpoint is called alike."""
    matches = difflib.get_close_matches(name.lower(), _rows_by_name(), n=3)
    return f" Did you mean {' or '.join(matches)}?" if matches else ""


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
    if name not in rows:
        raise ConversionError(
            f"There is no released checkpoint {name!r}.{suggest_released(name)} --list_released lists them all."
        )
    return rows[name]


def released_folder(released: ReleasedCheckpoint, cache_dir: str | Path | None = None) -> Path:
    """The folder that the files of a released checkpoint are kept in. See [`fetch_released`]."""
    if cache_dir is None:
        cache_dir = Path(huggingface_hub.constants.HF_HOME) / "segmenter_hf"
    return Path(cache_dir) / released.repo_name


def fetch_released(released: ReleasedCheckpoint, cache_dir: str | Path | None = None) -> Path:
    """
    Downloads the files of a released checkpoint that are not there yet. See
    [`~segmenter_hf.conversion.download.download_file`] for what happens to interrupted ones.

    Args:
        released (`ReleasedCheckpoint`): A row of the table.
        cache_dir (`str` or `Path`, *optional*): They are kept in a folder of `repo_name` in this one. Defaults to
            `segmenter_hf` in Hugging Face's cache (`HF_HOME`).

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
    "find_row",
    "format_table",
    "is_released",
    "read_row",
    "released_folder",
    "suggest_released",
]
