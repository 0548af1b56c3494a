"""Both training scripts, run as users run them, killed and resumed, and on two processes."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, pipeline

from segmenter_hf.evaluation.results import read_results_file

from ..common import CODE_FILES, REPOSITORY, encode_tiff
from ..data.datasets_on_disk import make_image
from ..hub.hub_server import HubServer, client_environment
from ..training.runs import SCRIPTS, SIZES, history_of, run_command


# The two call these differently.
NAMES = {
    "trainer": {"steps": "--max_steps", "save": "--save_steps"},
    "accelerate": {"steps": "--max_train_steps", "save": "--checkpointing_steps"},
}
MODEL = [*SIZES, "--num_hidden_layers", 2]
RUN = ["--per_device_train_batch_size", 2, "--use_cpu", "True", "--logging_steps", 1, "--seed", 3]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Columns of other names, images of odd and mixed sizes, and something to learn: bright is 1, dark is 0."""
    folder = tmp_path_factory.mktemp("dataset")
    generator = np.random.default_rng(0)
    for split, number in (("train", 12), ("val", 3)):
        images, maps = [], []
        for index in range(number):
            height, width = generator.integers(41, 75, 2)
            labels = np.zeros((height, width), dtype=np.uint8)
            labels[:, : generator.integers(10, 31)] = 1
            noise = np.asarray(make_image(height, width, seed=index)) // 4
            images.append(noise + (labels[..., None] * 180).astype(np.uint8))
            maps.append(labels)
        features = Features({"photo_id": ImageFeature(), "seg": ImageFeature()})
        columns = {"photo_id": images, "seg": maps}
        (folder / "data").mkdir(exist_ok=True)
        Dataset.from_dict(columns, features=features).to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    (folder / "id2label.json").write_text(json.dumps({"0": "dark", "1": "bright"}), encoding="utf-8")
    return folder


def command(kind, dataset, output_dir, steps, *arguments, launcher=(sys.executable,)):
    return [
        str(part)
        for part in (
            *(*launcher, SCRIPTS[kind], "--dataset_name", dataset, "--output_dir", output_dir),
            "--image_column_name",
            "photo_id",
            *MODEL,
            *RUN,
            NAMES[kind]["steps"],
            steps,
            *arguments,
        )
    ]


def run(*args, environment=None, **kwargs):
    return run_command(*command(*args, **kwargs), environment=environment)


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def losses_of(folder):
    return [entry["loss"] for entry in history_of(folder) if "loss" in entry]


def assert_equal(folder, other):
    weights, others = weights_of(folder), weights_of(other)
    assert weights.keys() == others.keys()
    for name, weight in weights.items():
        assert torch.equal(weight, others[name]), name


@pytest.fixture(scope="module")
def unbroken(dataset, tmp_path_factory):
    """A run of `Trainer`, with stochastic depth and in the middle of whose epochs are checkpoints."""
    folder = tmp_path_factory.mktemp("unbroken")
    run("trainer", dataset, folder, 40, "--save_strategy", "no", "--drop_path_rate", 0.2, "--class_balance", 0.5)
    return folder


@pytest.mark.slow
def test_trains_evaluates_and_saves_a_model_that_works(unbroken, dataset, tmp_path):
    metrics = json.loads((unbroken / "all_results.json").read_text(encoding="utf-8"))
    assert metrics["eval_mean_iou"] > 0.6, "bright and dark are learnt"
    assert {"eval_iou/dark", "eval_iou/bright", "eval_loss", "train_loss"} <= metrics.keys()
    losses = losses_of(unbroken)
    assert len(losses) == 40
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])

    model = AutoModelForSemanticSegmentation.from_pretrained(unbroken)
    assert model.config.id2label == {0: "dark", 1: "bright"}
    image_processor = AutoImageProcessor.from_pretrained(unbroken)
    assert dict(image_processor.crop_size) == {"height": 32, "width": 32}
    segments = pipeline("image-segmentation", model=str(unbroken))(make_image(50, 60))
    assert {segment["label"] for segment in segments} <= {"dark", "bright"}
    assert not [file.name for file in unbroken.iterdir() if file.name.startswith((".", "checkpoint"))]

    # Training on from what was saved starts at its weights, and with its sizes.
    again = tmp_path / "again"
    arguments = command("trainer", dataset, again, 1, "--model_name_or_path", unbroken, "--learning_rate", 0.0)
    for name in ("--short_side", "--crop_height", "--crop_width"):
        position = arguments.index(name)
        del arguments[position : position + 2]
    run_command(*arguments)
    assert_equal(again, unbroken)
    assert AutoImageProcessor.from_pretrained(again).to_dict() == image_processor.to_dict()
    evaluated = json.loads((again / "all_results.json").read_text(encoding="utf-8"))
    assert evaluated["eval_mean_iou"] == metrics["eval_mean_iou"]


