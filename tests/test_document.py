"""The users' change log, held against the service key by key: deployed clients were written from it."""

from __future__ import annotations

import dataclasses
import inspect
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from app_refactored import create_app
from models.schemas import DetailedLogEntry, Stage, TaskResponse, TrainingMetrics, TrainingRequest
from services.base_service import BaseService
from services.devices import Gpu
from services.training_service import TrainingLogHandler, TrainingService
from settings import Settings
from tests.api.dictation import Dictation
from tests.api.viewer import Event, Viewer
from tests.running_server import RunningServer
from tests.scripted_executor import ScriptedExecutor

REPOSITORY = Path(__file__).parents[1]

STATUS_EXAMPLE: dict[str, Any] = {
    "task_id": "abc-123-def-456",
    "task_type": "training",
    "status": "running",
    "progress": 30,
    "device": "cuda:0",
    "current_epoch": 3,
    "total_epochs": 10,
    "latest_metrics": {
        "epoch": 3,
        "total_epochs": 10,
        "train_loss": 0.5234,
        "train_acc": 82.45,
        "val_loss": 0.6123,
        "val_acc": 78.92,
        "macro_f1": 0.7654,
        "micro_f1": 0.7892,
        "mAP": 0.8123,
        "top1_acc": 78.92,
        "top3_acc": 92.34,
        "top5_acc": 96.78,
        "best_acc": 79.12,
        "learning_rate": 0.0001,
    },
    "created_at": "2025-10-29T10:00:00",
    "updated_at": "2025-10-29T10:15:00",
}
"""任务状态响应（含详细指标）"""

ENTRY_EXAMPLE: dict[str, Any] = {
    "timestamp": "2025-10-29T10:16:45",
    "level": "INFO",
    "message": "Train Loss: 0.5234, Train Accuracy: 82.45%",
    "metrics": {"epoch": 3, "total_epochs": 10, "train_loss": 0.5234, "train_acc": 82.45},
    "stage": "training",
}
"""日志流响应（含指标）"""

LINES: dict[str, tuple[dict[str, float], str]] = {
    "Epoch [3/10] started": ({"epoch": 3, "total_epochs": 10}, "epoch_start"),
    "Train Loss: 0.5234, Train Accuracy: 82.45%": ({"train_loss": 0.5234, "train_acc": 82.45}, "training"),
    "Validation Loss: 0.6123, Validation Accuracy: 78.92%": ({"val_loss": 0.6123, "val_acc": 78.92}, "validation"),
    "Validation macro_F1: 0.7654": ({"macro_f1": 0.7654}, "validation"),
    "Validation micro_F1: 0.7892": ({"micro_f1": 0.7892}, "validation"),
    "Validation mAP: 0.8123": ({"mAP": 0.8123}, "validation"),
    "Validation Top-k Accuracy: {'top1': 78.92, 'top3': 92.34, 'top5': 96.78}": (
        {"top1_acc": 78.92, "top3_acc": 92.34, "top5_acc": 96.78},
        "validation",
    ),
    "Learning Rate: 0.0001": ({"learning_rate": 0.0001}, "epoch_end"),
    "New best model saved with Accuracy: 79.12%": ({"best_acc": 79.12}, "epoch_end"),
}
"""支持的日志格式: each line with the metrics it brings, beside its epoch, and its stage."""


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine of the change log's examples."""
    monkeypatch.setattr("app_refactored.list_gpus", lambda: [Gpu("cuda:0", memory_used=0)])


@pytest.fixture
def shown(
    one_gpu: None,
    serve: Callable[..., RunningServer],
    executor: ScriptedExecutor,
    body: dict[str, Any],
) -> Iterator[tuple[dict[str, Any], list[Event]]]:
    """The status and the log so far of a training that has printed the change log's lines and goes on."""
    server = serve()
    executor.script = dictation = Dictation()
    with httpx.Client(base_url=server.url) as http:
        answer = http.post("/api/v2/training/start", json=body | {"num_epochs": 10, "device": "cuda:0"})
        task_id = answer.raise_for_status().json()["task_id"]
        dictation.say(*LINES)
        with Viewer(server.url, task_id) as viewer:
            events = viewer.until_message(list(LINES)[-1])
        yield http.get(f"/api/v2/training/{task_id}").json(), events
    dictation.end()


def has_the_form_of(value: str, example: str) -> bool:
    """A local time: ISO 8601 with a `T` and without an offset."""
    assert datetime.fromisoformat(example).tzinfo is None
    return datetime.fromisoformat(value).tzinfo is None and "T" in value


