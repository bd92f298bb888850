"""A task on a cluster that the test plays: what is asked of it, and what becomes of its answers."""

from __future__ import annotations

import errno
import json
import os
import stat
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.schemas import TrainingRequest
from services.executors import ray
from services.executors.base import Detached, Run
from services.executors.ray import RayExecutor, Refused, Unreachable
from services.executors.ray_job import Failed, Lost, end_of
from services.executors.supervised import Exit
from services.executors.supervisor import write_json
from tests.services.executors.task import Task, command_run
from tests.trainer.helpers import request_for
from trainer.errors import NODE_LOST, STATUS_OF_REASON, TrainingFailed, TrainingStopped

NON_ZERO = st.integers(-64, 255).filter(lambda code: code not in (0, NODE_LOST))


class PlayedCluster:
    """Does what a test tells it to.

    Attributes:
        end: how the job has ended, once it has.
        refusal: raised by whatever is asked.
        jobs: what was submitted.
    """

    def __init__(self) -> None:
        self.end: Exit | Failed | Lost | None = None
        self.refusal: Exception | None = None
        self.jobs: dict[str, str] = {}
        self.stopped: list[str] = []
        self.was_asked = threading.Event()

    def connect(self) -> PlayedCluster:
        return self

    def submit(self, submission_id: str, entrypoint: str, env: dict[str, str]) -> None:
        self._answer()
        assert submission_id not in self.jobs, "a job is submitted once"
        self.jobs[submission_id] = entrypoint

    def state(self, submission_id: str) -> Exit | Failed | Lost | None:
        self._answer()
        if submission_id not in self.jobs:
            raise KeyError(submission_id)
        return self.end

    def stop(self, submission_id: str) -> None:
        self._answer()
        self.stopped.append(submission_id)
        self.end = Exit(returncode=143, stopped=True)

    def _answer(self) -> None:
        self.was_asked.set()
        if self.refusal is not None:
            raise self.refusal


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> PlayedCluster:
    monkeypatch.setattr(ray, "ASK_EVERY_S", 0.01)
    monkeypatch.setattr(ray, "RETRY_S", 0.01)
    return PlayedCluster()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Of a command whose job is submitted and prints what the test says."""
    return command_run(tmp_path, ["train"], executor="ray", env={"SECRET": "s"}, num_workers=2)


def executor(cluster: PlayedCluster) -> RayExecutor:
    return RayExecutor(cluster.connect, stop_grace_s=3)


def prints(run: Run, text: str) -> None:
    with (ray.folder_of(run) / "output.log").open("a") as output:
        output.write(text)


def begun(cluster: PlayedCluster, run: Run) -> Task:
    task = Task(executor(cluster), run)
    task.wait_for(lambda messages: any(message.startswith("Submitted to Ray") for message in messages))
    return task


def test_its_lines_are_those_of_the_file_and_its_end_is_that_of_the_job(cluster: PlayedCluster, run: Run) -> None:
    task = begun(cluster, run)
    prints(run, "one\ntwo\n")
    task.wait_for_line("two")
    prints(run, "three\nfour")
    cluster.end = Exit()
    assert task.end() is None
    assert task.messages[1:] == ["one", "two", "three", "four"]


def test_a_private_file_is_so_from_its_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[int] = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    path = tmp_path / "spec.json"
    path.write_text("{}")
    write_json(path, {"env": {"SECRET": "s"}}, private=True)
    assert modes[0] == stat.S_IMODE(path.stat().st_mode) == 0o600
    write_json(path, {})
    assert stat.S_IMODE(path.stat().st_mode) != 0o600


def test_what_it_is_to_do_is_where_all_nodes_see_it_for_as_long_as_it_runs_and_for_nobody_else(
    cluster: PlayedCluster, run: Run, tmp_path: Path
) -> None:
    task = begun(cluster, run)
    spec = tmp_path / ".ray" / run.task_id / "spec.json"
    assert stat.S_IMODE(spec.stat().st_mode) == 0o600
    content = json.loads(spec.read_bytes())
    assert (content["command"], content["workers"], content["cpus"], content["gpus"]) == (["train"], 2, 1, 0)
    assert content["env"]["SECRET"] == "s"
    assert all(str(spec) in entrypoint and "SECRET" not in entrypoint for entrypoint in cluster.jobs.values())
    cluster.end = Exit()
    assert task.end() is None
    assert not spec.exists()


@pytest.mark.parametrize(("device", "given_gpus", "gpus"), [("cuda", None, 1), ("cpu", None, 0), ("cuda", 0.5, 0.5)])
def test_a_training_goes_on_at_its_checkpoint_from_the_second_attempt_on(
    device: str, given_gpus: float | None, gpus: float, tmp_path: Path
) -> None:
    request: TrainingRequest = request_for(tmp_path, device=device, gpus_per_worker=given_gpus, executor="ray")
    first = Run("t", request, tmp_path, "ray", tmp_path / "state")
    again = Run("t", request, tmp_path, "ray", tmp_path / "state", attempt=2)
    specs = [ray.specification(each, tmp_path, RayExecutor(None)._roots, 3) for each in (first, again)]
    assert [("--resume" in spec["arguments"], spec["gpus"]) for spec in specs] == [(False, gpus), (True, gpus)]
    assert ray.folder_of(first) != ray.folder_of(again)


def test_a_service_that_is_restarted_reads_on_and_submits_nothing(cluster: PlayedCluster, run: Run) -> None:
    task = begun(cluster, run)
    prints(run, "one\n")
    task.wait_for_line("one")
    assert isinstance(task.detach(), Detached)
    prints(run, "two\n")
    next_one = Task(executor(cluster), task.resumed())
    next_one.wait_for_line("two")
    cluster.end = Exit()
    assert next_one.end() is None
    assert next_one.messages == ["two"]
    assert len(cluster.jobs) == 1


def test_a_job_that_was_submitted_before_the_service_could_note_it_is_not_submitted_again(
    cluster: PlayedCluster, run: Run
) -> None:
    task = begun(cluster, run)
    prints(run, "one\n")
    task.wait_for_line("one")
    assert isinstance(task.detach(), Detached)
    (ray.folder_of(run) / "submitted").unlink()
    cluster.end = Exit()
    assert Task(executor(cluster), task.resumed()).end() is None
    assert len(cluster.jobs) == 1


def test_a_cluster_that_cannot_be_reached_is_waited_for_and_that_is_said_once(cluster: PlayedCluster, run: Run) -> None:
    cluster.refusal = Unreachable("no route")
    task = Task(executor(cluster), run)
    task.wait_for_line("The Ray cluster cannot be asked (no route): waiting for it.")
    cluster.was_asked.clear()
    assert cluster.was_asked.wait(30)
    cluster.refusal = None
    task.wait_for_line("The Ray cluster answers again.")
    cluster.end = Exit()
    assert task.end() is None
    assert len([message for message in task.messages if "cannot be asked" in message]) == 1


def test_a_stop_is_passed_on_and_what_was_printed_until_then_is_kept(cluster: PlayedCluster, run: Run) -> None:
    task = begun(cluster, run)
    prints(run, "last words\n")
    assert isinstance(task.stop(), TrainingStopped)
    assert cluster.stopped == list(cluster.jobs)
    assert task.messages[-1] == "last words"


def test_a_stop_before_the_cluster_was_ever_reached_submits_nothing(
    cluster: PlayedCluster, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "GIVE_UP_STOP_S", 0.05)
    cluster.refusal = Unreachable("no route")
    task = Task(executor(cluster), run)
    task.wait_for(lambda messages: len(messages) == 1)
    assert isinstance(task.stop(), TrainingStopped)
    assert cluster.jobs == {}


def test_a_node_that_is_lost_is_an_interruption(cluster: PlayedCluster, run: Run) -> None:
    task = begun(cluster, run)
    cluster.end = Lost("its node is gone")
    failure = task.end()
    assert isinstance(failure, TrainingFailed)
    assert (failure.reason, str(failure)) == ("interrupted", "its node is gone")


def test_a_cluster_that_was_started_anew_is_an_interruption(cluster: PlayedCluster, run: Run) -> None:
    task = begun(cluster, run)
    cluster.jobs.clear()
    failure = task.end()
    assert isinstance(failure, TrainingFailed)
    assert failure.reason == "interrupted"


@pytest.mark.parametrize(
    ("end", "printed", "reason"),
    [
        (Failed(3, ""), "Traceback\n", "exit_code_3"),
        (Failed(-9, ""), "", "start_failed"),
        (Failed(1, "No module named 'ray'\n"), "", "start_failed"),
        (Exit(start_error="no such module"), "", "start_failed"),
    ],
)
def test_a_failure_has_the_reason_that_it_has_on_one_machine(
    cluster: PlayedCluster, run: Run, end: Exit | Failed, printed: str, reason: str
) -> None:
    task = begun(cluster, run)
    prints(run, printed)
    cluster.end = end
    failure = task.end()
    assert isinstance(failure, TrainingFailed)
    assert failure.reason == reason
    if isinstance(end, Failed) and end.said:
        assert end.said.strip() in str(failure)


def test_a_cluster_that_refuses_the_job_is_a_failure_to_start(
    cluster: PlayedCluster, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise Refused("HTTP status 400: bad runtime_env")

    monkeypatch.setattr(cluster, "submit", refuse)
    failure = Task(executor(cluster), run).end()
    assert isinstance(failure, TrainingFailed)
    assert failure.reason == "start_failed"
    assert "bad runtime_env" in str(failure)


def test_a_cluster_that_refuses_whoever_asks_is_a_failure_to_start(cluster: PlayedCluster, run: Run) -> None:
    cluster.refusal = Refused("HTTP status 403: invalid token")
    failure = Task(executor(cluster), run).end()
    assert isinstance(failure, TrainingFailed)
    assert failure.reason == "start_failed"
    assert "invalid token" in str(failure)


def test_a_cluster_that_refuses_to_tell_of_a_job_that_runs_is_waited_for(cluster: PlayedCluster, run: Run) -> None:
    task = begun(cluster, run)
    cluster.refusal = Refused("HTTP status 401: the token has changed")
    task.wait_for_line("The Ray cluster cannot be asked (HTTP status 401: the token has changed): waiting for it.")
    cluster.refusal = None
    assert isinstance(task.stop(), TrainingStopped)
    assert cluster.stopped == list(cluster.jobs)


def test_a_service_on_another_machine_follows_the_same_job(cluster: PlayedCluster, run: Run, tmp_path: Path) -> None:
    task = begun(cluster, run)
    prints(run, "one\n")
    task.wait_for_line("one")
    assert isinstance(task.detach(), Detached)
    next_one = Task(executor(cluster), replace(task.resumed(), run_dir=tmp_path / "state of the other"))
    prints(run, "two\n")
    next_one.wait_for_line("two")
    cluster.end = Exit()
    assert next_one.end() is None
    assert len(cluster.jobs) == 1


def test_what_a_job_was_to_do_is_not_kept_where_it_was_given_up(cluster: PlayedCluster, run: Run) -> None:
    task = begun(cluster, run)
    cluster.jobs.clear()  # a cluster that was started anew
    assert isinstance(task.stop(), TrainingStopped)
    assert not (ray.folder_of(run) / "spec.json").exists()


def test_without_a_cluster_a_task_says_what_to_do(run: Run) -> None:
    failure = Task(RayExecutor(None), run).end()
    assert isinstance(failure, TrainingFailed)
    assert "RAY_ADDRESS" in str(failure)


def test_a_job_whose_record_is_lost_is_not_begun_again(cluster: PlayedCluster, run: Run) -> None:
    task = begun(cluster, run)
    prints(run, "one\n")
    task.wait_for_line("one")
    assert isinstance(task.detach(), Detached)
    (ray.folder_of(run) / "ray.json").unlink()
    failure = Task(executor(cluster), task.resumed()).end()
    assert isinstance(failure, TrainingFailed)
    assert failure.reason == "run_folder_lost"
    assert len(cluster.jobs) == 1


def refuse(error: int) -> Callable[..., NoReturn]:
    def raising(*_: object, **__: object) -> NoReturn:
        raise OSError(error, os.strerror(error))

    return raising


def lost_while_away(cluster: PlayedCluster, run: Run, monkeypatch: pytest.MonkeyPatch) -> Task:
    """Its output cannot be read any more, and the cluster that should end the job cannot be reached."""
    task = begun(cluster, run)
    cluster.refusal = Unreachable("no route")
    task.wait_for(lambda messages: "cannot be asked" in messages[-1])
    monkeypatch.setattr(ray._Following, "_read", refuse(errno.EIO))
    cluster.was_asked.clear()
    assert cluster.was_asked.wait(30)
    return task


class TestALostFolder:
    def test_a_job_whose_folder_is_removed_is_ended(self, cluster: PlayedCluster, run: Run, tmp_path: Path) -> None:
        task = begun(cluster, run)
        ray.folder_of(run).parent.rename(tmp_path / "elsewhere")  # all at once: it would get a new note meanwhile
        failure = task.end()
        assert isinstance(failure, TrainingFailed)
        assert failure.reason == "run_folder_lost"
        assert cluster.stopped == list(cluster.jobs)

    @pytest.mark.parametrize("error", [errno.ESTALE, errno.EIO], ids=errno.errorcode.get)
    def test_a_job_whose_output_cannot_be_read_is_ended(
        self, cluster: PlayedCluster, run: Run, monkeypatch: pytest.MonkeyPatch, error: int
    ) -> None:
        task = begun(cluster, run)
        monkeypatch.setattr(ray._Following, "_read", refuse(error))
        failure = task.end()
        assert isinstance(failure, TrainingFailed)
        assert failure.reason == "run_folder_lost"
        assert os.strerror(error) in str(failure)
        assert cluster.stopped == list(cluster.jobs)
        assert not (ray.folder_of(run) / "spec.json").exists()

    def test_it_is_told_to_stop_when_the_cluster_can_be_reached_again(
        self, cluster: PlayedCluster, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        task = lost_while_away(cluster, run, monkeypatch)
        cluster.refusal = None
        failure = task.end()
        assert isinstance(failure, TrainingFailed)
        assert failure.reason == "run_folder_lost"
        assert cluster.stopped == list(cluster.jobs)

    def test_a_service_that_lets_go_before_it_was_told_leaves_that_to_the_next(
        self, cluster: PlayedCluster, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        task = lost_while_away(cluster, run, monkeypatch)
        assert isinstance(task.detach(), Detached)

    @pytest.mark.parametrize("error", [errno.ENOSPC, errno.EMFILE], ids=errno.errorcode.get)
    def test_a_folder_without_room_for_a_note_is_no_reason_to_end_a_job(
        self, cluster: PlayedCluster, run: Run, monkeypatch: pytest.MonkeyPatch, error: int
    ) -> None:
        with monkeypatch.context() as full:
            full.setattr(Path, "touch", refuse(error))
            task = begun(cluster, run)
            prints(run, "one\n")
            task.wait_for_line("one")
        cluster.end = Exit()
        assert task.end() is None
        assert len(cluster.jobs) == 1

    def test_a_defect_while_it_is_followed_leaves_no_job_behind(
        self, cluster: PlayedCluster, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        task = begun(cluster, run)

        def break_down(*_: object) -> NoReturn:
            raise ZeroDivisionError

        monkeypatch.setattr(ray._Following, "_read", break_down)
        assert isinstance(task.end(), ZeroDivisionError)
        assert cluster.stopped == list(cluster.jobs)


class TestEndOf:
    @given(st.sampled_from(["PENDING", "RUNNING"]), st.none() | st.integers(), st.text())
    def test_a_job_that_has_not_ended_has_no_end(self, status: str, exit_code: int | None, message: str) -> None:
        assert end_of(status, exit_code=exit_code, message=message) is None

    @given(NON_ZERO, st.text())
    def test_an_exit_code_of_the_driver_is_that_of_the_training(self, code: int, message: str) -> None:
        assert end_of("FAILED", exit_code=code, message=message) == Failed(code, message)

    @given(st.none() | st.text(max_size=40), st.none() | st.text())
    def test_without_one_nothing_is_known_of_the_trainer(self, error_type: str | None, message: str | None) -> None:
        assert isinstance(end_of("FAILED", error_type=error_type, message=message), Lost)

    def test_a_driver_that_could_not_begin_has_not_lost_its_node(self) -> None:
        end = end_of("FAILED", error_type="RUNTIME_ENV_SETUP_FAILURE", message="no pip")
        assert isinstance(end, Exit)
        assert "no pip" in (end.start_error or "")

    def test_a_worker_that_was_lost_is_no_failure(self) -> None:
        assert isinstance(end_of("FAILED", exit_code=NODE_LOST), Lost)
        assert NODE_LOST not in STATUS_OF_REASON.values()

    def test_success_and_stop_are_what_they_are(self) -> None:
        assert end_of("SUCCEEDED", exit_code=0) == Exit()
        stopped = end_of("STOPPED")
        assert isinstance(stopped, Exit)
        assert stopped.stopped
