"""The part of the training that a line belongs to."""

from __future__ import annotations

import re
from collections.abc import Iterable

from models.schemas import Stage
from services.parsing.report import Report
from services.parsing.vocabulary import OF_EVALUATION, TEST, VAL

_FAMILIES = ("val_", "test_", "validation_", "macro_", "micro_", "weighted_")
_TOP_K = re.compile(r"top[0-9]+_acc")


def stage_of(report: Report, named: Iterable[str], *, is_completed: bool, is_new_epoch: bool) -> Stage | None:
    """What the line announces; else whose metrics it holds: of training and validation together, an epoch's end."""
    names = set(named)
    if report.event is Stage.COMPLETED or report.event is Stage.EPOCH_END:
        return report.event
    if report.event is Stage.EPOCH_START and not names:
        return report.event
    trained = any(name.startswith("train_") for name in names)
    best = any(name.startswith("best_") for name in names)
    validated = any(name.startswith(_FAMILIES) or name in OF_EVALUATION or _TOP_K.fullmatch(name) for name in names)
    if trained == validated and (trained or best or report.best_epoch is not None):
        return Stage.EPOCH_END
    if validated or (report.context in (VAL, TEST) and (names or report.step is not None)):
        return Stage.VALIDATION
    if trained:
        if report.is_averaged:
            return Stage.EPOCH_END
        return Stage.COMPLETED if is_completed and report.is_record else Stage.TRAINING
    if report.step is not None or report.samples is not None:
        return Stage.TRAINING
    if "learning_rate" in names:
        return Stage.EPOCH_START if is_new_epoch else Stage.EPOCH_END
    return Stage.TRAINING if names or report.total_epochs else None
