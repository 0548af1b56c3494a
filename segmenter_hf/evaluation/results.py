"""Figures of an evaluation as data: what was measured, how, of what and with what, in one JSON file."""

import hashlib
import json
import os
import platform
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy
import PIL
import torch
import torchvision
import transformers
from datasets import Dataset, Image
from transformers import BaseImageProcessor

import segmenter_hf

from ..data.examples import COLUMNS, require_columns
from ..inputs import read_bytes
from ..outputs import write_text
from ..redaction import drop_secrets
from .metrics import nan_to_none
from .record import MULTI_SCALES, EvaluationProtocol, input_settings, take


FIGURES = ("mean_iou", "mean_accuracy", "overall_accuracy", "loss")
FIGURES_OF_CLASSES = ("per_category_iou", "per_category_accuracy")


def fingerprint(examples: Dataset) -> str:
    """
    SHA-256 of the encoded images and label maps of a split, in order: the same for the same data, whatever its path,
    format and columns were called before it was loaded.

    Raises:
        ValueError: for streaming datasets, those without these columns, and files that are no regular ones.
    """
    require_columns(examples)
    encoded = examples.with_format(None).select_columns(list(COLUMNS))
    for column in COLUMNS:
        encoded = encoded.cast_column(column, Image(decode=False))
    digest = hashlib.sha256()
    for example in encoded:
        for column in COLUMNS:
            file = example[column]
            contents = file["bytes"] if file["bytes"] is not None else read_bytes(file["path"])
            # The length goes first, so that the same bytes differ when they are divided into other files.
            digest.update(len(contents).to_bytes(8, "big"))
            digest.update(contents)
    return digest.hexdigest()


def make_results(
    figures: Mapping[str, Any],
    *,
    model_name: str,
    id2label: Mapping[int, str],
    image_processor: BaseImageProcessor,
    dataset: Mapping[str, Any],
    ignore_index: int = 255,
    multi_scale: bool = False,
    exclude: Iterable[int] = (),
    window_batch_size: int = 8,
    autocast_dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    num_processes: int = 1,
    command: str | None = None,
) -> dict[str, Any]:
    """
    What is known of an evaluation, ready for JSON: NaN as None.

    Args:
        figures (`Mapping`): What [`evaluate_sliding_window`] returned.
        model_name (`str`): Folder or Hub id of the model, as the user names it.
        id2label (`Mapping[int, str]`): Names of the labels.
        image_processor ([`SegmenterImageProcessor`]): The one that was used.
        dataset (`Mapping`): `name`, `config_name`, `split` and `fingerprint`.
        command (`str`, *optional*): What was run. Default: the command line of this process.

    The other arguments are those of the evaluation.
    """
    protocol = {
        "multi_scale": multi_scale,
        "scales": list(MULTI_SCALES) if multi_scale else [1.0],
        "flip": multi_scale,
        **input_settings(image_processor),
        "ignore_index": ignore_index,
        "exclude_classes": [id2label[index] for index in exclude],
        "backend": image_processor.backend,
        "dtype": "float32" if autocast_dtype is None else str(autocast_dtype).removeprefix("torch."),
        "window_batch_size": window_batch_size,
        "label_size": "original",
    }
    modules = (segmenter_hf, torch, torchvision, transformers, datasets, numpy, PIL)
    results = {
        "model": model_name,
        "dataset": {**dataset, "num_images": figures["num_images"]},
        "protocol": protocol,
        **{name: figures[name] for name in FIGURES},
        "num_images": figures["num_images"],
        **{name: {id2label[index]: value for index, value in enumerate(figures[name])} for name in FIGURES_OF_CLASSES},
        "command": describe_command() if command is None else command,
        "versions": {
            "python": platform.python_version(),
            **{module.__name__: module.__version__ for module in modules},
        },
        "hardware": {
            "device": describe_device(torch.device(device)),
            "num_processes": num_processes,
            "num_threads": torch.get_num_threads(),
        },
    }
    return nan_to_none(results)


def describe_command(arguments: Sequence[str] | None = None) -> str:
    """The command line of this process, to be read and pasted; without tokens, which are nobody's business."""
    script, *arguments = sys.argv if arguments is None else arguments
    # A script is shown by its place in the repository, wherever that is.
    script = os.path.join(*Path(script).parts[-2:]) if os.path.isabs(script) else script
    return shlex.join(["python", script, *drop_secrets(arguments)])


def describe_device(device: torch.device) -> str:
    """Name of an accelerator, or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.processor() or platform.machine()}, {os.cpu_count()} cores)"


def write_results_file(results: Mapping[str, Any], path: str | Path):
    """Writes results as JSON. See [`~segmenter_hf.outputs.write_text`]."""
    write_text(path, json.dumps(results, indent=2, allow_nan=False) + "\n")


def read_results_file(path: str | Path) -> dict[str, Any]:
    """
    The results that [`write_results_file`] wrote.

    Raises:
        ValueError: if the file is not there, or holds something else.
    """
    try:
        results = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as results of an evaluation: {error}") from error
    expected = {"model", "dataset", "protocol", "num_images", "command", "versions", *FIGURES, *FIGURES_OF_CLASSES}
    missing = sorted(expected - results.keys()) if isinstance(results, dict) else sorted(expected)
    if missing:
        raise ValueError(
            f"{path} holds no results of an evaluation: {', '.join(missing)} are missing. "
            "scripts/evaluate_semantic_segmentation.py writes them with --output_file."
        )
    return results


def have_same_figures(results: Mapping[str, Any], others: Mapping[str, Any]) -> bool:
    """
    Whether two evaluations measured the same figures, of the same data by the same protocol.

    Raises:
        ValueError: if one of them says neither.
    """
    facts = []
    for each in (results, others):
        protocol = EvaluationProtocol.from_settings(take(each, "protocol", Mapping))
        figures = [each[name] for name in (*FIGURES, *FIGURES_OF_CLASSES)]
        facts.append((take(each, "dataset", Mapping).get("fingerprint"), protocol, figures))
    return facts[0] == facts[1]


__all__ = [
    "describe_command",
    "describe_device",
    "fingerprint",
    "have_same_figures",
    "make_results",
    "read_results_file",
    "write_results_file",
]