@pytest.mark.slow
def test_the_evaluation_script_gives_the_digits_of_training(unbroken, dataset, tmp_path):
    script = REPOSITORY / "scripts" / "evaluate_semantic_segmentation.py"
    arguments = ["--model_name_or_path", unbroken, "--dataset_name", dataset, "--image_column_name", "photo_id"]
    arguments += ["--output_file", tmp_path / "results.json", "--device", "cpu"]
    run_command(sys.executable, script, *arguments)
    trained, evaluated = read_results_file(unbroken / "results.json"), read_results_file(tmp_path / "results.json")
    for name in ("mean_iou", "mean_accuracy", "overall_accuracy", "loss", "per_category_iou", "protocol"):
        assert evaluated[name] == trained[name], name
    assert evaluated["dataset"]["fingerprint"] == trained["dataset"]["fingerprint"]
    assert trained["dataset"]["name"] == dataset.name, "without the path"
    assert trained["mean_iou"] == history_of(unbroken)[-1]["eval_mean_iou"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(SCRIPTS))
def test_killed_and_resumed_runs_end_with_the_same_weights(kind, dataset, unbroken, tmp_path):
    arguments = ["--drop_path_rate", 0.2, "--class_balance", 0.5, NAMES[kind]["save"], 4]
    arguments += ["--save_strategy", "steps"] if kind == "trainer" else ["--eval_steps", "no"]
    process = subprocess.Popen(
        command(kind, dataset, tmp_path, 40, *arguments),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=REPOSITORY,
    )
    deadline = time.monotonic() + 300
    while not (tmp_path / "checkpoint-8").is_dir() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was killed before it was done"
    assert not (tmp_path / "model.safetensors").exists()

    # The number of workers may change too.
    output = run(kind, dataset, tmp_path, 40, *arguments, "--dataloader_num_workers", 1)
    resumed = re.search(r"Resuming from .*checkpoint-(\d+)", output)
    assert 4 <= int(resumed[1]) < 40
    # `Trainer` says in its own way how long it took.
    assert kind == "trainer" or re.search(r"Trained in \d+ s\.", output)
    assert_equal(tmp_path, unbroken)


# No padding, and so as many labelled pixels in each crop; no dropout, which processes draw for themselves.
WITHOUT_CHANCE = ["--min_scale", 1.0, "--drop_path_rate", 0.0, "--decoder_dropout_prob", 0.0]


