"""Commands of the user's own: who may run them, where, and what is shown of them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from app_refactored import build_service
from models.schemas import CommandRequest, TaskStatus, wire
from services.errors import CommandsDisabled, InvalidRequest, PathForbidden
from services.executors.base import Run
from services.task_state import TaskState
from services.training_service import TrainingService
from settings import Settings
from tests.scripted_executor import ScriptedExecutor
from tests.services.following import wait_for_end
from tests.services.trainings import SHOULD_STOP, history, rows

SECRET = "hunter2"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state_dir=tmp_path / "state", allow_commands=True)


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A folder with a program in it, and a file that is none."""
    folder = tmp_path / "code"
    (folder / "bin").mkdir(parents=True)
    program = folder / "bin" / "train"
    program.write_text("#!/bin/sh\necho training\n")
    program.chmod(0o755)
    (folder / "notes.txt").write_text("no program")
    return folder


@pytest.fixture
def command(code: Path) -> dict[str, Any]:
    """A request that is right in every field."""
    return {"command": [sys.executable, "train.py", "a b"], "working_dir": str(code), "device": "cpu"}


def run(service: TrainingService, body: dict[str, Any], /, **changes: Any) -> TaskState:
    return service.start_training(CommandRequest(**{**body, **changes}))


def problems(service: TrainingService, body: dict[str, Any], /, **changes: Any) -> list[tuple[str, str]]:
    with pytest.raises(InvalidRequest) as refused:
        run(service, body, **changes)
    assert rows(service) == []
    return [(problem.field, problem.code) for problem in refused.value.errors]


class TestWhoMay:
    def test_nobody_unless_the_service_allows_it(
        self, settings: Settings, executor: ScriptedExecutor, command: dict[str, Any]
    ) -> None:
        default = Settings(state_dir=settings.state_dir)
        with (
            closing(build_service(default, executor)) as service,
            pytest.raises(CommandsDisabled, match="ALLOW_COMMANDS=true") as refused,
        ):
            run(service, command)
        assert (refused.value.status_code, refused.value.code) == (403, "commands_disabled")

    def test_a_waiting_command_fails_where_it_is_not_allowed_any_more(
        self, settings: Settings, executor: ScriptedExecutor, command: dict[str, Any]
    ) -> None:
        executor.hold()
        with closing(build_service(settings, executor)) as service:
            run(service, command)
            run(service, command, task_id="waiting")
        stricter = settings.model_copy(update={"allow_commands": False})
        with closing(build_service(stricter, ScriptedExecutor())) as again:
            state = wait_for_end(again, "waiting")
            assert (state.status, state.reason) == (TaskStatus.FAILED, "commands_disabled")
            assert "ALLOW_COMMANDS" in str(state.error)

    @pytest.mark.parametrize("roots", [("data",), ("save",), ("data", "save")])
    def test_a_folder_outside_the_roots_is_refused_links_included(
        self,
        settings: Settings,
        executor: ScriptedExecutor,
        command: dict[str, Any],
        tmp_path: Path,
        roots: tuple[str, ...],
    ) -> None:
        for root in roots:
            (tmp_path / root / "inside").mkdir(parents=True)
        changes = {f"{root}_roots": (tmp_path / root,) for root in roots}
        link = tmp_path / roots[0] / "link"
        link.symlink_to(tmp_path)
        with closing(build_service(settings.model_copy(update=changes), executor)) as service:
            for outside in (tmp_path / "code", tmp_path / "nowhere", link, link / "code"):
                with pytest.raises(PathForbidden, match=r"^working_dir: "):
                    run(service, command, working_dir=str(outside))
            assert rows(service) == []
            for root in roots:
                state = run(service, command, working_dir=str(tmp_path / root / "inside"))
                assert wait_for_end(service, state.task_id).status is TaskStatus.COMPLETED


