"""Root-mean-square normalisation over the channels of a field."""

from __future__ import annotations

__all__ = ["ChannelRMSNorm"]

import torch
from torch import Tensor, nn


class ChannelRMSNorm(nn.Module):
    """Scale each point of [B, C, H, W] to unit mean square over its channels (Zhang and Sennrich 2019, Eq. 4).

        y = x / sqrt(mean_c(x^2) + eps) * weight + bias

    The statistics are taken in float32 or better, without moving the channels; the result has the parameters' type
    where that is wider than the input's, so that a residual stream stays in float32 under autocast.

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
        wide = torch.promote_types(x.dtype, torch.float32)
        power = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=wide).square() / x.shape[1]
        return torch.addcmul(self.bias[:, None, None], x * torch.rsqrt(power + self.eps), self.weight[:, None, None])
