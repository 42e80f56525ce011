r"""Layers that the transformers share: normalisations, modulation by a condition, feed-forward, sinusoidal features.

Parameter names follow diffusers where published weights exist. Normalisations compute in at least float32.
"""

from __future__ import annotations

__all__ = [
    "EmbeddingMLP",
    "FeedForward",
    "Modulation",
    "RMSNorm",
    "SharedModulation",
    "gelu_",
    "modulate",
    "timestep_features",
]

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class RMSNorm(nn.Module):
    """Scale the last dimension to unit mean square: y = x / sqrt(mean(x^2) + eps) * weight.

    Zhang and Sennrich 2019, "Root mean square layer normalization", Eq. 4.

    Args:
        dim: size of the last dimension.
        eps: added to the mean square.
    """

    def __init__(self, dim: int, eps: float = 1e-7) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [..., dim]; the result is in the wider dtype of input and gain."""
        x = x.to(torch.promote_types(x.dtype, torch.promote_types(self.weight.dtype, torch.float32)))
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), self.eps)


class Modulation(nn.Module):
    """Turn a condition vector into ``parts`` vectors per block: chunk(Linear(silu(c)), parts).

    The adaptive part of AdaLN (Peebles and Xie 2023, "Scalable diffusion models with transformers", section 3.2).

    Args:
        dim: width of the condition and of each part.
        parts: number of vectors.
    """

    def __init__(self, dim: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(dim, parts * dim)

    def forward(self, condition: Tensor) -> tuple[Tensor, ...]:
        """Return ``parts`` tensors [B, 1, dim] from [B, dim]."""
        return self.linear(F.silu(condition))[:, None].chunk(self.parts, dim=-1)


class SharedModulation(nn.Module):
    """Read this block's vectors from a projection that all blocks share, plus an offset of its own.

    The economical form of AdaLN (Chen et al. 2023, "PixArt-alpha", section 2.3, "adaLN-single"): ``parts * dim``
    parameters per block instead of ``parts * dim^2``.

    Args:
        dim: width of each part.
        parts: number of vectors, at most those in the shared projection.
    """

    def __init__(self, dim: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.offset = nn.Parameter(torch.zeros(parts * dim))

    def forward(self, projected: Tensor) -> tuple[Tensor, ...]:
        """Return ``parts`` tensors [B, 1, dim] from the shared projection [B, n dim], n >= parts."""
        return (projected[:, : len(self.offset)] + self.offset)[:, None].chunk(self.parts, dim=-1)


def modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float = 1e-6) -> Tensor:
    """Return LayerNorm(x) (1 + scale) + shift for x [B, N, D], shift and scale [B, 1, D]; the norm has no gains."""
    normal = F.layer_norm(x, x.shape[-1:], eps=eps)
    return torch.addcmul(shift.to(normal.dtype), normal, 1 + scale.to(normal.dtype))


def gelu_(x: Tensor) -> Tensor:
    """Return the tanh form of GELU (Hendrycks and Gimpel 2016) in the place of a new tensor that nothing else reads."""
    return torch.ops.aten.gelu_(x, approximate="tanh")


class _Expand(nn.Module):
    def __init__(self, dim: int, hidden: int, activation: str) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, hidden)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(x)
        return F.silu(x, inplace=True) if self.activation == "silu" else gelu_(x)


class FeedForward(nn.Module):
    """Two linear layers with a nonlinearity between them.

    Args:
        dim: width of input and output.
        hidden: width between.
        activation: "gelu" (tanh approximation) or "silu".

    Raises:
        ValueError: an unknown activation.
    """

    def __init__(self, dim: int, hidden: int, activation: str = "gelu") -> None:
        super().__init__()
        if activation not in ("gelu", "silu"):
            raise ValueError(f"activation must be 'gelu' or 'silu'; got {activation!r}")
        self.net = nn.Sequential(_Expand(dim, hidden, activation), nn.Identity(), nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., dim] to [..., dim]."""
        return self.net(x)


class EmbeddingMLP(nn.Module):
    """Embed a feature vector: Linear, SiLU, Linear.

    Args:
        features: width of the input.
        dim: width of the output and of the layer between.
    """

    def __init__(self, features: int, dim: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(features, dim)
        self.linear_2 = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., features] to [..., dim]."""
        return self.linear_2(F.silu(self.linear_1(x)))


def timestep_features(t: Tensor, dim: int = 256, scale: float = 1.0, max_period: float = 10000.0) -> Tensor:
    """Return sinusoidal features of a number: [cos(s t f_i), sin(s t f_i)], f_i = max_period^(-2 i / dim).

    Args:
        t: [B], any real numbers.
        dim: even number of features.
        scale: s, the highest angular frequency per unit of ``t``.
        max_period: ratio of the highest to the lowest frequency.

    Returns:
        float32 [B, dim], float64 for float64 input.
    """
    dtype = torch.promote_types(t.dtype, torch.float32)
    half = dim // 2
    exponent = -math.log(max_period) / half * torch.arange(half, dtype=torch.float64, device=t.device)
    angles = t.to(dtype)[:, None] * (scale * exponent.exp()).to(dtype)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)
