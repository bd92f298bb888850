"""The averaged weights are evaluated and saved, and the trained ones go on as if there were none."""

# ruff: noqa: N803, N806 - shape suffixes are upper case
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.trainer.helpers import logger_and_lines, never, request_for, same, split_of, write_digits
from trainer import loop
from trainer.average import Average
from trainer.checkpoint import load_network
from trainer.data import batches, normalise
from trainer.evaluation import Evaluation, evaluate
from trainer.framing import Central
from trainer.loop import train


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("digits"), training=5, validation=2, classes=6)


def network_of(value: float) -> nn.Module:
    network = nn.Linear(1, 1)
    set_to(network, value)
    return network


def set_to(network: nn.Module, value: float) -> None:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(value)


def weight(network: nn.Module) -> float:
    return float(next(network.parameters()).item())


def test_it_is_the_exponential_average_whose_decay_rises_to_the_one_asked_for() -> None:
    network = network_of(0.0)
    average = Average(network, decay=0.3)
    expected = 0.0
    for step, value in enumerate([1.0, 2.0, -1.0, 4.0, 4.0, 0.5, 7.0]):
        set_to(network, value)
        average.update()
        decay = min(0.3, (1 + step) / (10 + step))
        expected = value if step == 0 else decay * expected + (1 - decay) * value
        assert weight(average.network) == pytest.approx(expected), step
    assert weight(network) == 7.0


def test_the_statistics_of_the_normalisation_are_averaged_too() -> None:
    network = nn.BatchNorm1d(2)
    average = Average(network, decay=0.5)
    average.update()
    assert network.running_mean is not None
    network.running_mean.fill_(1.0)
    average.update()
    mean = average.network.running_mean
    assert isinstance(mean, Tensor)
    assert mean.tolist() == pytest.approx([9 / 11] * 2)  # decay 2/11


def test_it_goes_on_from_its_state_and_the_averaged_weights() -> None:
    network = network_of(0.0)
    average = Average(network, decay=0.9)
    for value in (1.0, 2.0, 5.0):
        set_to(network, value)
        average.update()
    other_network = network_of(-3.0)
    other = Average(other_network, decay=0.9)
    other_network.load_state_dict(average.network.state_dict())
    other.load_state_dict(average.state_dict())
    for one in (average, other):
        one.update()
    assert weight(other_network) == 5.0
    assert same(dict(other.network.state_dict()), dict(average.network.state_dict()))
    assert other.updates == average.updates == 4


def trained(digits: Path, output_dir: Path, **changes: Any) -> dict[str, Any]:
    """`last.pt`."""
    request = request_for(digits, num_classes=6, num_epochs=2, model="mnasnet0_5", learning_rate=1e-2, **changes)
    logger, _ = logger_and_lines()
    train(request, output_dir=output_dir, device="cpu", logger=logger, should_stop=never)
    content: dict[str, Any] = torch.load(output_dir / "last.pt", weights_only=True)
    return content


def test_the_trained_weights_are_those_of_a_training_without_it(digits: Path, tmp_path: Path) -> None:
    plain = trained(digits, tmp_path / "plain")
    averaged = trained(digits, tmp_path / "averaged", ema_decay=0.9)
    assert same(dict(averaged["average"]["trained"]), dict(plain["state_dict"]))
    assert averaged["average"]["updates"] == 2 * 4
    assert not same(dict(averaged["state_dict"]), dict(plain["state_dict"]))
    assert same(averaged["optimizer"], plain["optimizer"])


@torch.inference_mode()
def test_what_is_saved_is_what_was_evaluated(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated: list[Tensor] = []

    def keeping(logits_NC: Tensor, targets_N: Tensor) -> Evaluation:
        evaluated.append(logits_NC)
        return evaluate(logits_NC, targets_N)

    monkeypatch.setattr(loop, "evaluate", keeping)
    with torch.inference_mode(False):
        trained(digits, tmp_path, ema_decay=0.9)
    network, _ = load_network(tmp_path / "last.pt")
    split = split_of(digits / "val")
    [(images_BCHW, _)] = batches(split, [split.indices], Central(32), image_size=32, should_stop=never)
    assert torch.allclose(network(normalise(images_BCHW)), evaluated[-1], atol=1e-4)
