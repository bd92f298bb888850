"""What a request's text does to the terminal of whoever runs the service: nothing."""

from __future__ import annotations

import logging

from hypothesis import given
from hypothesis import strategies as st

from api.console import VisibleFormatter, visible

ATTACK = "\x1b]0;owned\x07\x1b[2J\r\nINFO: all is well\u2028\x85\u202e"


def printed(message: str, *arguments: object, error: Exception | None = None) -> str:
    info = None if error is None else (type(error), error, error.__traceback__)
    record = logging.LogRecord("any", logging.ERROR, __file__, 1, message, arguments, info)
    return VisibleFormatter("%(levelprefix)s %(message)s", use_colors=False).format(record)


def test_a_message_is_one_line_without_control_characters() -> None:
    assert printed("%s failed", ATTACK) == (
        r"ERROR:    \x1b]0;owned\x07\x1b[2J\r\nINFO: all is well\u2028\x85\u202e failed"
    )


def test_uvicorns_own_messages_have_no_colours_inside() -> None:
    record = logging.LogRecord("any", logging.INFO, __file__, 1, "Started [%d]", (7,), None)
    record.color_message = "Started [\x1b[36m%d\x1b[0m]"

    assert VisibleFormatter("%(message)s", use_colors=True).format(record) == "Started [7]"


def test_a_traceback_is_indented_and_has_no_control_characters() -> None:
    try:
        raise ValueError(ATTACK)
    except ValueError as error:
        first, *trace = printed("failed", error=error).split("\n")

    assert first == "ERROR:    failed"
    assert trace[0] == "  Traceback (most recent call last):"
    assert all(line.startswith("  ") and line.isprintable() for line in trace)
    assert any("INFO: all is well" in line for line in trace)


@given(text=st.text())
def test_visible_text_is_printable_and_what_was_printable_is_as_it_was(text: str) -> None:
    assert visible(text).isprintable()
    assert visible(text) == text or not text.isprintable()
