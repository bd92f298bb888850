"""A disk that a test can fill and empty: a small file system in memory, or, where nobody may mount one, a limit."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

FULL = ("database or disk is full", "disk I/O error")
"""SQLite's words for a disk without room, and for a file that has reached its limit."""


class SmallDisk:
    """Attributes:
    path: what is below it is on the disk.
    is_real: it is a file system of its own.
    """

    def __init__(self, path: Path, *, is_real: bool) -> None:
        self.path = path
        self.is_real = is_real
        self._filler = path / "filler"

    def fill(self, *pids: int) -> None:
        """Take all of its room; where it is not real, from the processes of these numbers."""
        if self.is_real:
            with self._filler.open("wb", buffering=0) as file, suppress(OSError):
                while True:
                    file.write(bytes(4096))
        else:
            for pid in pids:
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))

    def free(self, *pids: int) -> None:
        self._filler.unlink(missing_ok=True)
        for pid in pids:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@contextmanager
def small_disk(path: Path, *, megabytes: int = 8) -> Iterator[SmallDisk]:
    path.mkdir(parents=True, exist_ok=True)
    is_real = os.geteuid() == 0 and _mount("-t", "tmpfs", "-o", f"size={megabytes}m,mode=700", "none", str(path))
    try:
        yield SmallDisk(path, is_real=is_real)
    finally:
        if is_real:
            subprocess.run(["umount", "--lazy", str(path)], check=True)


@contextmanager
def read_only(path: Path) -> Iterator[None]:
    """Nothing below `path` can be changed: by a mount for root, whom permission bits do not stop."""
    if os.geteuid() != 0:
        mode = path.stat().st_mode
        path.chmod(0o500)
        try:
            yield
        finally:
            path.chmod(mode)
        return
    if not _mount("--bind", str(path), str(path)):
        pytest.skip("root may not mount here, and nothing else keeps it from writing")
    try:
        assert _mount("-o", "remount,bind,ro", str(path))
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def _mount(*arguments: str) -> bool:
    return subprocess.run(["mount", *arguments], capture_output=True).returncode == 0
