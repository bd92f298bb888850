"""The service's own log, on the terminal of whoever runs it.

A request's text can get into it, if only in the message of an exception. Control characters would then steer the
terminal, and line ends would forge lines; both are shown instead of obeyed.
"""

from __future__ import annotations

import logging
from typing import Any

from uvicorn.logging import DefaultFormatter


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


LOG_CONFIG: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"visible": {"()": "api.console.VisibleFormatter", "fmt": "%(levelprefix)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "visible"}},
    "root": {"handlers": ["stderr"], "level": "WARNING"},
    "loggers": {"uvicorn.error": {"level": "INFO"}},
}
