"""The sliding-window protocol, image by image against the library's own path."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image

from segmenter_hf import SegmenterForSemanticSegmentation, SegmenterImageProcessor, SegmenterImageProcessorPil
from segmenter_hf.conversion.convert import load_checkpoint
from segmenter_hf.evaluation.metrics import MeanIoU
from segmenter_hf.evaluation.protocol import (
    ExampleError,
    NonFiniteScoresError,
    WindowFeed,
    WorstCases,
    average_probabilities,
    evaluate_sliding_window,
    is_sharded,
    make_passes,
    segment_multi_scale,
)

from ..common import REPOSITORY, tiny_config
from ..data.datasets_on_disk import make_image, make_label_map, save


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return SegmenterForSemanticSegmentation(tiny_config(drop_path_rate=0.5))


@pytest.fixture
def image_processor(model):
    return SegmenterImageProcessor(
        do_split_image=True,
        size={"shortest_edge": 40, "longest_edge": 160},
        crop_size={"height": 32, "width": 32},
        window_stride=24,
        patch_size=model.config.patch_size,
    )


@pytest.fixture
def examples():
    generator = np.random.default_rng(0)
    return [
        {
            "image": Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8)),
            "annotation": Image.fromarray(generator.choice([0, 1, 2, 3, 4, 255], (height, width)).astype(np.uint8)),
        }
        for height, width in [(50, 70), (90, 33), (20, 20)]
    ]


@torch.no_grad()
def test_equals_one_image_at_a_time(model, image_processor, examples):
    results = evaluate_sliding_window(model, image_processor, examples, window_batch_size=2)

    metric = MeanIoU(model.config.num_labels)
    model.eval()
    for example in examples:
        outputs = model(**image_processor(example["image"], return_tensors="pt"))
        labels = np.array(example["annotation"])
        metric.add_batch(
            predictions=image_processor.post_process_semantic_segmentation(outputs, [labels.shape]),
            references=[labels],
        )
    expected = metric.compute()
    assert results["num_images"] == 3
    assert 0 < results["mean_iou"] < 1
    for name, value in expected.items():
        assert results[name] == pytest.approx(value)


@torch.no_grad()
def test_loss_is_the_mean_over_the_pixels_of_all_windows(model, image_processor, examples):
    results = evaluate_sliding_window(model, image_processor, examples, window_batch_size=1)
    model.eval()
    images, maps = zip(*(example.values() for example in examples), strict=True)
    together = model(**image_processor(list(images), segmentation_maps=list(maps), return_tensors="pt"))
    assert results["loss"] == pytest.approx(together.loss.item(), rel=1e-5)


@torch.no_grad()
def test_binary_models_are_scored_on_both_labels(image_processor):
    torch.manual_seed(0)
    config = tiny_config(decoder_type="linear", num_labels=1, initializer_range=0.5)
    model = SegmenterForSemanticSegmentation(config)
    generator = np.random.default_rng(0)
    image = Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((70, 50))
    labels = generator.choice([0, 1, 255], (50, 70)).astype(np.uint8)
    results = evaluate_sliding_window(
        model, image_processor, [{"image": image, "annotation": Image.fromarray(labels)}]
    )

    outputs = model.eval()(**image_processor(image, return_tensors="pt"))
    prediction = image_processor.post_process_semantic_segmentation(outputs, [labels.shape])[0].numpy()
    assert set(np.unique(prediction)) == {0, 1}
    for label, iou in enumerate(results["per_category_iou"]):
        found, true = (prediction == label) & (labels != 255), labels == label
        assert iou == pytest.approx((found & true).sum() / (found | true).sum())
    assert len(results["per_category_iou"]) == 2


def test_leaves_the_model_in_the_mode_it_was_in(model, image_processor, examples):
    for training in (True, False):
        model.train(training)
        evaluate_sliding_window(model, image_processor, examples[:1])
        assert model.training is training


def test_labels_are_reduced_once(model, image_processor, examples):
    image_processor.do_reduce_labels = True
    shifted = []
    for example in examples:
        labels = np.array(example["annotation"])
        # What reducing makes of these are the labels of `examples`.
        labels = np.where(labels == 255, 0, labels + 1).astype(np.uint8)
        shifted.append({"image": example["image"], "annotation": Image.fromarray(labels)})
    reduced = evaluate_sliding_window(model, image_processor, shifted)
    image_processor.do_reduce_labels = False
    assert reduced["per_category_iou"] == evaluate_sliding_window(model, image_processor, examples)["per_category_iou"]


def test_independent_computation(model, image_processor, examples):
    """From the model's logits on, other code makes windows, averages, sizes and intersections."""
    results = evaluate_sliding_window(model, image_processor, examples)
    model.eval()
    intersection, union = np.zeros(5), np.zeros(5)
    for example in examples:
        labels = np.array(example["annotation"])
        height, width = labels.shape
        scale = min(160 / max(height, width), 40 / min(height, width))
        size = [int(side * scale + 0.5) for side in (height, width)]
        pixels = np.array(example["image"]).transpose(2, 0, 1)
        pixels = torch.nn.functional.interpolate(
            torch.from_numpy(pixels)[None].float(), size=size, mode="bilinear", antialias=True
        )
        # Both round to bytes, as files of that size would have them.
        pixels = pixels.round().clamp(0, 255) / 127.5 - 1
        total, number = torch.zeros(5, *size), torch.zeros(size)
        tops = [*range(0, size[0] - 32, 24), size[0] - 32]
        lefts = [*range(0, size[1] - 32, 24), size[1] - 32]
        for top in tops:
            for left in lefts:
                with torch.no_grad():
                    logits = model(pixels[..., top : top + 32, left : left + 32]).logits
                logits = torch.nn.functional.interpolate(logits, scale_factor=8, mode="bilinear")[0]
                total[:, top : top + 32, left : left + 32] += logits
                number[top : top + 32, left : left + 32] += 1
        scores = torch.nn.functional.interpolate((total / number)[None], size=(height, width), mode="bilinear")[0]
        prediction = scores.argmax(0).numpy()
        for label in range(5):
            found, true = (prediction == label) & (labels != 255), labels == label
            intersection[label] += (found & true).sum()
            union[label] += (found | true).sum()
    # A grey level more or less in resizing may turn a few of the 7000 pixels.
    assert results["mean_iou"] == pytest.approx((intersection / union).mean(), abs=2e-3)


