"""What is frozen stays as it is, to the last bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.trainer.helpers import logger_and_lines, never, request_for, write_digits
from trainer.layers import freeze, layers_of, set_training, trainable
from trainer.loop import train
from trainer.network import bare_network, on_meta

ANYWHERE = Path("/anywhere")
FAMILIES = ["alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3", "mnasnet0_5",
            "mobilenet_v2", "mobilenet_v3_small", "maxvit_t", "regnet_y_400mf", "resnet18", "shufflenet_v2_x0_5",
            "squeezenet1_1", "swin_t", "vgg11", "vit_b_16"]  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_every_parameter_is_in_one_layer_and_the_last_one_is_the_head(name: str) -> None:
    network = on_meta(lambda: bare_network(name, 7, 224))
    layers = layers_of(network)
    parameters = [parameter for layer in layers for parameter in layer]
    assert len(parameters) == len({id(parameter) for parameter in parameters})
    assert {id(parameter) for parameter in parameters} == {id(parameter) for parameter in network.parameters()}
    assert {parameter.shape[0] for parameter in layers[-1]} == {7}
    assert len(layers) > 7


@pytest.mark.parametrize(
    ("changes", "trained"),
    [
        ({}, None),
        ({"freeze": "head_only"}, ["fc"]),
        ({"freeze": "last_n", "trainable_layers": 1}, ["fc"]),
        ({"freeze": "last_n", "trainable_layers": 3}, ["layer4.1.conv1", "layer4.1.bn1", "layer4.1.conv2",
                                                       "layer4.1.bn2", "fc"]),
        ({"freeze": "last_n", "trainable_layers": 999}, None),
    ],
)  # fmt: skip
def test_the_last_layers_are_trained_with_their_normalisation(
    changes: dict[str, Any], trained: list[str] | None
) -> None:
    network = bare_network("resnet18", 2, 32)
    freeze(network, request_for(ANYWHERE, **changes))
    found = {name.rsplit(".", 1)[0] for name, parameter in network.named_parameters() if parameter.requires_grad}
    every = {name.rsplit(".", 1)[0] for name, _ in network.named_parameters()}
    if trained:
        # the parallel path of a block that halves is registered after it, and is one more convolution
        assert set(trained) <= found
        assert len(found) == len(trained)
    else:
        assert found == every
        assert len(trainable(network)) == len(list(network.parameters()))


def test_a_frozen_normalisation_keeps_its_statistics_and_others_do_not() -> None:
    network = bare_network("resnet18", 2, 32)
    freeze(network, request_for(ANYWHERE, freeze="last_n", trainable_layers=2))
    network.eval()
    set_training(network)
    before = {name: value.clone() for name, value in network.named_buffers()}
    network(torch.rand(4, 3, 32, 32))
    changed = {name for name, value in network.named_buffers() if not torch.equal(value, before[name])}
    assert changed == {f"layer4.1.bn2.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}


def test_a_network_that_is_not_frozen_trains_as_always() -> None:
    network = bare_network("mnasnet0_5", 2, 32).eval()
    set_training(network)
    assert all(module.training for module in network.modules())


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("digits"), training=5, validation=2, classes=2)


def weights(digits: Path, output_dir: Path, **changes: Any) -> dict[str, Tensor]:
    request = request_for(digits, num_epochs=1, model="mnasnet0_5", learning_rate=1e-2, **changes)
    logger, _ = logger_and_lines()
    train(request, output_dir=output_dir, device="cpu", logger=logger, should_stop=never)
    state: dict[str, Tensor] = torch.load(output_dir / "last.pt", weights_only=True)["state_dict"]
    return state


def test_a_training_of_the_head_changes_nothing_else(digits: Path, tmp_path: Path) -> None:
    start = weights(digits, tmp_path / "start")
    path = str(tmp_path / "start/last.pt")
    head = weights(digits, tmp_path / "head", weight_path=path, freeze="head_only")
    changed = {name for name, value in head.items() if not torch.equal(value, start[name])}
    assert changed == {"classifier.1.weight", "classifier.1.bias"}
    last = weights(digits, tmp_path / "last", weight_path=path, freeze="last_n", trainable_layers=2)
    changed = {name.rsplit(".", 1)[0] for name, value in last.items() if not torch.equal(value, start[name])}
    assert changed == {"layers.14", "layers.15", "classifier.1"}
