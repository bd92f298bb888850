"""Which devices this machine has. GPUs are asked through NVML, because importing torch takes seconds."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

import pynvml

CPU = "cpu"
ANY_GPU = "cuda"
FILE = "file"
"""Where a task "runs" that reads a log file: it takes no device."""
RAY = "ray"
"""The cluster, as one place: it knows its devices itself."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU by the index that torch gives it. Memory is in bytes.

    Attributes:
        model: as the driver calls it, where it says.
        memory_total: where it is known.
        utilization: share of the last moment (a sixth of a second to a second) in which it was at work, where the
            driver says. Nothing is decided by it, and it is not compared.
    """

    name: str
    memory_used: int
    memory_total: int | None = None
    model: str | None = None
    utilization: float | None = field(default=None, compare=False)


def is_gpu(device: str) -> bool:
    """Whether GPUs are meant: `cuda`, `cuda:N`, or what `any_gpus` and `named_gpus` make."""
    return device.startswith(ANY_GPU)


def any_gpus(count: int) -> str:
    """Any GPUs, so many of them: `cuda` or `cuda*N`."""
    return ANY_GPU if count == 1 else f"{ANY_GPU}*{count}"


def named_gpus(names: Iterable[str]) -> str:
    """`cuda:0,1` of `cuda:0` and `cuda:1`."""
    return f"{ANY_GPU}:{','.join(name.removeprefix(f'{ANY_GPU}:') for name in names)}"


def wanted_of(device: str) -> int:
    """How many GPUs it takes, whichever they are; 0 for a device by name."""
    name, _, count = device.partition("*")
    return int(count or 1) if name == ANY_GPU else 0


def parts_of(device: str) -> list[str]:
    """The devices that it names: `cuda:0` and `cuda:1` of `cuda:0,1`; none of any GPUs."""
    if wanted_of(device):
        return []
    kind, colon, numbers = device.partition(":")
    return [f"{kind}:{number}" for number in numbers.split(",")] if colon else [device]


def list_gpus() -> list[Gpu] | None:
    """GPUs that a trainer of this process would see, in torch's order; none without a driver.

    `None` where there is a driver that does not answer just now, as when the machine has hardly started.
    """
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return [] if error.value == pynvml.NVML_ERROR_LIBRARY_NOT_FOUND else None
    try:
        handles = _visible_handles()
        return [_describe(index, handle) for index, handle in enumerate(handles)]
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()


def _describe(index: int, handle: object) -> Gpu:
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    model = utilization = None
    with suppress(pynvml.NVMLError):  # nothing depends on it
        model = str(pynvml.nvmlDeviceGetName(handle))
    with suppress(pynvml.NVMLError):
        utilization = pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
    return Gpu(f"cuda:{index}", int(memory.used), int(memory.total), model, utilization)


def _visible_handles() -> list[object]:
    """NVML handles in the order of `CUDA_VISIBLE_DEVICES`, which holds indices or UUID prefixes.

    As in CUDA, the list ends at the first entry that names no device.
    """
    handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return handles
    by_uuid = {str(pynvml.nvmlDeviceGetUUID(handle)): handle for handle in handles}
    chosen: list[object] = []
    for entry in filter(None, (part.strip() for part in visible.split(","))):
        if entry.isdigit():
            matching = handles[int(entry) : int(entry) + 1]
        else:
            matching = [handle for uuid, handle in by_uuid.items() if uuid.startswith(entry)]
        if len(matching) != 1:
            break
        chosen += matching
    return chosen
