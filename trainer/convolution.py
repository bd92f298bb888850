"""Gradients of convolutions of few pixels, on a processor with AVX2 and without AVX-512.

There oneDNN has no kernel for the gradient of a weight that is larger than its image, and multiplies image by image:
for the last layers of a resnet18 on images of 32 px that takes twenty times what the forward pass does, and most of the
step. One product over all images and pixels of the batch takes as long as the forward pass (decision 19).

Shapes: B images, H x W pixels of the output, K x J taps of the kernel, G groups, N input and M output channels of each.
"""

# ruff: noqa: N806 - shape suffixes are upper case
from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

Pair = tuple[int, int]

MOST_PIXELS = 16
LEAST_WEIGHTS = 2**17
"""Of the output and of the convolution, if it has no groups: one product is quicker than oneDNN's kernel (measured)."""


def quicken(network: nn.Module, device: torch.device) -> None:
    """Let the convolutions of `network` compute such gradients in the quicker way, where there is one.

    Their sums are taken in another order: what is computed is the same, and the last bits are not. Names, weights and
    what is saved stay as they are.
    """
    if device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2":
        for module in network.modules():
            if type(module) is nn.Conv2d and module.padding_mode == "zeros" and not isinstance(module.padding, str):
                module.__class__ = _Conv2d


class _Conv2d(nn.Conv2d):
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002 - torch's name
        is_asked_for = torch.is_grad_enabled() and weight.requires_grad and not torch.is_autocast_enabled("cpu")
        if not (is_asked_for and self._is_quicker(input)):
            return cast(Tensor, super()._conv_forward(input, weight, bias))
        how = self.stride, self.padding, self.dilation, self.groups
        return cast(Tensor, _Convolution.apply(input, weight, bias, *how))

    def _is_quicker(self, images: Tensor) -> bool:
        sizes = images.shape[2:]
        if any(size < taps for size, taps in zip(sizes, self.kernel_size, strict=True)):
            return True
        height, width = (
            (size + 2 * padding - dilation * (taps - 1) - 1) // stride + 1
            for size, padding, dilation, taps, stride in zip(
                sizes, cast(Pair, self.padding), self.dilation, self.kernel_size, self.stride, strict=True
            )
        )
        return self.groups == 1 and height * width <= MOST_PIXELS and self.weight.numel() >= LEAST_WEIGHTS


class _Convolution(Function):
    """`functional.conv2d`, but for the gradient of the weight."""

    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: Pair,
        padding: Pair,
        dilation: Pair,
        groups: int,
    ) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.how = stride, padding, dilation, groups
        return functional.conv2d(images, weight, bias, stride, padding, dilation, groups)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.how
        of_images = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            how = stride, padding, dilation, False, (0, 0), groups  # not transposed
            only_images = (True, False, False)
            of_images = torch.ops.aten.convolution_backward(gradient, images, weight, None, *how, only_images)[0]
        if ctx.needs_input_grad[1]:
            of_weight = weight_gradient(images, gradient, weight.shape, stride, padding, dilation, groups)
        if ctx.needs_input_grad[2]:
            of_bias = gradient.sum((0, 2, 3))
        return of_images, of_weight, of_bias, None, None, None, None


def weight_gradient(
    images: Tensor, gradient: Tensor, shape: torch.Size, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Tensor:
    """The gradient of a weight of `shape` (G * M, N, K, J).

    `gradient` is that of the output (B, G * M, H, W) of its convolution of `images` (B, G * N, any height and width).
    """
    (M, N), (K, J), (H, W) = (shape[0] // groups, shape[1]), shape[2:], gradient.shape[2:]
    gradient_BHWM = gradient.permute(0, 2, 3, 1)
    padded_BCHW = functional.pad(images, (padding[1], padding[1], padding[0], padding[0]))
    padded_BHWC = padded_BCHW.permute(0, 2, 3, 1).contiguous()
    of_image, of_row, of_pixel, of_channel = padded_BHWC.stride()
    strides = (of_row * stride[0], of_pixel * stride[1], of_row * dilation[0], of_pixel * dilation[1])
    seen_BHWKJC = padded_BHWC.as_strided(  # by each tap, for each pixel of the output
        (len(images), H, W, K, J, groups * N), (of_image, *strides, of_channel)
    )
    if groups > 1 and M == N == 1:
        taps = [(seen_BHWKJC[:, :, :, k, j] * gradient_BHWM).sum((0, 1, 2)) for k in range(K) for j in range(J)]
        return torch.stack(taps, dim=1).view(shape)
    P = len(images) * H * W
    seen_GPT = seen_BHWKJC.reshape(P, K * J, groups, N).permute(2, 0, 1, 3).reshape(groups, P, K * J * N)
    gradient_GMP = gradient_BHWM.reshape(P, groups, M).permute(1, 2, 0)
    return torch.bmm(gradient_GMP, seen_GPT).view(groups, M, K, J, N).permute(0, 1, 4, 2, 3).reshape(shape)
