"""What a frozen backbone has made of images, and the head that goes on from there.

Shapes: B images of a batch, N of a split, F features of an image (in whatever shape the head takes them).
"""

# ruff: noqa: N815 - shape suffixes are upper case
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from trainer.split import Split


@dataclass(frozen=True)
class Features:
    """Those of a split, on the CPU. A row is empty where the image could not be read."""

    split: Split
    rows_NF: Tensor

    def batches(self, groups: list[list[int]]) -> Iterator[tuple[Tensor, Tensor]]:
        """(features_BF; targets_B) of each group of indices, none of which is left out."""
        for indices in groups:
            yield self.rows_NF[indices], torch.tensor([self.split.targets[index] for index in indices])


def head_of(network: nn.Module) -> nn.Module:
    """What is behind the features: the last module, and in front of it a dropout that is a module of its own.

    In every torchvision family the last module is the head, or ends in it. Its modules are the network's own.
    """
    *_, before, last = network.children()
    dropout = [before, nn.Flatten()] if isinstance(before, _DropoutNd) else []
    return nn.Sequential(*dropout, last, nn.Flatten())
