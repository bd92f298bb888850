"""Which folders the files of a training may lie in, looked at again when a file is opened.

A path that was inside when the request was checked leads anywhere once somebody has exchanged a folder
for a link, so what counts is where the opened file lies: the kernel says that of a descriptor
(proc(5), /proc/pid/fd).
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

Folders = tuple[Path, ...]
"""Resolved. None at all allows every place."""


class OutsideRoots(Exception):
    """The path leads out of the roots. What is there, and whether anything is, is not said."""


class NotAFile(OSError):
    """A folder, a pipe, a device: opening some of them would wait for ever, or do something."""


@dataclass(frozen=True)
class Roots:
    """`data` holds what is read, `save` what is written; weights may lie in either. Empty allows every place."""

    data: Folders = ()
    save: Folders = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", tuple(folder.resolve() for folder in self.data))
        object.__setattr__(self, "save", tuple(folder.resolve() for folder in self.save))

    @property
    def weights(self) -> Folders:
        """A checkpoint of an earlier training is a place to start from."""
        return (*self.data, *self.save) if self.data else ()


ANYWHERE = Roots()


def open_file(path: Path, folders: Folders = ()) -> BinaryIO:
    """Open a regular file inside `folders` for reading.

    Raises `OutsideRoots`, `NotAFile`, another `OSError`, and `ValueError` for a path that cannot be one.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        refuse_path_outside(path, folders)
        raise
    try:
        refuse_outside(descriptor, folders)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise NotAFile("it is no regular file")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def refuse_outside(descriptor: int, folders: Folders) -> None:
    """Raises `OutsideRoots` where the open file or folder lies in none of `folders`."""
    if folders and not _is_inside(Path(f"/proc/self/fd/{descriptor}").readlink(), folders):
        raise OutsideRoots


def refuse_path_outside(path: Path, folders: Folders) -> None:
    """The same for a path that is not open, or leads nowhere: it is true for the moment."""
    if folders and not _is_inside(Path(os.path.realpath(path)), folders):
        raise OutsideRoots from None


def _is_inside(resolved: Path, folders: Folders) -> bool:
    return any(resolved.is_relative_to(folder) for folder in folders)
