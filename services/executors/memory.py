"""Where the kernel counts the processes that it has killed for want of memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_MOUNT = Path("/sys/fs/cgroup")


def kill_counter(cgroups: str, mount: Path = _MOUNT) -> Path | None:
    """The file with a line `oom_kill N` for a process's own control group, `None` where nobody counts.

    Version 1 has it in memory.oom_control, version 2 in memory.events (the kernel's cgroup-v1/memory and cgroup-v2).
    A container may see its own group as the root, whatever the name that it has outside.

    Args:
        cgroups: the process's /proc/PID/cgroup (cgroups(7)).
        mount: where the hierarchies are mounted.
    """
    return next((path for path in _candidates(cgroups, mount) if path.is_file()), None)


def _candidates(cgroups: str, mount: Path) -> Iterator[Path]:
    for line in cgroups.splitlines():
        _, controllers, group = line.split(":", 2)
        if "memory" in controllers.split(","):
            base, name = mount / "memory", "memory.oom_control"
        elif not controllers:
            base, name = mount, "memory.events"
        else:
            continue
        yield base / group.lstrip("/") / name
        yield base / name
