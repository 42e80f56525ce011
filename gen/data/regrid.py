"""States from one grid to another: conservative, smooth where refined, within physical limits."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

__all__ = ["Coarsening", "coarsening", "regrid_maps"]

import numpy as np

from gen.grid import LatLonGrid, conservative_weights, regrid

NOTHING = 1e-9  # share of a cell that is none


class Coarsening:
    """Area means of maps on coarser cells, exact, with the overlaps of the two grids computed once.

    A destination cell is the mean over the part of it that holds numbers; it is NaN where that part is empty or
    smaller than `least_share` of the cell. Without NaN the mean over the sphere is kept.

    Args:
        src: cells of the maps.
        dst: cells of the result.
        least_share: share of a cell, 0 to 1, that must hold numbers.

    Raises:
        ValueError: when `src` does not cover `dst`.
    """

    def __init__(self, src: LatLonGrid, dst: LatLonGrid, least_share: float = 0.0) -> None:
        """Keep the few overlaps of each row and column: about seven from 0.25 to 1.5 degrees."""
        from scipy.sparse import csr_array

        if not 0.0 <= least_share <= 1.0:
            raise ValueError(f"the least share of a cell must be in [0, 1]; got {least_share}")
        _check_cover(src, dst)
        self.src, self.dst, self.least_share = src, dst, max(least_share, NOTHING)
        self._lat, self._lon = (csr_array(w / w.sum(axis=1, keepdims=True)) for w in conservative_weights(src, dst))

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Return the means [..., h, w] of [..., H, W], computed in float64, in the precision of the values."""
        maps = values.reshape(-1, *self.src.shape)
        out = np.empty((len(maps), *self.dst.shape), values.dtype if values.dtype.kind == "f" else np.float64)
        for target, source in zip(out, maps, strict=True):
            target[...] = self._one(source.astype(np.float64))
        return out.reshape(*values.shape[:-2], *self.dst.shape)

    def _one(self, values: np.ndarray) -> np.ndarray:
        missing = np.isnan(values)
        if not missing.any():
            return self._mean(values)
        total, share = self._mean(np.where(missing, 0.0, values)), self._mean((~missing).astype(np.float64))
        enough = share >= self.least_share * (1 - NOTHING)
        return np.where(enough, total / np.where(enough, share, 1.0), np.nan)

    def _mean(self, values: np.ndarray) -> np.ndarray:
        return np.asarray((self._lon @ (self._lat @ values).T).T)


@lru_cache(maxsize=4)
def coarsening(src: LatLonGrid, dst: LatLonGrid) -> Coarsening:
    """Return the means on coarser cells where any number in a cell counts, kept for the next call."""
    return Coarsening(src, dst)


def regrid_maps(
    maps: np.ndarray, src: LatLonGrid, dst: LatLonGrid, minimum: Sequence[float | None] | None = None
) -> np.ndarray:
    """Return maps [C, H, W] as area means on the cells of `dst`; the mean over the sphere is kept.

    Coarsening is first order, refining second order. Where refining undershoots the lower limit of a channel, the
    field is cut there and the rest, above the limit, scaled by the one factor that restores the mean.
    Channels that hold NaN are first order.

    Raises:
        ValueError: when `src` does not cover `dst`.
    """
    if src == dst:
        return maps
    if dst.shape[0] <= src.shape[0] and dst.shape[1] <= src.shape[1]:
        return coarsening(src, dst)(maps)
    _check_cover(src, dst)
    limits = minimum or [None] * len(maps)
    return np.stack([_refine(m, src, dst, low) for m, low in zip(maps, limits, strict=True)])


def _refine(values: np.ndarray, src: LatLonGrid, dst: LatLonGrid, low: float | None) -> np.ndarray:
    smooth = regrid(values, src, dst, order=2)
    if low is None or np.isnan(smooth).any() or smooth.min() >= low:
        return smooth
    above, area = np.maximum(smooth - low, 0.0), dst.cell_areas()
    excess, wanted = (above * area).sum(), ((smooth - low) * area).sum()
    return low + above * (wanted / excess) if wanted > 0 else regrid(values, src, dst)


def _check_cover(src: LatLonGrid, dst: LatLonGrid) -> None:
    lat, lon = conservative_weights(src, dst)
    if lat.sum(1).min() < 0.999 or lon.sum(1).min() < 0.999:
        south, north = src.latitude_bounds()[[0, -1]]
        west, east = src.longitude_bounds()[[0, -1]]
        raise ValueError(
            f"the data cover {south:.1f} to {north:.1f} N, {west:.1f} to {east:.1f} E only, not the whole "
            f"{dst.shape[0]}x{dst.shape[1]} grid that is asked for"
        )
