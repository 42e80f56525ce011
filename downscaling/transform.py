r"""Rain to numbers a network can work with, and back.

    a = ln(1 + r / eps) / s        or        a = arcsinh(r / eps) / s

r is the rain rate in mm/h, eps where the scale turns from linear to logarithmic, s makes typical rain of order one. A
logarithm with a tiny eps magnifies errors at every intensity (0.1 standard deviations: 81 % with eps = 1e-5 mm/h, 10 to
20 % with 0.1 to 1 mm/h); whether it rains at all is a number of its own, so that the amount needs no jump at zero.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["RainTransform"]

import torch
from torch import Tensor

KINDS = ("log1p", "arcsinh")


@dataclass(frozen=True)
class RainTransform:
    """Map rain rates in mm/h to amounts of order one.

    Args:
        kind: "log1p" or "arcsinh".
        eps: mm/h. scale: s. threshold: mm/h; less counts as dry.
        ceiling: mm/h; no rate above it leaves `inverse` (a rate that no hour on Earth has seen: 305 mm in 42 minutes
            at Holt, Missouri, 1947, is 436 mm/h).

    Raises:
        ValueError: an unknown kind or a number that is not positive.
    """

    kind: str = "log1p"
    eps: float = 0.2
    scale: float = 2.0
    threshold: float = 0.1
    ceiling: float = 500.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"transform must be one of {', '.join(KINDS)}; got {self.kind!r}")
        for name in ("eps", "scale", "threshold", "ceiling"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} of the rain transform must be positive; got {getattr(self, name)}")

    def forward(self, rain: Tensor) -> Tensor:
        """Return the amounts of rain rates, which must not be negative."""
        ratio = rain / self.eps
        return (torch.log1p(ratio) if self.kind == "log1p" else torch.asinh(ratio)) / self.scale

    def inverse(self, amount: Tensor) -> Tensor:
        """Return rain rates between 0 and the ceiling."""
        top = self.forward(torch.tensor(self.ceiling, dtype=torch.float64)).item()
        a = amount.clamp(0.0, top) * self.scale
        return self.eps * (torch.expm1(a) if self.kind == "log1p" else torch.sinh(a))

    def expected(self, mean: Tensor, spread: Tensor) -> Tensor:
        """Return the expected rain rate of normal amounts, rates being held between threshold and ceiling.

        Integrals of exp(k s a) over a part of a normal distribution are closed: with u = (a - mu) / sigma,

            E[exp(k s a); a0 < a < a1] = exp(k s mu + (k s sigma)^2 / 2) (Phi(u1 - k s sigma) - Phi(u0 - k s sigma)).

        Args:
            mean: mu, of amounts.
            spread: sigma > 0.
        """
        mu, sigma = mean.double(), spread.double()
        ends = self.forward(torch.tensor([self.threshold, self.ceiling], dtype=torch.float64))
        low, high = ((end - mu) / sigma for end in ends)

        def part(k: int) -> Tensor:
            step = k * self.scale * sigma
            inside = torch.special.ndtr(high - step) - torch.special.ndtr(low - step)
            return (k * self.scale * mu + step.square() / 2).exp() * inside

        middle = part(1) - part(0) if self.kind == "log1p" else (part(1) - part(-1)) / 2
        outside = self.threshold * torch.special.ndtr(low) + self.ceiling * torch.special.ndtr(-high)
        return (self.eps * middle + outside).to(mean.dtype)

    def wet(self, rain: Tensor) -> Tensor:
        """Return where it rains, bool."""
        return rain >= self.threshold
