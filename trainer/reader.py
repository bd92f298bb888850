"""Processes that read images, as a program of their own, which calls `main` here.

It imports what reading needs and then forks once for each connection, so that all of them together start as quickly as
one. Who has started it (`trainer.readers`) hands over descriptors: a socket on which nothing comes, the memory for the
pixels, and a connection for each reader. It and all of them end when the control socket is closed, which the end of the
training does too, whichever way that comes. Where a reader is gone, it ends the others and itself, in the same way.

Shapes: B images of a batch, C = 3 channels (red, green, blue), H = W = pixels of a side.
"""

# ruff: noqa: N806 - shape suffixes are upper case
from __future__ import annotations

import mmap
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from trainer.decoded_images import DecodedImages
from trainer.framing import Frame
from trainer.roots import Folders
from trainer.split import decode

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
Place = tuple[int, int, Path]
"""An image: position in its batch, index in its split, and where it is."""


class Job(NamedTuple):
    """Images of one batch that one reader is to read. `offset` (bytes) is that of the batch in the memory."""

    offset: int
    size: int
    frame: Frame
    at_least: int
    folders: Folders
    images: list[Place]


class Answer(NamedTuple):
    """`errors` by position. `kept` are the indices whose decoded images the reader has now; the counts are of all."""

    errors: dict[int, Exception]
    kept: list[int]
    count_kept: int
    bytes_kept: int


def send(connection: Connection, message: Job | Answer) -> None:
    """By pickle itself: torch teaches multiprocessing's to hand a tensor over by a file of its own."""
    connection.send_bytes(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))


def received(connection: Connection) -> Any:
    return pickle.loads(connection.recv_bytes())  # noqa: S301 - from a process of one's own


def pixels_in(memory: mmap.mmap, offset: int, images: int, size: int) -> Pixels:
    """pixels_BHWC of a batch."""
    return np.frombuffer(memory, np.uint8, images * size**2 * 3, offset).reshape(images, size, size, 3)


def read_on(connection: Connection, memory: int, budget: int) -> None:
    """What a reader does, until the other end of its connection is closed. `memory` is a descriptor."""
    kept = DecodedImages(budget)
    shared = mmap.mmap(memory, 0)
    answers: SimpleQueue[Answer] = SimpleQueue()
    Thread(target=_answer, args=(connection, answers), daemon=True).start()
    answers.put(Answer({}, [], 0, 0))  # it is there
    while True:
        try:
            job: Job = received(connection)
        except (EOFError, OSError):
            return
        if os.fstat(memory).st_size > len(shared):
            shared = mmap.mmap(memory, 0)
        answers.put(_done(job, kept, shared))


def _answer(connection: Connection, answers: SimpleQueue[Answer]) -> None:
    """In a thread, so that a reader takes its next job whatever becomes of its answer: whoever has jobs for it may be
    waiting to hand over one, and take no answer meanwhile."""
    try:
        while True:
            send(connection, answers.get())
    except OSError:  # nobody is there any more
        pass
    except Exception:  # noqa: BLE001 - whatever it is, it is the end
        traceback.print_exc()
    finally:
        os._exit(1)  # without it, the reader would go on and never be heard of again


def _done(job: Job, kept: DecodedImages, shared: mmap.mmap) -> Answer:
    errors: dict[int, Exception] = {}
    last = max(position for position, _, _ in job.images)
    pixels_BHWC = pixels_in(shared, job.offset, last + 1, job.size)
    for position, index, path in job.images:
        try:
            image_CHW = job.frame(decode(path, kept, at_least=job.at_least, folders=job.folders), index)
            pixels_BHWC[position] = image_CHW.permute(1, 2, 0).numpy()
        except Exception as error:  # noqa: BLE001 - it is raised where the image is asked for
            errors[position] = _portable(error)
    return Answer(errors, [index for _, index, path in job.images if path in kept], len(kept), kept.bytes)


def _portable(error: Exception) -> Exception:
    """What can be raised in another process: an exception may hold anything, or want other arguments than it has."""
    try:
        copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - one's own
    except Exception:  # noqa: BLE001
        copy = None
    return error if type(copy) is type(error) else RuntimeError(repr(error))


def serve(control: int, memory: int, budget: int, connections: Sequence[int]) -> int:
    """Fork a reader for each connection and wait; returns the exit status of the first that ended, negative: by signal.

    In a reader it does not return.
    """
    readers: dict[int, int] = {}  # process by its descriptor
    for connection in connections:
        process = os.fork()
        if not process:
            os.close(control)
            for other in connections:
                if other != connection:
                    os.close(other)
            read_on(Connection(connection), memory, budget // len(connections))
            os._exit(0)
        readers[os.pidfd_open(process)] = process
    for connection in connections:
        os.close(connection)
    ended = [readers.pop(each) for each in wait([control, *readers]) if isinstance(each, int) and each in readers]
    status = next(filter(None, (os.waitpid(process, 0)[1] for process in ended)), 0)
    for process in readers.values():
        os.kill(process, signal.SIGKILL)
    for process in readers.values():
        os.waitpid(process, 0)  # what they kept in memory is free once this process has ended
    return os.waitstatus_to_exitcode(status)


def main() -> None:
    """The arguments are two descriptors, of the control socket and the memory, the bytes that all readers may keep of
    decoded images, and the descriptor of each connection."""
    import trainer.variation  # noqa: F401 - each reader would import what is imported by no one before the fork

    Image.init()
    torch.set_num_threads(1)
    control, memory, budget, *connections = map(int, sys.argv[1:])
    status = serve(control, memory, budget, connections)
    if status < 0:  # the same end, for whoever waits for this process
        os.kill(os.getpid(), -status)
    sys.exit(status)
