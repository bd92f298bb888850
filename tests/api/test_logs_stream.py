"""The log stream, over real sockets: every viewer sees every line once, whatever happens to its connection."""

from __future__ import annotations

import json
import random
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from http.client import IncompleteRead
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from api import streams
from api.routers import training
from api.streams import LogStream
from services import wakeup
from tests.api.conftest import Dictate, Start, Watch
from tests.api.viewer import Event
from tests.running_server import RunningServer
from trainer.errors import TrainingFailed

Train = Callable[..., tuple[str, list[Event]]]
Serve = Callable[..., RunningServer]

LAST_MESSAGE = "任务结束"
RING = 400
"""Lines that a live task keeps in memory; a viewer behind that is served from the store."""


@pytest.fixture(scope="module")
def server(server_on_each_store: RunningServer) -> RunningServer:
    return server_on_each_store


def numbers(events: list[Event]) -> list[int]:
    return [event.number for event in events]


def messages(events: list[Event]) -> list[str]:
    return [event.entry["message"] for event in events]


def assert_complete(events: list[Event], lines: list[str]) -> None:
    """`events` are a whole log, each line once and in order, and `lines` are what its trainer printed."""
    assert numbers(events) == list(range(1, len(events) + 1))
    printed = [message for message in messages(events) if message in set(lines)]
    assert printed == lines
    assert events[-1].entry["message"] == LAST_MESSAGE


# --- Form --------------------------------------------------------------------------------------------------------


def test_headers_keep_caches_and_proxies_from_holding_lines_back(train: Train, watch: Watch) -> None:
    task_id, _ = train("one")
    viewer = watch(task_id)

    assert viewer.status == 200
    assert viewer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert viewer.headers["X-Accel-Buffering"] == "no"
    assert viewer.headers["Cache-Control"] in {"no-store", "no-cache"}
    assert viewer.headers["Content-Encoding"] is None


def test_stream_is_retry_and_then_one_unnamed_numbered_event_for_each_line(train: Train, watch: Watch) -> None:
    task_id, events = train("one", "two")
    body = watch(task_id).read_whole()

    frame = rb"id: (\d+)\r\ndata: (\{[^\r\n]*\})\r\n\r\n"
    assert re.fullmatch(rb"retry: 3000\r\n\r\n(?:%s)+" % frame, body)
    found = re.findall(frame, body)
    assert [int(number) for number, _ in found] == list(range(1, len(events) + 1))
    assert [json.loads(data)["message"] for _, data in found] == messages(events)
    assert {event.name for event in events} == {"message"}


def test_an_entry_has_the_documents_keys_and_a_local_time(train: Train) -> None:
    before = datetime.now()
    _, events = train("Epoch [1/2] started", "Train Loss: 0.5, Train Accuracy: 80%")
    after = datetime.now()

    line = next(event.entry for event in events if event.entry["message"].startswith("Train Loss"))
    assert line.keys() == {"timestamp", "level", "message", "metrics", "stage"}
    assert before <= datetime.fromisoformat(line["timestamp"]) <= after
    plain = [event.entry for event in events[:-1] if "metrics" not in event.entry]
    assert plain
    assert all(entry.keys() == {"timestamp", "level", "message", "stage"} for entry in plain)


def test_last_frame_is_a_stored_entry_that_says_how_the_task_ended(http: httpx.Client, train: Train) -> None:
    task_id, events = train("one")

    last = events[-1]
    assert last.number == len(events)
    assert last.entry["message"] == LAST_MESSAGE
    assert last.entry["status"] == "completed"
    assert all("status" not in event.entry for event in events[:-1])
    history = http.get(f"/api/v2/training/{task_id}/logs/history").json()["entries"]
    assert history[-1] == {"id": last.number, **last.entry}


def test_last_frame_of_a_failed_training_says_so(
    http: httpx.Client, dictate: Dictate, start: Start, watch: Watch
) -> None:
    dictate().end(TrainingFailed("diverged", "The loss is NaN: lower learning_rate."))
    task_id = start()
    last = list(watch(task_id).events())[-1].entry

    assert (last["message"], last["status"], last["reason"]) == (LAST_MESSAGE, "failed", "diverged")
    status = http.get(f"/api/v2/training/{task_id}").json()
    assert (status["status"], status["reason"]) == ("failed", "diverged")
    assert status["error"] == "The loss is NaN: lower learning_rate."


