"""Sources made of others: averaged over time, on a coarser grid, held in memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

__all__ = ["InMemory", "accumulated", "coarsened"]

import numpy as np

from downscaling.sources.advection import interval_mean
from downscaling.sources.base import GriddedRain, PrecipitationSource, Values
from gen.grid import LatLonGrid
from gen.projected_grid import ProjectedGrid

UNEVEN = np.timedelta64(1, "m")
Load = Callable[[int, int], Values]


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


def accumulated(source: PrecipitationSource, count: int, substeps: int = 1) -> PrecipitationSource:
    """Return means over `count` neighbouring steps of time.

    With one substep they are means of `count` frames, each of which stands for the time since the one before. With
    more, the frames are taken as snapshots: the rain moves from one to the next (see `downscaling.sources.advection`)
    and is averaged from the first of `count + 1` frames to the last by the trapezoidal rule. A frame that is itself a
    mean over a part of the step counts as a snapshot of the time it is stamped with.

    Args:
        source: of the frames.
        count: steps of time to average over; 1 returns the source.
        substeps: parts of one step between neighbouring frames.

    Raises:
        ValueError: when there are fewer evenly spaced times in a row, when there are no substeps, and for several where
            the frames leave no time between them.
    """
    if substeps < 1:
        raise ValueError(f"there must be at least one substep between frames; got {substeps}")
    if count == 1:
        return source
    times = source.times()
    gaps = np.diff(times)
    step = gaps.min() if gaps.size else np.timedelta64(0, "m")
    before = count - 1 if substeps == 1 else count  # frames needed besides the last
    ends = [i for i in range(before, len(times)) if (np.abs(gaps[i - before : i] - step) <= UNEVEN).all()]
    if not ends or count < 1:
        raise ValueError(f"{source.name} has no {before + 1} evenly spaced times in a row")
    step_hours = float(step / np.timedelta64(60, "m"))
    if substeps == 1:
        return _like(source, times[ends], max(source.interval_hours, step_hours) * count, _plain(source, count, ends))
    if source.interval_hours >= step_hours:
        raise ValueError(
            f"{source.name}: its frames are means over {source.interval_hours:g} h, {step_hours:g} h apart, and leave "
            "no time to interpolate in: use substeps=1"
        )
    return _like(source, times[ends], step_hours * count, _advected(source, count, ends, substeps))


def _plain(source: PrecipitationSource, count: int, ends: list[int]) -> Load:
    def load(index: int, member: int) -> Values:
        last = ends[index]
        mean: Values = np.mean([source.read(k, member) for k in range(last - count + 1, last + 1)], axis=0)
        return mean

    return load


def _advected(source: PrecipitationSource, count: int, ends: list[int], substeps: int) -> Load:
    @lru_cache(maxsize=count)
    def step(k: int, member: int) -> Values:
        return interval_mean(source.read(k, member), source.read(k + 1, member), substeps)

    def load(index: int, member: int) -> Values:
        last = ends[index]
        mean: Values = np.mean([step(k, member) for k in range(last - count, last)], axis=0)
        return mean

    return load


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
    load: Load,
    grid: LatLonGrid | ProjectedGrid | None = None,
) -> GriddedRain:
    return GriddedRain(
        name=source.name,
        grid=source.grid if grid is None else grid,
        ends=times,
        interval_hours=hours,
        attribution=source.attribution,
        load=load,
        synthetic=source.synthetic,
    )
