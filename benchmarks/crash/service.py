"""The service as a process that can be killed and started again on the same address and store."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx

APP = Path(__file__).resolve().parents[2] / "app_refactored.py"
START_LIMIT_S = 60.0
SETTINGS = {
    "ALLOW_COMMANDS": "true",
    "MAX_TRAINING_CONCURRENT_CPU": "6",
    "STOP_GRACE_S": "1",
    "OMP_NUM_THREADS": "1",  # trainings are to be killed here, not to be fast
}


class DidNotStart(Exception):
    """The service ended, or did not answer; the message is the end of its log."""


class Service:
    """Attributes:
    is_up: it answers, as far as is known.
    """

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.state_dir = folder / "state"
        self.store = self.state_dir / "training.db"
        self.is_up = asyncio.Event()
        self._log = folder / "service.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns at once."""
        address = httpx.URL(self.url)
        environment = {"HOST": address.host, "PORT": str(address.port), "STATE_DIR": str(self.state_dir), **SETTINGS}
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, str(APP)],
                env=os.environ | environment,
                cwd=APP.parent,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    async def answers(self) -> float:
        """Wait until it answers; how many seconds that took. Raises: DidNotStart."""
        assert self._process is not None
        began = time.monotonic()
        async with httpx.AsyncClient(base_url=self.url, timeout=5) as client:
            while time.monotonic() - began < START_LIMIT_S and self._process.poll() is None:
                try:
                    (await client.get("/api/v1/health")).raise_for_status()
                except httpx.HTTPError:
                    await asyncio.sleep(0.03)
                else:
                    self.is_up.set()
                    return time.monotonic() - began
        raise DidNotStart(self._log.read_text("utf-8", "replace")[-2000:])

    def kill(self) -> None:
        """SIGKILL, and wait until the kernel has ended it."""
        assert self._process is not None
        self.is_up.clear()
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        """SIGTERM, as at a shutdown; SIGKILL where that takes too long."""
        self.is_up.clear()
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
