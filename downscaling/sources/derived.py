"""Sources made of others: averaged over time, on a coarser grid, held in memory."""

from __future__ import annotations

__all__ = ["InMemory", "accumulated", "coarsened"]

import numpy as np

from downscaling.sources.base import GriddedRain, PrecipitationSource, Values
from gen.grid import LatLonGrid
from gen.projected_grid import ProjectedGrid

UNEVEN = np.timedelta64(1, "m")


class InMemory:
    """The first member of a source at every n-th time, read and checked once (see `PrecipitationSource`)."""

    members = 1

    def __init__(self, source: PrecipitationSource, every: int = 1) -> None:
        """Read the fields."""
        self.name, self.grid, self.interval_hours = source.name, source.grid, source.interval_hours
        self.attribution, self.synthetic = source.attribution, source.synthetic
        chosen = list(range(0, len(source.times()), every))
        self._times, self._fields = source.times()[chosen], [source.read(i) for i in chosen]

    def times(self) -> np.ndarray:
        """Return the ends of the intervals, datetime64[m], ascending."""
        return self._times

    def read(self, index: int, member: int = 0) -> Values:
        """Return the rates [H, W] in mm/h; not a copy."""
        return self._fields[index]


def accumulated(source: PrecipitationSource, count: int) -> PrecipitationSource:
    """Return means over `count` neighbouring times; each frame stands for the time since the one before.

    Raises:
        ValueError: when there are fewer evenly spaced times in a row.
    """
    if count == 1:
        return source
    times = source.times()
    gaps = np.diff(times)
    step = gaps.min() if gaps.size else np.timedelta64(0, "m")
    ends = [i for i in range(count - 1, len(times)) if (np.abs(gaps[i - count + 1 : i] - step) <= UNEVEN).all()]
    if not ends or count < 1:
        raise ValueError(f"{source.name} has no {count} evenly spaced times in a row")
    hours = max(source.interval_hours, float(step / np.timedelta64(60, "m"))) * count

    def load(index: int, member: int) -> Values:
        last = ends[index]
        mean: Values = np.mean([source.read(k, member) for k in range(last - count + 1, last + 1)], axis=0)
        return mean

    return _like(source, times[ends], hours, load)


def coarsened(source: PrecipitationSource, factor: int) -> PrecipitationSource:
    """Return means over `factor` x `factor` cells; a cell with a missing pixel is missing."""
    if factor == 1:
        return source
    rows, columns = (n - n % factor for n in source.grid.shape)

    def load(index: int, member: int) -> Values:
        field = source.read(index, member)[:rows, :columns]
        mean: Values = field.reshape(rows // factor, factor, columns // factor, factor).mean((1, 3))
        return mean

    return _like(source, source.times(), source.interval_hours, load, _coarser(source.grid, factor))


def _coarser(grid: LatLonGrid | ProjectedGrid, factor: int) -> LatLonGrid | ProjectedGrid:
    if isinstance(grid, ProjectedGrid):
        return grid.coarsen(factor)
    axes = (a[: a.size - a.size % factor].reshape(-1, factor).mean(1) for a in (grid.latitude, grid.longitude))
    return LatLonGrid(*axes)


def _like(
    source: PrecipitationSource,
    times: np.ndarray,
    hours: float,
    load: object,
    grid: LatLonGrid | ProjectedGrid | None = None,
) -> GriddedRain:
    return GriddedRain(
        name=source.name,
        grid=source.grid if grid is None else grid,
        ends=times,
        interval_hours=hours,
        attribution=source.attribution,
        load=load,  # type: ignore[arg-type]
        synthetic=source.synthetic,
    )
