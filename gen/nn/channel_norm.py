"""Root-mean-square normalisation over the channels of a field."""

from __future__ import annotations

__all__ = ["ChannelRMSNorm"]

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class ChannelRMSNorm(nn.Module):
    """Scale each point of [B, C, H, W] to unit mean square over its channels (Zhang and Sennrich 2019, Eq. 4).

        y = x / sqrt(mean_c(x^2) + eps) * weight + bias

    The arithmetic is in float32 or wider; the result has the wider of the input's and the parameters' types, so that a
    residual stream stays in float32 under autocast. Channels are not moved; channels_last arrays are the fastest.

    Args:
        channels: C.
        eps: added to the mean square.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [B, C, H, W]."""
        return _ChannelRMSNorm.apply(x, self.weight, self.bias, self.eps)


class _ChannelRMSNorm(torch.autograd.Function):
    """With n = x / rms: dL/dx = (w g - n mean_c(n w g)) / rms; a few passes where autograd would take a dozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        result = torch.promote_types(x.dtype, weight.dtype)
        wide = torch.promote_types(result, torch.float32)
        ctx.dtype, x = x.dtype, x.to(wide)
        power = torch.linalg.vector_norm(x, dim=1, keepdim=True).square_().div_(x.shape[1])
        scale = power.add_(eps).rsqrt_()
        normal = x * scale
        gain, shift = weight.to(wide)[:, None, None], bias.to(wide)[:, None, None]
        if not any(ctx.needs_input_grad):  # nothing looks back: one array less
            return normal.mul_(gain).add_(shift).to(result)
        ctx.save_for_backward(normal, scale, weight)
        return torch.addcmul(shift, normal, gain).to(result)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        normal, scale, weight = ctx.saved_tensors
        grad, scaling = grad.to(normal.dtype), weight.to(normal.dtype)
        product = grad * normal
        mean = torch.einsum("bchw,c->bhw", product, scaling)[:, None] / normal.shape[1]
        inner = torch.addcmul(grad * scaling[:, None, None], normal, mean, value=-1).mul_(scale)
        return inner.to(ctx.dtype), product.sum((0, 2, 3)).to(weight), grad.sum((0, 2, 3)).to(weight), None
