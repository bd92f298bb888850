"""Whether the service holds on to anything while trainings start and end for as long as you like.

    python benchmarks/soak.py [--minutes 10] [--viewers 200]

Starts the real service and warms it up with the load to come, so that what is made once and kept (torch,
worker threads, pooled connections) is there. Notes what it holds at idle. Then trainings start and end
without pause: the built-in trainer in threads of the service, commands as processes; they complete, fail,
are stopped, are killed, and half of them are deleted. Viewers come and go: most read, some are cut off, some
resume by Last-Event-ID, some stop reading. At the end the service is left alone until nothing changes any
more, and what it holds is compared. Exit status 1 where a promise is broken.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import httpx
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.soaking.gauge import Sample, growth, sample, settled, write_csv
from benchmarks.soaking.trainings import Trainings, write_images
from benchmarks.soaking.viewers import Viewers
from client.demo.local_service import free_url, service_at

SAMPLE_EVERY_S = 1.0
SETTLE_LIMIT_S = 120.0
GROWTH_LIMIT = 1.0
"""MiB a minute. What trainings need for a moment moves the line through ten minutes by more, so what is held is
measured at idle."""
SETTINGS = {"ALLOW_COMMANDS": "true", "MAX_TRAINING_CONCURRENT_CPU": "4"}
LANES = 2
"""Tasks of each sort at a time."""
MEMORY: dict[str, Callable[[Sample], float]] = {
    "RSS": lambda sample: sample.rss,
    "anonymous": lambda sample: sample.anonymous,
}


def main() -> int:
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # progress, in a pipe too
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--viewers", type=int, default=200)
    parser.add_argument("--warm-up", type=float, default=1.5, metavar="MINUTES")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=Path, metavar="FILE.csv", help="write down all that was measured")
    arguments = parser.parse_args()
    url = free_url()
    with tempfile.TemporaryDirectory() as scratch, service_at(url, Path(scratch) / "state", environment=SETTINGS) as it:
        assert it is not None, "a port that was free is not any more"
        write_images(Path(scratch))
        soak = Soak(url, Path(scratch), psutil.Process(it.pid), arguments.viewers, arguments.seed, arguments.samples)
        return asyncio.run(soak.run(60 * arguments.minutes, 60 * arguments.warm_up))


class Soak:
    def __init__(
        self, url: str, folder: Path, service: psutil.Process, viewers: int, seed: int, csv: Path | None
    ) -> None:
        self._url = url
        self._service = service
        self._wanted = viewers
        self._csv = csv
        self._trainings = Trainings(url, folder, random.Random(seed))
        self._viewers = Viewers(url, self._trainings, random.Random(seed + 1))

    async def run(self, duration_s: float, warm_up_s: float) -> int:
        print(f"warming up for {warm_up_s / 60:g} minutes, then {duration_s / 60:g} minutes")
        await self._load(warm_up_s)
        before = await self._idle("before")
        first = await self._load(duration_s / 2)
        half = await self._idle("at half-time")
        second = await self._load(duration_s / 2)
        after = await self._idle("after")
        await self._trainings.close()
        if self._csv is not None:
            write_csv(self._csv, [*first, *second])
        return self._report(second, before, half, after)

    async def _load(self, duration_s: float) -> list[Sample]:
        samples: list[Sample] = []
        with suppress(TimeoutError):
            async with asyncio.timeout(duration_s), asyncio.TaskGroup() as group:
                group.create_task(self._trainings.run(LANES))
                group.create_task(self._viewers.run(self._wanted))
                group.create_task(self._watch(samples))
        await self._trainings.finish()
        return samples

    async def _watch(self, samples: list[Sample]) -> None:
        began = shown = time.monotonic()
        while True:
            await asyncio.sleep(SAMPLE_EVERY_S)
            samples.append(await asyncio.to_thread(sample, self._service))
            if samples[-1].at - shown > 30:
                shown = samples[-1].at
                ended, viewers = self._trainings.counts.total(), self._viewers
                print(
                    in_words(f"{(shown - began) / 60:4.1f} min", samples[-1]),
                    f"| {ended} tasks ended, {viewers.watching} watching, {viewers.counts.total()} came",
                )

    async def _idle(self, when: str) -> Sample:
        found = await settled(
            self._service, limit_s=SETTLE_LIMIT_S, touch=lambda: httpx.get(f"{self._url}/api/v1/health", timeout=30)
        )
        print(in_words(f"idle {when}", found))
        return found

    def _report(self, second: Sequence[Sample], before: Sample, half: Sample, after: Sample) -> int:
        print()
        for name, counts in (("tasks", self._trainings.counts), ("viewers", self._viewers.counts)):
            print(f"{counts.total()} {name}: " + ", ".join(f"{what} {count}" for what, count in sorted(counts.items())))
        print(f"{self._viewers.lines} lines read by viewers")
        minutes = (second[-1].at - second[0].at) / 60
        table = Table()
        for name, value in MEMORY.items():
            held = (value(after) - value(half)) / minutes
            table.add(
                f"{name} held at idle, second half", f"{held:.2f} MiB/min", f"< {GROWTH_LIMIT:g}", held < GROWTH_LIMIT
            )
        for name, value in MEMORY.items():  # trainings come and go meanwhile: of a megabyte a minute this shows nothing
            slope, error = growth(second, value)
            table.tell(f"{name} under load, second half", f"{slope:.2f} ± {error:.2f} MiB/min")
        for what, was, now in (
            ("file descriptors at idle", before.descriptors, after.descriptors),
            ("threads at idle", before.threads, after.threads),
            ("child processes at idle", before.children, after.children),
        ):
            table.add(what, f"{was} -> {now}", "equal", was == now)
        table.add("lines that a viewer missed", str(self._viewers.missed), "0", self._viewers.missed == 0)
        return 0 if table.is_kept else 1


class Table:
    """Prints a row at a time; `is_kept` as long as every promise was."""

    def __init__(self) -> None:
        self.is_kept = True
        print(f"\n{'':40} {'measured':>24}  promised")

    def tell(self, what: str, measured: str) -> None:
        print(f"{what:40} {measured:>24}  nothing")

    def add(self, what: str, measured: str, promised: str, kept: bool) -> None:
        self.is_kept &= kept
        print(f"{what:40} {measured:>24}  {promised:9} {'ok' if kept else 'BROKEN'}")


def in_words(when: str, held: Sample) -> str:
    memory = f"RSS {held.rss:.1f} MiB, {held.anonymous:.1f} of it anonymous"
    return f"{when}: {memory}, {held.descriptors} descriptors, {held.threads} threads, {held.children} children"


if __name__ == "__main__":
    sys.exit(main())
