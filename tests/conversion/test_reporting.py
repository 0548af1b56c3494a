"""Warnings of a conversion come after it, if it succeeds, and other libraries are not heard."""

import logging
import warnings

import pytest
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers.utils import logging as transformers_logging

from segmenter_hf.conversion.reporting import LIBRARIES, hide_progress_bars, hold_warnings, silence_libraries, warn


logger = logging.getLogger("segmenter_hf.conversion.test")


def test_warnings_are_logged_at_once_without_anybody_who_holds_them(caplog):
    warn(logger, "%d labels", 3)
    assert caplog.messages == ["3 labels"]


def test_warnings_are_held_until_the_end(caplog):
    with hold_warnings():
        warn(logger, "%d labels", 3)
        warn(logger, "no names")
        assert caplog.messages == []
    assert caplog.messages == ["3 labels", "no names"]
    warn(logger, "later")
    assert caplog.messages[2:] == ["later"]


def test_warnings_are_dropped_by_an_error(caplog):
    with pytest.raises(KeyboardInterrupt), hold_warnings():
        warn(logger, "no names")
        raise KeyboardInterrupt
    assert caplog.messages == []


def test_libraries_are_silent_and_then_as_before(caplog, recwarn):
    loggers = [logging.getLogger(f"{name}.module") for name in LIBRARIES]
    levels = [logging.getLogger(name).level for name in LIBRARIES]
    try:
        for name in LIBRARIES:
            logging.getLogger(name).setLevel(logging.ERROR)
        with pytest.raises(ZeroDivisionError), silence_libraries():
            for library in loggers:
                library.critical("Retrying")
            warnings.warn("deprecated", stacklevel=1)
            1 / 0  # noqa: B018
        assert caplog.messages == [] and not list(recwarn)
        assert {logging.getLogger(name).level for name in LIBRARIES} == {logging.ERROR}
    finally:
        for name, level in zip(LIBRARIES, levels, strict=True):
            logging.getLogger(name).setLevel(level)


@pytest.mark.parametrize("of_transformers", [True, False])
@pytest.mark.parametrize("of_hub", [True, False])
def test_progress_bars_are_as_before(of_transformers, of_hub):
    def read() -> tuple[bool, bool]:
        return transformers_logging.is_progress_bar_enabled(), not are_progress_bars_disabled()

    def set_bars(transformers_enabled: bool, hub_enabled: bool):
        switch = "enable_progress_bar" if transformers_enabled else "disable_progress_bar"
        getattr(transformers_logging, switch)()
        (enable_progress_bars if hub_enabled else disable_progress_bars)()

    before = read()
    try:
        set_bars(of_transformers, of_hub)
        with hide_progress_bars():
            assert not transformers_logging.is_progress_bar_enabled()
        assert read() == (of_transformers, of_hub)
    finally:
        set_bars(*before)
