"""Decoded images kept in memory: from the second epoch on, a file is looked at but not decoded again.

Decoding is what keeps the processor from training: a JPEG of 500 x 375 pixels takes about as long as a tenth of
what resnet18 does with it on two cores. What is kept is what the decoder has answered, so a training with the cache and
one without it are the same bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

SHARE = 0.25
"""Of the memory that is free when a training begins: others on this machine want some too."""
_OVERHEAD = 1000

_Version = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class _Kept:
    version: _Version
    image: Tensor
    size: int


class DecodedImages:
    """For all splits of a training, in one process of it. Nobody may change an image that comes out.

    Args:
        budget: bytes to keep at most. Once they are used up, further images are decoded each time.
    """

    def __init__(self, budget: int) -> None:
        self._left = budget
        self._kept: dict[Path, _Kept] = {}
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, path: Path) -> bool:
        return path in self._kept

    def get(self, path: Path, decode: Callable[[], Tensor]) -> Tensor:
        """The image at `path` as it is now. Raises what `decode` raises; a file that is gone is not in the cache."""
        version = _version(path)
        kept = self._kept.get(path)
        if kept is not None and kept.version == version:
            return kept.image
        image = decode()
        if version is not None:
            self._keep(path, _Kept(version, image, image.numel() + _OVERHEAD))
        return image

    def clear(self) -> None:
        self._kept.clear()
        self._left += self.bytes
        self.bytes = 0

    def _keep(self, path: Path, new: _Kept) -> None:
        before = self._kept.pop(path, None)
        if before is not None:
            self._left += before.size
            self.bytes -= before.size
        if new.size <= self._left:
            self._kept[path] = new
            self._left -= new.size
            self.bytes += new.size


def _version(path: Path) -> _Version | None:
    """What is another once a file was changed or put in its place."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
