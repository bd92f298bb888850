"""Which task runs next, and where: priority, then age, within the limits of each device. Pure bookkeeping."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from services.devices import CPU, FILE, RAY, Gpu, is_gpu, named_gpus, parts_of, wanted_of
from services.errors import QueueFull, TaskConflict

FILES_AT_A_TIME = 16
"""Log files that are read at the same time: each has a thread."""

JOBS_AT_A_TIME = 256
"""Jobs that a Ray cluster is given: those that have to wait, it lets wait. Each has a thread here."""


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
        gpus: GPUs and their memory in use, as known at once; asked again for each round of decisions. `None` where
            the driver has not answered lately.
        max_queued: tasks that may wait before `refuse_when_full` refuses more of them.
    """

    def __init__(
        self, *, cpu_limit: int, gpu_limit: int, gpus: Callable[[], Sequence[Gpu] | None], max_queued: int = 1000
    ) -> None:
        self._settings = {CPU: cpu_limit, FILE: FILES_AT_A_TIME, RAY: JOBS_AT_A_TIME}
        self._gpu_limit = gpu_limit
        self._limits: dict[str, int] = {}
        self._gpus = gpus
        self._seen: Sequence[Gpu] | None = None
        self.max_queued = max_queued
        self._waiting: tuple[Waiting, ...] = ()
        self._running: dict[str, str] = {}
        self._expected: dict[str, str | None] = {}

    def empty(self) -> Scheduler:
        """Another one of the same settings, with nothing in it."""
        return Scheduler(
            cpu_limit=self._settings[CPU], gpu_limit=self._gpu_limit, gpus=self._gpus, max_queued=self.max_queued
        )

    def look(self) -> Sequence[Gpu] | None:
        """The GPUs as the driver says lately; `None` where it does not."""
        gpus = self._gpus()
        if gpus is not None:
            self._seen = gpus
        return gpus

    @property
    def queued(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._running)

    def add(self, task_id: str, *, priority: int, created_at: datetime, device: str) -> None:
        """Queue a task for `cpu`, `cuda:N`, `cuda:N,M`, `cuda` (any GPU), `cuda*N` or `file`, however many wait."""
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
        taken = _taken([*self._running.values(), *filter(None, self._expected.values())])
        if wanted_of(device):
            self.look()
        free = self._free_device(device, self._seen or (), taken)  # which there are changes less than their memory
        waiting = self.queued + self._expected_to_wait()
        if free is None and waiting >= self.max_queued:
            raise QueueFull(waiting, self.max_queued)
        return free

    def _expected_to_wait(self) -> int:
        """How many of the tasks that are being accepted will wait: also those whose place another has taken since."""
        running = _taken(self._running.values())
        places = _taken(device for device in self._expected.values() if device is not None)
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
        return [task_id for task_id, where in self._running.items() if device in parts_of(where)]

    def waiting_for(self, device: str) -> list[str]:
        """Tasks that may start there, in the order in which they do when no other device takes one."""
        return [waiting.task_id for waiting in self._waiting if _compete(waiting.device, device)]

    def used_devices(self) -> set[str]:
        """Where tasks run."""
        return set(_taken(self._running.values()))

    def positions(self) -> dict[str, int]:
        """For each task that waits its place, 1 is next, among those with which it competes for a device."""
        places: dict[str, int] = {}
        ahead: Counter[str] = Counter()
        for waiting in self._waiting:
            rivals = sum(count for device, count in ahead.items() if _compete(device, waiting.device))
            places[waiting.task_id] = rivals + 1
            ahead[waiting.device] += 1
        return places

    def next_runnable(self, undecided: Container[str] = ()) -> tuple[str, str] | None:
        """The first waiting task whose device has room, now counted as running there: `(task_id, device)`.

        What is free of the GPUs that a task waits for is kept for it: those that want one each would always be first.
        While the driver does not answer, no task that wants any GPU starts, nor one behind it that wants GPUs by name.
        The same holds for tasks that are `undecided`: whether their GPUs are there is still to be looked at.
        """
        answer = self.look() if any(is_gpu(waiting.device) for waiting in self._waiting) else ()
        gpus, has_gpus = answer or (), self._seen is not None
        taken = _taken(self._running.values())
        for waiting in self._waiting:
            if waiting.task_id in undecided or (answer is None and wanted_of(waiting.device)):
                has_gpus = False
            if is_gpu(waiting.device) and not has_gpus:
                continue
            device = self._free_device(waiting.device, gpus, taken)
            if device is not None:
                self._waiting = tuple(other for other in self._waiting if other is not waiting)
                self._running[waiting.task_id] = device
                return waiting.task_id, device
            if self._can_ever_run(waiting.device, gpus):
                for kept in parts_of(waiting.device) or self._with_room(gpus, taken)[: wanted_of(waiting.device)]:
                    taken[kept] = max(taken[kept], self.limit(kept))
        return None

    def _can_ever_run(self, wanted: str, gpus: Sequence[Gpu]) -> bool:
        """Not while a device that it needs takes nothing: what is kept for it would be kept from all others."""
        count = wanted_of(wanted)
        if not count:
            return all(self.limit(device) for device in parts_of(wanted))
        return sum(self.limit(gpu.name) > 0 for gpu in gpus) >= count

    def _queue(self, waiting: Waiting) -> None:
        self._waiting = tuple(sorted((*self._waiting, waiting)))

    def _free_device(self, wanted: str, gpus: Sequence[Gpu], taken: Counter[str]) -> str | None:
        count = wanted_of(wanted)
        if not count:
            return wanted if all(taken[device] < self.limit(device) for device in parts_of(wanted)) else None
        free = self._with_room(gpus, taken)
        return named_gpus(free[:count]) if len(free) >= count else None

    def _with_room(self, gpus: Sequence[Gpu], taken: Counter[str]) -> list[str]:
        """Those with the least memory in use first."""
        free = [gpu for gpu in gpus if taken[gpu.name] < self.limit(gpu.name)]
        return [gpu.name for gpu in sorted(free, key=lambda gpu: gpu.memory_used)]


def _taken(devices: Iterable[str]) -> Counter[str]:
    """How many tasks there are on each device by itself."""
    return Counter(part for device in devices for part in parts_of(device))


def _compete(device: str, other: str) -> bool:
    """Whether a task for `device` can take the place that one for `other` waits for."""
    if wanted_of(device) or wanted_of(other):
        return is_gpu(device) and is_gpu(other)
    return not set(parts_of(device)).isdisjoint(parts_of(other))
