"""Processes that read images for a training on a GPU, which takes them faster than one process can decode.

Threads share Python's lock, and came to a fifth of what the GPU takes. Processes are not forked from this one, whose
threads and locks a fork would copy, nor started by multiprocessing, which has each of them import the main module: by a
program of their own (`trainer.reader`). An image comes back in memory that all of them share, at its place in its
batch. Whoever has decoded an image and keeps it (`DecodedImages`) is asked for it again.

Shapes: B images of a batch, C = 3 channels (red, green, blue), H = W = pixels of a side.
"""

from __future__ import annotations

import mmap
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from trainer.errors import TrainingFailed, TrainingStopped
from trainer.framing import Frame
from trainer.reader import Answer, Job, Pixels, Place, pixels_in, received, send
from trainer.split import Split

MOST_READERS = 16
MOST_BATCHES = 4
"""Batches that are in memory at a time: the one that is asked for, and those after it. Two at least, and no more than
take `BATCHES_BYTES`."""
BATCHES_BYTES = 2**28
WORTH_S = 4.0
"""About as long as the processes take to begin. What this process can read in less, they are not started for."""
_PATIENCE_S = 0.1
"""Between two looks at whether to stop."""
_PATIENCE_WITH_SERVER_S = 10.0
_PACKAGES = Path(__file__).parents[1]
_PROGRAM = """import signal
for number in signal.SIGINT, signal.SIGTERM:
    signal.signal(number, signal.SIG_IGN)
from trainer.reader import main
main()
"""
"""Whoever stops a training signals all of its processes. What that comes to, the training decides."""


