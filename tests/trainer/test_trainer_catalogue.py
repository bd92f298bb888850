"""`networks.json` tells the truth about torchvision, and can be read without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torchvision import models

from models.schemas import NetworkInfo, TrainingRequest
from trainer.catalogue import SMALLEST_REQUEST, find_network, list_networks, measure, near_matches
from trainer.network import bare_network, image_size_multiple

SMALLEST_OF_EACH_FAMILY = [
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "efficientnet_v2_s",
    "googlenet",
    "inception_v3",
    "maxvit_t",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "regnet_x_400mf",
    "regnet_y_400mf",
    "resnet18",
    "resnext50_32x4d",
    "shufflenet_v2_x0_5",
    "squeezenet1_0",
    "squeezenet1_1",
    "swin_t",
    "swin_v2_t",
    "vgg11",
    "vgg11_bn",
    "vit_b_16",
    "wide_resnet50_2",
]


def test_the_list_is_exactly_torchvisions() -> None:
    assert [network.name for network in list_networks()] == sorted(models.list_models(module=models))


def test_parameters_and_weights_are_those_that_torchvision_publishes() -> None:
    for network in list_networks():
        published = models.get_model_weights(network.name)
        assert network.pretrained == (len(published) > 0)
        assert network.parameters == published.DEFAULT.meta["num_params"], network.name


def test_every_family_is_tried() -> None:
    def family(name: str) -> str:
        return name.split("_")[0].rstrip("0123456789")

    assert {family(network.name) for network in list_networks()} == {family(name) for name in SMALLEST_OF_EACH_FAMILY}


def test_no_network_asks_for_less_than_a_request_can() -> None:
    limits = {type(limit).__name__: limit for limit in TrainingRequest.model_fields["image_size"].metadata}
    assert limits["Ge"].ge == SMALLEST_REQUEST
    assert all(network.min_image_size >= SMALLEST_REQUEST for network in list_networks())


@pytest.mark.parametrize("name", SMALLEST_OF_EACH_FAMILY)
def test_a_network_trains_at_its_smallest_size_and_not_below(name: str) -> None:
    described = find_network(name)
    assert described is not None
    size, multiple = described.min_image_size, described.image_size_multiple
    assert multiple == image_size_multiple(name)

    network = bare_network(name, 3, size).train()
    with torch.inference_mode():
        assert network(torch.rand(2, 3, size, size)).shape == (2, 3)
        assert network.eval()(torch.rand(1, 3, size, size)).shape == (1, 3)
        if multiple > 1:
            with pytest.raises((AssertionError, ValueError)):
                bare_network(name, 3, size // 2)
        elif size > SMALLEST_REQUEST:
            with pytest.raises(RuntimeError):
                network(torch.rand(2, 3, size - 1, size - 1))


def test_a_network_trains_on_single_images_at_the_size_for_that_and_not_below() -> None:
    described = find_network("shufflenet_v2_x0_5")
    assert described is not None
    size = described.min_image_size_alone
    network = bare_network(described.name, 3, size).train()
    assert network(torch.rand(1, 3, size, size)).shape == (1, 3)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        network(torch.rand(1, 3, size - 1, size - 1))


@pytest.mark.parametrize("name", ["squeezenet1_1", "regnet_x_400mf", "vit_b_32"])
def test_measuring_gives_what_the_file_says(name: str) -> None:
    assert measure(name) == find_network(name)


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("ResNet-18", "resnet18"),
        ("resnet_50", "resnet50"),
        ("vit-b/16", "vit_b_16"),
        ("efficientnetb0", "efficientnet_b0"),
        ("resnext50", "resnext50_32x4d"),
        ("mobilenetv3", "mobilenet_v3_small"),
    ],
)
def test_a_near_name_is_recognised(asked: str, meant: str) -> None:
    assert meant in near_matches(asked)


def test_a_name_that_is_near_nothing_has_no_matches() -> None:
    assert near_matches("qwerty") == []
    assert find_network("qwerty") is None


def test_an_entry_is_a_network_info_and_nothing_more() -> None:
    assert all(type(network) is NetworkInfo for network in list_networks())


@pytest.mark.parametrize("module", ["trainer", "trainer.catalogue", "trainer.preflight", "trainer.errors"])
def test_importing_takes_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
