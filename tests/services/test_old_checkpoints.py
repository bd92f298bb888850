"""Checkpoints that nothing goes on from are let go of; every other file stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.schemas import TrainingRequest
from services.retention import Retention, Rules
from services.training_service import TrainingService
from tests.scripted_executor import ScriptedExecutor
from tests.services.following import wait_for_end
from tests.services.trainings import START
from trainer.checkpoint_file import BEST, LAST

FILES = (BEST, LAST, "evaluation.json", "mine.pt", "copy of last.pt")


def leave_files(output_dir: str) -> Path:
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        (folder / name).write_bytes(b"12345")
    return folder


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def keep(service: TrainingService, checkpoints: int | None, roots: tuple[Path, ...] = ()) -> Retention:
    return Retention(service, Rules(None, checkpoints), roots)


def test_a_completed_training_keeps_its_best_checkpoint_and_every_file_of_others(
    service: TrainingService, start: START
) -> None:
    task = start()
    wait_for_end(service, task.task_id)
    folder = leave_files(task.output_dir)
    removed = keep(service, 0).run_once()
    assert names_in(folder) == {*FILES} - {LAST}
    assert (removed.checkpoints, removed.checkpoint_bytes) == (1, 5)
    assert keep(service, 0).run_once().checkpoints == 0


@pytest.mark.parametrize("checkpoints", [None, 1])
def test_what_is_to_be_kept_is(service: TrainingService, start: START, checkpoints: int | None) -> None:
    task = start()
    wait_for_end(service, task.task_id)
    folder = leave_files(task.output_dir)
    keep(service, checkpoints).run_once()
    assert names_in(folder) == {*FILES}


def test_a_training_that_runs_waits_or_can_be_resumed_keeps_its_checkpoints(
    service: TrainingService, executor: ScriptedExecutor, start: START
) -> None:
    executor.hold()
    stopped, running, waiting = start(), start(), start()
    service.stop_training(stopped.task_id)
    wait_for_end(service, stopped.task_id)
    folders = [leave_files(task.output_dir) for task in (stopped, running, waiting)]
    keep(service, 0).run_once()
    assert all(names_in(folder) == {*FILES} for folder in folders)


def test_a_link_is_neither_followed_nor_removed(service: TrainingService, start: START, tmp_path: Path) -> None:
    task = start()
    wait_for_end(service, task.task_id)
    folder = leave_files(task.output_dir)
    elsewhere = tmp_path / "precious"
    elsewhere.write_bytes(b"precious")
    (folder / LAST).unlink()
    (folder / LAST).symlink_to(elsewhere)
    keep(service, 0).run_once()
    assert elsewhere.read_bytes() == b"precious"
    assert (folder / LAST).is_symlink()


def test_a_folder_that_leads_out_of_the_roots_is_left_alone(
    service: TrainingService, start: START, tmp_path: Path
) -> None:
    task = start()
    wait_for_end(service, task.task_id)
    folder = leave_files(task.output_dir)
    keep(service, 0, roots=(tmp_path / "elsewhere",)).run_once()
    assert names_in(folder) == {*FILES}
    assert TrainingRequest.model_validate(task.request).save_path == str(folder.parent)
