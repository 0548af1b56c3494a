"""What scripts/evaluate_semantic_segmentation.py does."""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from datasets import Dataset
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, BaseImageProcessor, PreTrainedModel

from ..data.examples import ExampleReader
from ..data.loading import load_segmentation_data
from ..data.opening import SplitChoice, open_splits
from ..image_processing_segmenter import SegmenterImageProcessingMixin, reduce_labels, to_labels
from ..outputs import check_output_dir, check_output_file, refuse_unwritable, replacing_file
from ..processes import check_connected, check_launch
from ..visualization import draw_comparison, make_photo
from .protocol import NonFiniteScoresError, WorstCases, evaluate_sliding_window
from .results import fingerprint, make_results, write_results_file


class EvaluationError(ValueError):
    """What keeps a model from being scored, in all processes alike. The message is meant for the user."""


def evaluate(args: argparse.Namespace) -> dict[str, Any]:
    """
    Scores a model; prints the results and, if asked for, writes them and pictures of the worst cases. On several
    processes (of torchrun or `accelerate launch`), the first prints and writes.

    Args:
        args (`argparse.Namespace`): As the script parses them.

    Raises:
        EvaluationError: if arguments, model, image processor and data do not fit together, before the evaluation; or
            if the model's scores are NaN or infinite.
        ExampleError: if an image cannot be scored, in the process that was to.
        OutputError: if what has become of it cannot be written.
    """
    check_launch()
    # `check_launch` sets the variable where there is no accelerator.
    state = PartialState(cpu=args.device == "cpu" or parse_flag_from_env("ACCELERATE_USE_CPU"))
    check_connected(state.num_processes)
    try:
        check_arguments(args)
        if state.is_main_process:
            check_outputs(args)
        device = find_device(args.device or state.device)
        model, image_processor = load_model(args)
        exclude = find_classes(args.exclude_classes, model.config.id2label)
        data = load_segmentation_data(
            args.dataset_name,
            config_name=args.dataset_config_name,
            image_column=args.image_column_name,
            annotation_column=args.annotation_column_name,
            labels=args.labels,
            train_split=args.split,
            validation_split=args.split,
            # Splits that are not scored do no harm, whatever they are called.
            allow_other_splits=True,
        )
        (examples,) = open_splits(
            data,
            [SplitChoice(args.split, "--split", args.max_eval_samples)],
            image_processor,
            model_id2label=model.config.id2label,
            ignore_index=model.config.semantic_loss_ignore_index,
        )
        # The fingerprint reads all files, so that what cannot be read fails now, not after the work.
        data_fingerprint = None
        if state.is_main_process:
            data_fingerprint = fingerprint(examples)
    except ModuleNotFoundError:
        raise
    except (ImportError, OSError, ValueError) as error:
        raise EvaluationError(str(error)) from error

    protocol = {
        "multi_scale": args.multi_scale,
        "exclude": exclude,
        "window_batch_size": args.window_batch_size,
        "autocast_dtype": torch.bfloat16 if args.bf16 else None,
    }
    worst_cases = WorstCases(args.worst_cases) if args.worst_cases else None
    try:
        figures = evaluate_sliding_window(
            model.to(device),
            image_processor,
            examples,
            show_progress=True,
            worst_cases=worst_cases,
            **protocol,
        )
    except NonFiniteScoresError as error:
        raise EvaluationError(f"{args.model_name_or_path}: {error}") from error
    results = make_results(
        figures,
        model_name=str(args.model_name_or_path),
        id2label=model.config.id2label,
        image_processor=image_processor,
        dataset={
            "name": args.dataset_name,
            "config_name": args.dataset_config_name,
            "split": args.split,
            "num_split_images": len(data.split(args.split)),
            "fingerprint": data_fingerprint,
        },
        ignore_index=model.config.semantic_loss_ignore_index,
        device=device,
        num_processes=state.num_processes,
        **protocol,
    )
    if state.is_main_process:
        # Figures are printed first, so that a disk that has filled up meanwhile does not cost them.
        try:
            with refuse_unwritable("standard output"):
                print(json.dumps(results, indent=2), flush=True)
        finally:
            if args.output_file is not None:
                write_results_file(results, args.output_file)
    if worst_cases is not None:
        draw_worst_cases(worst_cases, args.worst_cases_dir, examples, image_processor, model.config)
    state.wait_for_everyone()
    return results