def test_a_trainer_that_breaks_fails_its_task_and_leaves_its_traceback_in_the_log(
    http: httpx.Client, dictate: Dictate, start: Start, watch: Watch
) -> None:
    dictate().end(ZeroDivisionError("no images"))
    task_id = start()
    events = list(watch(task_id).events())

    assert (events[-1].entry["status"], events[-1].entry["reason"]) == ("failed", "error")
    errors = [event.entry["message"] for event in events if event.entry["level"] == "ERROR"]
    assert "Traceback (most recent call last):" in errors
    assert "ZeroDivisionError: no images" in errors
    assert http.get(f"/api/v2/training/{task_id}").json()["error"] == "ZeroDivisionError: no images"


def test_last_frame_of_a_stopped_training_says_so(
    http: httpx.Client, dictate: Dictate, start: Start, watch: Watch
) -> None:
    dictate()
    task_id = start()
    http.post(f"/api/v2/training/{task_id}/stop").raise_for_status()
    events = list(watch(task_id).events())

    assert (events[-1].entry["status"], events[-1].entry["reason"]) == ("cancelled", "user_stop")


def test_a_line_cannot_forge_an_event(train: Train) -> None:
    forged = '\r\rid: 99\r\rdata: {"status":"completed"}\r\r'
    _, events = train(forged, "a\u2028b\u2029c\x85d\x0be\x0c")

    assert forged in messages(events)
    assert "a\u2028b\u2029c\x85d\x0be\x0c" in messages(events)
    assert numbers(events) == list(range(1, len(events) + 1))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\n\0")), max_size=5))
def test_every_text_arrives_as_it_was_printed(train: Train, lines: list[str]) -> None:
    _, events = train("begin", *lines, "end")

    printed = messages(events)
    assert printed[printed.index("begin") + 1 : len(printed) - 1 - printed[::-1].index("end")] == lines


def test_unknown_task_is_no_stream(http: httpx.Client) -> None:
    answer = http.get("/api/v2/training/nobody/logs")

    assert (answer.status_code, answer.json()["code"]) == (404, "task_not_found")


# --- Live --------------------------------------------------------------------------------------------------------


def test_a_line_reaches_a_viewer_while_the_training_goes_on(dictate: Dictate, start: Start, watch: Watch) -> None:
    dictation = dictate()
    viewer = watch(start())
    for line in ("first", "second", "third"):
        dictation.say(line)
        assert messages(viewer.until_message(line))[-1] == line
    assert not viewer.ended


def test_ten_viewers_each_see_every_line(dictate: Dictate, start: Start, watch: Watch) -> None:
    lines = [f"line {number}" for number in range(300)]
    dictation = dictate()
    task_id = start()
    dictation.say(*lines[:100])
    viewers = [watch(task_id) for _ in range(5)]
    dictation.say(*lines[100:200])
    viewers += [watch(task_id) for _ in range(5)]
    dictation.say(*lines[200:])
    dictation.end()

    with ThreadPoolExecutor(len(viewers)) as pool:
        seen = list(pool.map(lambda viewer: list(viewer.events()), viewers))
    assert_complete(seen[0], lines)
    assert all(events == seen[0] for events in seen)


def test_a_viewer_that_comes_late_sees_the_log_from_its_begin(dictate: Dictate, start: Start, watch: Watch) -> None:
    lines = [f"line {number}" for number in range(RING * 3)]
    dictation = dictate()
    task_id = start()
    dictation.say(*lines)
    watch(task_id).until_message(lines[-1])

    late = watch(task_id)
    dictation.say("and one more")
    dictation.end()
    assert_complete(list(late.events()), [*lines, "and one more"])


def test_viewers_of_two_trainings_see_their_own_lines(dictate: Dictate, start: Start, watch: Watch) -> None:
    scripts, tasks = [], []
    for _ in range(2):
        scripts.append(dictate())
        tasks.append(start())
        scripts[-1].say("begun")
        watch(tasks[-1]).until_message("begun")
    for number in range(50):
        for name, script in zip("ab", scripts, strict=True):
            script.say(f"{name}{number}")
    for script in scripts:
        script.end()

    for name, task_id in zip("ab", tasks, strict=True):
        printed = [m for m in messages(list(watch(task_id).events())) if re.fullmatch(r"[ab]\d+", m)]
        assert printed == [f"{name}{number}" for number in range(50)]


