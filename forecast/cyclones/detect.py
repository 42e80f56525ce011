"""Find the centres of cyclones in the maps of one time.

A centre is a minimum of sea-level pressure among its eight neighbours, placed between the grid points by a quadratic
fit. Each carries its pressure, the strongest cyclonic vorticity and wind near it, the wind that steers it and what the
criteria say of it. "Closed contour" is meant as in TempestExtremes (Ullrich & Zarzycki 2017, section 2.6): of all ways
from the centre outwards none leaves the radius before the field has changed by the threshold.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["CENTRE", "Detector"]

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from forecast.cyclones.criteria import Core, Criteria
from forecast.cyclones.sphere import KM_PER_DEGREE, Window, Windows, refine, vorticity
from gen.grid import LatLonGrid, haversine

Array = NDArray[np.float64]
Maps = Mapping[str, NDArray[np.floating]]

CENTRE = np.dtype(
    [(name, np.float64) for name in ("lat", "lon", "msl", "vorticity", "wind", "steer_u", "steer_v")]
    + [(name, np.int8) for name in ("closed", "core", "spin", "windy")]
)
UNKNOWN = -1
STEERING_DEG = 5.0
CROSS = ndimage.generate_binary_structure(2, 1)  # ways lead along rows and columns, as in TempestExtremes
MOST_COLUMNS = 40


class Detector:
    """Find centres on one grid with one set of criteria.

    Args:
        grid: grid of the maps.
        criteria: thresholds.
        use: channel codes by use, see `needed_channels`: what a map of `centres` is for.
    """

    def __init__(self, grid: LatLonGrid, criteria: Criteria, use: Mapping[str, tuple[str, ...]]) -> None:
        self.grid, self.criteria, self._use = grid, criteria, dict(use)
        self.windows = Windows(grid, criteria.reach_deg)
        self._hemisphere = np.sign(grid.latitude + 1e-12)[:, None]

    def centres(self, maps: Maps, near: tuple[float, float, float] | None = None) -> NDArray[np.void]:
        """Return the centres of one time as records `CENTRE`, flags 1, 0 or -1 (not evaluated).

        Args:
            maps: fields [H, W] by channel code, SI units.
            near: (latitude, longitude, km): every minimum within this distance. Without it, of the whole map those that
                have the closed contours and the vorticity which the criteria ask for, and no deeper one near.
        """
        pressure = np.asarray(maps[self._use["pressure"][0]], np.float64)
        fields = self._fields(maps)
        rows, columns = self._minima(pressure, near)
        described = [self._describe(pressure, fields, r, k, not near) for r, k in zip(rows, columns, strict=True)]
        centres = np.array([c for c in described if c is not None], CENTRE)
        return centres if near else self._deepest(centres)

    def _fields(self, maps: Maps) -> dict[str, Array]:
        """Return what the criteria look at: cyclonic vorticity, wind speed, steering wind, core quantities."""

        def of(key: str) -> list[Array]:
            return [np.asarray(maps[code], np.float64) for code in self._use[key]]

        out: dict[str, Array] = {}
        if "vorticity" in self._use:
            u, v = of("vorticity")
            out["vorticity"] = vorticity(u, v, self.grid) * self._hemisphere
        if "wind" in self._use:
            out["wind"] = np.hypot(*of("wind"))
        if "steering" in self._use:
            winds = np.stack(of("steering"))
            out["steer_u"], out["steer_v"] = winds.reshape(2, -1, *self.grid.shape).mean(axis=1)
        for k, core in enumerate(self.criteria.cores):
            parts = of(f"core{k}")
            out[f"core{k}"] = parts[0] - parts[1] if core.quantity == "thickness" else np.mean(parts, axis=0)
        return out

    def _minima(self, pressure: Array, near: tuple[float, float, float] | None) -> tuple[list[int], list[int]]:
        """Return rows and columns of the local minima, deepest first; a regional grid has none on its edge."""
        around = "wrap" if self.grid.is_periodic else "nearest"
        low = pressure <= ndimage.minimum_filter(pressure, size=3, mode=("nearest", around))
        if not self.grid.is_global:
            low[[0, -1]] = False
        if not self.grid.is_periodic:
            low[:, [0, -1]] = False
        if near:
            low &= self._distance(near[0], near[1], near[2])
        rows, columns = np.nonzero(low)
        if not near:
            enclosed = self._may_be_closed(pressure, rows, columns)
            rows, columns = rows[enclosed], columns[enclosed]
        order = np.argsort(pressure[rows, columns], kind="stable")
        return rows[order].tolist(), columns[order].tolist()

    def _may_be_closed(self, pressure: Array, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return whether pressure rises enough on the straight ways north, south, east and west of each point.

        These are four of the ways that a closed contour has to cross, so that no closed one is lost; nearly all of the
        minima that noise makes are, at the price of a few operations on whole arrays.
        """
        needed = pressure[rows, columns] + self.criteria.pressure_rise
        height, width = self.grid.shape
        radius, step = self.criteria.pressure_radius_deg, float(self.grid.longitude[1] - self.grid.longitude[0])
        along = np.full(height, int(radius / self.windows.spacing_deg) + 1)
        parallel = radius / (step * np.maximum(np.cos(np.deg2rad(self.grid.latitude)), 1e-6))
        around = np.where(parallel > MOST_COLUMNS, 0, 1.2 * parallel + 2).astype(np.int64)
        good = np.ones(rows.size, bool)
        for reach, down, right in ((along, 1, 0), (along, -1, 0), (around, 0, 1), (around, 0, -1)):
            risen = reach[rows] == 0
            for k in range(1, int(reach.max()) + 1):
                row, column = rows + k * down, columns + k * right
                inside = (row >= 0) & (row < height)
                if not self.grid.is_periodic:
                    inside &= (column >= 0) & (column < width)
                value = pressure[np.clip(row, 0, height - 1), column % width]
                risen |= ~inside | ((k <= reach[rows]) & (value >= needed))
            good &= risen
        return good

    def _distance(self, lat: float, lon: float, km: float) -> NDArray[np.bool_]:
        rows = np.abs(self.grid.latitude - lat) <= km / KM_PER_DEGREE
        inside = np.zeros(self.grid.shape, bool)
        inside[rows] = haversine(lat, lon, self.grid.latitude[rows, None], self.grid.longitude) <= km
        return inside

    def _describe(
        self, pressure: Array, fields: dict[str, Array], row: int, column: int, strict: bool
    ) -> tuple[float | int, ...] | None:
        """Return one record, or None when something that is required of a whole map is not there."""
        criteria, window = self.criteria, self.windows[row]
        columns = self.windows.columns(window, column)
        if columns is None:
            return None
        closed = _closed(-pressure[window.rows][:, columns], window, criteria.pressure_rise,
                         criteria.pressure_radius_deg, window.home)  # fmt: skip
        if strict and not closed:
            return None
        values = {name: field[window.rows][:, columns] for name, field in fields.items()}
        spin = _largest(values.get("vorticity"), window, criteria.vorticity_radius_deg)
        wind = _largest(values.get("wind"), window, criteria.wind_radius_deg)
        enough = _reached(spin, criteria.min_vorticity)
        core = self._warm(values, window)
        if strict and 0 in (enough, core):
            return None
        lat, lon = refine(pressure, self.windows, row, column)
        steer = [_mean(values.get(name), window, STEERING_DEG) for name in ("steer_u", "steer_v")]
        windy = _reached(wind, criteria.min_wind)
        return lat, lon, pressure[row, column], spin, wind, *steer, int(closed), core, enough, windy

    def _warm(self, values: Mapping[str, Array], window: Window) -> int:
        cores = self.criteria.cores
        found = (_has_core(values[f"core{k}"], window, core) for k, core in enumerate(cores))
        return int(all(found)) if cores else UNKNOWN

    def _deepest(self, centres: NDArray[np.void]) -> NDArray[np.void]:
        """Leave out each centre that lies within `merge_deg` of a deeper one (they come deepest first)."""
        kept: list[int] = []
        for k, centre in enumerate(centres):
            others = centres[kept]
            away = haversine(centre["lat"], centre["lon"], others["lat"], others["lon"])
            if not (away < self.criteria.merge_deg * KM_PER_DEGREE).any():
                kept.append(k)
        return centres[kept]


