"""Which data a training reads, in a few numbers.

A fingerprint of a folder covers each image that the trainer finds there (`trainer.folders`): the path below the folder,
the size in bytes, and in a second digest the time of the last change too. It does not read the images: a change of
content that keeps the size shows in the second digest alone, and one that keeps the time as well does not show. The
digest is the sum, modulo 2^256, of the SHA-256 of each file's line, so files can come in any order and a million of
them take no memory. (A sum resists accidents, not someone who makes files to fit it.)
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from models.schemas import AnyRequest, ImportRequest, TrainingRequest
from trainer.folders import class_folders, images_in
from trainer.roots import ANYWHERE, Folders, OutsideRoots, Roots, open_file, refuse_path_outside

LIMIT_S = 30.0
"""For all folders and files of one request."""
_LOOK_EVERY = 256
"""Files between two looks at the clock."""
_CHUNK = 1_048_576


def fingerprints(
    request: AnyRequest, roots: Roots = ANYWHERE, *, is_cancelled: Callable[[], bool] = lambda: False
) -> dict[str, Any]:
    """For each field of a request that names data, what is there; a command's data is not known."""
    deadline = time.monotonic() + LIMIT_S

    def is_over() -> bool:
        return time.monotonic() > deadline or is_cancelled()

    found: dict[str, Any] = {}
    if isinstance(request, TrainingRequest):
        for field in ("train_path", "val_path"):
            found[field] = _of_folder(Path(getattr(request, field)), roots, is_over)
        if request.weight_path:
            found["weight_path"] = _of_file(Path(request.weight_path), roots.weights, is_over)
    elif isinstance(request, ImportRequest):
        found["path"] = _of_file(Path(request.path), roots.data, lambda: True)  # its lines are stored themselves
    return {field: each for field, each in found.items() if each}


def _of_folder(folder: Path, roots: Roots, is_over: Callable[[], bool]) -> dict[str, Any]:
    files = size = digest = digest_with_times = 0
    is_complete = True
    prefix = len(os.fspath(folder).rstrip("/")) + 1
    for number, path in enumerate(_images(folder, roots)):
        if number % _LOOK_EVERY == 0 and is_over():
            is_complete = False
            break
        name = os.fspath(path)
        with suppress(OSError, OutsideRoots):  # the trainer will say so
            status = os.lstat(name)
            if stat.S_ISLNK(status.st_mode):
                refuse_path_outside(path, roots.data)
                status = os.stat(name)  # noqa: PTH116
            line = b"%s\0%d" % (os.fsencode(name[prefix:]), status.st_size)
            digest += int.from_bytes(hashlib.sha256(line).digest())
            digest_with_times += int.from_bytes(hashlib.sha256(b"%s\0%d" % (line, status.st_mtime_ns)).digest())
            files += 1
            size += status.st_size
    return {
        "files": files,
        "bytes": size,
        "names_and_sizes": f"{digest % 2**256:064x}",
        "names_sizes_and_times": f"{digest_with_times % 2**256:064x}",
        "is_complete": is_complete,
    }


def _images(folder: Path, roots: Roots) -> Iterator[Path]:
    with suppress(OSError, ValueError):  # what cannot be listed is the trainer's to say
        for each in class_folders(folder, roots.data):
            yield from images_in(each, roots.data)


def _of_file(path: Path, folders: Folders, is_over: Callable[[], bool]) -> dict[str, Any]:
    """Size, time of the last change, and SHA-256 of the content where there is time for it."""
    with suppress(OSError, ValueError, OutsideRoots), open_file(path, folders) as file:
        status = os.fstat(file.fileno())
        about: dict[str, Any] = {"bytes": status.st_size, "modified": status.st_mtime}
        content = hashlib.sha256()
        while not is_over():
            if not (piece := file.read(_CHUNK)):
                return {**about, "sha256": content.hexdigest()}
            content.update(piece)
        return about
    return {}
