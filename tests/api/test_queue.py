"""What a waiting task can be told, and asked to; what is refused, and leaves nothing behind."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.scheduler import FILES_AT_A_TIME
from tests.running_server import RunningServer
from tests.scripted_executor import ScriptedExecutor
from tests.service_process import ServiceProcess

TRAINING = "/api/v2/training"
PARALLEL = 100
Serve = Callable[..., httpx.Client]
Body = dict[str, Any]


@pytest.fixture
def busy(serve: Callable[..., RunningServer], executor: ScriptedExecutor) -> Iterator[Serve]:
    """`busy()` is a client of a service whose trainings run until they are stopped, one at a time on the CPU."""
    executor.hold()
    clients: list[httpx.Client] = []

    def client(**settings: Any) -> httpx.Client:
        limits = httpx.Limits(max_connections=PARALLEL)
        clients.append(httpx.Client(base_url=serve(**settings).url, timeout=60, limits=limits))
        return clients[-1]

    yield client
    for each in clients:
        each.close()


def start(client: httpx.Client, body: Body, task_id: str, **changes: Any) -> Body:
    answer = client.post(f"{TRAINING}/start", json={**body, "task_id": task_id, **changes})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def status(client: httpx.Client, task_id: str) -> Body:
    return dict(client.get(f"{TRAINING}/{task_id}").json())


def stop(client: httpx.Client, task_id: str) -> None:
    """And wait until it has ended: its log does then."""
    client.post(f"{TRAINING}/{task_id}/stop").raise_for_status()
    client.get(f"{TRAINING}/{task_id}/logs").raise_for_status()


def messages(client: httpx.Client, task_id: str) -> list[str]:
    return [entry["message"] for entry in client.get(f"{TRAINING}/{task_id}/logs/history").json()["entries"]]


def all_tasks(client: httpx.Client) -> dict[str, Body]:
    return {task["task_id"]: task for task in client.get(TRAINING, params={"limit": 200}).json()["tasks"]}


class TestPosition:
    def test_a_task_says_its_place_while_it_waits_and_only_then(self, busy: Serve, body: Body) -> None:
        client = busy()
        assert "queue_position" not in start(client, body, "runs")
        assert start(client, body, "second")["queue_position"] == 1
        assert start(client, body, "third")["queue_position"] == 2
        assert start(client, body, "first", priority=1)["queue_position"] == 1
        places = {"runs": None, "first": 1, "second": 2, "third": 3}
        assert {task_id: status(client, task_id).get("queue_position") for task_id in places} == places
        assert {task_id: task.get("queue_position") for task_id, task in all_tasks(client).items()} == places

    def test_whoever_leaves_the_queue_brings_the_others_forward(self, busy: Serve, body: Body) -> None:
        client = busy()
        for task_id in ("runs", "a", "b", "c"):
            start(client, body, task_id)
        stop(client, "a")
        assert "queue_position" not in status(client, "a")
        stop(client, "runs")
        assert {task_id: status(client, task_id).get("queue_position") for task_id in "bc"} == {"b": None, "c": 1}


class TestPriority:
    def test_a_waiting_task_is_moved_at_once_and_its_log_says_so(
        self, busy: Serve, body: Body, executor: ScriptedExecutor
    ) -> None:
        client = busy()
        for task_id in ("runs", "a", "b"):
            start(client, body, task_id)
        moved = client.patch(f"{TRAINING}/b", json={"priority": 1})
        assert moved.status_code == 200
        assert (moved.json()["priority"], moved.json()["queue_position"]) == (1, 1)
        assert moved.json() == status(client, "b")
        assert status(client, "a")["queue_position"] == 2
        assert messages(client, "b")[-1] == "Priority changed from 5 to 1"
        stop(client, "runs")
        assert status(client, "b")["status"] == "running"
        with client.stream("GET", f"{TRAINING}/b/logs") as log:
            assert any("Holding" in line for line in log.iter_lines())  # its trainer has begun
        assert [run.task_id for run in executor.started] == ["runs", "b"]

    def test_the_priority_that_it_has_changes_nothing(self, busy: Serve, body: Body) -> None:
        client = busy()
        for task_id in ("runs", "a"):
            start(client, body, task_id)
        before = status(client, "a")
        assert client.patch(f"{TRAINING}/a", json={"priority": 5}).json() == before
        assert status(client, "a") == before

    def test_a_task_that_does_not_wait_is_not_moved(self, busy: Serve, body: Body) -> None:
        client = busy()
        for task_id in ("runs", "a"):
            start(client, body, task_id)
        stop(client, "a")
        for task_id, state in (("runs", "running"), ("a", "cancelled")):
            refusal = client.patch(f"{TRAINING}/{task_id}", json={"priority": 1})
            assert (refusal.status_code, refusal.json()["code"]) == (409, "not_queued")
            assert f"{task_id!r} is {state}" in refusal.json()["detail"]

    def test_nobodys_task_is_not_found(self, busy: Serve) -> None:
        refusal = busy().patch(f"{TRAINING}/nobody", json={"priority": 1})
        assert (refusal.status_code, refusal.json()["code"]) == (404, "task_not_found")

    @pytest.mark.parametrize(
        "change", [{}, {"priority": 0}, {"priority": 11}, {"priority": None}, {"priority": 1.5}, {"device": "cpu"}]
    )
    def test_what_is_no_priority_is_refused_with_its_field(self, busy: Serve, body: Body, change: Body) -> None:
        client = busy()
        for task_id in ("runs", "a"):
            start(client, body, task_id)
        refusal = client.patch(f"{TRAINING}/a", json=change)
        assert (refusal.status_code, refusal.json()["code"]) == (422, "invalid_request")
        assert {problem["field"] for problem in refusal.json()["errors"]} == {"priority", *change}
        assert "priority" not in status(client, "a")

    def test_a_changed_priority_survives_kill_9(self, tmp_path: Path, body: Body) -> None:
        trainer = ("-m", "tests.service_process")
        with ServiceProcess(*trainer, folder=tmp_path) as service:
            service.start()
            with httpx.Client(base_url=service.url, timeout=60) as client:
                for task_id in ("runs", "a", "b"):
                    start(client, body, task_id)
                client.patch(f"{TRAINING}/b", json={"priority": 1}).raise_for_status()
            service.end(signal.SIGKILL)
        with ServiceProcess(*trainer, folder=tmp_path) as service:
            service.start()
            with httpx.Client(base_url=service.url, timeout=60) as client:
                assert (status(client, "b")["status"], status(client, "b")["priority"]) == ("running", 1)
                assert status(client, "a")["status"] == "queued"
                assert "Priority changed from 5 to 1" in messages(client, "b")


class TestFullQueue:
    def test_one_more_is_refused_with_what_to_do_and_leaves_nothing(
        self, busy: Serve, body: Body, tmp_path: Path
    ) -> None:
        client = busy(max_queued=2)
        for task_id in ("runs", "a", "b"):
            start(client, body, task_id)
        refusal = client.post(f"{TRAINING}/start", json={**body, "task_id": "late"})
        assert (refusal.status_code, refusal.json()["code"]) == (429, "queue_full")
        assert int(refusal.headers["Retry-After"]) > 0
        assert "stop one that waits" in refusal.json()["detail"]
        assert set(all_tasks(client)) == {"runs", "a", "b"}
        assert sorted(path.name for path in Path(body["save_path"]).iterdir()) == ["a", "b", "runs"]
        stop(client, "a")
        assert start(client, body, "late")["queue_position"] == 2

    def test_a_start_that_is_repeated_hears_that_it_was_taken(self, busy: Serve, body: Body) -> None:
        client = busy(max_queued=0)
        start(client, body, "runs")
        answers = [client.post(f"{TRAINING}/start", json={**body, "task_id": task_id}) for task_id in ("runs", "new")]
        assert [answer.status_code for answer in answers] == [409, 429]

    def test_an_import_is_refused_where_it_would_have_to_wait_and_no_sooner(
        self, busy: Serve, body: Body, tmp_path: Path
    ) -> None:
        log = tmp_path / "train.log"
        log.write_text("Train Loss: 0.5\n")
        client = busy(max_queued=1)
        for task_id in ("runs", "waits"):
            start(client, body, task_id)
        followed = {"path": str(log), "follow": True}
        answers = [client.post(f"{TRAINING}/import", json=followed) for _ in range(FILES_AT_A_TIME + 1)]
        assert [answer.status_code for answer in answers] == [200] * FILES_AT_A_TIME + [429]

    def test_what_had_been_accepted_is_taken_up_by_a_service_that_allows_less(
        self, serve: Callable[..., RunningServer], executor: ScriptedExecutor, body: Body
    ) -> None:
        executor.hold()
        first = serve(max_queued=3)
        with httpx.Client(base_url=first.url, timeout=60) as client:
            for task_id in ("runs", "a", "b", "c"):
                start(client, body, task_id)
        first.stop()
        with httpx.Client(base_url=serve(max_queued=0).url, timeout=60) as client:
            active = [task_id for task_id, task in all_tasks(client).items() if task["status"] in ("running", "queued")]
            assert set(active) >= {"a", "b", "c"}


def start_at_once(client: httpx.Client, bodies: list[Body]) -> Counter[tuple[int, str | None]]:
    """Statuses and codes of starts that are all sent at the same moment."""
    barrier = threading.Barrier(len(bodies))

    def post(body: Body) -> tuple[int, str | None]:
        barrier.wait()
        answer = client.post(f"{TRAINING}/start", json=body)
        return answer.status_code, answer.json().get("code")

    with ThreadPoolExecutor(len(bodies)) as pool:
        return Counter(pool.map(post, bodies))


def what_is_there(client: httpx.Client, save_path: str) -> tuple[int, int, int]:
    """Numbers of tasks in the store, of tasks that run or wait, and of folders of runs."""
    health = client.get("/api/v1/health").json()
    return len(all_tasks(client)), health["running"] + health["queued"], len(list(Path(save_path).iterdir()))


class TestParallelStarts:
    @pytest.mark.parametrize(
        ("names", "code"),
        [
            (lambda number: {"name": "wanted"}, "name_in_use"),
            (lambda number: {"task_id": "wanted"}, "task_id_in_use"),
            (lambda number: {"task_id": "wanted", "name": f"run {number}"}, "task_id_in_use"),
            (lambda number: {"task_id": "wanted", "name": "wanted"}, "task_id_in_use"),
        ],
        ids=["one name", "one id", "one id, many names", "one id, one name"],
    )
    def test_one_of_a_hundred_is_taken_and_the_others_leave_nothing(
        self, busy: Serve, body: Body, names: Callable[[int], Body], code: str
    ) -> None:
        client = busy()
        answers = start_at_once(client, [{**body, **names(number)} for number in range(PARALLEL)])
        assert answers == {(200, None): 1, (409, code): PARALLEL - 1}
        assert what_is_there(client, body["save_path"]) == (1, 1, 1)

    def test_of_an_id_whose_task_ends_at_once_one_is_taken(
        self, serve: Callable[..., RunningServer], body: Body
    ) -> None:
        with httpx.Client(base_url=serve().url, timeout=60, limits=httpx.Limits(max_connections=PARALLEL)) as client:
            answers = start_at_once(client, [{**body, "task_id": "wanted"}] * PARALLEL)
            assert answers == {(200, None): 1, (409, "task_id_in_use"): PARALLEL - 1}
            client.get(f"{TRAINING}/wanted/logs").raise_for_status()
            assert what_is_there(client, body["save_path"]) == (1, 0, 1)

    def test_no_more_than_may_wait_are_taken(self, busy: Serve, body: Body) -> None:
        client = busy(max_queued=5, max_training_concurrent_cpu=2)
        answers = start_at_once(client, [body] * PARALLEL)
        assert answers == {(200, None): 7, (429, "queue_full"): PARALLEL - 7}
        assert what_is_there(client, body["save_path"]) == (7, 7, 7)
