"""A moving average of the weights, which is often better than where the last steps have led.

Polyak averaging with exponential decay: `torch.optim.swa_utils.AveragedModel`. The statistics of the batch
normalisations are averaged too, so that they belong to the weights.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from trainer.weights import to_cpu

Tensors = tuple[Tensor, ...] | list[Tensor]


class Average:
    """The average of `network` after each update; the network itself is trained on as if there were none.

    The decay rises to `decay` as min(decay, (1 + t) / (10 + t)) after t updates, which is TensorFlow's
    `ExponentialMovingAverage` with `num_updates`: what was there before anything had been learned is soon forgotten,
    and a short training has an average too.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._trained = network
        self._decay = _RisingDecay(decay)
        self._averaged = AveragedModel(network, multi_avg_fn=self._decay, use_buffers=True)

    @property
    def network(self) -> nn.Module:
        """The network with the averaged weights."""
        return self._averaged.module

    @property
    def updates(self) -> int:
        return int(self._averaged.n_averaged)

    def update(self) -> None:
        self._decay.updates = self.updates
        self._averaged.update_parameters(self._trained)

    def state_dict(self) -> dict[str, Any]:
        """All but the averaged weights: those are the checkpoint's `state_dict`, since they are what is evaluated."""
        return {"updates": self.updates, "trained": to_cpu(self._trained.state_dict())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The trained network must hold the averaged weights, as it does once a checkpoint has been loaded into it."""
        self.network.load_state_dict(self._trained.state_dict())
        self._trained.load_state_dict(state["trained"])
        self._averaged.n_averaged.fill_(state["updates"])


class _RisingDecay:
    """For `AveragedModel`. Its own count of updates would have to be fetched from the GPU, which waits for all work."""

    def __init__(self, decay: float) -> None:
        self._decay = decay
        self.updates = 0

    def __call__(self, averaged: Tensors, trained: Tensors, _updates: Tensor | int) -> None:
        decay = min(self._decay, (1 + self.updates) / (10 + self.updates))
        average_into = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        average_into(averaged, trained, self.updates)
