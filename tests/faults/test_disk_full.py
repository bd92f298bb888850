"""A disk without room: for the store, and for what the service keeps of a trainer.

Each story happens once, to the real service on a small file system; every test asks for one thing that it promised.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.viewer import Viewer
from tests.faults.disk import FULL, SmallDisk, small_disk
from tests.faults.running import TRAINING, Running, service, trainers, until

COUNT = """
import itertools, time
for number in itertools.count(1):
    print(f"line {number}")
    time.sleep(0.005)
"""
FLOOD = """
import pathlib, time
print("ready")
while not pathlib.Path("go").exists():
    time.sleep(0.01)
print("\\n".join(f"line {number}" for number in range(1, 40_001)))
time.sleep(600)
"""
FLOOD_BYTES = len("ready\n") + sum(len(f"line {number}\n") for number in range(1, 40_001))
"""Ten times as many lines as may wait for the store."""
AT_ONCE_S = 5.0
"""More than a refusal takes, and less than a request waits for a store that may still answer."""
END_S = 20.0
"""The service must have ended by then, whatever its store does."""


def numbers(lines: list[tuple[int, str]]) -> list[int]:
    return [int(message.split()[1]) for _, message in lines if message.startswith("line ")]


@dataclass
class Story:
    """What was seen before the disk was full, while it was, and afterwards."""

    before: list[tuple[int, str]] = field(default_factory=list)
    health: dict[str, Any] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    lines: list[tuple[int, str]] = field(default_factory=list)
    new_viewer: list[str] = field(default_factory=list)
    answers: dict[str, httpx.Response] = field(default_factory=dict)
    took_s: dict[str, float] = field(default_factory=dict)
    health_with_room: dict[str, Any] = field(default_factory=dict)
    with_room: list[tuple[int, str]] = field(default_factory=list)
    watched: list[int] = field(default_factory=list)
    stop: dict[str, httpx.Response] = field(default_factory=dict)
    exit_status: int = -1
    said: str = ""
    health_of_next: dict[str, Any] = field(default_factory=dict)
    lines_of_next: list[tuple[int, str]] = field(default_factory=list)
    ends: dict[str, dict[str, Any]] = field(default_factory=dict)
    stored: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    started_again: int = 0


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """The store's disk is full, has room again, is full when the service ends and when the next one begins."""
    folder = tmp_path_factory.mktemp("full")
    told = Story()
    with small_disk(folder / "disk", megabytes=24) as disk:
        url = {"DATABASE_URL": f"sqlite:///{disk.path}/training.db", "STATE_DIR": str(folder / "state")}
        with service(folder, **url) as first, ThreadPoolExecutor() as pool:
            pid = first.process.pid
            first.run("done", "print('Train Loss: 0.5')", folder)
            first.ended("done")
            first.run("count", COUNT, folder)
            first.run("flood", FLOOD, folder)
            enough = threading.Event()
            watching = pool.submit(watch, first, "count", enough)
            until(lambda: first.lines("count"), lambda lines: len(lines) > 20)

            disk.fill(pid)
            told.health = first.degraded()
            told.before = first.lines("count")
            ask(first, folder, told)
            told.lines, told.status = first.lines("count"), first.status("count")
            with Viewer(first.process.url, "count") as viewer:
                seen = viewer.until(lambda entry: entry["message"] == told.lines[-1][1])
                told.new_viewer = [event.entry["message"] for event in seen]

            disk.free(pid)
            told.health_with_room = first.well()
            told.with_room = until(lambda: first.lines("count"), lambda lines: len(lines) > len(told.lines) + 20)
            enough.set()
            told.watched = watching.result(30)

            disk.fill(pid)
            first.degraded()
            (folder / "go").touch()
            output = folder / "state/runs/flood/output.log"
            until(lambda: output.stat().st_size, lambda size: size == FLOOD_BYTES)
            time.sleep(1.0)  # its reader takes what fits; that it then waits has no event
            for task_id in ("count", "flood"):
                told.stop[task_id] = first.stop(task_id)
                began = time.monotonic()
                until(lambda run=folder / "state/runs" / task_id: trainers(run), lambda found: not found)  # type: ignore[misc]
                told.took_s[f"stop of {task_id}"] = time.monotonic() - began
            began = time.monotonic()
            told.exit_status = first.process.end(signal.SIGTERM, within_s=60)
            told.took_s["end"] = time.monotonic() - began
            told.said = first.said

        with service(folder, **url) as second:
            if disk.is_real:
                told.health_of_next = second.degraded()
            told.lines_of_next = second.lines("count")
            disk.free()
            second.well()
            for task_id in ("count", "flood"):
                told.ends[task_id] = second.ended(task_id)
                told.stored[task_id] = second.lines(task_id)
            told.started_again = second.run("again", "print(1)", folder).status_code
            second.ended("again")
    return told


