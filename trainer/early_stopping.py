"""End a training that no longer gets better.

An epoch that can teach nothing more costs as much as the first one, and nobody sits beside a training to see
that. The count is part of `last.pt`: a training that goes on has waited as long as it has.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from models.schemas import TrainingRequest
from trainer.evaluation import Evaluation

SMALLER_IS_BETTER = frozenset({"val_loss"})


def score_of(evaluation: Evaluation, monitor: str) -> float:
    """The metric that `monitor` names, turned so that greater is better."""
    value = evaluation.as_metrics()[monitor]
    return -value if monitor in SMALLER_IS_BETTER else value


@dataclass
class EarlyStopping:
    """How many epochs there have been since the best one. An epoch that is as good as the best is not better."""

    patience: int
    best: float = -math.inf
    waited: int = 0

    def epoch_done(self, score: float) -> None:
        self.waited = 0 if score > self.best else self.waited + 1
        self.best = max(self.best, score)

    @property
    def is_over(self) -> bool:
        return self.waited >= self.patience

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited, "is_over": self.is_over}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.waited = state["best"], state["waited"]


def early_stopping(request: TrainingRequest) -> EarlyStopping | None:
    return EarlyStopping(request.early_stopping_patience) if request.early_stopping_patience else None
