"""Runs that go on, that are done already, or that are not the one of their folder: trained in this process."""

import contextlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from huggingface_hub import ModelCard
from PIL import Image
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainingArguments, get_scheduler

from segmenter_hf.outputs import OutputError
from segmenter_hf.training import run_with_trainer
from segmenter_hf.training.arguments import TrainingError, parse_arguments
from segmenter_hf.training.resuming import check_room, read_options, restore_options
from segmenter_hf.training.run_record import RunRecord

from ..data.datasets_on_disk import write_pairs
from .runs import MODULES, RUN_TYPES, SIZES, history_of


KINDS = ["trainer", "accelerate"]
FLAGS = [*SIZES, "--num_hidden_layers", 1, "--per_device_train_batch_size", 2, "--use_cpu", "True"]
FLAGS += ["--logging_steps", 1, "--num_train_epochs", 3, "--lr_scheduler_type", "constant"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """10 pairs to train on, which are 5 steps an epoch, and two to evaluate on."""
    return write_pairs(tmp_path_factory.mktemp("dataset"), "images", "annotations", number=12)


def train(kind, dataset, output_dir, steps, *flags, save=2):
    """Trains as the script does, but for its own process. `steps` are those in all."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    own = {
        "trainer": ["--max_steps", steps, "--disable_tqdm", "True", "--save_strategy", "steps", "--save_steps", save],
        "accelerate": ["--max_train_steps", steps, "--checkpointing_steps", save, "--eval_steps", "no"],
    }[kind]
    command = ["--dataset_name", dataset, "--output_dir", output_dir, *FLAGS, *own, *flags]
    return MODULES[kind].train(*parse_arguments(RUN_TYPES[kind], "", [str(part) for part in command]))


@pytest.fixture(scope="module")
def runs(dataset, tmp_path_factory):
    """The folders of a run of each kind that ended in its second epoch, with steps 2, 4, 6 and 7 kept."""
    folders = {}
    for kind in KINDS:
        folders[kind] = tmp_path_factory.mktemp(kind) / "run"
        train(kind, dataset, folders[kind], 7)
    return folders


@pytest.fixture
def copy_run(runs, tmp_path):
    return lambda kind: Path(shutil.copytree(runs[kind], tmp_path / "run"))


def contents(folder):
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def training_of(folder):
    return ModelCard.load(folder / "README.md").text.partition("## Training")[2].partition("\n## ")[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_finished_run_is_left_as_it_is(kind, dataset, copy_run, caplog):
    folder = copy_run(kind)
    before = contents(folder)
    for _ in range(2):
        train(kind, dataset, folder, 7)
    assert contents(folder) == before
    assert "The run is finished" in caplog.text and "after its 7 steps" in caplog.text


@pytest.mark.parametrize("kind", KINDS)
def test_a_finished_run_that_is_pushed_later_says_where_it_is(kind, dataset, copy_run, monkeypatch):
    folder = copy_run(kind)
    module = MODULES[kind]
    monkeypatch.setattr(module, "choose_repository", lambda args: args.hub_model_id if args.push_to_hub else None)
    pushed = []
    monkeypatch.setattr(module, "push", lambda args, repo_id: pushed.append((folder / "README.md").read_text()))
    mine = "Noted by hand."
    with open(folder / "README.md", "a", encoding="utf-8") as card:
        card.write(mine)
    train(kind, dataset, folder, 7, "--push_to_hub", "--hub_model_id", "lab/model")
    (card,) = pushed
    assert '"lab/model"' in card and "path/to/this/folder" not in card and mine in card


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_kill_at_the_end_left_out_is_written(kind, dataset, copy_run):
    """Runs are killed in the last evaluation, and before the model was saved."""
    folder = copy_run(kind)
    before = contents(folder)
    for name in ("results.json", "README.md", "trainer_state.json"):
        (folder / name).unlink()
    train(kind, dataset, folder, 7)
    assert contents(folder).keys() == before.keys()
    assert contents(folder)[Path("model.safetensors")] == before[Path("model.safetensors")]

    for file in folder.iterdir():
        if file.is_file():
            file.unlink()
    train(kind, dataset, folder, 7)
    assert contents(folder)[Path("model.safetensors")] == before[Path("model.safetensors")]
    # The card is of what was made, not of the start that made nothing.
    training = training_of(folder)
    assert "Length: 7 steps, or 1.4 epochs." in training
    steps = [entry["step"] for entry in history_of(folder) if "loss" in entry]
    assert steps == list(range(1, 8))
    record = RunRecord.read(folder)
    assert record.is_complete and record.training.train_seconds > 0


@pytest.mark.parametrize("kind", KINDS)
def test_more_steps_are_those_of_an_unbroken_run(kind, dataset, copy_run, tmp_path):
    folder = copy_run(kind)
    train(kind, dataset, folder, 12)
    train(kind, dataset, tmp_path / "unbroken", 12)
    for name in ("model.safetensors", "checkpoint-12/model.safetensors"):
        assert (folder / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes()
    training = training_of(folder)
    assert "Length: 12 steps, or 2.4 epochs." in training and "interrupted and resumed" in training
    assert "What changed" not in training
    with pytest.raises(TrainingError, match="has made 12 steps, more than the 7 that are asked for"):
        train(kind, dataset, folder, 7)


@pytest.mark.parametrize("kind", KINDS)
def test_a_schedule_of_another_length_goes_on_from_the_step(kind, dataset, tmp_path):
    flags = ["--lr_scheduler_type", "linear", "--learning_rate", 0.01]
    train(kind, dataset, tmp_path, 4, *flags)
    train(kind, dataset, tmp_path, 8, *flags)
    rates = {entry["step"]: entry["learning_rate"] for entry in history_of(tmp_path) if "loss" in entry}
    # 5 percent of warm-up are one step; a run of 4 steps ends at 0, which is no rate to go on with.
    expected = {step: 0.01 * (9 - step) / 7 for step in range(5, 9)}
    assert {step: rates[step] for step in expected} == pytest.approx(expected)
    assert "from step 4 on: schedule of the learning rate over 4 -\\> 8 steps" in training_of(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_with_other_settings_is_refused_and_accepted(kind, dataset, copy_run, tmp_path, caplog):
    folder = copy_run(kind)
    before = contents(folder)
    flags = ["--learning_rate", 0.5, "--weight_decay", 0.1, "--min_scale", 0.8]
    expected = "learning_rate 0.001 -> 0.5"
    for steps in (7, 9):
        with pytest.raises(TrainingError) as refusal:
            train(kind, dataset, folder, steps, *flags)
        for part in ("min_scale 0.5 -> 0.8", expected, "weight_decay 0.05 -> 0.1", "--output_dir", "--accept_changes"):
            assert part in str(refusal.value)
    # There is nothing left to do with them.
    train(kind, dataset, folder, 7, *flags, "--accept_changes")
    assert "the weights remain those of other settings" in caplog.text
    assert contents(folder) == before

    train(kind, dataset, folder, 9, *flags, "--accept_changes")
    (file,) = (folder / "checkpoint-8").glob("optimizer.*")
    groups = torch.load(file)["param_groups"]
    assert {group["lr"] for group in groups} == {0.5}
    assert {group["weight_decay"] for group in groups} == {0.1, 0.0}
    step = 7 if kind == "trainer" else 6
    assert f"from step {step} on: learning_rate 0.001 -\\> 0.5" in training_of(folder)
    # It is the run of the folder from now on, and remembers.
    train(kind, dataset, folder, 11, *flags)
    assert f"from step {step} on: learning_rate 0.001 -\\> 0.5" in training_of(folder)
    with pytest.raises(TrainingError, match="learning_rate 0.5 -> 0.001"):
        train(kind, dataset, folder, 12)


def change_a_mask(folder):
    labels = Image.open(folder / "annotations" / "3.png")
    labels.putpixel((0, 0), (labels.getpixel((0, 0)) + 1) % 3)
    labels.save(folder / "annotations" / "3.png")


@pytest.mark.parametrize("kind", KINDS)
def test_figures_of_a_finished_run_are_those_of_the_data_of_now(kind, dataset, copy_run):
    folder = copy_run(kind)
    before = contents(folder)
    train(kind, dataset, folder, 7, "--max_eval_samples", 1)
    mean_iou = json.loads((folder / "results.json").read_text())["mean_iou"]
    assert mean_iou != json.loads(before[Path("results.json")])["mean_iou"]
    assert contents(folder)[Path("model.safetensors")] == before[Path("model.safetensors")]
    for name in ("eval_results.json", "all_results.json") if kind == "trainer" else ():
        assert json.loads((folder / name).read_text())["eval_mean_iou"] == mean_iou


def test_no_remedy_goes_on_from_nothing(dataset, tmp_path):
    train("accelerate", dataset, tmp_path, 3, save="no")
    for flags in ([], ["--accept_changes"]):
        with pytest.raises(TrainingError, match="seed 42 -> 5. Name another --output_dir, or move away what is there"):
            train("accelerate", dataset, tmp_path, 4 if flags else 3, "--seed", 5, *flags, save="no")


def rename_a_label(folder):
    (folder / "id2label.json").write_text(json.dumps(["sky", "street", "car"]), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "named"), [(change_a_mask, "train_data.sha256"), (rename_a_label, "labels.1 road")]
)
def test_other_data_are_told_apart(change, named, dataset, copy_run, tmp_path):
    folder, other = copy_run("trainer"), tmp_path / "other"
    shutil.copytree(dataset, other)
    train("trainer", other, folder, 7)
    change(other)
    with pytest.raises(TrainingError, match=named):
        train("trainer", other, folder, 7)
    assert not (tmp_path / "new").exists()
    with pytest.raises(TrainingError, match=named):
        train("trainer", other, tmp_path / "new", 7, "--resume_from_checkpoint", folder / "checkpoint-4")
    train("trainer", other, folder, 8, "--accept_changes")
    assert f"from step 7 on: {named.split()[0]}" in training_of(folder).replace("\\", "").replace("\n  ", " ")
    assert "street" in json.loads((folder / "config.json").read_text())["id2label"].values() or "data" in named


def test_what_is_no_difference(dataset, copy_run):
    flags = ["--per_device_train_batch_size", 1, "--gradient_accumulation_steps", 2, "--logging_steps", 5]
    flags += ["--dataloader_num_workers", 1, "--save_total_limit", 3, "--eval_strategy", "steps", "--eval_steps", 4]
    # Without it, the order of the samples is that of the seed.
    flags += ["--data_seed", 42]
    assert train("trainer", dataset, copy_run("trainer"), 8, *flags, save=3).state.global_step == 8


def test_what_learning_rates_that_go_by_figures_depend_on(dataset, tmp_path):
    flags = ["--lr_scheduler_type", "reduce_lr_on_plateau", "--eval_strategy", "steps", "--optim", "sgd"]
    options = ["--eval_steps", 2, "--optim_args", "momentum=0.9,nesterov=true"]
    train("trainer", dataset, tmp_path, 2, *flags, *options)
    changes = {
        "validation_data": [*options, "--max_eval_samples", 1],
        "selection.metric_for_best_model loss -> mean_iou": [*options, "--metric_for_best_model", "eval_mean_iou"],
        "selection.evaluated_every 2 -> 1": [*options, "--eval_steps", 1],
        "optim_args.momentum 0.9 -> 0.8": [*options, "--optim_args", "momentum=0.8,nesterov=true"],
    }
    for named, change in changes.items():
        with pytest.raises(TrainingError, match=named):
            train("trainer", dataset, tmp_path, 4, *flags, *change)
    flags += ["--eval_steps", 2, "--optim_args", "nesterov=true, momentum=0.9", "--metric_for_best_model", "eval_loss"]
    assert train("trainer", dataset, tmp_path, 4, *flags).state.global_step == 4


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--hidden_size", 128], "model.hidden_size 64 -> 128"),
        (["--optim", "sgd"], "optim adamw_torch -> sgd"),
        (["--model_name_or_path", "checkpoint-2"], "start_weights null -> "),
    ],
)
def test_what_no_checkpoint_can_go_on_with(flags, named, dataset, copy_run, monkeypatch):
    folder = copy_run("accelerate")
    monkeypatch.chdir(folder)
    shutil.copy(folder / "config.json", folder / "checkpoint-2")
    shutil.copy(folder / "preprocessor_config.json", folder / "checkpoint-2")
    with pytest.raises(TrainingError, match=f"{named}.*no run can go on from there") as refusal:
        train("accelerate", dataset, folder, 9, *flags, "--accept_changes")
    assert "pass --accept_changes" not in str(refusal.value)


def test_checkpoints_of_the_other_script_are_refused(dataset, copy_run):
    """`Trainer` would read their weights, and begin with the optimiser anew."""
    with pytest.raises(TrainingError, match="script accelerate -> trainer"):
        train("trainer", dataset, copy_run("accelerate"), 9, "--accept_changes")


def test_models_without_what_the_optimiser_keeps_are_not_resumed(dataset, tmp_path, caplog):
    train("trainer", dataset, tmp_path, 4, "--save_only_model", "True")
    assert "a run that is interrupted cannot go on" in caplog.text
    # Where no step is left, nothing is lost.
    for name in ("model.safetensors", "training_record.json"):
        (tmp_path / name).unlink()
    train("trainer", dataset, tmp_path, 4, "--save_only_model", "True")
    with pytest.raises(TrainingError, match="checkpoint-4 holds the model alone .* --resume_from_checkpoint False"):
        train("trainer", dataset, tmp_path, 6)
    assert train("trainer", dataset, tmp_path, 6, "--resume_from_checkpoint", "False").state.global_step == 6


def test_checkpoints_without_a_record_and_of_other_versions_warn(dataset, copy_run, caplog):
    folder = copy_run("trainer")
    file = folder / "checkpoint-7" / "training_record.json"
    record = json.loads(file.read_text(encoding="utf-8"))
    record["versions"]["torch"] = "2.0.0"
    file.write_text(json.dumps(record), encoding="utf-8")
    (folder / "training_record.json").unlink()
    train("trainer", dataset, folder, 7)
    assert f"other versions (torch 2.0.0 -> {torch.__version__})" in caplog.text

    for file in folder.rglob("training_record.json"):
        file.unlink()
    train("trainer", dataset, folder, 8)
    assert "checkpoint-7 has no record of its data and flags" in caplog.text
    assert "up to step 7: with settings of which no record was kept" in training_of(folder)
    (folder / "checkpoint-8" / "training_record.json").write_text("{", encoding="utf-8")
    with pytest.raises(TrainingError, match="training_record.json cannot be read"):
        train("trainer", dataset, folder, 9)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_a_users_is_removed(kind, dataset, tmp_path):
    folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    for each in ("checkpoint-best", "checkpoint-1-backup", ".unfinished", "checkpoint-90"):
        (folder / each).mkdir(parents=True)
        (folder / each / "notes.txt").write_text("mine", encoding="utf-8")
    elsewhere.mkdir()
    (elsewhere / "notes.txt").write_text("mine", encoding="utf-8")
    (folder / "checkpoint-91").symlink_to(elsewhere, target_is_directory=True)
    train(kind, dataset, folder, 6, "--save_total_limit", 1)
    assert len(list(folder.glob("*/notes.txt"))) == 5
    assert {each.name for each in folder.glob("checkpoint-*")} == {
        "checkpoint-best",
        "checkpoint-1-backup",
        "checkpoint-90",
        "checkpoint-91",
        "checkpoint-6",
    }
    # What is in the way of a checkpoint is found before the work.
    (folder / "checkpoint-8").symlink_to(elsewhere, target_is_directory=True)
    with pytest.raises(TrainingError, match="checkpoint-8: in the way of this run's checkpoints"):
        train(kind, dataset, folder, 9)
    assert not (folder / "checkpoint-7").exists()


def test_a_model_of_no_known_run_is_not_replaced(dataset, copy_run, tmp_path):
    weights = copy_run("trainer") / "model.safetensors"
    (tmp_path / "mine").mkdir()
    shutil.copy(weights, tmp_path / "mine")
    with pytest.raises(TrainingError, match="holds a model of which no run is known"):
        train("trainer", dataset, tmp_path / "mine", 2)
    assert (tmp_path / "mine" / "model.safetensors").read_bytes() == weights.read_bytes()


def test_the_best_model_is_what_a_finished_run_has(dataset, tmp_path):
    flags = [
        "--load_best_model_at_end",
        "True",
        "--eval_strategy",
        "steps",
        "--eval_steps",
        1,
        "--learning_rate",
        0.05,
    ]
    flags += ["--save_total_limit", 1]
    best = train("trainer", dataset, tmp_path, 5, *flags, save=1).state.best_global_step
    assert [each.name for each in tmp_path.glob("checkpoint-*")] == [f"checkpoint-{best}"]
    assert RunRecord.read(tmp_path).training.selected_step == best
    before = contents(tmp_path)
    train("trainer", dataset, tmp_path, 5, *flags, save=1)
    assert contents(tmp_path) == before


def test_the_best_model_is_found_where_a_folder_was_moved_to(dataset, tmp_path):
    """As long as the run is not at its end, checkpoints say where it is."""
    flags = ["--load_best_model_at_end", "--eval_strategy", "steps", "--eval_steps", 1, "--learning_rate", 0.05]
    trained = train("trainer", dataset, tmp_path / "run", 5, *flags, save=1)
    best = trained.state.best_global_step
    assert best < 5, "the last one is another"
    weights = (tmp_path / "run" / "model.safetensors").read_bytes()
    moved = shutil.copytree(tmp_path / "run", tmp_path / "moved")
    # Another run has gone on in the folder that was copied; this one was killed before its model was saved.
    shutil.copy(tmp_path / "run" / "checkpoint-5" / "model.safetensors", tmp_path / "run" / f"checkpoint-{best}")
    for _ in range(2):
        for file in [each for each in moved.iterdir() if each.is_file()]:
            file.unlink()
        train("trainer", dataset, moved, 5, *flags, save=1)
        assert (moved / "model.safetensors").read_bytes() == weights
        assert RunRecord.read(moved).training.selected_step == best
        shutil.rmtree(tmp_path / "run", ignore_errors=True)


@contextlib.contextmanager
def limited_files(size):
    """Lets no file grow beyond `size` bytes, as the disk that is full lets none grow at all."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("kind", KINDS)
def test_a_disk_that_fills_up_costs_no_finished_work(kind, dataset, copy_run):
    folder = copy_run(kind)
    before = contents(folder)
    size = (folder / "model.safetensors").stat().st_size
    last = max(folder.glob("checkpoint-*")).name
    # The disk is full at the optimiser of a checkpoint, and at the model at the end.
    for limit, save, what in ((size + 4096, 1, r"checkpoint-\d"), (size - 4096, 100, str(folder))):
        with (
            limited_files(limit),
            pytest.raises(OutputError, match=rf"{what} cannot be written: .*{last} is complete: make room, and the"),
        ):
            flags = ["--save_strategy", "no"] if kind == "trainer" and save == 100 else []
            train(kind, dataset, folder, 8, *flags, save=save)
        assert contents(folder) == before
    train(kind, dataset, folder, 8)
    assert not [each.name for each in folder.rglob("*") if each.name.startswith(".") or ".part" in each.name]


@pytest.mark.parametrize("kind", KINDS)
def test_places_that_cannot_be_written_are_found_before_the_work(kind, dataset, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    (tmp_path / "run" / "results.json").mkdir(parents=True)
    # The data are not even looked for.
    monkeypatch.setattr("segmenter_hf.training.training_setup.load_segmentation_data", None)
    with pytest.raises(OutputError, match="is a file, expected a folder"):
        train(kind, dataset, tmp_path / "file", 2)
    with pytest.raises(OutputError, match="results.json is a folder"):
        train(kind, dataset, tmp_path / "run", 2)
    with limited_files(1000), pytest.raises(OutputError, match="new cannot be written: File too large"):
        train(kind, dataset, tmp_path / "new", 2)
    assert sorted(each.name for each in tmp_path.rglob("*")) == ["file", "results.json", "run"]
    trackers = {"trainer": [], "accelerate": ["--with_tracking"]}[kind]
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "file"))
    with pytest.raises(OutputError, match="file is a file, expected a folder"):
        train(kind, dataset, tmp_path / "new", 2, "--report_to", "trackio", *trackers)