def test_a_viewer_that_never_reads_delays_nobody_and_loses_nothing(
    dictate: Dictate, start: Start, watch: Watch
) -> None:
    lines = [f"line {number} {'x' * 500}" for number in range(5_000)]
    dictation = dictate()
    task_id = start()
    stalled = watch(task_id, stalled=True)
    others = [watch(task_id) for _ in range(2)]
    dictation.say(*lines)
    dictation.end()

    with ThreadPoolExecutor(len(others)) as pool:
        for events in pool.map(lambda viewer: list(viewer.events()), others):
            assert_complete(events, lines)
    stalled.go_on()
    assert_complete(list(stalled.events()), lines)


def test_a_viewer_that_takes_nothing_for_long_is_let_go(
    dictate: Dictate,
    start: Start,
    watch: Watch,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    let_go = threading.Event()

    class Observed(LogStream):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await super().__call__(scope, receive, send)
            let_go.set()

    dictation = dictate()
    task_id = start()
    live = watch(task_id)
    monkeypatch.setattr(training, "LogStream", Observed)
    monkeypatch.setattr(streams, "SEND_TIMEOUT_S", 0.1)
    monkeypatch.setattr(streams, "LOOK_EVERY_S", 0.05)
    stalled = watch(task_id, stalled=True)
    dictation.say(*(f"line {number} {'x' * 4_000}" for number in range(2_000)), "all said")
    live.until_message("all said")
    assert let_go.wait(30)

    # What the sockets hold comes through; then the connection is closed, without the end of the answer.
    stalled.go_on()
    with pytest.raises((ConnectionError, IncompleteRead)):
        list(stalled.events())
    dictation.say("still well")
    live.until_message("still well")
    assert "Traceback" not in caplog.text + capfd.readouterr().err


def test_a_silent_stream_is_kept_alive_by_comments(
    dictate: Dictate, start: Start, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wakeup, "BEAT_S", 0.05)
    dictation = dictate()
    viewer = watch(start())
    while len(viewer.stream.comments) < 3:
        viewer.stream.feed(viewer.read())
    dictation.say("after the silence")
    dictation.end()

    events = viewer.until_message("after the silence")
    assert not any("alive" in event.data for event in events)


# --- Coming back -------------------------------------------------------------------------------------------------


@pytest.fixture
def ended(train: Train) -> tuple[str, list[Event]]:
    """A task that has ended, and its log."""
    return train(*(f"line {number}" for number in range(20)))


def test_last_event_id_resumes_behind_the_line_it_names(ended: tuple[str, list[Event]], watch: Watch) -> None:
    task_id, log = ended

    for seen in (1, 7, len(log) - 1):
        assert list(watch(task_id, last_event_id=seen).events()) == log[seen:]
    assert list(watch(task_id, last_event_id=0).events()) == log


def test_after_resumes_behind_the_line_it_names(ended: tuple[str, list[Event]], watch: Watch) -> None:
    task_id, log = ended

    assert list(watch(task_id, query="?after=7").events()) == log[7:]


def test_last_event_id_wins_over_after(ended: tuple[str, list[Event]], watch: Watch) -> None:
    """A browser repeats the URL it was first given when it comes back."""
    task_id, log = ended

    assert list(watch(task_id, query="?after=3", last_event_id=9).events()) == log[9:]
    assert list(watch(task_id, query="?after=9", last_event_id=3).events()) == log[3:]


@pytest.mark.parametrize("nonsense", ["", "abc", "-1", "1.5", "0x10", "\xb2", "٣".encode().decode("latin-1"), "1 2"])
def test_a_last_event_id_that_is_no_number_is_ignored(
    ended: tuple[str, list[Event]], watch: Watch, nonsense: str
) -> None:
    task_id, log = ended

    assert list(watch(task_id, query="?after=4", last_event_id=nonsense).events()) == log[4:]


@pytest.mark.parametrize("after", ["-1", "abc", "1.5", "9" * 30])
def test_an_after_that_is_no_line_number_is_refused(
    http: httpx.Client, ended: tuple[str, list[Event]], after: str
) -> None:
    answer = http.get(f"/api/v2/training/{ended[0]}/logs", params={"after": after})

    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == ["after"]


def test_204_is_for_those_who_have_the_last_frame_of_an_ended_task(
    ended: tuple[str, list[Event]], watch: Watch
) -> None:
    task_id, log = ended

    for seen in (len(log), len(log) + 1, "9" * 40):
        viewer = watch(task_id, last_event_id=seen)
        assert viewer.status == 204
        assert viewer.read() == b""
    assert watch(task_id, last_event_id=len(log) - 1).status == 200
    assert watch(task_id).status == 200


def test_204_is_never_for_after_alone(ended: tuple[str, list[Event]], watch: Watch) -> None:
    task_id, log = ended
    viewer = watch(task_id, query=f"?after={len(log)}")

    assert viewer.status == 200
    assert list(viewer.events()) == []


def test_204_is_not_for_a_task_that_goes_on(dictate: Dictate, start: Start, watch: Watch) -> None:
    dictation = dictate()
    task_id = start()
    dictation.say("so far")
    seen = watch(task_id).until_message("so far")[-1].number

    viewer = watch(task_id, last_event_id=seen)
    dictation.say("and on")
    assert viewer.status == 200
    assert viewer.until_message("and on")[0].number == seen + 1


def test_a_viewer_ahead_of_a_live_log_has_seen_another_and_begins_anew(
    dictate: Dictate, start: Start, watch: Watch
) -> None:
    dictation = dictate()
    viewer = watch(start(), query="?after=1000")
    dictation.end()

    numbers = [event.number for event in viewer.events()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert numbers
    assert viewer.ended


def test_a_viewer_cut_off_a_hundred_times_sees_each_line_once(dictate: Dictate, start: Start, watch: Watch) -> None:
    """Cut anywhere, in the middle of a frame too; what comes back in time is a browser's `Last-Event-ID`."""
    rng = random.Random(20251029)
    lines = [f"line {number} {'损失' * rng.randrange(40)}" for number in range(2_000)]
    dictation = dictate()
    task_id = start()
    seen: list[Event] = []
    cut_inside_a_frame = 0
    for attempt in range(100):
        dictation.say(*lines[attempt * 20 : attempt * 20 + 20])
        viewer = watch(task_id, last_event_id=seen[-1].number if seen else None)
        budget = rng.randrange(1, 2_500)
        while budget > 0:
            chunk = viewer.read(budget)
            budget -= len(chunk)
            seen += viewer.stream.feed(chunk)
        cut_inside_a_frame += viewer.stream.is_mid_event
        viewer.cut()
    dictation.end()
    seen += watch(task_id, last_event_id=seen[-1].number).events()

    assert cut_inside_a_frame > 50
    assert_complete(seen, lines)
    assert watch(task_id, last_event_id=seen[-1].number).status == 204


def test_a_viewer_cut_off_in_the_last_frame_still_gets_it(ended: tuple[str, list[Event]], watch: Watch) -> None:
    task_id, log = ended
    whole = watch(task_id).read_whole()
    cut = watch(task_id)
    received = b""
    while len(received) < len(whole) - 3:
        received += cut.read(len(whole) - 3 - len(received))
    seen = cut.stream.feed(received)
    cut.cut()

    assert seen == log[:-1]
    back = watch(task_id, last_event_id=seen[-1].number)
    assert list(back.events()) == log[-1:]
    assert watch(task_id, last_event_id=log[-1].number).status == 204


def test_an_ended_task_is_replayed_in_full_after_a_restart(
    serve: Serve, dictate: Dictate, start: Start, watch: Watch
) -> None:
    first = serve()
    dictation = dictate()
    dictation.say(*(f"line {number}" for number in range(RING * 2)), "Train Loss: 0.5, Train Accuracy: 80%")
    dictation.end()
    with httpx.Client(base_url=first.url) as client:
        task_id = start(client)
    before = list(watch(task_id, url=first.url).events())
    first.stop()

    second = serve()
    assert list(watch(task_id, url=second.url).events()) == before
    assert watch(task_id, url=second.url, last_event_id=len(before)).status == 204


def test_a_restart_too_many_ends_a_running_training_with_a_last_frame_that_says_why(
    serve: Serve, dictate: Dictate, start: Start, watch: Watch
) -> None:
    first = serve()
    dictate().say("so far")
    with httpx.Client(base_url=first.url) as client:
        task_id = start(client, max_restarts=0)
    before = watch(task_id, url=first.url).until_message("so far")
    first.stop()

    rest = list(watch(task_id, url=serve().url, last_event_id=before[-1].number).events())
    assert numbers(before + rest) == list(range(1, len(before) + len(rest) + 1))
    assert (rest[-1].entry["status"], rest[-1].entry["reason"]) == ("failed", "interrupted")


def test_a_running_training_goes_on_behind_a_restart_and_so_does_its_log(
    serve: Serve, dictate: Dictate, start: Start, watch: Watch
) -> None:
    first = serve()
    dictate().say("so far")
    with httpx.Client(base_url=first.url) as client:
        task_id = start(client)
    before = watch(task_id, url=first.url).until_message("so far")
    first.stop()

    dictation = dictate()
    dictation.say("and on")
    dictation.end()
    rest = list(watch(task_id, url=serve().url, last_event_id=before[-1].number).events())
    assert numbers(before + rest) == list(range(1, len(before) + len(rest) + 1))
    assert "and on" in [event.entry["message"] for event in rest]
    assert {event.entry["attempt"] for event in rest} == {2}
    assert rest[-1].entry["status"] == "completed"


def test_a_queued_training_goes_on_behind_a_restart_and_so_does_its_log(
    serve: Serve, dictate: Dictate, start: Start, watch: Watch
) -> None:
    first = serve()
    dictate()
    with httpx.Client(base_url=first.url) as client:
        start(client, max_restarts=0)
        waiting = start(client)
    before = watch(waiting, url=first.url).until_message("Waiting for a free device")
    first.stop()

    dictation = dictate()
    dictation.say("at last")
    dictation.end()
    rest = list(watch(waiting, url=serve().url, last_event_id=before[-1].number).events())
    assert_complete(before + rest, ["at last"])
    assert rest[-1].entry["status"] == "completed"


# --- Less of it --------------------------------------------------------------------------------------------------


def test_metrics_narrows_what_each_line_carries(train: Train, watch: Watch) -> None:
    task_id, events = train(
        "Epoch [1/2] started", "Train Loss: 0.5, Train Accuracy: 80%", "no metric", "Epoch [2/2] started"
    )
    narrowed = list(watch(task_id, query="?metrics=train_acc,epoch").events())

    def expected(entry: dict[str, Any]) -> dict[str, Any]:
        kept = {name: value for name, value in entry.get("metrics", {}).items() if name in {"train_acc", "epoch"}}
        rest = {name: value for name, value in entry.items() if name != "metrics"}
        return {**rest, "metrics": kept} if kept else rest

    assert numbers(narrowed) == numbers(events)
    assert [event.entry for event in narrowed] == [expected(event.entry) for event in events]
    assert {"metrics": {"train_acc": 80.0, "epoch": 1}}.items() <= narrowed[
        messages(events).index("Train Loss: 0.5, Train Accuracy: 80%")
    ].entry.items()


def test_metrics_that_no_line_has_leave_the_lines(train: Train, watch: Watch) -> None:
    task_id, events = train("Train Loss: 0.5, Train Accuracy: 80%")
    narrowed = list(watch(task_id, query="?metrics=nothing").events())

    assert messages(narrowed) == messages(events)
    assert all("metrics" not in event.entry for event in narrowed)


# --- Gone --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("comes", ["while it runs", "when it has ended"])
def test_deleting_a_task_ends_the_stream_of_those_who_still_read_it(
    http: httpx.Client, dictate: Dictate, start: Start, watch: Watch, comes: str
) -> None:
    dictation = dictate()
    task_id = start()
    early = watch(task_id, stalled=True)
    dictation.say(*(f"line {number} {'x' * 4_000}" for number in range(2_000)))
    dictation.end()
    whole = list(watch(task_id).events())
    slow = early if comes == "while it runs" else watch(task_id, stalled=True)
    first = slow.stream.feed(slow.read())
    http.delete(f"/api/v2/training/{task_id}").raise_for_status()

    slow.go_on()
    seen = [*first, *slow.events()]
    assert slow.ended
    assert seen == whole[: len(seen)]
    assert len(seen) < len(whole)
    assert watch(task_id, last_event_id=3).status == 404


def test_a_viewer_that_leaves_is_forgotten(server: RunningServer, dictate: Dictate, start: Start, watch: Watch) -> None:
    dictation = dictate()
    task_id = start()
    dictation.say("so far")
    viewers = [watch(task_id) for _ in range(5)]
    for viewer in viewers:
        viewer.until_message("so far")
    queue = server.service.log_queues[task_id]
    for viewer in viewers:
        viewer.cut()

    deadline = time.monotonic() + 10
    while queue._wakeup.waiting and time.monotonic() < deadline:
        time.sleep(0.01)
    assert queue._wakeup.waiting == 0


def test_times_are_close_to_now_whatever_the_time_zone(train: Train) -> None:
    """Deployed clients subtract `datetime.now()`."""
    _, events = train("one")

    ages = [datetime.now() - datetime.fromisoformat(event.entry["timestamp"]) for event in events]
    assert all(timedelta() <= age < timedelta(minutes=1) for age in ages)
