"""A service that is killed between making a run's folder and storing its task leaves the name to others."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from app_refactored import build_service
from models.schemas import TrainingRequest
from services.claims import Claims
from services.training_service import TrainingService
from settings import Settings
from tests.scripted_executor import ScriptedExecutor
from tests.services.following import wait_for_end
from tests.services.trainings import START

KILLED = """\
import os, signal, sys
from pathlib import Path
from services.claims import Claims
notes, folder = map(Path, sys.argv[1:])
with Claims(notes).noted("t", folder):
    folder.mkdir(parents=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def leave_claimed(notes: Path, folder: Path) -> None:
    """What a process leaves that is killed before its task is stored."""
    subprocess.run([sys.executable, "-c", KILLED, str(notes), str(folder)], check=False)
    assert folder.is_dir()


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "claims"


def test_the_folder_of_a_task_that_was_not_stored_is_removed(notes: Path, tmp_path: Path) -> None:
    leave_claimed(notes, tmp_path / "run")
    Claims(notes).undo(lambda _folder: False)
    assert not (tmp_path / "run").exists()
    assert list(notes.iterdir()) == []


def test_the_folder_of_a_stored_task_stays(notes: Path, tmp_path: Path) -> None:
    leave_claimed(notes, tmp_path / "run")
    Claims(notes).undo(lambda folder: folder == tmp_path / "run")
    assert (tmp_path / "run").is_dir()
    assert list(notes.iterdir()) == []


def test_a_folder_with_something_in_it_stays(notes: Path, tmp_path: Path) -> None:
    leave_claimed(notes, tmp_path / "run")
    (tmp_path / "run" / "best.pt").touch()
    Claims(notes).undo(lambda _folder: False)
    assert (tmp_path / "run" / "best.pt").exists()


@pytest.mark.parametrize("name", ["ünïcode\n", "\udcff"])
def test_every_name_that_a_folder_can_have_is_noted(notes: Path, tmp_path: Path, name: str) -> None:
    claims = Claims(notes)
    with claims.noted("t", tmp_path / name):
        (tmp_path / name).mkdir()
        Claims(notes).undo(lambda _folder: False)
    assert not (tmp_path / name).exists()


def test_without_a_note_the_service_works_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    claims = Claims(tmp_path / "file")
    with claims.noted("t", tmp_path / "run"):
        (tmp_path / "run").mkdir()
    claims.undo(lambda _folder: False)
    assert (tmp_path / "run").is_dir()


def test_the_service_notes_a_claim_no_longer_than_it_needs(
    service: TrainingService, start: START, settings: Settings, body: dict[str, str]
) -> None:
    assert wait_for_end(service, start(name="first").task_id).output_dir == str(Path(body["save_path"], "first"))
    assert list((settings.state_dir / "runs" / ".claims").iterdir()) == []


def test_a_start_whose_answer_was_lost_with_the_service_can_be_sent_again(
    settings: Settings, body: dict[str, str], executor: ScriptedExecutor
) -> None:
    request = TrainingRequest(**{**body, "task_id": "t", "name": "mine"})
    leave_claimed(settings.state_dir / "runs" / ".claims", Path(body["save_path"], "mine"))
    with closing(build_service(settings, executor)) as service:
        assert service.start_training(request).task_id == "t"
        assert wait_for_end(service, "t").status.is_terminal


def test_a_folder_that_another_start_got_stays_its_own(
    settings: Settings, body: dict[str, str], executor: ScriptedExecutor
) -> None:
    executor.hold()
    with closing(build_service(settings, executor)) as service:
        folder = Path(service.start_training(TrainingRequest(**{**body, "task_id": "t", "name": "mine"})).output_dir)
    notes = settings.state_dir / "runs" / ".claims"
    notes.mkdir(exist_ok=True)
    (notes / "loser").write_bytes(bytes(folder))
    executor.release()
    with closing(build_service(settings, executor)) as service:
        assert folder.is_dir()
        assert not (notes / "loser").exists()
        wait_for_end(service, "t")
