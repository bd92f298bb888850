"""Lines in at one end, the same lines out at every other: history, status and streams."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from models.schemas import TaskStatus
from services.base_service import REPLAY_PAGE, BaseService
from services.errors import StorageUnavailable, StoreInUse, TaskConflict, TaskNotFound
from services.log_entry import MAX_MESSAGE
from services.log_queue import RING_SIZE
from services.storage.database import Database
from tests.services.builders import line, task_state, turn
from tests.services.following import TIMEOUT_S, Frame, follow, messages, read_frames, says
from tests.services.refusing import locked

BEYOND_THE_RING = RING_SIZE + REPLAY_PAGE + 50
"""So many lines behind, a follower must read the store more than once."""


def begin(service: BaseService, task_id: str = "t") -> None:
    service.create_log_queue(task_id, task_state(task_id, status=TaskStatus.RUNNING))


def end(service: BaseService, task_id: str = "t", status: TaskStatus = TaskStatus.COMPLETED) -> None:
    service.log_queues[task_id].put(turn(status, task_id))


def add(service: BaseService, first: int, last: int, task_id: str = "t") -> None:
    """Lines whose messages are their numbers, if the task has no others."""
    for number in range(first, last + 1):
        service.add_log(task_id, "INFO", str(number))


def count(frames: list[Frame]) -> list[int]:
    """Ids of frames whose messages are their numbers."""
    assert [str(frame.id) for frame in frames if "status" not in frame.entry] == [
        frame.entry["message"] for frame in frames if "status" not in frame.entry
    ]
    return [frame.id for frame in frames]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the store nor the service waits long. Ask for it before the store is opened."""
    monkeypatch.setattr("services.storage.database.BUSY_TIMEOUT_S", 0.02)
    monkeypatch.setattr("services.base_service.WRITE_TIMEOUT_S", 0.1)
    monkeypatch.setattr("services.base_service.CLOSE_TIMEOUT_S", 0.1)


@pytest.fixture
def live(base: BaseService) -> BaseService:
    """A service with one running task, `t`."""
    begin(base)
    return base


class TestAddLog:
    def test_it_takes_the_documented_arguments_in_their_order(self, live: BaseService) -> None:
        live.add_log("t", "INFO", "Train Loss: 0.5", {"train_loss": 0.5}, 3, "training")
        live.add_log(task_id="t", level="INFO", message="named", metrics={"mAP": 0.8}, step=4, stage="validation")
        first, second = live.get_logs("t")
        assert (first["message"], first["metrics"], first["step"], first["stage"]) == (
            "Train Loss: 0.5",
            {"train_loss": 0.5},
            3,
            "training",
        )
        assert (second["message"], second["metrics"], second["step"], second["stage"]) == (
            "named",
            {"mAP": 0.8},
            4,
            "validation",
        )

    @pytest.mark.parametrize(
        ("optional", "keys"),
        [
            ({}, set()),
            ({"metrics": {"train_loss": 0.5}}, {"metrics"}),
            ({"metrics": {}}, set()),
            ({"step": 0}, {"step"}),
            ({"metrics": {"train_loss": 0.5}, "step": 1, "stage": "validation"}, {"metrics", "step"}),
        ],
    )
    def test_an_entry_has_the_documented_keys_and_no_others(
        self, live: BaseService, optional: dict[str, Any], keys: set[str]
    ) -> None:
        live.add_log("t", "INFO", "a line", **optional)
        (entry,) = live.get_logs("t")
        assert entry.keys() == {"timestamp", "level", "message", "stage"} | keys

    def test_a_level_is_written_in_capitals(self, live: BaseService) -> None:
        live.add_log("t", "warning", "a line")
        assert live.get_logs("t")[0]["level"] == "WARNING"

    def test_a_task_that_nobody_has_made_takes_no_lines(self, base: BaseService) -> None:
        with pytest.raises(TaskNotFound, match="There is no task 'nobody'"):
            base.add_log("nobody", "INFO", "a line")
        with pytest.raises(KeyError):
            base.add_log("nobody", "INFO", "a line")

    def test_a_task_that_has_ended_takes_no_lines(self, live: BaseService) -> None:
        end(live)
        live.get_logs("t")
        with pytest.raises(TaskConflict, match="has ended"):
            live.add_log("t", "INFO", "late")
        assert [entry["message"] for entry in live.get_logs("t")] == ["now completed"]

    @pytest.mark.parametrize(
        "wrong", [{"metrics": {"train_loss": [0.5]}}, {"metrics": {"train_loss": "low"}}, {"step": 1.5}, {"step": "1"}]
    )
    def test_what_is_no_number_is_refused_to_the_face_of_who_brings_it(
        self, live: BaseService, wrong: dict[str, Any]
    ) -> None:
        with pytest.raises((TypeError, ValueError)):
            live.add_log("t", "INFO", "a line", **wrong)
        assert live.get_logs("t") == []

    def test_of_an_endless_line_the_beginning_is_kept(self, live: BaseService) -> None:
        live.add_log("t", "INFO", "a" * (MAX_MESSAGE + 7))
        live.add_log("t", "INFO", "b" * MAX_MESSAGE)
        cut, whole = (entry["message"] for entry in live.get_logs("t"))
        assert cut == "a" * MAX_MESSAGE + " [cut: 7 more characters]"
        assert whole == "b" * MAX_MESSAGE


