"""A trainer's output, as bytes, into the lines of its log.

What a program prints is not made of tidy lines: progress bars redraw themselves with carriage returns, a
line can be 100 MB long, a write can end in the middle of a character. Whatever comes in, whole lines come
out, each with the place in the output behind it, where a later reader goes on without a repetition.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator

from services.log_entry import MAX_MESSAGE

CHUNK = 2**18
"""Bytes to read at a time: large enough that reading costs nothing, small enough for the memory of its lines."""
POLL_S = (0.02, 0.25)
"""Between two looks for new output: while it flows, and at most."""
UPDATE_EVERY_S = 1.0
"""Between two updates of a line that is being redrawn."""

Line = tuple[str, int]
"""The text of a line, and the position in bytes behind it."""

_ROOM_FOR_CUT = 64
"""Characters for saying how much was cut."""
_SURELY_FITS = MAX_MESSAGE // 4 - _ROOM_FOR_CUT
"""Bytes that are no more than `MAX_MESSAGE` characters, even if each is shown as `\\xff`."""
_CHECK_EVERY = 256
"""Lines between two questions whether to go on."""
_ESCAPE = r"\x1b\[[0-?]*[ -/]*[@-~]"
"""A control sequence (ECMA-48, 5.4): what consists of nothing else shows nothing."""
_ESCAPE_BYTES = re.compile(_ESCAPE.encode())
_ESCAPE_TEXT = re.compile(_ESCAPE)
_FRONT = 200
"""Bytes of a bar that are looked at for the epoch it is of."""
_EPOCH_IN_FRONT = re.compile(rb"\W{0,8}(?:[a-z]{1,12} ){0,2}epoch\W{0,3}([0-9]{1,9})", re.IGNORECASE)


def decoded(line: bytes | bytearray) -> str:
    """UTF-8, or else GB 2312, in which Chinese Windows writes: both bytes of its characters are above ASCII, so that
    hardly anything else is taken for it. Of what is neither, bytes are shown by their numbers."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        try:
            return line.decode("gb2312")
        except UnicodeDecodeError:
            return line.decode("utf-8", "backslashreplace")


