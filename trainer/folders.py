"""Which classes and images a data folder holds.

One answer for the check before a training and for the training itself. The layout is that of
`torchvision.datasets.ImageFolder`: one folder per class, images anywhere below it. What is hidden
(a leading dot: `.git`, `.ipynb_checkpoints`, the `._x.png` of macOS) is neither a class nor an image.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer.roots import Folders, OutsideRoots, refuse_outside

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""What counts as an image, in any case. The same list as torchvision's."""


def class_folders(root: Path, folders: Folders = ()) -> list[Path]:
    """Sorted by name, the order that gives every class its index. Links to folders count.

    Raises `OSError` where `root` cannot be listed, `OutsideRoots` where it is in none of `folders`.
    """
    with _opened(root, folders) as opened, os.scandir(opened) as entries:
        names = sorted(entry.name for entry in entries if not entry.name.startswith(".") and _is_folder(entry))
    return [root / name for name in names]


def images_in(folder: Path, folders: Folders = ()) -> Iterator[Path]:
    """Every image below `folder`, lazily and in no order, so that looking for one stops at the first.

    A folder that is met twice through links is read once, so a link to a parent ends. One that leads out of
    `folders`, if there are any, holds nothing.
    """
    waiting = [folder]
    seen: set[tuple[int, int]] = set()
    while waiting:
        current = waiting.pop()
        try:
            with _opened(current, folders) as opened:
                status = os.fstat(opened)
                if (status.st_dev, status.st_ino) in seen:
                    continue
                seen.add((status.st_dev, status.st_ino))
                with os.scandir(opened) as entries:
                    for entry in entries:
                        if entry.name.startswith("."):
                            continue
                        if _is_folder(entry):
                            waiting.append(current / entry.name)
                        elif entry.name.lower().endswith(IMAGE_EXTENSIONS):
                            yield current / entry.name
        except OutsideRoots:
            continue


def scan_classes(root: Path, folders: Folders = ()) -> dict[str, list[Path]]:
    """Class name -> its images, both sorted, so that two scans of one folder agree anywhere."""
    return {folder.name: sorted(images_in(folder, folders)) for folder in class_folders(root, folders)}


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or to where nobody may look
        return False


@contextmanager
def _opened(folder: Path, folders: Folders) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        refuse_outside(descriptor, folders)
        yield descriptor
    finally:
        os.close(descriptor)
