"""What a request's text does to the terminal of whoever runs the service: nothing."""

from __future__ import annotations

import contextvars
import json
import logging
import signal
from pathlib import Path
from typing import Any

import httpx
from hypothesis import given
from hypothesis import strategies as st

from api.console import JsonFormatter, VisibleFormatter, visible
from services.log_context import REQUEST_ID, TASK_ID
from tests.service_process import APP, ServiceProcess

ATTACK = "\x1b]0;owned\x07\x1b[2J\r\nINFO: all is well\u2028\x85\u202e"


def printed(message: str, *arguments: object, error: Exception | None = None) -> str:
    info = None if error is None else (type(error), error, error.__traceback__)
    record = logging.LogRecord("any", logging.ERROR, __file__, 1, message, arguments, info)
    return VisibleFormatter("%(levelprefix)s %(message)s", use_colors=False).format(record)


def test_a_message_is_one_line_without_control_characters() -> None:
    assert printed("%s failed", ATTACK) == (
        r"ERROR:    \x1b]0;owned\x07\x1b[2J\r\nINFO: all is well\u2028\x85\u202e failed"
    )


def test_uvicorns_own_messages_have_no_colours_inside() -> None:
    record = logging.LogRecord("any", logging.INFO, __file__, 1, "Started [%d]", (7,), None)
    record.color_message = "Started [\x1b[36m%d\x1b[0m]"

    assert VisibleFormatter("%(message)s", use_colors=True).format(record) == "Started [7]"


def test_a_traceback_is_indented_and_has_no_control_characters() -> None:
    try:
        raise ValueError(ATTACK)
    except ValueError as error:
        first, *trace = printed("failed", error=error).split("\n")

    assert first == "ERROR:    failed"
    assert trace[0] == "  Traceback (most recent call last):"
    assert all(line.startswith("  ") and line.isprintable() for line in trace)
    assert any("INFO: all is well" in line for line in trace)


@given(text=st.text())
def test_visible_text_is_printable_and_what_was_printable_is_as_it_was(text: str) -> None:
    assert visible(text).isprintable()
    assert visible(text) == text or not text.isprintable()


# --- JSON --------------------------------------------------------------------------------------------------------


def json_line(record: logging.LogRecord) -> dict[str, Any]:
    line = JsonFormatter().format(record)
    assert line.isascii()
    assert "\n" not in line
    decoded: dict[str, Any] = json.loads(line)
    return decoded


@given(text=st.text())
def test_a_json_line_is_one_line_whatever_is_said(text: str) -> None:
    record = logging.LogRecord("services.any", logging.WARNING, __file__, 1, "%s", (text,), None)
    line = json_line(record)
    assert line["message"] == text
    assert (line["level"], line["logger"]) == ("WARNING", "services.any")
    assert "task_id" not in line


def test_a_json_line_says_on_whose_behalf_it_was_written() -> None:
    def write() -> dict[str, Any]:
        TASK_ID.set("digits")
        REQUEST_ID.set("abc")
        return json_line(logging.makeLogRecord({"msg": "any", "duration_s": 0.5}))

    line = contextvars.copy_context().run(write)
    assert (line["task_id"], line["request_id"], line["duration_s"]) == ("digits", "abc", 0.5)


def test_a_json_line_has_the_traceback() -> None:
    try:
        raise ValueError(ATTACK)
    except ValueError as error:
        record = logging.LogRecord(
            "any", logging.ERROR, __file__, 1, "failed", (), (ValueError, error, error.__traceback__)
        )
    assert json_line(record)["exception"].startswith("Traceback")


def test_a_service_writes_every_line_of_its_log_as_json(tmp_path: Path) -> None:
    """Its own, the server's, and those of the thread of a training; a request by the name that its proxy gave it."""
    with ServiceProcess(APP, folder=tmp_path, LOG_FORMAT="json", STATE_DIR="state", ALLOW_COMMANDS="true") as process:
        url = process.start().url
        body = {"command": ["true"], "working_dir": str(tmp_path), "task_id": "quick"}
        headers = {"X-Request-ID": "from-the-proxy"}
        httpx.post(f"{url}/api/v2/training/start", json=body, headers=headers).raise_for_status()
        httpx.get(f"{url}/api/v2/training/nobody", headers={"X-Request-ID": "two words"})
        assert process.end(signal.SIGTERM) == 0
    lines = [json.loads(line) for line in process.output]
    assert {line["logger"] for line in lines} >= {"uvicorn.error", "api.requests"}
    started, missing = (line for line in lines if line["logger"] == "api.requests")
    assert started["request_id"] == "from-the-proxy"
    assert (started["method"], started["status"]) == ("POST", 200)
    assert started["duration_s"] > 0
    assert (missing["task_id"], missing["status"]) == ("nobody", 404)
    assert missing["request_id"].isalnum()
