"""Random numbers of one's own for code that draws from torch's global generator.

The transforms of torchvision know no other generator. But several trainings may run in one process: with numbers that
all of them draw from one place, no two trainings would be the same, and where one that goes on stands in them would
have to be saved. What a mode of torch's changes, it changes for its own thread alone.
"""

from __future__ import annotations

from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_DRAWING = frozenset(
    {torch.rand, torch.randint, torch.multinomial, torch._sample_dirichlet, Tensor.uniform_, Tensor.normal_}
)
"""What the transforms that are used here draw with; a test notices where there is more."""


class OwnRandom(TorchFunctionMode):
    """Inside, torch draws what follows from `seed` alone, and the global generator stays as it is."""

    def __init__(self, seed: str) -> None:
        super().__init__()
        self._generator = torch.Generator().manual_seed(Random(seed).getrandbits(63))

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        extra = {"generator": self._generator} if func in _DRAWING else {}
        return func(*args, **{**(kwargs or {}), **extra})
