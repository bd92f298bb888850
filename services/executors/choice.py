"""Which executor a task gets: what its request says, else the setting, else what suits its device."""

from __future__ import annotations

from typing import Literal

from models.schemas import AnyRequest, CommandRequest, ImportRequest
from services.devices import CPU
from services.executors.base import Executor
from services.executors.file import FileExecutor
from services.executors.process import ProcessExecutor
from services.executors.thread import ThreadExecutor
from services.paths import PathPolicy

Setting = Literal["auto", "thread", "process"]
Name = Literal["thread", "process", "file"]


class Executors:
    """One executor of each kind.

    Args:
        setting: where trainings run whose request does not say.
        stop_grace_s: what a process gets between SIGTERM and SIGKILL.
        paths: where trainings may read and write, and imported files be.
        only: runs everything, instead of the executors of this service.
    """

    def __init__(
        self, setting: Setting, *, stop_grace_s: float, only: Executor | None = None, paths: PathPolicy | None = None
    ) -> None:
        self._setting = setting
        roots = (paths or PathPolicy()).roots
        self._by_name: dict[Name, Executor] = {
            "thread": only or ThreadExecutor(roots),
            "process": only or ProcessExecutor(stop_grace_s=stop_grace_s, roots=roots),
            "file": only or FileExecutor(paths),
        }

    def __getitem__(self, name: Name) -> Executor:
        return self._by_name[name]

    def choose(self, request: AnyRequest, device: str) -> Name:
        """A command is always a process. A CUDA error can poison a process for good: never this one, if not told to."""
        if isinstance(request, ImportRequest):
            return "file"
        if isinstance(request, CommandRequest):
            return "process"
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
