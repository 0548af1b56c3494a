"""The error of a source that cannot be converted."""


class ConversionError(ValueError):
    """
    A source that cannot be converted. The message is one line, meant for the user. Parts of it may come from a broken
    or hostile file, so line breaks and control characters are replaced by spaces.
    """

    def __init__(self, message: str):
        super().__init__("".join(character if character.isprintable() else " " for character in message))


__all__ = ["ConversionError"]