class TestHistory:
    def test_lines_that_were_just_added_are_in_it(self, live: BaseService) -> None:
        for number in range(1, 31):
            live.add_log("t", "INFO", str(number))
            assert [entry["message"] for entry in live.get_logs("t")][-1] == str(number)
        assert len(live.get_logs("t")) == 30

    def test_every_thread_finds_its_own_lines_in_order(self, live: BaseService) -> None:
        def speak(name: str) -> None:
            for number in range(50):
                live.add_log("t", "INFO", f"{name}{number}")

        threads = [threading.Thread(target=speak, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = [entry["message"] for entry in live.get_logs("t")]
        assert len(found) == 200
        for name in "abcd":
            assert [message for message in found if message[0] == name] == [f"{name}{n}" for n in range(50)]

    def test_a_task_that_nobody_has_made_has_none(self, base: BaseService) -> None:
        with pytest.raises(TaskNotFound):
            base.get_logs("nobody")

    def test_log_history_is_a_mapping_of_every_task_live_or_ended(self, live: BaseService) -> None:
        begin(live, "over")
        add(live, 1, 2, "over")
        end(live, "over")
        add(live, 1, 3, "t")
        assert live.get_logs("over") == live.log_history["over"]
        assert [entry["message"] for entry in live.log_history["t"]] == ["1", "2", "3"]
        assert set(live.log_history) == {"t", "over"}
        assert len(live.log_history) == 2
        assert "t" in live.log_history
        assert "nobody" not in live.log_history
        with pytest.raises(KeyError):
            live.log_history["nobody"]


class TestLiveTasks:
    def test_a_task_is_live_from_its_creation_to_its_last_line(self, base: BaseService) -> None:
        assert (dict(base.tasks), dict(base.log_queues)) == ({}, {})
        begin(base)
        assert base.tasks.keys() == base.log_queues.keys() == {"t"}
        end(base)
        base.get_logs("t")
        assert (dict(base.tasks), dict(base.log_queues)) == ({}, {})

    def test_what_is_put_into_a_log_queue_is_a_line_of_the_log(self, live: BaseService) -> None:
        live.log_queues["t"].put(line("put"))
        assert [entry["message"] for entry in live.get_logs("t")] == ["put"]

    def test_an_entry_may_be_put_in_the_documented_form(self, live: BaseService) -> None:
        """As the published `add_log` puts it."""
        entry = {
            "timestamp": "2025-10-29T10:16:45",
            "level": "INFO",
            "message": "Train Loss: 0.5234, Train Accuracy: 82.45%",
            "metrics": {"epoch": 3, "total_epochs": 10, "train_loss": 0.5234, "train_acc": 82.45},
            "stage": "training",
        }
        live.log_queues["t"].put(entry)
        live.log_queues["t"].put({"level": "INFO", "message": "now", "step": 4})
        first, second = live.get_logs("t")
        assert first == entry
        assert (second["message"], second["step"]) == ("now", 4)
        assert abs((datetime.now() - datetime.fromisoformat(second["timestamp"])).total_seconds()) < 60

    def test_a_log_can_be_begun_by_its_id_alone(self, base: BaseService) -> None:
        queue = base.create_log_queue("mine")
        assert base.log_queues["mine"] is queue
        base.add_log("mine", "INFO", "Train Loss: 0.5", metrics={"train_loss": 0.5})
        assert [entry["message"] for entry in base.get_logs("mine")] == ["Train Loss: 0.5"]
        assert base.get_task("mine").latest_metrics == {"train_loss": 0.5}

    def test_a_state_that_was_read_stays_as_it_was(self, live: BaseService) -> None:
        before = live.get_task("t")
        live.add_log("t", "INFO", "a line", metrics={"epoch": 1, "total_epochs": 2})
        live.get_logs("t")
        assert (before.last_seq, before.current_epoch) == (0, None)
        assert (live.get_task("t").last_seq, live.get_task("t").current_epoch) == (1, 1)

    def test_an_ended_task_answers_from_the_store(self, live: BaseService) -> None:
        live.add_log("t", "INFO", "a line", metrics={"val_acc": 61.5})
        end(live)
        live.get_logs("t")
        state = live.get_task("t")
        assert (state.status, state.latest_metrics, state.progress) == (TaskStatus.COMPLETED, {"val_acc": 61.5}, 100)

    def test_a_task_that_nobody_has_made_is_not_found(self, base: BaseService) -> None:
        with pytest.raises(TaskNotFound):
            base.get_task("nobody")

    def test_an_id_is_used_once(self, live: BaseService) -> None:
        with pytest.raises(TaskConflict) as refused:
            begin(live)
        assert refused.value.code == "task_id_in_use"
        end(live)
        live.get_logs("t")
        with pytest.raises(TaskConflict) as refused:
            begin(live)
        assert refused.value.code == "task_id_in_use"
        assert "t" not in live.log_queues
        assert live.get_task("t").status is TaskStatus.COMPLETED

    def test_of_many_that_want_one_id_exactly_one_gets_it(self, base: BaseService) -> None:
        outcomes: list[str] = []
        barrier = threading.Barrier(8)

        def create() -> None:
            barrier.wait()
            try:
                begin(base)
            except TaskConflict as error:
                outcomes.append(error.code)
            else:
                outcomes.append("won")

        threads = [threading.Thread(target=create) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes) == ["task_id_in_use"] * 7 + ["won"]
        add(base, 1, 1)
        assert len(base.get_logs("t")) == 1

    def test_tasks_are_listed_newest_first(self, live: BaseService) -> None:
        begin(live, "over")
        end(live, "over")
        live.get_logs("over")
        assert [state.task_id for _, state in live.list_tasks()] == ["over", "t"]
        assert [state.task_id for _, state in live.list_tasks(status=[TaskStatus.RUNNING])] == ["t"]
        ((cursor, _),) = live.list_tasks(limit=1)
        assert [state.task_id for _, state in live.list_tasks(before=cursor)] == ["t"]


class TestDeletion:
    def test_a_deleted_task_is_forgotten(self, live: BaseService) -> None:
        add(live, 1, 3)
        end(live)
        live.get_logs("t")
        live.delete_task("t")
        for ask in (live.get_task, live.get_logs, live.delete_task):
            with pytest.raises(TaskNotFound):
                ask("t")
        begin(live)
        assert live.get_logs("t") == []

    def test_a_task_that_has_not_ended_is_kept(self, live: BaseService) -> None:
        with pytest.raises(TaskConflict, match="POST /api/v2/training/t/stop"):
            live.delete_task("t")
        assert live.get_task("t").status is TaskStatus.RUNNING

    async def test_a_viewer_of_a_task_that_is_deleted_meanwhile_is_let_go(self, live: BaseService) -> None:
        add(live, 1, BEYOND_THE_RING)
        end(live)
        live.get_logs("t")
        seen: list[Frame] = []

        def delete_after_the_first_page(frame: Frame) -> bool:
            seen.append(frame)
            if frame.id == 1:
                live.delete_task("t")
            return False

        await follow(live, "t", until=delete_after_the_first_page)
        assert count(seen) == list(range(1, REPLAY_PAGE + 1))


class TestStreams:
    async def test_second_viewer_sees_every_line(self, live: BaseService) -> None:
        viewers = [asyncio.create_task(follow(live, "t")) for _ in range(5)]
        await asyncio.sleep(0)
        await asyncio.to_thread(add, live, 1, 300)
        late = asyncio.create_task(follow(live, "t"))
        await asyncio.to_thread(add, live, 301, 350)
        end(live)
        for viewer in (*viewers, late):
            assert count(await viewer) == list(range(1, 352))

    @pytest.mark.parametrize("after", [0, 1, 9, 10])
    @pytest.mark.parametrize("ended", [False, True])
    async def test_a_viewer_gets_what_comes_after_the_line_it_has(
        self, live: BaseService, after: int, ended: bool
    ) -> None:
        add(live, 1, 10)
        if ended:
            end(live)
        await asyncio.to_thread(live.get_logs, "t")
        viewer = asyncio.create_task(follow(live, "t", after))
        if not ended:
            await asyncio.sleep(0)
            end(live)
        assert count(await viewer) == list(range(after + 1, 12))

    async def test_a_viewer_who_remembers_lines_that_a_live_task_has_not_begins_anew(self, live: BaseService) -> None:
        """It has watched a task of the same id that was deleted."""
        add(live, 1, 10)
        await asyncio.to_thread(live.get_logs, "t")
        viewer = asyncio.create_task(follow(live, "t", 12))
        assert count(await follow(live, "t", 500, until=lambda frame: frame.id == 10)) == list(range(1, 11))
        end(live)
        assert count(await viewer) == list(range(1, 12))

    async def test_a_viewer_who_has_lines_that_are_committed_but_not_shown_yet_gets_none_twice(
        self, live: BaseService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It has read them from the store, and has come back before the writer showed them to the others."""
        committed, go_on = threading.Event(), threading.Event()
        publish = live.log_queues["t"].publish

        def late(frames: list[bytes], *, ended: bool) -> None:
            committed.set()
            go_on.wait(TIMEOUT_S)
            publish(frames, ended=ended)

        monkeypatch.setattr(live.log_queues["t"], "publish", late)
        add(live, 1, 1)
        assert await asyncio.to_thread(committed.wait, TIMEOUT_S)
        viewer = asyncio.create_task(follow(live, "t", 1))
        await asyncio.sleep(0)
        go_on.set()
        add(live, 2, 2)
        await asyncio.to_thread(live.get_logs, "t")
        end(live)
        assert count(await viewer) == [2, 3]

    async def test_a_viewer_that_is_slower_than_the_ring_loses_nothing(self, live: BaseService) -> None:
        add(live, 1, 5)
        stream = live.stream_logs("t")
        first = await anext(stream)
        assert first.count(b"id: ") == 5
        await asyncio.to_thread(add, live, 6, BEYOND_THE_RING)
        end(live)
        rest = b"".join([chunk async for chunk in stream])
        assert count(read_frames(first + rest)) == list(range(1, BEYOND_THE_RING + 2))

    async def test_a_viewer_that_takes_nothing_holds_nobody_up(self, live: BaseService) -> None:
        stalled = live.stream_logs("t")
        add(live, 1, 1)
        await anext(stalled)
        await asyncio.to_thread(add, live, 2, BEYOND_THE_RING)
        end(live)
        assert len(await asyncio.to_thread(live.get_logs, "t")) == BEYOND_THE_RING + 1
        assert count(await follow(live, "t")) == list(range(1, BEYOND_THE_RING + 2))

    async def test_a_viewer_that_comes_after_the_end_gets_everything(self, live: BaseService) -> None:
        add(live, 1, BEYOND_THE_RING)
        end(live)
        await asyncio.to_thread(live.get_logs, "t")
        assert count(await follow(live, "t")) == list(range(1, BEYOND_THE_RING + 2))

    async def test_the_last_frame_and_only_the_last_shows_how_the_task_ended(self, live: BaseService) -> None:
        add(live, 1, 3)
        end(live, status=TaskStatus.CANCELLED)
        frames = await follow(live, "t")
        assert [frame.entry.get("status") for frame in frames] == [None, None, None, "cancelled"]
        assert frames == await follow(live, "t"), "live and stored frames differ"

    async def test_the_status_knows_every_line_that_a_viewer_has_seen(self, live: BaseService) -> None:
        behind: list[int] = []

        def compare(frame: Frame) -> bool:
            state = live.get_task("t")
            known = state.latest_metrics.get("best_acc") or 0
            if state.last_seq < frame.id or known < frame.entry.get("metrics", {"best_acc": 199})["best_acc"]:
                behind.append(frame.id)
            return False

        def speak() -> None:
            for number in range(1, 200):
                live.add_log("t", "INFO", str(number), metrics={"best_acc": number})
            end(live)

        viewer = asyncio.create_task(follow(live, "t", until=compare))
        await asyncio.to_thread(speak)
        assert len(await viewer) == 200
        assert behind == []

    async def test_two_tasks_never_mix(self, live: BaseService) -> None:
        begin(live, "other")
        viewers = [asyncio.create_task(follow(live, task_id)) for task_id in ("t", "other")]
        await asyncio.sleep(0)
        for number in range(50):
            live.add_log("t", "INFO", f"t {number}")
            live.add_log("other", "INFO", f"other {number}")
        end(live, "t")
        end(live, "other")
        for viewer, task_id in zip(viewers, ("t", "other"), strict=True):
            assert messages(await viewer) == [*(f"{task_id} {number}" for number in range(50)), "now completed"]

    async def test_a_viewer_can_ask_for_some_metrics_only(self, live: BaseService) -> None:
        live.add_log("t", "INFO", "both", metrics={"train_loss": 0.5, "train_acc": 80.0})
        live.add_log("t", "INFO", "one", metrics={"train_loss": None})
        live.add_log("t", "INFO", "other", metrics={"train_acc": 81.0})
        live.add_log("t", "INFO", "none")
        end(live)
        for _round in ("live", "stored"):
            frames = await follow(live, "t", metrics=frozenset({"train_loss"}))
            assert [(frame.id, frame.entry.get("metrics")) for frame in frames] == [
                (1, {"train_loss": 0.5}),
                (2, {"train_loss": None}),
                (3, None),
                (4, None),
                (5, None),
            ]
            assert "metrics" not in frames[2].entry

    async def test_viewers_that_leave_do_not_disturb_those_who_stay(self, live: BaseService) -> None:
        staying = asyncio.create_task(follow(live, "t"))
        for number in range(1, 11):
            leaving = asyncio.create_task(follow(live, "t"))
            await asyncio.sleep(0)
            live.add_log("t", "INFO", str(number))
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
        end(live)
        assert count(await staying) == list(range(1, 12))

    async def test_a_viewer_can_go_and_come_back_at_any_line(self, live: BaseService) -> None:
        seen: list[Frame] = []

        def speak() -> None:
            add(live, 1, 400)
            end(live)

        speaker = asyncio.create_task(asyncio.to_thread(speak))
        while not seen or "status" not in seen[-1].entry:
            seen += await follow(live, "t", seen[-1].id if seen else 0, until=lambda frame: True)
        await speaker
        assert count(seen) == list(range(1, 402))


class TestRestart:
    def test_a_task_that_is_taken_up_again_is_numbered_on(self, live: BaseService, database: Database) -> None:
        add(live, 1, 3)
        assert live.close()
        with closing(BaseService(Database(database.url))) as again:
            (state,) = again.store.active_tasks()
            again.adopt(state)
            again.add_log("t", "INFO", "4")
            again.log_queues["t"].put(turn(TaskStatus.FAILED))
            assert count(asyncio.run(follow(again, "t"))) == [1, 2, 3, 4, 5]

    async def test_a_viewer_of_such_a_task_gets_the_stored_lines_first(
        self, live: BaseService, database: Database
    ) -> None:
        add(live, 1, 3)
        assert live.close()
        with closing(BaseService(Database(database.url))) as again:
            (state,) = again.store.active_tasks()
            again.adopt(state)
            waiting = asyncio.create_task(follow(again, "t"))
            assert count(await follow(again, "t", until=says("3"))) == [1, 2, 3]
            again.add_log("t", "INFO", "4")
            end(again)
            assert count(await waiting) == [1, 2, 3, 4, 5]


class TestClosing:
    def test_every_line_that_was_added_is_committed(self, live: BaseService, database: Database) -> None:
        add(live, 1, 500)
        assert live.close()
        with closing(BaseService(Database(database.url))) as again:
            assert [entry["message"] for entry in again.get_logs("t")] == [str(number) for number in range(1, 501)]

    def test_afterwards_nothing_is_taken(self, live: BaseService) -> None:
        live.close()
        with pytest.raises(StorageUnavailable, match="shutting down"):
            live.add_log("t", "INFO", "late")
        with pytest.raises(StorageUnavailable, match="shutting down"):
            begin(live, "late")
        assert "late" not in live.log_queues

    def test_closing_twice_does_no_harm(self, base: BaseService) -> None:
        assert base.close()
        assert base.close()


@pytest.mark.usefixtures("impatient")
class TestRefusingStore:
    @pytest.fixture
    def service(self, impatient: None, tmp_path: Path) -> Iterator[BaseService]:
        service = BaseService(Database(f"sqlite:///{tmp_path}/store.db"))
        begin(service)
        yield service
        assert service.close()

    @pytest.fixture
    def store_file(self, service: BaseService, tmp_path: Path) -> Path:
        return tmp_path / "store.db"

    def settle(self, service: BaseService) -> None:
        """Two round trips: what the first one's answer sets off is done after the second."""
        for _ in range(2):
            while True:
                try:
                    service.get_logs("t")
                    break
                except TimeoutError:
                    continue

    def test_lines_wait_and_the_service_says_so(self, service: BaseService, store_file: Path) -> None:
        assert service.storage_degraded is None
        with locked(store_file):
            service.add_log("t", "INFO", "1")
            with pytest.raises(TimeoutError):
                service.get_logs("t")
            assert service.storage_degraded is not None
            assert "locked" in service.storage_degraded
            assert service.get_task("t").last_seq == 0, "the status is ahead of the log"
        self.settle(service)
        assert service.storage_degraded is None
        assert [entry["message"] for entry in service.get_logs("t")] == ["1"]

    def test_what_would_only_wait_is_refused(self, service: BaseService, store_file: Path) -> None:
        begin(service, "over")
        end(service, "over")
        service.get_logs("over")
        with locked(store_file):
            service.add_log("t", "INFO", "1")
            with pytest.raises(TimeoutError):
                service.get_logs("t")
            with pytest.raises(StorageUnavailable, match="Free or repair its disk"):
                service.delete_task("over")
        self.settle(service)
        assert service.get_task("over").status is TaskStatus.COMPLETED

    def test_a_task_that_could_not_be_created_in_time_does_not_turn_up_later(
        self, service: BaseService, store_file: Path
    ) -> None:
        with locked(store_file), pytest.raises(TimeoutError):
            begin(service, "late")
        self.settle(service)
        assert [state.task_id for _, state in service.list_tasks()] == ["t"]
        assert "late" not in service.tasks
        assert "late" not in service.log_queues
        begin(service, "late")
        assert service.get_logs("late") == []

    async def test_nobody_is_left_waiting_for_a_task_that_was_not_created(
        self, service: BaseService, store_file: Path
    ) -> None:
        with locked(store_file):
            with pytest.raises(TimeoutError):
                begin(service, "late")
            viewer = asyncio.create_task(follow(service, "late"))
            await asyncio.sleep(0)
        assert await viewer == []

    def test_a_store_that_refuses_to_the_end_stays_this_services_own(
        self, service: BaseService, store_file: Path
    ) -> None:
        with locked(store_file):
            service.add_log("t", "INFO", "late")
            assert not service.close()
            with pytest.raises(StoreInUse):
                Database(f"sqlite:///{store_file}")
        while not service.close():
            pass
        with closing(BaseService(Database(f"sqlite:///{store_file}"))) as again:
            assert [entry["message"] for entry in again.get_logs("t")] == ["late"]
