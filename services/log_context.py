"""Whose work the current code does, for the lines of the service's own log.

A request has a context of its own, which the threads that answer it take over; a training's thread sets its own.
"""

from __future__ import annotations

from contextvars import ContextVar

TASK_ID: ContextVar[str | None] = ContextVar("task_id", default=None)
REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)
