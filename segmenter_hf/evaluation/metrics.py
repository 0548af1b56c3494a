"""Mean intersection over union from one confusion matrix."""

from collections.abc import Iterable

import numpy as np
import torch
import torch.distributed


try:
    import datasets
    import evaluate
except ImportError:
    evaluate = None


_DESCRIPTION = """
The intersection over union of a class is the number of pixels that are predicted as the class and are of it, divided
by the number of those that are either. Pixels are counted over all label maps, and divided once; the mean is over the
classes that occur or are predicted.
"""

_INPUTS_DESCRIPTION = """
Label maps of integers, as arrays, tensors, PIL images or nested lists, of any and varying size; all fractions.
Settings (`num_labels`, `ignore_index`, `label_map`, `reduce_labels`) are those of the constructor; `compute` takes
them too, so that code written for the Hub's `mean_iou` runs, but refuses others than the constructor's. What is not a
number (a class without pixels) is replaced by `nan_to_num`, if given.
"""

_CITATION = """\
@article{everingham2010pascal,
    title = {The Pascal Visual Object Classes (VOC) Challenge},
    author = {Everingham, Mark and Van Gool, Luc and Williams, Christopher K. I. and Winn, John and Zisserman, Andrew},
    journal = {International Journal of Computer Vision},
    volume = {88},
    pages = {303--338},
    year = {2010},
}"""


def confusion_matrix(
    prediction,
    reference,
    num_labels: int,
    ignore_index: int = 255,
    label_map: dict[int, int] | None = None,
    reduce_labels: bool = False,
) -> np.ndarray:
    """
    Counts the pixels of one pair of label maps.

    Args:
        prediction (integer array, tensor, PIL image or nested list, mostly of shape `(height, width)`):
            Predicted labels. Where the reference is ignored they may be anything.
        reference (the same): True labels, `ignore_index` where there is none.
        num_labels, ignore_index, label_map, reduce_labels: As in [`MeanIoU`].

    Returns:
        `np.ndarray`: int64 of shape `(num_labels, num_labels)`, rows by true label and columns by predicted label.

    Raises:
        ValueError: if the shapes differ, the values are not integers or a label is outside `[0, num_labels)`.
    """
    prediction, reference = _as_array(prediction, "prediction"), _as_array(reference, "reference")
    if prediction.shape != reference.shape:
        raise ValueError(
            f"A prediction must have its reference's shape {reference.shape}, got {prediction.shape}. "
            "Pass `target_sizes` to the post-processing."
        )
    prediction, reference = prediction.ravel(), reference.ravel()

    # Neighbours in a mask are mostly equal. So runs of equal pairs are found first, in the integers as they come, and
    # all that follows has one entry for each run; in noise, where that gains nothing, one for each pixel.
    is_start = np.ones(prediction.size, dtype=bool)
    np.not_equal(prediction[1:], prediction[:-1], out=is_start[1:])
    is_start[1:] |= reference[1:] != reference[:-1]
    num_pixels = None
    if 4 * np.count_nonzero(is_start) < prediction.size:
        starts = np.flatnonzero(is_start)
        num_pixels = np.diff(starts, append=prediction.size)
        prediction, reference = prediction[starts], reference[starts]
    prediction, reference = prediction.astype(np.int64), reference.astype(np.int64)

    if label_map is not None:
        original = reference.copy()
        for old, new in label_map.items():
            reference[original == old] = new
    if reduce_labels:
        reference = np.where((reference == 0) | (reference == 255), 255, reference - 1)

    # What is ignored gets a cell of its own, the last: cheaper than taking it out.
    is_ignored = reference == ignore_index
    for name, labels in (("prediction", prediction), ("reference", reference)):
        np.putmask(labels, is_ignored, 0)
        if labels.size and (labels.min() < 0 or labels.max() >= num_labels):
            labels = labels[~is_ignored]
            raise ValueError(
                f"A {name} holds labels from {labels.min()} to {labels.max()}, expected 0 to {num_labels - 1} or, in "
                f"references, {ignore_index}."
            )
    cells = reference * num_labels + prediction
    np.putmask(cells, is_ignored, num_labels**2)
    # Weights make the counts floats, which hold the number of pixels of any one map exactly.
    counts = np.bincount(cells, weights=num_pixels, minlength=num_labels**2 + 1)
    return counts[:-1].astype(np.int64).reshape(num_labels, num_labels)


