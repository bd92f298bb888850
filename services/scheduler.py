"""Which task runs next, and where: priority, then age, within the limits of each device. Pure bookkeeping."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from services.devices import ANY_GPU, CPU, FILE, Gpu, is_gpu
from services.errors import QueueFull, TaskConflict

FILES_AT_A_TIME = 16
"""Log files that are read at the same time: each has a thread."""


@dataclass(frozen=True, slots=True, order=True)
class Waiting:
    """A task in the queue; sorts by priority (1 first), then by age. Nothing else decides, so that a restart of the
    service, and a task's return to the queue, change no order."""

    priority: int
    created_at: datetime
    task_id: str
    device: str


class Scheduler:
    """Not thread-safe: its owner calls it under its own lock; `positions` alone can be asked without.

    Args:
        cpu_limit: trainings at a time on the CPU.
        gpu_limit: trainings at a time on each GPU.
        gpus: GPUs and their memory in use, asked again for each round of decisions.
        max_queued: tasks that may wait before `refuse_when_full` refuses more of them.
    """

    def __init__(
        self, *, cpu_limit: int, gpu_limit: int, gpus: Callable[[], Sequence[Gpu]], max_queued: int = 1000
    ) -> None:
        self._settings = {CPU: cpu_limit, FILE: FILES_AT_A_TIME}
        self._gpu_limit = gpu_limit
        self._limits: dict[str, int] = {}
        self._gpus = gpus
        self.max_queued = max_queued
        self._waiting: tuple[Waiting, ...] = ()
        self._running: dict[str, str] = {}
        self._expected: dict[str, str | None] = {}

    def empty(self) -> Scheduler:
        """Another one of the same settings, with nothing in it."""
        return Scheduler(
            cpu_limit=self._settings[CPU], gpu_limit=self._gpu_limit, gpus=self._gpus, max_queued=self.max_queued
        )

    @property
    def queued(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._running)

    def add(self, task_id: str, *, priority: int, created_at: datetime, device: str) -> None:
        """Queue a task for `cpu`, `cuda:N`, `cuda` (any GPU) or `file`, however many wait."""
        self._expected.pop(task_id, None)
        self._queue(Waiting(priority, created_at, task_id, device))

    def expect(self, task_id: str, *, device: str) -> None:
        """Keep the place of a task that is being accepted, until `add` or `forget`.

        Raises:
            TaskConflict: a task of this id is being accepted already.
            QueueFull: as for `refuse_when_full`.
        """
        if task_id in self._expected:
            raise TaskConflict(f"There is a task {task_id!r} already. Choose another task_id.", code="task_id_in_use")
        self._expected[task_id] = self.refuse_when_full(device)

    def refuse_when_full(self, device: str) -> str | None:
        """The device on which one more task could start at once; `None` where it would wait, and may.

        Raises:
            QueueFull: it would wait, and as many wait as may.
        """
        taken = Counter([*self._running.values(), *filter(None, self._expected.values())])
        free = self._free_device(device, self._gpus() if device == ANY_GPU else (), taken)
        waiting = self.queued + self._expected_to_wait()
        if free is None and waiting >= self.max_queued:
            raise QueueFull(waiting, self.max_queued)
        return free

    def _expected_to_wait(self) -> int:
        """How many of the tasks that are being accepted will wait: also those whose place another has taken since."""
        running = Counter(self._running.values())
        places = Counter(device for device in self._expected.values() if device is not None)
        displaced = sum(
            min(count, max(0, running[device] + count - self.limit(device))) for device, count in places.items()
        )
        return list(self._expected.values()).count(None) + displaced

    def adopt(self, task_id: str, *, device: str) -> None:
        """Count a task that runs already, whether its device has room or not."""
        self._running[task_id] = device

    def forget(self, task_id: str) -> None:
        """Give back the place of a task that is not expected any more."""
        self._expected.pop(task_id, None)

    def discard(self, task_id: str) -> None:
        """Forget a task, whether it waits or runs; its place is free."""
        self._waiting = tuple(waiting for waiting in self._waiting if waiting.task_id != task_id)
        self._running.pop(task_id, None)

    def find(self, task_id: str) -> Waiting | None:
        """A task's place in the queue; `None` where it does not wait."""
        return next((waiting for waiting in self._waiting if waiting.task_id == task_id), None)

    def set_priority(self, task_id: str, priority: int) -> None:
        """Move a task that waits to where it would be, had it come with this priority."""
        waiting = self.find(task_id)
        assert waiting is not None, f"{task_id} does not wait"
        self._waiting = tuple(other for other in self._waiting if other is not waiting)
        self._queue(replace(waiting, priority=priority))

    def limit(self, device: str) -> int:
        return self._limits.get(device, self.default_limit(device))

    def default_limit(self, device: str) -> int:
        """The limit where `set_limits` has set none."""
        return self._settings.get(device, self._gpu_limit)

    def set_limits(self, limits: Mapping[str, int | None]) -> None:
        """Change the limits of these devices; 0 starts nothing more there, `None` is the default again."""
        self._limits |= {device: limit for device, limit in limits.items() if limit is not None}
        for device in [device for device, limit in limits.items() if limit is None]:
            self._limits.pop(device, None)

    def running_on(self, device: str) -> list[str]:
        """Tasks that run there, those first that began first."""
        return [task_id for task_id, where in self._running.items() if where == device]

    def waiting_for(self, device: str) -> list[str]:
        """Tasks that may start there, in the order in which they do when no other device takes one."""
        return [waiting.task_id for waiting in self._waiting if _compete(waiting.device, device)]

    def used_devices(self) -> set[str]:
        """Where tasks run."""
        return set(self._running.values())

    def positions(self) -> dict[str, int]:
        """For each task that waits its place, 1 is next, among those with which it competes for a device."""
        places: dict[str, int] = {}
        ahead: Counter[str] = Counter()
        for waiting in self._waiting:
            rivals = sum(count for device, count in ahead.items() if _compete(device, waiting.device))
            places[waiting.task_id] = rivals + 1
            ahead[waiting.device] += 1
        return places

    def next_runnable(self) -> tuple[str, str] | None:
        """The first waiting task whose device has room, now counted as running there: `(task_id, device)`."""
        gpus = self._gpus() if any(waiting.device == ANY_GPU for waiting in self._waiting) else ()
        taken = Counter(self._running.values())
        for waiting in self._waiting:
            device = self._free_device(waiting.device, gpus, taken)
            if device is not None:
                self._waiting = tuple(other for other in self._waiting if other is not waiting)
                self._running[waiting.task_id] = device
                return waiting.task_id, device
        return None

    def _queue(self, waiting: Waiting) -> None:
        self._waiting = tuple(sorted((*self._waiting, waiting)))

    def _free_device(self, wanted: str, gpus: Sequence[Gpu], taken: Counter[str]) -> str | None:
        if wanted != ANY_GPU:
            return wanted if taken[wanted] < self.limit(wanted) else None
        free = [gpu for gpu in gpus if taken[gpu.name] < self.limit(gpu.name)]
        return min(free, key=lambda gpu: gpu.memory_used).name if free else None


def _compete(device: str, other: str) -> bool:
    """Whether a task for `device` can take the place that one for `other` waits for."""
    return device == other or (ANY_GPU in (device, other) and is_gpu(device) and is_gpu(other))
