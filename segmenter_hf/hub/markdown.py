"""Markdown as model cards need it: wrapped lines, and text of users that reads as it is, whatever it contains."""

import re
import shlex
import textwrap
from collections.abc import Iterator


LINE_LENGTH = 119
# Blocks that are not wrapped begin with these: headings, rows of tables, HTML, and fences of code.
UNWRAPPED = ("#", "|", "<details", "</details", "```")


def wrap(text: str) -> str:
    """
    The same Markdown with its paragraphs and items of lists wrapped, and one empty line between blocks. Headings,
    tables, code and HTML stay as they are.
    """
    return "\n\n".join(map(_wrap_block, _split_blocks(text))) + "\n"


def _split_blocks(text: str) -> Iterator[str]:
    """The parts between empty lines, of which a block of code is one whatever it contains."""
    block, fence = [], None
    for line in [*text.split("\n"), ""]:
        if line.strip() or fence is not None:
            block.append(line)
        elif block:
            yield "\n".join(block)
            block = []
        if fence is None and len(block) == 1 and line.startswith("```"):
            fence = re.match("`+", line)[0]
        elif line == fence:
            fence = None


def _wrap_block(block: str) -> str:
    if block.startswith(UNWRAPPED):
        return block
    options = {"width": LINE_LENGTH, "break_long_words": False, "break_on_hyphens": False}
    if not block.startswith("- "):
        return textwrap.fill(" ".join(block.split()), **options)
    items = [" ".join(item.split()) for item in f"\n{block}".split("\n- ")[1:]]
    return "\n".join(textwrap.fill(item, initial_indent="- ", subsequent_indent="  ", **options) for item in items)


def as_text(text: str) -> str:
    """Text of users, such as the name of a label, so that it reads as it is, in a cell of a table too."""
    text = re.sub(r"([\\`*\[\]<>|~&#])", r"\\\1", " ".join(text.split()))
    # Underscores between letters are no markup.
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)


def as_code(text: str) -> str:
    """Text of users as code within a sentence."""
    text = " ".join(text.split())
    if "`" not in text:
        return f"`{text}`"
    fence = "`" * (max(len(run) for run in re.findall("`+", text)) + 1)
    return f"{fence} {text} {fence}"


def as_code_block(code: str, language: str) -> str:
    """Text of users as a block of code, which nothing in it ends."""
    runs = re.findall("`{3,}", code)
    fence = "`" * max([3, *(len(run) + 1 for run in runs)])
    return f"{fence}{language}\n{code.rstrip()}\n{fence}"


def wrap_command(command: str) -> str:
    """A command line over several lines that a shell reads as one, where it is long."""
    # A flag stays with its values.
    groups = [[]]
    for word in shlex.split(command):
        if word.startswith("-"):
            groups.append([])
        groups[-1].append(word)
    lines = [""]
    for text in map(shlex.join, groups):
        if lines[-1].strip() and len(lines[-1]) + len(text) + 3 > LINE_LENGTH:
            lines.append("   ")
        lines[-1] += f" {text}" if lines[-1] else text
    return " \\\n".join(lines)


__all__ = ["LINE_LENGTH", "as_code", "as_code_block", "as_text", "wrap", "wrap_command"]