def test_status_is_the_documents_example(shown: tuple[dict[str, Any], list[Event]]) -> None:
    status, _ = shown

    free = {"task_id", "created_at", "updated_at"}
    assert status.keys() == STATUS_EXAMPLE.keys()
    assert {key: status[key] for key in status.keys() - free} == {
        key: STATUS_EXAMPLE[key] for key in STATUS_EXAMPLE.keys() - free
    }
    assert isinstance(status["task_id"], str)
    for name in ("created_at", "updated_at"):
        assert has_the_form_of(status[name], STATUS_EXAMPLE[name])


def test_numbers_of_the_status_have_the_documents_types(shown: tuple[dict[str, Any], list[Event]]) -> None:
    """`"epoch": 3.0` would be equal in Python, and another text to a client that prints it."""
    status, _ = shown

    assert json.dumps(status["latest_metrics"], sort_keys=True) == json.dumps(
        STATUS_EXAMPLE["latest_metrics"], sort_keys=True
    )
    assert json.dumps([status[key] for key in ("progress", "current_epoch", "total_epochs")]) == "[30, 3, 10]"


def test_log_entry_is_the_documents_example(shown: tuple[dict[str, Any], list[Event]]) -> None:
    _, events = shown
    entry = next(event.entry for event in events if event.entry["message"] == ENTRY_EXAMPLE["message"])

    assert entry | {"timestamp": None} == ENTRY_EXAMPLE | {"timestamp": None}
    assert json.dumps(entry["metrics"], sort_keys=True) == json.dumps(ENTRY_EXAMPLE["metrics"], sort_keys=True)
    assert has_the_form_of(entry["timestamp"], ENTRY_EXAMPLE["timestamp"])


def test_every_documented_line_brings_its_metrics_and_stage(shown: tuple[dict[str, Any], list[Event]]) -> None:
    _, events = shown
    entries = {event.entry["message"]: event.entry for event in events}

    for line, (metrics, stage) in LINES.items():
        assert entries[line]["metrics"] == {"epoch": 3, "total_epochs": 10, **metrics}, line
        assert entries[line]["stage"] == stage, line


def test_every_entry_has_a_documented_stage(shown: tuple[dict[str, Any], list[Event]]) -> None:
    stages = {event.entry["stage"] for event in shown[1]}

    assert stages <= {"epoch_start", "training", "validation", "epoch_end", "completed"}
    assert set(Stage) == {"epoch_start", "training", "validation", "epoch_end", "completed"}


# --- The wire models ---------------------------------------------------------------------------------------------


def test_models_have_the_documented_fields_and_each_is_optional() -> None:
    documented = {
        *("epoch", "train_loss", "train_acc", "val_loss", "val_acc", "macro_f1", "micro_f1", "mAP"),
        *("top1_acc", "top3_acc", "top5_acc", "precision", "recall", "learning_rate", "best_acc"),
    }
    assert documented <= TrainingMetrics.model_fields.keys()
    assert not any(field.is_required() for field in TrainingMetrics.model_fields.values())
    assert {"current_epoch", "total_epochs", "latest_metrics"} <= TaskResponse.model_fields.keys()
    assert ENTRY_EXAMPLE.keys() | {"step"} <= DetailedLogEntry.model_fields.keys()


def test_models_read_the_documents_examples_and_give_them_back() -> None:
    assert TaskResponse(**STATUS_EXAMPLE).model_dump(mode="json", exclude_unset=True) == STATUS_EXAMPLE
    assert DetailedLogEntry(**ENTRY_EXAMPLE).model_dump(mode="json", exclude_unset=True) == ENTRY_EXAMPLE


# --- The Python API ----------------------------------------------------------------------------------------------


def parameters(function: Callable[..., object]) -> list[tuple[str, object]]:
    """Names and defaults; `...` where there is none."""
    return [
        (name, ... if parameter.default is parameter.empty else parameter.default)
        for name, parameter in inspect.signature(function).parameters.items()
    ]


def test_add_log_has_the_documents_signature() -> None:
    assert parameters(BaseService.add_log)[:7] == [
        ("self", ...),
        ("task_id", ...),
        ("level", ...),
        ("message", ...),
        ("metrics", None),
        ("step", None),
        ("stage", None),
    ]


def test_the_documents_methods_take_what_its_callers_give() -> None:
    assert parameters(BaseService.get_logs) == [("self", ...), ("task_id", ...)]
    assert parameters(BaseService.create_log_queue)[:2] == [("self", ...), ("task_id", ...)]
    assert parameters(TrainingLogHandler.emit) == [("self", ...), ("record", ...)]
    assert parameters(TrainingService.start_training)[:2] == [("self", ...), ("request", ...)]
    assert parameters(TrainingService._train_worker)[:2] == [("self", ...), ("task_id", ...)]
    assert parameters(TrainingService.update_task_metrics) == [("self", ...), ("task_id", ...), ("metrics", ...)]
    assert issubclass(TrainingLogHandler, logging.Handler)
    assert issubclass(TrainingService, BaseService)