def _closed(values: Array, window: Window, fall: float, radius: float, start: tuple[int, int]) -> bool:
    """Return whether values fall by `fall` from the point `start` on every way out of `radius` degrees around it."""
    if window.cut:
        return False
    region = _connected(values > values[start] - fall, window, start)
    away = window.degrees if start == window.home else _from(window, start)
    return not bool((region & (away > radius)).any())


def _connected(above: NDArray[np.bool_], window: Window, start: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the connected part of `above` that holds `start`; round the globe and across a pole where they are."""
    labels, count = ndimage.label(above, structure=CROSS)
    region = np.asarray(labels == labels[start])
    while window.full and count > 1:
        touched = set(labels[:, 0][region[:, -1]]) | set(labels[:, -1][region[:, 0]])
        for row in window.poles:
            touched |= set(np.roll(labels[row], labels.shape[1] // 2)[region[row]])
        grown = np.isin(labels, [t for t in touched if t]) | region
        if (grown == region).all():
            break
        region = grown
    return region


def _has_core(values: Array, window: Window, core: Core) -> bool:
    """Return whether the maximum within the offset stands above its surroundings on a closed contour."""
    inside = np.where(window.degrees <= core.offset_deg, values, -np.inf)
    row, column = np.unravel_index(int(np.argmax(inside)), inside.shape)
    start = (int(row), int(column)) if np.isfinite(inside[row, column]) else window.home
    return _closed(values, window, core.fall, core.radius_deg, start)


def _from(window: Window, start: tuple[int, int]) -> Array:
    """Return the distances [r, c] of the points of a window to one of them, degrees."""
    lat, lon = window.positions
    return haversine(lat[start], lon[start], lat, lon) / KM_PER_DEGREE


def _largest(values: Array | None, window: Window, radius: float) -> float:
    return np.nan if values is None else float(values[window.degrees <= radius].max())


def _mean(values: Array | None, window: Window, radius: float) -> float:
    return np.nan if values is None else float(values[window.degrees <= radius].mean())


def _reached(value: float, threshold: float | None) -> int:
    return UNKNOWN if threshold is None else int(value >= threshold)
