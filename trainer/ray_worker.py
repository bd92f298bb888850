"""One worker of a training on a Ray cluster: an actor that holds the place, and beside it the process that trains.

The trainer is a process of its own there too: what kills it, an assertion on the GPU or the kernel for want of memory,
leaves somebody who can tell. It does not outlive the actor.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1
_TAIL_BYTES = 2**16


class Worker:
    """Answers `stop` while it is in `run`, so it needs two threads (`max_concurrency=2`)."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = threading.Event()
        self._libc = ctypes.CDLL(None)

    def free_address(self) -> tuple[str, int]:
        """Where rank 0 can be met: what Ray calls this node, and a port that is free now."""
        import ray

        with socket.create_server(("", 0)) as free:
            return str(ray.util.get_node_ip_address()), free.getsockname()[1]  # type: ignore[no-untyped-call]

    def run(self, spec: dict[str, Any], environment: dict[str, str], rank: int) -> tuple[int, str]:
        """Run the process to its end: its exit status, and of all but the first what it printed last."""
        command = spec["command"] or [sys.executable, "-P", "-m", "trainer", *spec["arguments"]]
        with tempfile.TemporaryFile() as own, Path(spec["output"]).open("ab") as shared:
            output = own if rank else shared
            try:
                self._process = subprocess.Popen(  # noqa: S603 - that is the task
                    command,
                    cwd=spec["cwd"],
                    env={**os.environ, **spec["env"], **environment, "PYTHONUNBUFFERED": "1"},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                    preexec_fn=self._dies_with_us,
                )
            except OSError as error:
                shared.write(f"ERROR: {error.strerror}: {error.filename!r}\n".encode())
                return 127, ""
            if self._stopped.is_set():
                self._send(signal.SIGTERM)
            status = self._process.wait()
            self._send(signal.SIGKILL)  # what it has left running
            size = own.seek(0, os.SEEK_END)
            own.seek(max(0, size - _TAIL_BYTES))
            return status, own.read().decode("utf-8", "backslashreplace").rstrip("\n")

    def stop(self, grace_s: float) -> None:
        """Ask the process to end, and end it when it does not."""
        self._stopped.set()
        process = self._process
        if process is None:
            return
        self._send(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
            return
        self._send(signal.SIGKILL)

    def _send(self, signum: signal.Signals) -> None:
        assert self._process is not None
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signum)

    def _dies_with_us(self) -> None:
        self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
