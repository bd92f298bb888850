"""The optimizer is the one asked for, and each weight gets its share of decay and rate."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch.optim import SGD, Adam, AdamW

from tests.trainer.helpers import request_for
from trainer.layers import freeze, layers_of
from trainer.network import bare_network
from trainer.optimizer import build_optimizer, set_learning_rate

ANYWHERE = Path("/anywhere")


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


def test_the_backbone_has_its_share_of_the_rate_and_the_head_all_of_it() -> None:
    network = bare_network("shufflenet_v2_x0_5", 2, 32)
    optimizer = build_optimizer(request_for(ANYWHERE, backbone_lr_scale=0.1, weight_decay=0.3), network)
    set_learning_rate(optimizer, 0.5)
    rates = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    decays = {id(parameter): group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    for name, parameter in network.named_parameters():
        assert rates[id(parameter)] == pytest.approx(0.5 if name.startswith("fc.") else 0.05), name
        assert decays[id(parameter)] == (0.3 if parameter.ndim > 1 else 0), name
    assert optimizer.param_groups[0]["lr"] == 0.5  # the one that the log names


def test_each_layer_has_its_share_of_the_rate_of_the_next_one() -> None:
    network = bare_network("shufflenet_v2_x0_5", 2, 32)
    optimizer = build_optimizer(request_for(ANYWHERE, backbone_lr_scale=0.5, layer_decay=0.9), network)
    set_learning_rate(optimizer, 1.0)
    rates = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    assert len(rates) == len(list(network.parameters()))
    *backbone, head = layers_of(network)
    assert {rates[id(parameter)] for parameter in head} == {1.0}
    for distance, layer in enumerate(reversed(backbone), start=1):
        for parameter in layer:
            assert rates[id(parameter)] == pytest.approx(0.5 * 0.9**distance)


@pytest.mark.parametrize("is_trained", [True, False])
def test_a_training_that_goes_on_finds_its_layers(is_trained: bool) -> None:
    """It is built anew as one that was trained, whatever it began with."""
    network = bare_network("shufflenet_v2_x0_5", 2, 32)
    request = request_for(ANYWHERE, layer_decay=0.9, freeze="last_n", trainable_layers=4)
    freeze(network, request)
    before = build_optimizer(request, network, is_trained=is_trained)
    after = build_optimizer(request, network)
    after.load_state_dict(before.state_dict())
    shares = [group["lr_scale"] for group in after.param_groups[2:]]
    assert shares == pytest.approx([0.9, 0.9, 0.81, 0.81, 0.729, 0.729] if is_trained else [1.0] * 6)


def test_where_nothing_was_trained_before_all_layers_have_the_whole_rate() -> None:
    network = bare_network("shufflenet_v2_x0_5", 2, 32)
    optimizer = build_optimizer(request_for(ANYWHERE, backbone_lr_scale=0.1), network, is_trained=False)
    set_learning_rate(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5] * 4


@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_what_is_frozen_is_not_the_optimizers(scale: float) -> None:
    network = bare_network("shufflenet_v2_x0_5", 2, 32)
    request = request_for(ANYWHERE, freeze="head_only", backbone_lr_scale=scale)
    freeze(network, request)
    optimizer = build_optimizer(request, network)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert [tuple(parameter.shape) for parameter in parameters] == [(2, 1024), (2,)]
