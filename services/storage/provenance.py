"""Records of what runs were made from: read by anybody, written by the writer's thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, insert, select

from services.storage.operations import Apply, Notice
from services.storage.store import Reader
from services.storage.tables import provenance, tasks

SENT = 0
"""In the place of an attempt: what was known when the task was accepted."""


@dataclass(frozen=True, slots=True)
class Record:
    attempt: int
    recorded_at: datetime
    content: Mapping[str, Any]


class ProvenanceStore(Reader):
    def read(self, task_id: str, attempt: int | None = None) -> Record | None:
        """The record of one attempt, or of the last one that has any."""
        query = select(provenance).where(provenance.c.task_id == task_id).order_by(provenance.c.attempt.desc()).limit(1)
        if attempt is not None:
            query = query.where(provenance.c.attempt == attempt)
        with self._reading() as connection:
            row = connection.execute(query).mappings().one_or_none()
        return None if row is None else Record(row["attempt"], row["recorded_at"], row["record"])


def write(task_id: str, record: Record) -> Apply:
    """Keep a record, in the place of an older one of the same attempt; of a task that is gone by then, none."""

    def statements(connection: Connection) -> Sequence[Notice]:
        here = (provenance.c.task_id == task_id) & (provenance.c.attempt == record.attempt)
        if connection.scalar(select(tasks.c.id).where(tasks.c.task_id == task_id)) is not None:
            connection.execute(delete(provenance).where(here))
            connection.execute(
                insert(provenance),
                {
                    "task_id": task_id,
                    "attempt": record.attempt,
                    "recorded_at": record.recorded_at,
                    "record": dict(record.content),
                },
            )
        return ()

    return Apply(statements)
