"""What running tasks take of the machine, told as lines of their own logs: the log line is the interface.

A line such as `Resources: cpu_percent=153.2, memory_mib=812.4` goes through the task's handler like everything else of
it, so that its numbers are metrics as the loss is: stored, streamed, drawn, watched by alerts. Off by default, since a
plain training's lines are documented.

Linux alone says it (proc_pid_stat(5)). Of a process the whole tree below its supervisor counts. Of a training in a
thread of the service, that thread and the threads and processes that it has started count, as far as they can be told
from others: by their niceness, while it is the only one; the memory is then that of the service and of those processes.
A page that several processes share counts for each in part (proc_pid_smaps(5), Pss): readers of images share all of it.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from services.devices import Gpu, parts_of
from services.errors import ServiceError
from services.executors.base import TRAINING_NICENESS
from services.executors.supervised import SupervisedTrainer
from services.executors.supervisor import Process, below, running
from services.live_training import LiveTraining
from services.log_entry import RESOURCES

logger = logging.getLogger(__name__)

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_MIB = 2**20
_PROC = Path("/proc")
_THREADS = _PROC / "self/task"


class Use(NamedTuple):
    """CPU seconds so far, and bytes in memory now."""

    cpu_s: float
    memory: int


class Running(NamedTuple):
    """A task that runs, and where: `run_dir` is that of a process, `thread` that of one in the service."""

    task_id: str
    training: LiveTraining
    device: str
    run_dir: Path
    thread: int | None


class Sampler:
    """Owns the thread that looks. Closed before the service.

    Args:
        running: what runs now.
        gpus: of this machine, as the driver sees them.
        every_s: between two looks; `None` never looks.
    """

    def __init__(
        self, running: Callable[[], Sequence[Running]], gpus: Callable[[], Sequence[Gpu]], every_s: float | None
    ) -> None:
        self._running, self._gpus, self._every_s = running, gpus, every_s
        self._before: dict[tuple[str, int], tuple[float, float]] = {}
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="resource-samples", daemon=True)

    def start(self) -> None:
        if self._every_s is not None:
            self._thread.start()

    def close(self) -> None:
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(2)

    def look(self) -> None:
        """Tell what each task has taken since the last look; of one that is new, only what it has now."""
        running = list(self._running())
        gpus = {gpu.name: gpu for gpu in self._gpus()} if any(each.device != "cpu" for each in running) else {}
        before, self._before = self._before, {}
        is_alone = sum(each.thread is not None for each in running) == 1
        for each in running:
            use = _thread_use(each.thread, is_alone=is_alone) if each.thread else _tree_use(each.run_dir)
            if use is None:
                continue
            key, now = (each.task_id, each.training.attempt), time.monotonic()
            self._before[key] = (use.cpu_s, now)
            found = {"memory_mib": round(use.memory / _MIB, 1)}
            if key in before:
                cpu_s, then = before[key]
                found = {"cpu_percent": round(max(0.0, 100 * (use.cpu_s - cpu_s) / (now - then)), 1), **found}
            used = [gpus[part] for part in parts_of(each.device) if part in gpus]
            if used:
                found["gpu_memory_mib"] = round(sum(gpu.memory_used for gpu in used) / _MIB, 1)
                busy = [gpu.utilization for gpu in used if gpu.utilization is not None]
                if busy:
                    found["gpu_percent"] = round(100 * sum(busy) / len(busy), 1)
            with suppress(ServiceError):  # it has just ended
                each.training.handler.tell(
                    RESOURCES + ", ".join(f"{name}={value:g}" for name, value in found.items()), found
                )

    def _run(self) -> None:
        while not self._closing.wait(self._every_s):
            try:
                self.look()
            except Exception:
                logger.exception("What the trainings take could not be found out")


def _tree_use(run_dir: Path) -> Use | None:
    """Of everything that a supervised trainer has started, and that is still there."""
    trainer = SupervisedTrainer.find(run_dir)
    return _sum(_uses(trainer.processes())) if trainer is not None else None


def _thread_use(thread: int, *, is_alone: bool) -> Use | None:
    """Of a training's thread; and, where no other training is in this process, of those that it has started."""
    threads, started = {_THREADS / str(thread)}, list[Process]()
    if is_alone:
        threads |= {each for each in _THREADS.iterdir() if _is_training(each)}
        started = [each for each in below({os.getpid()}, running()) if _is_training(_PROC / str(each.pid))]
    found = [fields for each in threads if (fields := _fields(each)) is not None]
    ours = Use(sum(map(_cpu_s, found)), _memory(_PROC / "self", found[0])) if found else None
    return _sum([ours, *_uses(started)]) if ours else None


def _uses(processes: Iterable[Process]) -> list[Use]:
    folders = [_PROC / str(process.pid) for process in processes]
    return [Use(_cpu_s(fields), _memory(each, fields)) for each in folders if (fields := _fields(each)) is not None]


def _sum(found: Sequence[Use]) -> Use | None:
    return Use(sum(use.cpu_s for use in found), sum(use.memory for use in found)) if found else None


def _is_training(folder: Path) -> bool:
    fields = _fields(folder)
    return fields is not None and int(fields[16]) == TRAINING_NICENESS


def _cpu_s(fields: Sequence[bytes]) -> float:
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _memory(process: Path, fields: Sequence[bytes]) -> int:
    """Bytes. All that is in memory where the kernel does not say what others share of it."""
    try:
        found = re.search(rb"^Pss:\s+(\d+) kB", (process / "smaps_rollup").read_bytes(), re.MULTILINE)
    except OSError:
        found = None
    return 1024 * int(found[1]) if found else int(fields[21]) * _PAGE


def _fields(folder: Path) -> list[bytes] | None:
    """Fields of `stat` from the third one on: the second, a name, may hold anything. `None` of what has ended."""
    try:
        return (folder / "stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
