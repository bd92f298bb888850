"""A terminal for a command: a pseudo-terminal of some width, whose screen can be waited for."""

from __future__ import annotations

import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from fcntl import ioctl
from pathlib import Path
from types import TracebackType
from typing import Self

REPOSITORY = Path(__file__).parents[3]
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_MOVE = re.compile(r"\x1b\[[0-9;]*[AKH]")
_COLOUR = re.compile(r"\x1b\[[0-9;]*(3[0-8]|9[0-7])[0-9;]*m")


class Terminal:
    """Runs `trainctl` with these arguments on a terminal of its own."""

    def __init__(self, *arguments: str, url: str, columns: int = 100, **environment: str) -> None:
        self._master, slave = pty.openpty()
        ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        inherited = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
        ours = {"TRAINING_SERVICE_URL": url, "TERM": "xterm-256color", "PYTHONPATH": str(REPOSITORY)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "client.commands", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=inherited | ours | environment,
            process_group=None,
            start_new_session=True,
            preexec_fn=lambda: ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        self._seen = ""
        self._ended = False
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        os.close(self._master)

    @property
    def text(self) -> str:
        """All that was ever shown, without colours; what is drawn over is a line of its own."""
        return _ESCAPE.sub("", _MOVE.sub("\n", self._seen)).replace("\r", "")

    @property
    def has_colour(self) -> bool:
        return _COLOUR.search(self._seen) is not None

    def wait_for(self, text: str) -> None:
        with self._news:
            found = self._news.wait_for(lambda: text in self.text or self._ended, timeout=60)
        assert found, f"{text!r} was not shown: {self.text}"
        assert text in self.text, f"it ended without {text!r}: {self.text}"

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def end(self) -> int:
        """Wait for its end: the exit status."""
        status = self._process.wait(60)
        self._reader.join()
        return status

    def _read(self) -> None:
        while True:
            try:
                piece = os.read(self._master, 65_536)
            except OSError:  # Linux's way to say that nobody holds the other end any more
                piece = b""
            with self._news:
                self._seen += piece.decode(errors="replace")
                self._ended = not piece
                self._news.notify_all()
            if not piece:
                return
