"""Which executor a task gets: what its request says, else the setting, else what suits its device."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Literal

from models.schemas import AnyRequest, CommandRequest, FieldProblem, ImportRequest
from services.devices import CPU
from services.executors.base import Executor
from services.executors.file import FileExecutor
from services.executors.process import ProcessExecutor
from services.executors.ray import Cluster, RayExecutor
from services.executors.thread import ThreadExecutor
from services.paths import PathPolicy

Setting = Literal["auto", "thread", "process", "ray"]
Name = Literal["thread", "process", "file", "ray"]


class Executors:
    """One executor of each kind.

    Args:
        setting: where trainings run whose request does not say.
        stop_grace_s: what a process gets between SIGTERM and SIGKILL.
        paths: where trainings may read and write, and imported files be.
        only: runs everything, instead of the executors of this service.
        ray_address: of a Ray cluster's dashboard, if there is one.
        ray_token: what it asks for.
    """

    def __init__(
        self,
        setting: Setting,
        *,
        stop_grace_s: float,
        only: Executor | None = None,
        paths: PathPolicy | None = None,
        ray_address: str | None = None,
        ray_token: str | None = None,
    ) -> None:
        self._setting = setting
        self._has_cluster = ray_address is not None
        cluster = _connecting_to(ray_address, ray_token) if ray_address else None
        roots = (paths or PathPolicy()).roots
        self._by_name: dict[Name, Executor] = {
            "thread": only or ThreadExecutor(roots),
            "process": only or ProcessExecutor(stop_grace_s=stop_grace_s, roots=roots),
            "file": only or FileExecutor(paths),
            "ray": only or RayExecutor(cluster, stop_grace_s=stop_grace_s, roots=roots),
        }

    def __getitem__(self, name: Name) -> Executor:
        return self._by_name[name]

    def placed(self, request: AnyRequest) -> AnyRequest:
        """With Ray as its executor, where it does not say and the setting does."""
        if isinstance(request, ImportRequest) or request.executor is not None or self._setting != "ray":
            return request
        return request.model_copy(update={"executor": "ray"})

    def problems(self, request: AnyRequest) -> list[FieldProblem]:
        """Why a request cannot have the executor that it asks for."""
        if isinstance(request, ImportRequest) or request.executor != "ray":
            return []
        if not self._has_cluster:
            message = "this service has no Ray cluster: whoever runs it can set RAY_ADDRESS and restart it"
            return [FieldProblem(field="executor", code="ray_not_configured", message=message)]
        if find_spec("ray") is None:
            message = "Ray is not installed beside this service: whoever runs it can add it, pip install 'ray[default]'"
            return [FieldProblem(field="executor", code="ray_not_installed", message=message)]
        return []

    def choose(self, request: AnyRequest, device: str) -> Name:
        """A command is always a process. A CUDA error can poison a process for good: never this one, if not told to."""
        if isinstance(request, ImportRequest):
            return "file"
        if isinstance(request, CommandRequest):
            return request.executor or "process"
        if request.executor is not None:
            return request.executor
        if request.workers > 1:
            return "process"
        if self._setting != "auto":
            return self._setting
        return "thread" if device == CPU else "process"

    def detach(self) -> None:
        """Let go of every task that outlives the service."""
        for executor in set(self._by_name.values()):
            executor.detach()


def _connecting_to(address: str, token: str | None) -> Callable[[], Cluster]:
    def connect() -> Cluster:
        from services.executors.ray_client import RayCluster  # Ray takes a second to import, and may not be there

        return RayCluster(address, token)

    return connect
