#!/usr/bin/env python
"""
Compare with peers on this machine, in one run.

    python scripts/benchmark.py metric

COST: half a minute. RESULT: for each kind of label maps the milliseconds a pair takes this package's `MeanIoU` and the
peer, the ratio of the two (above 1: this package is that many times faster) and the largest difference of their
figures, as a table and, with --output_file, as JSON.

`metric` times `add_batch` for each pair and one `compute`, through `evaluate`. The peer works as the Hub's `mean_iou`
does: it buffers the maps as images and takes np.histogram of them. With the Hub's own script on disk, time that one:

    python scripts/benchmark.py metric --hub_script FOLDER_OF_MEAN_IOU

`augmentation` says how many training samples a CPU core makes in a second, by the paper's recipe with crops of 512
x 512 pixels, beside decoding the same files only; of scripts/images/china.jpg, or of a dataset:

    python scripts/benchmark.py augmentation --dataset_name ADE20K_FOLDER --labels ade20k
"""

import argparse
import io
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from PIL import Image


try:
    from segmenter_hf.command_line import run, user_path
# Loading torch takes seconds. What else takes long, or may be missing, is imported in functions.
except KeyboardInterrupt:
    print("benchmark.py: interrupted.", file=sys.stderr)
    sys.exit(130)


IGNORE_INDEX = 255
PHOTO = Path(__file__).parent / "images" / "china.jpg"


def make_peer(cache_dir: str):
    """Mean IoU as a metric of `evaluate`, from buffered maps and three histograms of each."""
    import datasets
    import evaluate

    class HistogramMeanIoU(evaluate.Metric):
        def _info(self):
            features = datasets.Features({"predictions": datasets.Image(), "references": datasets.Image()})
            return evaluate.MetricInfo(description="", citation="", features=features)

        def _compute(self, predictions, references, num_labels: int, ignore_index: int) -> dict:
            intersection, predicted, true = np.zeros((3, num_labels))
            bins = {"bins": num_labels, "range": (0, num_labels - 1)}
            for prediction, reference in zip(predictions, references, strict=True):
                prediction, reference = np.array(prediction), np.array(reference)
                valid = reference != ignore_index
                prediction, reference = prediction[valid], reference[valid]
                intersection += np.histogram(prediction[prediction == reference], **bins)[0]
                predicted += np.histogram(prediction, **bins)[0]
                true += np.histogram(reference, **bins)[0]
            with np.errstate(invalid="ignore"):
                iou, accuracy = intersection / (predicted + true - intersection), intersection / true
            return {
                "mean_iou": np.nanmean(iou),
                "mean_accuracy": np.nanmean(accuracy),
                "overall_accuracy": intersection.sum() / true.sum(),
                "per_category_iou": iou,
                "per_category_accuracy": accuracy,
            }

    return HistogramMeanIoU(cache_dir=cache_dir)


