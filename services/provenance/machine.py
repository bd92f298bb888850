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

from services.devices import Gpu, is_gpu


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
    """The device of a run, with what its driver calls it."""
    if not is_gpu(device):
        return [{"device": device}]
    found = next((gpu for gpu in gpus if gpu.name == device), None)
    about: dict[str, Any] = {"device": device}
    if found is not None:
        about |= {"model": found.model, "memory_total": found.memory_total}
    return [{name: value for name, value in about.items() if value is not None}]


def _cpu_model() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return ""
