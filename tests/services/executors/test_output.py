"""Whatever bytes a trainer prints, whole lines come out, and a reader who goes on anywhere repeats nothing."""

from __future__ import annotations

import itertools
import logging
import math
import re
import tracemalloc
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.executors.output import LineLogger, LineSplitter, decoded, level_of
from services.log_entry import MAX_MESSAGE, LogEntry, clean_entry
from tests.trainer.helpers import logger_and_lines

BYTES = st.binary(max_size=60) | st.lists(
    st.sampled_from(
        [
            b"\r",
            b"\n",
            b"\r\n",
            b" ",
            b"a",
            b"50%",
            b"Epoch 1: ",
            b"epoch 2/9",
            b"\x1b[K",
            b"\xe4\xb8",
            b"\xad",
            b"\xff",
            b"\x00",
        ]
    )
).map(b"".join)


def never() -> float:
    """A clock by which no update is ever due."""
    return math.nan


def ticking() -> Callable[[], float]:
    """A clock by which an update is due whenever it is asked."""
    return itertools.count().__next__


def lines_of(splitter: LineSplitter, *chunks: bytes) -> Iterator[tuple[str, int]]:
    for chunk in chunks:
        yield from splitter.feed(chunk)
    yield from splitter.finish()


def texts(*chunks: bytes) -> list[str]:
    return [text for text, _ in lines_of(LineSplitter(clock=never), *chunks)]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({min(place, len(data)) for place in places} | {0, len(data)})
    return [data[start:end] for start, end in itertools.pairwise(ends)]


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        (b"", []),
        (b"one\ntwo\n", ["one", "two"]),
        (b"one\r\ntwo\r\n", ["one", "two"]),
        (b"one\n\nthree", ["one", "", "three"]),
        (b" 10%\r 50%\r100%\nnext\n", ["100%", "next"]),
        (b"\r  0%\r100%\r\nnext", ["100%", "next"]),
        (b"100%\r    \r\x1b[2K\rEpoch 2\n", ["Epoch 2"]),
        (b"100%\r    \r\n", ["100%"]),
        (b"text\r\r\n", ["text"]),
        (b"\rEpoch 0: 9%\rEpoch 0: 99%\r   \r\x1b[AEpoch 1: 9%\rEpoch 1: 99%\n", ["Epoch 0: 99%", "Epoch 1: 99%"]),
        (b"Train epoch 1/3 9%\rTrain epoch 2/3 9%\rok\n", ["Train epoch 1/3 9%", "ok"]),
        (b"cut off\r", ["cut off"]),
        (b"\xe4\xb8\xad\xff\x80 100%s\n", ["中\\xff\\x80 100%s"]),
        (b"\xed\xa0\x80\n", ["\\xed\\xa0\\x80"]),
        ("第1轮，训练损失：0.5\n".encode("gbk"), ["第1轮，训练损失：0.5"]),
        ("café à 3 €\n".encode("cp1252"), ["caf\\xe9 \\xe0 3 \\x80"]),
        ("\x85 \u2028 \x0b\x0c\n".encode(), ["\x85 \u2028 \x0b\x0c"]),
    ],
)
def test_lines_are_what_a_terminal_leaves_standing(printed: bytes, expected: list[str]) -> None:
    assert texts(printed) == expected


@given(BYTES, st.lists(st.integers(0, 60)))
def test_lines_do_not_depend_on_how_the_output_arrives(printed: bytes, places: list[int]) -> None:
    assert list(lines_of(LineSplitter(clock=never), *cut(printed, places))) == list(
        lines_of(LineSplitter(clock=never), printed)
    )


@given(BYTES, st.lists(st.integers(0, 60)), st.integers(0, 10**12))
def test_a_reader_goes_on_behind_any_line_and_any_update(printed: bytes, places: list[int], start: int) -> None:
    chunks = cut(printed, places)
    whole = list(lines_of(LineSplitter(start, clock=ticking()), *chunks))
    for number, (_, position) in enumerate(whole):
        left, rest = position - start, []
        for chunk in chunks:
            rest.append(chunk[left:])
            left = max(0, left - len(chunk))
        assert list(lines_of(LineSplitter(position, clock=ticking()), *rest)) == whole[number + 1 :]


@given(BYTES)
def test_every_byte_that_shows_something_is_in_a_line_or_was_redrawn(printed: bytes) -> None:
    printed = printed.replace(b"\r", b"")
    assert "\n".join(texts(printed)) == "\n".join(map(decoded, printed.removesuffix(b"\n").split(b"\n")))


def test_a_bar_that_goes_on_is_shown_once_a_second_without_a_repetition() -> None:
    now = 0.0
    splitter = LineSplitter(clock=lambda: now)

    def feed(chunk: bytes, at: float) -> list[tuple[str, int]]:
        nonlocal now
        now = at
        return list(splitter.feed(chunk))

    assert feed(b"\r10%", 0) == [], "it may be half a segment"
    assert feed(b"\r20%", 0.1) == [("10%", 5)]
    assert feed(b"\r30%\r40%", 0.9) == []
    assert feed(b"", 1.1) == [("30%", 13)], "it was held back, and no more has come"
    assert feed(b"\n", 1.2) == [("40%", 17)]
    assert list(splitter.finish()) == []


