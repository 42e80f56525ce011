r"""Noise schedules: how much data and how much noise a sample holds at time t.

Every path from noise to data used here is Gaussian,

    x_t = alpha(t) x_0 + sigma(t) eps,    eps ~ N(0, 1),

and two paths differ only by a scale and a clock: x_t / alpha(t) depends on t through the *noise level* sigma(t) /
alpha(t) alone (Karras et al. 2022, "Elucidating the design space of diffusion-based generative models", section 2). A
schedule therefore needs alpha, sigma, their slopes and the inverse of the noise level.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["VE", "VP", "Rectified", "Schedule", "karras_sigmas", "noise_level", "rectified_times", "to_zero"]


class Schedule(Protocol):
    """Give alpha, sigma, their slopes and the inverse of the noise level of one Gaussian path."""

    def alpha(self, t: Tensor) -> Tensor:
        """Return the share of the data at time ``t``."""
        ...

    def sigma(self, t: Tensor) -> Tensor:
        """Return the standard deviation of the noise at time ``t``."""
        ...

    def slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return d alpha / dt and d sigma / dt at time ``t``."""
        ...

    def time(self, level: Tensor) -> Tensor:
        """Return the time at which sigma / alpha equals ``level`` (>= 0)."""
        ...


@dataclass(frozen=True)
class VE:
    """Variance-exploding path whose time is its noise level: alpha = 1, sigma = t (Karras et al. 2022, Table 1)."""

    def alpha(self, t: Tensor) -> Tensor:
        """Return 1."""
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        """Return t."""
        return t

    def slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return 0 and 1."""
        return torch.zeros_like(t), torch.ones_like(t)

    def time(self, level: Tensor) -> Tensor:
        """Return the level itself."""
        return level


@dataclass(frozen=True)
class VP:
    """Variance-preserving path with a linear beta on t in [0, 1].

    alpha = exp(-B/2), sigma = sqrt(1 - exp(-B)), B(t) = beta_min t + (beta_max - beta_min) t^2 / 2
    (Song et al. 2021, "Score-based generative modeling through SDEs", Eq. 33).

    Args:
        beta_min: rate of noising at t = 0, positive.
        beta_max: rate of noising at t = 1, at least ``beta_min``.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.beta_min <= self.beta_max:
            raise ValueError(f"VP needs 0 < beta_min <= beta_max; got {self.beta_min} and {self.beta_max}")

    def alpha(self, t: Tensor) -> Tensor:
        """Return exp(-B(t)/2)."""
        return torch.exp(-0.5 * self._integral(t))

    def sigma(self, t: Tensor) -> Tensor:
        """Return sqrt(1 - exp(-B(t)))."""
        return torch.sqrt(-torch.expm1(-self._integral(t)))

    def slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return -beta alpha / 2 and beta alpha^2 / (2 sigma); the second is infinite at t = 0."""
        beta = self.beta_min + (self.beta_max - self.beta_min) * t
        alpha = self.alpha(t)
        return -0.5 * beta * alpha, 0.5 * beta * alpha**2 / self.sigma(t)

    def time(self, level: Tensor) -> Tensor:
        """Solve B(t) = log(1 + level^2) for t."""
        integral = torch.log1p(level**2)
        root = torch.sqrt(self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * integral)
        return 2 * integral / (self.beta_min + root)

    def _integral(self, t: Tensor) -> Tensor:
        return self.beta_min * t + 0.5 * (self.beta_max - self.beta_min) * t**2


@dataclass(frozen=True)
class Rectified:
    """Straight path on t in [0, 1]: alpha = 1 - t, sigma = t (Liu et al. 2023, "Flow straight and fast", Eq. 1).

    Time runs as in the noise schedules above: t = 0 is data, t = 1 is pure noise.
    """

    def alpha(self, t: Tensor) -> Tensor:
        """Return 1 - t."""
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        """Return t."""
        return t

    def slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return -1 and 1."""
        return -torch.ones_like(t), torch.ones_like(t)

    def time(self, level: Tensor) -> Tensor:
        """Return level / (1 + level), and 1 for an infinite level."""
        return 1 / (1 + 1 / level)


def noise_level(schedule: Schedule, t: Tensor) -> Tensor:
    """Return sigma(t) / alpha(t), the noise per unit of data: what every path has in common."""
    return schedule.sigma(t) / schedule.alpha(t)


def karras_sigmas(steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Tensor:
    """Return noise levels that fall from ``sigma_max`` to ``sigma_min`` evenly in sigma^(1/rho).

    sigma_i = (sigma_max^(1/rho) + i/(N-1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho, Karras et al. 2022, Eq. 5.

    Args:
        steps: number N of levels, at least 1 (one level is ``sigma_max`` alone).
        sigma_min: last level, positive.
        sigma_max: first level, above ``sigma_min``.
        rho: 1 spaces evenly in sigma; larger values crowd the levels near ``sigma_min``.

    Returns:
        Float64 tensor [steps] on the CPU, strictly descending, without the final zero (see ``to_zero``).

    Raises:
        ValueError: a value outside its range.
    """
    _check_steps(steps)
    if not 0 < sigma_min < sigma_max < math.inf:
        raise ValueError(f"noise levels need 0 < sigma_min < sigma_max < inf; got {sigma_min} and {sigma_max}")
    if not rho > 0:
        raise ValueError(f"rho must be positive; got {rho} - the usual value is 7")
    first, last = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    sigmas: Tensor = ((1 - ramp) * first + ramp * last) ** rho
    return sigmas


def rectified_times(steps: int, sigma_max: float = math.inf, shift: float = 1.0) -> Tensor:
    """Return times of the straight path that fall from the noise level ``sigma_max`` to 0.

    t_i = s u_i / (1 + (s - 1) u_i) with u_i even from u_0 to 0; s > 1 spends more steps on noise
    (Esser et al. 2024, "Scaling rectified flow transformers", Eq. 23).

    Args:
        steps: number N of intervals, at least 1.
        sigma_max: noise level sigma / alpha at the start; infinity starts from pure noise at t = 1.
        shift: the factor s on the noise level, positive; the start itself is not shifted.

    Returns:
        Float64 tensor [steps + 1] on the CPU, strictly descending to 0.

    Raises:
        ValueError: a value outside its range.
    """
    _check_steps(steps)
    if not (sigma_max > 0 and 0 < shift < math.inf):
        raise ValueError(f"sigma_max and shift must be positive; got {sigma_max} and {shift}")
    start = 1 / (1 + shift / sigma_max)
    u = start * torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    return shift * u / (1 + (shift - 1) * u)


def to_zero(times: Tensor) -> Tensor:
    """Append the noise-free end, 0, to descending ``times`` [N]; returns [N + 1]."""
    return torch.cat([times, times.new_zeros(1)])


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"steps must be at least 1; got {steps}")
