"""Folders for tests that sync and delete so many files that a disk would be most of their time."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

IN_MEMORY = Path("/dev/shm")
ROOM = 2**30
"""Bytes that the file system in memory must have left."""


def scratch_folder(prefix: str) -> Path:
    """A new folder: in memory where there is room, else where temporary folders are. Whoever asks removes it."""
    in_memory = IN_MEMORY.is_dir() and shutil.disk_usage(IN_MEMORY).free > ROOM
    return Path(tempfile.mkdtemp(prefix=prefix, dir=IN_MEMORY if in_memory else None))
