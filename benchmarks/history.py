"""How long history and comparison take where there are a million points: in one series, and over fifty tasks.

    python benchmarks/history.py [--points 1000000]

Prints milliseconds of each question, of a service that has just been started first, and the milliseconds of reading and
encoding every point of the long series as the other side. Fewer than 300 are promised for 2,000 points a series.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))

from models.schemas import TaskStatus
from services.base_service import BaseService
from services.log_entry import LogEntry, StatusChange
from services.storage.database import Database
from services.task_state import TaskState
from tests.service_process import APP, ServiceProcess

EPOCH = 1000
RUNS = 50
RUN_POINTS = 2000
SPIKE = 1e6
TIMES = 5


def fill(base: BaseService, task_id: str, count: int, spike: int) -> None:
    now = datetime.now(UTC)
    request = {"model": "resnet18", "num_classes": 2, "train_path": "/t", "val_path": "/v", "save_path": "/s"}
    state = TaskState(
        task_id=task_id,
        request=request,
        output_dir="/s",
        device="cpu",
        created_at=now,
        updated_at=now,
        status=TaskStatus.RUNNING,
    )
    queue = base.create_log_queue(task_id, state)
    for number in range(count):
        loss = SPIKE if number == spike else random.random()
        metrics = {"epoch": 1 + number // EPOCH, "total_steps": EPOCH, "train_loss": loss}
        queue.put(LogEntry(task_id, "INFO", "a line", metrics, step=1 + number % EPOCH))
    queue.put(LogEntry(task_id, "INFO", "end", change=StatusChange(TaskStatus.COMPLETED, "finished")))
    base._writer.flush(600)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=1_000_000)
    points = parser.parse_args().points
    with tempfile.TemporaryDirectory() as scratch:
        state_dir = Path(scratch) / "state"
        state_dir.mkdir()
        print(f"writing {points:,} points of one task and {RUNS} x {RUN_POINTS:,} of others", flush=True)
        base = BaseService(Database(f"sqlite:///{state_dir / 'training.db'}"))
        began = time.perf_counter()
        fill(base, "long", points, spike=points // 3)
        for number in range(RUNS):
            fill(base, f"run-{number}", RUN_POINTS, spike=-1)
        print(f"{(points + RUNS * RUN_POINTS) / (time.perf_counter() - began):,.0f} points a second\n", flush=True)
        base.close()
        return ask(Path(scratch), state_dir, points)


def ask(folder: Path, state_dir: Path, points: int) -> int:
    runs = [f"run-{number}" for number in range(RUNS)]
    questions = {
        "whole": "/long/metrics?names=train_loss",
        "by time": "/long/metrics?names=train_loss&x=time",
        "last tenth": f"/long/metrics?names=train_loss&after={points - points // 10}",
        "compare long with a run": "/compare?ids=long,run-0&names=train_loss",
        f"compare {RUNS} runs, 40 points each": f"/compare?ids={','.join(runs)}&max_points=40",
        f"compare {RUNS} runs, {RUN_POINTS:,} points each": f"/compare?ids={','.join(runs)}",
        "every point (the other side)": "/long/metrics/export?format=jsonl",
    }
    with (
        ServiceProcess(APP, folder=folder, STATE_DIR=str(state_dir)).start() as service,
        httpx.Client(base_url=f"{service.url}/api/v2/training", timeout=600) as http,
    ):
        print(f"{'':44} {'first':>9} {'median':>9}")
        for name, path in questions.items():
            taken = []
            for _ in range(1 if "every" in name else TIMES):
                began = time.perf_counter()
                answer = http.get(path).raise_for_status()
                taken.append(1000 * (time.perf_counter() - began))
                if name == "whole":
                    assert max(answer.json()["series"][0]["values"]) == SPIKE, "the spike has vanished"
            print(f"{name:44} {taken[0]:6.0f} ms {statistics.median(taken):6.0f} ms", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
