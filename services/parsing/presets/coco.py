"""The summary that COCO's evaluation prints of a detector: the first of its twelve rows is the mAP."""

from __future__ import annotations

import re

from services.parsing.meaning import Meaning
from services.parsing.presets.base import Preset
from services.parsing.report import Report


def _read(match: re.Match[str]) -> Report:
    report = Report()
    value = float(match["value"])
    if match["what"] != "Precision" or match["area"] != "all":
        report.observe(
            Meaning(None, "val"),
            value,
            name=f"a{match['what'][0].lower()}_{match['iou']}_{match['area']}".replace(":", "_"),
        )
    elif match["iou"] == "0.50:0.95":
        report.observe(Meaning("mAP", "val"), value)
    else:
        report.observe(
            Meaning("map50", "val") if match["iou"] == "0.50" else Meaning(None, "val"),
            value,
            name=f"map_{match['iou']}",
        )
    return report


COCO = Preset(
    name="coco",
    line=re.compile(
        r"Average (?P<what>Precision|Recall)\s+\((?:AP|AR)\) @\[ IoU=(?P<iou>[0-9.:]{4,9})\s*\|"
        r"\s*area=\s*(?P<area>all|small|medium|large)\s*\|\s*maxDets=\s*[0-9]{1,5}\s*\] = "
        r"(?P<value>-?[0-9]{1,3}(?:\.[0-9]{1,8})?)$"
    ),
    read_match=_read,
    samples=(
        ("Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=100 ] = 0.345", {"mAP": 0.345}),
        ("Average Precision  (AP) @[ IoU=0.50      | area=   all | maxDets=100 ] = 0.545", {"map50": 0.545}),
    ),
)
