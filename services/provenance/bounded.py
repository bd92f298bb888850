"""Runs a program that may hang, or print without an end, for a bounded time and a bounded output."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

MAX_ERROR = 4_096
_CHUNK = 65_536
_REAP_S = 5.0
"""What a killed process gets to disappear. One that waits for a dead disk does not; it is left behind."""


class TooSlow(Exception):
    """It had not ended in time, and was killed."""


@dataclass(frozen=True, slots=True)
class Output:
    """Attributes:
    is_cut: there was more than was asked for; the program was killed then, and `status` says nothing.
    """

    status: int
    data: bytes
    error: str
    is_cut: bool


def run(
    command: Sequence[str], *, cwd: str, env: Mapping[str, str], deadline: float, max_bytes: int = 65_536
) -> Output:
    """What a program prints, from a session of its own that ends with it.

    Args:
        deadline: of `time.monotonic()`.

    Raises:
        TooSlow: it has not ended by then.
        OSError: it cannot be started.
    """
    process = subprocess.Popen(  # noqa: S603 - the caller's program
        command,
        cwd=cwd,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout as output, process.stderr as errors, selectors.DefaultSelector() as ready:
        found = {output: bytearray(), errors: bytearray()}
        for pipe in found:
            ready.register(pipe, selectors.EVENT_READ)
        try:
            while ready.get_map() and len(found[output]) <= max_bytes:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TooSlow
                for key, _ in ready.select(left):
                    pipe = output if key.fileobj is output else errors
                    if piece := os.read(key.fd, _CHUNK):
                        found[pipe] += piece if pipe is output else piece[: MAX_ERROR - len(found[errors])]
                    else:
                        ready.unregister(pipe)
            is_cut = len(found[output]) > max_bytes
            if not is_cut:
                process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired as error:
            raise TooSlow from error
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            try:
                process.wait(_REAP_S)
            except subprocess.TimeoutExpired:
                process.returncode = -signal.SIGKILL  # it will be that; nobody waits for it any more
    status = process.returncode or 0
    return Output(status, bytes(found[output][:max_bytes]), found[errors].decode(errors="replace").strip(), is_cut)
