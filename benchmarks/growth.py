"""Whether a service whose store has grown for years answers as one that has just been set up.

    python -m benchmarks.growth [--tasks 10000] [--lines 10000000] [--rounds 5] [--requests 200] [--quick]

Fills two stores: a large one, where a tenth of all lines are one task's, and a small one with so few tasks that a page
of the list is just full. Then a service on each, started at the same time and asked in turn by one client at a time:
p99 of each question in the large store, in the small one, and their ratio. The pages of both files are as the filling
has left them in the system's cache. Ten million lines take some 5 GB of disk and a few minutes.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import text

from benchmarks.figures import MIB, load_after, machine, percentile
from benchmarks.growing.filling import LONG, fill
from benchmarks.growing.questions import SCAN, Asker, Sizes
from client import TrainingClient
from client.demo.digits import digit_folders
from services.storage.database import Database
from services.storage.store import Store
from tests.service_process import APP, ServiceProcess

FEW = 101
"""Tasks of the small store: two pages of the list."""
FEW_LINES = 3_000
"""Of its longest task: a page of warnings is in it."""
SCAN_SHARE = 50
"""Every line of a task is asked for more seldom, by this."""
LARGE, SMALL = "large", "small"


@dataclass(frozen=True)
class Filled:
    """A store on disk."""

    folder: Path
    sizes: Sizes


def main() -> None:
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # progress, in a pipe too
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--lines", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=200, help="of each question in each round")
    parser.add_argument("--folder", type=Path, help="where to put the stores; default: where temporary files are")
    parser.add_argument("--quick", action="store_true", help="1,000 tasks, 300,000 lines, two rounds of 50")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.tasks, arguments.lines, arguments.rounds, arguments.requests = 1_000, 300_000, 2, 50
    print(machine("fastapi", "sqlalchemy"))
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        folder = Path(scratch)
        stores = make(folder, arguments.tasks, arguments.lines)
        train_path, val_path = digit_folders(folder / "digits")
        request = {
            "model": "resnet18",
            "num_classes": 10,
            "train_path": str(train_path),
            "val_path": str(val_path),
            "save_path": str(folder / "runs"),
            "image_size": 32,
            "pretrained": False,
            "device": "cpu",
        }
        measure(stores, request, arguments)


def make(folder: Path, tasks: int, lines: int) -> dict[str, Filled]:
    """Both stores, filled."""
    each = max(200, (lines - lines // 10) // (tasks - 1))
    stores = {}
    for name, count, long_lines in ((SMALL, FEW, FEW_LINES), (LARGE, tasks, lines // 10)):
        state = folder / name
        state.mkdir()
        began = time.monotonic()
        fill(state / "training.db", count, each, long_lines)
        stores[name] = Filled(state, sizes := look(state, count, each))
        size = sum(file.stat().st_size for file in state.glob("training.db*")) / MIB
        total = sizes.tasks * sizes.lines + sizes.long_lines
        took = time.monotonic() - began
        print(f"{name} store: {count:,} tasks, {total:,} lines, {size:,.0f} MiB, filled in {took:.0f} s")
    print(f"{shutil.disk_usage(folder).free / 2**30:.0f} GiB of the disk are free")
    return stores


def look(state: Path, tasks: int, lines: int) -> Sizes:
    """What is there, as the service will see it."""
    database = Database(f"sqlite:///{state / 'training.db'}")
    try:
        long = Store(database).get_task(LONG)
        assert long is not None
        with database.engine.connect() as connection:
            counted = connection.scalar(text("SELECT count(*) FROM log_entries"))
        assert counted == (tasks - 1) * lines + long.last_seq, counted
        return Sizes(tasks - 1, lines, long.last_seq)
    finally:
        database.close()


def measure(stores: dict[str, Filled], request: dict[str, Any], arguments: argparse.Namespace) -> None:
    with ExitStack() as stack:
        askers, started = {}, {}
        for name, store in stores.items():
            began = time.monotonic()
            process = ServiceProcess(APP, folder=store.folder, STATE_DIR=str(store.folder))
            service = stack.enter_context(process.start())
            started[name] = time.monotonic() - began
            asker = Asker(service.url, store.sizes, request, live_task(service.url, store.folder))
            stack.callback(asker.close)
            asker.set_no_training()
            askers[name] = asker
        print(f"seconds to start: {', '.join(f'{name} {seconds:.1f}' for name, seconds in started.items())}")
        p50: dict[tuple[str, str], list[float]] = defaultdict(list)
        p99: dict[tuple[str, str], list[float]] = defaultdict(list)
        for number in range(arguments.rounds + 1):  # the first one warms up
            for name in (SMALL, LARGE) if number % 2 else (LARGE, SMALL):
                for question, ask in askers[name].questions().items():
                    count = arguments.requests if number else 10
                    times = [1000 * ask() for _ in range(max(1, count // SCAN_SHARE) if question == SCAN else count)]
                    if number:
                        p50[question, name].append(statistics.median(times))
                        p99[question, name].append(percentile(times, 99))
                askers[name].tidy()
        report(p50, p99, arguments)


def live_task(url: str, folder: Path) -> str:
    log = folder / "live.log"
    log.write_text("Epoch [3/10] started\nTrain Loss: 0.5234, Train Accuracy: 82.45%\n")
    with TrainingClient(url) as client:
        return client.import_log(log, follow=True).task_id


def report(
    p50: dict[tuple[str, str], list[float]], p99: dict[tuple[str, str], list[float]], arguments: argparse.Namespace
) -> None:
    print(
        f"\nmilliseconds; medians of {arguments.rounds} alternated rounds of {arguments.requests} requests, one client"
    )
    heads = ("large p50", "small p50", "ratio", "large p99", "small p99", "ratio")
    print(f"{'':34}" + "".join(f"{head:>11}" for head in heads))
    for question in dict.fromkeys(question for question, _ in p50):
        cells = []
        for figures in (p50, p99):
            large, small = (statistics.median(figures[question, name]) for name in (LARGE, SMALL))
            pairs = zip(figures[question, LARGE], figures[question, SMALL], strict=True)
            cells += [f"{large:11.1f}", f"{small:11.1f}", f"{statistics.median(a / b for a, b in pairs):11.2f}"]
        print(f"{question:34}" + "".join(cells))
    print(load_after())


if __name__ == "__main__":
    main()
