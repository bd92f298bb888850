"""The summary that COCO's evaluation prints of a detector: the first of its twelve rows is the mAP."""

from __future__ import annotations

import re

from services.parsing.meaning import Meaning
from services.parsing.presets.base import Preset
from services.parsing.report import Report

_NAMES = {("Precision", "0.50:0.95"): "mAP", ("Precision", "0.50"): "map50"}


def _read(match: re.Match[str]) -> Report:
    report = Report(context="val")
    metric = _NAMES.get((match["what"], match["iou"])) if match["area"] == "all" else None
    own = f"a{match['what'][0].lower()}_{match['iou'].replace(':', '_')}_{match['area']}"
    report.observe(Meaning(metric), float(match["value"]), name=None if metric else own)
    return report


COCO = Preset(
    name="coco",
    line=re.compile(
        r"Average (?P<what>Precision|Recall)\s+\((?:AP|AR)\) @\[ IoU=(?P<iou>[0-9.:]{4,9})\s*\|"
        r"\s*area=\s*(?P<area>all|small|medium|large)\s*\|\s*maxDets=\s*[0-9]{1,5}\s*\]"
        r" = (?P<value>-?[0-9]{1,3}(?:\.[0-9]{1,8})?)$"
    ),
    first="A",
    read_match=_read,
    samples=(
        ("Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=100 ] = 0.345", {"mAP": 0.345}),
        ("Average Precision  (AP) @[ IoU=0.50      | area=   all | maxDets=100 ] = 0.545", {"map50": 0.545}),
    ),
)
