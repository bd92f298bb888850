"""The comparison: each tracker in turn logs the same values, and another process looks when it can read them."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from benchmarks.figures import median_and_range, percentile
from benchmarks.tracking.readers import VALUES
from benchmarks.tracking.tools import SERVICE, TOOLS, candidates

REPOSITORY = Path(__file__).resolve().parents[2]
PAUSE_S = 0.02
"""Between two steps, where delays are measured: fifty lines a second."""


@dataclass(frozen=True)
class Timing:
    """Of one run. `call_us` is what the trainer waits in the call, a value; delays go from the call to the sight of
    the step's values by the other process. `missing` values were not seen before the reader lost patience."""

    call_us: float
    per_value_us: float
    p50_ms: float
    p99_ms: float
    missing: int


def compare(rounds: int, steps: int, peers: Path | None) -> None:
    """Print a table of all trackers that are there."""
    pythons: dict[str, str] = {}
    for key, tool in TOOLS.items():
        python = tool.interpreter(candidates(key, peers))
        if python is None:
            print(f"{tool.name} is left out: {', '.join(tool.packages)} not installed")
        else:
            pythons[key] = python
    bursts: dict[str, list[Timing]] = defaultdict(list)
    paced: dict[str, list[Timing]] = defaultdict(list)
    for number in range(rounds):
        for key in list(pythons)[:: -1 if number % 2 else 1]:
            bursts[key].append(run(key, pythons[key], steps, 0.0))
            paced[key].append(run(key, pythons[key], max(20, steps // 10), PAUSE_S))
        print(f"  round {number + 1} of {rounds}", flush=True)
    report(pythons, bursts, paced, steps, rounds)


def run(key: str, python: str, steps: int, pause_s: float) -> Timing:
    with tempfile.TemporaryDirectory() as folder:
        arguments = [key, folder, str(steps), str(pause_s)]
        with start(python, "write", arguments) as writer, start(python, "read", arguments) as reader:
            assert writer.stdin is not None
            expect_ready(writer)
            expect_ready(reader)
            writer.stdin.write("go\n")
            writer.stdin.flush()
            times = read_line(writer)
            seen = read_line(reader)
            writer.stdin.close()
            reader.wait()
            writer.wait()
    return timing(times, seen)


def start(python: str, side: str, arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [python, "-m", "benchmarks.tracking", side, *arguments],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def expect_ready(process: subprocess.Popen[str]) -> None:
    line = output(process).readline()
    assert line == "ready\n", f"{process.args!r} said {line!r}"


def read_line(process: subprocess.Popen[str]) -> Any:
    return json.loads(output(process).readline())


def output(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdout is not None
    return process.stdout


def timing(times: Sequence[tuple[float, float]], seen: Sequence[tuple[int, float]]) -> Timing:
    """Match what was logged with what was seen: a step is there once as many values are as it and those before have."""
    delays, sights = [], iter(seen)
    values, when = next(sights, (0, 0.0))
    for step, (began, _) in enumerate(times, start=1):
        while values < VALUES * step:
            found = next(sights, None)
            if found is None:
                break
            values, when = found
        if values < VALUES * step:
            break
        delays.append(when - began)
    in_calls = sum(returned - began for began, returned in times)
    seen_values = VALUES * len(delays)
    assert delays, "nothing was seen"
    return Timing(
        call_us=1e6 * in_calls / (VALUES * len(times)),
        per_value_us=1e6 * (when - times[0][0]) / seen_values,
        p50_ms=1000 * statistics.median(delays),
        p99_ms=1000 * percentile(delays, 99),
        missing=VALUES * len(times) - seen_values,
    )


def report(
    pythons: dict[str, str], bursts: dict[str, list[Timing]], paced: dict[str, list[Timing]], steps: int, rounds: int
) -> None:
    print(f"{VALUES} values a step, medians (ranges) of {rounds} alternated rounds. In a row: {steps} steps, from")
    print(f"the first call until another process has read the last value. Paced: a step every {1000 * PAUSE_S:.0f} ms.")
    print("Ratio: time a value in a row, against this service.")
    heads = ("us a value, in a row", "us in the call", "paced: p50 ms", "paced: p99 ms")
    print(f"{'':34}" + "".join(f"{head:>26}" for head in heads) + f"{'ratio':>8}  survives by then")
    ours = [each.per_value_us for each in bursts[SERVICE]]
    for key, python in pythons.items():
        tool, found = TOOLS[key], bursts[key]
        columns = (
            [each.per_value_us for each in found],
            [each.call_us for each in paced[key]],
            [each.p50_ms for each in paced[key]],
            [each.p99_ms for each in paced[key]],
        )
        name = tool.name if key.startswith(SERVICE) else f"{tool.name} {tool.version(python)}"
        ratio = statistics.median(them / us for them, us in zip(columns[0], ours, strict=True))
        print(f"{name:34}" + "".join(f"{median_and_range(c):>26}" for c in columns) + f"{ratio:8.2f}  {tool.survives}")
        missing = sum(each.missing for each in (*found, *paced[key]))
        if missing:
            print(f"  {missing} of its values could not be read in time")
