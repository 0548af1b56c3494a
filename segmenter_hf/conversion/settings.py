"""Looks up the values of a source's own configuration, checked for their types."""

import reprlib
from typing import Any

from .errors import ConversionError


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
        return ConversionError(f"`{field}` of {self.name} must be {description}, got {reprlib.repr(value)}.")

    def _get_typed(self, field: str, types: tuple[type, ...], description: str) -> Any:
        value = self.get(field)
        # `True` is an int to Python, but not to whoever wrote the file.
        if value is None or (isinstance(value, types) and (bool in types or not isinstance(value, bool))):
            return value
        raise self.refuse(field, description, value)

    def get_flag(self, field: str) -> bool | None:
        return self._get_typed(field, (bool,), "true or false")

    def get_text(self, field: str) -> str | None:
        return self._get_typed(field, (str,), "a name")

    def get_number(self, field: str) -> float | int | None:
        return self._get_typed(field, (int, float), "a number")

    def get_count(self, field: str) -> int | None:
        value = self._get_typed(field, (int,), "a positive integer")
        if value is not None and value < 1:
            raise self.refuse(field, "a positive integer", value)
        return value

    def get_size(self, field: str) -> tuple[int, int] | None:
        """`(height, width)`, for which one integer may stand."""
        value = self.get(field)
        size = (value, value) if isinstance(value, int) else value
        is_pair = isinstance(size, (list, tuple)) and len(size) == 2
        if value is None or (is_pair and all(type(side) is int and side > 0 for side in size)):
            return value if value is None else tuple(size)
        raise self.refuse(field, "a height and a width", value)

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
        f"`{field}` is {stated!r}, but the weights say {actual!r}"
        for field, (stated, actual) in fields.items()
        if stated is not None and stated != actual
    ]


__all__ = ["Settings", "describe_differences"]
