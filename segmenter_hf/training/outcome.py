"""What a training run leaves beside the model: its figures."""

from pathlib import Path
from typing import Any

import torch

from ..evaluation.results import fingerprint, make_results, write_results
from .arguments import DataArguments
from .setup import TrainingSetup


RESULTS_NAME = "results.json"


def record_results(
    evaluation: dict[str, Any],
    setup: TrainingSetup,
    data_args: DataArguments,
    output_dir: str | Path,
    window_batch_size: int,
    autocast_dtype: torch.dtype | None,
    device: torch.device,
    num_processes: int,
) -> dict[str, Any]:
    """
    Writes what the last evaluation measured as the evaluation script would, into `results.json` of the output folder.

    Args:
        evaluation (`dict`): What [`evaluate_sliding_window`] returned.
        setup ([`TrainingSetup`]): Model, image processor and data of the run.

    The other arguments are those of the run.
    """
    results = make_results(
        evaluation,
        model_name=str(output_dir),
        id2label=setup.data.id2label,
        image_processor=setup.image_processor,
        dataset={
            "name": data_args.dataset_name,
            "config_name": data_args.dataset_config_name,
            "split": data_args.validation_split,
            "fingerprint": fingerprint(setup.eval_dataset, setup.data.image_column, setup.data.annotation_column),
        },
        ignore_index=setup.model.config.semantic_loss_ignore_index,
        window_batch_size=window_batch_size,
        autocast_dtype=autocast_dtype,
        device=device,
        num_processes=num_processes,
    )
    write_results(results, Path(output_dir) / RESULTS_NAME)
    return results


__all__ = ["RESULTS_NAME", "record_results"]