@pytest.fixture
def training(
    service: TrainingService, executor: ScriptedExecutor, body: dict[str, Any]
) -> Iterator[tuple[str, Dictation]]:
    """A running training of a service without HTTP, and what it prints."""
    executor.script = dictation = Dictation()
    yield service.start_training(TrainingRequest(**body)).task_id, dictation
    dictation.end()


def test_add_log_reaches_history_and_queue_with_what_it_was_given(
    service: TrainingService, training: tuple[str, Dictation]
) -> None:
    task_id, _ = training
    service.add_log(task_id, "INFO", "plain")
    service.add_log(task_id, "WARNING", "full", {"val_acc": 78.92}, 5, "validation")

    logs = service.get_logs(task_id)
    plain, full = (next(entry for entry in logs if entry["message"] == message) for message in ("plain", "full"))
    assert plain.keys() == {"timestamp", "level", "message", "stage"}
    assert full | {"timestamp": None} == {
        "timestamp": None,
        "level": "WARNING",
        "message": "full",
        "metrics": {"val_acc": 78.92},
        "step": 5,
        "stage": "validation",
    }
    assert service.log_history[task_id] == logs
    assert service.log_queues[task_id].last_seq == len(logs)


def test_handler_reads_metrics_from_log_records_into_the_task(
    service: TrainingService, training: tuple[str, Dictation]
) -> None:
    task_id, _ = training
    logger = logging.Logger("a trainer's own")
    logger.addHandler(TrainingLogHandler(task_id, service))
    for line in LINES:
        logger.info(line)

    assert [entry["message"] for entry in service.get_logs(task_id)][-len(LINES) :] == list(LINES)
    assert service.latest_metrics[task_id] == STATUS_EXAMPLE["latest_metrics"]
    assert service.tasks[task_id].current_epoch == 3


def test_handler_is_on_the_trainers_logger_during_the_training_only(
    service: TrainingService, executor: ScriptedExecutor, body: dict[str, Any]
) -> None:
    loggers: list[logging.Logger] = []
    during: list[list[type[logging.Handler]]] = []

    def script(_run: object, logger: logging.Logger, _should_stop: object) -> None:
        loggers.append(logger)
        during.append([type(handler) for handler in logger.handlers])

    executor.script = script
    task_id = service.start_training(TrainingRequest(**body)).task_id
    for thread in threading.enumerate():
        if thread.name == f"training-{task_id}":
            thread.join(10)
    assert during == [[TrainingLogHandler]]
    assert loggers[0].handlers == []


def test_update_task_metrics_merges_old_and_new(service: TrainingService, training: tuple[str, Dictation]) -> None:
    task_id, _ = training
    service.update_task_metrics(task_id, {"epoch": 1, "train_loss": 0.7})
    service.update_task_metrics(task_id, {"epoch": 2, "val_acc": 70.5})
    service.get_logs(task_id)

    assert service.latest_metrics[task_id] == {"epoch": 2, "train_loss": 0.7, "val_acc": 70.5}
    assert service.tasks[task_id].current_epoch == 2


def test_create_log_queue_begins_an_empty_history(service: TrainingService, training: tuple[str, Dictation]) -> None:
    state = dataclasses.replace(service.tasks[training[0]], task_id="by-hand", last_seq=0)
    service.create_log_queue("by-hand", state)

    assert "by-hand" in service.log_queues
    assert service.log_history["by-hand"] == []


# --- What is gone ------------------------------------------------------------------------------------------------

GONE = "enhanced" + "_training"


def python_files() -> Iterator[Path]:
    """Those of the repository, without what is installed or generated beside it."""
    for folder, below, files in os.walk(REPOSITORY):
        below[:] = [name for name in below if not name.startswith(".") and name not in {"build", "demo", "state"}]
        yield from (Path(folder, name) for name in files if name.endswith(".py"))


def test_nothing_is_left_of_the_second_service() -> None:
    files = list(python_files())
    assert REPOSITORY / "app_refactored.py" in files
    assert [path for path in files if GONE in path.name or GONE in path.read_text("utf-8")] == []


def test_no_route_is_left_of_the_second_service(settings: Settings) -> None:
    app = create_app(settings)

    paths = list(app.openapi()["paths"])
    assert paths
    assert not any("enhanced" in path for path in paths)
