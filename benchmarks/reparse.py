"""What reading a log again costs, and what others notice of it.

    python -m benchmarks.reparse [--lines 100000] [--rounds 3]

Starts the real service and lets it import a log with that many lines, then read it again with a pattern that
changes every line, as often as asked. Prints the time of both, their ratio, and how long the status of the
task took meanwhile, which was all old or all new each time.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx

from client.demo.local_service import free_url, service_at


def main() -> None:
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # progress, in a pipe too
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    url = free_url()
    with tempfile.TemporaryDirectory() as scratch, service_at(url, Path(scratch) / "state"):
        measure(url, Path(scratch) / "train.log", arguments.lines, arguments.rounds)


def measure(url: str, log: Path, lines: int, rounds: int) -> None:
    log.write_text("".join(f"batch {number} Dice: 0.{number}\n" for number in range(lines)))
    with httpx.Client(base_url=url, timeout=120) as client:
        began = time.perf_counter()
        answer = client.post("/api/v2/training/import", json={"path": str(log)}).raise_for_status()
        task_id = answer.json()["task_id"]
        while client.get(f"/api/v2/training/{task_id}").json()["status"] != "completed":
            time.sleep(0.1)
        importing = time.perf_counter() - began
        print(f"import of {lines} lines: {importing:.1f} s")
        times = []
        for number in range(rounds):
            name = f"own_{number}"
            body = {"metric_definitions": [{"name": name, "regex": "Dice: ([0-9.]+)"}]}
            ended = threading.Event()
            looking = threading.Thread(target=look, args=(url, task_id, name, float(f"0.{lines - 1}"), ended))
            looking.start()
            began = time.perf_counter()
            client.post(f"/api/v2/training/{task_id}/reparse", json=body).raise_for_status()
            times.append(time.perf_counter() - began)
            ended.set()
            looking.join()
            print(f"round {number + 1}: {times[-1]:.1f} s, {times[-1] / importing:.2f} of the import")
    median = statistics.median(times)
    print(f"Read again in {median:.1f} s (median), {1e6 * median / lines:.0f} us a line")


def look(url: str, task_id: str, name: str, last: float, ended: threading.Event) -> None:
    delays, news = [], 0
    with httpx.Client(base_url=url, timeout=60) as client:
        while not ended.wait(0.01):
            asked = time.perf_counter()
            metrics = client.get(f"/api/v2/training/{task_id}").json()["latest_metrics"]
            delays.append(time.perf_counter() - asked)
            assert metrics.get(name) in (None, last), metrics
            assert len([each for each in metrics if each.startswith("own_")]) <= 1, metrics
            news += name in metrics
    delays.sort()
    median, p99 = (1000 * delays[int(share * len(delays))] for share in (0.5, 0.99))
    print(f"  status meanwhile: p50 {median:.1f} ms, p99 {p99:.1f} ms; {news} of {len(delays)} answers were new")


if __name__ == "__main__":
    main()
