"""A data set that is there without a download: the handwritten digits that come with scikit-learn."""

from __future__ import annotations

import tempfile
from pathlib import Path


def digit_folders(folder: Path) -> tuple[Path, Path]:
    """`folder/train` and `folder/val`, each with one sub-folder of PNG images per digit.

    1797 grayscale images of 8x8 pixels, split 80 to 20 with the same share of every digit in both, and
    always the same way, so that two runs can be compared. The folder appears all at once: one that is
    there is complete, and is used again. Raises `ModuleNotFoundError` without scikit-learn.
    """
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".digits-", dir=folder.parent) as scratch:
            made = Path(scratch) / "data"
            _write_digits(made)
            try:
                made.rename(folder)
            except OSError:  # another run was faster
                if not folder.is_dir():
                    raise
    return folder / "train", folder / "val"


def _write_digits(folder: Path) -> None:
    from PIL import Image
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    numbers = range(len(digits.target))
    train, _ = train_test_split(numbers, test_size=0.2, stratify=digits.target, random_state=0)
    in_train = set(train)
    pixels = (digits.images * (255 / 16)).round().astype("uint8")  # the data set counts ink from 0 to 16
    for number in numbers:
        part = "train" if number in in_train else "val"
        target = folder / part / str(digits.target[number])
        target.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[number]).save(target / f"{number:04d}.png")
