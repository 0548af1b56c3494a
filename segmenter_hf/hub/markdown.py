"""Markdown as model cards need it: paragraphs, lists, tables and code, wrapped, and text that is only text."""

import re
import shlex
import textwrap
from collections.abc import Iterable, Sequence


LINE_LENGTH = 119


def paragraph(*sentences: str) -> str:
    """The sentences that are not empty as wrapped lines."""
    text = " ".join(sentence for sentence in sentences if sentence)
    return textwrap.fill(text, LINE_LENGTH, break_long_words=False, break_on_hyphens=False)


def bullets(items: Iterable[str]) -> str:
    """A list in Markdown, its items wrapped."""
    options = {"break_long_words": False, "break_on_hyphens": False, "initial_indent": "- ", "subsequent_indent": "  "}
    return "\n".join(textwrap.fill(item, LINE_LENGTH, **options) for item in items)


def code_block(language: str, code: str) -> str:
    # Longer than what the code has of the kind, which would end it.
    runs = re.findall("`{3,}", code)
    fence = "`" * max([3, *(len(run) + 1 for run in runs)])
    return f"{fence}{language}\n{code.rstrip()}\n{fence}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, whose cells may hold Markdown: see [`escape`] for text that should not."""
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def escape(text: str) -> str:
    """Text of users, such as the name of a label, so that it reads as it is, in a cell of a table too."""
    text = re.sub(r"([\\`*\[\]<>|~&#])", r"\\\1", " ".join(text.split()))
    # Between letters they are no markup.
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)


def inline_code(text: str) -> str:
    """Text of users as code within a sentence."""
    text = " ".join(text.split())
    if "`" not in text:
        return f"`{text}`"
    fence = "`" * (max(len(run) for run in re.findall("`+", text)) + 1)
    return f"{fence} {text} {fence}"


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


__all__ = ["LINE_LENGTH", "bullets", "code_block", "escape", "inline_code", "paragraph", "table", "wrap_command"]
