"""The text of configs is read as data: nothing in it runs, and what is more than data is refused in one line."""

import math

import pytest

from segmenter_hf.conversion import ConversionError
from segmenter_hf.conversion.python_config import MAX_CONFIG_LENGTH, parse_python_config


def refusal(text: str) -> str:
    with pytest.raises(ConversionError) as error:
        parse_python_config(text, "config.py")
    message = str(error.value)
    assert message.startswith("config.py ")
    assert message.isprintable()
    return message


def test_literals():
    text = """
'''What the config is for.'''
# And a comment.
numbers = [1, -2, +3, 0.5, 1e-06, -1.5e3, 0x10, 1_000]
flags = (True, False, None,)
texts = {'a': "b", 1: 'ü', None: 'c' 'd'}
empty = dict(), [], (), {}
one = two = (1, )
pass
"""
    assert parse_python_config(text, "config.py") == {
        "numbers": [1, -2, 3, 0.5, 1e-6, -1500.0, 16, 1000],
        "flags": (True, False, None),
        "texts": {"a": "b", 1: "ü", None: "cd"},
        "empty": ({}, [], (), {}),
        "one": (1,),
        "two": (1,),
    }


def test_names_assigned_before_and_unpacking():
    text = """
crop_size = (512, 512)
norm = dict(mean=[127.5], to_rgb=True)
crop = dict(type='RandomCrop', crop_size=crop_size)
both = dict(type='Normalize', **norm, to_bgr=False)
again = {**norm, 'to_rgb': False}
crop_size = (640, 640)
"""
    values = parse_python_config(text, "config.py")
    assert values["crop"] == {"type": "RandomCrop", "crop_size": (512, 512)}
    assert values["both"] == {"type": "Normalize", "mean": [127.5], "to_rgb": True, "to_bgr": False}
    assert values["again"] == {"mean": [127.5], "to_rgb": False}
    assert values["norm"] == {"mean": [127.5], "to_rgb": True}
    assert values["crop_size"] == (640, 640)


@pytest.mark.parametrize(
    ("expression", "value"), [("2 + 3 * 4", 14), ("768 // 64 - 1", 11), ("1 / 8", 0.125), ("-(4 - 1.5)", -2.5)]
)
def test_arithmetic_on_numbers(expression, value):
    assert parse_python_config(f"x = {expression}", "config.py") == {"x": value}


@pytest.mark.parametrize(
    "text",
    [
        "import os",
        "open('{touched}', 'w')",
        "x = open('{touched}', 'w')",
        "x = [open('{touched}', 'w')]",
        "x = dict(a=dict(b=open('{touched}', 'w')))",
        "x = {{open('{touched}', 'w'): 1}}",
        "x = __import__('pathlib').Path('{touched}').touch()",
        "x = dict(open('{touched}', 'w'))",
        "x = dict(*[open('{touched}', 'w')])",
        "x = (lambda: open('{touched}', 'w'))()",
        "x = f\"{{open('{touched}', 'w')}}\"",
        "x = [open('{touched}', 'w') for _ in (1,)]",
        "x = (i for i in (1,))",
        "x = lambda: 1",
        "x = ().__class__.__base__.__subclasses__()",
        "x = (1).real",
        "x = [*(1, 2)]",
        "x = 1 if True else 2",
        "x = ~1",
        "x = unknown",
        "x = y\ny = 1",
        "x = [1]\nx[0] = 2",
        "x = dict()\nx.a = 2",
        "a, b = 1, 2",
        "def f(a=open('{touched}', 'w')): pass",
        "class A(open('{touched}', 'w')): pass",
        "with open('{touched}', 'w'): pass",
        "while True: pass",
        "if open('{touched}', 'w'): x = 1",
        "try:\n    x = 1\nexcept Exception: pass",
        "x = 'a' * 10",
        "x = 'a' * 10 ** 9",
        "x = 'a' + 'b'",
        "x = -'a'",
        "x = 10 ** 10",
        "x = 1 << 64",
        "x = True + 1",
        "x = dict(**5)",
        "x = {{**[1]}}",
    ],
)
def test_what_is_more_than_data_is_refused_and_does_not_run(text, tmp_path):
    touched = tmp_path / "touched"
    assert "config.py is refused: line " in refusal(text.format(touched=touched))
    assert not touched.exists()


def test_refusals_name_line_and_what_is_there():
    assert refusal("x = 1\ny = dict(\n  a=os.system('true'))") == (
        "config.py is refused: line 3 calls os.system, where only dict(name=value) may be called."
    )
    assert "line 1 uses unknown, which was not assigned before" in refusal("x = unknown")
    assert "no data (Lambda)" in refusal("x = lambda: 1")


@pytest.mark.parametrize("text", ["_base_ = './vit.py'", "_base_ = ['../_base_/models/vit.py']\nmodel = dict()"])
def test_inheriting_from_files_is_refused(text):
    assert "inherits from other files (`_base_`), which are not read" in refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "x = (",
        " x = 1",
        "x = 1\0",
        "<!doctype html>",
        "x = " + "9" * 5000,
        "x = " + "[" * 5000 + "]" * 5000,
        "x = " + "dict(a=" * 3000 + "1" + ")" * 3000,
        "x = " + "-" * 200_000 + "1",
        "x = " + "1 + " * 100_000 + "1",
        "x = a" + ".b" * 100_000,
        "x = 1 / 0",
        "x = 1 // 0",
    ],
    ids=lambda text: repr(text[:12]),
)
def test_text_that_is_no_config(text):
    assert "is not a config in Python: " in refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "x = 9223372036854775809",
        "x = 0x" + "f" * 100_000,
        "x = 9223372036854775807 * 2",
        "a = 4294967296\n" + "a = a * a\n" * 40,
        "a = -9223372036854775807\na = a * a",
    ],
    ids=lambda text: repr(text[:12]),
)
def test_integers_stay_small(text):
    assert "config.py is refused: line " in refusal(text)


def test_floats_may_overflow():
    assert parse_python_config("x = 1e308 * 10", "config.py") == {"x": math.inf}


def test_unpacking_one_dictionary_many_times_is_refused():
    """9000 copies of 20,000 entries would be some 10 GB."""
    entries = ", ".join(f"{index}: 1" for index in range(20_000))
    assert "unpacks more than 100000 entries" in refusal(f"a = {{{entries}}}\nb = [{'{**a},' * 9000}]")


def test_values_that_contain_others_many_times():
    """They take no memory, but as a key they would take forever: to hash a tuple is to hash what it contains."""
    text = "a0 = (1,)\n" + "".join(f"a{index + 1} = (a{index}, a{index})\n" for index in range(40))
    assert len(parse_python_config(text, "config.py")) == 41
    assert "line 42 has a key that is no text or number" in refusal(text + "x = {a40: 1}")
    assert "line 1 has a key that is no text or number" in refusal("x = {[1]: 2}")


def test_long_texts_are_refused():
    assert "characters, which is no config" in refusal("#" * (MAX_CONFIG_LENGTH + 1))
    assert parse_python_config("#" * MAX_CONFIG_LENGTH, "config.py") == {}


def test_warnings_of_the_compiler_are_not_shown(recwarn):
    assert parse_python_config("a = '\\d'", "config.py") == {"a": "\\d"}
    refusal("a = 1is 1")
    assert not list(recwarn)
