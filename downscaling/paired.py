"""Pairs of two data sets: fine and coarse rain that were observed or simulated apart, each on a grid of its own.

Nothing ties the grids together: cells of 0.25 degrees centred on multiples of 0.25 and cells of 0.1 degrees centred on
0.05, 0.15, ... share no edge at all. Where a fine pixel lies in the coarse grid is therefore computed from the two
grids, as a position in coarse cells (`downscaling.conditions`), and amounts are compared on exact overlaps.
"""

from __future__ import annotations

from fractions import Fraction

__all__ = ["cell_positions", "centre_cells", "matched", "window"]

import numpy as np
from numpy.typing import NDArray

from downscaling.overlap import Grid, Overlap
from downscaling.pairs import LARGEST_DENOMINATOR, Pair
from gen.grid import LatLonGrid
from gen.projected_grid import ProjectedGrid

Array = NDArray[np.float64]
Values = NDArray[np.float32]

DIGITS = 7  # of positions; axes in files are rounded
MARGIN = 1  # coarse cells kept around a fine window, for interpolation across its edge


def cell_positions(coarse: Grid, fine: Grid) -> tuple[Array, Array]:
    """Return where fine centres lie, as positions of rows [H] and columns [W] in coarse cells, 0 the first lower edge.

    Positions below 0 or above the number of cells belong to pixels outside the coarse grid.

    Raises:
        ValueError: when one grid is projected and the other not, or the projections differ.
    """
    if type(coarse) is not type(fine) or getattr(coarse, "crs", None) != getattr(fine, "crs", None):
        raise ValueError("coarse and fine grid must share their projection; regrid the coarse field first")
    rows, columns = (_axis(c, f) for c, f in zip(_axes(coarse), _axes(fine), strict=True))
    if isinstance(coarse, LatLonGrid):
        step, middle = float(np.diff(coarse.longitude).mean()), coarse.longitude.size / 2
        turn = 360.0 / step
        columns = columns - turn * np.round((columns.mean() - middle) / turn)
    return rows, columns


def centre_cells(coarse: Grid, fine: Grid) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the numbers of the coarse rows [H] and columns [W] that hold the fine centres, or are nearest to them."""
    rows, columns = (
        np.clip(np.floor(p).astype(np.int64), 0, n - 1)
        for p, n in zip(cell_positions(coarse, fine), coarse.shape, strict=True)
    )
    return rows, columns


def matched(fine: Values, fine_grid: Grid, coarse: Values, coarse_grid: Grid) -> Pair:
    """Return a fine field with the part of a coarse one that lies over it.

    Args:
        fine: [H, W] in mm/h, NaN where missing; pixels that no coarse cell touches become NaN.
        fine_grid: its cells, evenly spaced.
        coarse: [Hc, Wc] in mm/h on its own grid, which may reach farther.
        coarse_grid: its cells, evenly spaced.

    Returns:
        A pair whose coarse field has a margin of one cell, where there is one; its factor is that of the rows.

    Raises:
        ValueError: when the grids do not overlap, differ in projection, or the fine cells are wider.
    """
    kept, step = [], []
    for places, count in zip(cell_positions(coarse_grid, fine_grid), coarse_grid.shape, strict=True):
        step.append(float(places[-1] - places[0]) / (places.size - 1))
        low, high = places[0] - step[-1] / 2, places[-1] + step[-1] / 2
        first, stop = max(int(np.floor(low)) - MARGIN, 0), min(int(np.ceil(high)) + MARGIN, count)
        if stop - first < 2:
            raise ValueError("the fine grid lies beside the coarse one: fewer than two coarse cells are over it")
        kept.append(slice(first, stop))
    rows, columns = kept
    part = window(coarse_grid, rows, columns)
    reached = Overlap.between(part, fine_grid).touched_by(np.ones(part.shape, bool))
    known = np.where(reached, fine, np.float32(np.nan))
    return Pair(known, coarse[rows, columns], fine_grid, part, float(np.round(1 / step[0], DIGITS)))


def window(grid: Grid, rows: slice, columns: slice) -> Grid:
    """Return the grid of some neighbouring rows and columns."""
    if isinstance(grid, ProjectedGrid):
        return grid.window(rows, columns)
    return LatLonGrid(grid.latitude[rows], grid.longitude[columns])


def _axes(grid: Grid) -> tuple[Array, Array]:
    return (grid.latitude, grid.longitude) if isinstance(grid, LatLonGrid) else (grid.y, grid.x)


def _axis(coarse: Array, fine: Array) -> Array:
    """Return positions of evenly spaced centres, (k + 1/2) / factor + offset, free of the rounding of axes."""
    wide, narrow = ((a[-1] - a[0]) / (a.size - 1) for a in (coarse, fine))
    near = float(Fraction(wide / narrow).limit_denominator(LARGEST_DENOMINATOR))
    ratio = near if abs(near * narrow / wide - 1) < 10.0**-DIGITS else wide / narrow
    offset = float(np.round(((fine[0] - narrow / 2) - (coarse[0] - wide / 2)) / wide, DIGITS))
    return np.asarray((np.arange(fine.size) + 0.5) / ratio + offset)
