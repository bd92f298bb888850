"""Escape codes in a stranger's log line: none reaches the terminal, and none is dear or fatal."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.display import printable


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b[2J\x1b[Hclear", "clear"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;http://a\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b(Bcharset", "charset"),
        ("broken off\x1b[31", "broken off31"),
        ("one\rtwo\nthree\tfour", "one two three four"),
        ("the end of a line is no part of it\r\n", "the end of a line is no part of it"),
        ("a bell\x07 and a backspace\x08", "a bell and a backspace"),
        ("[red]kept[/red]", "[red]kept[/red]"),
        (f"a\x1b[{'1' * 5000}mb", "ab"),
    ],
)
def test_escape_codes_are_taken_out_and_text_is_left(line: str, shown: str) -> None:
    assert printable(line) == shown


@pytest.mark.parametrize("piece", ["\x1b[", "\x1b]", "\x1b[1", "\x1b]0;t", "\x1b", "\x1b(", "\x1b[1;", "\x1b[ "])
def test_a_line_of_a_million_letters_is_shown_at_once(piece: str) -> None:
    """By the processor's time, and with room: where letters are looked at again for each other one it is hours."""
    begun = time.process_time()
    printable(piece * (1_000_000 // len(piece)))
    printable(piece + "1" * 1_000_000)
    assert time.process_time() - begun < 20


@given(st.text(alphabet=st.sampled_from("\x1b[]();0123456789 mPX^_\\\x07\x9bA\r\n训"), max_size=60))
def test_nothing_that_steers_a_terminal_is_left(line: str) -> None:
    assert printable(line).isprintable()
