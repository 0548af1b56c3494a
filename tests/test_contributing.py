"""CONTRIBUTING.md tells the truth: its diagram has the imports that there are, and what it names is there."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from segmenter_hf.conversion.convert import CODE_FILES


ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
HUB_SET = {*CODE_FILES, "__init__.py"}


def room_of(file: Path) -> str:
    """The node of the diagram that a file belongs to: its folder, or what a module of the package itself is."""
    folders = file.relative_to(ROOT).parts[:-1]
    if folders[-1] != "segmenter_hf":
        return folders[-1]
    if file.name in HUB_SET:
        return "hub_set"
    return "visualization" if file.stem == "visualization" else "small_modules"


def find_imports(file: Path) -> set[str]:
    """The rooms of the package that a file imports from, inside functions too."""
    package = file.relative_to(ROOT).parts[:-1]
    rooms = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
        elif node.level:
            base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
            names = [base, *(f"{base}.{each.name}" for each in node.names)]
        else:
            names = [node.module, *(f"{node.module}.{each.name}" for each in node.names)]
        for path in (ROOT.joinpath(*name.split(".")) for name in names):
            if path.with_suffix(".py").is_file():
                rooms.add(room_of(path.with_suffix(".py")))
            elif path.parts[-1] != "segmenter_hf" and (path / "__init__.py").is_file():
                rooms.add(room_of(path / "__init__.py"))
    return rooms


FILES = [*(ROOT / "segmenter_hf").rglob("*"), *(ROOT / "scripts").glob("*")]
SOURCES = [file for file in FILES if file.suffix == ".py"]
# Files are named alone where the text says in which folder they are.
NAMES = set(re.findall(r"`((?:[\w.-]+/)+[\w.-]*|[\w-]+\.(?:py|json|yaml))`", TEXT))


def test_imports_go_down_the_diagram():
    arrows = {}
    for importing, imported in re.findall(r"^ +(\w+) --> (\w+)$", TEXT, re.MULTILINE):
        arrows.setdefault(importing, set()).add(imported)
    below = {}
    # There is no such order in a circle, which is an error here.
    for room in TopologicalSorter(arrows).static_order():
        below[room] = set().union(*({each, *below[each]} for each in arrows.get(room, ())))
    imports = {room_of(file): set() for file in SOURCES}
    for file in SOURCES:
        upwards = find_imports(file) - below[room_of(file)] - {room_of(file)}
        assert not upwards, f"{file} imports from {', '.join(upwards)}"
        imports[room_of(file)] |= find_imports(file)
    assert imports.keys() == below.keys()
    for room, imported in arrows.items():
        assert imported <= imports[room], f"{room} does not import from {', '.join(imported - imports[room])}"


def test_each_folder_has_a_paragraph():
    folders = [f"segmenter_hf/{path.parent.name}/" for path in (ROOT / "segmenter_hf").glob("*/__init__.py")]
    for folder in (*folders, "segmenter_hf/checkpoints/", "scripts/", "tests/", "model_cards/"):
        assert re.search(rf"^- \*\*`{folder}`\*\*", TEXT, re.MULTILINE), folder


@pytest.mark.parametrize("name", sorted(NAMES))
def test_what_is_named_is_there(name):
    assert (ROOT / name).exists() if "/" in name else any(file.name == name for file in FILES)
