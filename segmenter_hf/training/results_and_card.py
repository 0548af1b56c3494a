"""Results and card of a finished run, written beside its model and pushed with it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from ..conversion.convert import CARD_FILE
from ..evaluation.results import fingerprint, have_same_figures, make_results, read_results_file, write_results_file
from ..hub.cards import FOLDER_PLACEHOLDER, make_trained_card
from ..hub.client import PushError
from ..hub.push_trained import check_repository, push_trained, save_card
from ..outputs import refuse_unwritable, write_text
from ..redaction import redact_results
from .arguments import TrainingError
from .run_record import RunRecord
from .training_setup import Run


RESULTS_NAME = "results.json"


def write_results_and_card(
    run: Run,
    model: PreTrainedModel,
    evaluation: dict[str, Any],
    training: RunRecord | None,
    repo_id: str | None = None,
    is_finished_before: bool = False,
) -> dict[str, Any]:
    """
    Writes `results.json`, as the evaluation script would, and the card into the output folder.

    Args:
        run ([`Run`]): The run.
        model ([`SegmenterForSemanticSegmentation`]): What was saved.
        evaluation (`dict`): What [`evaluate_sliding_window`] returned for it.
        training ([`RunRecord`], *optional*): How it was trained; `None` where the run only evaluated.
        repo_id (`str`, *optional*): The repository that the model is pushed to.
        is_finished_before (`bool`, *optional*): Whether the run has only evaluated what was trained already. Figures
            and card that are there and say the same then stay as they are, but for the name of a repository.

    Raises:
        OutputError: if they cannot be written.
    """
    setup, data_args, output_dir = run.setup, run.data_args, Path(run.args.output_dir)
    results = make_results(
        evaluation,
        model_name=run.args.output_dir,
        id2label=model.config.id2label,
        image_processor=setup.image_processor,
        dataset={
            "name": data_args.dataset_name,
            "config_name": data_args.dataset_config_name,
            "split": data_args.validation_split,
            "num_split_images": len(setup.data.split(data_args.validation_split)),
            "fingerprint": fingerprint(setup.eval_dataset),
        },
        ignore_index=model.config.semantic_loss_ignore_index,
        window_batch_size=run.args.per_device_eval_batch_size,
        autocast_dtype=run.autocast_dtype,
        device=run.device,
        num_processes=run.num_processes,
    )
    # It may be pushed: where things are on this machine concerns nobody else.
    results = redact_results(results)
    file = output_dir / RESULTS_NAME
    is_known = is_finished_before and _holds(file, results)
    remedy = f"The model is in {output_dir}: make room, and the same command writes what is missing."
    with refuse_unwritable(file, remedy):
        if not is_known:
            write_results_file(results, file)
        if training is None:
            return results
        if is_known and (output_dir / CARD_FILE).exists():
            # The run may have been made without --push_to_hub. What was written into the card since is kept.
            text = (output_dir / CARD_FILE).read_text(encoding="utf-8")
            if repo_id is not None and FOLDER_PLACEHOLDER in text:
                write_text(output_dir / CARD_FILE, text.replace(FOLDER_PLACEHOLDER, repo_id))
            return results
        # Notices and licences come first, as the card names them.
        start = setup.start.save_documents(output_dir)
        card = make_trained_card(
            model.config,
            setup.image_processor,
            [results],
            training=training.training,
            base_model=start,
            dataset_name=training.dataset_name,
            repo_id=repo_id,
            num_parameters=model.num_parameters(),
        )
        save_card(card, output_dir)
    return results


def _holds(file: Path, results: Mapping[str, Any]) -> bool:
    """Whether a file of results has the figures of an evaluation."""
    try:
        return have_same_figures(read_results_file(file), results)
    except ValueError:
        return False


def write_metrics(metrics: Mapping[str, Any], name: str, output_dir: str | Path):
    """
    Writes what `Trainer.save_metrics` does, complete or not at all: a file of these, and one of those of all names.
    Where they are there already, and differ in nothing but how long it took, they stay.

    Raises:
        OutputError: if they cannot be written.
    """
    own, together = Path(output_dir) / f"{name}_results.json", Path(output_dir) / "all_results.json"
    others = _read_metrics(together)
    if _without_times(metrics).items() <= _without_times(others).items() and own.exists():
        return
    for file, values in ((own, metrics), (together, {**others, **metrics})):
        write_text(file, json.dumps(values, indent=4, sort_keys=True))


def _read_metrics(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _without_times(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if not name.endswith(("_runtime", "_per_second"))}


def choose_repository(args: Any) -> str | None:
    """
    The repository that a run will push to, if it will, as `owner/name`; checked before the run has cost anything.

    Raises:
        TrainingError: without a token that may write it.
    """
    if not args.push_to_hub:
        return None
    try:
        return check_repository(args.hub_model_id or Path(args.output_dir).absolute().name, args.hub_token)
    except PushError as error:
        raise TrainingError(f"--push_to_hub: {error}") from error


def push(args: Any, repo_id: str):
    """
    Pushes the output folder.

    Raises:
        TrainingError: if that fails; the message says how to go on.
    """
    try:
        push_trained(args.output_dir, repo_id, private=args.hub_private_repo, token=args.hub_token)
    except PushError as error:
        raise TrainingError(
            f"The model is in {args.output_dir}, but not in {repo_id}: {error} The same command trains no more, and "
            "pushes again."
        ) from error


__all__ = ["RESULTS_NAME", "choose_repository", "push", "write_metrics", "write_results_and_card"]
