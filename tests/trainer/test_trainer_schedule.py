"""Every schedule is the one that its name says, at every update of every training, however short."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import SGD
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, StepLR

from models.schemas import TrainingRequest
from tests.trainer.helpers import request_for, same
from trainer.schedule import Plateau, learning_rate_at

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


@settings(deadline=None, max_examples=100)
@given(
    st.sampled_from(["constant", "one_cycle", "step", "plateau"]),
    st.integers(1, 12),
    st.integers(1, 30),
    st.floats(0, 20),
)
def test_no_schedule_goes_above_the_peak_or_down_to_zero(schedule: str, epochs: int, steps: int, warmup: float) -> None:
    request = request_for(ANYWHERE, schedule=schedule, num_epochs=epochs, warmup_epochs=warmup, learning_rate=0.1)
    all_rates = rates(request, steps)
    assert min(all_rates) > 0
    assert max(all_rates) <= 0.1
    assert len(all_rates) > 3 or max(all_rates) == pytest.approx(0.1)


def stepped(scheduler: LRScheduler, optimizer: SGD, steps: int) -> list[float]:
    """The rate of each step of torch's scheduler."""
    found = []
    for _ in range(steps):
        found.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(("epochs", "steps_per_epoch"), [(1, 10), (3, 7), (20, 13)])
def test_one_cycle_is_that_of_torch(epochs: int, steps_per_epoch: int) -> None:
    steps = epochs * steps_per_epoch
    optimizer = SGD([torch.zeros(1)], lr=1.0)
    scheduler = OneCycleLR(optimizer, max_lr=0.3, total_steps=steps, cycle_momentum=False)
    theirs = stepped(scheduler, optimizer, steps - 1)
    ours = rates(request_for(ANYWHERE, schedule="one_cycle", num_epochs=epochs, learning_rate=0.3), steps_per_epoch)
    assert ours[:-1] == pytest.approx(theirs)
    assert ours[-1] == pytest.approx(0.3 / 25 / 1e4)


def test_step_is_that_of_torch_with_one_step_an_epoch() -> None:
    optimizer = SGD([torch.zeros(1)], lr=0.3)
    theirs = stepped(StepLR(optimizer, step_size=3, gamma=0.5), optimizer, 10)
    fields: dict[str, Any] = {"schedule": "step", "lr_factor": 0.5, "lr_step_epochs": 3, "warmup_epochs": 0}
    ours = rates(request_for(ANYWHERE, num_epochs=10, learning_rate=0.3, **fields), 4)
    assert ours == pytest.approx([rate for rate in theirs for _ in range(4)])


def test_constant_stays_at_the_peak_after_the_warmup() -> None:
    all_rates = rates(request_for(ANYWHERE, schedule="constant", num_epochs=10, warmup_epochs=2, learning_rate=0.5), 5)
    assert all_rates[:10] == sorted(all_rates[:10])
    assert all_rates[9] < 0.5
    assert all_rates[10:] == [0.5] * 40


def plateau(**changes: Any) -> Plateau:
    return Plateau(request_for(ANYWHERE, schedule="plateau", lr_factor=0.5, lr_patience=2, **changes))


def test_a_plateau_lowers_the_rate_once_its_patience_is_over() -> None:
    found = plateau()
    scales = []
    for score in (1, 2, 2, 2, 2, 3, 3, 3, 3):  # as good is not better
        found.epoch_done(score)
        scales.append(found.scale)
    assert scales == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25]


@pytest.mark.parametrize("cut", range(6))
def test_a_plateau_goes_on_from_its_state(cut: int, tmp_path: Path) -> None:
    scores = [1.0, 1.0, 0.5, 0.5, 0.5, 1.5, 0.0]
    whole, before = plateau(), plateau()
    for score in scores[:cut]:
        whole.epoch_done(score)
        before.epoch_done(score)
    torch.save(before.state_dict(), tmp_path / "state")
    after = plateau()
    after.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    for score in scores[cut:]:
        whole.epoch_done(score)
        after.epoch_done(score)
        assert after.scale == whole.scale
    assert same(after.state_dict(), whole.state_dict())