@pytest.mark.parametrize(("printed", "size"), [(b"a", MAX_MESSAGE + 1), ("中".encode(), 10**5), (b"\xff", 10**5)])
def test_a_line_that_is_too_long_says_how_much_is_missing_and_is_not_cut_again(printed: bytes, size: int) -> None:
    [text] = texts(printed * size + b"\n")
    found = re.fullmatch(r"(.+) \[cut: (\d+) more bytes\]", text)
    assert found
    shown, missing = found[1], int(found[2])
    line = printed * size
    assert shown == line[: len(line) - missing].decode("utf-8", "backslashreplace")
    assert clean_entry(LogEntry("t", "INFO", text)).message == text


@pytest.mark.parametrize("size", [MAX_MESSAGE // 4, MAX_MESSAGE])
def test_a_line_that_just_fits_is_whole(size: int) -> None:
    assert texts(b"a" * size + b"\n") == ["a" * size]


def test_a_line_of_100_megabytes_takes_no_memory() -> None:
    chunk = b"x" * 2**18
    splitter = LineSplitter(clock=never)
    tracemalloc.start()
    try:
        for _ in range(400):
            assert list(splitter.feed(chunk)) == []
        assert tracemalloc.get_traced_memory()[1] < 2**21
    finally:
        tracemalloc.stop()
    [(text, position)] = splitter.finish()
    assert position == 400 * 2**18
    assert text.endswith("more bytes]")


@pytest.mark.parametrize(
    ("level", "line"),
    [
        ("WARNING", "2026-01-02 12:00:00,123 - WARNING - x"),
        ("ERROR", "2026-01-02 12:00:00,123 - trainer.loop - ERROR - x"),
        ("WARNING", "2026-01-02 12:00:00.123 | WARNING  | module:function:1 - x"),
        ("INFO", "2026-01-02 12:00:00.123 | INFO     | module:function:1 - ERROR"),
        ("ERROR", "[2026-01-02 12:00:00,123][__main__][ERROR] - x"),
        ("ERROR", "[2026-01-02 12:00:00,123][ERROR] x"),
        ("WARNING", "[2026-01-02 12:00:00,123] [WARNING] [logging.py:96:log_dist] x"),
        ("WARNING", "[01/02 12:00:00 d2.engine.train]: WARNING x"),
        ("WARNING", "01/02/2026 12:00:00 - WARNING - __main__ - x"),
        ("WARNING", "[WARNING|trainer.py:123] 2026-01-01 12:00:00,123 >> x"),
        ("WARNING", "[2026/01/02 12:00:00] ppcls WARNING: x"),
        ("ERROR", "2026-01-02T12:00:00Z ERROR x"),
        ("DEBUG", "12:00:00 DEBUG x"),
        ("WARNING", "WARNING: x"),
        ("WARNING", "\x1b[33mWARNING\x1b[0m: x"),
        ("ERROR", "ERROR x"),
        ("ERROR", "ERROR    root:file.py:12 x"),
        ("INFO", "INFO:name:an ERROR: x"),
        ("WARNING", "WARNING:root:x"),
        ("CRITICAL", "CRITICAL:root:x"),
        ("CRITICAL", "FATAL x"),
        ("WARNING", "W1123 12:00:00.123456 1234 file.py:1] x"),
        ("ERROR", "E20261123 12:00:00.123456 1234 file.py:1] x"),
        ("WARNING", "[rank0]:[W1123 12:00:00.123 file.cpp:1] x"),
        ("ERROR", "[rank0]: Traceback (most recent call last):"),
        ("ERROR", "Traceback (most recent call last):"),
        ("ERROR", "ValueError: bad"),
        ("ERROR", "MemoryError"),
        ("ERROR", "torch.cuda.OutOfMemoryError: CUDA out of memory"),
        ("ERROR", "KeyError: 3"),
        ("ERROR", "error: x"),
        ("WARNING", "/a/b/c.py:12: UserWarning: x"),
        ("WARNING", "UserWarning: x"),
        ("INFO", "MeanSquaredError: 0.25"),
        ("INFO", "Error: 12.5%"),
        ("INFO", "Validation ERROR 0.5"),
        ("INFO", "Epoch [1/3], Val Error: 0.3"),
        ("INFO", "2026-01-02 12:00:00,123 - Train Loss: 0.5"),
        ("INFO", ""),
    ],
)
def test_a_line_has_the_level_that_it_claims(level: str, line: str) -> None:
    assert logging.getLevelName(level_of(line)) == level


@given(st.text())
def test_any_text_has_a_level(line: str) -> None:
    assert level_of(line) in (10, 20, 30, 40, 50)
    level_of(f"2026-01-02 12:00:00 {line} ERROR")


def test_lines_reach_the_logger_with_level_and_position_and_percent_signs() -> None:
    logger, lines = logger_and_lines()
    reader = LineLogger(logger, 100, check=lambda: None, clock=never)
    reader.feed("Accuracy: 82%s\nWARNING: 中\nhalf".encode())
    reader.finish()
    assert [(record.levelname, record.getMessage(), record.__dict__["position"]) for record in lines.records] == [
        ("INFO", "Accuracy: 82%s", 115),
        ("WARNING", "WARNING: 中", 128),
        ("INFO", "half", 132),
    ]


def test_whoever_reads_a_long_chunk_is_asked_on_the_way_whether_to_go_on() -> None:
    class EnoughError(Exception):
        pass

    def check() -> None:
        raise EnoughError

    logger, lines = logger_and_lines()
    reader = LineLogger(logger, 0, check=check, clock=never)
    with pytest.raises(EnoughError):
        reader.feed(b"y\n" * 10_000)
    assert 0 < len(lines.records) < 1000
    assert reader.position == 2 * len(lines.records)
