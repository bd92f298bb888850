"""CatBoost: `learn` and `test` are the losses of the training and the validation set."""

from __future__ import annotations

import re

from services.parsing.meaning import Meaning
from services.parsing.presets.base import Preset
from services.parsing.report import Report
from services.parsing.values import SECONDS_OF, values_of

_NUMBER = r"[+-]?[0-9]{1,30}(?:\.[0-9]{0,30})?(?:e[+-]?[0-9]{1,3})?|nan"
_BEST = frozenset({"best"})


def _read(match: re.Match[str]) -> Report:
    report = Report(step=int(match["step"]))
    report.observe(Meaning("loss", "train"), float(match["learn"]))
    if match["test"]:
        report.observe(Meaning("loss", "val"), float(match["test"]))
    if match["best"]:
        report.observe(Meaning("loss", "val", _BEST), float(match["best"]))
    for left in values_of(match["left"] or "")[0][:1]:
        report.observe(Meaning("eta"), SECONDS_OF.get(left.unit, 1.0) * left.number)
    return report


CATBOOST = Preset(
    name="catboost",
    line=re.compile(
        rf"(?P<step>[0-9]{{1,9}}):\s+learn: (?P<learn>{_NUMBER})(?:\s+test[0-9]*: (?P<test>{_NUMBER}))?"
        rf"(?:\s+best: (?P<best>{_NUMBER}) \([0-9]{{1,9}}\))?"
        rf"(?:\s+total: [\w. ]{{1,30}}?\s+remaining: (?P<left>[\w. ]{{1,30}}))?\s*$"
    ),
    first="0123456789",
    read_match=_read,
    samples=(
        (
            "0:\tlearn: 0.6517\ttest: 0.6601\tbest: 0.6601 (0)\ttotal: 50ms\tremaining: 4.9s",
            {"step": 0, "train_loss": 0.6517, "val_loss": 0.6601, "eta": 4.9},
        ),
    ),
)
