"""A store that the first release has written is served by this one: on SQLite, and the same rows on PostgreSQL."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import create_engine

from app_refactored import create_app
from services.storage.migrations import upgrade
from services.storage.tables import SCHEMA_REVISION
from settings import Settings
from tests.api.viewer import Viewer
from tests.running_server import RunningServer
from tests.scripted_executor import ScriptedExecutor
from tests.stores import EmptyStore

DUMP = Path(__file__).with_name("first_release.sql").read_text(encoding="utf-8")
ENDED = {"completes": "completed", "fails": "failed", "stopped": "cancelled"}
GO_ON = ("runs", "waits")
NUMBERED = ("tasks", "log_entries")

Row = dict[str, Any]


@pytest.fixture(scope="module")
def written() -> sqlite3.Connection:
    """What the first release had written, without any code of this one."""
    connection = sqlite3.connect(":memory:")
    connection.executescript(
        """CREATE TABLE tasks (id, task_id, task_type, name, description, priority, request, output_dir, device, status,
        reason, error, progress, current_epoch, total_epochs, latest_metrics, stage, warnings, last_seq, created_at,
        updated_at); CREATE TABLE log_entries (id, task_id, seq, timestamp, level, message, metrics, step, stage,
        status, reason); CREATE TABLE metric_points (task_id, name, seq, epoch, step, value);"""
        + DUMP
    )
    connection.row_factory = sqlite3.Row
    return connection


def rows(written: sqlite3.Connection, table: str, task_id: str) -> list[Row]:
    return [dict(row) for row in written.execute(f"SELECT * FROM {table} WHERE task_id = ? ORDER BY rowid", (task_id,))]


def local(stored: str) -> str:
    """The published form of a time."""
    moment = datetime.fromisoformat(stored).replace(tzinfo=UTC).astimezone().replace(tzinfo=None)
    return moment.isoformat()


@pytest.fixture
def old_store(store: EmptyStore) -> EmptyStore:
    engine = create_engine(store.url)
    upgrade(engine, "0001")
    with engine.begin() as connection:
        if store.url.get_backend_name() != "sqlite":
            connection.exec_driver_sql("SET TIME ZONE 'UTC'")
        for statement in DUMP.split(";\n"):
            if "INSERT" in statement:
                connection.connection.cursor().execute(statement)
        if store.url.get_backend_name() != "sqlite":
            for table in NUMBERED:
                connection.exec_driver_sql(
                    f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), (SELECT max(id) FROM {table}))"
                )
    engine.dispose()
    return store


@pytest.fixture
def http(old_store: EmptyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    """Today's service on it, whose trainings wait."""
    monkeypatch.setattr("app_refactored.list_gpus", list)
    monkeypatch.setattr("services.storage.database.BUSY_TIMEOUT_S", 10)
    executor = ScriptedExecutor()
    executor.hold()
    url = SecretStr(old_store.url.render_as_string(hide_password=False))
    server = RunningServer(create_app(Settings(state_dir=tmp_path / "state", database_url=url), executor))
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client
        executor.release()
        for task_id in GO_ON:  # what went on ends as any training does
            with Viewer(server.url, task_id) as viewer:
                assert list(viewer.events())[-1].entry["status"] == "completed"
    server.stop()


def test_everything_that_was_there_is_served(http: httpx.Client, written: sqlite3.Connection) -> None:
    listed = {task["task_id"]: task for task in http.get("/api/v2/training").json()["tasks"]}
    assert list(listed) == ["waits", "runs", "stopped", "fails", "completes"]
    for task_id, status in ENDED.items():
        (was,) = rows(written, "tasks", task_id)
        state = http.get(f"/api/v2/training/{task_id}").json()
        assert (state["status"], was["status"]) == (status, status)
        assert state["latest_metrics"] == json.loads(was["latest_metrics"])
        for name in ("progress", "current_epoch", "total_epochs", "name", "description", "error"):
            assert state.get(name) == was[name], name
        assert state["created_at"] == local(was["created_at"])
        assert http.get(f"/api/v2/training/{task_id}/request").status_code == 200

        lines = rows(written, "log_entries", task_id)
        with Viewer(str(http.base_url).rstrip("/"), task_id) as viewer:
            streamed = list(viewer.events())
        assert [int(event.id) for event in streamed] == [line["seq"] for line in lines]
        for event, line in zip(streamed, lines, strict=True):
            assert event.entry["message"] == line["message"]
            assert event.entry.get("metrics") == json.loads(line["metrics"] or "null")
            assert (event.entry["level"], event.entry["stage"]) == (line["level"], line["stage"])
            assert event.entry["timestamp"] == local(line["timestamp"])
        assert streamed[-1].entry["status"] == status


def test_its_metrics_are_whole(http: httpx.Client, written: sqlite3.Connection) -> None:
    points = rows(written, "metric_points", "completes")
    exported = http.get("/api/v2/training/completes/metrics/export", params={"format": "jsonl"}).text.splitlines()
    found = {(point["metric"], point["line"], point["value"]) for point in map(json.loads, exported)}
    assert found == {(point["name"], point["seq"], point["value"]) for point in points}
    for axis in ("epoch", "step", "time"):
        series = http.get("/api/v2/training/completes/metrics", params={"axis": axis, "names": "val_loss"})
        assert series.status_code == 200
    compared = http.get("/api/v2/training/compare", params={"ids": "completes,fails", "metrics": "val_loss"})
    assert compared.status_code == 200, compared.text


def test_what_ran_and_what_waited_goes_on(http: httpx.Client, written: sqlite3.Connection) -> None:
    """The fixture sees them complete."""
    (was,) = rows(written, "tasks", "runs")
    state = http.get("/api/v2/training/runs", params={"history": "true"}).json()
    assert (was["status"], state["attempt"]) == ("running", 2)
    assert "interrupted" in [each["reason"] for each in state["history"]]
    lines = http.get("/api/v2/training/runs/logs/history").json()["entries"]
    assert [line["id"] for line in lines] == list(range(1, len(lines) + 1))
    assert len(lines) > was["last_seq"]
    assert http.get("/api/v2/training/waits").json()["status"] in ("queued", "running")
    assert f'schema="{SCHEMA_REVISION}"' in http.get("/metrics").text
