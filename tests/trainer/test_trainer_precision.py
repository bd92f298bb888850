"""bf16 is used where it is faster, or where somebody insists."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from trainer.network import bare_network, on_meta
from trainer.precision import uses_bf16

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")
PLAIN = on_meta(lambda: bare_network("resnet18", 2, 32))
DEPTHWISE = on_meta(lambda: bare_network("mobilenet_v3_small", 2, 32))


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"avx512_f": True}, False), ({}, False)],
)
def test_a_cpu_needs_the_instructions(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], expected: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert uses_bf16("auto", CPU, PLAIN) is expected
    assert uses_bf16("auto", CPU, DEPTHWISE) is False


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_a_gpu_needs_the_capability(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], expected: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert uses_bf16("auto", GPU, DEPTHWISE) is expected


@pytest.mark.parametrize(("amp", "expected"), [("bf16", True), ("fp32", False)])
@pytest.mark.parametrize("device", [CPU, GPU])
def test_a_choice_is_followed(amp: Literal["bf16", "fp32"], expected: bool, device: torch.device) -> None:
    assert uses_bf16(amp, device, DEPTHWISE) is expected
