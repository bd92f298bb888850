"""How much memory a training may still take."""

from __future__ import annotations

import re
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")


def available_memory(meminfo: Path = _MEMINFO, group: Path = _GROUP) -> int:
    """Bytes that are free on the machine and within the control group (version 2) of this process; 0 if unknown.

    What the page cache holds of files counts as free in both.
    """
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo.read_text(), re.MULTILINE)
        free = int(found[1]) * 1024 if found else 0
    except OSError:
        return 0
    try:
        limit = int((group / "memory.max").read_text())  # "max" without one: ValueError
        used = int((group / "memory.current").read_text())
        cached = re.search(r"^inactive_file (\d+)", (group / "memory.stat").read_text(), re.MULTILINE)
    except (OSError, ValueError):
        return free
    return max(0, min(free, limit - used + (int(cached[1]) if cached else 0)))
