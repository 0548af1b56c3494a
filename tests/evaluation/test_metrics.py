"""Mean IoU against hand-computed numbers, an independent computation, `evaluate`'s interface and several processes."""

import copy
import json
import math
import os
import pickle
import subprocess
import sys
import warnings

import datasets
import evaluate
import numpy as np
import pytest
import torch
from PIL import Image

from segmenter_hf.evaluation.metrics import MeanIoU, confusion_matrix, iou_scores, nan_to_none

from ..common import run_python


SCORES = ["mean_iou", "mean_accuracy", "overall_accuracy", "per_category_iou", "per_category_accuracy"]


class HistogramMeanIoU(evaluate.Metric):
    """
    Stands in for the Hub's `mean_iou`, which is not to be had offline: buffers all maps as images, then takes the
    histograms of the intersection, the predicted and the true labels of each, adds them up and divides.
    """

    def _info(self):
        features = datasets.Features({"predictions": datasets.Image(), "references": datasets.Image()})
        return evaluate.MetricInfo(description="", citation="", features=features)

    def _compute(
        self, predictions, references, num_labels, ignore_index, nan_to_num=None, label_map=None, reduce_labels=False
    ):
        intersection, predicted, true = np.zeros((3, num_labels))
        edges = np.arange(num_labels + 1) - 0.5
        for prediction, reference in zip(predictions, references, strict=True):
            prediction, reference = np.array(prediction).astype(int), np.array(reference).astype(int)
            if label_map:
                reference = np.vectorize(lambda label: label_map.get(label, label))(reference)
            if reduce_labels:
                reference = np.vectorize(lambda label: 255 if label in (0, 255) else label - 1)(reference)
            valid = reference != ignore_index
            prediction, reference = prediction[valid], reference[valid]
            intersection += np.histogram(reference[prediction == reference], edges)[0]
            predicted += np.histogram(prediction, edges)[0]
            true += np.histogram(reference, edges)[0]
        with np.errstate(invalid="ignore"), warnings.catch_warnings(action="ignore"):
            iou, accuracy = intersection / (predicted + true - intersection), intersection / true
            results = [np.nanmean(iou), np.nanmean(accuracy), intersection.sum() / true.sum(), iou, accuracy]
        if nan_to_num is not None:
            results = [np.nan_to_num(result, nan=nan_to_num) for result in results]
        return dict(zip(SCORES, results, strict=True))


@pytest.fixture(autouse=True)
def cache_of_evaluate(tmp_path, monkeypatch):
    """Other modules make a folder for their examples, even if they keep them in memory."""
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path / "metrics"))


