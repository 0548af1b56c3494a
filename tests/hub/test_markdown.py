"""Text of users reads as it is, whatever it contains."""

import pytest

from segmenter_hf.hub.markdown import code_block, escape, inline_code, table


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
