"""Which classes and images a data folder holds.

One answer for the check before a training and for the training itself. The layout is that of
`torchvision.datasets.ImageFolder`: one folder per class, images anywhere below it. What is hidden
(a leading dot: `.git`, `.ipynb_checkpoints`, the `._x.png` of macOS) is neither a class nor an image.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""What counts as an image, in any case. The same list as torchvision's."""


def class_folders(root: Path) -> list[Path]:
    """Sorted by name, the order that gives every class its index. Links to folders count.

    Raises `OSError` where `root` cannot be listed.
    """
    with os.scandir(root) as entries:
        names = sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    return [root / name for name in names]


def images_in(folder: Path) -> Iterator[Path]:
    """Every image below `folder`, lazily and in no order, so that looking for one stops at the first.

    A folder that is met twice through links is read once, so a link to a parent ends.
    """
    waiting = [folder]
    seen: set[tuple[int, int]] = set()
    while waiting:
        current = waiting.pop()
        status = current.stat()
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(current) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    waiting.append(current / entry.name)
                elif entry.name.lower().endswith(IMAGE_EXTENSIONS):
                    yield current / entry.name


def scan_classes(root: Path) -> dict[str, list[Path]]:
    """Class name -> its images, both sorted, so that two scans of one folder agree anywhere."""
    return {folder.name: sorted(images_in(folder)) for folder in class_folders(root)}
