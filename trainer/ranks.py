"""Several processes that train one network: what each of them has to tell the others.

Each rank computes the gradient of its share of a batch; the gradients are summed, so that all ranks make the same
update. That is done here by hand instead of by `DistributedDataParallel`: shares may differ in size, down to nothing,
gradients of several batches are exchanged once, and checkpoints are those of the plain network.

A rank is found by the variables that torchrun sets (RANK, WORLD_SIZE, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT).
Everything but gradients on a GPU goes through gloo.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from random import Random
from typing import TypeVar, cast

import torch
from torch import distributed as dist
from torch import nn

from trainer.errors import PeerLost, TrainingFailed
from trainer.images import UnreadableImage
from trainer.split import Split

Value = TypeVar("Value")

_BUCKET = 25 * 2**20
"""Bytes of gradients that are sent at a time: they are copied for that. `DistributedDataParallel` takes as many."""


class Ranks:
    """The processes of a training, as one of them sees them. With `count` 1 every method does nothing, at no cost.

    Attributes:
        rank: from 0, which alone logs and saves.
        on_this_machine: how many of them share its memory.
    """

    def __init__(
        self, rank: int = 0, count: int = 1, on_this_machine: int = 1, gradients: dist.ProcessGroup | None = None
    ) -> None:
        self.rank = rank
        self.count = count
        self.on_this_machine = on_this_machine
        self._gradients = gradients

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share_of(self, indices: list[int]) -> list[int]:
        """This rank's images of a batch. Nobody gets a single one, which batch normalisation cannot take."""
        if self.count == 1:
            return indices
        working = max(1, min(self.count, len(indices) // 2))
        if self.rank >= working:
            return []
        size, larger = divmod(len(indices), working)
        start = self.rank * size + min(self.rank, larger)
        return indices[start : start + size + (self.rank < larger)]

    def sum(self, *values: float) -> list[float]:
        """Of all ranks, in double precision."""
        if self.count == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        with _together():
            dist.all_reduce(total)
        return cast(list[float], total.tolist())

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Add up what all ranks have; who has none adds nothing."""
        if self.count == 1:
            return
        for bucket in _buckets(parameters):
            gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in bucket]
            flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
            with _together():
                dist.all_reduce(flat, group=self._gradients)
            pieces = torch.split(flat, [gradient.numel() for gradient in gradients])
            for parameter, gradient, piece in zip(bucket, gradients, pieces, strict=True):
                parameter.grad = gradient.copy_(piece.view(gradient.shape))

    def from_first(self, value: Value) -> Value:
        """What rank 0 has."""
        if self.count == 1:
            return value
        values = [value]
        with _together():
            dist.broadcast_object_list(values, src=0)
        return values[0]

    def of_all(self, value: Value) -> list[Value]:
        """What each rank has, in their order."""
        if self.count == 1:
            return [value]
        values = cast(list[Value], [None] * self.count)
        with _together():
            dist.all_gather_object(values, value)
        return values

    def for_first(self, value: Value) -> list[Value]:
        """What each rank has, in their order, for rank 0; nothing for the others."""
        if self.count == 1:
            return [value]
        values = cast(list[Value], [None] * self.count) if self.is_first else None
        with _together():
            dist.gather_object(value, values, dst=0)
        return values or []

    def start_alike(self, network: nn.Module) -> None:
        """Give every rank the weights and statistics of rank 0."""
        if self.count > 1:
            own = network.state_dict()
            for name, value in self.from_first({name: each.cpu() for name, each in own.items()}).items():
                own[name].copy_(value)

    def average_statistics(self, *networks: nn.Module) -> None:
        """Make the running statistics of batch normalisations the mean over all ranks: each has seen its share."""
        if self.count == 1:
            return
        for buffer in (buffer for network in networks for buffer in network.buffers() if buffer.is_floating_point()):
            mean = buffer.cpu()
            with _together():
                dist.all_reduce(mean)
            buffer.copy_(mean / self.count)

    def draw_apart(self, seed: int, epoch: int) -> None:
        """Let dropout draw other numbers in each rank, those that follow from the seed and the epoch."""
        if self.count > 1:
            torch.manual_seed(Random(f"rank {seed} {epoch} {self.rank}").getrandbits(63))

    def leave_out_alike(self, split: Split) -> None:
        """Leave out what any rank could not read. Raises what `Split.leave_out` raises, in all of them."""
        if self.count == 1:
            return
        found: dict[int, str] = {}
        for news in self.of_all(split.news):
            found |= news
        for index, why in sorted(found.items()):
            if index not in split.left_out:
                split.leave_out(index, UnreadableImage(why))
        split.news.clear()

    def refuse_other_images(self, split: Split) -> None:
        """Raises `TrainingFailed`: a rank, on another machine, sees another folder than rank 0."""
        first, *others = self.of_all(split.fingerprint)
        if any(other != first for other in others):
            message = (
                f"{split.name} {str(split.root)!r} is not the same on all machines: put it on storage that all see."
            )
            raise TrainingFailed("data_differs", message)


ALONE = Ranks()


def how_many() -> int:
    """The number of ranks that this process is one of, by its environment."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """Meet the other ranks, if there are any. Raises `PeerLost`."""
    if how_many() == 1:
        yield ALONE
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with _together():
        dist.init_process_group("gloo")
        gradients = cast(dist.ProcessGroup, dist.new_group(backend="nccl")) if device.type == "cuda" else None
    try:
        on_this_machine = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        yield Ranks(dist.get_rank(), dist.get_world_size(), on_this_machine, gradients)
    finally:
        dist.destroy_process_group()


@contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError) as error:
        raise PeerLost(str(error)) from error


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    bucket: list[nn.Parameter] = []
    size = 0
    for parameter in parameters:
        bucket.append(parameter)
        size += parameter.numel() * parameter.element_size()
        if size >= _BUCKET:
            yield bucket
            bucket, size = [], 0
    if bucket:
        yield bucket
