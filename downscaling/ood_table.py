"""How far the coarse rain of a region lies outside the training data: mean, 95 % level, largest index, share above 1.

The index of a cell is that of `downscaling.transfer.cell_index`. Values are counted in steps of 0.01, so that a record
of any length takes the same memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

__all__ = ["IndexSummary", "named_cells", "summarised", "table", "told"]

import numpy as np
from numpy.typing import NDArray

from downscaling.overlap import Grid
from downscaling.regions import REGIONS, region
from gen.grid import LatLonGrid, Region

STEP, COUNTED = 0.01, 2000  # of the index; what lies above 20 is counted as 20
LEVEL = 0.95
WHOLE = "whole field"

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class IndexSummary:
    """The index of the known cells of a region at all times.

    Args:
        name: of the region. cells: how many values were looked at.
        mean, high, largest: mean, 95 % level and largest value; NaN when no cell is known.
        outside: share of values above 1.
    """

    name: str
    cells: int
    mean: float
    high: float
    largest: float
    outside: float

    def __str__(self) -> str:
        """Return one line."""
        if not self.cells:
            return f"{self.name}: no value"
        return (
            f"{self.name}: mean {self.mean:.3g}, 95 % level {self.high:.3g}, largest {self.largest:.3g}, "
            f"{100 * self.outside:.2g} % of values above 1"
        )


def named_cells(grid: Grid, asked: str | None) -> dict[str, Mask]:
    """Return the cells [Hc, Wc] of each region that is told of.

    Args:
        grid: of the coarse cells that the fine field touches.
        asked: region of the request: where it names a RainShift region, all cells are that one's.

    Returns:
        That region, or the whole field and every RainShift region that lies wholly inside it.
    """
    everything = np.ones(grid.shape, bool)
    if asked is not None and "," not in asked:
        box = region(asked)
        return {next(name for name, known in REGIONS.items() if known == box): everything}
    found = {WHOLE: everything}
    if isinstance(grid, LatLonGrid):
        found |= {name: cells for name, box in REGIONS.items() if (cells := _inside(grid, box)) is not None}
    return found


def summarised(fields: Iterable[NDArray[np.float32]], regions: Mapping[str, Mask]) -> list[IndexSummary]:
    """Return the summary of each region.

    Args:
        fields: index of all cells [Hc, Wc], NaN where missing, map by map.
        regions: see `named_cells`.
    """
    counts = {name: np.zeros(COUNTED + 1, np.int64) for name in regions}
    total, outside, largest = dict.fromkeys(regions, 0.0), dict.fromkeys(regions, 0), dict.fromkeys(regions, 0.0)
    for index in fields:
        for name, cells in regions.items():
            values = index[cells & np.isfinite(index)].astype(np.float64)
            place = np.minimum(np.ceil(values / STEP - 1e-6), COUNTED).astype(np.int64)
            counts[name] += np.bincount(place, minlength=COUNTED + 1)
            total[name] += float(values.sum())
            outside[name] += int((values > 1).sum())
            largest[name] = max(largest[name], float(values.max(initial=0.0)))
    return [_summary(name, counts[name], total[name], outside[name], largest[name]) for name in regions]


def told(summaries: Iterable[IndexSummary]) -> str:
    """Return the summaries as one attribute."""
    return "; ".join(map(str, summaries))


def table(summaries: Iterable[IndexSummary]) -> list[str]:
    """Return the summaries as the lines of a table for people."""
    head = ("ood_index", "mean", "95 %", "largest", "above 1")
    rows = [
        (s.name, *(f"{v:.2f}" for v in (s.mean, s.high, s.largest)), f"{100 * s.outside:.1f} %")
        if s.cells
        else (s.name, *4 * ("-",))
        for s in summaries
    ]
    width = max(len(row[0]) for row in (head, *rows))
    return [f"{row[0]:<{width}}" + "".join(f"{cell:>10}" for cell in row[1:]) for row in (head, *rows)]


def _summary(name: str, counts: NDArray[np.int64], total: float, outside: int, largest: float) -> IndexSummary:
    cells = int(counts.sum())
    if not cells:
        return IndexSummary(name, 0, np.nan, np.nan, np.nan, np.nan)
    high = STEP * int(np.searchsorted(np.cumsum(counts), LEVEL * cells))
    return IndexSummary(name, cells, total / cells, min(high, largest), largest, outside / cells)


def _inside(grid: LatLonGrid, box: Region) -> Mask | None:
    """Return the cells whose centres lie in a box, None when the grid does not cover all of it."""
    half = np.diff(grid.latitude).mean() / 2, np.diff(grid.longitude).mean() / 2
    rows = (grid.latitude > box.south) & (grid.latitude < box.north)
    east = (grid.longitude - box.west) % 360.0
    columns = east < box.width
    covered = (
        grid.latitude[0] - half[0] <= box.south
        and grid.latitude[-1] + half[0] >= box.north
        and columns.sum() * 2 * half[1] >= box.width - 2 * half[1]
    )
    return rows[:, None] & columns[None] if covered else None
