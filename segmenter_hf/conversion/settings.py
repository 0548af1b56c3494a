"""Looks up the values of a source's own configuration, checked for their types."""

import logging
import reprlib
from collections.abc import Callable
from typing import Any

from .errors import ConversionError
from .reporting import warn


logger = logging.getLogger(__name__)

# No model has more layers, channels, labels or pixels of a side, and Python cannot even print some larger numbers.
MAX_COUNT = 10**6
# Any other number of a model is between this and its negative.
MAX_NUMBER = 1e9


class Description(reprlib.Repr):
    """
    Describes values of any size and type in a few words. Of objects only the type is named: what they print, such as
    the numbers of a tensor, may be long, and take long.
    """

    def __init__(self):
        super().__init__()
        self.maxlevel, self.maxstring = 2, 80

    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if abs(x) < 10**20 else f"an integer of {x.bit_length()} bits"

    def repr_instance(self, x: Any, level: int) -> str:
        return repr(x) if x is None or isinstance(x, (bool, float)) else f"a {type(x).__name__}"


describe = Description().repr


def is_number(value: Any) -> bool:
    """Whether `value` is a number of usual size: finite, and one that a float can hold."""
    # The type is compared, since `True` is an int to Python, but not to whoever wrote the file.
    return type(value) in (int, float) and -MAX_NUMBER <= value <= MAX_NUMBER


def is_count(value: Any) -> bool:
    """Whether `value` is a number of things of which there is at least one."""
    return type(value) is int and 1 <= value <= MAX_COUNT


def is_list_of(is_valid: Callable[[Any], bool], values: Any, length: int) -> bool:
    """Whether `values` is a list or tuple of that length, whose items are all valid."""
    return isinstance(values, (list, tuple)) and len(values) == length and all(map(is_valid, values))


class Settings:
    """
    The values of a configuration, looked up by dotted names such as `net_kwargs.decoder.n_cls` and checked for their
    type. A field that is not there, or is null, is `None`.

    Args:
        values (`dict[str, Any]`): What the configuration holds.
        name (`str`): What it is called in errors, as in "`crop_size` of variant.yml".
    """

    def __init__(self, values: dict[str, Any], name: str):
        self.values = values
        self.name = name

    def get(self, field: str) -> Any:
        value = self.values
        for key in field.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def refuse(self, field: str, description: str, value: Any) -> ConversionError:
        """The error of a field that is not what it must be."""
        return ConversionError(f"`{field}` of {self.name} must be {description}, got {describe(value)}.")

    def _get_checked(self, field: str, is_valid: Callable[[Any], bool], description: str) -> Any:
        value = self.get(field)
        if value is None or is_valid(value):
            return value
        raise self.refuse(field, description, value)

    def get_flag(self, field: str) -> bool | None:
        return self._get_checked(field, lambda value: isinstance(value, bool), "true or false")

    def get_text(self, field: str) -> str | None:
        return self._get_checked(field, lambda value: isinstance(value, str), "a name")

    def get_number(self, field: str, default: float | None = None) -> float | int | None:
        value = self._get_checked(field, is_number, "a number of usual size")
        return default if value is None else value

    def get_eps(self, field: str, default: float | None = None) -> float:
        """The epsilon of a LayerNorm."""
        eps = self.get_number(field, default)
        if not 0 <= eps < 1:
            raise self.refuse(field, "at least 0 and below 1", eps)
        return float(eps)

    def get_count(self, field: str) -> int | None:
        return self._get_checked(field, is_count, f"a positive integer up to {MAX_COUNT}")

    def get_size(self, field: str) -> tuple[int, int] | None:
        """`(height, width)`, for which one integer may stand."""
        value = self.get(field)
        size = (value, value) if isinstance(value, int) else value
        if value is None or is_list_of(is_count, size, 2):
            return value if value is None else tuple(size)
        raise self.refuse(field, f"a height and a width up to {MAX_COUNT}", value)

    def warn_of_unknown_labels(self, field: str, num_labels: int):
        """Warns that labels have numbers for names, since what `field` says does not tell their names."""
        warn(
            logger,
            "The names of the %d labels are not known (`%s` is %s), so they are called LABEL_0 to LABEL_%d. Set "
            "`id2label` and `label2id` in config.json to name them.",
            num_labels,
            field,
            describe(self.get_text(field)),
            num_labels - 1,
        )

    def require_count(self, field: str) -> int:
        return self._require(field, self.get_count(field))

    def require_size(self, field: str) -> tuple[int, int]:
        return self._require(field, self.get_size(field))

    def _require(self, field: str, value: Any) -> Any:
        if value is None:
            raise ConversionError(f"{self.name} lacks `{field}`.")
        return value


def describe_differences(fields: dict[str, tuple[Any, Any]]) -> list[str]:
    """What to say of fields whose stated value is neither `None` nor what the weights show."""
    return [
        f"`{field}` is {describe(stated)}, but the weights say {describe(actual)}"
        for field, (stated, actual) in fields.items()
        if stated is not None and stated != actual
    ]


__all__ = ["Settings", "describe", "describe_differences", "is_count", "is_list_of", "is_number"]