def readers_for(device: torch.device, *, workers: int) -> int:
    """How many processes read for each of the `workers` that train on this machine.

    On the CPU none: where the training has all cores, decoding beside it costs more than it gives.
    """
    return max(1, min(MOST_READERS, len(os.sched_getaffinity(0)) // workers)) if device.type == "cuda" else 0


@dataclass(slots=True)
class _Reader:
    connection: Connection
    is_there: bool = False
    waiting: int = 0
    """Images that it was told to read and has not."""
    count_kept: int = 0
    bytes_kept: int = 0


@dataclass
class _Running:
    """The processes, and the memory that they share: room for `buffers` batches of `bytes_of_batch`."""

    server: subprocess.Popen[bytes]
    control: socket.socket
    descriptor: int
    readers: list[_Reader]
    memory: mmap.mmap | None = None
    bytes_of_batch: int = 0
    buffers: int = 0

    def make_room(self, bytes_of_batch: int) -> None:
        if bytes_of_batch > self.bytes_of_batch:
            self.bytes_of_batch = bytes_of_batch
            self.buffers = max(2, min(MOST_BATCHES, BATCHES_BYTES // bytes_of_batch))
            os.ftruncate(self.descriptor, self.buffers * bytes_of_batch)
            self.memory = mmap.mmap(self.descriptor, 0)

    def pixels(self, buffer: int, images: int, size: int) -> Pixels:
        assert self.memory is not None
        return pixels_in(self.memory, buffer * self.bytes_of_batch, images, size)

    def end(self) -> int:
        """How the server has ended, or ends now; negative: by a signal.

        Until all readers are there it may be importing, and sees nothing: what it has forked by then ends by itself.
        """
        for reader in self.readers:
            reader.connection.close()
        self.control.close()
        if not all(reader.is_there for reader in self.readers):
            self.server.kill()
        try:
            status = self.server.wait(_PATIENCE_WITH_SERVER_S)
        except subprocess.TimeoutExpired:
            self.server.kill()
            status = self.server.wait()
        os.close(self.descriptor)
        return status


def _started(count: int, budget: int) -> _Running:
    """Raises OSError: there are no descriptors or processes left for them."""
    path = os.pathsep.join(filter(None, [str(_PACKAGES), os.environ.get("PYTHONPATH")]))
    with ExitStack() as ours, ExitStack() as theirs:
        ends, its_ends = [], []
        for _ in range(1 + count):
            end, its_end = socket.socketpair()
            ends.append(ours.enter_context(end))
            its_ends.append(theirs.enter_context(its_end).fileno())
        descriptor = os.memfd_create("images")
        ours.callback(os.close, descriptor)
        os.ftruncate(descriptor, mmap.PAGESIZE)
        arguments = [its_ends[0], descriptor, budget, *its_ends[1:]]
        server = subprocess.Popen(  # noqa: S603 - of this program
            [sys.executable, "-P", "-c", _PROGRAM, *map(str, arguments)],
            pass_fds=[descriptor, *its_ends],
            stdin=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": path},
        )
        ours.pop_all()
    control, *connections = ends
    return _Running(server, control, descriptor, [_Reader(Connection(end.detach())) for end in connections])


@dataclass
class Readers:
    """Of one training, from `start` to `close`. They may be started again.

    Args:
        count: of processes.
        budget: bytes of decoded images that all of them keep, together.
        largest: pixels of the side of the largest image that is asked for.
    """

    count: int
    budget: int
    largest: int
    trouble: str = ""
    """Why there are none, and none are tried again: this machine has no room for them."""
    _running: _Running | None = None
    _owners: dict[tuple[str, int], int] = field(default_factory=dict)

    @property
    def is_started(self) -> bool:
        return self._running is not None

    def start(self) -> None:
        """Start the processes, unless there is `trouble`. It takes them seconds, while this one goes on."""
        if self._running is None and not self.trouble:
            try:
                self._running = _started(self.count, self.budget)
            except OSError as error:
                self.trouble = str(error)

    def are_there(self, should_stop: Callable[[], bool]) -> bool:
        """Whether all of them wait for work by now. Where they cannot, there is `trouble`, and the training goes on
        without. Raises `TrainingStopped`."""
        if self._running is None:
            return False
        try:
            for reader in self._running.readers:
                if not reader.is_there and reader.connection.poll():
                    received(reader.connection)
                    reader.is_there = True
        except (EOFError, OSError):
            why = self._why_they_ended(should_stop)
            if isinstance(why, TrainingStopped):
                raise why from None
            self.trouble = str(why)
            return False
        return all(reader.is_there for reader in self._running.readers)

    def read(
        self,
        split: Split,
        groups: Sequence[Sequence[int]],
        frame: Frame,
        *,
        size: int,
        at_least: int,
        should_stop: Callable[[], bool],
    ) -> Generator[tuple[Pixels, dict[int, Exception]], None, None]:
        """(pixels_BHWC; errors by position) of each group of indices: valid until the next is asked for.

        They have to be there. Raises `TrainingStopped`, and `TrainingFailed` where a process was killed.
        """
        running = self._running
        assert running is not None
        running.make_room(max([1, *map(len, groups)]) * self.largest**2 * 3)
        told: deque[list[tuple[_Reader, list[Place]]]] = deque()
        try:
            for number, indices in enumerate(groups):
                for next_one in range(number + len(told), min(number + running.buffers, len(groups))):
                    offset = next_one % running.buffers * running.bytes_of_batch
                    told.append(self._tell(running.readers, split, groups[next_one], frame, offset, size, at_least))
                errors: dict[int, Exception] = {}
                for reader, images in told[0]:
                    while not reader.connection.poll(_PATIENCE_S):
                        if should_stop():
                            raise TrainingStopped
                    errors |= self._answered(running.readers.index(reader), reader, split, images)
                told.popleft()
                yield running.pixels(number % running.buffers, len(indices), size), errors
        except (EOFError, OSError) as error:
            raise self._why_they_ended(should_stop) from error
        finally:
            if told:  # they are at work on what nobody wants any more
                self.close()

    @property
    def kept(self) -> tuple[int, int]:
        """How many decoded images are kept, and their bytes."""
        readers = self._running.readers if self._running else []
        return sum(each.count_kept for each in readers), sum(each.bytes_kept for each in readers)

    def close(self) -> None:
        """End the processes, and with them what they keep."""
        if self._running is not None:
            self._running.end()
            self._running = None
            self._owners.clear()

    def _tell(
        self,
        readers: list[_Reader],
        split: Split,
        indices: Sequence[int],
        frame: Frame,
        offset: int,
        size: int,
        at_least: int,
    ) -> list[tuple[_Reader, list[Place]]]:
        """Have a batch read: each image by whoever keeps it, or who has least to do."""
        shares: dict[int, list[Place]] = {}
        waiting = [reader.waiting for reader in readers]
        for position, index in enumerate(indices):
            number = self._owners.get((split.name, index), -1)
            if number < 0:
                number = waiting.index(min(waiting))
            waiting[number] += 1
            shares.setdefault(number, []).append((position, index, split.paths[index]))
        for number, images in shares.items():
            readers[number].waiting = waiting[number]
            send(readers[number].connection, Job(offset, size, frame, at_least, split.folders, images))
        return [(readers[number], images) for number, images in shares.items()]

    def _answered(self, number: int, reader: _Reader, split: Split, images: list[Place]) -> dict[int, Exception]:
        """The errors by position of what a reader was told to read."""
        answer: Answer = received(reader.connection)
        reader.count_kept, reader.bytes_kept = answer.count_kept, answer.bytes_kept
        reader.waiting -= len(images)
        for _, index, _ in images:
            self._owners.pop((split.name, index), None)
        self._owners |= {(split.name, index): number for index in answer.kept}
        return answer.errors

    def _why_they_ended(self, should_stop: Callable[[], bool]) -> Exception:
        """What to raise where a process is gone, and the others with it."""
        assert self._running is not None
        with suppress(subprocess.TimeoutExpired):
            self._running.server.wait(_PATIENCE_WITH_SERVER_S)  # one that is killed lets go of its connection first
        status, self._running = self._running.end(), None
        self._owners.clear()
        if should_stop():
            return TrainingStopped()
        if status == -signal.SIGKILL:
            message = (
                "A process that reads images was killed, most often by the system for want of memory: lower cache_mb "
                "or batch_size, or give the training more memory."
            )
            return TrainingFailed("out_of_memory", message)
        return RuntimeError(f"A process that reads images ended with exit status {status}.")