class TestMultiScale:
    @pytest.mark.parametrize("name", ["linear_patch16", "mask_distilled", "mask_patch16"])
    def test_equals_the_original(self, name):
        """The fixtures' passes are the normalised image at ratio 1 and 1.5, and the latter flipped."""
        folder = REPOSITORY / "tests" / "fixtures" / "original" / name
        model, image_processor = load_checkpoint(folder)
        model.set_attn_implementation("eager")
        expected = np.load(folder / "expected.npz")
        feed = WindowFeed(model.eval(), window_batch_size=4)

        def passes():
            for key, flipped in (("slide_input", False), ("ms_input_big", False), ("ms_input_big_flipped", True)):
                normalised = {"do_resize": False, "do_rescale": False, "do_normalize": False}
                image = torch.from_numpy(expected[key])[0]
                inputs = image_processor(image, input_data_format="channels_first", return_tensors="pt", **normalised)
                yield feed(inputs).outputs, flipped

        with torch.no_grad():
            found = average_probabilities(passes(), image_processor, tuple(expected["slide_target_size"]))
        probabilities = torch.from_numpy(expected["ms_probabilities"])
        torch.testing.assert_close(found, probabilities, rtol=0, atol=1e-6)
        assert torch.equal(found.argmax(0), probabilities.argmax(0))

    def test_passes_have_six_sizes_each_also_flipped(self, image_processor):
        image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (100, 150, 3), dtype=np.uint8))
        passes = list(make_passes(image_processor, image))
        assert [flipped for _, flipped in passes] == 6 * [False, True]
        sizes = [tuple(inputs["window_offsets"][0, -2:].tolist()) for inputs, _ in passes[::2]]
        # The short sides of the first two are 20 and 30 pixels, which are enlarged to the window's 32.
        assert sizes == [(32, 48), (32, 48), (40, 60), (50, 75), (60, 90), (70, 105)]
        for (plain, _), (flipped, _) in zip(passes[::2], passes[1::2], strict=True):
            top_left, top_right = plain["pixel_values"][0], flipped["pixel_values"]
            width = plain["window_offsets"][0, -1].item()
            last = [
                row
                for row, offsets in enumerate(flipped["window_offsets"])
                if offsets[1:3].tolist() == [0, width - 32]
            ]
            torch.testing.assert_close(top_right[last[0]].flip(-1), top_left, atol=1e-5, rtol=0)

    @pytest.mark.parametrize("cls", [SegmenterImageProcessor, SegmenterImageProcessorPil])
    @pytest.mark.parametrize(
        "settings",
        [
            {"do_resize": False},
            {"size": {"height": 48, "width": 40}},
            {"antialias": False},
            {"do_split_image": False, "size": {"height": 40, "width": 40}},
        ],
    )
    def test_probabilities_of_any_settings(self, model, cls, settings):
        settings = {"do_split_image": True, "size": {"shortest_edge": 40, "longest_edge": 160}, **settings}
        processor = cls(crop_size={"height": 32, "width": 32}, window_stride=24, patch_size=8, **settings)
        image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))
        model.eval()
        probabilities = segment_multi_scale(model, processor, image)
        assert probabilities.shape == (5, 50, 70)
        torch.testing.assert_close(probabilities.sum(0), torch.ones(50, 70))
        assert segment_multi_scale(model, processor, image, target_size=(25, 35)).shape == (5, 25, 35)

    def test_scores_the_averaged_probabilities(self, model, image_processor, examples):
        results = evaluate_sliding_window(model, image_processor, examples, multi_scale=True)
        metric = MeanIoU(5)
        model.eval()
        for example in examples:
            labels = np.array(example["annotation"])
            probabilities = segment_multi_scale(model, image_processor, example["image"])
            metric.add_batch(predictions=[probabilities.argmax(0)], references=[labels])
        single = evaluate_sliding_window(model, image_processor, examples)
        assert results["mean_iou"] == metric.compute()["mean_iou"] != single["mean_iou"]
        assert results["loss"] == single["loss"], "the loss is that of scale 1"

    def test_binary_models(self, image_processor):
        torch.manual_seed(0)
        model = SegmenterForSemanticSegmentation(tiny_config(decoder_type="linear", num_labels=1)).eval()
        image = Image.new("RGB", (50, 40), (200, 10, 90))
        probabilities = segment_multi_scale(model, image_processor, image)
        assert probabilities.shape == (1, 40, 50)
        assert 0 < probabilities.min() and probabilities.max() < 1
        reference = Image.fromarray((probabilities[0] > 0.5).numpy().astype(np.uint8))
        examples = [{"image": image, "annotation": reference}]
        assert evaluate_sliding_window(model, image_processor, examples, multi_scale=True)["overall_accuracy"] == 1


