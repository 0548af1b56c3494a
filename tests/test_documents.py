"""The README, the card of the shipped checkpoint, and the examples in docstrings run."""

import doctest
import importlib
import re

import pytest

import segmenter_hf
from segmenter_hf.conversion.convert import convert_checkpoint

from .common import REPOSITORY, run_python


CARD = REPOSITORY / "segmenter_hf" / "checkpoints" / "camvid" / "README.md"


def code_blocks(path, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


SNIPPETS = [
    pytest.param(code, id=f"{path.parent.name}-{index}")
    for path in (REPOSITORY / "README.md", CARD)
    for index, code in enumerate(code_blocks(path, "python"))
]


def test_both_documents_have_snippets():
    assert code_blocks(REPOSITORY / "README.md", "python")
    assert code_blocks(CARD, "python")


@pytest.mark.slow
@pytest.mark.parametrize("code", SNIPPETS)
def test_python_snippets_run(code, tmp_path):
    # Paths in the documents start at the top of the repository, and OUTPUT_DIR is a folder that was converted into.
    (tmp_path / "scripts").symlink_to(REPOSITORY / "scripts")
    if "OUTPUT_DIR" in code:
        convert_checkpoint(REPOSITORY / "tests" / "fixtures" / "original" / "mask_patch16", tmp_path / "OUTPUT_DIR")
    # A snippet that does not import the package promises to do without it.
    result = run_python(code, cwd=tmp_path, with_package="import segmenter_hf" in code)
    assert result.stdout.strip(), "a snippet shows something"


def test_commands_name_files_and_targets_that_exist():
    commands = "\n".join(code_blocks(REPOSITORY / "README.md", "bash"))
    scripts = re.findall(r"python (scripts/\S+)", commands)
    targets = re.findall(r"^make (\w+)", commands, flags=re.MULTILINE)
    assert scripts and targets
    for script in scripts:
        assert (REPOSITORY / script).is_file(), script
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


@pytest.mark.parametrize("path", [REPOSITORY / "README.md", CARD], ids=lambda path: path.parent.name)
def test_relative_links_point_to_files(path):
    links = re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8"))
    for link in links:
        if not link.startswith("http"):
            assert (path.parent / link).exists(), link


@pytest.mark.parametrize(
    "module", ["configuration_segmenter", "modeling_segmenter", "image_processing_segmenter", "data.labels"]
)
def test_docstring_examples(module):
    module = importlib.import_module(f"{segmenter_hf.__name__}.{module}")
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0
