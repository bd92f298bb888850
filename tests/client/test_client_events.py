"""Following the events of all tasks: what happens while a connection is cut is told by the next one."""

from __future__ import annotations

import httpx
import pytest

from client import ServiceError, TrainingClient
from client.follow import ServiceEvent

EVENTS = "/api/v2/training/events"
LIST = "/api/v2/training"
CUT = httpx.ReadError("reset")


def stream(*frames: str) -> httpx.Response:
    return httpx.Response(200, text="".join(frames), headers={"Content-Type": "text/event-stream"})


def page(event_id: str | None) -> httpx.Response:
    return httpx.Response(200, json={"tasks": []} | ({} if event_id is None else {"event_id": event_id}))


def event(cursor: str, kind: str = "status") -> str:
    return f'id: {cursor}\r\nevent: {kind}\r\ndata: {{"task_id": "t"}}\r\n\r\n'


class Service:
    """Gives one prepared answer after the other, and keeps what was asked and after which event."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self._answers = list(answers)
        self.asked: list[tuple[str, str | None]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append((request.url.path, request.headers.get("Last-Event-ID")))
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def events(self, number: int, after: str = "") -> list[ServiceEvent]:
        transport = httpx.MockTransport(self)
        with TrainingClient("http://service", transport=transport, sleep=lambda _: None) as client:
            events = client.events(after=after)
            return [next(events) for _ in range(number)]


def test_they_go_on_where_they_were_cut() -> None:
    first = 'retry: 100\r\n\r\nid: 8.0\r\nevent: metric\r\ndata: {"task_id": "t", "n": 1}\r\n\r\n'
    service = Service(stream(first), stream("id: 9.0\r\nevent: reset\r\ndata: {}\r\n\r\n"))
    found = service.events(2, after="7.0")
    assert found == [
        ServiceEvent("8.0", "metric", "t", {"task_id": "t", "n": 1}),
        ServiceEvent("9.0", "reset", None, {}),
    ]
    assert service.asked == [(EVENTS, "7.0"), (EVENTS, "8.0")]


def test_what_is_asked_for_is_asked_for_again_after_a_cut() -> None:
    queries: list[str] = []
    answers = [page("5.0"), stream(), stream(event("6.0"))]

    def answer(request: httpx.Request) -> httpx.Response:
        queries.append(request.url.query.decode())
        return answers.pop(0)

    with TrainingClient("http://service", transport=httpx.MockTransport(answer), sleep=lambda _: None) as client:
        next(client.events(["t"], ["metric", "reset"]))
    assert queries == ["limit=1", "ids=t&types=metric%2Creset", "ids=t&types=metric%2Creset"]


def test_a_frame_without_data_is_a_place_to_go_on_from() -> None:
    service = Service(stream("id: 5.0\r\n\r\n"), stream(event("6.0")))
    assert [each.id for each in service.events(1, after="2.0")] == ["6.0"]
    assert service.asked == [(EVENTS, "2.0"), (EVENTS, "5.0")]


def test_a_comment_or_a_retry_time_is_no_place() -> None:
    service = Service(stream("retry: 3000\r\n\r\n: alive\r\n\r\n"), stream(event("6.0")))
    assert [each.id for each in service.events(1, after="2.0")] == ["6.0"]
    assert service.asked == [(EVENTS, "2.0"), (EVENTS, "2.0")]


def test_what_happens_before_the_first_event_has_come_is_not_lost() -> None:
    service = Service(page("5.0"), CUT, stream(), stream(event("6.0")))
    assert [each.id for each in service.events(1)] == ["6.0"]
    assert service.asked == [(LIST, None), (EVENTS, "5.0"), (EVENTS, "5.0"), (EVENTS, "5.0")]


def test_a_service_that_starts_is_waited_for_also_at_the_beginning() -> None:
    starting = httpx.Response(503, json={"detail": "The service is starting.", "code": "starting"})
    service = Service(CUT, starting, page("5.0"), stream(event("6.0")))
    assert [each.id for each in service.events(1)] == ["6.0"]
    assert service.asked == [(LIST, None)] * 3 + [(EVENTS, "5.0")]


def test_a_refusal_at_the_beginning_is_told_at_once() -> None:
    service = Service(httpx.Response(401, json={"detail": "Send a token.", "code": "token_required"}))
    with pytest.raises(ServiceError, match="Send a token"):
        service.events(1)
    assert service.asked == [(LIST, None)]


def test_a_service_that_says_no_place_begins_at_now() -> None:
    service = Service(page(None), stream(event("6.0")))
    assert [each.id for each in service.events(1)] == ["6.0"]
    assert service.asked == [(LIST, None), (EVENTS, None)]
