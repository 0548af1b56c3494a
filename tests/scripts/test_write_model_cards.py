"""The command line that writes model cards: what it writes, and how `--check` fails."""

import runpy
import shutil
import sys

import pytest

from segmenter_hf.conversion.released import RELEASED
from tests.common import REPOSITORY


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
