"""What removing old lines costs those that come in meanwhile, and how much room it gives back.

    python -m benchmarks.retention [--lines 1000000]

A store with one ended task of so many lines, one in five with a metric. Another task writes a line every 5 ms and waits
until it is committed: alone, while the old lines are removed, and alone again. Prints the delays, their ratio, and how
long the removal took.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import insert, text

from benchmarks.figures import load_after, machine, percentile
from models.schemas import TaskStatus
from services.base_service import BaseService
from services.log_entry import LogEntry, StatusChange
from services.retention import Retention, Rules
from services.storage.database import Database
from services.storage.tables import log_entries, metric_points
from services.task_state import TaskState

EVERY_S = 0.005
PAGE = 50_000
OLD = datetime.now(UTC) - timedelta(days=100)


def new_task(task_id: str) -> TaskState:
    return TaskState(task_id=task_id, request={}, output_dir="", device="cpu", created_at=OLD, updated_at=OLD)


def fill(service: BaseService, lines: int) -> None:
    service.create_log_queue("old", new_task("old"))
    queue = service.log_queues["old"]
    queue.put(
        LogEntry(
            "old", "INFO", "begins", metrics={"train_loss": 1.0}, change=StatusChange(TaskStatus.RUNNING, "device_free")
        )
    )
    queue.put(LogEntry("old", "INFO", "ends", change=StatusChange(TaskStatus.COMPLETED, "finished")))
    service.flush_log("old")
    with service.database.engine.begin() as connection:
        for start in range(3, lines, PAGE):
            numbers = range(start, min(start + PAGE, lines))
            common = {
                "task_id": "old",
                "timestamp": OLD,
                "level": "INFO",
                "stage": "training",
                "parsed": True,
                "attempt": 1,
            }
            rows = [
                {**common, "seq": number, "message": f"Epoch [1/10], Step [{number}/{lines}], Train Loss: 0.5234",
                 "metrics": None if number % 5 else {"train_loss": number / 7 % 1}, "step": number}
                for number in numbers
            ]  # fmt: skip
            connection.execute(insert(log_entries), rows)
            points = [
                {"task_id": "old", "name": "train_loss", "seq": number, "epoch": 1, "step": number,
                 "value": number / 7 % 1, "attempt": 1, "at": OLD.timestamp()}
                for number in numbers if not number % 5
            ]  # fmt: skip
            connection.execute(insert(metric_points), points)
        connection.execute(
            text("UPDATE tasks SET last_seq = :last, updated_at = :at WHERE task_id = 'old'"),
            {"last": lines - 1, "at": OLD},
        )


class Live:
    """A task that writes a line now and then."""

    def __init__(self, service: BaseService) -> None:
        self._service = service
        service.create_log_queue("live", new_task("live"))

    def one(self) -> float:
        """Milliseconds until it is committed."""
        began = time.perf_counter()
        self._service.add_log("live", "INFO", "Train Loss: 0.5", {"train_loss": 0.5})
        self._service.flush_log("live")
        return 1000 * (time.perf_counter() - began)

    def for_s(self, seconds: float) -> list[float]:
        return list(self._until(lambda began: time.perf_counter() - began > seconds))

    def while_alive(self, thread: threading.Thread) -> list[float]:
        return list(self._until(lambda _began: not thread.is_alive()))

    def _until(self, is_over: object) -> Iterator[float]:
        assert callable(is_over)
        began = time.perf_counter()
        while not is_over(began):
            yield self.one()
            time.sleep(EVERY_S)


@contextmanager
def opened(lines: int) -> Iterator[BaseService]:
    with tempfile.TemporaryDirectory() as folder:
        service = BaseService(Database(f"sqlite:///{Path(folder) / 'store.db'}"))
        fill(service, lines)
        yield service
        service.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=1_000_000)
    lines = parser.parse_args().lines
    logging.basicConfig(level=logging.ERROR)
    print(machine("sqlalchemy"))
    with opened(lines) as service:
        size = service.database.size()
        live = Live(service)
        before = live.for_s(5)
        keeper = Retention(service, Rules(lines_days=30), ())
        removed: list[str] = []
        thread = threading.Thread(target=lambda: removed.append(str(keeper.run_once())))
        began = time.perf_counter()
        thread.start()
        during = live.while_alive(thread)
        seconds = time.perf_counter() - began
        after = live.for_s(5)
        with service.database.engine.connect() as connection:
            connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))
        print(f"{removed[0]}, in {seconds:.0f} s")
        print(f"size of the store {size / 2**20:,.0f} MiB -> {service.database.size() / 2**20:,.0f} MiB")
    figures = {}
    for name, delays in (("alone", [*before, *after]), ("while lines are removed", during)):
        figures[name] = {"p50": percentile(delays, 50), "p99": percentile(delays, 99), "worst": max(delays)}
        print(f"{name:24} " + json.dumps({key: round(value, 2) for key, value in figures[name].items()}), len(delays))
    alone, beside = figures.values()
    print("ratios: " + ", ".join(f"{key} {beside[key] / alone[key]:.1f}" for key in alone) + f"; {load_after()}")


if __name__ == "__main__":
    main()
