r"""What of the sampler depends on the factor: noise, the chance from which it rains, and a map of heavy rain.

Each is fitted on validation events at a few factors (`downscaling.calibrate`); between them settings are interpolated
on straight lines in log(factor), beyond them those of the nearest hold. Tail maps are piecewise linear functions T of
the rate, and (1 - u) T_a + u T_b is one again, monotone if both are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

__all__ = ["RATIOS", "Calibration", "Settings", "TailMap"]

import numpy as np
import torch
from torch import Tensor

RATIOS = (0.67, 1.5)  # mapped over drawn rates: no tail map leaves these


@dataclass(frozen=True)
class TailMap:
    """A monotone map of heavy rain: nothing changes up to the first rate, and the ratio stays beyond the last.

    Args:
        rates: drawn rates in mm/h, ascending; none at all is the identity.
        mapped: what they become, ascending; the first is the first rate.

    Raises:
        ValueError: when it is none of this, or a ratio lies outside `RATIOS`.
    """

    rates: tuple[float, ...] = ()
    mapped: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if len(self.rates) != len(self.mapped) or len(self.rates) == 1:
            raise ValueError(f"a tail map needs as many mapped rates as rates, and two at least; got {self}")
        if not self.rates:
            return
        rates, mapped = np.array(self.rates), np.array(self.mapped)
        if not (np.isfinite(rates).all() and rates[0] > 0 and (np.diff(rates) > 0).all() and mapped[0] == rates[0]):
            raise ValueError(f"rates of a tail map must be positive and ascend from the first mapped one; got {self}")
        if not (np.diff(mapped) >= 0).all():
            raise ValueError(f"mapped rates of a tail map must not descend; got {self.mapped}")
        ratio = mapped / rates
        if not ((ratio > RATIOS[0] - 1e-6) & (ratio < RATIOS[1] + 1e-6)).all():
            raise ValueError(f"a tail map may change rates by factors of {RATIOS[0]:g} to {RATIOS[1]:g}; got {self}")

    def __call__(self, rain: Tensor) -> Tensor:
        """Return mapped rates in mm/h, of any shape; the same bits where there is nothing to map."""
        if not self.rates:
            return rain
        x, y = (torch.tensor(v, dtype=rain.dtype, device=rain.device) for v in (self.rates, self.mapped))
        k = torch.bucketize(rain.contiguous(), x).clamp(1, len(x) - 1)
        inside = y[k - 1] + (rain - x[k - 1]) * (y[k] - y[k - 1]) / (x[k] - x[k - 1])
        moved = torch.where(rain > x[-1], rain * (y[-1] / x[-1]), inside)
        return torch.where(rain > x[0], moved, rain)

    def between(self, other: TailMap, share: float) -> TailMap:
        """Return (1 - share) of this and share of the other map, exactly: its corners are those of both."""
        rates = sorted({*self.rates, *other.rates})
        if not rates or share in (0.0, 1.0):
            return other if share == 1.0 else self
        x = torch.tensor(rates, dtype=torch.float64)
        mapped = (1 - share) * self(x) + share * other(x)
        return TailMap(tuple(rates), (rates[0], *np.maximum.accumulate(mapped.numpy())[1:].tolist()))


@dataclass(frozen=True)
class Settings:
    """What the sampler needs to know at one factor.

    Args:
        noise_scale: factor on the initial noise.
        wet_threshold: chance (-1 to 1) above which it rains.
        tail: map of the drawn rates, applied before amounts are conserved.

    Raises:
        ValueError: a value outside its range.
    """

    noise_scale: float = 1.0
    wet_threshold: float = 0.0
    tail: TailMap = field(default_factory=TailMap)

    def __post_init__(self) -> None:
        if not (0 < self.noise_scale < math.inf and -1 <= self.wet_threshold <= 1):
            raise ValueError(
                f"noise_scale must be positive and wet_threshold in [-1, 1]; got {self.noise_scale} and "
                f"{self.wet_threshold}"
            )

    def between(self, other: Settings, share: float) -> Settings:
        """Return (1 - share) of these and share of the other settings."""
        noise, wet = (
            (1 - share) * a + share * b
            for a, b in ((self.noise_scale, other.noise_scale), (self.wet_threshold, other.wet_threshold))
        )
        return Settings(noise, wet, self.tail.between(other.tail, share))


@dataclass(frozen=True)
class Calibration:
    """Settings that were fitted at some factors.

    Args:
        factors: ascending, at least 1.
        settings: at each of them.

    Raises:
        ValueError: when they do not fit together.
    """

    factors: tuple[float, ...]
    settings: tuple[Settings, ...]

    def __post_init__(self) -> None:
        known = self.factors and all(math.isfinite(f) and f >= 1 for f in self.factors)
        if not known or any(a >= b for a, b in pairwise(self.factors)) or len(self.factors) != len(self.settings):
            raise ValueError(
                f"calibration: settings are needed at ascending factors from 1; got {len(self.settings)} for "
                f"{list(self.factors)}"
            )

    def at(self, factor: float) -> Settings:
        """Return the settings at a factor, on straight lines in its logarithm."""
        inside = min(max(factor, self.factors[0]), self.factors[-1])
        k = int(np.searchsorted(self.factors, inside))
        if self.factors[k] == inside:
            return self.settings[k]
        low, high = self.factors[k - 1], self.factors[k]
        share = math.log(inside / low) / math.log(high / low)
        return self.settings[k - 1].between(self.settings[k], share)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        """Rebuild from `dataclasses.asdict`.

        Raises:
            ValueError: names or values that are not of a calibration.
        """
        try:
            settings = tuple(
                Settings(float(s["noise_scale"]), float(s["wet_threshold"]), _tail(s.get("tail") or {}))
                for s in values["settings"]
            )
            return cls(_numbers(values["factors"]), settings)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"calibration cannot be read: {type(error).__name__} {error}") from None


def _tail(values: Mapping[str, Any]) -> TailMap:
    return TailMap(_numbers(values["rates"]), _numbers(values["mapped"])) if values else TailMap()


def _numbers(values: Sequence[Any]) -> tuple[float, ...]:
    return tuple(float(v) for v in values)
