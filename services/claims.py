"""Folders that were made for tasks which the store does not know yet.

A run gets its folder before its task is stored, so that the file system decides who gets a name. Where the
service is killed in between, nobody would ever use the folder, and the client that never got an answer could not
start the same task again. So each folder is noted first, and the next service removes it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class Claims:
    """One note a task, in `folder`, while its folder is made and it is stored.

    A note that cannot be written is done without: it is only missed if the service is killed at this moment.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def noted(self, task_id: str, output_dir: Path) -> Iterator[None]:
        note = self._folder / task_id
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            note.write_bytes(os.fsencode(output_dir))
        try:
            yield
        finally:
            with suppress(OSError):
                note.unlink(missing_ok=True)

    def undo(self, is_in_use: Callable[[Path], bool]) -> None:
        """Remove the folders that no stored task has. One with something in it is somebody's, and stays.

        `is_in_use` is asked of a folder, not of the task that wanted it: another one may have got it.
        """
        for note in self._folder.glob("*"):
            with suppress(OSError):
                claimed = Path(os.fsdecode(note.read_bytes()))
                if not is_in_use(claimed):
                    claimed.rmdir()
            with suppress(OSError):
                note.unlink()
