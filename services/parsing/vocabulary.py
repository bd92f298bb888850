"""Every phrase of the native log formats, and what it means.

To teach the parser a phrase, add a row. Phrases are written in lower case with single spaces and in the
canonical words of `SYNONYMS`; `Val_Acc`, `valid acc` and `Validation Accuracy` all find the same row.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from models.schemas import Stage


class ValueKind(Enum):
    """How the value behind a phrase is written."""

    NUMBER = auto()
    DURATION = auto()
    TOP_K = auto()


@dataclass(frozen=True, slots=True)
class Meaning:
    """The metrics that a phrase's value goes to, and the stage that such a line belongs to.

    For TOP_K the names are templates with `{k}`.
    """

    names: tuple[str, ...]
    stage: Stage | None
    kind: ValueKind = ValueKind.NUMBER


SYNONYMS = {
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "acc": "accuracy",
    "lr": "learning rate",
}

PHRASES = {
    "train loss": Meaning(("train_loss",), Stage.TRAINING),
    "train accuracy": Meaning(("train_acc",), Stage.TRAINING),
    "eta": Meaning(("eta",), None, ValueKind.DURATION),
    "validation loss": Meaning(("val_loss",), Stage.VALIDATION),
    "validation accuracy": Meaning(("val_acc",), Stage.VALIDATION),
    "validation macro f1": Meaning(("macro_f1",), Stage.VALIDATION),
    "validation micro f1": Meaning(("micro_f1",), Stage.VALIDATION),
    "validation f1": Meaning(("f1",), Stage.VALIDATION),
    "validation macro precision": Meaning(("precision", "macro_precision"), Stage.VALIDATION),
    "validation micro precision": Meaning(("micro_precision",), Stage.VALIDATION),
    "validation precision": Meaning(("precision",), Stage.VALIDATION),
    "validation macro recall": Meaning(("recall", "macro_recall"), Stage.VALIDATION),
    "validation micro recall": Meaning(("micro_recall",), Stage.VALIDATION),
    "validation recall": Meaning(("recall",), Stage.VALIDATION),
    "validation map": Meaning(("mAP",), Stage.VALIDATION),
    "validation top k accuracy": Meaning(("top{k}_acc",), Stage.VALIDATION, ValueKind.TOP_K),
    "learning rate": Meaning(("learning_rate",), Stage.EPOCH_END),
    "new best model saved with accuracy": Meaning(("best_acc",), Stage.EPOCH_END),
    "best accuracy": Meaning(("best_acc",), Stage.EPOCH_END),
}
"""`<phrase>: <value>`."""

RATE_UNITS = ("images/s", "images/sec", "imgs/s", "img/s")
"""`<number> <unit>`: throughput."""

EPOCH_EVENTS = {
    "started": Stage.EPOCH_START,
    "finished": Stage.EPOCH_END,
    "completed": Stage.EPOCH_END,
}
"""`Epoch [3/10] <word>`."""

ENDINGS = ("training complete", "training completed")
"""Phrases that end a training; the sentence may go on with `in` or `after` a time."""

STAGE_PRECEDENCE = (Stage.VALIDATION, Stage.TRAINING, Stage.EPOCH_END)
"""Which stage a line belongs to whose metrics belong to several: a step's learning rate ends no epoch."""
