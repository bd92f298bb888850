"""Whether the service shows what real trainers print.

    python -m benchmarks.trainers [--folder demo/trainers] [--only keras]

Installs trainers from the package index into an environment of their own, starts the real service, and has
it run each as a `command`, as a user of that library would write it. Then compares the last values in the
trainer's raw output with what the service shows. Exit status 1 if any differs, or a trainer fails.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.trainers.catalogue import STEP, TRAINERS, Trainer
from benchmarks.trainers.environment import HERE, prepare, versions
from client import TrainingClient
from client.demo.local_service import free_url, service_at
from models.schemas import StoredLogEntry, TaskResponse, TaskStatus
from services.executors.supervised import OUTPUT

FOLDER = HERE.parents[1] / "demo/trainers"
COLUMNS = (28, 9, 6, 10, 6, 14, 24, 24)


@dataclass(frozen=True)
class Compared:
    name: str
    printed: float | None
    """`None`: it is not in the output, so there is nothing to compare with."""
    shown: float | None

    @property
    def is_equal(self) -> bool:
        return self.printed is not None and self.printed == self.shown


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="for the environment and what the trainings write")
    parser.add_argument("--python", type=Path, help="an interpreter that has the trainers already")
    parser.add_argument("--only", default="", help="trainers whose name contains this")
    arguments = parser.parse_args(words)
    folder = arguments.folder.absolute()
    python = arguments.python.absolute() if arguments.python else prepare(folder / "venv")
    chosen = [trainer for trainer in TRAINERS if arguments.only.lower() in trainer.name.lower()]
    version = versions(python, [trainer.package for trainer in chosen])
    scratch = folder / time.strftime("runs/%Y-%m-%d-%H-%M-%S")
    url, is_right = free_url(), bool(chosen)
    with service_at(url, scratch / "state", environment={"ALLOW_COMMANDS": "true"}), TrainingClient(url) as client:
        print_row("trainer", "version", "lines", "status", "s", "value", "printed last", "shown", "equal")
        for trainer in chosen:
            began = time.monotonic()
            task = train(client, trainer, python, scratch)
            seconds = time.monotonic() - began
            entries = list(client.history(task.task_id))
            output = (scratch / "state/runs" / task.task_id / OUTPUT).read_bytes().decode("utf-8", "replace")
            results = compare(trainer, output, shown(task, entries))
            is_right &= task.status == TaskStatus.COMPLETED and all(result.is_equal for result in results)
            start = [trainer.name, version[trainer.package], f"{len(entries)}", task.status, f"{seconds:.1f}"]
            for result in results:
                verdict = "yes" if result.is_equal else "NO"
                print_row(*start, result.name, text(result.printed), text(result.shown), verdict)
                start = [""] * len(start)
    print("Every value is what was printed." if is_right else "NOT everything is what was printed.")
    return 0 if is_right else 1


def train(client: TrainingClient, trainer: Trainer, python: Path, scratch: Path) -> TaskResponse:
    """The task when it is over. Stopped if this program is, because a command outlives the service."""
    script, *arguments = trainer.command
    working_dir = scratch / trainer.name
    working_dir.mkdir(parents=True)
    settings = {"KERAS_HOME": "keras", "YOLO_CONFIG_DIR": "yolo"}  # instead of the home directory
    task = client.start(
        command=[str(python), str(HERE / "scripts" / script), *arguments],
        working_dir=working_dir,
        env={"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "KERAS_BACKEND": "torch", **settings},
        device="cpu",
        description=trainer.name,
    )
    try:
        return client.wait(task.task_id)
    except BaseException:
        client.stop(task.task_id)
        client.wait(task.task_id)
        raise


def shown(task: TaskResponse, entries: list[StoredLogEntry]) -> dict[str, float | None]:
    metrics = task.latest_metrics.model_dump(exclude_unset=True) if task.latest_metrics else {}
    return metrics | {STEP: next((entry.step for entry in reversed(entries) if entry.step is not None), None)}


def compare(trainer: Trainer, output: str, shown: Mapping[str, float | None]) -> list[Compared]:
    """Every value that the trainer is known to print, as it stands last in `output`, beside what is shown."""
    results = []
    for name, find in trainer.printed.items():
        try:
            printed = find(output)
        except (IndexError, ValueError):
            printed = None
        results.append(Compared(name, printed, shown.get(name)))
    return results


def text(value: float | None) -> str:
    """As printed: every digit, and no `.0` where the value is a count."""
    return "-" if value is None else f"{value:.0f}" if value == int(value) else repr(value)


def print_row(*cells: str) -> None:
    print(*(cell.ljust(width) for cell, width in zip(cells, COLUMNS, strict=False)), *cells[len(COLUMNS) :])


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # progress, in a pipe too
    sys.exit(main())
