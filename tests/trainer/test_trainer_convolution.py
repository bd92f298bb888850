"""Gradients are computed otherwise on a processor with AVX2 alone, and are the same."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from tests.trainer.helpers import logger_and_lines, never, request_for, same, write_digits
from trainer import convolution
from trainer.convolution import LEAST_WEIGHTS, quicken, weight_gradient
from trainer.loop import train
from trainer.network import bare_network

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def avx2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")


@pytest.fixture
def in_the_quicker_way(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """The shapes of the weights whose gradient was computed so."""
    shapes: list[torch.Size] = []

    def counted(images: Tensor, gradient: Tensor, shape: torch.Size, *how: object) -> Tensor:
        shapes.append(shape)
        return weight_gradient(images, gradient, shape, *how)  # type: ignore[arg-type]

    monkeypatch.setattr(convolution, "weight_gradient", counted)
    return shapes


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@given(
    images=st.integers(1, 4),
    groups=st.integers(1, 3),
    channels=pairs,
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    taps=pairs,
    stride=pairs,
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=pairs,
    channels_last=st.booleans(),
    data=st.data(),
)
@settings(deadline=None)
def test_the_gradient_of_a_weight_is_that_of_torch(
    images: int,
    groups: int,
    channels: tuple[int, int],
    size: tuple[int, int],
    taps: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    channels_last: bool,
    data: st.DataObject,
) -> None:
    fitting = tuple(
        max(pixels, reach * (tap - 1) + 1 - 2 * pad)
        for pixels, reach, tap, pad in zip(size, dilation, taps, padding, strict=True)
    )
    torch.manual_seed(data.draw(st.integers(0, 2**16)))
    seen = torch.randn(images, groups * channels[0], *fitting, dtype=torch.float64)
    if channels_last:
        seen = seen.to(memory_format=torch.channels_last)
    weight = torch.randn(groups * channels[1], channels[0], *taps, dtype=torch.float64, requires_grad=True)
    output = functional.conv2d(seen, weight, None, stride, padding, dilation, groups)
    gradient = torch.randn_like(output)
    output.backward(gradient)  # type: ignore[no-untyped-call]
    found = weight_gradient(seen, gradient, weight.shape, stride, padding, dilation, groups)
    torch.testing.assert_close(found, weight.grad)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "convnext_tiny", "squeezenet1_1", "regnet_y_400mf"])
def test_a_network_has_the_gradients_that_it_had(name: str, in_the_quicker_way: list[torch.Size]) -> None:
    torch.manual_seed(0)
    network = bare_network(name, 3, 32).double()
    images, targets = torch.randn(4, 3, 32, 32, dtype=torch.float64), torch.tensor([0, 1, 2, 0])

    def gradients() -> list[Tensor]:
        torch.manual_seed(1)  # of what drops out
        network.zero_grad()
        functional.cross_entropy(network(images), targets).backward()  # type: ignore[no-untyped-call]
        return [parameter.grad for parameter in network.parameters() if parameter.grad is not None]

    expected = gradients()
    assert not in_the_quicker_way
    names = list(network.state_dict())
    quicken(network, CPU)
    found = gradients()
    assert list(network.state_dict()) == names
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)
    assert in_the_quicker_way


def weights_of(network: nn.Module, *parts: str) -> list[torch.Size]:
    return [
        weight.shape for name, weight in network.named_parameters() if name.split(".")[0] in parts and weight.dim() == 4
    ]


def back_and_forth(network: nn.Module, size: int) -> None:
    network(torch.randn(2, 3, size, size)).sum().backward()


def test_only_convolutions_of_few_pixels_are_quicker(in_the_quicker_way: list[torch.Size]) -> None:
    network = bare_network("resnet18", 3, 32)
    quicken(network, CPU)
    back_and_forth(network, 32)  # layer1 to layer4 put out 8, 4, 2 and 1 pixels in a row
    large = [shape for shape in weights_of(network, "layer2", "layer3", "layer4") if shape.numel() >= LEAST_WEIGHTS]
    assert sorted(in_the_quicker_way) == sorted(large)
    in_the_quicker_way.clear()
    back_and_forth(network, 224)  # 56, 28, 14 and 7
    assert in_the_quicker_way == []


def test_a_kernel_in_groups_is_quicker_only_where_it_is_larger_than_its_image(
    in_the_quicker_way: list[torch.Size],
) -> None:
    network = nn.Sequential(nn.Conv2d(256, 512, 5, padding=2, groups=2), nn.ReLU(inplace=True))
    quicken(network, CPU)
    for size in (6, 5, 4, 3):
        network(torch.randn(2, 256, size, size)).sum().backward()
    assert len(in_the_quicker_way) == 2


def test_copies_and_pickles_of_a_network_are_quicker_too(in_the_quicker_way: list[torch.Size]) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 5, padding=2))
    quicken(network, CPU)
    for each in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        back_and_forth(each, 4)
    assert len(in_the_quicker_way) == 2


@pytest.mark.parametrize("frozen", ["weight", "bias"])
def test_what_is_frozen_has_no_gradient_and_the_rest_has_its_own(frozen: str) -> None:
    plain = nn.Conv2d(3, 4, 5, padding=2).requires_grad_()
    getattr(plain, frozen).requires_grad_(False)
    other = nn.Sequential(copy.deepcopy(plain))
    quicken(other, CPU)
    images = torch.randn(2, 3, 4, 4)
    for network in (plain, other):
        functional.relu(network(images), inplace=True).sum().backward()  # type: ignore[no-untyped-call]
    for one, same_one in zip(plain.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one.grad, same_one.grad)


def test_what_is_frozen_or_only_looked_at_costs_nothing(in_the_quicker_way: list[torch.Size]) -> None:
    network = bare_network("resnet18", 3, 32)
    quicken(network, CPU)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith(("layer4", "fc")))
    back_and_forth(network, 32)
    assert sorted(in_the_quicker_way) == sorted(weights_of(network, "layer4"))
    in_the_quicker_way.clear()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        back_and_forth(network, 32)
    assert in_the_quicker_way == []


@pytest.mark.parametrize(("capability", "device"), [("AVX512", "cpu"), ("DEFAULT", "cpu"), ("AVX2", "cuda:0")])
def test_elsewhere_nothing_is_changed(capability: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    network = bare_network("resnet18", 3, 32)
    kinds = [type(module) for module in network.modules()]
    quicken(network, torch.device(device))
    assert [type(module) for module in network.modules()] == kinds


@pytest.mark.parametrize("options", [{"padding": "same"}, {"padding": 1, "padding_mode": "reflect"}])
def test_what_pads_otherwise_is_left_as_it_is(options: dict[str, object]) -> None:
    network = nn.Sequential(nn.Conv2d(3, 64, 3, **options))  # type: ignore[arg-type]
    quicken(network, CPU)
    assert type(network[0]) is nn.Conv2d


def test_a_training_is_the_same_each_time_and_its_average_too(
    tmp_path: Path, in_the_quicker_way: list[torch.Size]
) -> None:
    root = write_digits(tmp_path, training=6, validation=2, classes=2)
    request = request_for(root, model="resnet18", num_epochs=1, ema_decay=0.9)
    states = []
    for output in (tmp_path / "once", tmp_path / "again"):
        train(request, output_dir=output, device="cpu", logger=logger_and_lines()[0], should_stop=never)
        states.append(torch.load(output / "last.pt", weights_only=True))
    assert in_the_quicker_way
    assert same(*states)
