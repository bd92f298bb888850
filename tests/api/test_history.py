"""Pages of stored lines: the same lines, under the same ids, as the stream's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.api.conftest import Dictate, Start, Watch
from tests.api.viewer import Event

Train = Callable[..., tuple[str, list[Event]]]

LINES = (
    "Epoch [1/2] started",
    "Train Loss: 0.5, Train Accuracy: 80%",
    "Validation Loss: 0.6, Validation Accuracy: 75%",
    "Learning Rate: 0.01",
    "Epoch [2/2] started",
    "Train Loss: 0.4, Train Accuracy: 85%",
    "Validation Loss: 0.5, Validation Accuracy: 78%",
    "Learning Rate: 0.001",
    "Training complete.",
)


def page(http: httpx.Client, task_id: str, **query: Any) -> dict[str, Any]:
    answer = http.get(f"/api/v2/training/{task_id}/logs/history", params=query)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert isinstance(found, dict)
    return found


def as_rows(events: list[Event]) -> list[dict[str, Any]]:
    return [{"id": event.number, **event.entry} for event in events]


def test_history_is_the_stream_line_by_line(http: httpx.Client, train: Train) -> None:
    task_id, events = train(*LINES)

    assert page(http, task_id) == {"task_id": task_id, "entries": as_rows(events)}


def test_history_of_a_running_task_is_what_viewers_have_seen(
    http: httpx.Client, dictate: Dictate, start: Start, watch: Watch
) -> None:
    dictation = dictate()
    task_id = start()
    dictation.say(*LINES[:3])
    seen = watch(task_id).until_message(LINES[2])

    assert page(http, task_id)["entries"] == as_rows(seen)


@pytest.mark.parametrize("limit", [1, 2, 5, 1000])
def test_pages_lead_backwards_from_the_end(http: httpx.Client, train: Train, limit: int) -> None:
    task_id, events = train(*LINES)
    rows: list[dict[str, Any]] = []
    before: int | None = 2**63 - 1
    while before is not None:
        found = page(http, task_id, before=before, limit=limit)
        assert "next_after" not in found
        assert len(found["entries"]) <= limit
        rows[:0] = found["entries"]
        before = found.get("next_before")

    assert rows == as_rows(events)


@pytest.mark.parametrize(
    ("text", "found"), [("validation loss", [LINES[2], LINES[6]]), ("85%", [LINES[5]]), ("5%", [LINES[2], LINES[5]])]
)
def test_lines_are_found_by_their_text(http: httpx.Client, train: Train, text: str, found: list[str]) -> None:
    task_id, _ = train(*LINES)

    assert [entry["message"] for entry in page(http, task_id, contains=text)["entries"]] == found
    backwards = page(http, task_id, contains=text, before=2**63 - 1, limit=1)
    assert [entry["message"] for entry in backwards["entries"]] == found[-1:]


@pytest.mark.parametrize("limit", [1, 2, 5, 1000])
def test_pages_together_are_the_whole_log(http: httpx.Client, train: Train, limit: int) -> None:
    task_id, events = train(*LINES)
    entries: list[dict[str, Any]] = []
    query = {"limit": limit}
    while True:
        found = page(http, task_id, **query)
        assert len(found["entries"]) <= limit
        entries += found["entries"]
        if "next_after" not in found:
            break
        query["after"] = found["next_after"]

    assert entries == as_rows(events)


def test_a_last_page_that_is_full_says_that_it_is_the_last(http: httpx.Client, train: Train) -> None:
    task_id, events = train(*LINES)

    assert page(http, task_id, limit=len(events)).keys() == {"task_id", "entries"}
    assert page(http, task_id, limit=len(events) - 1)["next_after"] == len(events) - 1
    assert page(http, task_id, after=len(events)) == {"task_id": task_id, "entries": []}


def test_a_page_of_long_lines_is_short_and_the_next_one_goes_on(http: httpx.Client, train: Train) -> None:
    task_id, events = train(*(f"{number} {'x' * 60_000}" for number in range(40)))
    first = page(http, task_id, limit=1000)
    rest = page(http, task_id, limit=1000, after=first["next_after"])

    assert 10 < len(first["entries"]) < 20
    assert first["next_after"] == len(first["entries"])
    assert rest["entries"][0]["id"] == first["next_after"] + 1
    assert rest["next_after"] < len(events)


def test_stage_and_level_narrow_the_lines_and_keep_their_ids(http: httpx.Client, train: Train) -> None:
    task_id, events = train(*LINES, old_field=1)
    rows = as_rows(events)

    for stage in ("epoch_start", "training", "validation", "epoch_end", "completed"):
        assert page(http, task_id, stage=stage)["entries"] == [row for row in rows if row["stage"] == stage] != []
    warnings = [row for row in rows if row["level"] == "WARNING"]
    assert page(http, task_id, level="WARNING")["entries"] == warnings != []
    assert page(http, task_id, level="warning")["entries"] == warnings
    assert page(http, task_id, level="ERROR")["entries"] == []
    assert page(http, task_id, level="Critical")["entries"] == []
    both = [row for row in rows if (row["level"], row["stage"]) == ("INFO", "validation")]
    assert page(http, task_id, level="INFO", stage="validation")["entries"] == both


def test_narrowed_pages_together_are_the_narrowed_log(http: httpx.Client, train: Train) -> None:
    task_id, events = train(*LINES)
    first = page(http, task_id, stage="validation", limit=1)
    second = page(http, task_id, stage="validation", limit=1, after=first["next_after"])

    expected = [row for row in as_rows(events) if row["stage"] == "validation"]
    assert first["entries"] + second["entries"] == expected
    assert "next_after" not in second


@pytest.mark.parametrize("metrics", ["train_acc", "epoch,val_loss", "nothing"])
def test_metrics_narrows_a_line_as_it_does_in_the_stream(
    http: httpx.Client, train: Train, watch: Watch, metrics: str
) -> None:
    task_id, _ = train(*LINES)

    assert page(http, task_id, metrics=metrics)["entries"] == as_rows(
        list(watch(task_id, query=f"?metrics={metrics}").events())
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("after", "-1"), ("after", "x"), ("after", "9" * 20), ("limit", "0"), ("limit", "1001")),
        *(("stage", "begin"), ("level", "foo"), ("level", "x" * 17), ("level", "\0"), ("level", "")),
    ],
)
def test_a_page_that_cannot_be_is_refused(http: httpx.Client, train: Train, field: str, value: str) -> None:
    task_id, _ = train()
    answer = http.get(f"/api/v2/training/{task_id}/logs/history", params={field: value})

    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == [field]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=st.dictionaries(st.sampled_from(["after", "limit", "level", "stage", "metrics"]), st.text(max_size=20)))
def test_no_query_is_answered_with_a_500(http: httpx.Client, query: dict[str, str]) -> None:
    assert http.get("/api/v2/training/nobody/logs/history", params=query).status_code in {404, 422}
