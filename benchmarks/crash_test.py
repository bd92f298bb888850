"""Whether anything that a client was told is lost when the service or a trainer is killed.

    python benchmarks/crash_test.py [--kills 200] [--seed 0]

Starts the real service, with clients that start, stop, watch, poll and delete tasks all the time. Again and
again the service, or a trainer, gets SIGKILL: during the start reply, in the middle of an epoch, of a
checkpoint, of a commit, of a stop, of its own restart. The store that it leaves is looked at, the service is
started again, and all is compared with what the clients have been told. Prints what was found; exit status 1
where a promise is broken, and then the files stay for a look at them.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.crash.checkpoints import Checkpoints, Loader
from benchmarks.crash.clients import Clients
from benchmarks.crash.kills import SORTS, Scene, Sort, schedule
from benchmarks.crash.ledger import Ledger, Promise
from benchmarks.crash.restart import check_killed_store, check_open_store, check_orphans, check_stops
from benchmarks.crash.service import DidNotStart, Service
from benchmarks.crash.work import Work
from client.demo.local_service import free_url

PROGRESS_EVERY = 10
FINISH_LIMIT_S = 120.0


def main() -> int:
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # progress, in a pipe too
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="crash-test-"))
    test = CrashTest(folder, arguments.seed)
    asyncio.run(test.run(schedule(arguments.kills, random.Random(arguments.seed))))
    test.report()
    if test.ledger.broken:
        print(f"Everything that was written is in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


class CrashTest:
    """One run. `ledger` says what was found."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.ledger = Ledger()
        self.kills: Counter[str] = Counter()
        self.hits: Counter[str] = Counter()
        self.seconds: dict[str, float] = dict.fromkeys((sort.name for sort in SORTS), 0.0)
        self.restarts: list[float] = []
        self._random = random.Random(seed)
        self._service = Service(free_url(), folder)
        self._work = Work(folder, self._service.state_dir, self._random)
        self._began = time.monotonic()

    async def run(self, sorts: Sequence[Sort]) -> None:
        """A kill of each of `sorts`, one after another."""
        self._work.write_images()
        loader = await Loader.start()
        checkpoints = Checkpoints(loader.load)
        self._service.start()
        try:
            await self._service.answers()
            async with asyncio.TaskGroup() as group:
                clients = Clients(self._service, self._work, self.ledger, self._random, group)
                clients.begin()
                scene = Scene(self._service, clients, self._work, self.ledger, self._random)
                for number, sort in enumerate(sorts, start=1):
                    began = time.monotonic()
                    await self._one(scene, sort, checkpoints)
                    self.seconds[sort.name] += time.monotonic() - began
                    if number % PROGRESS_EVERY == 0:
                        self._progress(number)
                await clients.finish(FINISH_LIMIT_S)
            await checkpoints.check(self.ledger)
            self._service.kill()
            check_killed_store(self._service.store, self.ledger)
        except* DidNotStart as error:
            self.ledger.break_(Promise.STARTS, str(error.exceptions[0]))
        finally:
            await loader.close()
            self._service.end()
            self._work.end_all()

    async def _one(self, scene: Scene, sort: Sort, checkpoints: Checkpoints) -> None:
        self.kills[sort.name] += 1
        self.hits[sort.name] += await sort.kill(scene)
        if not self._service.is_up.is_set():
            check_killed_store(self._service.store, self.ledger)
            self._service.start()
            self.restarts.append(await self._service.answers())
            check_open_store(self._service.store, self.ledger)
            await check_orphans(self._service, self._work, self.ledger)
            await check_stops(self.ledger)
        await checkpoints.check(self.ledger)

    def _progress(self, number: int) -> None:
        lines = sum(len(task.lines) for task in self.ledger.tasks.values())
        print(
            f"{number:4} kills, {time.monotonic() - self._began:4.0f} s: {len(self.ledger.tasks)} tasks, "
            f"{len(self.ledger.active)} of them active, {lines} lines seen, {len(self.ledger.broken)} promises broken"
        )

    def report(self) -> None:
        print(f"\n{'killed':38} {'kills':>5} {'in the moment':>13} {'seconds each':>12}")
        for sort in SORTS:
            kills = self.kills[sort.name]
            each = self.seconds[sort.name] / max(kills, 1)
            print(f"{sort.name:38} {kills:5} {self.hits[sort.name]:13} {each:12.1f}")
        restarts = sorted(self.restarts)
        if restarts:
            print(
                f"\n{len(restarts)} restarts: median {restarts[len(restarts) // 2]:.1f} s, worst {restarts[-1]:.1f} s"
            )
        kinds = Counter(str(task.kind) for task in self.ledger.tasks.values() if task.acknowledged)
        ends = Counter(" ".join(filter(None, task.end)) for task in self.ledger.tasks.values() if task.end)
        for name, counts in (("tasks acknowledged", kinds), ("ends", ends)):
            print(f"{name}: " + ", ".join(f"{count} {what}" for what, count in counts.most_common()))
        print()
        broken, known = self.ledger.counts(), self.ledger.tasks.values()
        among = {
            Promise.TASKS: f"of {sum(task.acknowledged for task in known)}",
            Promise.LINES: f"of {sum(len(task.lines) for task in known)} that viewers saw",
            Promise.CHECKPOINTS: f"of {self.ledger.looked_at[Promise.CHECKPOINTS]} that were loaded",
            Promise.INTEGRITY: f"of {self.ledger.looked_at[Promise.INTEGRITY]} looks at one",
            Promise.STARTS: f"of {len(restarts)} restarts",
        }
        for promise in Promise:
            print(f"{promise:75} {broken[promise]:4} {among.get(promise, '')}".rstrip())


if __name__ == "__main__":
    sys.exit(main())
