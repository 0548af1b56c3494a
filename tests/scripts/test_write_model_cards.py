"""The command line that writes model cards: what it writes, and how `--check` fails."""

import json
import runpy
import shutil
import sys

import pytest

from segmenter_hf.conversion.released import RELEASED, find_released
from segmenter_hf.evaluation.record import MEASURED
from segmenter_hf.evaluation.results import write_results_file
from segmenter_hf.hub.figures import read_figures
from tests.common import REPOSITORY
from tests.hub.evaluations import evaluate_released


SCRIPT = REPOSITORY / "scripts" / "write_model_cards.py"
ROW = next(iter(RELEASED.values()))


@pytest.fixture
def run_main(tmp_path, monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments, "--folder", str(tmp_path / "model_cards")])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        return exit.value.code, *capsys.readouterr()

    return run


@pytest.fixture
def copy(tmp_path):
    """A copy of the committed cards."""
    return shutil.copytree(
        REPOSITORY / "model_cards", tmp_path / "model_cards", ignore=shutil.ignore_patterns("images")
    )


def test_check_passes_on_what_is_committed(run_main, copy):
    assert run_main("--check") == (0, "", "")
    assert run_main() == (0, "", "")


def test_check_names_what_is_stale_and_writes_nothing(run_main, copy):
    card = copy / f"{ROW.repo_name}.md"
    text = card.read_text(encoding="utf-8")
    card.write_text(f"{text}\nBy hand.\n", encoding="utf-8")
    code, output, errors = run_main("--check")
    assert code == 1 and output == ""
    assert errors.startswith(f"stale: {card}\nRun `python scripts/write_model_cards.py`")
    assert card.read_text(encoding="utf-8").endswith("By hand.\n")

    assert run_main() == (0, f"wrote {card}\n", "")
    assert card.read_text(encoding="utf-8") == text


def test_writes_everything_into_an_empty_folder(run_main, tmp_path):
    assert run_main("--check")[0] == 1
    code, output, _ = run_main()
    assert code == 0 and output.count("wrote ") == len(list((tmp_path / "model_cards").rglob("*.*")))
    assert run_main("--check")[0] == 0


def test_bad_figures_are_one_line(run_main, copy):
    file = copy / "results" / f"{ROW.repo_name}.json"
    file.write_text("{}")
    for arguments in ((), ("--check",)):
        code, output, errors = run_main(*arguments)
        assert code == 2 and output == ""
        assert errors.startswith(f"write_model_cards.py: error: {file} does not hold the results")
        assert errors.count("\n") == 1
    assert file.read_text() == "{}"


MEASURED_ROW = find_released("cityscapes/seg_large_mask")


@pytest.fixture(scope="module")
def evaluations(tmp_path_factory):
    """Files of results of a checkpoint, in single and multi-scale."""
    folder = tmp_path_factory.mktemp("evaluations")
    for name, multi_scale in (("single", False), ("multi", True)):
        write_results_file(evaluate_released(MEASURED_ROW, multi_scale), folder / f"{name}.json")
    return folder


def measured_of(folder):
    results = read_figures(folder / "results", MEASURED_ROW)
    return [result for result in results if result.kind == MEASURED]


def test_adds_measured_figures_and_writes_their_card(run_main, copy, evaluations):
    results, card = copy / "results" / f"{MEASURED_ROW.repo_name}.json", copy / f"{MEASURED_ROW.repo_name}.md"
    before = {file: file.read_bytes() for file in copy.rglob("*.*")}
    adds = [
        "--add_results",
        MEASURED_ROW.name,
        str(evaluations / "multi.json"),
        "--add_results",
        MEASURED_ROW.repo_name,
        str(evaluations / "single.json"),
    ]
    assert run_main(*adds) == (0, f"added to {results}\nwrote {card}\n", "")
    single, multi = measured_of(copy)
    assert not single.multi_scale and multi.multi_scale
    text = card.read_text(encoding="utf-8")
    for result in (single, multi):
        assert f"\n| {result.value_percent:.2f}".removesuffix("0") in text.split("Measured with the converted")[1]
    assert single.fingerprint in text
    assert "| class | IoU, percent (single scale) | IoU, percent (multi-scale + flip) |" in text
    assert f"--model_name_or_path {MEASURED_ROW.repo_name}\n```" in text and "No figure has been measured" not in text
    others = {file: content for file, content in before.items() if file not in (results, card)}
    assert {file: file.read_bytes() for file in others} == others

    # Again, and then with another figure of the same protocol.
    assert run_main(*adds) == (0, f"added to {results}\n", "")
    assert measured_of(copy) == [single, multi]
    better = json.loads((evaluations / "single.json").read_text(encoding="utf-8")) | {"mean_iou": 0.7912}
    write_results_file(better, evaluations / "better.json")
    assert run_main("--add_results", MEASURED_ROW.name, str(evaluations / "better.json"))[0] == 0
    assert [result.value_percent for result in measured_of(copy)] == [79.12, multi.value_percent]
    assert run_main("--check") == (0, "", "") and not list(copy.rglob("*.part"))


@pytest.mark.parametrize(
    ("name", "file", "message"),
    [
        ("ade20k/seg_tiny_mask", "single.json", "of 19 classes, which are not the 150 of ade20k/seg_tiny_mask"),
        ("vit_tiny_patch16_384", "single.json", "is an encoder"),
        ("cityscapes/seg_huge", "single.json", "There is no released checkpoint 'cityscapes/seg_huge'."),
        (MEASURED_ROW.name, "nothing.json", "nothing.json cannot be read as results of an evaluation"),
    ],
)  # fmt: skip
def test_figures_of_something_else_are_one_line_and_change_nothing(name, file, message, run_main, copy, evaluations):
    before = {each: each.read_bytes() for each in copy.rglob("*.*")}
    # What comes before is fine, but not written either.
    adds = ["--add_results", MEASURED_ROW.name, str(evaluations / "multi.json")]
    code, output, errors = run_main(*adds, "--add_results", name, str(evaluations / file))
    assert (code, output) == (2, "") and errors.count("\n") == 1
    assert errors.startswith("write_model_cards.py: error: ") and message in errors
    assert {each: each.read_bytes() for each in copy.rglob("*.*")} == before


def test_check_adds_nothing(run_main, copy, evaluations):
    code, _, errors = run_main("--check", "--add_results", MEASURED_ROW.name, str(evaluations / "single.json"))
    assert code == 2 and "leave out --add_results" in errors and measured_of(copy) == []
