"""
The error of a source that cannot be converted. Whatever in this folder reads a source raises it, which is not said
again where it is all that a function raises.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from safetensors import SafetensorError


# Messages are cut to this length, so that a hostile file does not fill the terminal.
MAX_LENGTH = 1000
OMISSION = " [...] "


class ConversionError(ValueError):
    """
    A source that cannot be converted. The message is one line, meant for the user. Parts of it may come from a broken
    or hostile file, so line breaks and control characters are replaced by spaces, and bytes that are not UTF-8 are
    escaped. Of a message that is too long the middle is left out, since its end has the remedy.
    """

    def __init__(self, message: str):
        message = message.encode(errors="backslashreplace").decode()
        if len(message) > MAX_LENGTH:
            half = (MAX_LENGTH - len(OMISSION)) // 2
            message = message[:half] + OMISSION + message[-half:]
        super().__init__("".join(character if character.isprintable() else " " for character in message))


@contextmanager
def refuse_os_errors(problem: str) -> Iterator[None]:
    """Turns what the file system, or the path itself, makes impossible into an error that begins with `problem`."""
    try:
        yield
    except ConversionError:
        raise
    # pathlib raises ValueError for a null byte in a path, and RuntimeError for links that lead in a circle.
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConversionError(f"{problem}: {reason}.") from error


__all__ = ["ConversionError", "refuse_os_errors"]
