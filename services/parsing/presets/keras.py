"""Keras: in front of `ms/step` stands what is left of the epoch; on its last line, what it took."""

from __future__ import annotations

import re

from services.parsing.grammar import read_grammar
from services.parsing.meaning import Meaning
from services.parsing.presets.base import Preset
from services.parsing.report import Report

_MANY = 1000
"""Keras before 2.3 counted images. So many steps of less than a millisecond are none."""


def _read(match: re.Match[str]) -> Report | None:
    report = read_grammar(match[0])
    if report is None:
        return None
    report.opens_with_count = True
    done, total = int(match["step"]), int(match["steps"])
    if match["unit"] in ("us", "µs") and total >= _MANY:
        report.step = report.total_steps = None
        report.samples = (done, total)
    else:
        report.step, report.total_steps = done, total
    if done < total:
        report.observe(Meaning("eta"), float(match["seconds"]))
    return report


KERAS = Preset(
    name="keras",
    line=re.compile(
        r"(?P<step>[0-9]{1,9})/(?P<steps>[0-9]{1,9}) [━─╸\[\]=>. -]{0,80}"
        r"(?:ETA: )?(?P<seconds>[0-9]{1,9})s (?:- )?[0-9]{1,9}(?P<unit>s|ms|us|µs)/step(?!\w).*",
        re.IGNORECASE,
    ),
    first="0123456789",
    read_match=_read,
    samples=(
        (
            " 1/16 ━━━━━━━━━━━━━━━━━━━━ 9s 616ms/step - accuracy: 0.2500 - loss: 1.3723",
            {"step": 1, "total_steps": 16, "eta": 9.0, "train_acc": 0.25, "train_loss": 1.3723},
        ),
        (
            "16/16 ━━━━━━━━━━━━━━━━━━━━ 0s 18ms/step - accuracy: 0.3086 - loss: 1.1773 - val_loss: 0.9051",
            {"step": 16, "total_steps": 16, "train_acc": 0.3086, "train_loss": 1.1773, "val_loss": 0.9051},
        ),
    ),
)