def iou_scores(matrix, exclude: Iterable[int] = ()) -> dict:
    """
    Divides the counts of a confusion matrix.

    Args:
        matrix (integer array or tensor of shape `(num_labels, num_labels)`): Rows by true, columns by predicted label.
        exclude (iterable of `int`, *optional*): Labels that the two means leave out, and nothing else does.

    Returns:
        `dict`: `mean_iou` and `mean_accuracy` (over the classes that are not excluded and not NaN), `overall_accuracy`
        (of all pixels), and the arrays `per_category_iou` and `per_category_accuracy` of shape `(num_labels,)` (of all
        classes), all fractions. A class that neither occurs nor is predicted has IoU NaN, one that does not occur
        accuracy NaN. A mean of nothing is NaN.
    """
    matrix = np.asarray(matrix)
    correct, true, predicted = matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)
    with np.errstate(invalid="ignore"):
        iou = correct / (true + predicted - correct)
        accuracy = correct / true
        overall_accuracy = correct.sum() / true.sum()
    in_means = np.ones(len(matrix), dtype=bool)
    in_means[list(exclude)] = False

    def mean(values: np.ndarray) -> float:
        values = values[in_means & ~np.isnan(values)]
        return values.mean().item() if values.size else float("nan")

    return {
        "mean_iou": mean(iou),
        "mean_accuracy": mean(accuracy),
        "overall_accuracy": overall_accuracy.item(),
        "per_category_iou": iou,
        "per_category_accuracy": accuracy,
    }


