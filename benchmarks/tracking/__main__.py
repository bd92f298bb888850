"""One side of the comparison.

    python -m benchmarks.tracking write TOOL FOLDER STEPS SECONDS_BETWEEN
    python -m benchmarks.tracking read TOOL FOLDER STEPS SECONDS_BETWEEN

`write` opens a run, says `ready`, waits for a line, logs the steps and prints `[[began, returned], ...]`; at the end of
its input it closes the run. `read` says `ready`, looks again and again how many values there are, and prints
`[[values, when], ...]` as soon as all are, or nothing has come for a while. Times are those of the monotonic clock,
which all processes of the machine share.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from benchmarks.tracking.readers import VALUES
from benchmarks.tracking.tools import TOOLS, Tool

PATIENCE_S = 30.0
LOOK_EVERY_S = 0.001


def write(tool: Tool, folder: Path, steps: int, pause_s: float) -> None:
    sys.stdout = sys.stderr  # trackers talk
    run = tool.open(folder)
    say("ready")
    sys.stdin.readline()
    times, due = [], time.monotonic()
    for step in range(1, steps + 1):
        if pause_s:
            due += pause_s
            time.sleep(max(0.0, due - time.monotonic()))
        values = {"train_loss": 1 / step, "train_acc": 100 - 50 / step, "learning_rate": 0.001}
        began = time.monotonic()
        run.log(step, values)
        times.append((began, time.monotonic()))
    say(json.dumps(times))
    sys.stdin.read()
    run.close()


def read(tool: Tool, folder: Path, steps: int, pause_s: float) -> None:
    count = tool.count(folder)
    say("ready")
    seen: list[tuple[int, float]] = []
    waits = time.monotonic() + 4 * PATIENCE_S  # the other side opens its run first, which can take long
    while (now := time.monotonic()) < waits:
        values = count()
        if values > (seen[-1][0] if seen else 0):
            seen.append((values, time.monotonic()))
            waits = now + PATIENCE_S + pause_s
            if values >= VALUES * steps:
                break
        time.sleep(LOOK_EVERY_S)
    say(json.dumps(seen))


def say(line: str) -> None:
    assert sys.__stdout__ is not None
    print(line, file=sys.__stdout__, flush=True)


def main() -> None:
    side, tool, folder, steps, pause = sys.argv[1:]
    (write if side == "write" else read)(TOOLS[tool], Path(folder), int(steps), float(pause))


if __name__ == "__main__":
    main()