def watch(running: Running, task_id: str, enough: threading.Event) -> list[int]:
    """The numbers of the frames that somebody gets who looks on all the time."""
    with Viewer(running.process.url, task_id) as viewer:
        return [event.number for event in viewer.until(lambda _: enough.is_set())]


def ask(running: Running, folder: Path, told: Story) -> None:
    """For all that a store would have to write down at once."""
    requests: dict[str, Callable[[], httpx.Response]] = {
        "start": lambda: running.run("new", "print(1)", folder),
        "delete": lambda: running.http.delete(f"{TRAINING}/done"),
        "reparse": lambda: running.http.post(f"{TRAINING}/done/reparse", json={}),
    }
    for name, request in requests.items():
        began = time.monotonic()
        told.answers[name] = request()
        told.took_s[name] = time.monotonic() - began


class TestStoreWithoutRoom:
    def test_health_and_status_say_so(self, story: Story) -> None:
        assert story.health["status"] == "degraded"
        assert story.health["storage"] in FULL
        assert (story.status["status"], story.status["storage"]) == ("running", "degraded")

    def test_committed_lines_stay_readable_and_new_ones_wait(self, story: Story) -> None:
        assert story.lines == story.before
        assert story.new_viewer == [message for _, message in story.lines]

    @pytest.mark.parametrize("name", ["start", "delete", "reparse"])
    def test_what_would_have_to_be_stored_at_once_is_refused_with_what_to_do(self, story: Story, name: str) -> None:
        answer = story.answers[name]
        assert (answer.status_code, answer.json()["code"]) == (503, "storage_unavailable")
        assert "Free or repair its disk, then try again." in answer.json()["detail"]
        assert story.took_s[name] < AT_ONCE_S

    def test_with_room_again_every_line_that_waited_is_there_once_and_in_its_place(self, story: Story) -> None:
        assert story.health_with_room["storage"] == "ok"
        assert story.with_room[: len(story.lines)] == story.lines
        assert [number for number, _ in story.with_room] == list(range(1, len(story.with_room) + 1))
        assert numbers(story.with_room) == list(range(1, len(numbers(story.with_room)) + 1))

    def test_who_looks_on_all_the_time_misses_nothing(self, story: Story) -> None:
        assert story.watched == list(range(1, len(story.watched) + 1))
        assert len(story.watched) > len(story.lines)

    @pytest.mark.parametrize("task_id", ["count", "flood"])
    def test_a_stop_takes_effect_also_where_the_log_holds_no_more(self, story: Story, task_id: str) -> None:
        assert story.stop[task_id].status_code == 200
        assert story.took_s[f"stop of {task_id}"] < AT_ONCE_S

    def test_the_service_ends_in_time_and_says_what_is_missing(self, story: Story) -> None:
        assert story.exit_status == 0
        assert story.took_s["end"] < END_S
        assert "The store still refused writes: the last log lines of this run are not in it" in story.said

    def test_the_next_service_starts_all_the_same_and_shows_what_is_committed(self, story: Story) -> None:
        assert story.health_of_next.get("status", "degraded") == "degraded"
        assert story.lines_of_next[: len(story.with_room)] == story.with_room

    @pytest.mark.parametrize("task_id", ["count", "flood"])
    def test_the_next_service_reads_on_without_a_gap_and_tells_the_end(self, story: Story, task_id: str) -> None:
        lines = story.stored[task_id]
        assert [number for number, _ in lines] == list(range(1, len(lines) + 1))
        assert numbers(lines) == list(range(1, len(numbers(lines)) + 1))
        assert story.ends[task_id]["status"] in ("failed", "cancelled")
        assert lines[-1][1] == "任务结束"

    def test_the_next_service_takes_new_tasks(self, story: Story) -> None:
        assert story.started_again == 200


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Path, SmallDisk]]:
    folder = tmp_path_factory.mktemp("state")
    with small_disk(folder / "disk") as disk:
        if not disk.is_real:
            pytest.skip("nobody may mount a disk here; the executor's own tests limit the size of files")
        url = f"sqlite:///{folder}/training.db"
        with service(folder, STATE_DIR=str(disk.path), DATABASE_URL=url) as opened:
            yield opened, folder, disk


