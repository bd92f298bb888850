"""What runs and waits on each device, and how much may: the scheduler's books, in the words of the API."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from models.schemas import DeviceUse, FieldProblem, QueueUse, ResourcesResponse
from services.devices import CPU, FILE, Gpu
from services.errors import InvalidRequest
from services.scheduler import Scheduler


def list_devices(scheduler: Scheduler, gpus: Sequence[Gpu]) -> list[str]:
    """The CPU, the GPUs of this machine, and one that is gone while a task still runs there."""
    present = [CPU, *(gpu.name for gpu in gpus)]
    return [*present, *sorted(scheduler.used_devices() - {*present, FILE})]


def describe_resources(scheduler: Scheduler, gpus: Sequence[Gpu]) -> ResourcesResponse:
    return ResourcesResponse(
        devices=[_describe(scheduler, name, gpus) for name in list_devices(scheduler, gpus)],
        queue=QueueUse(length=scheduler.queued, max_length=scheduler.max_queued),
    )


def check_devices(wanted: Iterable[str], present: Sequence[str]) -> None:
    """Raises: InvalidRequest: one of them is not among those that are present."""
    devices = ", ".join(present)
    problems = [
        FieldProblem(
            field=f"limits.{name}",
            code="device_not_found",
            message=f"there is no such device on this machine, which has: {devices}",
        )
        for name in wanted
        if name not in present
    ]
    if problems:
        raise InvalidRequest.from_problems(problems)


def _describe(scheduler: Scheduler, device: str, gpus: Sequence[Gpu]) -> DeviceUse:
    known: dict[str, Any] = {}
    for gpu in gpus:
        if gpu.name == device:
            known = {"model": gpu.model, "memory_total": gpu.memory_total, "memory_used": gpu.memory_used}
    return DeviceUse(
        device=device,
        limit=scheduler.limit(device),
        default_limit=scheduler.default_limit(device),
        running=scheduler.running_on(device),
        queued=scheduler.waiting_for(device),
        **{name: value for name, value in known.items() if value is not None},
    )
