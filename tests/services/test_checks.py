"""Which devices and workers belong together."""

from __future__ import annotations

from typing import Any

import pytest

from models.schemas import CommandRequest, FieldProblem, TrainingRequest
from services.checks import find_problems, resolve_device
from services.devices import Gpu
from services.paths import PathPolicy

GPUS = tuple(Gpu(f"cuda:{number}", 0) for number in range(3))


def problems(body: dict[str, Any], **changes: Any) -> list[FieldProblem]:
    return find_problems(TrainingRequest(**(body | {"batch_size": 64} | changes)), PathPolicy())


@pytest.mark.parametrize(
    ("device", "num_workers"),
    [("cuda:0,1", None), ("cuda:0,1", 2), ("cuda", 3), ("cpu", 4), ("cuda:1", 1), ("cuda:1", None)],
)
def test_workers_fit_the_devices(body: dict[str, Any], device: str, num_workers: int | None) -> None:
    assert problems(body, device=device, num_workers=num_workers) == []


@pytest.mark.parametrize(("device", "num_workers"), [("cuda:0,1", 3), ("cuda:0", 2), ("cuda:0,1", 1), ("cuda:1,1", 2)])
def test_workers_do_not_fit_the_devices(body: dict[str, Any], device: str, num_workers: int) -> None:
    found = problems(body, device=device, num_workers=num_workers)
    assert [(each.field, each.code) for each in found] == [("num_workers", "num_workers_mismatch")]


@pytest.mark.parametrize("device", ["cuda:1", "cuda:0,1"])
def test_a_cluster_chooses_the_devices(body: dict[str, Any], device: str) -> None:
    found = problems(body, device=device, executor="ray")
    assert [(each.field, each.code) for each in found] == [("device", "executor_unsuitable")]


def test_a_command_starts_others_itself_or_has_a_cluster_for_that(tmp_path: Any) -> None:
    request = CommandRequest(command=["true"], working_dir=str(tmp_path), num_workers=2)
    assert [each.code for each in find_problems(request, PathPolicy())] == ["executor_unsuitable"]
    assert find_problems(request.model_copy(update={"executor": "ray"}), PathPolicy()) == []


@pytest.mark.parametrize(
    ("device", "num_workers", "executor", "resolved"),
    [
        ("cuda", None, None, "cuda"),
        ("cuda", 2, None, "cuda*2"),
        ("cuda:0,2", None, None, "cuda:0,2"),
        ("cpu", 2, None, "cpu"),
        ("cuda", 8, "ray", "ray"),
    ],
)
def test_what_is_waited_for(
    body: dict[str, Any], device: str, num_workers: int | None, executor: str | None, resolved: str
) -> None:
    request = TrainingRequest(**(body | {"device": device}), num_workers=num_workers, executor=executor)
    assert resolve_device(request, lambda: GPUS) == (resolved, [])


@pytest.mark.parametrize(("device", "num_workers"), [("cuda", 4), ("cuda:2,3", None)])
def test_more_gpus_than_there_are(body: dict[str, Any], device: str, num_workers: int | None) -> None:
    request = TrainingRequest(**(body | {"device": device}), num_workers=num_workers)
    _, (problem,) = resolve_device(request, lambda: GPUS)
    assert (problem.field, problem.code) == ("device", "device_not_found")