class LineSplitter:
    """Takes bytes in pieces of any size. The lines do not depend on where the pieces end.

    A line ends with `\\n` or `\\r\\n`. Any other `\\r` begins the line anew: of the segments of a line only the
    last one that shows something is its text. While such a line goes on, `feed` gives its latest whole
    segment at most once a second, as a line of its own; and the last one of an epoch before the bar of the
    next is drawn over it, since nothing else says how that epoch ended.
    """

    def __init__(self, position: int = 0, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._updated = float("-inf")
        self._position = position
        """Behind the last byte that was taken in."""
        self._redrawn = position
        """Behind the last `\\r` that begins a segment."""
        self._segment = _Segment()
        self._shown: _Segment | None = None
        """The last segment of this line that is whole and shows something."""
        self._return_waits = False
        """Whether a `\\r` was the last byte, which is not taken in before the next one tells what it is."""

    def feed(self, chunk: bytes) -> Iterator[Line]:
        """The lines that end in `chunk`, an update of an open one perhaps. To be exhausted before the next call.

        An empty chunk gives an update that was held back.
        """
        if self._return_waits and chunk:
            self._return_waits = False
            chunk = b"\r" + chunk
        if chunk.endswith(b"\r"):
            self._return_waits = True
            chunk = chunk[:-1]
        pieces = chunk.split(b"\n")
        rest = pieces.pop()
        position = self._position
        self._position += len(chunk)
        is_plain, is_open = b"\r" not in chunk, bool(self._segment or self._shown)
        for piece in pieces:
            if is_plain and not is_open and len(piece) <= _SURELY_FITS:
                position += len(piece) + 1
                yield decoded(piece), position
            else:
                yield from self._take(piece.removesuffix(b"\r"), position)
                yield from self._drawn_over()
                is_open = False
                position += len(piece) + 1
                yield self._end(), position
        yield from self._take(rest, position)
        if self._shown and (now := self._clock()) - self._updated >= UPDATE_EVERY_S:
            self._updated = now
            text, self._shown = self._shown.text(), None
            yield text, self._redrawn

    def finish(self) -> Iterator[Line]:
        """The last line, where the output ends without the end of a line."""
        if self._return_waits:
            self._return_waits = False
            yield from self._take(b"\r", self._position)
            self._position += 1
        yield from self._drawn_over()
        if self._segment or self._shown:
            yield self._end(), self._position

    def _take(self, piece: bytes, position: int) -> Iterator[Line]:
        """Add bytes without an end of line, which begin at `position`, to the open line."""
        start = 0
        while (end := piece.find(b"\r", start)) >= 0:
            self._segment.add(piece[start:end])
            if not self._segment.is_blank:
                yield from self._drawn_over()
                self._shown = self._segment
            self._segment = _Segment()
            start = end + 1
            self._redrawn = position + start
        self._segment.add(piece[start:])

    def _drawn_over(self) -> Iterator[Line]:
        """What is shown, where the segment that is drawn over it is of another epoch."""
        if self._shown and self._shown.epoch is not None and self._segment.epoch not in (None, self._shown.epoch):
            text, self._shown = self._shown.text(), None
            yield text, self._redrawn

    def _end(self) -> str:
        segment = self._shown if self._shown and self._segment.is_blank else self._segment
        self._segment, self._shown = _Segment(), None
        return segment.text()


class _Segment:
    """A line, or what one redrawing shows of it: its first bytes, and how many there were."""

    __slots__ = ("_kept", "_length")

    def __init__(self) -> None:
        self._kept = bytearray()
        self._length = 0

    def __bool__(self) -> bool:
        return self._length > 0

    def add(self, data: bytes) -> None:
        self._length += len(data)
        if len(self._kept) < MAX_MESSAGE:
            self._kept += data[: MAX_MESSAGE - len(self._kept)]

    @property
    def is_blank(self) -> bool:
        return self._length <= MAX_MESSAGE and not _ESCAPE_BYTES.sub(b"", self._kept).strip()

    @property
    def epoch(self) -> bytes | None:
        """The number of the epoch that a bar names in front: `Epoch 3:  50%|...`."""
        match = _EPOCH_IN_FRONT.match(_ESCAPE_BYTES.sub(b"", self._kept[:_FRONT]))
        return match[1] if match else None

    def text(self) -> str:
        """With what is too long for the store cut here, where the number of bytes is known."""
        if self._length <= MAX_MESSAGE:
            text = decoded(self._kept)
            if len(text) <= MAX_MESSAGE:
                return text
        for size in (MAX_MESSAGE - _ROOM_FOR_CUT, _SURELY_FITS):
            size = self._character_boundary(size)
            text = decoded(self._kept[:size])
            if len(text) <= MAX_MESSAGE - _ROOM_FOR_CUT:
                break
        return f"{text} [cut: {self._length - size} more bytes]"

    def _character_boundary(self, size: int) -> int:
        """The last place up to `size` that is not within a character of UTF-8, which has four bytes at most."""
        size = min(size, len(self._kept))
        for place in range(size, max(size - 4, 0), -1):
            if place == len(self._kept) or self._kept[place] & 0xC0 != 0x80:
                return place
        return size


class LineLogger:
    """Hands lines to the logger of a task, each with its position and the level that it claims for itself.

    Args:
        check: asked every few lines whether to go on; what it raises ends the reading.
        prefixed: take `WARNING: ` and the like off: the lines come from `python -m trainer --plain`.

    Attributes:
        position: behind the last line that was handed over.
    """

    def __init__(
        self,
        logger: logging.Logger,
        position: int,
        *,
        check: Callable[[], None],
        clock: Callable[[], float],
        prefixed: bool = False,
    ) -> None:
        self._logger = logger
        self._check = check
        self._prefixed = prefixed
        self.position = position
        self._splitter = LineSplitter(position, clock=clock)

    def feed(self, chunk: bytes) -> None:
        self._log(self._splitter.feed(chunk))

    def finish(self) -> None:
        self._log(self._splitter.finish())

    def _log(self, lines: Iterator[Line]) -> None:
        until_check = _CHECK_EVERY
        for line, position in lines:
            level = level_of(line)
            if self._prefixed and level != logging.INFO:
                line = line.removeprefix(f"{logging.getLevelName(level)}: ")
            self._logger.log(level, line, extra={"position": position})
            self.position = position
            until_check -= 1
            if not until_check:
                until_check = _CHECK_EVERY
                self._check()


_HEAD = 200
"""Characters of a line in which its level is looked for."""
_HINTS = ("ERR", "rror", "WARN", "arning", "CRIT", "FATAL", "DEBUG", "Traceback", "xception")
"""Every line of another level than INFO has one of these, or begins as glog's do; most lines end here."""
_GLOG_STARTS = frozenset("WEFD[")

_WORD = r"(?P<word>DEBUG|INFO|NOTICE|WARN(?:ING)?|ERROR|CRITICAL|FATAL)(?![\w/])"
_LEVEL = re.compile(
    r"(?:\[rank\d{1,6}\]:? ?)?"  # torchrun
    r"(?:"
    rf"[\[<(]?{_WORD}(?=$|[\s:\]>)|,])"  # ERROR x, [ERROR] x, ERROR:name:x
    r"|[\[(]?\d[\d\-/:.,TZ+ ]{4,40}+(?:[\])]|[A-Za-z_][\w.:-]{0,63}\])?[ \t|:-]{0,8}+"  # the time, perhaps
    # a name or two, then the level
    r"(?:[\[(]?[A-Za-z_][\w.:<>-]{0,63}[\])]?[ \t|-]{1,8}|\[[A-Za-z_][\w.:<>-]{0,63}\]){0,2}?"
    rf"[\[<(]?{_WORD.replace('word', 'later')}"
    r"|\[?(?P<glog>[DIWEF])\d{4,8} \d\d:\d\d:\d\d"
    r"|(?P<traceback>Traceback \(most recent call last\):)"
    r"|(?P<lower>warning|error|fatal(?: error)?): "
    r"|(?:[\w/.<>-]{1,150}:\d{1,7}: )?(?:[\w.]{1,80}\.)?(?P<warning>(?:[A-Z]\w{0,60})?Warning):"
    # Some metrics are named like exceptions: MeanSquaredError: 0.25
    r"|(?:[\w.]{1,80}\.)?(?P<exception>[A-Z]\w{0,60}(?:Error|Exception)|Error)(?:$|:(?!\s*[-+]?\d*\.\d))"
    r")"
)
_LEVELS = {
    "D": logging.DEBUG,
    "I": logging.INFO,
    "N": logging.INFO,
    "W": logging.WARNING,
    "w": logging.WARNING,
    "E": logging.ERROR,
    "e": logging.ERROR,
    "f": logging.ERROR,
    "T": logging.ERROR,
    "C": logging.CRITICAL,
    "F": logging.CRITICAL,
}
"""By the first letter of what the pattern found."""


def level_of(line: str) -> int:
    """The level that a line claims for itself, in the ways of the common loggers; INFO where it claims none."""
    head = line[:_HEAD]
    if not any(hint in head for hint in _HINTS) and head[:1] not in _GLOG_STARTS:
        return logging.INFO
    if "\x1b" in head:
        head = _ESCAPE_TEXT.sub("", head)
    found = _LEVEL.match(head.lstrip())
    if found is None:
        return logging.INFO
    if found["warning"]:
        return logging.WARNING
    if found["exception"]:
        return logging.ERROR
    return _LEVELS[(found["word"] or found["later"] or found["glog"] or found["traceback"] or found["lower"])[0]]
