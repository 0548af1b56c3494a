"""Evaluations of tiny models, as the evaluation script would have written them."""

from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset, Features, Image

from segmenter_hf import SegmenterForSemanticSegmentation, SegmenterImageProcessorPil
from segmenter_hf.evaluation.protocol import evaluate_sliding_window
from segmenter_hf.evaluation.results import fingerprint, make_results

from ..common import tiny_config
from ..data.datasets_on_disk import make_image, make_label_map


NAMES = ("sky", "road", "car", "never seen")
# Windows that are no squares, so that no test passes where height and width are swapped.
PROCESSOR_SETTINGS = {
    "do_split_image": True,
    "size": {"shortest_edge": 32, "longest_edge": 128},
    "crop_size": {"height": 24, "width": 32},
    "window_stride": {"height": 12, "width": 16},
    "patch_size": 8,
}


def make_tiny_model(names: Sequence[str], **settings) -> SegmenterForSemanticSegmentation:
    torch.manual_seed(0)
    return SegmenterForSemanticSegmentation(tiny_config(id2label=dict(enumerate(names)), **settings)).eval()


def make_examples(num_images: int = 2, values: Sequence[int] = (0, 1, 2)) -> Dataset:
    """Images of noise, and label maps with a column for each value."""
    columns = {
        "image": [make_image(seed=index) for index in range(num_images)],
        "annotation": [make_label_map(values) for _ in range(num_images)],
    }
    return Dataset.from_dict(columns, features=Features({name: Image() for name in columns}))


def evaluate(
    model: SegmenterForSemanticSegmentation,
    image_processor: SegmenterImageProcessorPil | None = None,
    examples: Dataset | None = None,
    multi_scale: bool = False,
    autocast_dtype: torch.dtype | None = None,
    command: str = "python scripts/evaluate_semantic_segmentation.py --dataset_name data",
    **dataset: Any,
) -> dict[str, Any]:
    """The results of a model, which a file of results would hold; `dataset` is what is said of the data."""
    image_processor = image_processor or SegmenterImageProcessorPil(**PROCESSOR_SETTINGS)
    examples = make_examples() if examples is None else examples
    settings = {"multi_scale": multi_scale, "autocast_dtype": autocast_dtype}
    figures = evaluate_sliding_window(model, image_processor, examples, **settings)
    known = {"name": "data", "config_name": None, "split": "validation", "fingerprint": fingerprint(examples)}
    return make_results(
        figures,
        model_name="model",
        id2label=model.config.id2label,
        image_processor=image_processor,
        dataset={**known, **dataset},
        command=command,
        **settings,
    )
