"""What every benchmark says beside its numbers, so that two runs can be compared: the machine, medians and ranges."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

MIB = 2**20


def machine(*packages: str) -> str:
    """This machine and these packages in one line. The load says whether something else was at work."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    load = os.getloadavg()[0]
    found = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)
    return (
        f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}{', ' if found else ''}{found}; load {load:.1f} before"
    )


def load_after() -> str:
    """For the last line: whether something else began to work meanwhile. What was measured is in it too."""
    return f"load {os.getloadavg()[0]:.1f} at the end"


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least so many percent of `values` do not exceed."""
    assert values, "of nothing there is no percentile"
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-percent * len(ordered) // 100) - 1))]


def median_and_range(values: Iterable[float], digits: int = 1) -> str:
    found = list(values)
    low, high = min(found), max(found)
    return f"{statistics.median(found):,.{digits}f} ({low:,.{digits}f}-{high:,.{digits}f})"


def _processor() -> str:
    """What Linux calls it; `platform.processor` is empty on most distributions."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
