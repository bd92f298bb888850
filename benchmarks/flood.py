"""What a trainer that will not stop talking does to the service, and whether any of its lines is lost.

    python -m benchmarks.flood [--rate 100000] [--seconds 10]

Starts the real service. Then, beside each other: a command that prints numbered lines at the given rate,
one that prints a line of ten million characters, and one that prints 26 characters which take a
backtracking engine for ever, read with the pattern `(a+)+$`. Meanwhile the health route is asked without a
pause, as it was before on the idle service. Prints both delays and their ratio, how long the lines took to
be stored, and whether each of them is there, once and in order.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx

from client.demo.local_service import free_url, service_at

IDLE_S = 3.0
PAGE = 1000
FLOOD = """\
import sys, time
rate, seconds = int(sys.argv[1]), int(sys.argv[2])
began = time.monotonic()
for tenth in range(10 * seconds):
    first = tenth * rate // 10
    sys.stdout.write("".join(f"line {number} of a flood\\n" for number in range(first, first + rate // 10)))
    sys.stdout.flush()
    time.sleep(max(0.0, began + (tenth + 1) / 10 - time.monotonic()))
print(f"printed for {time.monotonic() - began:.2f} seconds")
"""
LONG = "print('x' * 10_000_000)"
EVIL = "print('a' * 25 + '!')"


def main() -> None:
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # progress, in a pipe too
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, default=100_000, help="lines a second")
    parser.add_argument("--seconds", type=int, default=10)
    arguments = parser.parse_args()
    url = free_url()
    settings = {"ALLOW_COMMANDS": "true", "MAX_TRAINING_CONCURRENT_CPU": "3"}
    with tempfile.TemporaryDirectory() as scratch, service_at(url, Path(scratch) / "state", environment=settings):
        flood(url, scratch, arguments.rate, arguments.seconds)


def flood(url: str, folder: str, rate: int, seconds: int) -> None:
    idle = delays_during(url, lambda: time.sleep(IDLE_S))
    print(f"idle: health {in_words(idle)}")
    flooding = start(url, folder, FLOOD, str(rate), str(seconds))
    others = [
        start(url, folder, LONG),
        start(url, folder, EVIL, metric_definitions=[{"name": "evil", "regex": "(a+)+$"}]),
    ]
    began = time.monotonic()
    busy = delays_during(url, lambda: wait_until_ended(url, [flooding, *others]))
    print(f"flooded: health {in_words(busy)}; p99 {p99(busy) / p99(idle):.1f} times idle")
    lines = rate * seconds
    print(f"{lines} lines stored {time.monotonic() - began:.1f} s after the command had begun")
    check(url, flooding, lines)
    for task_id in others:
        print(f"{task_id}: {httpx.get(f'{url}/api/v2/training/{task_id}').json()['status']}")


def start(url: str, folder: str, script: str, *arguments: str, **fields: object) -> str:
    body = {"command": [sys.executable, "-c", script, *arguments], "working_dir": folder, "device": "cpu", **fields}
    answer = httpx.post(f"{url}/api/v2/training/start", json=body, timeout=30)
    answer.raise_for_status()
    return str(answer.json()["task_id"])


def delays_during(url: str, what: object) -> list[float]:
    """Sorted delays of the health route, in seconds, while `what()` runs."""
    assert callable(what)
    running = threading.Thread(target=what)
    delays = []
    with httpx.Client(base_url=url, timeout=60) as client:
        running.start()
        while running.is_alive():
            asked = time.perf_counter()
            client.get("/api/v1/health").raise_for_status()
            delays.append(time.perf_counter() - asked)
            time.sleep(0.005)
    running.join()
    return sorted(delays)


def in_words(delays: list[float]) -> str:
    median, worst = 1000 * delays[len(delays) // 2], 1000 * delays[-1]
    return f"p50 {median:.1f} ms, p99 {1000 * p99(delays):.1f} ms, worst {worst:.1f} ms of {len(delays)}"


def p99(delays: list[float]) -> float:
    return delays[int(0.99 * len(delays))]


def wait_until_ended(url: str, task_ids: list[str]) -> None:
    shown = 0.0
    with httpx.Client(base_url=url, timeout=60) as client:
        while True:
            tasks = [client.get(f"/api/v2/training/{task_id}").json() for task_id in task_ids]
            if all(task["status"] in ("completed", "failed", "cancelled") for task in tasks):
                return
            if time.monotonic() - shown > 5:
                shown = time.monotonic()
                print("  ", ", ".join(task["status"] for task in tasks))
            time.sleep(0.2)


def check(url: str, task_id: str, lines: int) -> None:
    expected, after = 0, 0
    with httpx.Client(base_url=url, timeout=60) as client:
        while True:
            page = client.get(f"/api/v2/training/{task_id}/logs/history", params={"after": after, "limit": PAGE}).json()
            for entry in page["entries"]:
                if entry["message"] == f"line {expected} of a flood":
                    expected += 1
                elif entry["message"].startswith("printed for"):
                    print(f"The command {entry['message']}.")
            if "next_after" not in page:
                break
            after = page["next_after"]
    print(f"{expected} of {lines} lines are there, once and in order")
    assert expected == lines


if __name__ == "__main__":
    main()
