"""States from one grid to another: conservative, smooth where refined, within physical limits."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["regrid_maps"]

import numpy as np

from gen.grid import LatLonGrid, conservative_weights, regrid


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
    _check_cover(src, dst)
    finer = dst.shape[0] > src.shape[0] or dst.shape[1] > src.shape[1]
    if not finer:
        return np.stack([regrid(m, src, dst) for m in maps])
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