def check_arguments(args: argparse.Namespace):
    """
    Raises:
        EvaluationError: for numbers that are out of range.
    """
    for name, least in (
        ("window_batch_size", 1),
        ("max_eval_samples", 1),
        ("max_value", 1),
        ("short_side", 1),
        ("worst_cases", 0),
    ):
        value = getattr(args, name)
        if value is not None and value < least:
            raise EvaluationError(f"--{name} must be at least {least}, got {value}.")


def check_outputs(args: argparse.Namespace):
    """
    Raises:
        OutputError: if what is to be written cannot be.
    """
    if args.output_file is not None:
        check_output_file(args.output_file)
    if args.worst_cases_dir is not None:
        check_output_dir(args.worst_cases_dir)


def find_device(device: str | torch.device) -> torch.device:
    """
    Raises:
        EvaluationError: if there is no such device here.
    """
    try:
        device = torch.device(device)
        torch.empty(1, device=device)
    # torch raises an AssertionError for a kind of device that it was built without.
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        raise EvaluationError(f"--device {device} cannot be used: {str(error).splitlines()[0]}") from error
    return device


def load_model(args: argparse.Namespace) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """The model, and the image processor with the settings of the arguments."""
    name = args.model_name_or_path
    attention = {"attn_implementation": args.attn_implementation} if args.attn_implementation else {}
    try:
        model, info = AutoModelForSemanticSegmentation.from_pretrained(
            name, dtype=torch.float32, output_loading_info=True, **attention
        )
    # transformers raises this for weights of other shapes, which it logs.
    except RuntimeError as error:
        raise EvaluationError(f"The weights of {name} do not fit its config: {error}") from error
    if info["missing_keys"]:
        some = ", ".join(sorted(info["missing_keys"])[:3])
        raise EvaluationError(f"{name} does not have all weights of a segmentation model ({some}...). Train it first.")
    backend = {"backend": args.backend} if args.backend else {}
    image_processor = AutoImageProcessor.from_pretrained(name, **backend)
    if not isinstance(image_processor, SegmenterImageProcessingMixin):
        raise EvaluationError(
            f"The image processor of {name} is a {type(image_processor).__name__}, expected Segmenter's."
        )
    changes = {
        name: getattr(args, name)
        for name in ("antialias", "do_reduce_labels", "max_value", "window_stride")
        if getattr(args, name) is not None
    }
    if args.short_side is not None:
        size = image_processor.size
        ratio = size.longest_edge / size.shortest_edge if size.longest_edge and size.shortest_edge else 4
        size = {"shortest_edge": args.short_side, "longest_edge": int(ratio * args.short_side)}
        changes |= {"size": size, "do_resize": True}
    return model, type(image_processor).from_dict({**image_processor.to_dict(), **changes})


def find_classes(names: list[str], id2label: dict[int, str]) -> list[int]:
    """
    Labels by their names or numbers.

    Raises:
        EvaluationError: if there is none of a name, or none is left.
    """
    label2id = {name: index for index, name in id2label.items()}
    label2id = {**{str(index): index for index in id2label}, **label2id}
    unknown = [name for name in names if name not in label2id]
    if unknown:
        raise EvaluationError(f"--exclude_classes must be among {', '.join(id2label.values())}, got {unknown}.")
    excluded = sorted({label2id[name] for name in names})
    if len(excluded) == len(id2label):
        raise EvaluationError(f"--exclude_classes must leave some of the {len(id2label)} labels, got all of them.")
    return excluded


def draw_worst_cases(
    worst_cases: WorstCases, folder: Path, examples: Dataset, image_processor: BaseImageProcessor, config
):
    """Writes a picture for each, whose name begins with the score in percent."""
    reader = ExampleReader(examples)
    for index, score, prediction in worst_cases.select():
        image, annotation = reader[index]
        image = make_photo(image, image_processor)
        reference = to_labels(annotation, "A label map")
        if image_processor.do_reduce_labels:
            reference = reduce_labels(reference)
        picture = draw_comparison(
            image,
            reference.numpy(),
            prediction,
            config.id2label,
            title=f"image {index}: mean IoU {score:.3f} of its labels. Photo, label map, prediction.",
            palette=config.palette,
            ignore_index=config.semantic_loss_ignore_index,
        )
        with replacing_file(folder / f"{100 * score:05.1f}_image_{index:05d}.png") as unfinished:
            picture.save(unfinished)


__all__ = ["EvaluationError", "evaluate"]
