"""When to compute in bfloat16."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn


def uses_bf16(amp: Literal["auto", "bf16", "fp32"], device: torch.device, network: nn.Module) -> bool:
    """Whether to train under bf16 autocast. `auto` says yes only where it is faster than fp32.

    On a GPU that is compute capability 8 (A100) and up. On a CPU it takes AMX or AVX-512 BF16, and a
    network without depthwise convolutions: one group per channel leaves no dot products to speed up,
    and the conversions make MobileNets and EfficientNets 1.1 to 2 times slower (measured).
    """
    if amp != "auto":
        return amp == "bf16"
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    capabilities = torch.cpu.get_capabilities()
    has_instructions = bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
    return has_instructions and not any(
        isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1 for module in network.modules()
    )
