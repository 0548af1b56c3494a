"""What tests of cards share: their code, whether their Markdown is tidy, and running their snippets."""

import json
import re
from collections.abc import Collection
from pathlib import Path

from PIL import Image
from transformers import PreTrainedModel

from segmenter_hf import SegmenterImageProcessorPil

from ..common import REPOSITORY, run_python
from ..evaluation.evaluations import PROCESSOR_SETTINGS


def code_blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def check_tidy(text: str):
    """Fails if Markdown is not as it should be: wrapped, linked and without anybody's paths."""
    assert text.count("```") % 2 == 0 and "  \n" not in text and "\n\n\n" not in text
    assert str(REPOSITORY) not in text and "/work" not in text and "/home" not in text
    for line in text.splitlines():
        # A table's row and an address cannot be wrapped.
        assert len(line) <= 119 or line.startswith("| ") or " " not in line.strip("- "), line
    for link in re.findall(r"\]\(([^)]*)\)|<(http[^>]*)>", text):
        assert re.fullmatch(r"https?://[\w.-]+(/\S*)?", link[0] or link[1]), link
    # A line that is wrapped must not begin like a heading, an item of a list or a quotation.
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    for block in prose.strip().split("\n\n"):
        is_list = block.startswith("- ")
        for line in block.splitlines()[1:]:
            if not (is_list and line.startswith("- ")):
                assert line.startswith("  ") is is_list, line
                assert not re.match(r"(#|[-+*>] |\d+[.)] )", line.strip()), line


def save_download(repo_id: str, revision: str, model: PreTrainedModel, folder: Path):
    """
    Saves a model as a download of its repository at that revision would be in Hugging Face's cache: what asks for
    another revision finds none.
    """
    repository = folder / "hf_home" / "hub" / f"models--{repo_id.replace('/', '--')}"
    snapshot = repository / "snapshots" / ("0123456789" * 4)
    for part in (model, SegmenterImageProcessorPil(**PROCESSOR_SETTINGS)):
        part.save_pretrained(snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / revision).write_text(snapshot.name)


def run_snippets(snippets: dict[str, list[str]], folder: Path) -> dict[str, list[str]]:
    """
    Runs snippets by the name of their card in `folder`, where `photo.jpg` is, without this package, and returns what
    each printed.
    """
    Image.new("RGB", (75, 50), "white").save(folder / "photo.jpg")
    (folder / "snippets.json").write_text(json.dumps(snippets))
    run_python(
        "import contextlib, io, json, traceback\n"
        "outputs = {}\n"
        "with open('snippets.json') as file:\n"
        "    snippets = json.load(file)\n"
        "for name, codes in snippets.items():\n"
        "    outputs[name] = []\n"
        "    for code in codes:\n"
        "        with contextlib.redirect_stdout(io.StringIO()) as output:\n"
        "            exec(compile(code, name, 'exec'), {'__name__': '__main__'})\n"
        "        outputs[name].append(output.getvalue())\n"
        "with open('outputs.json', 'w') as file:\n"
        "    json.dump(outputs, file)\n",
        cwd=folder,
        with_package=False,
    )
    return json.loads((folder / "outputs.json").read_text())


def check_segments(outputs: list[str], names: Collection[str]):
    """Fails if the snippets with the pipeline and without it have not found the same of these labels in the photo."""
    first, second = outputs
    segments = [line.rpartition(" (") for line in first.splitlines()]
    assert segments and all(label in names and size == "75, 50)" for label, _, size in segments)
    assert set(eval(second)) == {label for label, _, _ in segments}
