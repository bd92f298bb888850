"""Following a log: every line once, whatever the network does, and an end to every wait."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import httpx
import pytest

from client import ServiceError, ServiceUnreachable, TrainingClient
from client.follow import KEEP_ALIVE, LogFollower
from models.schemas import TaskStatus
from tests.client.log_server import Ending, Log, serving

MESSAGES = ["Epoch [1/2] started", "损失 loss: 0.5 ✓", "a\u2028b\x85c\x0bd", "\x1b[32mgreen\x1b[0m", "", "x" * 3000] * 5
STREAM = {"Content-Type": "text/event-stream"}


def frame(number: int, **more: object) -> bytes:
    entry = {"timestamp": "2025-01-01T00:00:00", "level": "INFO", "message": f"line {number}", **more}
    return f"id: {number}\ndata: {httpx.Response(200, json=entry).text}\n\n".encode()


def stream(*parts: bytes) -> httpx.Response:
    return httpx.Response(200, headers=STREAM, content=b"".join(parts))


class Body(httpx.SyncByteStream):
    """An answer that brings some bytes and then fails."""

    def __init__(self, content: bytes, error: Exception) -> None:
        self._content, self._error = content, error

    def __iter__(self) -> Iterator[bytes]:
        yield self._content
        raise self._error


Answer = httpx.Response | Exception


class Service:
    """A transport that gives one prepared answer after the other, then refuses, and notes all waits."""

    def __init__(self, *answers: Answer | Callable[[], Answer]) -> None:
        self._answers = list(answers)
        self.requests: list[httpx.Request] = []
        self.waits: list[float] = []
        self.now = 0.0
        self.http = httpx.Client(base_url="http://service", transport=httpx.MockTransport(self._answer))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self._answers.pop(0) if self._answers else httpx.ConnectError("Connection refused")
        if not isinstance(answer, httpx.Response | Exception):
            answer = answer()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def ids(self, after: int = 0, attempts: int = 8) -> list[int]:
        follower = LogFollower(
            self.http, "/logs", after, attempts=attempts, sleep=self.waits.append, clock=lambda: self.now
        )
        return [entry.id for entry in follower]

    @property
    def resumed_from(self) -> list[str | None]:
        return [request.headers.get("Last-Event-ID") for request in self.requests]


@pytest.mark.parametrize("seed", range(12))
def test_every_line_comes_once_wherever_connections_are_cut(seed: int) -> None:
    chance = random.Random(seed)
    endings = [Ending.CLOSE, Ending.DROP, Ending.RESET]
    log = Log(
        MESSAGES,
        [(chance.randrange(8000), chance.choice(endings)) for _ in range(40)],
        chunk=chance.choice([1, 7, 1 << 16]),
    )
    with serving(log) as url, TrainingClient(url, sleep=lambda _: None) as client:
        entries = list(client.follow("t"))
    assert [entry.id for entry in entries] == list(range(1, len(MESSAGES) + 1))
    assert [entry.message for entry in entries[:-1]] == MESSAGES[:-1]
    assert (entries[-1].message, entries[-1].status) == ("任务结束", TaskStatus.COMPLETED)
    assert len(log.asked) > 1
    assert log.asked == sorted(log.asked)


def test_the_last_frame_ends_it_even_if_the_connection_stays_open() -> None:
    log = Log(MESSAGES, [(1 << 30, Ending.HOLD)])
    with serving(log) as url, TrainingClient(url) as client:
        assert [entry.id for entry in client.follow("t")] == list(range(1, len(MESSAGES) + 1))
        assert not log.over.is_set()


def test_a_reader_can_leave_in_the_middle() -> None:
    log = Log(MESSAGES, [(200, Ending.HOLD)])
    with serving(log) as url, TrainingClient(url) as client:
        lines = client.follow("t")
        assert next(lines).id == 1
        lines.close()  # type: ignore[attr-defined]  # it is a generator


def test_nothing_new_in_a_task_that_is_over() -> None:
    log = Log(MESSAGES)
    with serving(log) as url, TrainingClient(url) as client:
        assert list(client.follow("t", after=len(MESSAGES))) == []
        assert [entry.id for entry in client.follow("t", after=28)] == [29, 30]
    assert log.asked == [30, 28]


def test_a_service_that_is_gone() -> None:
    with serving(Log(MESSAGES)) as url:
        pass
    waits: list[float] = []
    with (
        TrainingClient(url, sleep=waits.append) as client,
        pytest.raises(ServiceUnreachable, match=f"{url} does not answer: .*refused"),
    ):
        list(client.follow("t"))
    assert waits == [1, 2, 4, 8, 16, 30, 30]


def test_the_delay_starts_from_what_the_service_asks_for() -> None:
    service = Service(stream(b"retry: 3000\n\n", frame(1)))
    with pytest.raises(ServiceUnreachable):
        service.ids()
    assert service.waits == [3, 3, 6, 12, 24, 30, 30, 30]


def test_a_service_may_ask_for_longer_than_the_longest_delay_of_ours() -> None:
    service = Service(stream(b"retry: 60000\n\n"), stream(frame(1, status="failed")))
    assert service.ids() == [1]
    assert service.waits == [60]


def test_a_new_line_makes_up_for_lost_attempts() -> None:
    lost = httpx.ConnectError("no route")
    service = Service(lost, lost, stream(frame(1)), lost, lost, stream(frame(2, status="completed")))
    assert service.ids(attempts=3) == [1, 2]
    assert service.resumed_from == [None, None, None, "1", "1", "1"]


def test_connections_that_bring_nothing_come_to_an_end() -> None:
    service = Service(*[stream(b"retry: 3000\n\n")] * 3)
    with pytest.raises(ServiceUnreachable, match="ended before its last line"):
        service.ids(attempts=3)


def test_a_long_quiet_connection_was_no_failure() -> None:
    """A task can wait in the queue for days, and a proxy may allow every connection five minutes."""

    def cut_after_a_while() -> httpx.Response:
        class Quiet(Body):
            def __iter__(inner) -> Iterator[bytes]:  # noqa: N805
                service.now += KEEP_ALIVE + 1
                return super().__iter__()

        return httpx.Response(200, headers=STREAM, stream=Quiet(b": ping\n\n", httpx.ReadError("reset")))

    service = Service(*[cut_after_a_while] * 20, stream(frame(1, status="cancelled")))
    assert service.ids(attempts=3) == [1]


def test_silence_is_noticed_and_counts() -> None:
    def silent() -> httpx.Response:
        service.now += 45
        return httpx.Response(200, headers=STREAM, stream=Body(b"retry: 3000\n\n", httpx.ReadTimeout("timed out")))

    service = Service(*[silent] * 3)
    with pytest.raises(ServiceUnreachable, match="timed out"):
        service.ids(attempts=3)
    timeout = service.requests[0].extensions["timeout"]
    assert timeout["read"] > 2 * KEEP_ALIVE
    assert timeout["connect"] == 5


def test_lines_that_come_again_are_skipped() -> None:
    service = Service(stream(frame(1), frame(2), frame(2)), stream(frame(1), frame(2), frame(3, status="completed")))
    assert service.ids() == [1, 2, 3]


def test_only_unnamed_events_are_lines() -> None:
    named = b"event: alert\nid: 1\ndata: {}\n\n"
    service = Service(stream(b": hello\n\n", named, b"data:\n\n", frame(1, status="completed")))
    assert service.ids() == [1]


def test_a_status_that_is_not_the_last_one_does_not_end_it() -> None:
    service = Service(stream(frame(1, status="running"), frame(2, status="completed")))
    assert service.ids() == [1, 2]


def test_a_task_that_is_not_there_is_no_reason_to_try_again() -> None:
    service = Service(httpx.Response(404, json={"detail": "There is no task 't'.", "code": "task_not_found"}))
    with pytest.raises(ServiceError, match="There is no task") as caught:
        service.ids()
    assert (caught.value.status_code, caught.value.code) == (404, "task_not_found")
    assert service.waits == []


def test_a_service_that_is_starting_is_waited_for() -> None:
    busy = httpx.Response(503, json={"detail": "The service is stopping.", "code": "stopping"})
    gateway = httpx.Response(502, text="<html>")
    assert Service(busy, gateway, stream(frame(1, status="completed"))).ids() == [1]
    with pytest.raises(ServiceError, match="The service is stopping"):
        Service(*[busy] * 4).ids(attempts=4)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 520, 522, 530])
def test_a_proxys_own_number_for_a_service_that_restarts_is_waited_for(status: int) -> None:
    service = Service(httpx.Response(status, text="<html>"), stream(frame(1, status="completed")))
    assert service.ids() == [1]
    assert service.waits == [1]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 501])
def test_a_refusal_that_will_not_pass_is_told_at_once(status: int) -> None:
    service = Service(httpx.Response(status, json={"detail": "No.", "code": "no"}))
    with pytest.raises(ServiceError, match="No"):
        service.ids()
    assert service.waits == []


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, text="<html>", headers={"Content-Type": "text/html"}),
        stream(b"id: 1\ndata: not json\n\n"),
        stream(b"id: 1\ndata: [1]\n\n"),
        stream(b"id: 1\ndata: {}\n\n"),
        stream(frame(1).replace(b"id: 1\n", b"")),
        httpx.Response(307, headers={"Location": "http://elsewhere/"}),
    ],
)
def test_something_else_at_the_address(answer: httpx.Response) -> None:
    with pytest.raises(ServiceError, match="not the training service's") as caught:
        Service(answer).ids()
    assert caught.value.code == "unexpected_answer"
