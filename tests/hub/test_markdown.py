"""Text of users reads as it is, whatever it contains."""

import shlex
import subprocess

import pytest

from segmenter_hf.hub.markdown import LINE_LENGTH, as_code, as_code_block, as_text, wrap, wrap_command


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
def test_as_text(text, expected):
    assert as_text(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("sky", "`sky`"), ("a`b", "`` a`b ``"), ("``", "``` `` ```"), ("a\nb", "`a b`")]
)
def test_as_code(text, expected):
    assert as_code(text) == expected


def test_code_with_fences_is_not_ended_by_them():
    assert as_code_block("ls\n", "bash") == "```bash\nls\n```"
    assert as_code_block("echo '```'", "bash") == "````bash\necho '```'\n````"


def test_wrap_breaks_what_may_be_broken():
    words = "word " * 40
    code = f"````text\n{words}\n\n\n```\n- {words}\n````"
    row, heading = f"| {words} |", f"# {words}"
    text = f"\n{heading}\n\n\n{words}\n{words}\n\n- {words}\n  more\n- second\n\n{row}\n{row}\n\n\n{code}\n\nend\n\n"
    lines = wrap(text).split("\n")
    assert [line for line in lines if len(line) > LINE_LENGTH] == [heading, row, row, words, f"- {words}"]
    assert code in wrap(text) and wrap(wrap(text)) == wrap(text)
    blocks = wrap(text.replace(code, "")).rstrip("\n").split("\n\n")
    assert [block[:6] for block in blocks] == ["# word", "word w", "- word", "| word", "end"]
    assert blocks[2].split("\n")[1].startswith("  word") and blocks[2].endswith(" more\n- second")


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
