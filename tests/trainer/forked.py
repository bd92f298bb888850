"""`python -m trainer` from a process that has imported it already: that takes longer than a few small images do.

What is forked is a process of its own in every respect: it can be killed, and what it prints is read from a pipe.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TextIO

IMPORTED = ["pytest", "trainer.loop", "trainer.workers", "tests.trainer.forked"]


@contextmanager
def forked_trainer(stderr: Path, arguments: list[str], prelude: str = "") -> Iterator[tuple[BaseProcess, TextIO]]:
    """The process, on one thread, and what it prints; `prelude` is run in it before. It has ended when this has."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    ours, its = context.Pipe(duplex=False)
    process = context.Process(target=_main, args=(its, str(stderr), prelude, arguments))
    process.start()
    its.close()
    try:
        with ours, open(ours.fileno(), encoding="utf-8", closefd=False) as output:
            yield process, output
            output.read()
        process.join()
    finally:
        process.kill()
        process.join()


def _main(pipe: Connection, stderr: str, prelude: str, arguments: list[str]) -> None:
    import torch

    torch.set_num_threads(1)
    os.dup2(pipe.fileno(), 1)
    pipe.close()
    errors = os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(errors, 2)
    os.close(errors)
    sys.argv[1:] = arguments
    exec(prelude, {})
    runpy.run_module("trainer", run_name="__main__", alter_sys=True)
