r"""Elevation, slopes and land of any fine grid, from files of any resolution.

A file's values are taken as a continuous surface, bilinear between its cells, and a pixel's value is the mean of that
surface over the pixel: the mean of many cells where the file is finer, smooth interpolation where it is coarser. On
latitude-longitude grids the mean is exact, a product of one matrix per axis,

    w_ij = 1 / (b_i - a_i)  int_{a_i}^{b_i} h_j(s) ds,        h_j: hat function of the file's row or column j;

on map planes it is the mean of two by two points inside the pixel, of the file averaged over whole blocks of at most
half a pixel. Slopes are centred differences of the pixels' elevations over the distance on the sphere, along the rows
and columns of the grid; they look one pixel beyond it. A pixel's values are thus functions of the pixel and the spacing
alone: the fields of a window are the window of the fields.

Elevations are absolute, as a model meets the same mountains again in new weather; elevation above the local mean would
say less about where a place is and more about what it shares with others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

__all__ = ["Statics", "flipped"]

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from downscaling.conditions import STATICS
from downscaling.sources.static_maps import StaticMap, open_elevation, open_land
from gen.data.sources import SourceError
from gen.grid import LatLonGrid, haversine
from gen.projected_grid import ProjectedGrid

Array = NDArray[np.float64]
Grid = LatLonGrid | ProjectedGrid

SLOPE_UNIT = 10.0
SEA_LEVEL = 1.0  # metres; spectral models have ripples of less in the sea
EARTH_RADIUS_KM = 6371.0
MOST_CELLS = 1 << 24  # of a file that are averaged at once
SLACK = 1e-4  # degrees that centres may lie outside


class _Layers(NamedTuple):
    """Elevation in metres, share of land and share without elevation, of pixels."""

    height: Array
    land: Array
    missing: Array


def flipped(statics: Mapping[str, Tensor], axes: Iterable[int]) -> dict[str, Tensor]:
    """Return statics [..., H, W] turned over along rows (axis 0) and columns (axis 1); slopes change their sign."""
    turned = sorted(set(axes))
    dims = [axis - 2 for axis in turned]
    signs = {name: -1.0 for name, axis in (("slope_north", 0), ("slope_east", 1)) if axis in turned}
    return {name: torch.flip(values, dims) * signs.get(name, 1.0) for name, values in statics.items()}


@dataclass(frozen=True)
class Statics:
    """Elevation and, if there is one, a land mask.

    Args:
        elevation: in metres; missing values and depths of the sea count as 0.
        land: share of land; None takes land where the elevation is above one metre, so that a file without sea is
            land everywhere, and land below the sea is lost: give a mask where there is one.
    """

    elevation: StaticMap
    land: StaticMap | None = None

    @classmethod
    def open(cls, elevation: Path, land: Path | None = None) -> Statics:
        """Open files on latitudes and longitudes (see `downscaling.sources.static_maps`).

        Raises:
            SourceError: a file that is no elevation or no land mask.
        """
        return cls(open_elevation(Path(elevation)), None if land is None else open_land(Path(land)))

    @property
    def described(self) -> str:
        """Return the names of the files and what was assumed about them."""
        note = f" ({self.elevation.note})" if self.elevation.note else ""
        land = "land where it is above 1 m" if self.land is None else f"land of {self.land.name}"
        return f"elevation of {self.elevation.name}{note}, {land}"

    def check(self, grid: Grid) -> None:
        """Refuse a grid of which pixels lie outside the files.

        Raises:
            SourceError: with both extents.
        """
        if isinstance(grid, LatLonGrid):
            return self._check(grid.latitude, grid.longitude)
        every, first, last = slice(None), slice(0, 2), slice(-2, None)
        for rows, columns in ((first, every), (last, every), (every, first), (every, last)):
            self._check(*grid.window(rows, columns).latlon())

    def _check(self, latitude: Array, longitude: Array) -> None:
        for opened, _ in self._wanted():
            south, north, west, east = _extent(opened.grid)
            circles = 360.0 * np.floor(((west + east) / 2 + 180.0) / 360.0)
            west, east = west - circles, east - circles
            turned = _turned(longitude, (west + east) / 2)
            reach = latitude.min(), latitude.max(), turned.min(), turned.max()
            beside = reach[2] < west - SLACK or reach[3] > east + SLACK
            if reach[0] < south - SLACK or reach[1] > north + SLACK or (beside and not opened.grid.is_periodic):
                raise SourceError(
                    f"{opened.name} covers latitudes {south:.4g} to {north:.4g} and longitudes {west:.4g} to "
                    f"{east:.4g}; the fine grid reaches {reach[0]:.4g} to {reach[1]:.4g} and {reach[2]:.4g} to "
                    f"{reach[3]:.4g}: take a larger file or a smaller region"
                )

    def fields(self, grid: Grid, *, beyond: bool = False) -> dict[str, Tensor]:
        """Return `downscaling.conditions.STATICS` [H, W] of a grid, float32.

        Args:
            grid: evenly spaced.
            beyond: whether pixels outside the files get the values of their edges, instead of an error.

        Raises:
            SourceError: pixels outside the files, or land without elevation on more than half of the grid.
        """
        inner = (slice(1, -1), slice(1, -1))
        if isinstance(grid, ProjectedGrid):
            rim = ProjectedGrid(_rimmed(grid.x), _rimmed(grid.y), grid.crs)
            latitude, longitude = rim.latlon()
            if not beyond:
                self._check(latitude[inner], longitude[inner])
            layers, north, east = self._on_plane(rim, latitude, longitude)
        else:
            if not beyond:
                self._check(grid.latitude, grid.longitude)
            layers, north, east = self._on_sphere(_rimmed(grid.latitude), _rimmed(grid.longitude))
        height, land = layers.height, layers.land[inner]
        if not beyond and ((layers.missing[inner] > 0.5) & (land > 0.5)).mean() > 0.5:
            raise SourceError(f"{self.elevation.name} has no elevations on most of the land of the fine grid")
        values = {
            "elevation": height[inner] / 1000.0,
            "slope_north": SLOPE_UNIT * (height[2:, 1:-1] - height[:-2, 1:-1]) / north,
            "slope_east": SLOPE_UNIT * (height[1:-1, 2:] - height[1:-1, :-2]) / east,
            "land": np.clip(land, 0.0, 1.0),
        }
        return {name: torch.from_numpy(np.ascontiguousarray(values[name], np.float32)) for name in STATICS}

    def _on_sphere(self, latitude: Array, longitude: Array) -> tuple[_Layers, Array, Array]:
        """Return the layers of centres, a rim of one pixel included, and metres between each pixel's neighbours."""
        south, north, west, east = _extent(self.elevation.grid)
        rows = _inside(latitude, south, north)
        columns = np.arange(longitude.size)
        if not self.elevation.grid.is_periodic:
            columns = _inside(_turned(longitude, (west + east) / 2), west, east)
        half = np.array([latitude[1] - latitude[0], longitude[1] - longitude[0]]) / 2
        found = [
            layer for opened, kind in self._wanted() for layer in _averaged(opened, latitude, longitude, half, kind)
        ]
        layers = _Layers(*(x[np.ix_(rows, columns)] for x in _complete(found)))
        radius = 1000.0 * EARTH_RADIUS_KM
        phi, lam = np.deg2rad(latitude[rows]), np.deg2rad(longitude[columns])
        north_m = radius * (phi[2:] - phi[:-2])[:, None]
        east_m = radius * np.cos(phi[1:-1])[:, None] * (lam[2:] - lam[:-2])[None]
        return layers, north_m, east_m

    def _on_plane(self, rim: ProjectedGrid, latitude: Array, longitude: Array) -> tuple[_Layers, Array, Array]:
        """Return the same on a map plane."""
        north = haversine(latitude[2:, 1:-1], longitude[2:, 1:-1], latitude[:-2, 1:-1], longitude[:-2, 1:-1])
        east = haversine(latitude[1:-1, 2:], longitude[1:-1, 2:], latitude[1:-1, :-2], longitude[1:-1, :-2])
        dy, dx = rim.spacing
        pixel = float(np.rad2deg(min(dy, dx) / 1000.0 / EARTH_RADIUS_KM))
        found: list[Array] = []
        for opened, kind in self._wanted():
            points = [(latitude, longitude)]
            if opened.grid.latitude[1] - opened.grid.latitude[0] < pixel:
                quarters = [(j * dy / 4, i * dx / 4) for j in (-1, 1) for i in (-1, 1)]
                points = [ProjectedGrid(rim.x + x, rim.y + y, rim.crs).latlon() for y, x in quarters]
            sampled = [_sampled(opened, *point, pixel, kind) for point in points]
            found += [np.mean(parts, axis=0) for parts in zip(*sampled, strict=True)]
        return _complete(found), 1000.0 * north, 1000.0 * east

    def _wanted(self) -> list[tuple[StaticMap, bool]]:
        """Return the maps and whether each is the elevation."""
        return [(self.elevation, True)] + ([] if self.land is None else [(self.land, False)])


