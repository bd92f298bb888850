"""One log line on its way from the trainer to the store, the stream and the status."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from operator import index
from typing import Any, TypedDict

from models.schemas import TaskStatus
from services.parsing import Memory
from services.state_machine import PLAIN

Number = int | float
Metrics = Mapping[str, Number | None]

RESOURCES = "Resources: "
"""Begins the lines in which the service says what a task takes of the machine."""
SAMPLED = frozenset({"cpu_percent", "memory_mib", "gpu_memory_mib", "gpu_percent"})
"""What is said in them."""
MAX_MESSAGE = 65_536
"""Characters of a line that are kept; a longer one says how much was cut."""
_INT64 = 2**63
_COUNTS = frozenset({"total_epochs", "total_steps"})
"""Metrics that are whole numbers wherever they appear."""
CARRIED = frozenset({"epoch", *_COUNTS})
"""Metrics that say where a line is in the training, and are no series of their own."""
_NAME_LENGTH = 128
_LEVELS = frozenset({"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"})
_LINE_ENDS = (("\x85", "\\u0085"), ("\u2028", "\\u2028"), ("\u2029", "\\u2029"))
"""Line ends of Unicode that JSON does not escape, and their escapes."""
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class StatusChange:
    """What a line changes about its task besides metrics. Only the last one of a task is shown to clients:
    deployed clients take a `status` key in a log entry for the end of the stream."""

    status: TaskStatus
    reason: str
    error: str | None = None
    device: str | None = None


class Reading(TypedDict, total=False):
    """What is known of a line that a parser has read, besides what it says. The fields are those of `LogEntry`."""

    parsed: bool
    position: int | None
    memory: Memory | None
    percents: frozenset[str]
    warns: bool
    attempt: int


@dataclass(slots=True)
class LogEntry:
    """A log line. `seq` counts a task's lines 1, 2, 3, ... and is 0 until the writer has assigned it.

    Never changed once it is made. (To be frozen as well would cost two microseconds a line.)

    Attributes:
        parsed: the task's parser has read metrics, step and stage from the message; else whoever added it gave them.
        position: bytes of the trainer's output up to and with this line.
        memory: what the parser knows after it. Position and memory are stored with the task, not with the line.
        percents: metrics that were printed with a percent sign.
        warns: the message stands among the task's warnings.
        attempt: the run of the task that it belongs to, from 1; 0 for the one that is on. The line that puts a
            task back into the queue is the first one of the next attempt.
        priority: the task's from this line on, where it changes it. Stored with the task.
    """

    task_id: str
    level: str
    message: str
    metrics: Metrics | None = None
    step: int | None = None
    stage: str | None = None
    change: StatusChange | None = None
    timestamp: datetime = field(default_factory=lambda: datetime.now(UTC))
    seq: int = 0
    attempt: int = 0
    parsed: bool = False
    position: int | None = field(default=None, compare=False)
    memory: Memory | None = field(default=None, compare=False, repr=False)
    percents: frozenset[str] = field(default=frozenset(), compare=False)
    warns: bool = field(default=False, compare=False)
    priority: int | None = field(default=None, compare=False)

    @property
    def is_last(self) -> bool:
        return self.change is not None and self.change.status.is_terminal

    def as_stored(self, seq: int, stage: str, attempt: int, metrics: Metrics | None) -> LogEntry:
        """This line with its number, its stage, its attempt and those of its metrics that the task keeps, without what
        is stored with the task."""
        return LogEntry(
            self.task_id,
            self.level,
            self.message,
            metrics,
            self.step,
            stage,
            self.change,
            self.timestamp,
            seq,
            attempt,
            self.parsed,
        )


def clean_text(text: str) -> str:
    """`text` as every store and every UTF-8 stream can hold it: PostgreSQL refuses NUL, UTF-8 lone surrogates."""
    return text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")


@lru_cache(4096)
def _clean_name(name: str) -> str:
    return clean_text(name)[:_NAME_LENGTH]


def clean_metrics(metrics: Mapping[str, Any] | None) -> dict[str, Number | None] | None:
    """Metrics as JSON can hold them: a number that is not finite becomes `None` (the line itself still says it).

    So does a count that is not whole.

    Raises:
        TypeError, ValueError: a value is no number.
    """
    if metrics is None:
        return None
    cleaned = {_clean_name(name): _clean_number(value) for name, value in metrics.items()}
    for name in _COUNTS & cleaned.keys():
        cleaned[name] = _clean_count(cleaned[name])
    return cleaned


def clean_entry(entry: LogEntry) -> LogEntry:
    """`entry` as every store and stream can hold it: what the writer is given, it can write.

    Raises:
        TypeError, ValueError: a metric or the step is no number.
    """
    message = entry.message
    if len(message) > MAX_MESSAGE:
        message = f"{message[:MAX_MESSAGE]} [cut: {len(message) - MAX_MESSAGE} more characters]"
    elif entry.level in _LEVELS and _is_clean(message) and _is_plain(entry):
        return entry
    return replace(
        entry,
        level=clean_text(entry.level).upper()[:16],
        message=clean_text(message),
        metrics=clean_metrics(entry.metrics),
        step=clean_step(entry.step),
        stage=None if entry.stage is None else clean_text(entry.stage)[:32],
        change=None if entry.change is None else replace(entry.change, reason=_clean_reason(entry.change.reason)),
    )


def _is_clean(text: str) -> bool:
    """Whether `clean_text` would change nothing."""
    if "\x00" in text:
        return False
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_plain(entry: LogEntry) -> bool:
    """Whether it is a message and nothing else, as most lines are."""
    return entry.metrics is None and entry.step is None and entry.stage is None and entry.change is None


def _clean_reason(reason: str) -> str:
    return clean_text(reason)[:64]


def from_wire(task_id: str, wire: Mapping[str, Any]) -> LogEntry:
    """The line of a `DetailedLogEntry` dict; without a timestamp, it is now."""
    timestamp = wire.get("timestamp")
    return LogEntry(
        task_id=task_id,
        level=wire["level"],
        message=wire["message"],
        metrics=wire.get("metrics"),
        step=wire.get("step"),
        stage=wire.get("stage"),
        timestamp=datetime.now(UTC) if timestamp is None else datetime.fromisoformat(timestamp).astimezone(UTC),
    )


def clean_step(step: int | None) -> int | None:
    step = None if step is None else index(step)
    return step if step is not None and -_INT64 <= step < _INT64 else None


def _clean_number(value: Any) -> Number | None:
    if value is None:
        return None
    if isinstance(value, int) and -_INT64 <= value < _INT64:
        return int(value)
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _clean_count(value: Number | None) -> int | None:
    return clean_step(int(value)) if value is not None and value == int(value) else None


def to_wire(entry: LogEntry, attempt: int = 0) -> dict[str, Any]:
    """The `DetailedLogEntry` of a stored line; keys that are not set are left out.

    `attempt` is the one that the task is in now, where that is known: the last line of an earlier one is not the
    task's last line any more, and has no `status`.
    """
    wire: dict[str, Any] = {
        "timestamp": local_time(entry.timestamp).isoformat(),
        "level": entry.level,
        "message": entry.message,
    }
    if entry.metrics:
        wire["metrics"] = dict(entry.metrics)
    if entry.step is not None:
        wire["step"] = entry.step
    if entry.stage is not None:
        wire["stage"] = entry.stage
    if entry.attempt > 1:
        wire["attempt"] = entry.attempt
    if entry.change is not None and entry.is_last and entry.attempt >= attempt:
        wire["status"] = entry.change.status.value
        if entry.change.reason not in PLAIN:
            wire["reason"] = entry.change.reason
    return wire


def narrow(wire: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    """A wire entry with the metrics of these names only; the key is left out where none of them is there."""
    kept = {name: value for name, value in wire.get("metrics", {}).items() if name in names}
    rest = {key: value for key, value in wire.items() if key != "metrics"}
    return {**rest, "metrics": kept} if kept else rest


def encode_frame(seq: int, wire: Mapping[str, Any]) -> bytes:
    """One Server-Sent Event: unnamed, with the line's sequence number as its id."""
    return b"id: %d\r\ndata: %s\r\n\r\n" % (seq, _encode_data(wire))


def encode_event(cursor: str, name: str, data: Mapping[str, Any]) -> bytes:
    """One Server-Sent Event with a name, and a cursor as its id."""
    return b"id: %s\r\nevent: %s\r\ndata: %s\r\n\r\n" % (cursor.encode(), name.encode(), _encode_data(data))


def _encode_data(wire: Mapping[str, Any]) -> bytes:
    """JSON in one line of a stream.

    JSON escapes CR and LF, so a line cannot forge a frame (WHATWG HTML, 9.2.6 Interpreting an event stream).
    Nor can it forge one for a client that splits at the line ends of Unicode, as `str.splitlines` does.
    """
    data = _ENCODER.encode(wire)
    if not data.isascii():
        for character, escape in _LINE_ENDS:
            data = data.replace(character, escape)
    return data.encode()


def decode_frame(frame: bytes) -> dict[str, Any]:
    """The wire entry inside a frame made by `encode_frame`."""
    decoded: dict[str, Any] = json.loads(frame[frame.index(b"data: ") + 6 :])
    return decoded


def local_time(moment: datetime) -> datetime:
    """Local time without an offset: the form of the published contract, whose clients subtract `datetime.now()`."""
    return moment.astimezone().replace(tzinfo=None)