def test_images_without_labels_count_for_nothing(model, image_processor, examples):
    expected = evaluate_sliding_window(model, image_processor, examples)
    empty = {**examples[0], "annotation": Image.new("L", examples[0]["image"].size, 255)}
    results = evaluate_sliding_window(model, image_processor, [*examples, empty])
    assert {**results, "num_images": 3} == expected
    nothing = evaluate_sliding_window(model, image_processor, [empty])
    assert all(math.isnan(nothing[name]) for name in ("loss", "mean_iou", "mean_accuracy", "overall_accuracy"))


def test_examples_that_cannot_be_scored_are_named(model, image_processor, examples):
    wrong_size = {**examples[1], "annotation": Image.new("L", (3, 3))}
    with pytest.raises(ValueError, match=r"Example 1 cannot be evaluated: .*\(90, 33\), got \(3, 3\)"):
        evaluate_sliding_window(model, image_processor, [examples[0], wrong_size])
    wrong_label = {**examples[1], "annotation": Image.new("L", examples[1]["image"].size, 9)}
    with pytest.raises(ValueError, match="Example 0 cannot be evaluated: .*9"):
        evaluate_sliding_window(model, image_processor, [wrong_label])
    with pytest.raises(ValueError, match="no examples"):
        evaluate_sliding_window(model, image_processor, [])


