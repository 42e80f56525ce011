r"""Denoising loss and the noise levels at which it is taken.

    L = E_{x_0, eps, sigma} [ w(sigma) |D(x_0 + sigma eps; sigma) - x_0|^2 ],    w = 1 / c_out^2,

Karras et al. 2022, Eq. 8: with this w the loss is the plain squared error of the raw network, whatever the
preconditioning (for ``Flow`` it is the flow-matching loss |F - (eps - x_0)|^2). Its minimum over all functions is the
posterior mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from diffusion.precondition import Precondition
from diffusion.schedules import karras_sigmas

__all__ = ["LogNormal", "LogitNormal", "NoiseLevel", "denoising_errors", "denoising_loss", "snap"]


class NoiseLevel(Protocol):
    """Draw the noise levels sigma / alpha of a training batch."""

    def __call__(self, batch: int, generator: torch.Generator) -> Tensor:
        """Return ``batch`` positive noise levels [B], float32, on the generator's device."""
        ...


@dataclass(frozen=True)
class LogNormal:
    """Draw ln sigma ~ N(mean, std^2) (Karras et al. 2022, Table 1).

    Args:
        mean: mean of ln sigma.
        std: standard deviation of ln sigma, not negative.
        levels: a grid to whose nearest level each draw is moved, or the size of the default ``karras_sigmas`` grid
            (1000 in LaDCast); None keeps the draw.
    """

    mean: float = -1.2
    std: float = 1.2
    levels: Tensor | int | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and 0 <= self.std < math.inf):
            raise ValueError(f"noise levels need a finite mean and std >= 0; got {self.mean} and {self.std}")

    def __call__(self, batch: int, generator: torch.Generator) -> Tensor:
        """Return exp(mean + std n), moved to the grid when there is one."""
        normal = torch.randn(batch, generator=generator, device=generator.device)
        sigma = torch.exp(self.mean + self.std * normal)
        if self.levels is None:
            return sigma
        return snap(sigma, karras_sigmas(self.levels) if isinstance(self.levels, int) else self.levels)


@dataclass(frozen=True)
class LogitNormal:
    """Draw logit t ~ N(mean, std^2) on the straight path (Esser et al. 2024, section 3.1).

    The noise level there is sigma = t / (1 - t) = exp(logit t): the same family as ``LogNormal``, named as papers on
    flow matching name it.

    Args:
        mean: mean of logit t; positive prefers noise.
        std: standard deviation of logit t, not negative.
        levels: a grid of noise levels to snap to, as in ``LogNormal``.
    """

    mean: float = 0.0
    std: float = 1.0
    levels: Tensor | int | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        LogNormal(self.mean, self.std)

    def __call__(self, batch: int, generator: torch.Generator) -> Tensor:
        """Return t / (1 - t)."""
        return LogNormal(self.mean, self.std, self.levels)(batch, generator)


def snap(sigma: Tensor, levels: Tensor) -> Tensor:
    """Move each noise level [B] to the nearest (in sigma) of ``levels`` [N]."""
    levels = levels.to(sigma)
    nearest: Tensor = (sigma[:, None] - levels[None, :]).abs().argmin(dim=1)
    return levels[nearest]


def denoising_loss(
    denoiser: nn.Module,
    x0: Tensor,
    cond: Mapping[str, Any] | None,
    generator: torch.Generator,
    noise_level: NoiseLevel,
    weights: Tensor | None = None,
    reduction: Literal["mean", "none"] = "mean",
) -> Tensor:
    """Draw noise levels, then noise, and return the weighted error of the denoiser.

    Args:
        denoiser: ``Denoiser`` (bare or wrapped for distributed training).
        x0: clean samples [B, ...].
        cond: keywords of the network.
        generator: source of all randomness; draws happen on its device, so a CPU generator gives the same noise
            everywhere.
        noise_level: distribution of sigma.
        weights: factors on the squared error, broadcastable to ``x0`` (latitude weights [H, 1]; mean 1 by convention).
        reduction: "mean" for a scalar, "none" for one loss per sample [B].

    Returns:
        Float32 (or float64, as ``x0``) scalar or [B].

    Raises:
        ValueError: an unknown ``reduction``.
    """
    if reduction not in ("mean", "none"):
        raise ValueError(f"reduction must be 'mean' or 'none'; got {reduction!r}")
    sigma = noise_level(x0.shape[0], generator).to(x0.device)
    dtype = torch.promote_types(x0.dtype, torch.float32)
    noise = torch.randn(x0.shape, generator=generator, device=generator.device, dtype=dtype).to(x0.device)
    errors = denoising_errors(denoiser, x0, noise, sigma, cond, weights)
    return errors.mean() if reduction == "mean" else errors


def denoising_errors(
    denoiser: nn.Module,
    x0: Tensor,
    noise: Tensor,
    sigma: Tensor,
    cond: Mapping[str, Any] | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Return the loss of each sample for given noise: the mean of weights w(sigma) |D(x_0 + sigma eps) - x_0|^2.

    Args:
        denoiser: as in ``denoising_loss``.
        x0: clean samples [B, ...].
        noise: standard normal noise, shape of ``x0``.
        sigma: noise levels [B], positive.
        cond: keywords of the network.
        weights: factors on the squared error, broadcastable to ``x0``.

    Returns:
        One loss per sample [B].
    """
    x0 = x0.to(torch.promote_types(x0.dtype, torch.float32))
    level = sigma.to(x0).reshape(-1, *[1] * (x0.ndim - 1))
    estimate = denoiser(x0 + level * noise, level.flatten(), **(cond or {}))
    error = _precondition(denoiser).weight(level) * (estimate - x0) ** 2
    if weights is not None:
        error = error * weights.to(error)
    return error.flatten(1).mean(dim=1)


def _precondition(denoiser: nn.Module) -> Precondition:
    """Find the preconditioning through the wrappers of distributed training, which keep the module as ``.module``."""
    holder: Any = denoiser
    while not hasattr(holder, "precondition") and hasattr(holder, "module"):
        holder = holder.module
    found: Precondition = holder.precondition
    return found
