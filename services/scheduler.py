"""Which task runs next, and where: priority, then age, within the limits of each device. Pure bookkeeping."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.devices import ANY_GPU, CPU, FILE, Gpu

FILES_AT_A_TIME = 16
"""Log files that are read at the same time: each has a thread."""


@dataclass(frozen=True, slots=True, order=True)
class Waiting:
    """A task in the queue; sorts by priority (1 first), then by age."""

    priority: int
    number: int
    task_id: str
    device: str


class Scheduler:
    """Not thread-safe: its owner calls it under its own lock.

    Args:
        cpu_limit: trainings at a time on the CPU.
        gpu_limit: trainings at a time on each GPU.
        gpus: GPUs and their memory in use, asked again for each round of decisions.
    """

    def __init__(self, *, cpu_limit: int, gpu_limit: int, gpus: Callable[[], Sequence[Gpu]]) -> None:
        self._limits = {CPU: cpu_limit, FILE: FILES_AT_A_TIME}
        self._gpu_limit = gpu_limit
        self._gpus = gpus
        self._waiting: list[Waiting] = []
        self._running: dict[str, str] = {}
        self._count = 0

    @property
    def queued(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._running)

    def add(self, task_id: str, *, priority: int, device: str) -> None:
        """Queue a task for `cpu`, `cuda:N`, `cuda` (any GPU) or `file`."""
        self._count += 1
        self._waiting.append(Waiting(priority, self._count, task_id, device))
        self._waiting.sort()

    def adopt(self, task_id: str, *, device: str) -> None:
        """Count a task that runs already, whether its device has room or not."""
        self._running[task_id] = device

    def discard(self, task_id: str) -> None:
        """Forget a task, whether it waits or runs; its place is free."""
        self._waiting = [waiting for waiting in self._waiting if waiting.task_id != task_id]
        self._running.pop(task_id, None)

    def next_runnable(self) -> tuple[str, str] | None:
        """The first waiting task whose device has room, now counted as running there: `(task_id, device)`."""
        gpus = self._gpus() if any(waiting.device == ANY_GPU for waiting in self._waiting) else ()
        for waiting in self._waiting:
            device = self._free_device(waiting.device, gpus)
            if device is not None:
                self._waiting.remove(waiting)
                self._running[waiting.task_id] = device
                return waiting.task_id, device
        return None

    def _free_device(self, wanted: str, gpus: Sequence[Gpu]) -> str | None:
        if wanted != ANY_GPU:
            return wanted if self._has_room(wanted) else None
        free = [gpu for gpu in gpus if self._has_room(gpu.name)]
        return min(free, key=lambda gpu: gpu.memory_used).name if free else None

    def _has_room(self, device: str) -> bool:
        return list(self._running.values()).count(device) < self._limits.get(device, self._gpu_limit)
