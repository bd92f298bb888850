"""Trainings of a service without a web server, as the tests ask for them and look at them."""

from __future__ import annotations

import logging
from collections.abc import Callable

from services.base_service import BaseService
from services.task_state import TaskState
from services.training_service import TrainingService

TIMEOUT_S = 30
DOCUMENTED_KEYS = {
    "task_id",
    "task_type",
    "status",
    "progress",
    "device",
    "current_epoch",
    "total_epochs",
    "latest_metrics",
    "created_at",
    "updated_at",
}
START = Callable[..., TaskState]
SHOULD_STOP = Callable[[], bool]


def history(service: BaseService, task_id: str) -> list[str]:
    return [entry["message"] for entry in service.get_logs(task_id)]


def rows(service: TrainingService) -> list[str]:
    return [state.task_id for _, state in service.list_tasks()]


def log_record(message: str, *args: object, level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord("trainer", level, __file__, 1, message, args, None)
