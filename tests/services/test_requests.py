"""What a request must be like to become a task."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from app_refactored import build_service
from models.schemas import TaskStatus, TrainingRequest, wire
from services.devices import Gpu
from services.errors import InvalidRequest, PathForbidden, StorageUnavailable, TaskConflict
from services.training_service import RESERVED_TASK_IDS, TrainingService
from settings import Settings
from tests.scripted_executor import ScriptedExecutor
from tests.services.following import wait_for_end
from tests.services.refusing import locked
from tests.services.trainings import DOCUMENTED_KEYS, START, TIMEOUT_S, rows


class TestRequests:
    def refused(self, service: TrainingService, start: START, body: dict[str, Any], **changes: Any) -> InvalidRequest:
        """The refusal of such a request, which has left nothing behind."""
        before = rows(service)
        with pytest.raises(InvalidRequest) as refused:
            start(**changes)
        assert rows(service) == before
        assert not Path(body["save_path"]).exists()
        return refused.value

    def test_unknown_fields_are_ignored_with_a_warning(
        self, service: TrainingService, start: START, executor: ScriptedExecutor
    ) -> None:
        state = start(optimiser="adam", zoom=3)
        expected = (
            "Unknown field 'optimiser' was ignored. Did you mean 'optimizer'?",
            "Unknown field 'zoom' was ignored.",
        )
        assert state.warnings == expected
        assert wire(state.to_response())["warnings"] == list(expected)
        assert state.request.keys().isdisjoint({"optimiser", "zoom"})
        wait_for_end(service, state.task_id)
        warnings = [entry["message"] for entry in service.get_logs(state.task_id) if entry["level"] == "WARNING"]
        assert warnings == list(expected)

    def test_cuda_without_a_gpu_is_the_cpu_with_a_warning_line(self, service: TrainingService, start: START) -> None:
        state = start(device="cuda")
        assert state.device == "cpu"
        wait_for_end(service, state.task_id)
        warnings = [entry["message"] for entry in service.get_logs(state.task_id) if entry["level"] == "WARNING"]
        assert warnings == ["No CUDA GPU on this machine: training on the CPU."]
        assert wire(state.to_response()).keys() == DOCUMENTED_KEYS

    def test_the_cpu_that_was_asked_for_is_no_warning(self, service: TrainingService, start: START) -> None:
        task_id = start(device="cpu").task_id
        wait_for_end(service, task_id)
        assert {entry["level"] for entry in service.get_logs(task_id)} == {"INFO"}

    def test_a_gpu_that_is_not_there_is_refused(
        self, service: TrainingService, start: START, body: dict[str, Any], gpus: list[Gpu]
    ) -> None:
        gpus.append(Gpu("cuda:0", 0))
        refusal = self.refused(service, start, body, device="cuda:7")
        assert [(problem.field, problem.code) for problem in refusal.errors] == [("device", "device_not_found")]
        assert "cpu, cuda:0" in refusal.detail

    def test_every_problem_is_named_at_once(self, service: TrainingService, start: START, body: dict[str, Any]) -> None:
        refusal = self.refused(
            service, start, body, model="resnet19", task_id="start", device="cuda:99", train_path="/not/there"
        )
        assert {problem.field for problem in refusal.errors} >= {"model", "task_id", "device", "train_path"}

    @pytest.mark.parametrize("task_id", sorted(RESERVED_TASK_IDS))
    def test_a_word_that_is_a_route_is_no_task_id(
        self, service: TrainingService, start: START, body: dict[str, Any], task_id: str
    ) -> None:
        refusal = self.refused(service, start, body, task_id=task_id)
        assert [(problem.field, problem.code) for problem in refusal.errors] == [("task_id", "task_id_reserved")]

    def test_a_task_id_is_used_once(self, service: TrainingService, start: START, tmp_path: Path) -> None:
        start(task_id="mine", save_path=str(tmp_path / "one"))
        for _round in ("live", "ended"):
            with pytest.raises(TaskConflict) as refused:
                start(task_id="mine", save_path=str(tmp_path / "two"))
            assert refused.value.code == "task_id_in_use"
            assert not (tmp_path / "two").exists()
            wait_for_end(service, "mine")
        assert rows(service) == ["mine"]

    def test_a_name_is_used_once_in_a_folder(
        self, service: TrainingService, start: START, body: dict[str, Any], tmp_path: Path
    ) -> None:
        first = start(name="first").task_id
        wait_for_end(service, first)
        best = Path(body["save_path"], "first", "best.pt")
        best.write_text("precious")
        with pytest.raises(TaskConflict) as refused:
            start(name="first")
        assert refused.value.code == "name_in_use"
        assert rows(service) == [first]
        assert best.read_text() == "precious"
        elsewhere = start(name="first", save_path=str(tmp_path / "elsewhere")).task_id
        assert wait_for_end(service, elsewhere).status is TaskStatus.COMPLETED

    def test_of_many_that_want_one_task_id_exactly_one_gets_it(
        self, service: TrainingService, start: START, tmp_path: Path
    ) -> None:
        outcomes: list[str] = []
        barrier = threading.Barrier(6)

        def ask(number: int) -> None:
            barrier.wait()
            try:
                start(task_id="mine", save_path=str(tmp_path / f"runs-{number}"))
            except TaskConflict as error:
                outcomes.append(error.code)
            else:
                outcomes.append("won")

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT_S)
        assert sorted(outcomes) == ["task_id_in_use"] * 5 + ["won"]
        assert len(list(tmp_path.glob("runs-*/mine"))) == 1
        wait_for_end(service, "mine")

    @pytest.mark.parametrize(
        ("field", "setting"),
        [
            ("train_path", "DATA_ROOTS"),
            ("val_path", "DATA_ROOTS"),
            ("weight_path", "DATA_ROOTS"),
            ("save_path", "SAVE_ROOTS"),
        ],
    )
    def test_paths_outside_the_roots_are_refused_before_anything_is_read(
        self,
        settings: Settings,
        executor: ScriptedExecutor,
        body: dict[str, Any],
        image_folders: Path,
        tmp_path: Path,
        field: str,
        setting: str,
    ) -> None:
        roots = {"data_roots": (image_folders,), "save_roots": (tmp_path / "runs",)}
        with closing(build_service(settings.model_copy(update=roots), executor)) as service:
            wait_for_end(service, service.start_training(TrainingRequest(**body)).task_id)
            outside = tmp_path / "outside"
            with pytest.raises(PathForbidden, match=rf"^{field}: .*{setting}"):
                service.start_training(TrainingRequest(**{**body, field: str(outside)}))
            assert not outside.exists()
            assert len(rows(service)) == 1

    def test_a_store_that_does_not_answer_leaves_neither_folder_nor_task(
        self,
        monkeypatch: pytest.MonkeyPatch,
        settings: Settings,
        executor: ScriptedExecutor,
        body: dict[str, Any],
    ) -> None:
        monkeypatch.setattr("services.storage.database.BUSY_TIMEOUT_S", 0.02)
        monkeypatch.setattr("services.base_service.WRITE_TIMEOUT_S", 0.1)
        with closing(build_service(settings, executor)) as service:
            early = service.start_training(TrainingRequest(**body)).task_id
            wait_for_end(service, early)
            with locked(settings.state_dir / "training.db"):
                with pytest.raises(StorageUnavailable, match="did not take the task in time"):
                    service.start_training(TrainingRequest(**{**body, "task_id": "late"}))
                assert not Path(body["save_path"], "late").exists()
                with pytest.raises(StorageUnavailable, match="The store refuses writes") as refused:
                    service.start_training(TrainingRequest(**{**body, "task_id": "later"}))
                assert refused.value.status_code == 503
            monkeypatch.setattr("services.base_service.WRITE_TIMEOUT_S", TIMEOUT_S)
            for _ in range(2):  # what the first answer sets off is done before the second
                service.get_logs(early)
            state = service.start_training(TrainingRequest(**{**body, "task_id": "late"}))
            assert wait_for_end(service, state.task_id).status is TaskStatus.COMPLETED
            assert rows(service) == ["late", early]
            assert len(executor.started) == 2

    def test_a_service_that_is_closed_takes_no_training(
        self, service: TrainingService, start: START, body: dict[str, Any]
    ) -> None:
        service.close()
        with pytest.raises(StorageUnavailable, match="shutting down"):
            start()
        assert list(Path(body["save_path"]).glob("*")) == []


def test_nobody_saves_where_the_service_keeps_and_removes_its_own_files(start: START, settings: Settings) -> None:
    for save_path in (settings.state_dir / "runs", settings.state_dir / "runs" / "mine"):
        with pytest.raises(InvalidRequest, match=r"save_path.*choose another folder"):
            start(save_path=str(save_path))
