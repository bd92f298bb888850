"""How soon the service says truly how a trainer has ended, whatever way that is, and what is left behind.

    python -m benchmarks.faults

Starts the real service and a command that prints a line ten times a second throughout. Beside it, one
command after another ends badly. Prints for each the status, the reason, the seconds until both were there,
and the processes that are left of it; then whether the first command was disturbed.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import psutil

from client import TrainingClient
from client.demo.local_service import free_url, service_at

MARK = "TRAINING_TASK_ID"
LIMIT_S = 30.0
WITNESS = "import time\nfor n in range(100000):\n    print('tick', n)\n    time.sleep(0.1)"
HOLDER = """\
import os, signal, subprocess, sys
hold = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('held'); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", hold], start_new_session=True)
sys.exit(3)
"""
MEMORY = "import resource\nresource.setrlimit(resource.RLIMIT_AS, (10**9, 10**9))\nx = bytearray(2 * 10**9)"


class Fault(NamedTuple):
    name: str
    script: str
    expected: tuple[str, str]
    cause: Callable[[TrainingClient, str], None] | None = None


def kill(_client: TrainingClient, task_id: str) -> None:
    trainers = [each for each in processes_of(task_id) if "-c" in each.cmdline()]
    os.kill(trainers[0].pid, signal.SIGKILL)


def stop(client: TrainingClient, task_id: str) -> None:
    client.stop(task_id)


FAULTS = (
    Fault("kill -9", "import time; print('ready'); time.sleep(600)", ("failed", "killed_by_signal_9"), kill),
    Fault("segfault", "import ctypes; print('ready'); ctypes.string_at(0)", ("failed", "killed_by_signal_11")),
    Fault("exit 3", "import sys; print('ready'); sys.exit(3)", ("failed", "exit_code_3")),
    Fault("address-space limit", MEMORY, ("failed", "out_of_memory")),
    Fault("infinite output, stopped", "while True: print('y' * 60)", ("cancelled", "user_stop"), stop),
    Fault("grandchild that holds the pipe", HOLDER, ("failed", "exit_code_3")),
)


def main() -> None:
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # progress, in a pipe too
    url = free_url()
    settings = {"ALLOW_COMMANDS": "true", "MAX_TRAINING_CONCURRENT_CPU": "2"}
    with (
        tempfile.TemporaryDirectory() as scratch,
        service_at(url, Path(scratch) / "state", environment=settings),
        TrainingClient(url) as client,
    ):
        witness = start(client, scratch, WITNESS)
        for fault in FAULTS:
            suffer(client, scratch, fault)
        ticks = [line.message for line in client.history(witness) if line.message.startswith("tick")]
        client.stop(witness)
        client.wait(witness)
        assert ticks == [f"tick {number}" for number in range(len(ticks))]
        print(
            f"the other command: {len(ticks)} lines meanwhile, none missing; its end: {len(processes_of(witness))} left"
        )


def start(client: TrainingClient, folder: str, script: str) -> str:
    return client.start(command=[sys.executable, "-c", script], working_dir=folder, device="cpu").task_id


def suffer(client: TrainingClient, folder: str, fault: Fault) -> None:
    task_id = start(client, folder, fault.script)
    if fault.cause:
        next(line for line in client.follow(task_id) if line.stage and not line.message.startswith("T"))
        time.sleep(1.0)  # let it print
    began = time.monotonic()
    if fault.cause:
        fault.cause(client, task_id)
    while not (task := client.status(task_id)).status.is_terminal and time.monotonic() - began < LIMIT_S:
        time.sleep(0.02)
    took = time.monotonic() - began
    left = processes_of(task_id)
    is_true = (task.status, task.reason) == fault.expected
    print(f"{fault.name:32} {task.status:10} {task.reason:22} {took:5.2f} s, {len(left)} processes left", end="")
    print("" if is_true else f"  EXPECTED {fault.expected}")


def processes_of(task_id: str) -> list[psutil.Process]:
    """Every process of the machine that was started for the task, by the mark in its environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == task_id and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


if __name__ == "__main__":
    main()
