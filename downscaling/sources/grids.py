"""Grids of precipitation files: regular axes in any order, and map planes recognised from two-dimensional positions."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["HRAP", "HRAP_STEP", "HRAP_POLE", "latlon_grid", "plane_grid", "recognised"]

import numpy as np

from gen.data.conventions import catalogue
from gen.data.sources import SourceError
from gen.grid import LatLonGrid
from gen.projected_grid import PolarStereographic, ProjectedGrid

Reorder = Callable[[np.ndarray], np.ndarray]

HRAP = "+proj=stere +lat_0=90 +lat_ts=60 +lon_0=-105 +R=6371200"  # Reed and Maidment 1999, J. Hydrol. Eng. 4(2)
HRAP_STEP = 4762.5  # metres, true at 60 N
HRAP_POLE = (401.0, 1601.0)  # column and row of the pole
KNOWN_PLANES = (HRAP, "+proj=stere +lat_0=90 +lat_ts=60 +lon_0=10 +R=6370040")
UNEVEN = 0.1  # of a step; positions in files are rounded


def latlon_grid(latitude: np.ndarray, longitude: np.ndarray) -> tuple[LatLonGrid, Reorder]:
    """Return the grid of two axes in any order and wrapping, and how to reorder maps [..., latitude, longitude].

    Raises:
        SourceError: when an axis is not evenly spaced.
    """
    import xarray as xr

    axes = catalogue(xr.Dataset(coords={"latitude": _degrees(latitude), "longitude": _degrees(longitude)})).axes
    return axes.grid, lambda maps: maps[..., axes.rows, :][..., axes.columns]


def plane_grid(x: np.ndarray, y: np.ndarray, crs: str) -> tuple[ProjectedGrid, Reorder]:
    """Return the grid of two axes in metres, either way round, and how to reorder maps [..., y, x].

    Raises:
        SourceError: when an axis is not evenly spaced or the projection is unknown.
    """
    rows, columns = (slice(None, None, 1 if axis[-1] > axis[0] else -1) for axis in (y, x))
    try:
        grid = ProjectedGrid(np.asarray(x, float)[columns], np.asarray(y, float)[rows], crs)
    except ValueError as error:
        raise SourceError(f"has a grid that cannot be used: {error}") from error
    return grid, lambda maps: maps[..., rows, columns]


def recognised(latitude: np.ndarray, longitude: np.ndarray) -> tuple[ProjectedGrid, Reorder]:
    """Return the map plane on which positions [H, W] in degrees are an even grid.

    Raises:
        SourceError: when they are even on none of the planes known here.
    """
    for crs in KNOWN_PLANES:
        x, y = PolarStereographic.parse(crs).forward(latitude, longitude)
        steps = [(a[..., -1] - a[..., 0]).mean() / (a.shape[-1] - 1) for a in (x, y.T)]
        ideal = [
            a.mean() + s * (np.arange(n) - (n - 1) / 2) for a, s, n in zip((x, y), steps, x.shape[::-1], strict=True)
        ]
        error = max(np.abs(x - ideal[0]).max() / abs(steps[0]), np.abs(y.T - ideal[1]).max() / abs(steps[1]))
        if error < UNEVEN:
            return plane_grid(ideal[0], ideal[1], crs)
    raise SourceError(
        f"has positions [{'x'.join(map(str, latitude.shape))}] that are no regular grid: regrid it (`cdo remapcon`)"
    )


def _degrees(axis: np.ndarray) -> np.ndarray:
    """Return degrees in float64, the rounding of float32 axes taken away where they are even."""
    values = np.asarray(axis, dtype=np.float64)
    if values.ndim == 1 and values.size > 2:
        even = np.linspace(values[0], values[-1], values.size)
        if np.abs(values - even).max() < 0.01 * abs(even[1] - even[0]):
            return even
    return values