def _complete(found: list[Array]) -> _Layers:
    """Return the layers of an elevation and, if it follows, a land mask."""
    return _Layers(found[0], found[1] if len(found) < 4 else found[3], found[2])


def _layers(values: NDArray[np.float32], elevation: bool) -> list[Array]:
    """Return height, land and missing of an elevation's cells, or the shares of a land mask's."""
    known = np.isfinite(values)
    filled = np.where(known, values, 0.0).astype(np.float64)
    if not elevation:
        return [filled]
    height = np.maximum(filled, 0.0)
    return [height, (height > SEA_LEVEL).astype(np.float64), (~known).astype(np.float64)]


def _averaged(opened: StaticMap, latitude: Array, longitude: Array, half: Array, elevation: bool) -> list[Array]:
    """Return the means of a map's layers over the pixels of a latitude-longitude grid."""
    nodes = opened.grid.latitude
    low, high = (np.clip(latitude + sign * half[0], -90.0, 90.0) for sign in (-1, 1))
    row_weights, top, bottom = _hat_means(nodes, np.minimum(low, 90.0 - half[0]), np.maximum(high, half[0] - 90.0))
    around, turn, begin = _unrolled(opened.grid, float(longitude[0] - half[1]), float(longitude[-1] + half[1]))
    column_weights, left, right = _hat_means(around, longitude - half[1] + turn, longitude + half[1] + turn)
    strip = max(1, latitude.size * MOST_CELLS // max(1, (bottom - top) * (right - left)))
    found: list[list[Array]] = []
    for first in range(0, latitude.size, strip):
        part = row_weights[first : first + strip]
        used = np.unique(part.indices)
        a, b = int(used[0]), int(used[-1]) + 1
        layers = _layers(opened.window(top + a, top + b, begin + left, begin + right), elevation)
        found.append([np.asarray((column_weights @ (part[:, a:b] @ x).T).T) for x in layers])
    return [np.concatenate(parts) for parts in zip(*found, strict=True)]


def _unrolled(grid: LatLonGrid, west: float, east: float) -> tuple[Array, float, int]:
    """Return a map's columns around an interval, the turn that brings the interval to them, the first one's number."""
    columns = grid.longitude
    if not grid.is_periodic:
        middle = (columns[0] + columns[-1]) / 2
        centre = (west + east) / 2
        return columns, float(_turned(np.array([centre]), middle)[0] - centre), 0
    turn = -360.0 * np.floor((west - columns[0]) / 360.0)
    count = columns.size
    first = int(np.searchsorted(columns, west + turn, side="right")) - 2
    turns = int(np.ceil((east - west) / 360.0)) + 1
    numbers = np.arange(first, turns * count + 2)
    around = columns[numbers % count] + 360.0 * (numbers // count)
    stop = int(np.searchsorted(around, east + turn, side="left")) + 2
    return around[:stop], float(turn), first


def _hat_means(nodes: Array, low: Array, high: Array) -> tuple[csr_array, int, int]:
    """Return the weights [n, K] of the nodes first to stop in means over intervals, constant beyond the last ones.

    Args:
        nodes: [N] ascending.
        low: [n] lower ends of intervals.
        high: [n] upper ends.

    Returns:
        Weights, the number of the first node and of one past the last.
    """
    far = np.concatenate([[min(nodes[0], low.min()) - 1.0], nodes, [max(nodes[-1], high.max()) + 1.0]])
    widths = np.diff(far)
    begin = np.searchsorted(far, low, side="right") - 1
    span = int((np.searchsorted(far, high, side="left") - 1 - begin).max()) + 1
    segment = np.minimum(begin[:, None] + np.arange(max(span, 1)), widths.size - 1)
    again = np.diff(segment, axis=1, prepend=-1) == 0  # beyond the last segment
    a, b = (np.clip((x[:, None] - far[segment]) / widths[segment], 0.0, 1.0) for x in (low, high))
    share = np.where(again, 0.0, widths[segment] / (high - low)[:, None])
    second = share * (b * b - a * a) / 2
    first = share * (b - a) - second
    places = np.clip(np.stack([segment, segment + 1]) - 1, 0, nodes.size - 1)
    weights = np.stack([first, second])
    top, bottom = int(places[weights > 0].min()), int(places[weights > 0].max()) + 1
    numbers = np.broadcast_to(np.arange(low.size)[:, None], segment.shape)
    kept = weights > 0
    entries = weights[kept], (np.stack([numbers, numbers])[kept], places[kept] - top)
    return csr_array(entries, shape=(low.size, bottom - top)), top, bottom


def _sampled(opened: StaticMap, latitude: Array, longitude: Array, pixel: float, elevation: bool) -> list[Array]:
    """Return a map's layers at points [H, W], bilinear between means over blocks of at most half a pixel (degrees)."""
    grid = opened.grid
    rows, columns = (_block(axis, pixel / 2) for axis in (grid.latitude, grid.longitude))
    if grid.is_periodic:  # whole blocks round the globe
        columns = max(d for d in range(1, columns + 1) if grid.longitude.size % d == 0)
    lat, lon = (
        axis[: axis.size // n * n].reshape(-1, n).mean(1)
        for axis, n in ((grid.latitude, rows), (grid.longitude, columns))
    )
    middle, begin = float(lon[0] + lon[-1]) / 2, 0
    if grid.is_periodic:
        middle = float(_turned(longitude.reshape(-1)[:1], middle)[0])
        numbers = np.arange(-lon.size, 2 * lon.size)
        lon, begin = lon[numbers % lon.size] + 360.0 * (numbers // lon.size), -lon.size
    (i, u), (j, v) = _between(lat, latitude), _between(lon, _turned(longitude, middle))
    top, left, bottom, right = int(i.min()), int(j.min()), int(i.max()) + 2, int(j.max()) + 2
    cells = opened.window(top * rows, bottom * rows, (begin + left) * columns, (begin + right) * columns)
    place = (i - top) * (right - left) + (j - left)
    found = []
    for layer in _layers(cells, elevation):
        x = layer.reshape(bottom - top, rows, right - left, columns).mean((1, 3)).reshape(-1)
        lower = x[place] + v * (x[place + 1] - x[place])
        place_up = place + right - left
        upper = x[place_up] + v * (x[place_up + 1] - x[place_up])
        found.append(lower + u * (upper - lower))
    return found


def _between(nodes: Array, points: Array) -> tuple[NDArray[np.int64], Array]:
    """Return the node below each point and the way to the next, 0 to 1."""
    low = np.clip(np.searchsorted(nodes, points, side="right") - 1, 0, nodes.size - 2)
    return low, np.clip((points - nodes[low]) / (nodes[low + 1] - nodes[low]), 0.0, 1.0)


def _block(axis: Array, width: float) -> int:
    """Return how many cells of an axis fit into a width, at least one, so that two blocks at least remain."""
    step = (axis[-1] - axis[0]) / (axis.size - 1)
    return max(1, min(int(width / step + 1e-9), axis.size // 2))


def _extent(grid: LatLonGrid) -> tuple[float, float, float, float]:
    """Return the outer edges: south, north, west, east."""
    rows, columns = grid.latitude_bounds(), grid.longitude_bounds()
    return float(rows[0]), float(rows[-1]), float(columns[0]), float(columns[-1])


def _turned(longitude: Array, middle: float) -> Array:
    """Return longitudes moved by whole circles to within half a circle of a meridian."""
    return np.asarray(longitude - 360.0 * np.round((longitude - middle) / 360.0))


def _rimmed(axis: Array) -> Array:
    """Return an even axis with one place more at both ends."""
    step = (axis[-1] - axis[0]) / (axis.size - 1)
    return np.concatenate([[axis[0] - step], axis, [axis[-1] + step]])


def _inside(axis: Array, low: float, high: float) -> NDArray[np.int64]:
    """Return the numbers of an axis' places; those of the rim that lie outside become their neighbours'."""
    places = np.arange(axis.size)
    places[0] += axis[0] < low - SLACK
    places[-1] -= axis[-1] > high + SLACK
    return places
