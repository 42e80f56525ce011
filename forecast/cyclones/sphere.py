"""Geometry of the sphere for tracks: great circles, windows of a grid, vorticity, and a centre between grid points.

Positions are unit vectors where they are averaged or continued, so that the date line and the poles are places like any
other. Distances are great-circle distances on a sphere of radius 6371 km (`gen.grid.haversine`); a "degree" of distance
is a degree of arc, 111.2 km.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

__all__ = ["KM_PER_DEGREE", "Window", "Windows", "advance", "bearing", "continued", "destination", "mean_position",
           "refine", "vorticity"]  # fmt: skip

import numpy as np
from numpy.typing import NDArray

from gen.grid import EARTH_RADIUS_KM, LatLonGrid, haversine

Array = NDArray[np.float64]

KM_PER_DEGREE = EARTH_RADIUS_KM * np.pi / 180.0
POLE_DEG = 90.0 - 1e-6
FIT_RADIUS = 1.5  # rows: the point and its eight neighbours at the equator, more columns towards the poles


def bearing(lat1: float, lon1: float, lat2: float, lon2: float) -> float:
    """Return the direction of the great circle at the first point towards the second, radians clockwise from north."""
    phi1, phi2, step = np.deg2rad(lat1), np.deg2rad(lat2), np.deg2rad(lon2 - lon1)
    east = np.sin(step) * np.cos(phi2)
    return float(np.arctan2(east, np.cos(phi1) * np.sin(phi2) - np.sin(phi1) * np.cos(phi2) * np.cos(step)))


def destination(lat: float, lon: float, direction: float, km: float) -> tuple[float, float]:
    """Return the point `km` away on the great circle that leaves in `direction` (radians clockwise from north)."""
    phi, arc = np.deg2rad(lat), km / EARTH_RADIUS_KM
    up = np.sin(phi) * np.cos(arc) + np.cos(phi) * np.sin(arc) * np.cos(direction)
    east = np.sin(direction) * np.sin(arc) * np.cos(phi)
    shift = np.arctan2(east, np.cos(arc) - np.sin(phi) * up)
    return float(np.rad2deg(np.arcsin(np.clip(up, -1, 1)))), float(_wrapped(lon + np.rad2deg(shift)))


def advance(lat: float, lon: float, u: float, v: float, hours: float) -> tuple[float, float]:
    """Return where the wind (u, v) in m/s carries a point in some hours, along the great circle it points to."""
    return destination(lat, lon, float(np.arctan2(u, v)), float(np.hypot(u, v)) * hours * 3.6)


def continued(before: tuple[float, float], last: tuple[float, float], ratio: float) -> tuple[float, float]:
    """Return the point `ratio` times as far beyond `last` as `before` lies behind it, on the same great circle."""
    km = float(haversine(*before, *last))
    return destination(*last, bearing(*last, *before) + np.pi, ratio * km)


def mean_position(lat: Array, lon: Array) -> tuple[float, float]:
    """Return the direction of the mean of the unit vectors of some points; (nan, nan) when they cancel."""
    phi, lam = np.deg2rad(lat), np.deg2rad(lon)
    x, y, z = (c.mean() for c in (np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)))
    if np.sqrt(x**2 + y**2 + z**2) < 1e-9:
        return np.nan, np.nan
    return float(np.rad2deg(np.arctan2(z, np.hypot(x, y)))), float(np.rad2deg(np.arctan2(y, x)))


def vorticity(u: Array, v: Array, grid: LatLonGrid) -> Array:
    """Return the relative vorticity [..., H, W] in s-1 of winds in m/s.

        zeta = (dv/dlambda - d(u cos phi)/dphi) / (a cos phi)

    Centred differences. At a row on a pole it is the circulation along the next row divided by the area of the cap
    (Stokes), one value for the whole row; where a global grid ends before a pole, the difference reaches across it.
    """
    a = 1000.0 * EARTH_RADIUS_KM
    phi, lam = np.deg2rad(grid.latitude), np.deg2rad(grid.longitude)
    cos = np.cos(phi)[:, None]
    if grid.is_periodic:
        dv = (np.roll(v, -1, -1) - np.roll(v, 1, -1)) / (2 * (lam[1] - lam[0]))
    else:
        dv = np.gradient(v, lam, axis=-1)
    zeta = (dv - _northward(u * cos, phi, grid.is_global)) / (a * np.maximum(cos, 1e-9))
    for row, ring in ((0, 1), (-1, -2)):
        if abs(grid.latitude[row]) > POLE_DEG:
            zeta[..., row, :] = -np.sign(row + 0.5) * _cap(u[..., ring, :], phi[ring]) / a
    return np.asarray(zeta)


def _northward(values: Array, phi: Array, across: bool) -> Array:
    """Return differences [..., H, W] to both rows beside, per radian; beyond a pole lies the opposite meridian.

    There u and cos phi both change sign, so that u cos phi goes on as it is.
    """
    if not across:
        return np.asarray(np.gradient(values, phi, axis=-2))
    turn = values.shape[-1] // 2
    south, north = (int(abs(end) > np.deg2rad(POLE_DEG)) for end in phi[[0, -1]])  # a row on the pole is not beyond it
    beyond = [np.roll(values[..., row, :], turn, -1)[..., None, :] for row in (south, -1 - north)]
    values = np.concatenate([beyond[0], values, beyond[1]], axis=-2)
    phi = np.concatenate([[-np.pi - phi[south]], phi, [np.pi - phi[-1 - north]]])
    return np.asarray(np.gradient(values, phi, axis=-2)[..., 1:-1, :])


def _cap(u: Array, phi: float) -> Array:
    """Return mean circulation per area, times the radius, of the cap beyond latitude `phi` [..., 1]."""
    return np.asarray(u.mean(axis=-1, keepdims=True) * np.cos(phi) / (1 - abs(np.sin(phi))))


def _wrapped(lon: float) -> float:
    return (lon + 180.0) % 360.0 - 180.0


@dataclass(frozen=True)
class Window:
    """The part of a grid around a row: rows `first` on, columns relative to a centre, distances to it.

    Attributes:
        first: first row.
        columns: column offsets [c], ascending through 0; the whole circle when `full`.
        degrees: distances to the centre [r, c], degrees of arc.
        full: whether the columns go round the globe, so that the first and the last are neighbours.
        poles: rows of the window, 0 or -1, that lie on or next to a pole: their points are neighbours across it.
        cut: whether the disc reaches beyond the rows of a regional grid.
        positions: latitudes and longitudes [r, c], the centre's longitude being 0.
    """

    first: int
    columns: NDArray[np.int64]
    degrees: Array
    full: bool
    poles: tuple[int, ...]
    cut: bool
    positions: tuple[Array, Array]

    @property
    def rows(self) -> slice:
        """Rows of the grid."""
        return slice(self.first, self.first + self.degrees.shape[0])

    @cached_property
    def home(self) -> tuple[int, int]:
        """Row and column of the centre in the window."""
        row, column = np.unravel_index(int(np.argmin(self.degrees)), self.degrees.shape)
        return int(row), int(column)


class Windows:
    """Windows of one size around the rows of a grid, made once for each row.

    Args:
        grid: the grid; columns must be equally spaced.
        radius_deg: how far the windows reach, degrees of arc; one more ring of points is included.

    Raises:
        ValueError: columns at unequal distances.
    """

    def __init__(self, grid: LatLonGrid, radius_deg: float) -> None:
        steps = np.diff(grid.longitude)
        if not np.allclose(steps, steps[0], atol=1e-4):
            raise ValueError("the columns of the file are not equally spaced; regrid it before tracking")
        self.grid, self.radius_deg, self._made = grid, radius_deg, dict[int, Window]()
        self._periodic = grid.is_periodic
        self.spacing_deg = float(np.median(np.diff(grid.latitude)))
        self._fits: dict[int, tuple[Window, NDArray[np.bool_], Array]] = {}

    def __getitem__(self, row: int) -> Window:
        if row not in self._made:
            self._made[row] = self._window(row, self.radius_deg)
        return self._made[row]

    def fit(self, row: int) -> tuple[Window, NDArray[np.bool_], Array]:
        """Return the window, the points and the matrix of the quadratic fit around a row, see `refine`."""
        if row not in self._fits:
            window = self._window(row, FIT_RADIUS * self.spacing_deg)
            near = window.degrees <= FIT_RADIUS * self.spacing_deg + 1e-9
            rows, columns = np.nonzero(near)
            x, y = self._plane(row, window, rows, columns)
            basis = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)
            self._fits[row] = window, near, np.linalg.pinv(basis)
        return self._fits[row]

    def columns(self, window: Window, column: int) -> NDArray[np.int64] | None:
        """Return the columns of the grid around `column`; None where a regional grid ends."""
        found = column + window.columns
        count = self.grid.shape[1]
        if self._periodic:
            return found % count
        return None if found[0] < 0 or found[-1] >= count else found

    def _plane(
        self, row: int, window: Window, rows: NDArray[np.int64], columns: NDArray[np.int64]
    ) -> tuple[Array, Array]:
        """Return east and north of the centre in degrees of arc, azimuthal equidistant."""
        lat, step = self.grid.latitude, float(self.grid.longitude[1] - self.grid.longitude[0])
        away = window.degrees[rows, columns]
        turns = [bearing(lat[row], 0.0, lat[window.first + r], step * window.columns[c])
                 for r, c in zip(rows, columns, strict=True)]  # fmt: skip
        return away * np.sin(turns), away * np.cos(turns)

    def _window(self, row: int, radius: float) -> Window:
        lat, count = self.grid.latitude, self.grid.shape[1]
        step = float(self.grid.longitude[1] - self.grid.longitude[0])
        reach = radius + 1.5 * self.spacing_deg
        rows = np.flatnonzero(np.abs(lat - lat[row]) <= reach)
        highest = float(np.abs(lat[rows]).max())
        full = highest + 1e-6 >= 90.0 - self.spacing_deg
        if not full:
            ratio = np.sin(np.deg2rad(reach) / 2) / np.cos(np.deg2rad(highest))
            half = count if ratio >= 1 else int(np.rad2deg(2 * np.arcsin(ratio)) / step) + 1
            full = 2 * half + 1 >= count
        columns = np.arange(count) - count // 2 if full else np.arange(-half, half + 1)
        places = np.meshgrid(lat[rows], step * columns, indexing="ij")
        away = haversine(lat[row], 0.0, *places) / KM_PER_DEGREE
        ends = ((0, lat[rows[0]] + 90.0), (-1, 90.0 - lat[rows[-1]]))
        poles = tuple(end for end, gap in ends if self.grid.is_global and gap < self.spacing_deg)
        outside = not self.grid.is_global and bool(lat[row] - lat[0] < radius or lat[-1] - lat[row] < radius)
        return Window(int(rows[0]), columns, away, full and self.grid.is_periodic, poles, outside,
                      (places[0], places[1]))  # fmt: skip


def refine(field: Array, windows: Windows, row: int, column: int) -> tuple[float, float]:
    """Return latitude and longitude of the minimum near a grid point: that of a quadratic surface fitted around it.

    Least squares over the points within 1.5 rows, in the plane that touches the sphere at the point. The point itself
    is returned when the surface has no minimum within one row of it.
    """
    lat, lon = float(windows.grid.latitude[row]), _wrapped(float(windows.grid.longitude[column]))
    window, near, solve = windows.fit(row)
    columns = windows.columns(window, column)
    if columns is None or near.sum() < 6 or abs(lat) > POLE_DEG:
        return lat, lon
    values = field[window.rows][:, columns][near]
    _, bx, by, cxx, cxy, cyy = solve @ (values - values.min())
    determinant = 4 * cxx * cyy - cxy**2
    if not (cxx > 0 and determinant > 0):
        return lat, lon
    x, y = (cxy * by - 2 * cyy * bx) / determinant, (cxy * bx - 2 * cxx * by) / determinant
    away = float(np.hypot(x, y))
    if away > windows.spacing_deg:
        return lat, lon
    return destination(lat, lon, float(np.arctan2(x, y)), away * KM_PER_DEGREE)
