"""The series of a task as files that other programs read: CSV, JSON Lines, TensorBoard's events."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from itertools import chain
from typing import Any, Final, Literal

from services.history.axis import Place, places
from services.history.series import MetricHistory, Window, names_of
from services.storage.series import Point
from services.task_state import TaskState

Format = Literal["csv", "jsonl", "tensorboard"]
Rows = Iterator[tuple[str, Point]]

COLUMNS: Final = ("metric", "value", "epoch", "step", "attempt", "timestamp", "line")
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
_CHUNK: Final = 65_536
_FILE_VERSION: Final = "brain.Event:2"
"""First record of every file of events."""


def export(
    history: MetricHistory,
    state: TaskState,
    names: Iterable[str] | None,
    form: Format,
    window: Window,
    about: str | None = None,
) -> Iterator[bytes]:
    """The points of these metrics, or of all, metric by metric and oldest first, in pieces of a file.

    Args:
        about: Markdown that stands beside them where the format has a place for it, which TensorBoard's has.

    Raises:
        StorageUnavailable: the store cannot be read.
    """
    superseded = history.superseded(state, window)
    rows = ((name, point) for name in names_of(state, names) for point in history.export(state, name, superseded))
    if form != "tensorboard":
        return _in_chunks(_WRITERS[form](rows))
    pieces = _tensorboard(rows, state, places("step", state, [], first_epoch=history.first_epoch(state)))
    return _in_chunks(chain(pieces, _text(about, state)) if about else pieces)


def _csv(rows: Rows) -> Iterator[bytes]:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for name, point in rows:
        writer.writerow([_harmless(name), *_values(point)])
        yield buffer.getvalue().encode()
        buffer.seek(0)
        buffer.truncate()
    yield buffer.getvalue().encode()


def _harmless(name: str) -> str:
    """A name that no spreadsheet takes for a formula (OWASP, "CSV Injection")."""
    return f"'{name}" if name.startswith(_FORMULA) else name


def _jsonl(rows: Rows) -> Iterator[bytes]:
    for name, point in rows:
        row = dict(zip(COLUMNS, (name, *_values(point)), strict=True))
        yield json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _values(point: Point) -> tuple[Any, ...]:
    at = None if point.at is None else datetime.fromtimestamp(point.at, UTC).isoformat()
    return point.value, point.epoch, point.step, point.attempt, at, point.seq


def _tensorboard(rows: Rows, state: TaskState, place: Place) -> Iterator[bytes]:
    """Scalars as TensorBoard's own writer stores them (tensorboard/compat/proto/event.proto), each in a record.

    Its step is that of the training where the log counts steps, else the epoch, else the line. What was not finite
    is NaN, as TensorBoard shows it.
    """
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    writer.write(Event(wall_time=state.created_at.timestamp(), file_version=_FILE_VERSION).SerializeToString())
    total = state.latest_metrics.get("total_steps")
    for name, point in rows:
        step = place(point) if total else point.step
        step = point.epoch if step is None else step
        value = float("nan") if point.value is None else point.value
        event = Event(
            wall_time=point.at or 0.0,
            step=int(point.seq if step is None else step),
            summary=Summary(value=[Summary.Value(tag=name, simple_value=value)]),
        )
        writer.write(event.SerializeToString())
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
    yield buffer.getvalue()


def _text(text: str, state: TaskState) -> Iterator[bytes]:
    """What TensorBoard shows under "Text" (tensorboard/plugins/text/summary_v2.py): a tensor of one string."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING
    from tensorboard.summary.writer.record_writer import RecordWriter

    buffer = io.BytesIO()
    value = Summary.Value(
        tag="provenance",
        metadata=SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text")),
        tensor=TensorProto(dtype=DT_STRING, string_val=[text.encode()]),
    )
    event = Event(wall_time=state.created_at.timestamp(), step=0, summary=Summary(value=[value]))
    RecordWriter(buffer).write(event.SerializeToString())
    yield buffer.getvalue()


def _in_chunks(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Fewer, larger pieces: each is handed from a thread to the server on its own."""
    chunk = bytearray()
    for piece in pieces:
        chunk += piece
        if len(chunk) >= _CHUNK:
            yield bytes(chunk)
            chunk.clear()
    yield bytes(chunk)


_WRITERS: Final[dict[Format, Callable[[Rows], Iterator[bytes]]]] = {"csv": _csv, "jsonl": _jsonl}
SUFFIXES: Final[dict[Format, str]] = {"csv": "csv", "jsonl": "jsonl", "tensorboard": "tfevents"}
MEDIA_TYPES: Final[dict[Format, str]] = {
    "csv": "text/csv; charset=utf-8",
    "jsonl": "application/jsonl; charset=utf-8",
    "tensorboard": "application/octet-stream",
}
