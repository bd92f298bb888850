"""PyTorch's classifier tutorial, and the many scripts that began as a copy: `[epoch, batch] loss: x`."""

from __future__ import annotations

import re

from services.parsing.presets.base import Preset, read_behind_place

PYTORCH_TUTORIAL = Preset(
    name="pytorch_tutorial",
    line=re.compile(r"\[(?P<epoch>[0-9]{1,6}), {1,6}(?P<step>[0-9]{1,9})\]:? (?P<rest>.{0,400})$"),
    first="[",
    read_match=read_behind_place,
    samples=(("[1,  2000] loss: 2.173", {"epoch": 1, "step": 2000, "train_loss": 2.173}),),
)