def test_too_little_room_for_the_model_is_found_before_the_work(tmp_path):
    class Large(torch.nn.Module):
        def parameters(self):
            yield torch.empty(2**50, device="meta")

    with pytest.raises(OutputError, match="MB left, and the model alone takes"):
        check_room(tmp_path, Large())
    check_room(tmp_path, torch.nn.Linear(2, 2))


def test_an_evaluation_changes_no_history(dataset, copy_run):
    folder = copy_run("trainer")
    before = contents(folder)
    flags = ["--do_eval", "--model_name_or_path", folder]
    AcceleratorState._reset_state(reset_partial_state=True)
    command = ["--dataset_name", dataset, "--output_dir", folder, "--use_cpu", "True", *flags]
    run_with_trainer.train(*parse_arguments(TrainingArguments, "", [str(part) for part in command]))
    after = contents(folder)
    assert {name for name in before if before[name] != after[name]} <= {
        *map(Path, ("results.json", "eval_results.json", "all_results.json"))
    }


def test_options_after_a_checkpoint_are_those_of_now():
    def make(learning_rate, weight_decay, num_steps):
        parameter = torch.nn.Parameter(torch.ones(1))
        optimizer = torch.optim.AdamW([parameter], lr=learning_rate, weight_decay=weight_decay)
        return parameter, optimizer, get_scheduler("polynomial", optimizer, 0, num_steps)

    parameter, optimizer, scheduler = make(0.1, 0.5, 10)
    for _ in range(4):
        parameter.grad = torch.ones(1)
        optimizer.step()
        scheduler.step()
    kept = optimizer.state_dict(), scheduler.state_dict()
    rate = optimizer.param_groups[0]["lr"]

    for settings, expected in (((0.1, 0.5, 10), rate), ((0.2, 0.0, 8), None)):
        _, optimizer, scheduler = make(*settings)
        options, base_lrs = read_options(optimizer), list(scheduler.base_lrs)
        optimizer.load_state_dict(kept[0])
        scheduler.load_state_dict(kept[1])
        restore_options(optimizer, scheduler, options, base_lrs)
        (group,) = optimizer.param_groups
        assert isinstance(scheduler, LambdaLR) and scheduler.last_epoch == 4
        assert group["weight_decay"] == settings[1]
        # Where nothing has changed, the rate is the same to the last bit.
        assert group["lr"] == expected if expected else group["lr"] == pytest.approx(0.2 * 0.5, rel=1e-4)
        assert scheduler.get_last_lr() == [group["lr"]]
        assert optimizer.state_dict()["state"][0]["step"] == 4
