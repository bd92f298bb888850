"""The service's own log, on the terminal of whoever runs it.

A request's text can get into it, if only in the message of an exception. Control characters would then steer the
terminal, and line ends would forge lines; both are shown instead of obeyed.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any, Literal

from uvicorn.logging import DefaultFormatter

from services.log_context import REQUEST_ID, TASK_ID

LogFormat = Literal["plain", "json"]


class VisibleFormatter(DefaultFormatter):
    """uvicorn's format. A record is one line that begins at the margin; the lines of its traceback are indented."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's own)
        shown = {**record.__dict__, "msg": visible(record.getMessage()), "args": ()}
        shown["message"] = shown["msg"]
        shown.pop("color_message", None)
        return super().formatMessage(logging.makeLogRecord(shown))

    def formatException(self, ei: Any) -> str:  # noqa: N802 (logging's own)
        return "\n".join(f"  {visible(line)}" for line in super().formatException(ei).split("\n"))


def visible(text: str) -> str:
    """`text` with control characters, line ends and marks of direction as in a Python string."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


class JsonFormatter(logging.Formatter):
    """A record is one line of JSON, in ASCII. `task_id` and `request_id` say on whose behalf it was written."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        found = {"task_id": TASK_ID.get(), "request_id": REQUEST_ID.get()}
        found |= {name: getattr(record, name) for name in _EXTRA if hasattr(record, name)}
        line |= {name: value for name, value in found.items() if value is not None}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


_EXTRA = ("task_id", "method", "path", "status", "duration_s")
"""What a record may say beside its message, with `extra`."""


def log_config(log_format: LogFormat = "plain") -> dict[str, Any]:
    """For `logging.config.dictConfig`: the service's own lines and the server's, on stderr."""
    formatters: dict[LogFormat, dict[str, Any]] = {
        "plain": {"()": "api.console.VisibleFormatter", "fmt": "%(levelprefix)s %(message)s"},
        "json": {"()": "api.console.JsonFormatter"},
    }
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"chosen": formatters[log_format]},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "chosen"}},
        "root": {"handlers": ["stderr"], "level": "WARNING"},
        "loggers": {
            "uvicorn.error": {"level": "INFO"},
            "services.retention": {"level": "INFO"},
            "api.requests": {"level": "INFO" if log_format == "json" else "WARNING"},
        },
    }
