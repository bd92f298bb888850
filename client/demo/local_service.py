"""A service for a script to talk to: the one that runs already, else one of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

from client.errors import UNEXPECTED_ANSWER, ServiceError, ServiceUnreachable
from client.secrets import shown_url
from client.training_client import TrainingClient, is_loopback

APP = Path(__file__).resolve().parents[2] / "app_refactored.py"
START_LIMIT = 60.0
STOP_LIMIT = 20.0
"""Seconds, for a machine that is busy; both take about two on one that is not."""


class NoServiceError(RuntimeError):
    """There is no service to talk to, and none could be started; the message says why."""


@contextmanager
def service_at(
    url: str,
    state_dir: Path,
    *,
    token: str | None = None,
    environment: Mapping[str, str] | None = None,
    say: Callable[[str], None] = print,
) -> Iterator[subprocess.Popen[bytes] | None]:
    """While the context is open, a service answers at `url`; yields its process if it was started here.

    One is started only on this machine and only where nothing listens, keeps its files in `state_dir`,
    writes what it says to `state_dir/service.log`, and is stopped at the end. Raises `NoServiceError`.
    """
    if answers(url, token):
        yield None
        return
    address = httpx.URL(url)
    shown = shown_url(address)
    if address.scheme != "http" or address.path != "/" or not is_loopback(address.host):
        raise NoServiceError(f"No training service answers at {shown}; start one there, or give another --url.")
    if listens(address):
        raise NoServiceError(f"Something listens at {shown}, but it is not the training service; give another --url.")
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    log = state_dir / "service.log"
    say(f"No service answers at {shown}; starting one, which writes to {log}")
    process = _start(address, state_dir, log, environment or {})
    try:
        _wait_until_ready(process, url, token, log)
        yield process
    finally:
        _stop(process)


def answers(url: str, token: str | None = None) -> bool:
    """Whether the training service answers; raises `NoServiceError` where something else does."""
    try:
        with TrainingClient(url, token=token, timeout=3.0) as client:
            client.health()
    except ServiceUnreachable:
        return False
    except ServiceError as error:
        if error.code == UNEXPECTED_ANSWER:
            shown = shown_url(httpx.URL(url))
            raise NoServiceError(f"Something answers at {shown}, but it is not the training service.") from error
        raise
    return True


def listens(address: httpx.URL) -> bool:
    try:
        socket.create_connection((address.host, address.port or 80), timeout=3.0).close()
    except OSError:
        return False
    return True


def free_url() -> str:
    """An address on this machine that nothing uses at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def _start(address: httpx.URL, state_dir: Path, log: Path, extra: Mapping[str, str]) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "HOST": "127.0.0.1" if address.host == "localhost" else address.host,
        "PORT": str(address.port or 80),
        "STATE_DIR": str(state_dir.resolve()),
        **extra,
    }
    with log.open("wb") as output:
        return subprocess.Popen(  # noqa: S603 (this interpreter, our own file)
            [sys.executable, str(APP)],
            env=environment,
            cwd=APP.parent,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is the script's: it stops the training first, then the service
        )


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, token: str | None, log: Path) -> None:
    deadline = time.monotonic() + START_LIMIT
    while not answers(url, token):
        if process.poll() is not None:
            raise NoServiceError(f"The service did not start: {_last_line(log)} (all it said is in {log})")
        if time.monotonic() > deadline:
            raise NoServiceError(f"The service did not answer within {START_LIMIT:.0f} s of its start; see {log}")
        time.sleep(0.1)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the service as its own shutdown would; end everything it started if it does not manage."""
    process.terminate()
    try:
        process.wait(STOP_LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _last_line(log: Path) -> str:
    lines = log.read_text("utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it ended without a word")
