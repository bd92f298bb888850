"""In which unit a log prints its accuracies: 78.92 and 0.7892 say the same, and each log keeps its own.

Which of the two it is shows over the whole log: an accuracy with a percent sign or above 1 cannot be a
fraction. Training and evaluation are often computed by different code, so they are told apart. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

Unit = Literal["percent", "fraction"]
Family = Literal["train", "evaluation"]


def is_accuracy(name: str) -> bool:
    """Only accuracies come in both units often enough to be told apart."""
    return name.endswith("acc")


def percent_families(metrics: Mapping[str, float | None], percents: Collection[str]) -> frozenset[Family]:
    """The families whose accuracies are percent, by what one line says.

    Args:
        metrics: of the line.
        percents: those of them that were printed with a percent sign.
    """
    return frozenset(
        _family_of(name)
        for name, value in metrics.items()
        if is_accuracy(name) and (name in percents or (value is not None and value > 1))
    )


def units_of(metrics: Collection[str], families: Collection[str]) -> dict[str, Unit]:
    """The unit of each accuracy among `metrics`, where `families` are percent."""
    return {name: "percent" if _family_of(name) in families else "fraction" for name in metrics if is_accuracy(name)}


def _family_of(name: str) -> Family:
    return "train" if name.startswith("train_") else "evaluation"
