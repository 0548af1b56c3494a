"""Values of any type and size are refused where they are none of a model, and described in a few words."""

import pytest
import torch

from segmenter_hf.conversion import ConversionError
from segmenter_hf.conversion.settings import Settings, describe, describe_differences, is_count, is_number


HUGE = int("f" * 5000, 16)  # Python refuses to print it.


def nest(value, depth: int) -> list:
    """A list of 2 ** depth values, in the memory of a few."""
    for _ in range(depth):
        value = [value, value]
    return value


@pytest.mark.parametrize(
    "value", [True, 0, -1, 10**6 + 1, HUGE, 7.0, "7", [7], torch.tensor(7), float("nan")], ids=describe
)
def test_what_is_no_count(value):
    assert not is_count(value)
    with pytest.raises(ConversionError, match="`n` of variant.yml must be a positive integer up to 1000000, got "):
        Settings({"n": value}, "variant.yml").get_count("n")
    for size in (value, [value, 7], [7, value]):
        if size != [7]:
            with pytest.raises(ConversionError, match="must be a height and a width"):
                Settings({"n": size}, "variant.yml").get_size("n")


@pytest.mark.parametrize("value", [True, HUGE, -HUGE, 1e10, float("inf"), float("nan"), "1e-5", None], ids=describe)
def test_what_is_no_number(value):
    assert not is_number(value)


def test_numbers():
    assert all(map(is_number, (0, -3, 1e-12, 0.5, 10**9)))
    settings = Settings({"a": {"b": 1e-5, "n": 12, "size": 64, "sizes": (32, 48)}, "c": None}, "variant.yml")
    assert (settings.get_number("a.b"), settings.get_count("a.n"), settings.get_count("c")) == (1e-5, 12, None)
    assert (settings.get_size("a.size"), settings.get_size("a.sizes")) == ((64, 64), (32, 48))


@pytest.mark.parametrize(
    ("value", "description"),
    [
        (HUGE, "an integer of 20000 bits"),
        (torch.ones(1).expand(10**13), "a Tensor"),
        ([torch.zeros(2, device="meta")], "[a Tensor]"),
        (None, "None"),
        (False, "False"),
        (0.5, "0.5"),
        ("UPerHead", "'UPerHead'"),
    ],
    ids=describe,
)
def test_description(value, description):
    assert describe(value) == description


@pytest.mark.parametrize(
    "value", [nest(0, 60), "x" * 10**6, list(range(10**5)), {i: nest(i, 30) for i in range(99)}], ids=type
)
def test_description_is_short(value):
    assert len(describe(value)) < 500


def test_differences():
    fields = {"a": (None, 1), "b": (2, 2), "c": (3, 4), "d": (HUGE, 1)}
    assert describe_differences(fields) == [
        "`c` is 3, but the weights say 4",
        "`d` is an integer of 20000 bits, but the weights say 1",
    ]
