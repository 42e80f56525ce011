r"""Denoisers: estimates of the clean field from a noisy one.

For x = alpha x_0 + sigma eps every object here is called ``denoiser(x, sigma, alpha=1, **cond)`` and returns an
estimate of E[x_0 | x], the posterior mean, which by Tweedie's formula is all that a sampler needs: eps = (x - alpha D)
/ sigma. Paths with alpha = 1 never mention ``alpha``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from diffusion.precondition import EDM, Precondition

__all__ = ["AnalyticGaussian", "Denoiser"]


class Denoiser(nn.Module):
    """Wrap a raw network in its preconditioning: D(x; sigma) = c_skip x + c_out F(c_in x; c_noise, cond).

    The arithmetic around the network runs in at least float32, and in float64 when ``x`` is float64; the network gets
    its input in the dtype of its own parameters. ``c_noise`` keeps float32 under half-precision networks, because
    bfloat16 cannot tell close noise levels apart. Conditions are handed on as they are. Karras et al. 2022, Eq. 7.

    Args:
        network: module called ``network(x_in [B, ...], c_noise [B], **cond)`` that returns a tensor shaped like
            ``x_in``.
        precondition: coefficients around it, ``EDM(sigma_data)`` or ``Flow()``.
    """

    def __init__(self, network: nn.Module, precondition: Precondition) -> None:
        super().__init__()
        self.network = network
        self.precondition = precondition

    def forward(self, x: Tensor, sigma: Tensor | float, alpha: Tensor | float = 1.0, **cond: Any) -> Tensor:
        """Estimate the clean sample.

        Args:
            x: noisy samples alpha x_0 + sigma eps, [B, ...].
            sigma: noise, [B] or one number, positive.
            alpha: share of the data, [B] or one number.
            cond: keywords of the network (conditions), passed unchanged.

        Returns:
            Estimate of x_0, shape of ``x``, in float32 or float64.

        Raises:
            ValueError: ``sigma`` or ``alpha`` has neither one nor B values.
        """
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        c = self.precondition.coefficients(_per_sample("sigma", sigma, x), _per_sample("alpha", alpha, x))
        dtype = _parameter_dtype(self.network, x.dtype)
        noise = c.noise.to(torch.promote_types(dtype, torch.float32))
        output = self.network((_spread(c.inp, x) * x).to(dtype), noise, **cond)
        return _spread(c.skip, x) * x + _spread(c.out, x) * output.to(x.dtype)


class AnalyticGaussian(nn.Module):
    """Know the exact answer for data N(mean, std^2), independent in each element: the test double of ``Denoiser``.

    E[x_0 | x] = mean + alpha std^2 / (alpha^2 std^2 + sigma^2) (x - alpha mean).

    Args:
        mean: mean of the data, broadcastable to a sample.
        std: standard deviation of the data, broadcastable to a sample, positive.
        precondition: only tells ``denoising_loss`` how to weigh the error.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor | float, std: Tensor | float, precondition: Precondition | None = None) -> None:
        super().__init__()
        self.register_buffer("mean", torch.as_tensor(mean, dtype=torch.float64))
        self.register_buffer("std", torch.as_tensor(std, dtype=torch.float64))
        self.precondition = precondition if precondition is not None else EDM(sigma_data=1.0)

    def forward(self, x: Tensor, sigma: Tensor | float, alpha: Tensor | float = 1.0, **cond: Any) -> Tensor:
        """Return the posterior mean of x_0 at x [B, ...]; conditions are ignored."""
        mean, variance = self.mean.to(x), self.std.to(x) ** 2
        s, a = _spread(_per_sample("sigma", sigma, x), x), _spread(_per_sample("alpha", alpha, x), x)
        return mean + a * variance / (a**2 * variance + s**2) * (x - a * mean)

    def posterior_variance(self, sigma: Tensor | float) -> Tensor:
        """Return Var[x_0 | x_0 + sigma eps] = std^2 sigma^2 / (std^2 + sigma^2): the least possible denoising error."""
        return self.std**2 * sigma**2 / (self.std**2 + sigma**2)

    def transport(self, x: Tensor, start: float, end: float) -> Tensor:
        """Solve the probability-flow ODE exactly from noise level ``start`` to ``end`` (alpha = 1).

        x(end) - mean = sqrt((std^2 + end^2) / (std^2 + start^2)) (x(start) - mean), Karras et al. 2022, Eq. 1.
        """
        mean, variance = self.mean.to(x), self.std.to(x) ** 2
        return mean + torch.sqrt((variance + end**2) / (variance + start**2)) * (x - mean)


def _per_sample(name: str, value: Tensor | float, x: Tensor) -> Tensor:
    """Bring one number or B numbers to shape [B], dtype and device of ``x``."""
    tensor = torch.as_tensor(value, dtype=x.dtype, device=x.device).reshape(-1)
    if tensor.numel() not in (1, x.shape[0]):
        raise ValueError(f"{name} must be one number or one per sample; got {tensor.numel()} for {x.shape[0]} samples")
    return tensor.expand(x.shape[0])


def _spread(coefficient: Tensor, x: Tensor) -> Tensor:
    return coefficient.reshape(-1, *[1] * (x.ndim - 1))


def _parameter_dtype(network: nn.Module, default: torch.dtype) -> torch.dtype:
    """Return the dtype of the network's first floating parameter, ``default`` for one without parameters."""
    return next((p.dtype for p in network.parameters() if p.is_floating_point()), default)
