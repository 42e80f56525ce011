"""Intervals from resampled start dates, paired between forecasts.

Start dates are drawn with replacement in circular moving blocks (Kuensch 1989; Politis and Romano 1992), because scores
of neighbouring dates are correlated. One draw serves all forecasts, so a difference is resampled as a difference.
Percentiles are expanded as Hesterberg (2015) proposes, `alpha' = Phi(-sqrt(n/(n-1)) t_{n-1, 1-alpha/2})` with n the
number of blocks, since plain percentile intervals are too short for small n.
"""

from __future__ import annotations

__all__ = ["Bootstrap", "Interval"]

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Interval:
    """A score with its interval; arrays of one shape, NaN where undefined."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Bootstrap:
    """Resample start dates.

    Args:
        resamples: number of draws.
        block: consecutive start dates drawn together; None takes `ceil(N^(1/3))`, 1 means independent dates.
        level: probability that the interval should cover.
        seed: selects the draws; the same seed and number of dates give the same draws.
    """

    resamples: int = 2000
    block: int | None = None
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.resamples < 100:
            raise ValueError(f"resamples must be at least 100; got {self.resamples}")
        if self.block is not None and self.block < 1:
            raise ValueError(f"block must be at least 1; got {self.block}")
        if not 0 < self.level < 1:
            raise ValueError(f"level must be between 0 and 1; got {self.level}")

    def block_length(self, dates: int) -> int:
        """Return the number of consecutive dates drawn together."""
        return math.ceil(dates ** (1 / 3) - 1e-9) if self.block is None else min(self.block, dates)

    def counts(self, dates: int) -> np.ndarray:
        """Return how often each date occurs in each draw, float64 [resamples, dates]."""
        length = self.block_length(dates)
        rng = np.random.Generator(np.random.Philox(key=[self.seed, dates]))
        starts = rng.integers(dates, size=(self.resamples, -(-dates // length)))
        drawn = ((starts[:, :, None] + np.arange(length)) % dates).reshape(self.resamples, -1)[:, :dates]
        flat = (drawn + dates * np.arange(self.resamples)[:, None]).reshape(-1)
        return np.bincount(flat, minlength=dates * self.resamples).reshape(self.resamples, dates).astype(np.float64)

    def interval(self, score: Callable[..., np.ndarray], *statistics: np.ndarray) -> Interval:
        """Compute a score of means over start dates and its interval.

        Args:
            score: function of the means of `statistics` (each with the shape [...]), applied elementwise.
            statistics: each [N, ...], first dimension the start dates in order of time. A date that is NaN in one of
                them is left out of all of them, which keeps the comparison paired.

        Returns:
            Value and limits with the shape [...]; limits are NaN with fewer than three blocks.
        """
        stacked = np.stack(np.broadcast_arrays(*statistics)).astype(np.float64)
        dates, shape = stacked.shape[1], stacked.shape[2:]
        stacked = stacked.reshape(len(statistics), dates, -1)
        valid = np.isfinite(stacked).all(axis=0)
        filled = np.where(valid, stacked, 0.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            value = score(*(filled.sum(axis=1) / valid.sum(axis=0)))
            counts = self.counts(dates)
            drawn = score(*(counts @ filled / (counts @ valid)))
        low, high = self.limits(drawn, valid.sum(axis=0) / self.block_length(dates))
        return Interval(*(np.reshape(a, shape) for a in (value, low, high)))

    def limits(self, drawn: np.ndarray, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return expanded percentiles of draws [R, K] made from `blocks` [K] blocks."""
        from scipy.stats import norm, t

        low, high = np.full(drawn.shape[1], np.nan), np.full(drawn.shape[1], np.nan)
        for n in np.unique(blocks[blocks >= 3]):
            tail = norm.cdf(-math.sqrt(n / (n - 1)) * t.ppf(0.5 + self.level / 2, n - 1))
            where = (blocks == n) & np.isfinite(drawn).any(axis=0)
            if where.any():
                low[where], high[where] = np.nanquantile(drawn[:, where], (tail, 1 - tail), axis=0)
        return low, high
