"""Where requests may read and write, and the folder that each run gets for itself."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from models.schemas import FieldProblem
from services.errors import InvalidRequest, PathForbidden, TaskConflict

_OF_THE_KERNEL = ("/proc", "/sys")


@dataclass(frozen=True, slots=True)
class PathPolicy:
    """Roots for reading and for writing, compared after resolving links; an empty sequence allows every path."""

    data_roots: Sequence[Path] = ()
    save_roots: Sequence[Path] = ()

    def check_data(self, field: str, path: str) -> None:
        """Raises: PathForbidden: `path` leads out of the data roots."""
        _check(field, path, self.data_roots, "DATA_ROOTS")

    def check_save(self, field: str, path: str) -> None:
        """Raises: PathForbidden: `path` leads out of the save roots."""
        _check(field, path, self.save_roots, "SAVE_ROOTS")

    def check_work(self, field: str, path: str) -> None:
        """Raises: PathForbidden: `path`, where a command is to run, leads out of all roots together."""
        _check(field, path, (*self.data_roots, *self.save_roots), "DATA_ROOTS, SAVE_ROOTS")


def _check(field: str, path: str, roots: Sequence[Path], setting: str) -> None:
    if not roots:
        return
    try:
        resolved = Path(path).resolve()
    except (OSError, RuntimeError) as error:  # a loop of links
        raise PathForbidden(f"{field}: {path!r} cannot be resolved: {error}") from error
    if not any(resolved.is_relative_to(root.resolve()) for root in roots):
        allowed = ", ".join(str(root) for root in roots)
        raise PathForbidden(f"{field}: {path!r} is outside the folders this service may use ({setting}: {allowed}).")


def is_on_disk(found: os.stat_result) -> bool:
    """Whether it is a regular file, and not one of the kernel's: those have no size, and hold the service's secrets."""
    return stat.S_ISREG(found.st_mode) and not any(
        found.st_dev == Path(place).stat().st_dev for place in _OF_THE_KERNEL if Path(place).is_mount()
    )


def claim_output_dir(save_path: str, name: str | None, task_id: str) -> Path:
    """Make the folder of a run. The file system decides which of two runs that want one name gets it.

    Raises:
        TaskConflict: there is such a folder, with an earlier run in it.
        InvalidRequest: `save_path` cannot be written to.
    """
    parent = Path(save_path).absolute()
    output_dir = parent / (name or task_id)
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(parent, error) from error
    try:
        output_dir.mkdir()
    except FileExistsError as error:
        raise TaskConflict(
            f"{output_dir} exists already. Choose another {'name' if name else 'task_id'}, or move the folder away.",
            code="name_in_use",
        ) from error
    except OSError as error:
        raise _unwritable(parent, error) from error
    return output_dir


def _unwritable(path: Path, error: OSError) -> InvalidRequest:
    message = f"{str(path)!r} cannot be written to ({error.strerror}); choose a folder that the service may write"
    return InvalidRequest.from_problems([FieldProblem(field="save_path", code="save_path_unwritable", message=message)])
