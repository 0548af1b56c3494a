"""How scripts end when they are interrupted, or a library is missing."""

import argparse
import importlib
import runpy
import sys

import pytest
from transformers import TrainingArguments

import segmenter_hf
from tests.common import REPOSITORY
from tests.training.runs import AccelerateArguments
from tests.training.test_curves import make_history, write_state


# Arguments that a script takes, and what it calls with them.
SCRIPTS = {
    "benchmark": (["metric"], "numpy.random.default_rng"),
    "compute_image_statistics": (["--dataset_name", "data"], "segmenter_hf.data.loading.load_segmentation_data"),
    "convert_checkpoint": (["source", "output"], "segmenter_hf.conversion.convert_checkpoint"),
    "evaluate_semantic_segmentation": (["--dataset_name", "data"], "segmenter_hf.evaluation.command.evaluate"),
    "export_checkpoint": (["model", "output"], "segmenter_hf.outputs.check_output_dir"),
    "plot_training": (["run"], "segmenter_hf.training.curves.read_runs"),
    "prepare_dataset": (["ade20k", "source", "output"], "segmenter_hf.data.preparation.prepare_dataset"),
    "push_all_to_hub": (["--org", "lab", "--dry_run"], "segmenter_hf.hub.release.push_released"),
    "write_model_cards": (["--check"], "segmenter_hf.hub.card_folder.list_stale"),
}


@pytest.fixture
def run_main(tmp_path, monkeypatch, capfd):
    def run(name: str) -> tuple[int, str, str]:
        script = str(REPOSITORY / "scripts" / f"{name}.py")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [script, *SCRIPTS.get(name, ([],))[0]])
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit:
            runpy.run_path(script, run_name="__main__")
        return exit.value.code, *capfd.readouterr()

    return run


def interrupt(*args, **kwargs):
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", SCRIPTS)
def test_ctrl_c_is_one_line(name, run_main, monkeypatch):
    monkeypatch.setattr(SCRIPTS[name][1], interrupt)
    code, output, errors = run_main(name)
    assert (code, output) == (130, "")
    (line,) = errors.splitlines()
    assert line.startswith(f"{name}.py: interrupted. Run it again")


@pytest.mark.parametrize("name", SCRIPTS)
def test_ctrl_c_while_arguments_are_read_is_one_line(name, run_main, monkeypatch):
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", interrupt)
    code, output, errors = run_main(name)
    assert (code, output) == (130, "")
    (line,) = errors.splitlines()
    assert line.startswith(f"{name}.py: interrupted. Run it again")


# Arguments by which a script writes into the home folder.
OUTPUTS = {
    "benchmark": ["metric", "--output_file=~/out"],
    "convert_checkpoint": ["source", "~/out"],
    "evaluate_semantic_segmentation": ["--dataset_name=data", "--output_file=~/out"],
    "export_checkpoint": ["model", "~/out"],
    "plot_training": ["run", "--output_file=~/out"],
    "prepare_dataset": ["ade20k", "source", "~/out"],
    "push_all_to_hub": ["--org=lab", "--work_dir=~/out"],
    "write_model_cards": ["--folder=~/out"],
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_tilde_is_the_home_folder(name, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *OUTPUTS[name]])
    script = runpy.run_path(str(REPOSITORY / "scripts" / f"{name}.py"))
    assert tmp_path / "out" in vars(script["parse_arguments"]()).values()


@pytest.mark.parametrize("arguments", [AccelerateArguments, TrainingArguments])
def test_tilde_is_the_home_folder_of_trainings(arguments, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert arguments(output_dir="~/out").output_dir == str(tmp_path / "out")


class InterruptingFinder:
    find_spec = staticmethod(interrupt)


@pytest.mark.parametrize("name", [*SCRIPTS, "run_semantic_segmentation", "run_semantic_segmentation_no_trainer"])
def test_ctrl_c_while_libraries_are_loaded_is_one_line(name, run_main, monkeypatch):
    # Each script imports one of these, which is then looked for.
    for module in ("command_line", "processes"):
        monkeypatch.delitem(sys.modules, f"segmenter_hf.{module}")
    monkeypatch.setattr(sys, "meta_path", [InterruptingFinder])
    assert run_main(name) == (130, "", f"{name}.py: interrupted.\n")


PARTS = ("conversion", "data", "evaluation", "hub", "output_folders", "training")


@pytest.mark.parametrize(
    ("name", "library", "extra"),
    [
        ("benchmark", "evaluate", "evaluate"),
        ("compute_image_statistics", "datasets", "train"),
        ("convert_checkpoint", "filelock", "convert"),
        ("convert_checkpoint", "yaml", "convert"),
        ("evaluate_semantic_segmentation", "accelerate", "evaluate"),
        ("evaluate_semantic_segmentation", "datasets", "evaluate"),
        ("evaluate_semantic_segmentation", "torchvision", "evaluate"),
        ("export_checkpoint", "filelock", "convert"),
        ("plot_training", "datasets", "plot,train"),
        ("plot_training", "matplotlib", "plot"),
        ("prepare_dataset", "datasets", "train"),
        ("push_all_to_hub", "filelock", "convert"),
        ("write_model_cards", "yaml", "convert,evaluate"),
    ],
)
def test_a_library_that_is_missing_is_one_line(name, library, extra, run_main, tmp_path, monkeypatch):
    write_state(tmp_path / "run", make_history(8, [0.1]))
    # Forgotten, so that all is looked for again, and put back at the end.
    for part in PARTS:
        monkeypatch.setattr(segmenter_hf, part, importlib.import_module(f"segmenter_hf.{part}"))
        for module in [each for each in sys.modules if f"{each}.".startswith(f"segmenter_hf.{part}.")]:
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, library, None)
    code, output, errors = run_main(name)
    assert (code, output) == (2, "")
    (line,) = errors.splitlines()
    assert line.startswith(f"{name}.py: error: ") and f'pip install "segmenter_hf[{extra}]"' in line
    assert library in line.lower()
