"""The error for users is one short line, whatever it quotes."""

import errno

import pytest
from safetensors import SafetensorError

from segmenter_hf.conversion.errors import MAX_LENGTH, ConversionError, refuse_os_errors


def test_line_breaks_and_control_characters_are_replaced_and_bytes_escaped():
    assert str(ConversionError("a\nb\x1b[31m\udcffc")) == r"a b [31m\udcffc"


def test_long_messages_keep_beginning_and_end():
    message = str(ConversionError("beginning " + "x" * 10**6 + " end"))
    assert len(message) <= MAX_LENGTH
    assert message.startswith("beginning x") and message.endswith("x end") and " [...] " in message
    exact = "y" * MAX_LENGTH
    assert str(ConversionError(exact)) == exact


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "secret"), "Permission denied"),
        (OSError("disk full"), "disk full"),
        (ValueError("embedded null byte"), "embedded null byte"),
        (RuntimeError("Symlink loop from 'a'"), "Symlink loop from 'a'"),
        (SafetensorError("I/O error"), "I/O error"),
    ],
)
def test_errors_of_the_file_system(error, reason):
    with pytest.raises(ConversionError) as refusal, refuse_os_errors("a cannot be written"):
        raise error
    assert str(refusal.value) == f"a cannot be written: {reason}."


def test_our_own_error_passes():
    error = ConversionError("b is no checkpoint.")
    with pytest.raises(ConversionError) as refusal, refuse_os_errors("a cannot be read"):
        raise error
    assert refusal.value is error
