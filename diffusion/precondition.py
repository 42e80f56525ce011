r"""Preconditioning: the affine maps between a denoiser and the network inside it.

For x = alpha x_0 + sigma eps the estimate of x_0 is

    D(x; sigma, alpha) = c_skip x + c_out F(c_in x; c_noise),

where the coefficients depend on the preconditioning (Karras et al. 2022, Eq. 7, is the case alpha = 1). They are
written here in homogeneous form, for any scale alpha of the data, so that the pure-noise end of the straight path
(alpha = 0) is an ordinary point.

The second half of the file is the algebra between what networks are trained to predict: x_0 ("x"), the noise ("eps"),
v = alpha eps - sigma x_0 (Salimans & Ho 2022, "Progressive distillation", appendix D) and the velocity of the straight
path u = eps - x_0 ("flow").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

__all__ = ["EDM", "Coefficients", "Flow", "Precondition", "TargetKind", "convert", "from_data", "target", "to_data"]

TargetKind = Literal["x", "eps", "v", "flow"]


class Coefficients(NamedTuple):
    """Hold c_skip, c_out, c_in and c_noise, each with the shape of the noise level."""

    skip: Tensor
    out: Tensor
    inp: Tensor
    noise: Tensor


class Precondition(Protocol):
    """Turn a noise level into the coefficients around the network and the weight of the loss."""

    def coefficients(self, sigma: Tensor, alpha: Tensor | float = 1.0) -> Coefficients:
        """Return the four coefficients for x = alpha x_0 + sigma eps."""
        ...

    def weight(self, sigma: Tensor) -> Tensor:
        """Return 1 / c_out^2 at alpha = 1: the weight of |D - x_0|^2 that makes it the plain error of the network."""
        ...


@dataclass(frozen=True)
class EDM:
    """Unit-variance preconditioning of Karras et al. 2022, Table 1: network input and target have variance 1.

    c_in = 1 / sqrt(sigma^2 + alpha^2 sd^2), c_skip = alpha sd^2 c_in^2, c_out = sigma sd c_in, c_noise = ln(sigma /
    alpha) / 4.

    Args:
        sigma_data: standard deviation sd of the data, positive.
    """

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        if not self.sigma_data > 0:
            raise ValueError(f"sigma_data must be positive; got {self.sigma_data} - give the data's standard deviation")

    def coefficients(self, sigma: Tensor, alpha: Tensor | float = 1.0) -> Coefficients:
        """Return the coefficients; c_noise is infinite where alpha = 0, so start below the pure-noise end."""
        sd = self.sigma_data
        c_in = torch.rsqrt(sigma**2 + (alpha * sd) ** 2)
        return Coefficients(alpha * sd**2 * c_in**2, sigma * sd * c_in, c_in, torch.log(sigma / alpha) / 4)

    def weight(self, sigma: Tensor) -> Tensor:
        """Return (sigma^2 + sd^2) / (sigma sd)^2."""
        return (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2


@dataclass(frozen=True)
class Flow:
    """Velocity of the straight path: the network sees x_t = (1 - t) x_0 + t eps and predicts u = eps - x_0.

    With t = sigma / (alpha + sigma): c_in = 1 / (alpha + sigma), c_skip = c_in, c_out = -t, c_noise = time_scale t
    (Lipman et al. 2023, "Flow matching for generative modeling", Eq. 22, with time reversed).

    Args:
        time_scale: factor on the time the network is told; 1000 for networks that expect training-step numbers.
    """

    time_scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.time_scale > 0:
            raise ValueError(f"time_scale must be positive; got {self.time_scale} - use 1 for t in [0, 1]")

    def coefficients(self, sigma: Tensor, alpha: Tensor | float = 1.0) -> Coefficients:
        """Return the coefficients, finite at the pure-noise end alpha = 0."""
        c_in = 1 / (alpha + sigma)
        t = sigma * c_in
        return Coefficients(c_in, -t, c_in, self.time_scale * t)

    def weight(self, sigma: Tensor) -> Tensor:
        """Return ((1 + sigma) / sigma)^2."""
        return ((1 + sigma) / sigma) ** 2


def target(kind: TargetKind, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return what a network of this ``kind`` is trained to predict, from data, noise and the path's coefficients."""
    match kind:
        case "x":
            return x0
        case "eps":
            return eps
        case "v":
            return alpha * eps - sigma * x0
        case "flow":
            return eps - x0
    raise _unknown(kind)


def to_data(kind: TargetKind, value: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Recover x_0 from a prediction of this ``kind`` at x = alpha x_0 + sigma eps.

    Args:
        kind: what ``value`` predicts.
        value: prediction, shape of ``x``.
        x: noisy sample.
        alpha: share of the data, broadcastable to ``x`` (positive for "eps").
        sigma: noise, broadcastable to ``x``.

    Returns:
        The estimate of x_0.

    Raises:
        ValueError: an unknown ``kind``.
    """
    match kind:
        case "x":
            return value
        case "eps":
            return (x - sigma * value) / alpha
        case "v":
            return (alpha * x - sigma * value) / (alpha**2 + sigma**2)
        case "flow":
            return (x - sigma * value) / (alpha + sigma)
    raise _unknown(kind)


def from_data(kind: TargetKind, x0: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Express an estimate of x_0 as a prediction of this ``kind``: the inverse of ``to_data`` (sigma > 0)."""
    if kind == "x":
        return x0
    return target(kind, x0, (x - alpha * x0) / sigma, alpha, sigma)


def convert(source: TargetKind, to: TargetKind, value: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Turn a prediction of kind ``source`` into one of kind ``to``, at x = alpha x_0 + sigma eps (alpha, sigma > 0)."""
    if source == to:
        return value
    return from_data(to, to_data(source, value, x, alpha, sigma), x, alpha, sigma)


def _unknown(kind: str) -> ValueError:
    return ValueError(f"unknown target {kind!r}; use one of 'x', 'eps', 'v', 'flow'")
