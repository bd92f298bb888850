"""The walk-through shows one run of a trainer that the tests do not have; what it says was read is read again."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from models.schemas import CommandRequest, DetailedLogEntry, LogReading, ParsingTryRequest, TaskResponse
from services.parsing import LineParser, try_reading
from tests.documents import PAIRS, blocks_of

WALKTHROUGH = PAIRS["walk-through"][0]
CURLS = [block.code for block in blocks_of(WALKTHROUGH, "bash") if block.code.startswith("curl")]
STARTED, STATUS, TRIED, REPARSED = [json.loads(block.code) for block in blocks_of(WALKTHROUGH, "json")]


def body_of(route: str) -> Any:
    """What the one request to `route` sends."""
    (curl,) = [curl for curl in CURLS if f"{route} " in curl.splitlines()[0]]
    return json.loads(curl[curl.index("'{") + 1 : curl.rindex("}'") + 1])


def shown_entries() -> list[DetailedLogEntry]:
    (stream,) = [block.code for block in blocks_of(WALKTHROUGH, "text") if block.code.startswith("retry:")]
    return [DetailedLogEntry.model_validate_json(data) for data in re.findall(r"^data: (.*)$", stream, re.MULTILINE)]


def test_bodies_and_answers_have_only_fields_that_there_are() -> None:
    assert CommandRequest.model_validate(body_of("/start")).model_extra == {}
    LogReading.model_validate(body_of("/reparse"))
    for answer in (STARTED, STATUS, REPARSED):
        assert answer.keys() <= TaskResponse.model_fields.keys()
        TaskResponse.model_validate(answer)


def test_shown_lines_have_the_metrics_that_the_service_reads() -> None:
    parser = LineParser()
    for entry in shown_entries():
        assert (entry.metrics or {}) == parser.parse(entry.message).metrics


def test_the_pattern_reads_the_line_that_is_shown() -> None:
    request = ParsingTryRequest.model_validate(body_of("/try"))
    assert request.text in [entry.message for entry in shown_entries()]
    answer = try_reading(request.text, request).model_dump(mode="json", exclude_none=True)
    assert without_times(answer) == without_times(TRIED)
    assert body_of("/reparse")["metric_definitions"] == body_of("/try")["metric_definitions"]


def without_times(answer: dict[str, Any]) -> dict[str, Any]:
    return answer | {"rules": [rule | {"microseconds": None} for rule in answer["rules"]]}


def test_reading_again_adds_the_metric_and_changes_nothing_else() -> None:
    metrics = {name: value for name, value in REPARSED["latest_metrics"].items() if name != "hardest_digit"}
    assert metrics != REPARSED["latest_metrics"]
    assert REPARSED | {"latest_metrics": metrics} == STATUS


def test_curves_end_at_the_latest_metrics() -> None:
    latest = REPARSED["latest_metrics"]
    assert {name: points[-1] for name, points in curves().items()} == {
        name: round(latest[name], 4) for name in curves()
    }


def curves() -> dict[str, list[float]]:
    (printed,) = [block.code for block in blocks_of(WALKTHROUGH, "text") if not block.code.startswith("retry:")]
    return {name: json.loads(points) for name, points in re.findall(r"^(\w+) (\[.*\])$", printed, re.MULTILINE)}


def test_python_is_python() -> None:
    for block in blocks_of(WALKTHROUGH, "python"):
        ast.parse(block.code)
