"""A process that goes on after a training wants its memory back, however that ended."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def memory_returned() -> Iterator[None]:
    """Let go of all that was made inside, and hand the GPU's memory back.

    Whoever catches an exception keeps its traceback, and that the frames with the network in them: their
    variables are cleared, so that the traceback still says where, and holds nothing. Only then is there
    anything for CUDA's cache to give back. No network of torchvision refers to itself in a circle, so the
    garbage collector, which would hold up every other thread, has nothing to do here.
    """
    try:
        yield
    except BaseException as error:
        for one in _chain(error):
            traceback.clear_frames(one.__traceback__)
        raise
    finally:
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.empty_cache()


def _chain(error: BaseException) -> list[BaseException]:
    """`error` and all that it was raised from or during."""
    found: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is not None and all(one is not other for other in found):
            found.append(one)
            waiting += [one.__cause__, one.__context__]
    return found
