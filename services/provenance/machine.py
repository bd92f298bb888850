"""On what machine, and on which of its devices, a run is."""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from services.devices import Gpu, parts_of


@cache
def system() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu": _cpu_model(),
        "cpus": len(os.sched_getaffinity(0)),
    }


def devices(device: str, gpus: Sequence[Gpu]) -> list[dict[str, Any]]:
    """The devices of a run, with what their driver calls them."""
    by_name = {gpu.name: gpu for gpu in gpus}
    found: list[dict[str, Any]] = []
    for name in parts_of(device) or [device]:
        gpu = by_name.get(name)
        about = {} if gpu is None else {"model": gpu.model, "memory_total": gpu.memory_total}
        found.append({"device": name} | {key: value for key, value in about.items() if value is not None})
    return found


def _cpu_model() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return ""