def mask_like_map(generator: np.random.Generator, centres: np.ndarray, labels: np.ndarray, size: int) -> np.ndarray:
    """Each pixel has the label of the nearest centre, with a border that wavers by some pixels."""
    rows, columns = np.mgrid[:size, :size]
    waver = generator.normal(0, size / 128, (2, size // 8 + 1, size // 8 + 1)).repeat(8, 1).repeat(8, 2)
    rows, columns = rows + waver[0, :size, :size], columns + waver[1, :size, :size]
    nearest, result = np.full((size, size), np.inf), np.zeros((size, size), dtype=np.uint8)
    for (row, column), label in zip(centres, labels, strict=True):
        distance = (rows - row) ** 2 + (columns - column) ** 2
        result[distance < nearest] = label
        nearest = np.minimum(distance, nearest)
    return result


def make_maps(kind: str, num_maps: int, size: int, num_labels: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """
    Pairs of a prediction and a reference. "masks": 50 regions, of which the prediction has some 10% wrong and other
    borders, and 3% of the reference ignored, in blocks. "noise": each pixel drawn by itself, the worst case.
    """
    generator = np.random.default_rng(0)
    pairs = []
    for _ in range(num_maps):
        if kind == "noise":
            prediction, reference = generator.integers(0, num_labels, (2, size, size), dtype=np.uint8)
            ignored = generator.random((size, size)) < 0.03
        else:
            centres, labels = generator.uniform(0, size, (50, 2)), generator.integers(0, num_labels, 50)
            reference = mask_like_map(generator, centres, labels, size)
            labels[:5] = generator.integers(0, num_labels, 5)
            prediction = mask_like_map(generator, centres, labels, size)
            ignored = generator.random((size // 16 + 1, size // 16 + 1)) < 0.03
            ignored = ignored.repeat(16, 0).repeat(16, 1)[:size, :size]
        reference[ignored] = IGNORE_INDEX
        pairs.append((prediction, reference))
    return pairs


def time_metric(metric, pairs: list, settings: dict) -> tuple[float, dict]:
    """Milliseconds for each pair, and the figures."""
    start = time.perf_counter()
    for prediction, reference in pairs:
        metric.add_batch(predictions=[prediction], references=[reference])
    results = metric.compute(**settings)
    return 1000 * (time.perf_counter() - start) / len(pairs), results


def benchmark_metric(args: argparse.Namespace) -> dict:
    import evaluate

    from segmenter_hf.evaluation import MeanIoU

    settings = {"num_labels": args.num_labels, "ignore_index": IGNORE_INDEX}
    rows = []
    with tempfile.TemporaryDirectory() as cache_dir:
        if args.hub_script is not None:
            peer = evaluate.load(str(args.hub_script), cache_dir=cache_dir)
        else:
            peer = make_peer(cache_dir)
        for kind in ("masks", "noise"):
            pairs_of_bytes = make_maps(kind, args.num_maps, args.size, args.num_labels)
            for dtype in ("uint8", "int64"):
                pairs = [tuple(labels.astype(dtype) for labels in pair) for pair in pairs_of_bytes]
                times, peer_times = [], []
                # They take turns, so that what else the machine does meets both. The first round only warms up.
                for _ in range(args.repeats + 1):
                    latency_ms, results = time_metric(MeanIoU(**settings), pairs, settings)
                    peer_latency_ms, peer_results = time_metric(peer, pairs, settings)
                    times.append(latency_ms)
                    peer_times.append(peer_latency_ms)
                latency_ms, peer_latency_ms = statistics.median(times[1:]), statistics.median(peer_times[1:])
                differences = [np.nan_to_num(np.abs(results[name] - peer_results[name])).max() for name in results]
                rows.append(
                    {
                        "maps": kind,
                        "dtype": dtype,
                        "latency_ms": latency_ms,
                        "peer_latency_ms": peer_latency_ms,
                        "ratio": peer_latency_ms / latency_ms,
                        "max_abs_difference": float(max(differences)),
                    }
                )
        del peer
    return {
        "peer": "the metric of --hub_script" if args.hub_script is not None else "HistogramMeanIoU of this script",
        "num_maps": args.num_maps,
        "size": args.size,
        "num_labels": args.num_labels,
        "repeats": args.repeats,
        "rows": rows,
    }


class DecodedPhoto:
    """The photo of this folder with regions as its label map, decoded for each row, as those of a dataset are."""

    def __init__(self, num_examples: int):
        self.num_examples = num_examples
        generator = np.random.default_rng(0)
        centres, labels = generator.uniform(0, 640, (50, 2)), generator.integers(0, 150, 50)
        width, height = Image.open(PHOTO).size
        regions = mask_like_map(generator, centres, labels, max(width, height))[:height, :width]
        buffer = io.BytesIO()
        Image.fromarray(regions).save(buffer, format="PNG")
        self.label_map = buffer.getvalue()

    def __len__(self) -> int:
        return self.num_examples

    def __getitem__(self, index: int) -> dict[str, Image.Image]:
        pair = {"image": Image.open(PHOTO), "annotation": Image.open(io.BytesIO(self.label_map))}
        for image in pair.values():
            image.load()
        return pair


def benchmark_augmentation(args: argparse.Namespace) -> dict:
    import torch

    from segmenter_hf import SegmenterImageProcessor
    from segmenter_hf.data.augmentation import SegmentationAugmentation
    from segmenter_hf.data.loading import load_segmentation_data
    from segmenter_hf.training.samples import Draw, TrainingDataset

    torch.set_num_threads(1)
    if args.dataset_name is None:
        examples, source = DecodedPhoto(args.num_images), PHOTO.name
    else:
        data = load_segmentation_data(args.dataset_name, labels=args.labels)
        split = data.split("train") if "train" in data.splits else next(iter(data.splits.values()))
        # Few images are taken again and again.
        examples = split.select([index % len(split) for index in range(args.num_images)])
        source = Path(args.dataset_name).name
    crop_size = {"height": args.crop_size, "width": args.crop_size}
    image_processor = SegmenterImageProcessor(
        do_split_image=True, crop_size=crop_size, window_stride=args.crop_size, antialias=False
    )
    samples = {
        name: TrainingDataset(examples, SegmentationAugmentation(image_processor, **settings), seed=0)
        for name, settings in (
            ("scale, crop, flip", {"photometric_distortion": False}),
            ("and photometric distortion (the recipe)", {}),
        )
    }
    jobs = {"decoding only": examples.__getitem__}
    jobs |= {name: lambda index, dataset=dataset: dataset[Draw(0, index)] for name, dataset in samples.items()}
    times = {name: [] for name in jobs}
    # They take turns, so that what else the machine does meets all of them. The first round only warms up.
    for _ in range(args.repeats + 1):
        for name, job in jobs.items():
            start = time.perf_counter()
            for index in range(args.num_images):
                job(index)
            times[name].append((time.perf_counter() - start) / args.num_images)
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}
    rows = [
        {
            "samples": name,
            "latency_ms": 1000 * seconds,
            "images_per_second": 1 / seconds,
            "ratio": seconds / medians["decoding only"],
        }
        for name, seconds in medians.items()
    ]
    return {"source": source, "num_images": args.num_images, "crop_size": args.crop_size, "rows": rows}


def print_table(rows: list[dict]):
    cells = [[f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()] for row in rows]
    cells.insert(0, list(rows[0]))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    metric = commands.add_parser("metric", help="MeanIoU against the Hub's mean_iou")
    metric.add_argument("--num_maps", type=int, default=20, help="pairs of maps (default: 20)")
    metric.add_argument("--size", type=int, default=512, help="height and width of a map (default: 512)")
    metric.add_argument("--num_labels", type=int, default=150, help="classes, at most 255 (default: 150)")
    metric.add_argument("--repeats", type=int, default=5, help="rounds, of which the median counts (default: 5)")
    metric.add_argument("--hub_script", type=Path, help="folder or file of the Hub's mean_iou script")
    metric.set_defaults(run=benchmark_metric)
    augmentation = commands.add_parser("augmentation", help="training samples of one core")
    augmentation.add_argument("--dataset_name", help="folder or Hub id (default: scripts/images/china.jpg)")
    augmentation.add_argument("--labels", help="its label names, if it has none: a JSON file or a built-in set")
    augmentation.add_argument("--num_images", type=int, default=100, help="samples of a round (default: 100)")
    augmentation.add_argument("--crop_size", type=int, default=512, help="side of the crops (default: 512)")
    augmentation.add_argument("--repeats", type=int, default=3, help="rounds, of which the median counts (default: 3)")
    augmentation.set_defaults(run=benchmark_augmentation)
    for command in commands.choices.values():
        command.add_argument("--output_file", type=user_path, help="JSON file to write (default: only print)")
    return parser.parse_args()


def benchmark(args: argparse.Namespace):
    import datasets
    import evaluate
    import torch

    import segmenter_hf
    from segmenter_hf.outputs import check_output_file, write_text

    if args.output_file is not None:
        check_output_file(args.output_file)
    # `evaluate` says for each int64 map that it takes int32.
    warnings.filterwarnings("ignore", message="Downcasting array dtype")
    results = {"command": " ".join(sys.argv), **args.run(args)}
    results["machine"] = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    results["machine"]["torch_threads"] = torch.get_num_threads()
    modules = (segmenter_hf, torch, np, datasets, evaluate)
    results["versions"] = {"python": platform.python_version()}
    results["versions"] |= {module.__name__: module.__version__ for module in modules}
    print_table(results["rows"])
    if args.output_file is not None:
        write_text(args.output_file, json.dumps(results, indent=2) + "\n")


def main() -> int:
    # Datasets that are not there, or of another kind, raise these.
    return run(
        lambda: benchmark(parse_arguments()), (OSError, ValueError), if_interrupted="Run it again.", extra="evaluate"
    )


if __name__ == "__main__":
    sys.exit(main())