@pytest.fixture(scope="module")
def one_process(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one_process")
    run("trainer", dataset, folder, 8, *WITHOUT_CHANCE, "--save_strategy", "no")
    return folder


LAUNCHERS = {
    "torchrun": ((sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2), {}),
    "accelerate launch": (
        (
            *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", 2),
            "--num_machines",
            1,
            "--mixed_precision",
            "no",
            "--dynamo_backend",
            "no",
            "--main_process_port",
            0,
        ),
        {"ACCELERATE_USE_CPU": "true"},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "launcher"), [("trainer", "torchrun"), ("accelerate", "accelerate launch")])
def test_two_processes_are_one_with_the_same_batch(kind, launcher, dataset, one_process, tmp_path):
    prefix, environment = LAUNCHERS[launcher]
    arguments = [*WITHOUT_CHANCE, "--per_device_train_batch_size", 1, NAMES[kind]["save"], 4]
    arguments += [] if kind == "trainer" else ["--eval_steps", "no"]
    output = run(kind, dataset, tmp_path, 8, *arguments, launcher=prefix, environment=environment)
    assert "Effective batch 2: 1 crops x 1 accumulated x 2 processes" in output
    states = {"trainer": "rng_state_*.pth", "accelerate": "random_states_*.pkl"}[kind]
    assert len(list((tmp_path / "checkpoint-8").glob(states))) == 2, "each process has saved its own"
    assert losses_of(tmp_path) == pytest.approx(losses_of(one_process), rel=1e-4)
    weights, others = weights_of(tmp_path), weights_of(one_process)
    for name, weight in weights.items():
        torch.testing.assert_close(weight, others[name], rtol=1e-3, atol=1e-4, msg=name)
    evaluated, expected = (history_of(folder)[-1]["eval_loss"] for folder in (tmp_path, one_process))
    assert evaluated == pytest.approx(expected, rel=1e-3)

    # A run that goes on from a checkpoint in the middle of an epoch is the same again.
    resumed = tmp_path / "resumed"
    resumed.mkdir()
    shutil.copytree(tmp_path / "checkpoint-4", resumed / "checkpoint-4")
    run(kind, dataset, resumed, 8, *arguments, launcher=prefix, environment=environment)
    assert_equal(resumed, tmp_path)


@pytest.mark.slow
def test_the_loop_gives_the_weights_of_trainer(dataset, one_process, tmp_path):
    """They agree to the last bit, with stochastic depth, smoothed labels, and fewer batches in an epoch's last."""
    arguments = ["--drop_path_rate", 0.3, "--max_train_samples", 10, "--gradient_accumulation_steps", 2]
    arguments += ["--label_smoothing_factor", 0.1, "--class_balance", 0.5]
    run("trainer", dataset, tmp_path / "trainer", 8, *arguments, "--save_strategy", "no")
    no_checkpoints = ["--checkpointing_steps", "no", "--eval_steps", 3]
    run("accelerate", dataset, tmp_path / "accelerate", 8, *arguments, *no_checkpoints)
    assert_equal(tmp_path / "accelerate", tmp_path / "trainer")
    assert losses_of(tmp_path / "accelerate") == pytest.approx(losses_of(tmp_path / "trainer"), rel=1e-5)
    history = history_of(tmp_path / "accelerate")
    assert [entry["step"] for entry in history if "eval_mean_iou" in entry] == [3, 6, 8]


@pytest.mark.slow
def test_images_of_four_bands_and_12_bits(tmp_path):
    """From the figures of their bands to pictures of the worst; the model sees what is in the fourth band alone."""
    data, generator = tmp_path / "data", np.random.default_rng(0)
    for split, number in (("train", 8), ("val", 3)):
        for index in range(number):
            labels = np.zeros((45, 60), dtype=np.uint8)
            labels[:, : generator.integers(10, 50)] = 1
            values = generator.integers(0, 1024, (45, 60, 4), dtype=np.uint16)
            values[..., 3] += 3000 * labels.astype(np.uint16)
            folders = data / split / "images", data / split / "annotations"
            for folder in folders:
                folder.mkdir(parents=True, exist_ok=True)
            (folders[0] / f"{index}.tif").write_bytes(encode_tiff(values, 2, (0,)))
            Image.fromarray(labels).save(folders[1] / f"{index}.png")
    (data / "id2label.json").write_text('["dark", "bright"]', encoding="utf-8")

    def run_script(name, *arguments):
        return run_command(sys.executable, REPOSITORY / "scripts" / name, "--dataset_name", data, *arguments)

    # What libraries say to standard error comes behind the flags.
    flags = run_script("compute_image_statistics.py", "--num_channels", 4, "--max_value", 4095).splitlines()[0].split()
    scripts = {"a": SCRIPTS["trainer"], "b": SCRIPTS["accelerate"]}
    for (folder, script), steps in zip(scripts.items(), ("--max_steps", "--max_train_steps"), strict=True):
        run_script(script, "--output_dir", tmp_path / folder, *MODEL, *RUN, steps, 20, "--learning_rate", 3e-3, *flags)
    assert_equal(tmp_path / "a", tmp_path / "b")

    worst = tmp_path / "worst"
    evaluation = ["--model", tmp_path / "a", "--worst_cases", 1, "--worst_cases_dir", worst]
    run_script("evaluate_semantic_segmentation.py", *evaluation, "--output_file", tmp_path / "results.json")
    results = read_results_file(tmp_path / "results.json")
    assert results["mean_iou"] == read_results_file(tmp_path / "a" / "results.json")["mean_iou"]
    assert results["mean_iou"] > 0.7, "the fourth band is learnt from"
    assert results["protocol"]["max_value"] == 4095
    assert len(list(worst.iterdir())) == 1
    processor = AutoImageProcessor.from_pretrained(tmp_path / "a")
    assert list(processor.image_mean) == [float(value) for value in flags[flags.index("--image_mean") + 1 :][:4]]
    assert (processor.do_convert_rgb, processor.max_value) == (False, 4095)


@pytest.mark.slow
def test_compiled_training_saves_a_plain_model(dataset, tmp_path):
    """One test runs both scripts, as the second finds the kernels that the first compiled."""
    for kind in SCRIPTS:
        run(kind, dataset, tmp_path / kind, 2, *WITHOUT_CHANCE, "--torch_compile", "True", "--max_train_samples", 8)
        _, info = AutoModelForSemanticSegmentation.from_pretrained(tmp_path / kind, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        assert 0 <= history_of(tmp_path / kind)[-1]["eval_mean_iou"] <= 1
    assert losses_of(tmp_path / "accelerate") == pytest.approx(losses_of(tmp_path / "trainer"), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(SCRIPTS))
def test_memory_and_speed_flags(kind, dataset, unbroken, tmp_path):
    flags = ["--gradient_checkpointing", "True", "--use_peft", "--lora_r", 2, "--max_eval_samples", 2]
    flags += ["--bf16", "True", "--save_strategy", "no"] if kind == "trainer" else ["--mixed_precision", "bf16"]
    run(kind, dataset, tmp_path, 3, *flags, "--model_name_or_path", unbroken, "--learning_rate", 0.01)
    # A whole model, of which the encoder has changed by matrices of rank 2.
    weights, before = weights_of(tmp_path), weights_of(unbroken)
    assert weights.keys() == before.keys()
    changed = {name for name, weight in weights.items() if not torch.equal(weight, before[name])}
    encoder = {name for name in changed if name.startswith("segmenter.")}
    assert {re.sub(r"\d+", "N", name) for name in encoder} == {
        "segmenter.layers.N.attention.q_proj.weight",
        "segmenter.layers.N.attention.v_proj.weight",
    }
    for name in encoder:
        assert torch.linalg.matrix_rank(weights[name] - before[name], rtol=1e-3) <= 2
    assert "decoder.class_embeddings" in changed
    assert AutoModelForSemanticSegmentation.from_pretrained(tmp_path).config.num_labels == 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(SCRIPTS))
def test_pushes_the_model_with_a_card_of_what_was_measured(kind, dataset, tmp_path):
    folder = tmp_path / "segmenter-bright"
    arguments = command(kind, dataset, folder, 2, "--push_to_hub", NAMES[kind]["save"], 1)
    with HubServer(organizations=("lab",)) as server:
        environment = client_environment(server.endpoint, None, tmp_path / "home")
        result = subprocess.run(arguments, capture_output=True, text=True, cwd=REPOSITORY, env=environment)
        assert result.returncode == 2, "without a token"
        assert "error: --push_to_hub: " in result.stderr.strip().splitlines()[-1]
        assert not folder.exists(), "before any work"

        environment = client_environment(server.endpoint, "hf_write", tmp_path / "home")
        arguments += ["--hub_model_id", "lab/segmenter-bright"]
        result = subprocess.run(arguments, capture_output=True, text=True, cwd=REPOSITORY, env=environment)
        assert result.returncode == 0, result.stderr
        files = server.files("lab/segmenter-bright")
    results = read_results_file(folder / "results.json")
    assert files.keys() >= CODE_FILES | {"config.json", "model.safetensors", "results.json", "trainer_state.json"}
    assert not [name for name in files if "checkpoint" in name or name.endswith((".bin", ".pt", ".pth", ".pkl"))]
    assert files["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    card = ModelCard(files["README.md"].decode())
    (figure,) = card.data.eval_results
    assert figure.metric_value == pytest.approx(100 * results["mean_iou"], abs=0.01)
    assert "lab/segmenter-bright" in card.text and "`from_scratch`" in card.text
    assert not [name for name, contents in files.items() if str(tmp_path).encode() in contents]


@pytest.mark.slow
def test_user_errors_are_one_line(dataset, tmp_path):
    for arguments, message in [
        (["--train_split", "training-data"], "has no split training-data, only train, val"),
        (["--annotation_column_name", "mask"], "has the columns ['photo_id', 'seg'], expected mask"),
    ]:
        result = subprocess.run(
            command("trainer", dataset, tmp_path / "output", 1, *arguments), capture_output=True, text=True
        )
        assert result.returncode == 2
        assert message in result.stderr.strip().splitlines()[-1]
        assert "Traceback" not in result.stderr
        assert not (tmp_path / "output").exists()
