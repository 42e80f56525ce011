"""What a downscaling model must beat: nearest and bilinear interpolation, quantile mapping, RainFARM."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

__all__ = ["BASELINES", "Ranked", "draw_baseline", "fit_ranked"]

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from downscaling.conditions import upsample
from downscaling.conserve import conserve
from downscaling.overlap import Overlap
from downscaling.paired import cell_positions, centre_cells
from downscaling.pairs import Pair
from downscaling.rainfarm import downscale

Array = NDArray[np.float64]
Values = NDArray[np.float32]

LEVELS = np.concatenate([np.linspace(0, 0.99, 991), 1 - np.geomspace(0.01, 1e-4, 61)[1:]])


@dataclass(frozen=True)
class Ranked:
    """Map interpolated rain to fine rain rank by rank, as learnt from other events.

    Args:
        source: quantiles of interpolated rain. target: quantiles of fine rain at the same levels.
    """

    source: Array
    target: Array

    def __call__(self, rain: ArrayLike) -> Array:
        """Return mapped rates; dry stays dry, and beyond the last quantile the ratio is constant."""
        x = np.asarray(rain, np.float64)
        rising = np.concatenate([[True], np.diff(self.source) > 0])
        a, b = self.source[rising], self.target[rising]
        top = b[-1] / a[-1] if a[-1] > 0 else 1.0
        return np.where(x <= 0, 0.0, np.where(x >= a[-1], x * top, np.interp(x, a, b)))


def fit_ranked(pairs: Iterable[Pair]) -> Ranked:
    """Fit quantile mapping to pairs of one factor."""
    both = [(linear(p).ravel(), p.fine.ravel()) for p in pairs]
    source, target = (np.concatenate(part) for part in zip(*both, strict=True))
    known = np.isfinite(target) & np.isfinite(source)
    return Ranked(np.quantile(source[known], LEVELS), np.quantile(target[known], LEVELS))


def draw_baseline(
    name: str, pair: Pair, overlap: Overlap, members: int, seed: int, mapping: Ranked | None = None
) -> Values:
    """Return fields [M, H, W] of a baseline; M is one unless it is random.

    Args:
        name: one of `BASELINES`.
        pair: its coarse rain is used, never the fine one.
        overlap: of the grids of the pair.
        members: of RainFARM.
        seed: of RainFARM.
        mapping: of "quantile-mapping".
    """
    if name.startswith("rainfarm"):
        fused = name.endswith("fused")
        cells = centre_cells(pair.coarse_grid, pair.fine_grid)
        return downscale(
            pair.coarse, pair.factor, members=members, seed=seed, fusion=fused, overlap=overlap, cells=cells
        )
    if name == "quantile-mapping":
        if mapping is None:
            raise ValueError("quantile mapping needs rain to learn from")
        return mapping(linear(pair))[None].astype(np.float32)
    return PLAIN[name](pair, overlap)[None].astype(np.float32)


def nearest(pair: Pair, _: Overlap | None = None) -> Array:
    """Return for every pixel the mean of the coarse cells over it."""
    return _upsampled(pair, 0)


def linear(pair: Pair, _: Overlap | None = None) -> Array:
    """Return the linear interpolation between the centres of coarse cells."""
    return _upsampled(pair, 1)


def conserved(pair: Pair, overlap: Overlap) -> Array:
    """Return the linear interpolation, multiplied so that coarse amounts are kept."""
    return conserve(np.where(overlap.valid, linear(pair), 0.0), pair.coarse, overlap).values


PLAIN: Mapping[str, Callable[[Pair, Overlap], Array]] = {
    "nearest": nearest,
    "bilinear": linear,
    "bilinear-conserved": conserved,
}
BASELINES = (*PLAIN, "quantile-mapping", "rainfarm", "rainfarm-fused")


def _upsampled(pair: Pair, which: int) -> Array:
    rows, columns = (torch.from_numpy(p) for p in cell_positions(pair.coarse_grid, pair.fine_grid))
    coarse = torch.from_numpy(np.nan_to_num(pair.coarse)).double()
    return np.asarray(upsample(coarse, rows, columns)[which].numpy())