def nan_to_none(value):
    """
    `value` (numbers, arrays, and lists, tuples and dicts of them) with NaN as None and arrays as lists: what
    `json.dumps` writes as valid JSON, where there is no NaN but null.
    """
    if isinstance(value, dict):
        return {name: nan_to_none(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [nan_to_none(item) for item in value]
    if isinstance(value, np.ndarray | np.generic | torch.Tensor):
        return nan_to_none(value.tolist())
    return None if isinstance(value, float) and value != value else value


class MeanIoU(object if evaluate is None else evaluate.Metric):
    """
    Counts a confusion matrix over label maps of any and varying size, and divides once, at the end: constant memory,
    nothing on disk, and the order and size of the batches change nothing. `compute` gives the numbers of the Hub's
    `mean_iou` under its keys, except that a predicted label outside the range is an error, not a pixel less.

    Where `evaluate` is installed this is an `evaluate.EvaluationModule`, which `evaluate.combine` and others take;
    where it is not, the same class without `info` and the like. Unlike other modules it is true when it is empty.

    Args:
        num_labels (`int`): Number of classes.
        ignore_index (`int`, *optional*, defaults to 255):
            Reference label whose pixels do not count at all. Any integer, also one that is a class.
        exclude (iterable of `int`, *optional*):
            Classes that `mean_iou` and `mean_accuracy` leave out, as a background. Their pixels count as ever: in the
            figures of each class (a background pixel taken for a car is a wrong car), and in `overall_accuracy`.
        label_map (`dict[int, int]`, *optional*): What labels of references are replaced by, before all else.
        reduce_labels (`bool`, *optional*, defaults to `False`):
            Whether to lower the labels of references by one, with 0 becoming 255. Not for references that the image
            processor's `do_reduce_labels` has lowered.
        all_reduce (`bool`, *optional*, defaults to `True`):
            Whether `compute` sums the counts of all processes, where `torch.distributed` is initialised. Then each
            process must call it, one without maps too, and gets the same figures. Each map should be added in one
            process; if all add all maps (gathered before), that changes the counts but no figure.

    Attributes:
        confusion_matrix (`torch.Tensor`):
            What this process has counted since the last `compute`: int64 of shape `(num_labels, num_labels)`, rows by
            true label and columns by predicted label.
    """

    def __init__(
        self,
        num_labels: int,
        ignore_index: int = 255,
        *,
        exclude: Iterable[int] = (),
        label_map: dict[int, int] | None = None,
        reduce_labels: bool = False,
        all_reduce: bool = True,
    ):
        exclude = sorted(set(exclude))
        if num_labels < 1:
            raise ValueError(f"`num_labels` must be at least 1, got {num_labels}.")
        if exclude and (exclude[0] < 0 or exclude[-1] >= num_labels or len(exclude) == num_labels):
            raise ValueError(
                f"`exclude` must name some of the labels 0 to {num_labels - 1} and leave at least one, got {exclude}."
            )
        self.num_labels = num_labels
        self.ignore_index = ignore_index
        self.exclude = exclude
        self.label_map = label_map
        self.reduce_labels = reduce_labels
        self.all_reduce = all_reduce
        if evaluate is not None:
            super().__init__(keep_in_memory=True)
        self.reset()

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS_DESCRIPTION,
            features=datasets.Features({"predictions": datasets.Image(), "references": datasets.Image()}),
        )

    def _build_data_dir(self):
        # Other modules make a folder for their examples here. This one keeps none, so it needs no writable disk.
        return None

    def download_and_prepare(self, download_config=None, dl_manager=None):
        """Does nothing: there is nothing to download."""

    def reset(self):
        """Forgets what was counted."""
        self.confusion_matrix = torch.zeros(self.num_labels, self.num_labels, dtype=torch.int64)
        self._num_maps = 0

    def __len__(self) -> int:
        """Number of pairs of maps that this process has counted since the last `compute`."""
        return self._num_maps

    def __bool__(self) -> bool:
        # By its length, an empty metric would be false, and `if metric:` would skip it.
        return True

    def __repr__(self) -> str:
        return f"MeanIoU(num_labels={self.num_labels}, ignore_index={self.ignore_index}, maps counted: {len(self)})"

    def add(self, *, prediction=None, reference=None, predictions=None, references=None):
        """Counts one pair of maps, as `add_batch` does several. Either name will do: `evaluate.combine` uses both."""
        prediction = predictions if prediction is None else prediction
        reference = references if reference is None else reference
        self.add_batch(predictions=[prediction], references=[reference])

    def add_batch(self, *, predictions, references):
        """
        Counts pairs of maps; all or, if one is refused, none.

        Args:
            predictions (list of maps, or one array or tensor of shape `(batch, height, width)`):
                Predicted labels. A map is an integer array or tensor (on any device), PIL image or nested list.
            references (the same, of the same shapes): True labels, `ignore_index` where there is none.

        Raises:
            ValueError: if a pair's shapes differ, its values are not integers or a label is outside `[0, num_labels)`.
        """
        if len(predictions) != len(references):
            raise ValueError(
                f"Expected as many predictions as references, got {len(predictions)} and {len(references)}."
            )
        counts = np.zeros((self.num_labels, self.num_labels), dtype=np.int64)
        for prediction, reference in zip(predictions, references, strict=True):
            counts += confusion_matrix(
                prediction, reference, self.num_labels, self.ignore_index, self.label_map, self.reduce_labels
            )
        self.confusion_matrix += torch.from_numpy(counts)
        self._num_maps += len(references)

    def compute(self, *, predictions=None, references=None, nan_to_num: float | None = None, **settings) -> dict:
        """
        Adds `predictions` and `references`, if given, sums over the processes (see `all_reduce`), divides, and forgets
        what was counted.

        Args:
            predictions, references (*optional*): As `add_batch` takes them.
            nan_to_num (`float`, *optional*): What NaN becomes in the result, after the means have skipped it.
            settings (*optional*):
                `num_labels`, `ignore_index`, `label_map` and `reduce_labels` as the constructor has them.

        Returns:
            `dict`: `mean_iou`, `mean_accuracy`, `overall_accuracy`, `per_category_iou` and `per_category_accuracy`,
            see [`iou_scores`]. For JSON, pass it through [`nan_to_none`].

        Raises:
            ValueError: if no maps were added in any process, or a setting is not the constructor's.
        """
        self._check_settings(settings)
        if predictions is not None or references is not None:
            self.add_batch(predictions=predictions, references=references)
        counts = torch.cat([self.confusion_matrix.flatten(), torch.tensor([len(self)])])
        if self.all_reduce:
            counts = _sum_over_processes(counts)
        if not counts[-1]:
            raise ValueError("Nothing to compute: add maps first, and again after each `compute`, which forgets them.")
        scores = iou_scores(counts[:-1].view_as(self.confusion_matrix), self.exclude)
        self.reset()
        if nan_to_num is not None:
            scores = {name: np.nan_to_num(value, nan=nan_to_num) for name, value in scores.items()}
        return scores

    def _compute(self, **inputs) -> dict:
        # Code that avoids the cache of the Hub's metric calls its hook, and may go on to do so.
        return self.compute(**inputs)

    def _check_settings(self, settings: dict):
        own = {name: getattr(self, name) for name in ("num_labels", "ignore_index", "label_map", "reduce_labels")}
        unknown = sorted(settings.keys() - own.keys())
        if unknown:
            raise TypeError(f"`compute` got unknown arguments {unknown}.")
        other = {name: value for name, value in settings.items() if value != own[name]}
        if other:
            stated = ", ".join(f"{name}={value!r}" for name, value in other.items())
            raise ValueError(
                f"`compute` got {stated}, but maps are counted as they are added, and {self} was made with other "
                f"settings. Pass them to its constructor."
            )


def _as_array(labels, name: str) -> np.ndarray:
    if isinstance(labels, torch.Tensor):
        is_integer, dtype = not (labels.is_floating_point() or labels.is_complex()), labels.dtype
    else:
        labels = np.asarray(labels)
        # An empty list becomes an array of floats, but holds nothing that is no integer.
        is_integer, dtype = labels.dtype.kind in "biu" or labels.size == 0, labels.dtype
    if not is_integer:
        raise ValueError(f"A {name} must hold integer labels, got {dtype}. Of logits, take the argmax over classes.")
    labels = labels.cpu().numpy() if isinstance(labels, torch.Tensor) else labels
    # Labels are counted as int64, in which larger ones would be negative.
    if dtype in (np.uint64, torch.uint64) and labels.size and labels.max() > np.iinfo(np.int64).max:
        raise ValueError(f"A {name} holds {labels.max()}, expected labels, which are whole numbers from 0 on.")
    return labels


def _sum_over_processes(counts: torch.Tensor) -> torch.Tensor:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return counts
    # NCCL and its like only reduce what lies on their device.
    on_cpu = "cpu:" in torch.distributed.get_backend_config()
    counts = counts.to("cpu" if on_cpu else torch.accelerator.current_accelerator(), copy=True)
    torch.distributed.all_reduce(counts)
    return counts.cpu()