class TestWhatIsChecked:
    def test_a_folder_that_is_not_there(self, service: TrainingService, command: dict[str, Any], code: Path) -> None:
        assert problems(service, command, working_dir=str(code / "x")) == [("working_dir", "path_not_found")]
        assert problems(service, command, working_dir=str(code / "notes.txt")) == [("working_dir", "not_a_folder")]

    @pytest.mark.parametrize("program", ["no-such-program", "", "./train", "bin", "notes.txt", "./notes.txt", "/etc"])
    def test_a_program_that_is_none(self, service: TrainingService, command: dict[str, Any], program: str) -> None:
        assert problems(service, command, command=[program, "x"]) == [("command", "program_not_found")]

    @pytest.mark.parametrize("program", ["bin/train", "./bin/train", "sh", "/bin/sh"])
    def test_a_program_is_found_from_the_folder_or_on_the_path(
        self, service: TrainingService, command: dict[str, Any], program: str
    ) -> None:
        state = run(service, command, command=[program])
        assert wait_for_end(service, state.task_id).status is TaskStatus.COMPLETED

    def test_the_path_is_the_one_that_the_command_gets(
        self, service: TrainingService, command: dict[str, Any], code: Path
    ) -> None:
        assert problems(service, command, command=["sh"], env={"PATH": "/nowhere"}) == [
            ("command", "program_not_found")
        ]
        for path in (str(code / "bin"), "/nowhere:bin"):
            state = run(service, command, command=["train"], env={"PATH": path})
            assert wait_for_end(service, state.task_id).status is TaskStatus.COMPLETED

    def test_patterns_devices_and_ids_are_checked_as_for_trainings(
        self, service: TrainingService, command: dict[str, Any]
    ) -> None:
        found = problems(
            service, command, task_id="import", device="cuda:7", metric_definitions=[{"name": "x", "regex": "("}]
        )
        assert {field for field, _ in found} >= {"task_id", "device"}
        assert any(field.startswith("metric_definitions") for field, _ in found)


class TestWhatItBecomes:
    def test_a_training_with_a_folder_of_its_own(
        self, service: TrainingService, command: dict[str, Any], executor: ScriptedExecutor, settings: Settings
    ) -> None:
        executor.hold()
        state = run(service, command, task_id="mine", extra=1)
        assert (state.task_type, state.current_epoch, state.total_epochs) == ("training", None, None)
        assert state.warnings == ("Unknown field 'extra' was ignored.",)
        executor.release()
        wait_for_end(service, "mine")
        assert history(service, "mine")[0] == f"Task accepted: {sys.executable} train.py 'a b' on cpu"
        (started,) = executor.started
        folder = (settings.state_dir / "runs" / "mine").absolute()
        assert (started.task_id, started.run_dir, started.output_dir) == ("mine", folder, folder)
        assert folder.is_dir()
        service.delete_task("mine")
        assert not folder.exists()

    def test_a_long_command_is_shown_in_part(self, service: TrainingService, command: dict[str, Any]) -> None:
        state = run(service, command, command=["sh", "x" * 10_000])
        wait_for_end(service, state.task_id)
        assert len(history(service, state.task_id)[0]) < 300

    def test_the_environment_is_shown_nowhere(
        self,
        service: TrainingService,
        command: dict[str, Any],
        executor: ScriptedExecutor,
        settings: Settings,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level(logging.DEBUG)

        def trainer(run: Run, _logger: logging.Logger, _stop: SHOULD_STOP) -> None:
            raise RuntimeError(f"{run!r}")

        executor.script = trainer
        state = wait_for_end(service, run(service, command, env={"TOKEN": SECRET}, task_id="t").task_id)
        started = executor.started[0].request
        assert isinstance(started, CommandRequest)
        assert started.env == {"TOKEN": SECRET}
        shown = [repr(state), wire(state.to_response()), service.get_logs("t"), repr(started), caplog.text]
        assert SECRET not in str(shown)

    def test_nor_is_it_where_a_later_release_refuses_the_request(
        self, settings: Settings, executor: ScriptedExecutor, command: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        executor.hold()
        with closing(build_service(settings, executor)) as service:
            run(service, command)
            run(service, command, env={"TOKEN": SECRET}, task_id="waiting")
        monkeypatch.setattr("services.requests._kind_of", lambda state: Stricter)
        with closing(build_service(settings, ScriptedExecutor())) as again:
            error = str(wait_for_end(again, "waiting").error)
        assert "env" in error
        assert SECRET not in error


class Stricter(CommandRequest):
    env: int  # type: ignore[assignment]


@pytest.fixture
def service(settings: Settings, executor: ScriptedExecutor) -> Iterator[TrainingService]:
    built = build_service(settings, executor)
    yield built
    executor.release()
    built.close()