def random_maps(seed: int, num_labels: int, ignore_index: int = 255, dtype=np.uint8) -> tuple[list, list]:
    """
    Predictions and references of up to four maps. Masks or noise, mostly right or not at all, some of one pixel; most
    with some ignored pixels, one with nothing else; and most without pixels of some classes.
    """
    generator = np.random.default_rng(seed)
    classes = generator.choice(num_labels, generator.integers(1, num_labels + 1), replace=False)
    predictions, references = [], []
    for index in range(generator.integers(1, 5)):
        height, width = generator.integers(1, 40, 2) if index else (30, 20)
        block = generator.choice([1, 8])
        coarse = generator.choice(classes, (-(-height // block), -(-width // block)))
        reference = coarse.repeat(block, axis=0).repeat(block, axis=1)[:height, :width].astype(dtype)
        wrong = generator.random((height, width)) < generator.choice([0, 0.1, 1])
        prediction = np.where(wrong, generator.integers(0, num_labels, (height, width)), reference).astype(dtype)
        share = generator.choice([0, 0.2, 1]) if index else 0.1
        reference[generator.random((height, width)) < share] = ignore_index
        predictions.append(prediction)
        references.append(reference)
    return predictions, references


def assert_same_scores(results: dict, expected: dict):
    assert list(results) == list(expected) == SCORES
    for name, value in expected.items():
        np.testing.assert_allclose(results[name], value, rtol=0, atol=1e-12, err_msg=name)


def test_hand_computed_example():
    metric = MeanIoU(num_labels=4)
    reference = torch.tensor([[0, 0, 1, 1], [0, 255, 1, 2]])
    prediction = torch.tensor([[0, 1, 1, 1], [0, 3, 2, 2]])
    metric.add_batch(predictions=[prediction], references=[reference])
    # Rows are true labels. What is predicted where the reference is ignored does not count.
    assert metric.confusion_matrix.tolist() == [[2, 1, 0, 0], [0, 2, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    results = metric.compute()
    # Label 0: 2 of 3 found; 1: 2 found, 1 missed, 1 wrong; 2: 1 found, 1 wrong; 3 only where it is ignored.
    assert results["per_category_iou"][:3] == pytest.approx([2 / 3, 2 / 4, 1 / 2])
    assert results["per_category_accuracy"][:3] == pytest.approx([2 / 3, 2 / 3, 1])
    assert math.isnan(results["per_category_iou"][3])
    assert math.isnan(results["per_category_accuracy"][3])
    assert results["mean_iou"] == pytest.approx((2 / 3 + 1 / 2 + 1 / 2) / 3)
    assert results["mean_accuracy"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert results["overall_accuracy"] == pytest.approx(5 / 7)


@pytest.mark.parametrize("num_labels", [1, 2, 6, 150])
def test_equals_the_metric_of_evaluate_on_random_maps(num_labels):
    peer = HistogramMeanIoU(keep_in_memory=True)
    metric = MeanIoU(num_labels)
    seen = set()
    for seed in range(40):
        # Images have no int64, so `evaluate` would warn that it takes less.
        predictions, references = random_maps(seed, num_labels, dtype=(np.uint8, np.int32)[seed % 2])
        for module in (metric, peer):
            module.add_batch(predictions=predictions, references=references)
        results = metric.compute()
        expected = peer.compute(num_labels=num_labels, ignore_index=255)
        assert_same_scores(results, expected)
        absent = np.isnan(results["per_category_accuracy"])
        seen |= {"absent"} if absent.any() else set()
        seen |= {"only predicted"} if (absent & (results["per_category_iou"] == 0)).any() else set()
        seen |= {"all right"} if results["mean_iou"] == 1 else set()
    assert seen == ({"all right"} if num_labels == 1 else {"absent", "only predicted", "all right"})


@pytest.mark.parametrize(
    "settings",
    [
        {"ignore_index": 0},
        {"ignore_index": 3},
        {"ignore_index": 255, "label_map": {1: 2, 2: 1, 4: 255}},
        {"ignore_index": 255, "reduce_labels": True},
        {"ignore_index": 255, "reduce_labels": True, "label_map": {1: 0, 6: 2}},
    ],
)
def test_settings_of_the_metric_of_evaluate(settings):
    num_labels = 6
    for seed in range(20):
        # One label more where all are lowered.
        predictions, references = random_maps(seed, num_labels + settings.get("reduce_labels", 0))
        predictions = [np.minimum(prediction, num_labels - 1) for prediction in predictions]
        settings = {"num_labels": num_labels, **settings}
        if "reduce_labels" not in settings:
            references = [np.where(reference == 255, settings["ignore_index"], reference) for reference in references]
            references = [reference.astype(np.uint8) for reference in references]
        # The same call for both; of one that streams, the settings are also those of the constructor.
        inputs = {"predictions": predictions, "references": references, **settings, "nan_to_num": -1}
        expected = HistogramMeanIoU(keep_in_memory=True).compute(**inputs)
        assert_same_scores(MeanIoU(**settings).compute(**inputs), expected)
        assert_same_scores(MeanIoU(**settings)._compute(**inputs), expected)


@pytest.mark.parametrize("ignore_index", [-100, -1, 300, 10**6])
def test_ignore_index_that_is_no_byte(ignore_index):
    for seed in range(10):
        usual, other = MeanIoU(6), MeanIoU(6, ignore_index)
        predictions, references = random_maps(seed, 6, dtype=np.int64)
        expected = usual.compute(predictions=predictions, references=references)
        references = [np.where(reference == 255, ignore_index, reference) for reference in references]
        assert_same_scores(other.compute(predictions=predictions, references=references), expected)


def test_every_kind_of_map_counts_alike():
    predictions, references = random_maps(2, num_labels=2)
    expected = sum(confusion_matrix(*pair, num_labels=2) for pair in zip(predictions, references, strict=True))
    assert expected.dtype == np.int64
    assert expected.sum() == sum((reference != 255).sum() for reference in references)

    def images(maps):
        return [Image.fromarray(labels) for labels in maps]

    kinds = [lambda maps: [labels.tolist() for labels in maps], images]
    kinds += [
        lambda maps, dtype=dtype: [labels.astype(dtype) for labels in maps]
        for dtype in ("uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", ">i4")
    ]
    kinds += [
        lambda maps, dtype=dtype: [torch.from_numpy(labels).to(dtype) for labels in maps]
        for dtype in (torch.uint8, torch.int16, torch.int32, torch.int64)
    ]
    kinds.append(lambda maps: [np.asfortranarray(labels) for labels in maps])
    for prediction_kind in [*kinds, lambda maps: [labels.astype(bool) for labels in maps]]:
        for reference_kind in kinds:
            metric = MeanIoU(2)
            metric.add_batch(predictions=prediction_kind(predictions), references=reference_kind(references))
            assert (metric.confusion_matrix.numpy() == expected).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_maps_on_a_gpu():
    predictions, references = random_maps(2, num_labels=6)
    expected = MeanIoU(6).compute(predictions=predictions, references=references)
    on_gpu = [[torch.from_numpy(labels).cuda() for labels in maps] for maps in (predictions, references)]
    assert_same_scores(MeanIoU(6).compute(predictions=on_gpu[0], references=on_gpu[1]), expected)


@pytest.mark.parametrize("as_tensor", [np.asarray, torch.from_numpy])
def test_batches_of_varying_size_count_as_one_image_set(as_tensor):
    generator = np.random.default_rng(0)
    references = generator.integers(0, 6, (5, 7, 9))
    predictions = generator.integers(0, 6, (5, 7, 9))
    expected = MeanIoU(6).compute(predictions=predictions.reshape(1, -1), references=references.reshape(1, -1))

    metric = MeanIoU(num_labels=6)
    metric.add_batch(predictions=as_tensor(predictions[:3]), references=as_tensor(references[:3]))
    metric.add_batch(predictions=[predictions[3][:, :2]], references=[references[3][:, :2]])
    metric.add(prediction=predictions[3][:, 2:], reference=references[3][:, 2:])
    metric.add_batch(predictions=[], references=[])
    metric.add_batch(predictions=np.zeros((0, 7, 9), int), references=np.zeros((0, 7, 9), int))
    assert len(metric) == 5
    assert_same_scores(
        metric.compute(predictions=as_tensor(predictions[4:]), references=as_tensor(references[4:])), expected
    )


def test_maps_without_a_pixel_that_counts_score_nan():
    results = MeanIoU(num_labels=2).compute(predictions=[[[0, 1]], [[]]], references=[[[255, 255]], [[]]])
    assert all(np.isnan(results[name]).all() for name in SCORES)


def test_excluded_classes_leave_only_the_means():
    predictions, references = random_maps(3, num_labels=6)
    everything = MeanIoU(6).compute(predictions=predictions, references=references)
    metric = MeanIoU(6, exclude=np.array([4, 0]))
    metric.add_batch(predictions=predictions, references=references)
    assert metric.confusion_matrix[0].sum() > 0
    results = metric.compute()
    assert results["mean_iou"] == pytest.approx(np.nanmean(everything["per_category_iou"][[1, 2, 3, 5]]), abs=1e-15)
    assert results["mean_accuracy"] == pytest.approx(np.nanmean(everything["per_category_accuracy"][[1, 2, 3, 5]]))
    assert results["mean_iou"] != everything["mean_iou"]
    for name in SCORES[2:]:
        np.testing.assert_array_equal(results[name], everything[name])


@pytest.mark.parametrize("exclude", [[6], [-1], range(6)])
def test_exclusions_that_make_no_sense_are_refused(exclude):
    with pytest.raises(ValueError, match="0 to 5 and leave at least one"):
        MeanIoU(6, exclude=exclude)


@pytest.mark.parametrize(
    ("prediction", "reference", "message"),
    [
        ([[0, 1]], [[0], [1]], r"shape \(2, 1\), got \(1, 2\)"),
        ([[0, 3]], [[0, 1]], "prediction holds labels from 0 to 3"),
        ([[0, 255]], [[0, 1]], "prediction holds labels from 0 to 255"),
        ([[0, -1]], [[0, 1]], "prediction holds labels from -1 to 0"),
        ([[0, 1]], [[-1, 1]], "reference holds labels from -1 to 1"),
        ([[0, 1]], [[3, 1]], "reference holds labels from 1 to 3, expected 0 to 2 or, in references, 255"),
        ([[0, 1]], [[2**40, 1]], f"reference holds labels from 1 to {2**40}"),
        ([[0.2, 0.8]], [[0, 1]], "prediction must hold integer labels, got torch.float32.*argmax"),
    ],
)
def test_impossible_pairs_are_refused_and_leave_no_trace(prediction, reference, message):
    pair, good = (torch.tensor(prediction), torch.tensor(reference)), torch.tensor([[0, 1]])
    metric = MeanIoU(num_labels=3)
    with pytest.raises(ValueError, match=message):
        metric.add_batch(predictions=[good, pair[0]], references=[good, pair[1]])
    if pair[0].dtype is not torch.float32:
        with pytest.raises(ValueError, match=message):
            metric.add_batch(predictions=[good, pair[0].numpy()], references=[good, pair[1].numpy()])
    assert len(metric) == metric.confusion_matrix.sum() == 0


def test_unequal_numbers_of_maps_are_refused():
    with pytest.raises(ValueError, match="got 1 and 0"):
        MeanIoU(num_labels=3).add_batch(predictions=[torch.zeros(2, 2)], references=[])


def test_settings_that_come_too_late_are_refused():
    metric = MeanIoU(num_labels=3)
    metric.add(prediction=[[0, 1]], reference=[[0, 1]])
    for settings in ({"num_labels": 4}, {"ignore_index": 0}, {"label_map": {0: 1}}, {"reduce_labels": True}):
        with pytest.raises(ValueError, match=f"got {next(iter(settings))}=.*constructor"):
            metric.compute(**settings)
    with pytest.raises(TypeError, match="ignore_label"):
        metric.compute(ignore_label=255)
    settings = {"num_labels": 3, "ignore_index": 255, "label_map": None, "reduce_labels": False}
    assert metric.compute(**settings)["mean_iou"] == 1


def test_compute_starts_anew():
    metric = MeanIoU(num_labels=2)
    assert metric, "an empty metric is true"
    metric.add(prediction=[[0, 1]], reference=[[1, 0]])
    assert len(metric) == 1
    assert metric.compute()["mean_iou"] == 0
    assert len(metric) == 0
    with pytest.raises(ValueError, match="Nothing to compute"):
        metric.compute()
    metric.add(prediction=[[0, 1]], reference=[[0, 1]])
    assert metric.compute()["mean_iou"] == 1
    metric.add(prediction=[[0, 1]], reference=[[1, 0]])
    metric.reset()
    assert len(metric) == metric.confusion_matrix.sum() == 0


def test_is_a_module_of_evaluate():
    predictions, references = random_maps(0, num_labels=6)
    metric = MeanIoU(6)
    assert isinstance(metric, evaluate.EvaluationModule)
    assert isinstance(metric, evaluate.Metric)
    assert metric.module_type == "metric"
    assert metric.name == HistogramMeanIoU(keep_in_memory=True).name.replace("histogram_", "")
    assert "intersection over union" in metric.description
    assert "@article" in metric.citation
    assert metric.inputs_description in metric.compute.__doc__
    assert list(metric.features) == ["predictions", "references"]
    assert metric.info.license == ""
    assert "maps counted: 0" in repr(metric)
    metric.download_and_prepare()

    expected = metric.compute(predictions=predictions, references=references)
    other = MeanIoU(6, exclude=[0])
    combined = evaluate.combine({"all": metric, "foreground": other})
    for prediction, reference in zip(predictions, references, strict=True):
        combined.add(prediction=prediction, reference=reference)
    in_turn = combined.compute()
    combined.add_batch(predictions=predictions, references=references)
    at_once = combined.compute()
    assert nan_to_none(at_once) == nan_to_none(in_turn)
    assert at_once["all_mean_iou"] == expected["mean_iou"]
    assert at_once["foreground_mean_iou"] == np.nanmean(expected["per_category_iou"][1:])
    combined = evaluate.combine([MeanIoU(6)])
    assert combined.compute(predictions=predictions, references=references)["mean_iou"] == expected["mean_iou"]


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda metric: pickle.loads(pickle.dumps(metric))])
def test_copies_count_on_their_own(duplicate):
    metric = MeanIoU(2)
    metric.add(prediction=[[0, 1]], reference=[[0, 1]])
    twin = duplicate(metric)
    twin.add(prediction=[[0, 0]], reference=[[1, 1]])
    twin.add_batch(predictions=[[[1, 1]]], references=[[[1, 1]]])
    assert (len(metric), len(twin)) == (1, 3)
    assert metric.compute()["overall_accuracy"] == 1
    assert twin.compute()["overall_accuracy"] == 4 / 6


def test_works_without_evaluate(tmp_path):
    code = """
import json, sys
sys.modules["evaluate"] = sys.modules["datasets"] = None
import segmenter_hf
from segmenter_hf.evaluation import MeanIoU, nan_to_none
metric = MeanIoU(3, exclude=[1])
assert metric and not hasattr(metric, "info")
metric.add(prediction=[[0, 1]], reference=[[0, 0]])
print(repr(metric))
print(json.dumps(nan_to_none(metric.compute()), allow_nan=False))
"""
    representation, results = run_python(code, cwd=tmp_path).stdout.splitlines()
    assert representation == "MeanIoU(num_labels=3, ignore_index=255, maps counted: 1)"
    assert json.loads(results) == {
        "mean_iou": 0.5,
        "mean_accuracy": 0.5,
        "overall_accuracy": 0.5,
        "per_category_iou": [0.5, 0, None],
        "per_category_accuracy": [0.5, None, None],
    }


def test_evaluate_is_loaded_with_the_metric_and_writes_nothing(tmp_path):
    code = """
import sys, segmenter_hf.conversion.released, segmenter_hf.evaluation.record
assert not {"datasets", "evaluate", "timm", "matplotlib"} & set(sys.modules)
from segmenter_hf.evaluation import MeanIoU
assert "evaluate" in sys.modules
metric = MeanIoU(2)
metric.add(prediction=[[0, 1]], reference=[[0, 1]])
assert metric.compute()["mean_iou"] == 1
"""
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HOME": str(tmp_path / "home")}
    run_python(code, cwd=tmp_path, environment=environment)
    assert not list(tmp_path.rglob("*metrics*"))


def test_scores_of_any_matrix():
    matrix = [[2, 1, 0], [0, 4, 0], [0, 0, 0]]
    for kind in (np.array, torch.tensor):
        results = iou_scores(kind(matrix), exclude=[1])
        assert results["mean_iou"] == 2 / 3
        assert results["overall_accuracy"] == 6 / 7
        assert results["per_category_iou"][:2].tolist() == [2 / 3, 4 / 5]
        assert type(results["mean_iou"]) is type(results["overall_accuracy"]) is float


def test_nan_becomes_null():
    nan = float("nan")
    value = {"a": nan, "b": [1, (nan, "nan")], "c": np.array([[0.5, nan]]), "d": np.float64(nan), "e": np.int64(3)}
    value["f"] = torch.tensor([nan, 2.0])
    assert nan_to_none(value) == {"a": None, "b": [1, [None, "nan"]], "c": [[0.5, None]], "d": None, "e": 3} | {
        "f": [None, 2.0]
    }


@pytest.mark.slow
def test_two_processes_count_together(tmp_path):
    # First one process has maps and the other none, then both, and last each scores its own apart.
    script = tmp_path / "processes.py"
    script.write_text("""
import json, sys
from pathlib import Path
import torch.distributed as dist
from segmenter_hf.evaluation import MeanIoU, nan_to_none
from tests.evaluation.test_metrics import random_maps

dist.init_process_group("gloo")
assert dist.get_world_size() == 2
rank = dist.get_rank()
metric, alone = MeanIoU(6), MeanIoU(6, all_reduce=False)
results = []
if rank == 0:
    predictions, references = random_maps(0, 6)
    metric.add_batch(predictions=predictions, references=references)
results.append(metric.compute())
for module in (metric, alone):
    predictions, references = random_maps(1 + rank, 6)
    module.add_batch(predictions=predictions, references=references)
    results.append(module.compute())
try:
    metric.compute()
except ValueError as error:
    assert "Nothing to compute" in str(error)
else:
    raise AssertionError("nothing was added in any process")
if rank == 0:
    alone.compute(predictions=predictions, references=references)  # Or this would wait for the other.
Path(sys.argv[1], f"{rank}.json").write_text(json.dumps(nan_to_none(results)))
dist.destroy_process_group()
""")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    result = subprocess.run([*launch, script, tmp_path], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))

    def score(*seeds: int) -> dict:
        metric = MeanIoU(6)
        for seed in seeds:
            predictions, references = random_maps(seed, 6)
            metric.add_batch(predictions=predictions, references=references)
        return nan_to_none(metric.compute())

    assert first == [score(0), score(1, 2), score(1)]
    assert second == [score(0), score(1, 2), score(2)]


@pytest.mark.parametrize("name", ["predictions", "references"])
def test_the_largest_integers_do_not_become_negative(name):
    maps = {"predictions": [np.zeros((2, 2), int)], "references": [np.zeros((2, 2), int)]}
    maps[name] = [np.full((2, 2), 2**64 - 1, dtype=np.uint64)]
    for ignore_index in (255, -1):
        metric = MeanIoU(3, ignore_index)
        with pytest.raises(ValueError, match=f"A {name[:-1]} holds 18446744073709551615, expected labels"):
            metric.add_batch(**maps)
