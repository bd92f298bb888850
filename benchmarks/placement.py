"""How long tasks wait for a place on a cluster of many nodes, by Ray's own model of resources.

    python -m benchmarks.placement [--nodes 200] [--gpus 8] [--days 14] [--tasks 1000 2000 3000 4000] [--jobs N]

A simulation: tasks come at random (a Poisson process), ask for 1, 2, 4 or 8 GPUs, and run for hours (log-normal). Each
is a placement group of bundles of one GPU, put on the nodes by the function with which Ray's autoscaler packs bundles
onto nodes (`get_bin_pack_residual`); a group is placed whole or waits, the oldest first, and smaller ones behind it are
tried too, as Ray does. Before that a task waits while the service follows as many jobs as it does at a time
(`services.scheduler.JOBS_AT_A_TIME`). Printed for each number of tasks a day: GPUs in use, and how long tasks wait for
the service and for the cluster.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from ray.autoscaler._private.resource_demand_scheduler import get_bin_pack_residual

from benchmarks.figures import machine, percentile
from services.scheduler import JOBS_AT_A_TIME

GPUS_OF_TASKS = {1: 0.6, 2: 0.15, 4: 0.15, 8: 0.1}
"""GPUs of a task, and how many of the tasks ask for as many."""
MEDIAN_HOURS, SPREAD = 3.0, 1.0
"""Of the log-normal duration: its mean is 4.9 hours."""
DAY_S = 86_400.0


@dataclass(order=True)
class Task:
    """One task; times in seconds."""

    arrives: float
    gpus: int = field(compare=False)
    lasts: float = field(compare=False)
    followed: float = field(default=math.inf, compare=False)
    placed: float = field(default=math.inf, compare=False)
    nodes: list[int] = field(default_factory=list, compare=False)


class Cluster:
    """Nodes, and what of them is free."""

    def __init__(self, nodes: int, gpus: int) -> None:
        self.free: list[dict[str, Any]] = [{"GPU": float(gpus)} for _ in range(nodes)]
        self.used = 0

    def place(self, task: Task) -> bool:
        """All bundles of a task, or none."""
        if task.gpus > sum(node["GPU"] for node in self.free):
            return False
        bundles: list[dict[str, Any]] = [{"GPU": 1.0}] * task.gpus
        left, packed = get_bin_pack_residual(self.free, bundles)
        if left:
            return False
        after = [{"GPU": float(node["GPU"])} for node in packed]
        for number, (node, new) in enumerate(zip(self.free, after, strict=True)):
            task.nodes += [number] * int(node["GPU"] - new["GPU"])
        self.free = after
        self.used += task.gpus
        return True

    def leave(self, task: Task) -> None:
        for number in task.nodes:
            self.free[number]["GPU"] += 1.0
        self.used -= task.gpus


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=200)
    parser.add_argument("--gpus", type=int, default=8, help="of each node")
    parser.add_argument("--days", type=float, default=14)
    parser.add_argument("--tasks", type=int, nargs="+", default=[1000, 2000, 3000, 4000], help="a day")
    parser.add_argument("--jobs", type=int, default=JOBS_AT_A_TIME, help="that the service follows at a time")
    arguments = parser.parse_args()
    print(machine("ray"))
    print(f"{arguments.nodes} nodes of {arguments.gpus} GPUs, {arguments.days:g} days, {arguments.jobs} jobs at a time")
    heads = ("tasks/day", "GPUs in use", "share", "for the service p50, p99", "for the cluster p50, p99", "placed in")
    print("".join(f"{head:>26}" for head in heads))
    for rate in arguments.tasks:
        report(rate, *simulate(rate, arguments.nodes, arguments.gpus, arguments.days, arguments.jobs))


def report(rate: int, tasks: list[Task], in_use: float, total: int, seconds_each: float) -> None:
    for_service = [(task.followed - task.arrives) / 3600 for task in tasks]
    for_cluster = [(task.placed - task.followed) / 3600 for task in tasks]
    cells = (
        f"{rate:,}",
        f"{in_use:,.0f} of {total:,}",
        f"{100 * in_use / total:.0f} %",
        *(f"{percentile(waits, 50):.1f} h, {percentile(waits, 99):.1f} h" for waits in (for_service, for_cluster)),
        f"{1000 * seconds_each:.1f} ms",
    )
    print("".join(f"{cell:>26}" for cell in cells), flush=True)


def simulate(rate: int, nodes: int, gpus: int, days: float, jobs: int) -> tuple[list[Task], float, int, float]:
    """The tasks that got a place, GPUs in use on average, GPUs there are, and seconds of computing for a placement."""
    arrivals, cluster = deque(arriving(rate, days)), Cluster(nodes, gpus)
    queued: deque[Task] = deque()
    waiting: list[Task] = []
    running: list[tuple[float, Task]] = []
    done: list[Task] = []
    now = gpu_seconds = computing = 0.0
    tries, followed, ends = 0, 0, days * DAY_S
    while now < ends:
        then = min(arrivals[0].arrives if arrivals else ends, running[0][0] if running else ends, ends)
        gpu_seconds += cluster.used * (then - now)
        now = then
        while running and running[0][0] <= now:
            cluster.leave(heapq.heappop(running)[1])
            followed -= 1
        while arrivals and arrivals[0].arrives <= now:
            queued.append(arrivals.popleft())
        while queued and followed < jobs:
            task = queued.popleft()
            task.followed = now
            waiting.append(task)
            followed += 1
        began = time.perf_counter()
        refused = math.inf  # what needs as many GPUs finds no place either
        for task in list(waiting):
            if task.gpus >= refused:
                continue
            tries += 1
            if cluster.place(task):
                task.placed = now
                waiting.remove(task)
                heapq.heappush(running, (now + task.lasts, task))
                done.append(task)
            else:
                refused = min(refused, task.gpus)
        computing += time.perf_counter() - began
    return done, gpu_seconds / ends, nodes * gpus, computing / max(1, tries)


def arriving(rate: int, days: float) -> list[Task]:
    """The same ones for the same arguments."""
    numbers = random.Random(rate)
    tasks: list[Task] = []
    now = 0.0
    while (now := now + numbers.expovariate(rate / DAY_S)) < days * DAY_S:
        gpus = numbers.choices(list(GPUS_OF_TASKS), list(GPUS_OF_TASKS.values()))[0]
        tasks.append(Task(now, gpus, 3600 * numbers.lognormvariate(math.log(MEDIAN_HOURS), SPREAD)))
    return tasks


if __name__ == "__main__":
    main()
