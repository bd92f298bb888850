"""Every training warms up, however short, and ends slowly."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import SGD, Adam, AdamW

from models.schemas import TrainingRequest
from tests.trainer.helpers import request_for
from trainer.network import bare_network
from trainer.optimizer import build_optimizer, learning_rate_at

ANYWHERE = Path("/anywhere")


def rates(request: TrainingRequest, steps_per_epoch: int) -> list[float]:
    steps = request.num_epochs * steps_per_epoch
    return [
        learning_rate_at(step, steps=steps, steps_per_epoch=steps_per_epoch, request=request) for step in range(steps)
    ]


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 12), st.integers(1, 30), st.floats(0, 20))
def test_the_rate_rises_to_its_peak_and_falls_and_is_never_zero(epochs: int, steps: int, warmup: float) -> None:
    request = request_for(ANYWHERE, num_epochs=epochs, warmup_epochs=warmup, learning_rate=0.1)
    all_rates = rates(request, steps)
    peak = all_rates.index(max(all_rates))
    assert all_rates[peak] == 0.1
    assert peak <= 0.3 * len(all_rates)
    assert all_rates == sorted(all_rates[:peak]) + sorted(all_rates[peak:], reverse=True)
    assert min(all_rates) > 0


def test_warmup_lasts_as_long_as_it_is_told_to() -> None:
    all_rates = rates(request_for(ANYWHERE, num_epochs=100, warmup_epochs=2, learning_rate=1), 10)
    assert all_rates.index(1.0) == 20
    assert all_rates[:3] == pytest.approx([1 / 21, 2 / 21, 3 / 21])


def test_without_warmup_the_first_step_has_the_peak() -> None:
    assert rates(request_for(ANYWHERE, warmup_epochs=0, learning_rate=0.5), 7)[0] == 0.5


@pytest.mark.parametrize(("name", "kind"), [("sgd", SGD), ("adam", Adam), ("adamw", AdamW)])
def test_the_optimizer_is_the_one_asked_for_and_decays_weights_only(name: str, kind: type) -> None:
    network = bare_network("shufflenet_v2_x0_5", 2, 32)
    optimizer = build_optimizer(request_for(ANYWHERE, optimizer=name, weight_decay=0.3), network)
    assert type(optimizer) is kind
    decayed, kept = optimizer.param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.3, 0)
    assert all(parameter.ndim > 1 for parameter in decayed["params"])
    assert len(decayed["params"]) + len(kept["params"]) == len(list(network.parameters()))
    if name == "sgd":
        assert decayed["momentum"] == 0.9
        assert decayed["nesterov"]
