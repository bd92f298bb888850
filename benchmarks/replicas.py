"""Ten thousand viewers of one log: all at the service that owns it, or spread over it and its read replicas.

    python -m benchmarks.replicas [--viewers 10000] [--replicas 3] [--rate 2] [--rounds 3] [--seconds 15]

All services share one PostgreSQL server, and the machine, with the viewers: what is compared is one process that sends
everything with several that share it. The lines take the way of every trainer's lines in the owner; a replica is woken
by the server's notification and reads them from there. Printed: lines that arrived a second, as a share of those that
were due, lines that were skipped, how late they were, and the CPU time of all services for each.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter, defaultdict
from contextlib import ExitStack
from json import loads
from pathlib import Path

import psutil
from sqlalchemy import create_engine, text

from benchmarks.fanning.ticks import GO
from benchmarks.figures import load_after, machine, median_and_range
from benchmarks.streams import (
    PROGRAMS,
    SERVICE,
    SETTLE_S,
    cpu_seconds,
    expect_ready,
    open_log,
    quantile,
    read_from,
    tell,
    viewer_process,
)
from tests.running_postgres import RunningPostgres
from tests.service_process import APP, ServiceProcess

HEADS = ("lines/s", "% of due", "lost", "p50 ms", "p99 ms", "CPU us/line")


def main() -> None:
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # progress, in a pipe too
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--viewers", type=int, default=10_000)
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--rate", type=float, default=2.0, help="lines a second")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15)
    arguments = parser.parse_args()
    os.environ["FAN_OUT_RATE"] = str(arguments.rate)
    print(machine("uvicorn", "sqlalchemy"))
    print(f"{arguments.viewers:,} viewers, {arguments.rate:g} lines a second; medians, {arguments.rounds} rounds")
    found: dict[int, list[tuple[float, ...]]] = defaultdict(list)
    for number in range(arguments.rounds):
        for replicas in (0, arguments.replicas)[:: -1 if number % 2 else 1]:
            found[replicas].append(run(arguments.viewers, replicas, arguments.rate, arguments.seconds))
        print(f"round {number + 1} of {arguments.rounds}")
    print(f"{'':22}" + "".join(f"{head:>26}" for head in HEADS))
    for replicas, rounds in sorted(found.items()):
        name = f"owner, {replicas} replicas"
        print(f"{name:22}" + "".join(f"{median_and_range(column):>26}" for column in zip(*rounds, strict=True)))
    print(load_after())


def run(viewers: int, replicas: int, rate: float, seconds: float) -> tuple[float, ...]:
    """Figures in the order of `HEADS`."""
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        folder = Path(scratch)
        postgres = RunningPostgres()
        stack.callback(postgres.stop)
        engine = create_engine(postgres.url("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text("CREATE DATABASE training"))
        engine.dispose()
        settings = {
            "DATABASE_URL": postgres.url("training").render_as_string(hide_password=False),
            "ALLOW_COMMANDS": "true",
            GO: str(folder / "go"),
        }
        programs = [("-m", PROGRAMS[SERVICE]), *[(APP,)] * replicas]
        services = [
            stack.enter_context(
                ServiceProcess(*program, folder=folder, **settings, STATE_DIR=str(folder / f"state{number}")).start()
            )
            for number, program in enumerate(programs)
        ]
        url = open_log(services[0].url, folder)
        path = url.removeprefix(services[0].url)
        watching = [
            stack.enter_context(viewer_process(service.url + path, viewers // len(services))) for service in services
        ]
        for each in watching:
            expect_ready(each)
        processes = [psutil.Process(service.pid) for service in services]
        (folder / "go").touch()
        time.sleep(SETTLE_S)
        began = sum(map(cpu_seconds, processes))
        tell(watching)
        time.sleep(seconds)
        tell(watching)
        cpu = sum(map(cpu_seconds, processes)) - began
        answers = [loads(read_from(each).readline()) for each in watching]
    delays: Counter[int] = Counter()
    for answer in answers:
        delays.update({int(delay): count for delay, count in answer["delays"].items()})
    lines, lasted = delays.total(), max(answer["seconds"] for answer in answers)
    due = (viewers // (replicas + 1)) * (replicas + 1) * rate * lasted
    lost = sum(answer["lost"] for answer in answers)
    return lines / lasted, 100 * lines / due, lost, quantile(delays, 50), quantile(delays, 99), 1e6 * cpu / lines


if __name__ == "__main__":
    main()
