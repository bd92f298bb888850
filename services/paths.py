"""Where requests may read and write, and the folder that each run gets for itself."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from models.schemas import FieldProblem
from services.errors import InvalidRequest, PathForbidden, TaskConflict
from trainer.roots import Roots

_OF_THE_KERNEL = ("/proc", "/sys")


@dataclass(frozen=True, slots=True)
class PathPolicy:
    """Roots for reading and for writing, compared after resolving links; an empty sequence allows every path."""

    data_roots: Sequence[Path] = ()
    save_roots: Sequence[Path] = ()

    @property
    def roots(self) -> Roots:
        """The same for the trainer, which asks again of each file that it has opened."""
        return Roots(tuple(self.data_roots), tuple(self.save_roots))

    def check_data(self, field: str, path: str) -> None:
        """Raises: PathForbidden: `path` leads out of the data roots."""
        _check(field, path, self.data_roots, "DATA_ROOTS")

    def check_weights(self, field: str, path: str) -> None:
        """Raises: PathForbidden: `path` leads out of the data roots, and is no checkpoint in the save roots either."""
        _check(field, path, self.roots.weights, "DATA_ROOTS, SAVE_ROOTS")

    def check_save(self, field: str, path: str) -> None:
        """Raises: PathForbidden: `path` leads out of the save roots."""
        _check(field, path, self.save_roots, "SAVE_ROOTS")

    def check_work(self, field: str, path: str) -> None:
        """Raises: PathForbidden: `path`, where a command is to run, leads out of all roots together."""
        _check(field, path, (*self.data_roots, *self.save_roots), "DATA_ROOTS, SAVE_ROOTS")


def _check(field: str, path: str, roots: Sequence[Path], setting: str) -> None:
    if roots:
        _resolve_below(field, path, roots, setting)


def _resolve_below(field: str, path: str, roots: Sequence[Path], setting: str) -> tuple[Path, Path]:
    """The root that holds `path`, and where in it `path` leads; both without a link in them."""
    try:
        resolved = Path(path).resolve()
    except (OSError, RuntimeError) as error:  # a loop of links
        raise PathForbidden(f"{field}: {path!r} cannot be resolved: {error}") from error
    for root in roots:
        if resolved.is_relative_to(found := root.resolve()):
            return found, resolved.relative_to(found)
    allowed = ", ".join(str(root) for root in roots)
    raise PathForbidden(f"{field}: {path!r} is outside the folders this service may use ({setting}: {allowed}).")


def is_on_disk(found: os.stat_result) -> bool:
    """Whether it is a regular file, and not one of the kernel's: those have no size, and hold the service's secrets."""
    return stat.S_ISREG(found.st_mode) and not _is_of_the_kernel(found)


def _is_of_the_kernel(found: os.stat_result) -> bool:
    return any(found.st_dev == Path(place).stat().st_dev for place in _OF_THE_KERNEL if Path(place).is_mount())


def find_unwritable(save_path: str, roots: Sequence[Path] = ()) -> list[FieldProblem]:
    """Why `claim_output_dir` could make no folder there, as far as that shows without making one; empty is good.

    Raises:
        PathForbidden: it leads out of the roots.
    """
    place = Path(save_path).absolute()
    if roots:
        root, below = _resolve_below("save_path", save_path, roots, "SAVE_ROOTS")
        place = root / below
    try:
        _refuse_unwritable(place)
    except OSError as error:
        return [_unwritable(place, error)]
    return []


def _refuse_unwritable(place: Path) -> None:
    """Raises: OSError: the nearest folder that is there already takes no folder, or none of these names."""
    for nearest in (place, *place.parents):
        try:
            found = nearest.stat()
        except FileNotFoundError:
            if nearest.is_symlink():
                raise FileExistsError(errno.EEXIST, "a link that leads nowhere") from None
            continue
        break
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    if os.statvfs(nearest).f_flag & os.ST_RDONLY:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))
    if _is_of_the_kernel(found) or not os.access(nearest, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    longest = os.pathconf(nearest, "PC_NAME_MAX")
    if any(len(os.fsencode(name)) > longest for name in place.relative_to(nearest).parts):
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))


def claim_output_dir(save_path: str, name: str | None, task_id: str, roots: Sequence[Path] = ()) -> Path:
    """Make the folder of a run. The file system decides which of two runs that want one name gets it.

    Args:
        save_path: made too, if it is not there.
        name: the folder's; the `task_id`, if not given. What is there already, a link too, is never used.
        task_id: the run's.
        roots: it is made below one of them, whatever becomes a link meanwhile; none: anywhere.

    Raises:
        TaskConflict: there is such a folder, with an earlier run in it.
        InvalidRequest: `save_path` cannot be written to.
        PathForbidden: it leads out of the roots.
    """
    root, below = Path(save_path).absolute(), Path()
    if roots:
        root, below = _resolve_below("save_path", save_path, roots, "SAVE_ROOTS")
    output_dir = root / below / (name or task_id)
    try:
        with _folder_below(root, below) as parent:
            if not _make_folder(output_dir.name, parent):
                raise TaskConflict(
                    f"{output_dir} exists already. "
                    f"Choose another {'name' if name else 'task_id'}, or move the folder away.",
                    code="name_in_use",
                )
    except OSError as error:
        raise InvalidRequest.from_problems([_unwritable(output_dir.parent, error)]) from error
    return output_dir


@contextmanager
def _folder_below(root: Path, below: Path) -> Iterator[int]:
    """A descriptor of the folder `root / below`, made where it is not there.

    What has become a link since `below` was resolved is not followed: NotADirectoryError.
    """
    root.mkdir(parents=True, exist_ok=True)
    folder = os.open(root, os.O_PATH | os.O_DIRECTORY)
    try:
        for part in below.parts:
            _make_folder(part, folder)
            inner = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = inner
        yield folder
    finally:
        os.close(folder)


def _make_folder(name: str, parent: int) -> bool:
    """Whether there was nothing of the name in the folder with this descriptor."""
    try:
        os.mkdir(name, dir_fd=parent)  # pathlib knows no descriptors
    except FileExistsError:
        return False
    return True


def _unwritable(path: Path, error: OSError) -> FieldProblem:
    message = f"{str(path)!r} cannot be written to ({error.strerror}); choose a folder that the service may write"
    return FieldProblem(field="save_path", code="save_path_unwritable", message=message)
