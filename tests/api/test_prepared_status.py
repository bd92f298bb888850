"""Prepared answers say what the route says, at every moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
from pydantic import SecretStr

from tests.api.conftest import Dictate, Start, Watch
from tests.running_server import RunningServer

BY_THE_ROUTE = {"history": "false"}
"""A question with a query goes to the route, and this one asks for nothing else."""


def ask(http: httpx.Client, task_id: str) -> httpx.Response:
    """By both ways, which must agree on everything."""
    path = f"/api/v2/training/{task_id}"
    prepared, routed = http.get(path), http.get(path, params=BY_THE_ROUTE)
    assert prepared.status_code == routed.status_code
    assert prepared.content == routed.content
    assert {**prepared.headers, "date": ""} == {**routed.headers, "date": ""}
    return prepared


def test_each_change_of_a_task_is_seen_at_once(
    http: httpx.Client, dictate: Dictate, start: Start, watch: Watch
) -> None:
    dictation = dictate()
    task_id = start(name="prepared", description="说明", priority=3)
    viewer = watch(task_id)
    for epoch in range(1, 4):
        line = f"Validation Loss: {epoch}.5, Validation Accuracy: 50.00%"
        dictation.say(f"Epoch [{epoch}/3] started", line)
        viewer.until_message(line)
        assert ask(http, task_id).json()["latest_metrics"]["val_loss"] == epoch + 0.5
    dictation.say("Validation Loss: nan")
    viewer.until_message("Validation Loss: nan")
    assert ask(http, task_id).json()["latest_metrics"]["val_loss"] is None
    dictation.end()
    list(viewer.events())
    assert ask(http, task_id).json()["status"] == "completed"


def test_an_alert_is_counted_at_once(http: httpx.Client, dictate: Dictate, start: Start) -> None:
    dictation = dictate()
    task_id = start()
    assert "alerts" not in ask(http, task_id).json()
    rule = {"name": "any", "kind": "pattern", "pattern": "trouble", "task_id": task_id}
    added = http.post("/api/v2/alerts/rules", json=rule).json()
    dictation.say("trouble")
    with http.stream("GET", "/api/v2/training/events", params={"ids": task_id, "after": "0.0"}) as events:
        assert any(line == "event: alert" for line in events.iter_lines())
    assert ask(http, task_id).json()["alerts"] == 1
    http.delete(f"/api/v2/alerts/rules/{added['id']}").raise_for_status()


def test_a_task_that_waits_has_its_place_of_now(serve: Callable[..., RunningServer], body: dict[str, Any]) -> None:
    with httpx.Client(base_url=serve(max_training_concurrent_cpu=0).url) as http:
        first, second = (http.post("/api/v2/training/start", json=body).json()["task_id"] for _ in range(2))
        assert ask(http, second).json()["queue_position"] == 2
        http.post(f"/api/v2/training/{first}/stop").raise_for_status()
        assert ask(http, second).json()["queue_position"] == 1


def test_what_is_no_live_task_is_the_routes(http: httpx.Client) -> None:
    expected = {"": 307, "compare": 422, "nobody/logs": 404, "a%2Fb": 404}
    found = {path: http.get(f"/api/v2/training/{path}", follow_redirects=False).status_code for path in expected}
    assert found == expected
    assert ask(http, "nobody").status_code == 404


def test_a_prepared_answer_wants_a_token_too(
    serve: Callable[..., RunningServer], body: dict[str, Any], dictate: Dictate
) -> None:
    dictate()
    url = serve(api_tokens=(SecretStr("secret"),)).url
    with httpx.Client(base_url=url, headers={"Authorization": "Bearer secret"}) as http:
        task_id = http.post("/api/v2/training/start", json=body).json()["task_id"]
        assert ask(http, task_id).status_code == 200
    assert httpx.get(f"{url}/api/v2/training/{task_id}").status_code == 401
    assert httpx.get(f"{url}/api/v2/training/{task_id}", headers={"Host": "evil.example"}).status_code == 403
