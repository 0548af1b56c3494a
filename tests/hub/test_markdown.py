"""Text of users reads as it is, whatever it contains."""

import shlex
import subprocess

import pytest

from segmenter_hf.hub.markdown import LINE_LENGTH, code_block, escape, inline_code, table, wrap_command


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("traffic light", "traffic light"),
        ("traffic_light", "traffic_light"),
        ("__background__", r"\_\_background\_\_"),
        ("sky|cloud", r"sky\|cloud"),
        ("<script>", r"\<script\>"),
        ("a*b [c](d) `e`", r"a\*b \[c\](d) \`e\`"),
        ("two\nlines", "two lines"),
        ("# heading", r"\# heading"),
    ],
)
def test_escape(text, expected):
    assert escape(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("sky", "`sky`"), ("a`b", "`` a`b ``"), ("``", "``` `` ```"), ("a\nb", "`a b`")]
)
def test_inline_code(text, expected):
    assert inline_code(text) == expected


def test_code_with_fences_is_not_ended_by_them():
    assert code_block("bash", "ls\n") == "```bash\nls\n```"
    assert code_block("bash", "echo '```'") == "````bash\necho '```'\n````"


def test_table():
    assert table(("a", "b"), [("1", "2")]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_long_commands_are_wrapped_as_a_shell_reads_them():
    command = "python scripts/run.py --names 'a b' c " + " ".join(f"--flag_{index} value" for index in range(30))
    wrapped = wrap_command(command)
    assert "\n" in wrapped and max(map(len, wrapped.splitlines())) <= LINE_LENGTH
    script = wrapped.replace("python", "printf '%s\\n'", 1)
    read = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    assert read.splitlines() == shlex.split(command)[1:]
    for line in wrapped.splitlines()[1:]:
        assert line.startswith("    --flag_"), "a flag stays with its value"
    assert wrap_command("python run.py") == "python run.py"
