"""A store with as many tasks and lines as wanted, in minutes.

One task is written as every task is: handler, parser, writer. The others are copies that the store makes of its rows,
so they are what the service would have written, at several times the speed. They are there one after the other, as
trainings are that run one at a time.
"""

from __future__ import annotations

import logging
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Table, insert, literal, select, update

from models.schemas import TaskStatus
from services.base_service import BaseService
from services.log_entry import LogEntry, StatusChange
from services.log_handler import TrainingLogHandler
from services.storage.database import Database
from services.storage.tables import log_entries, metric_points, tasks
from services.task_state import TaskState

PATTERN, LONG = "task-000000", "long"
LINES = (
    "Epoch [{epoch}/100] started",
    "Loading checkpoint shards from /data/models/resnet18/epoch_{epoch}.pth",
    "Epoch [{epoch}/100], Step [40/180], Train Loss: 0.5234, 312.4 images/s, ETA: 12s",
    "optimizer: AdamW (lr: 0.001, betas: (0.9, 0.999), weight_decay: 0.01)",
    "UserWarning: the given array is not writeable, and this operation will copy 3 of its 12 parts",
    "Epoch [{epoch}/100], Step [80/180], Train Loss: 0.4234, 318.1 images/s, ETA: 8s",
    "Train Loss: 0.4234, Train Accuracy: 82.45%",
    "the reader waits for the disk",
    "Validation Loss: 0.6123, Validation Accuracy: 78.92%",
)
LEVEL_OF = {4: logging.WARNING}
TASKS_A_TIME = 200
ROWS_A_TIME = 200_000


def fill(path: Path, task_count: int, lines: int, long_lines: int) -> None:
    """Make the store: `task_count` tasks of `lines` lines each, the one called `LONG` of about `long_lines`."""
    assert lines > 1
    assert task_count > 1
    database = Database(f"sqlite:///{path}")
    base = BaseService(database)
    write_pattern(base, lines)
    base.close()
    database = Database(f"sqlite:///{path}")
    try:
        copy_tasks(database, task_count)
        copy_long(database, lines, max(lines, long_lines))
    finally:
        database.close()


def name_of(number: int) -> str:
    return f"task-{number:06}"


def write_pattern(base: BaseService, lines: int) -> None:
    now = datetime.now(UTC) - timedelta(days=1)
    request = {"model": "resnet18", "num_classes": 2, "train_path": "/t", "val_path": "/v", "save_path": "/s"}
    state = TaskState(
        task_id=PATTERN,
        request=request,
        output_dir="/s",
        device="cpu",
        created_at=now,
        updated_at=now,
        status=TaskStatus.RUNNING,
    )
    queue = base.create_log_queue(PATTERN, state)
    handler = TrainingLogHandler(PATTERN, base)
    for number in range(lines - 1):
        place = number % len(LINES)
        line = LINES[place].format(epoch=1 + number // len(LINES) % 100)
        handler.emit(logging.LogRecord("trainer", LEVEL_OF.get(place, logging.INFO), "", 0, line, None, None))
    queue.put(LogEntry(PATTERN, "INFO", "end", change=StatusChange(TaskStatus.COMPLETED, "finished")))
    base.flush_log(PATTERN)


def copy_tasks(database: Database, count: int) -> None:
    began = shown = time.monotonic()
    for first in range(1, count - 1, TASKS_A_TIME):
        with database.writing() as connection:
            for number in range(first, min(first + TASKS_A_TIME, count - 1)):
                status = (TaskStatus.FAILED if number % 50 == 0 else TaskStatus.COMPLETED).value
                copy(connection, tasks, {"task_id": name_of(number), "output_dir": f"/s/{number}", "status": status})
                for table in (log_entries, metric_points):
                    copy(connection, table, {"task_id": name_of(number)})
        if time.monotonic() - shown > 20:
            shown = time.monotonic()
            print(f"  {first:,} of {count:,} tasks after {shown - began:.0f} s", file=sys.stderr)


def copy_long(database: Database, lines: int, wanted: int) -> None:
    """Its lines are those of the pattern again and again, and then the last one."""
    body = lines - 1
    times = max(1, wanted // body)
    per_transaction = max(1, ROWS_A_TIME // lines)
    with database.writing() as connection:
        copy(connection, tasks, {"task_id": LONG, "output_dir": "/s/long"})
    for first in range(0, times, per_transaction):
        with database.writing() as connection:
            for number in range(first, min(first + per_transaction, times)):
                for table in (log_entries, metric_points):
                    copy(connection, table, {"task_id": LONG, "seq": table.c.seq + number * body}, until=body)
    with database.writing() as connection:
        shifted = log_entries.c.seq + (times - 1) * body
        copy(connection, log_entries, {"task_id": LONG, "seq": shifted}, after=body)
        connection.execute(update(tasks).where(tasks.c.task_id == LONG).values(last_seq=times * body + 1))


def copy(
    connection: Connection, table: Table, changes: dict[str, Any], *, after: int | None = None, until: int | None = None
) -> None:
    """Copy the pattern's rows of a table with other values in some columns."""
    names = [column.name for column in table.columns if column.name != "id"]
    values = [changes.get(name, table.c[name]) for name in names]
    source = select(*(each if hasattr(each, "compile") else literal(each) for each in values))
    source = source.where(table.c.task_id == PATTERN)
    if after is not None:
        source = source.where(table.c.seq > after)
    if until is not None:
        source = source.where(table.c.seq <= until)
    if table is not tasks:
        source = source.order_by(table.c.seq)
    connection.execute(insert(table).from_select(names, source))