def test_files_of_examples_that_cannot_be_scored_are_named(model, image_processor, tmp_path):
    columns = {"image": [], "annotation": []}
    for index in range(2):
        columns["image"].append(str(save(make_image(seed=index), tmp_path / f"{index}.png")))
        columns["annotation"].append(str(save(make_label_map(), tmp_path / f"mask_{index}.png")))
    dataset = Dataset.from_dict(columns, features=Features({"image": ImageFeature(), "annotation": ImageFeature()}))
    photo = tmp_path / "1.png"
    photo.write_bytes(photo.read_bytes()[: photo.stat().st_size // 2])
    with pytest.raises(ExampleError, match=rf"Example 1 \({photo}, .*mask_1.png\) cannot be evaluated: .*truncated"):
        evaluate_sliding_window(model, image_processor, dataset)
    assert evaluate_sliding_window(model, image_processor, dataset.select([0]))["num_images"] == 1


def test_worst_cases_are_those_with_the_lowest_scores(model, image_processor, examples):
    worst_cases = WorstCases(2)
    evaluate_sliding_window(model, image_processor, examples, worst_cases=worst_cases)
    scores = [evaluate_sliding_window(model, image_processor, [example])["mean_iou"] for example in examples]
    order = np.argsort(scores)
    selected = worst_cases.select()
    assert [index for index, _, _ in selected] == order[:2].tolist()
    assert [score for _, score, _ in selected] == pytest.approx(sorted(scores)[:2])
    for index, _, prediction in selected:
        assert prediction.shape == np.array(examples[index]["annotation"]).shape
        assert prediction.dtype == np.uint8


@pytest.mark.parametrize("multi_scale", [False, True])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_scores_without_a_value_are_no_result(value, multi_scale, model, image_processor, examples, caplog):
    def spoil(module, arguments, outputs):
        # They are in one window of one image, or where there are several passes, in the last six of twelve.
        if arguments or calls.append(1) or len(calls) != 5:
            return
        outputs.logits[0, 2, 1, 1] = value

    calls = []
    hook = model.register_forward_hook(spoil)
    try:
        with pytest.raises(NonFiniteScoresError, match=r"NaN or infinite, in example \d first.*diverged.*float16"):
            evaluate_sliding_window(model, image_processor, examples, multi_scale=multi_scale, window_batch_size=1)
    finally:
        hook.remove()
    assert len(calls) > 5
    assert not caplog.records, "the error says it"


def test_a_wrapper_with_a_config_of_its_own(model, image_processor, examples):
    """As DeepSpeed's, whose `config` is a dictionary of its settings."""

    class Engine(torch.nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module, self.config = module, {"train_batch_size": 2}

        def forward(self, *args, **kwargs):
            return self.module(*args, **kwargs)

    expected = evaluate_sliding_window(model, image_processor, examples)
    results = evaluate_sliding_window(Engine(model), image_processor, examples)
    assert (results["mean_iou"], results["loss"]) == (expected["mean_iou"], expected["loss"])


def test_bfloat16_is_close(model, image_processor, examples):
    expected = evaluate_sliding_window(model, image_processor, examples)
    results = evaluate_sliding_window(model, image_processor, examples, autocast_dtype=torch.bfloat16)
    assert results["loss"] == pytest.approx(expected["loss"], rel=0.02)
    assert results["loss"] != expected["loss"]


# Evaluates 1, 3 and 4 examples, with weights that are whole, sharded by FSDP, or said to be sharded in another way.
WORKER = """
import json, sys
import numpy as np, torch
import torch.distributed as dist
from PIL import Image
from segmenter_hf import SegmenterForSemanticSegmentation, SegmenterImageProcessor
from segmenter_hf.evaluation.protocol import NonFiniteScoresError, WorstCases, evaluate_sliding_window
from tests.common import tiny_config

output, sharding = sys.argv[1:]
if "RANK" in __import__("os").environ:
    dist.init_process_group("gloo")
rank = dist.get_rank() if dist.is_initialized() else 0
torch.manual_seed(0)
model = SegmenterForSemanticSegmentation(tiny_config())
calls = []
model.register_forward_hook(lambda *_: calls.append(1))
if sharding == "fsdp":
    from torch.distributed.fsdp import fully_shard
    mesh = dist.init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in model.segmenter.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
processor = SegmenterImageProcessor(
    do_split_image=True, do_resize=False, crop_size={"height": 32, "width": 32}, window_stride=24, patch_size=8
)
generator = np.random.default_rng(0)
examples = [
    {
        "image": Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8)),
        "annotation": Image.fromarray(generator.choice([0, 1, 2, 3, 4, 255], (height, width)).astype(np.uint8)),
    }
    for height, width in [(150, 140), (40, 40), (33, 90), (50, 50)]
]
results = {}
for number in (1, 3, 4):
    for multi_scale in (False, True) if number == 3 else (False,):
        worst_cases = WorstCases(2)
        figures = evaluate_sliding_window(
            model, processor, examples[:number], window_batch_size=2, multi_scale=multi_scale, worst_cases=worst_cases
        )
        figures["worst"] = [index for index, _, _ in worst_cases.select()]
        results[f"{number} {multi_scale}"] = figures
num_calls, error = len(calls), None
if dist.is_initialized():
    # Where one process finds what is wrong with its image, the others have more to do.
    def spoil(module, arguments, outputs):
        if rank == 1:
            outputs.logits.fill_(np.nan)

    model.register_forward_hook(spoil)
    try:
        evaluate_sliding_window(model, processor, examples, multi_scale=True)
    except NonFiniteScoresError as raised:
        error = str(raised)
with open(f"{output}/{rank}.json", "w") as file:
    json.dump({"results": results, "calls": num_calls, "error": error}, file)
if dist.is_initialized():
    dist.destroy_process_group()
"""


def run_workers(folder, num_processes, sharding="none"):
    folder.mkdir()
    (folder / "worker.py").write_text(WORKER, encoding="utf-8")
    launcher = [sys.executable]
    if num_processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(num_processes)]
    result = subprocess.run(
        [*launcher, str(folder / "worker.py"), str(folder), sharding],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        timeout=120,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(num_processes)]


@pytest.mark.slow
def test_two_processes_give_the_digits_of_one(tmp_path):
    expected = run_workers(tmp_path / "one", 1)[0]["results"]
    first, second = run_workers(tmp_path / "two", 2)
    sharded = run_workers(tmp_path / "sharded", 2, "fsdp")
    for key, figures in expected.items():
        worst = figures.pop("worst")
        for process in (first, second):
            own = process["results"][key].pop("worst")
            assert process["results"][key] == figures, key
            assert set(own) <= set(worst)
        for process in sharded:
            process["results"][key].pop("worst")
            assert process["results"][key]["num_images"] == figures["num_images"]
            assert process["results"][key]["mean_iou"] == pytest.approx(figures["mean_iou"], abs=1e-6)
    for process in (first, second, *sharded):
        assert "NaN or infinite, in example 1 first" in process["error"]
    # Each process fed its own images only; sharded, all made as many forward passes.
    assert first["calls"] > 2 * second["calls"]
    assert sharded[0]["calls"] == sharded[1]["calls"] >= first["calls"]


def test_models_in_one_piece_are_not_sharded(model):
    assert not is_sharded(model)
    model.segmenter.layernorm.weight.ds_id = 3
    try:
        assert is_sharded(model)
    finally:
        del model.segmenter.layernorm.weight.ds_id
