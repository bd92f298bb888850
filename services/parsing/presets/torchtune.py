"""torchtune: `epoch|step|` in front of a progress bar's own numbers."""

from __future__ import annotations

import re

from services.parsing.presets.base import Preset, read_behind_place

TORCHTUNE = Preset(
    name="torchtune",
    line=re.compile(r"(?P<epoch>[0-9]{1,6})\|(?P<step>[0-9]{1,9})\|(?P<rest>[A-Za-z]{1,30}: .{0,400})$"),
    first="0123456789",
    read_match=read_behind_place,
    samples=(
        (
            "1|10|Loss: 2.3456:  10%|#         | 10/100 [00:10<01:30,  1.00s/it]",
            {"epoch": 1, "step": 10, "train_loss": 2.3456, "total_steps": 100, "eta": 90.0},
        ),
    ),
)
