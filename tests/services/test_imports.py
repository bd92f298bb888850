"""Log files that become tasks, read by the executor that the service has for them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from app_refactored import build_service
from models.schemas import ImportRequest, TaskStatus
from services.errors import InvalidRequest, PathForbidden
from services.scheduler import FILES_AT_A_TIME
from services.task_state import TaskState
from services.training_service import TrainingService
from settings import Settings
from tests.services.following import wait_for, wait_for_end
from tests.services.trainings import history, rows

LINES = ("Epoch [3/10] started", "Train Loss: 0.5234, Train Accuracy: 0.8245", "something else")


@pytest.fixture
def service(settings: Settings) -> Iterator[TrainingService]:
    with closing(build_service(settings)) as built:
        yield built


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "train.log"
    path.write_text("".join(f"{line}\n" for line in LINES))
    return path


def read(service: TrainingService, path: Path, **changes: Any) -> TaskState:
    return service.start_training(ImportRequest(path=str(path), **changes))


def test_the_lines_of_a_file_are_those_of_a_task(service: TrainingService, log: Path) -> None:
    state = wait_for_end(service, read(service, log, name="an old run", description="why not").task_id)
    assert history(service, state.task_id) == [
        f"Task accepted: reading {log}",
        "Reading starts",
        *LINES,
        "任务结束",
    ]
    assert (state.task_type, state.device, state.status) == ("import", "file", TaskStatus.COMPLETED)
    assert (state.current_epoch, state.total_epochs, state.progress) == (3, 10, 100)
    assert state.latest_metrics == {"epoch": 3, "total_epochs": 10, "train_loss": 0.5234, "train_acc": 0.8245}
    assert (state.name, state.description, state.percents) == ("an old run", "why not", frozenset())


def test_a_log_that_gives_no_metric_is_told_of(service: TrainingService, tmp_path: Path) -> None:
    path = tmp_path / "odd.log"
    path.write_text("loss is about a half\n")
    state = wait_for_end(service, read(service, path).task_id)
    assert state.status is TaskStatus.COMPLETED
    [warning] = state.warnings
    assert "parsing/try" in warning
    assert history(service, state.task_id)[-2:] == [warning, "任务结束"]


def test_a_file_is_followed_until_the_task_is_stopped(service: TrainingService, log: Path) -> None:
    task_id = read(service, log, follow=True).task_id
    wait_for(service, task_id, LINES[-1])
    with log.open("a") as file:
        file.write("Validation Loss: 0.4\n")
    wait_for(service, task_id, "Validation Loss: 0.4")
    assert "no further" in service.stop_training(task_id)
    state = wait_for_end(service, task_id)
    assert (state.status, state.reason) == (TaskStatus.CANCELLED, "user_stop")
    assert state.latest_metrics["val_loss"] == 0.4


def test_a_followed_file_is_read_on_by_the_next_service(settings: Settings, log: Path) -> None:
    with closing(build_service(settings)) as service:
        task_id = read(service, log, follow=True).task_id
        wait_for(service, task_id, LINES[-1])
    with log.open("a") as file:
        file.write("Train Loss: 0.4\n")
    with closing(build_service(settings)) as again:
        assert again.running == 1
        assert again.get_task(task_id).status is TaskStatus.RUNNING
        wait_for(again, task_id, "Train Loss: 0.4")
        assert history(again, task_id)[2:] == [*LINES, "Train Loss: 0.4"]
        (entry,) = [each for each in again.get_logs(task_id) if each["message"] == "Train Loss: 0.4"]
        assert entry["metrics"] == {"epoch": 3, "total_epochs": 10, "train_loss": 0.4}
        again.stop_training(task_id)
        wait_for_end(again, task_id)


def test_files_take_no_place_of_a_training_and_only_so_many_are_read_at_a_time(
    service: TrainingService, log: Path
) -> None:
    ids = [read(service, log, follow=True).task_id for _ in range(FILES_AT_A_TIME)]
    assert service.running == FILES_AT_A_TIME
    waiting = read(service, log)
    assert waiting.status is TaskStatus.QUEUED
    for task_id in ids:
        service.stop_training(task_id)
    assert wait_for_end(service, waiting.task_id).status is TaskStatus.COMPLETED


def test_what_is_no_log_file_is_refused(service: TrainingService, tmp_path: Path, log: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    log.chmod(0)
    for path, code in [
        (tmp_path / "nothing", "path_not_found"),
        (tmp_path, "not_a_file"),
        (tmp_path / "pipe", "not_a_file"),
        (Path("/proc/self/environ"), "not_a_file"),
        *([] if os.access(log, os.R_OK) else [(log, "path_not_readable")]),
    ]:
        with pytest.raises(InvalidRequest) as refused:
            read(service, path)
        assert [(problem.field, problem.code) for problem in refused.value.errors] == [("path", code)]
    assert rows(service) == []


def test_files_outside_the_data_roots_are_refused_links_included(settings: Settings, log: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    link = tmp_path / "data" / "link.log"
    link.symlink_to(log)
    with closing(build_service(settings.model_copy(update={"data_roots": (tmp_path / "data",)}))) as service:
        for path in (log, link, tmp_path / "nothing"):
            with pytest.raises(PathForbidden, match="DATA_ROOTS"):
                read(service, path)


def test_a_followed_file_that_becomes_a_link_out_of_the_data_roots_is_not_read(settings: Settings, log: Path) -> None:
    root = log.parent / "data"
    root.mkdir()
    followed = root / "followed.log"
    followed.write_text("inside\n")
    with closing(build_service(settings.model_copy(update={"data_roots": (root,)}))) as service:
        task_id = read(service, followed, follow=True).task_id
        wait_for(service, task_id, "inside")
        (root / "link").symlink_to(log)
        (root / "link").rename(followed)
        ended = wait_for_end(service, task_id)
        assert (ended.status, ended.reason) == (TaskStatus.FAILED, "file_unreadable")
        assert "DATA_ROOTS" in (ended.error or "")
        assert not set(history(service, task_id)) & set(LINES)


def test_the_end_of_a_short_file_can_be_waited_for_and_that_of_a_followed_one_not(
    service: TrainingService, log: Path
) -> None:
    short, endless = read(service, log).task_id, read(service, log, follow=True).task_id
    asyncio.run(service.wait_for_end(short, 30))
    assert service.get_task(short).status is TaskStatus.COMPLETED
    asyncio.run(service.wait_for_end(endless, 0.05))
    assert service.get_task(endless).status is TaskStatus.RUNNING
    asyncio.run(service.wait_for_end("nobody", 30))