class TestRunFolderWithoutRoom:
    """STATE_DIR is full, the store is on another disk."""

    def test_a_trainer_waits_and_its_log_says_so_and_no_line_is_lost(
        self, running: tuple[Running, Path, SmallDisk]
    ) -> None:
        opened, folder, disk = running
        opened.run("count", COUNT, folder)
        until(lambda: opened.lines("count"), lambda lines: len(lines) > 20)
        disk.fill()
        waits = f"{disk.path}/runs/count/output.log cannot be written: the trainer waits until its disk has room again."
        until(lambda: opened.lines("count"), lambda lines: waits in [message for _, message in lines])
        assert opened.health()["status"] == "ok"
        disk.free()
        goes_on = "There is room on the disk again: the trainer goes on."
        until(lambda: opened.lines("count"), lambda lines: goes_on in [message for _, message in lines[:-20]])
        opened.stop("count")
        assert opened.ended("count")["status"] == "cancelled"
        counted = numbers(opened.lines("count"))
        assert counted == list(range(1, len(counted) + 1))

    def test_a_trainer_that_is_stopped_meanwhile_ends(self, running: tuple[Running, Path, SmallDisk]) -> None:
        opened, folder, disk = running
        opened.run("stopped", COUNT, folder)
        until(lambda: opened.lines("stopped"), lambda lines: len(lines) > 20)
        disk.fill()
        until(lambda: opened.lines("stopped"), lambda lines: "cannot be written" in lines[-1][1])
        opened.stop("stopped")
        until(lambda: trainers(disk.path / "runs/stopped"), lambda found: not found)
        disk.free()
        assert opened.ended("stopped")["status"] == "cancelled"

    @pytest.mark.parametrize("kind", ["command", "built-in"])
    def test_a_task_that_cannot_begin_fails_with_the_reason_and_the_next_one_runs(
        self, running: tuple[Running, Path, SmallDisk], body: dict[str, Any], kind: str
    ) -> None:
        opened, folder, disk = running
        disk.fill()
        if kind == "command":
            answer = opened.run(kind, "print(1)", folder)
        else:
            answer = opened.http.post(f"{TRAINING}/start", json=body | {"executor": "process", "task_id": kind})
        assert answer.status_code == 200, answer.text
        ended = opened.ended(kind)
        disk.free()
        assert (ended["status"], ended["reason"]) == ("failed", "disk_full")
        assert "No space left on device" in ended["error"]
        assert "Free some space where STATE_DIR is" in ended["error"]
        opened.run(f"after-{kind}", "print(1)", folder)
        assert opened.ended(f"after-{kind}")["status"] == "completed"
