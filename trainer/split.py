"""The images of one folder, without those that cannot be read.

In every large folder some images are broken, and a training that dies of one in its ninth hour helps
nobody; a training that quietly leaves out a third of them helps nobody either. So a few are left out, each
with a line, and more are a failure.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from torch import Tensor

from models.schemas import TrainingRequest
from trainer import lines
from trainer.decoded_images import DecodedImages
from trainer.errors import TrainingFailed
from trainer.folders import scan_classes
from trainer.framing import to_tensor
from trainer.images import UnreadableImage, read_rgb
from trainer.quoting import quoted
from trainer.roots import Folders, OutsideRoots


@dataclass
class Split:
    """The images below `root`. `targets[i]` indexes `classes`; `name` is the field of the request.

    Indices stay what they are for a whole training, whatever is left out: order and crop follow from them.
    """

    name: str
    root: Path
    paths: list[Path]
    targets: list[int]
    classes: list[str]
    max_unreadable_share: float
    logger: logging.Logger
    folders: Folders = ()
    decoded: DecodedImages = field(default_factory=lambda: DecodedImages(0))
    left_out: set[int] = field(default_factory=set)
    """Grows: an image that could not be read once is not tried again."""
    news: dict[int, str] = field(default_factory=dict)
    """Why each of those cannot be read that other processes of the training do not know of yet."""

    def __post_init__(self) -> None:
        self._left_in_class = Counter(self.targets[index] for index in self.indices)

    @property
    def indices(self) -> list[int]:
        return [index for index in range(len(self.paths)) if index not in self.left_out]

    @property
    def names_left_out(self) -> list[str]:
        """Relative to `root`, to be left out again by a training that goes on."""
        return [str(self.paths[index].relative_to(self.root)) for index in sorted(self.left_out)]

    @cached_property
    def fingerprint(self) -> str:
        """The same for the same images by name, wherever the folder is."""
        digest = hashlib.sha256()
        for path in self.paths:
            digest.update(os.fsencode(path.relative_to(self.root)) + b"\0")
        return digest.hexdigest()

    def decode(self, index: int, *, at_least: int) -> Tensor:
        """An image as uint8_CHW, which nobody may change. Always with the same `at_least`.

        Raises `UnreadableImage`, and what `read_rgb` raises.
        """
        return decode(self.paths[index], self.decoded, at_least=at_least, folders=self.folders)

    def leave_out(self, index: int, error: UnreadableImage) -> None:
        """Go on without an image that cannot be read, with a WARNING.

        Raises `TrainingFailed`: `unreadable_image` where these are too many, `empty_class` where it was the
        last one of its class, which cannot be learned then, nor be measured.
        """
        self._refuse_if_gone()
        self.left_out.add(index)
        self.news[index] = str(error)
        self._left_in_class[self.targets[index]] -= 1
        self._refuse_too_few(index, error)
        self.logger.warning(lines.left_out(error))

    def _refuse_if_gone(self) -> None:
        """A folder that was removed, or whose disk was, is not thousands of broken images."""
        if not self.root.is_dir():
            message = f"{self.name} {str(self.root)!r} is gone: bring it back, and resume the training."
            raise TrainingFailed("path_not_found", message)

    def _refuse_too_few(self, index: int, error: UnreadableImage) -> None:
        bad, total = len(self.left_out), len(self.paths)
        if bad / total > self.max_unreadable_share:
            message = (
                f"More images in {self.name} cannot be read than max_unreadable_share ({self.max_unreadable_share:g}) "
                f"allows, namely {bad} out of {total}: replace or remove them, or raise it. The last: {error}"
            )
            raise TrainingFailed("unreadable_image", message)
        target = self.targets[index]
        if not self._left_in_class[target]:
            message = (
                f"No image of class {quoted(self.classes[target])} in {self.name} can be read: replace them, or remove "
                f"the class. The last: {error}"
            )
            raise TrainingFailed("empty_class", message)


def decode(path: Path, kept: DecodedImages, *, at_least: int, folders: Folders) -> Tensor:
    """The image at `path` as uint8_CHW, out of those that are `kept` where it is one. As `Split.decode`."""
    return kept.get(path, lambda: to_tensor(read_rgb(path, at_least=at_least, folders=folders)))


def load_split(
    request: TrainingRequest,
    name: str,
    *,
    logger: logging.Logger,
    folders: Folders = (),
    left_out: Iterable[str] = (),
    decoded: DecodedImages | None = None,
) -> Split:
    """Scan the folder in field `name` of `request`. Nothing is decoded yet.

    `left_out` are `names_left_out` of the training that goes on; they keep their places even where the files are gone.

    Raises `TrainingFailed`.
    """
    root = Path(getattr(request, name))
    try:
        classes = scan_classes(root, folders)
    except OutsideRoots:
        message = f"{name} {str(root)!r} leads out of the folders that may be read: correct it."
        raise TrainingFailed("path_forbidden", message) from None
    except OSError as error:
        message = f"{name} {str(root)!r} cannot be read: {error.strerror}, at {str(error.filename)!r}."
        raise TrainingFailed("path_not_readable", message) from error
    bad = {root / relative for relative in left_out}
    for path in bad:
        classes.setdefault(path.relative_to(root).parts[0], []).append(path)
    pairs = [(path, target) for target, its in enumerate(sorted(classes)) for path in sorted({*classes[its]})]
    return Split(
        name=name,
        root=root,
        paths=[path for path, _ in pairs],
        targets=[target for _, target in pairs],
        classes=sorted(classes),
        max_unreadable_share=request.max_unreadable_share,
        logger=logger,
        folders=folders,
        decoded=DecodedImages(0) if decoded is None else decoded,
        left_out={index for index, (path, _) in enumerate(pairs) if path in bad},
    )
