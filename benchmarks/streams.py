"""What a log with many viewers costs: the service, sse-starlette used plainly, and the least that asyncio can do.

    python -m benchmarks.streams [--viewers 100 500 1000 2000] [--rounds 3] [--seconds 10] [--clients 2] [--quick]

Fifty lines a second, each with the time at which it was due. In the service they take the way of every trainer's
lines: log record, parser, store, commit, ring, stream. The other two (`benchmarks/peers`) have the same fields made up
and keep nothing. Each runs alone, in turn; viewers are processes of their own. Printed: lines that arrived a second,
as a share of those that were due, lines that were skipped, how late they were, CPU time of the server for each, and its
memory for each viewer, the connection included. Where less than all arrive, the machine is too small for that many,
viewers included: then the CPU time a line is the figure to compare.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import astuple, dataclass
from json import loads
from pathlib import Path
from typing import IO

import psutil

from benchmarks.fanning.ticks import GO, RATE
from benchmarks.figures import load_after, machine, median_and_range
from benchmarks.load import REPOSITORY
from benchmarks.soaking.gauge import sample
from client import TrainingClient
from tests.service_process import ServiceProcess

SETTLE_S = 2.0
"""Between the first line and the first that counts."""
SERVICE, PLAIN, RAW = "service", "sse-starlette, plainly", "asyncio, raw"
PROGRAMS = {SERVICE: "benchmarks.fanning.service", PLAIN: "benchmarks.peers.plain_sse", RAW: "benchmarks.peers.raw_sse"}
HEADS = ("lines/s", "% of due", "% worst viewer", "lost", "p50 ms", "p99 ms", "CPU us/line", "KB/viewer")


@dataclass(frozen=True)
class Figures:
    """Of one run, in the order of `HEADS`."""

    rate: float
    share: float
    worst_share: float
    lost: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    kilobytes: float


def main() -> None:
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # progress, in a pipe too
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--viewers", type=int, nargs="+", default=[100, 500, 1000, 2000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--clients", type=int, default=2, help="processes that the viewers are shared among")
    parser.add_argument("--quick", action="store_true", help="100 and 500 viewers, one round of three seconds")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.viewers, arguments.rounds, arguments.seconds = [100, 500], 1, 3.0
    print(machine("uvicorn", "sse-starlette", "starlette"))
    print(f"{RATE:g} lines a second to each viewer; medians (ranges) of {arguments.rounds} alternated rounds")
    for viewers in arguments.viewers:
        found: dict[str, list[Figures]] = defaultdict(list)
        for number in range(arguments.rounds):
            for name in list(PROGRAMS)[:: -1 if number % 2 else 1]:
                found[name].append(run(name, viewers, arguments.clients, arguments.seconds))
        report(viewers, found)
    print(load_after())


def report(viewers: int, found: dict[str, list[Figures]]) -> None:
    print(f"\n{viewers:6} viewers{'':10}" + "".join(f"{head:>24}" for head in HEADS))
    for name in PROGRAMS:
        columns = list(zip(*map(astuple, found[name]), strict=True))
        print(f"{name:24}" + "".join(f"{median_and_range(column):>24}" for column in columns))
    for name in (PLAIN, RAW):
        pairs = zip(found[SERVICE], found[name], strict=True)
        ratio = statistics.median(ours.cpu_us / theirs.cpu_us for ours, theirs in pairs)
        print(f"  CPU time a line, {SERVICE} to {name}: {ratio:.2f}")


def run(name: str, viewers: int, clients: int, seconds: float) -> Figures:
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        folder = Path(scratch)
        settings = {"STATE_DIR": str(folder / "state"), "ALLOW_COMMANDS": "true", GO: str(folder / "go")}
        server = ServiceProcess("-m", PROGRAMS[name], folder=folder, **settings)
        stack.enter_context(server.start())
        url = open_log(server.url, folder) if name == SERVICE else f"{server.url}/logs"
        process = psutil.Process(server.pid)
        before = sample(process).anonymous
        counts = [viewers // clients + (number < viewers % clients) for number in range(clients)]
        watching = [stack.enter_context(viewer_process(url, count)) for count in counts if count]
        for each in watching:
            expect_ready(each)
        (folder / "go").touch()
        time.sleep(SETTLE_S)
        began = cpu_seconds(process)
        tell(watching)
        time.sleep(seconds)
        tell(watching)
        cpu = cpu_seconds(process) - began
        after = sample(process).anonymous
        answers = [loads(read_from(each).readline()) for each in watching]
    delays: Counter[int] = Counter()
    for answer in answers:
        delays.update({int(delay): count for delay, count in answer["delays"].items()})
    lines, lasted = delays.total(), max(answer["seconds"] for answer in answers)
    assert lines, f"nothing arrived from {name}"
    return Figures(
        rate=lines / lasted,
        share=100 * lines / (viewers * RATE * lasted),
        worst_share=100 * min(answer["fewest"] for answer in answers) / (RATE * lasted),
        lost=sum(answer["lost"] for answer in answers),
        p50_ms=quantile(delays, 50),
        p99_ms=quantile(delays, 99),
        cpu_us=1e6 * cpu / lines,
        kilobytes=(after - before) * 1024 / viewers,
    )


def open_log(url: str, folder: Path) -> str:
    """Start the task whose log it is; nobody runs the command."""
    with TrainingClient(url) as client:
        task = client.start(command=[sys.executable], working_dir=str(folder), device="cpu")
        return f"{url}/api/v2/training/{task.task_id}/logs"


@contextmanager
def viewer_process(url: str, count: int) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.fanning.viewers", url, str(count)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def expect_ready(process: subprocess.Popen[str]) -> None:
    assert read_from(process).readline() == "ready\n", "a viewer was refused"


def tell(processes: Sequence[subprocess.Popen[str]]) -> None:
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()


def read_from(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdout is not None
    return process.stdout


def cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def quantile(delays: Counter[int], percent: float) -> float:
    """In milliseconds, from tenths of them."""
    left = delays.total() * percent / 100
    for delay in sorted(delays):
        left -= delays[delay]
        if left <= 0:
            return delay / 10
    raise AssertionError("a share above one")


if __name__ == "__main__":
    main()
