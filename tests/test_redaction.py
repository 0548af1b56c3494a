"""Cards tell nothing of the user's disk but last parts of paths, and no secrets."""

import doctest
import shlex

import pytest

import segmenter_hf.redaction
from segmenter_hf.redaction import (
    base_name,
    is_hub_id,
    public_name,
    redact_command,
    redact_json,
    redact_results,
    redact_text,
)


def test_docstring_example():
    results = doctest.testmod(segmenter_hf.redaction)
    assert results.attempted > 0 and results.failed == 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lab/camvid", True),
        ("zhoubolei/scene_parse_150", True),
        ("timm/vit_tiny_patch16_384.augreg_in21k_ft_in1k", True),
        (None, False),
        ("camvid", False),
        ("/data/camvid", False),
        ("./camvid", False),
        ("../camvid", False),
        ("~/camvid", False),
        ("a/b/c", False),
        ("C:\\data\\camvid", False),
        ("weights/last.pth", False),
        ("data/train.parquet", False),
        ("timm:vit_tiny_patch16_384", False),
        ("-lab/camvid", False),
        ("lab/" + "x" * 5000, False),
    ],
)
def test_ids_of_the_hub(name, expected):
    assert is_hub_id(name) is expected


def test_what_is_on_the_disk_is_no_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_hub_id("data/camvid")
    (tmp_path / "data" / "camvid").mkdir(parents=True)
    assert not is_hub_id("data/camvid")
    assert public_name("data/camvid") == "camvid" and public_name("lab/camvid") == "lab/camvid"
    monkeypatch.chdir(tmp_path / "data" / "camvid")
    assert base_name(".") == "camvid" and base_name("..") == "data"


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/home/jane/data/", "data"), ("train.parquet", "train.parquet"), ("C:\\Users\\jane\\x y", "x y"), ("a/./", "a")],
)
def test_last_part_of_a_path(path, expected):
    assert base_name(path) == expected


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("/opt/jane/.venv/bin/python -m x", "python -m x"),
        ("python scripts/run.py --output_dir outputs/model", "python scripts/run.py --output_dir outputs/model"),
        ("run --data /home/jane/camvid --flag", "run --data camvid --flag"),
        ("run --data=/home/jane/camvid", "run --data=camvid"),
        ("run --data '/home/jane doe/my data'", "run --data 'my data'"),
        ("run --data ../../jane/camvid ~/cam ~jane/vid file:///home/jane/x", "run --data camvid cam vid x"),
        ("run --labels './labels.json' a/b", "run --labels ./labels.json a/b"),
        ("run C:\\\\Users\\\\jane\\\\data", "run data"),
        ("run --url https://host.org/a/b", "run --url https://host.org/a/b"),
        ("run \\\n    --data /home/jane/x", "run --data x"),
        ("run --ratio 1/2 --either and/or", "run --ratio 1/2 --either and/or"),
        ("""run --k '{"cache": "/home/jane doe/c", "power": 0.9}'""", """run --k '{"cache": "c", "power": 0.9}'"""),
        ("run --list /a/b,/c/d", "run --list d"),
        ("HF_HOME=/home/jane/hf run", "HF_HOME=hf run"),
    ],
)
def test_paths_are_hidden(command, expected):
    assert redact_command(command) == expected


TOKEN = "hf_" + "aB3" * 11


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (f"run --hub_token {TOKEN} --seed 0", "run --seed 0"),
        (f"run --hub_token={TOKEN} --seed 0", "run --seed 0"),
        ("run --token secret", "run"),
        ("run --token --seed 0", "run --seed 0"),
        ("run --api-key secret --wandb_api_key secret x", "run x"),
        (f"HF_TOKEN={TOKEN} WANDB_API_KEY=secret run", "run"),
        (f"run --anything {TOKEN}", "run --anything hf_..."),
        ("run --num_tokens 5 --tokenizer x", "run --num_tokens 5 --tokenizer x"),
    ],
)
def test_secrets_are_left_out(command, expected):
    shown = redact_command(command)
    assert shown == expected and "secret" not in shown and TOKEN not in shown


def test_results_are_fit_to_be_published():
    private = {
        "model": "/home/jane/best",
        "dataset": {"name": "/home/jane/camvid", "split": "validation"},
        "command": "python /home/jane/evaluate.py --dataset_name /home/jane/camvid",
        "mean_iou": 0.5,
    }
    assert redact_results(private) == {
        "model": "best",
        "dataset": {"name": "camvid", "split": "validation"},
        "command": "python evaluate.py --dataset_name camvid",
        "mean_iou": 0.5,
    }
    assert redact_results(private | {"model": "lab/best"})["model"] == "lab/best"


def test_texts_are_fit_to_be_published():
    token = "hf_" + "aB3" * 11
    text = f"'/home/jane doe/scenes' -> /srv/jane/scenes, see https://lab.org/a/b and/or 1/2 of outputs/run ({token})"
    assert redact_text(text) == "'scenes' -> scenes, see https://lab.org/a/b and/or 1/2 of outputs/run (hf_...)"


def test_json_is_fit_to_be_published():
    contents = {
        "best_model_checkpoint": "/home/jane doe/runs/best/checkpoint-5",
        "log_history": [{"loss": 0.5, "note": "from ~/data, 3 of 5", "ok": None}],
        "nested": {"command": "python /home/jane/run.py --data=/data/x --hub_token y", "iou/road": 0.25},
        "dataset": "lab/scenes",
    }
    assert redact_json(contents) == {
        "best_model_checkpoint": "checkpoint-5",
        "log_history": [{"loss": 0.5, "note": "from data, 3 of 5", "ok": None}],
        "nested": {"command": "python run.py --data=x", "iou/road": 0.25},
        "dataset": "lab/scenes",
    }


def test_command_that_no_shell_reads_is_shown_all_the_same():
    assert shlex.split(redact_command("run 'a /home/jane/b")) == ["run", "'a", "b"]
