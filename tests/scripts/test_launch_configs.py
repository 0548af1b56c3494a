"""Files for `accelerate launch` and DeepSpeed: that what they name exists, and what comes of training with them."""

import shutil
import sys

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils.deepspeed import HfDeepSpeedConfig
from accelerate.utils.launch import prepare_multi_gpu_env
from safetensors.torch import load_file
from transformers import AutoModelForSemanticSegmentation, TrainingArguments, pipeline
from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

from segmenter_hf import SegmenterForSemanticSegmentation
from segmenter_hf.modeling_segmenter import SegmenterLayer

from ..common import REPOSITORY, tiny_config
from ..data.datasets_on_disk import make_image, write_pairs
from ..training.runs import SIZES, history_of, run_script


FSDP = REPOSITORY / "scripts" / "accelerate_fsdp.yaml"
DEEPSPEED = REPOSITORY / "scripts" / "accelerate_deepspeed.yaml"


@pytest.mark.parametrize(("file", "kind"), [(FSDP, DistributedType.FSDP), (DEEPSPEED, DistributedType.DEEPSPEED)])
def test_accelerate_knows_all_that_they_set(file, kind):
    # Refuses unknown keys, but not those of the methods, which are flags of the launcher.
    config = load_config_from_file(str(file))
    assert config.distributed_type == kind
    options = {**config.fsdp_config, **config.deepspeed_config}
    assert options
    assert options.keys() <= {action.dest for action in launch_command_parser()._actions}


def test_fsdp_makes_each_layer_a_unit(monkeypatch):
    arguments = launch_command_parser().parse_args(["--config_file", str(FSDP), "--num_processes", "2", "script.py"])
    arguments, _, mixed_precision_from_file = _validate_launch_command(arguments)
    assert arguments.use_fsdp
    assert mixed_precision_from_file
    assert arguments.mixed_precision == "bf16"
    arguments.main_process_port = 0
    for name, value in prepare_multi_gpu_env(arguments).items():
        if name.startswith("FSDP_"):
            monkeypatch.setenv(name, value)
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True
    # From shards, `Trainer` would save no model at the end.
    assert "FULL_STATE_DICT" in str(plugin.state_dict_type)

    model = SegmenterForSemanticSegmentation(tiny_config())
    plugin.set_auto_wrap_policy(model)
    assert plugin.auto_wrap_policy.keywords["transformer_layer_cls"] == {SegmenterLayer}
    layers = [module for module in model.modules() if isinstance(module, SegmenterLayer)]
    assert len(layers) == model.config.num_hidden_layers + model.config.decoder_num_hidden_layers


def test_deepspeed_gets_its_numbers_from_the_arguments(tmp_path):
    settings = REPOSITORY / load_config_from_file(str(DEEPSPEED)).deepspeed_config["deepspeed_config_file"]

    class Config(HfTrainerDeepSpeedConfig, HfDeepSpeedConfig):
        """transformers' has accelerate's as its base, but only where DeepSpeed is installed, which it checks."""

    config = Config.__new__(Config)
    HfDeepSpeedConfig.__init__(config, str(settings))
    config.mismatches = []
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        use_cpu=True,
        bf16=True,
        per_device_train_batch_size=3,
        gradient_accumulation_steps=2,
        max_grad_norm=0.5,
    )
    config.trainer_config_process(arguments)
    assert config.mismatches == []
    assert config.is_zero2()
    assert config.config.pop("zero_optimization") == {"stage": 2, "overlap_comm": True}
    assert config.config == {
        "train_batch_size": 6,
        "train_micro_batch_size_per_gpu": 3,
        "gradient_accumulation_steps": 2,
        "gradient_clipping": 0.5,
        "bf16": {"enabled": True},
        "fp16": {"enabled": False},
    }


# Each run makes four steps, with a checkpoint in their middle.
STEPS = {
    "trainer": ["--max_steps", 4, "--save_strategy", "steps", "--save_steps", 2],
    "accelerate": ["--max_train_steps", 4, "--checkpointing_steps", 2, "--eval_steps", "no"],
}
MODULE = (sys.executable, "-m")
LAUNCHERS = {
    "ddp": (*MODULE, "torch.distributed.run", "--standalone", "--nproc_per_node", 2),
    "fsdp": (
        *MODULE,
        "accelerate.commands.launch",
        "--config_file",
        FSDP,
        "--mixed_precision",
        "no",
        "--num_processes",
        2,
        "--main_process_port",
        0,
        REPOSITORY / "tests" / "scripts" / "on_cpu.py",
    ),
}


def run(launcher, kind, dataset, output_dir):
    arguments = ["--dataset_name", dataset, "--output_dir", output_dir, *STEPS[kind], "--logging_steps", 1, *SIZES]
    arguments += ["--num_hidden_layers", 2, "--per_device_train_batch_size", 1]
    # No dropout, which processes draw for themselves in both cases, but from other states.
    arguments += ["--drop_path_rate", 0.0, "--decoder_dropout_prob", 0.0]
    arguments += ["--use_cpu", "True"] if launcher == "ddp" else []
    environment = {"ACCELERATE_TORCH_DEVICE": "cpu"}
    return run_script(kind, *arguments, launcher=LAUNCHERS[launcher], environment=environment)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("dataset"), "images", "annotations", number=12)


@pytest.fixture(scope="module")
def replicated(dataset, tmp_path_factory):
    """A run on two processes that both have all weights."""
    folder = tmp_path_factory.mktemp("replicated")
    run("ddp", "trainer", dataset, folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(STEPS))
def test_sharded_runs_train_evaluate_and_save_as_others(kind, dataset, replicated, tmp_path):
    output = run("fsdp", kind, dataset, tmp_path)
    assert "FSDPSegmenterForSemanticSegmentation" in output, "torch names the class that it gives sharded models"
    figures = ("loss", "grad_norm", "eval_loss", "eval_mean_iou")
    logged, expected = (
        {(entry["step"], name): entry[name] for entry in history_of(folder) for name in figures if name in entry}
        for folder in (tmp_path, replicated)
    )
    assert len(expected) == 4 * 2 + 2
    # Sums of gradients in another order.
    assert logged == pytest.approx(expected, rel=1e-5)
    weights, others = load_file(tmp_path / "model.safetensors"), load_file(replicated / "model.safetensors")
    assert weights.keys() == others.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, others[name], rtol=1e-4, atol=1e-5, msg=name)
    AutoModelForSemanticSegmentation.from_pretrained(tmp_path)
    segments = pipeline("image-segmentation", model=str(tmp_path))(make_image(50, 60))
    assert {segment["label"] for segment in segments} <= {"sky", "road", "car"}

    if kind == "accelerate":
        # Resumed in the middle.
        shutil.copytree(tmp_path / "checkpoint-2", tmp_path / "resumed" / "checkpoint-2")
        assert "Resuming from" in run("fsdp", kind, dataset, tmp_path / "resumed")
        for name, weight in load_file(tmp_path / "resumed" / "model.safetensors").items():
            assert torch.equal(weight, weights[name]), name
