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
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TextIO

IMPORTED = ["pytest", "trainer.loop", "trainer.workers", "tests.trainer.forked"]


@contextmanager
def forked_trainer(folder: Path, arguments: list[str], prelude: str = "") -> Iterator[tuple[BaseProcess, TextIO]]:
    """The process, on one thread, and what it prints; `prelude` is run in it before. stderr goes to `folder`/stderr."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    pipe = folder / "stdout"
    os.mkfifo(pipe)
    process = context.Process(target=_main, args=(str(pipe), str(folder / "stderr"), prelude, arguments))
    process.start()
    try:
        with pipe.open(encoding="utf-8") as output:
            yield process, output
            output.read()
        process.join()
    finally:
        process.kill()
        process.join()
        pipe.unlink()


def _main(pipe: str, stderr: str, prelude: str, arguments: list[str]) -> None:
    import torch

    torch.set_num_threads(1)
    for path, stream in ((pipe, sys.__stdout__), (stderr, sys.__stderr__)):
        assert stream is not None
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(descriptor, stream.fileno())
        os.close(descriptor)
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    sys.argv[1:] = arguments
    exec(prelude, {})
    runpy.run_module("trainer", run_name="__main__", alter_sys=True)
