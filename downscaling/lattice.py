"""The lattice of fine pixels that covers the globe or the map plane, and the part of it that is asked for.

Fine rows and columns are numbered from the edge of the globe (90 S, 180 W) or the origin of the plane, coarse ones
likewise, so that two crops of one input number the same pixel alike. A target made by a factor or a spacing shares its
origin with the coarse lattice: every q-th coarse edge is then a fine one (factor p/q), and amounts can be conserved
piece by piece.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

__all__ = ["Axis", "Domain", "Target", "build_domain"]

import numpy as np
from numpy.typing import NDArray

from downscaling.overlap import Grid
from gen.grid import LatLonGrid, Region
from gen.projected_grid import ProjectedGrid

Array = NDArray[np.float64]

POLE_LIMIT = 85.0  # degrees; cells of a latitude-longitude grid are 11 times as tall as wide there
CONTEXT_LIMIT = 88.0
UNEVEN = 1e-3  # of a step
SNAP = 1e-6  # of a cell
LARGEST_DENOMINATOR = 20
EARTH_RADIUS_KM = 6371.0


@dataclass(frozen=True)
class Target:
    """What fine grid is wanted: one of factor, spacing and grid; and perhaps a region.

    Args:
        factor: coarse over fine spacing. spacing: of the fine grid, degrees or (map planes) metres.
        grid: the fine grid itself. region: box that is written.
    """

    factor: float | None = None
    spacing: float | None = None
    grid: Grid | None = None
    region: Region | None = None


@dataclass(frozen=True, eq=False)
class Axis:
    """Rows or columns. Pixel n lies between origin + n step and origin + (n + 1) step.

    Args:
        origin: lower edge of pixel 0, degrees or metres. step: width of a pixel.
        factor: width of coarse in fine cells.
        shift: lower edge of pixel 0 in coarse cells of the coarse lattice.
        start: number of the first coarse cell at hand on the coarse lattice.
        cells: [N] their places in the coarse field.
        first, stop: pixels that are written. period: pixels of a full circle.
        circle: whether the input goes round a whole number of pixels, so that they have no first and no last; `first`
            is then at least 0 and below `period`, and all pixels of the first circle have their cells at hand.
    """

    origin: float
    step: float
    factor: float
    shift: float
    start: int
    cells: NDArray[np.int64]
    first: int
    stop: int
    period: int | None = None
    circle: bool = False

    @property
    def covered(self) -> tuple[int, int]:
        """Return the pixels (first, stop) whose centres lie in the coarse cells at hand, lower edge included."""
        low, high = ((self.start + k - self.shift) * self.factor for k in (0, self.cells.size))
        return int(np.ceil(low - 0.5 - SNAP)), int(np.ceil(high - 0.5 - SNAP))

    def centres(self, first: int, stop: int) -> Array:
        """Return the centres of pixels."""
        return np.asarray(self.origin + (np.arange(first, stop) + 0.5) * self.step)

    def edges(self, first: int, stop: int) -> Array:
        """Return the edges [n + 1] of pixels."""
        return np.asarray(self.origin + np.arange(first, stop + 1) * self.step)

    def positions(self, first: int, stop: int) -> Array:
        """Return the centres in coarse cells at hand; exact where a centre lies on a coarse edge."""
        places = (np.arange(first, stop) + 0.5) / self.factor + self.shift - self.start
        return np.clip(places, 0.0, float(self.cells.size))

    def coarse_edges(self, low: int, high: int) -> Array:
        """Return the edges [high - low + 1] of coarse cells at hand."""
        numbers = np.arange(low, high + 1) + self.start - self.shift
        return np.asarray(self.origin + numbers * self.factor * self.step)

    def cuts(self, least: int) -> list[int]:
        """Return first, stop and pixels between, `least` apart, whose lower edge is a coarse edge as well."""
        places = np.arange(self.first, self.stop) / self.factor + self.shift
        common = self.first + np.flatnonzero(np.abs(places - np.round(places)) < SNAP)
        found = [self.first]
        for n in common:
            if n - found[-1] >= least and self.stop - n >= least:
                found.append(int(n))
        return [*found, self.stop]

    def cells_of(self, first: int, stop: int) -> tuple[int, int]:
        """Return the coarse cells at hand (low, high) that pixels touch."""
        low, high = (n / self.factor + self.shift - self.start for n in (first, stop))
        return max(int(np.floor(low + SNAP)), 0), min(int(np.ceil(high - SNAP)), self.cells.size)


@dataclass(frozen=True, eq=False)
class Domain:
    """Rows and columns of the fine field, and the map plane they lie on (None: latitude and longitude)."""

    rows: Axis
    columns: Axis
    crs: str | None = None

    @property
    def grid(self) -> Grid:
        """Return the fine grid that is written."""
        return self.window(self.rows.first, self.rows.stop, self.columns.first, self.columns.stop)

    @property
    def shape(self) -> tuple[int, int]:
        """Return (rows, columns) of the fine field."""
        return self.rows.stop - self.rows.first, self.columns.stop - self.columns.first

    @property
    def spacing_km(self) -> float:
        """Return the distance of rows."""
        return self.rows.step / 1000.0 if self.crs else float(np.deg2rad(self.rows.step)) * EARTH_RADIUS_KM

    def window(self, top: int, bottom: int, left: int, right: int) -> Grid:
        """Return the grid of rows top to bottom and columns left to right."""
        y, x = self.rows.centres(top, bottom), self.columns.centres(left, right)
        if self.crs:
            return ProjectedGrid(x, y, self.crs)
        return LatLonGrid(y, x - _turn(x))

    def coarse(self) -> tuple[slice, slice, Grid]:
        """Return rows and columns of the coarse cells at hand that the fine field touches, and their grid."""
        (a, b), (c, d) = (
            self.rows.cells_of(self.rows.first, self.rows.stop),
            self.columns.cells_of(self.columns.first, self.columns.stop),
        )
        edges = self.rows.coarse_edges(a, b), self.columns.coarse_edges(c, d)
        y, x = ((e[1:] + e[:-1]) / 2 for e in edges)
        if self.columns.circle:  # a cell that is cut at both ends is told once
            x = x[: round(self.columns.period / self.columns.factor)]  # type: ignore[operator]
            d = c + x.size
        grid: Grid = ProjectedGrid(x, y, self.crs) if self.crs else LatLonGrid(y, x - _turn(x))
        return slice(a, b), slice(c, d), grid


def build_domain(coarse: Grid, target: Target, margin: int) -> Domain:
    """Lay the fine lattice over a coarse grid.

    Args:
        coarse: grid of the input, evenly spaced.
        target: what is wanted.
        margin: fine pixels of context wanted beyond a region, where the input has them.

    Raises:
        ValueError: an uneven grid, a factor below one, a target beside the input, on another projection or at a pole.
    """
    if isinstance(coarse, ProjectedGrid):
        return _plane(coarse, target, margin)
    if isinstance(target.grid, ProjectedGrid):
        raise ValueError("the input is on latitudes and longitudes and the target on a map plane; regrid the input")
    box, fine = target.region, target.grid
    south, north = (box.south, box.north) if box else (-np.inf, np.inf)
    parallels, meridians = (None, None) if fine is None else (fine.latitude, fine.longitude)
    rows = _axis("latitude", coarse.latitude, target, parallels, -90.0, (south, north), margin)
    low, high = rows.edges(rows.first, rows.stop)[[0, -1]]
    if min(low, -high) < -POLE_LIMIT - SNAP:
        raise ValueError(
            f"the field reaches {max(-low, high):.4g} degrees of latitude: at a pole the cells of a latitude-longitude "
            f"grid have no width, and rain has no texture there that could be learnt; choose a region within "
            f"{POLE_LIMIT:g} S and {POLE_LIMIT:g} N (--region S,N,W,E)"
        )
    west, east = (box.west, box.west + box.width) if box else (-np.inf, np.inf)
    period = 360.0 if coarse.is_periodic else None
    columns = _axis("longitude", coarse.longitude, target, meridians, -180.0, (west, east), margin, period)
    return Domain(_within(rows), columns)


def _plane(coarse: ProjectedGrid, target: Target, margin: int) -> Domain:
    if target.region is not None:
        raise ValueError("a region of degrees is for latitude-longitude grids; give a reference grid file (--grid)")
    if target.grid is not None and getattr(target.grid, "crs", None) != coarse.crs:
        raise ValueError("input and target must share their projection; regrid the input")
    fine = target.grid if isinstance(target.grid, ProjectedGrid) else None
    anywhere = (-np.inf, np.inf)
    rows = _axis("y", coarse.y, target, None if fine is None else fine.y, 0.0, anywhere, margin)
    columns = _axis("x", coarse.x, target, None if fine is None else fine.x, 0.0, anywhere, margin)
    return Domain(rows, columns, coarse.crs)


def _axis(
    name: str,
    centres: Array,
    target: Target,
    fine: Array | None,
    base: float,
    box: tuple[float, float],
    margin: int,
    period: float | None = None,
) -> Axis:
    """Lay one axis: coarse centres, the fine centres wanted if there are any, and the box."""
    D = _step(centres, name)
    edge = float(centres[0]) - D / 2
    start = _number((edge - base) / D)
    origin = float(np.round(edge - start * D, 9))
    if fine is None:
        factor = _ratio(target.factor if target.factor is not None else D / float(target.spacing or D))
        d, shift, fine_origin = D / factor, 0.0, origin
    else:
        d = _step(fine, f"target {name}")
        factor = _ratio(D / d)
        low = float(fine[0]) - d / 2
        fine_origin = low - _number((low - base) / d) * d
        shift = (fine_origin - origin) / D
        near = round(shift * factor)
        shift = near / factor if abs(shift * factor - near) < 1e-4 else shift
        box = (low, low + fine.size * d)
    if factor < 1:
        raise ValueError(f"the factor in {name} is {factor:.4g}: fine cells must not be wider than the coarse ones")
    box = _turned(box, edge, centres.size * D, base)
    count = round(360.0 / d) if base == -180.0 and abs(360.0 / d - round(360.0 / d)) < SNAP else None
    axis = Axis(fine_origin, d, factor, shift, start, np.arange(centres.size), 0, 0, count)
    if period is not None:
        return _round(axis, box if np.isfinite(box[0]) else (edge, edge + period), margin, aligned=fine is None)
    first, stop = axis.covered
    wanted = [int(np.ceil((b - fine_origin) / d - 0.5 - SNAP)) if np.isfinite(b) else None for b in box]
    if fine is not None and (wanted[0] is None or wanted[0] < first or (wanted[1] or 0) > stop):
        raise ValueError(f"the target's {name} reaches beyond the input; cut the target or take a larger input")
    first = first if wanted[0] is None else max(first, wanted[0])
    stop = stop if wanted[1] is None else min(stop, wanted[1])
    if stop - first < 2:
        raise ValueError(f"the target holds fewer than two fine cells of the input in {name}: it lies beside the input")
    return replace(axis, first=first, stop=stop)


def _round(axis: Axis, box: tuple[float, float], margin: int, aligned: bool) -> Axis:
    """Take the cells of an input that goes round the globe, as far as a box and its margin need them.

    Args:
        axis: with the cells of the input.
        box: western and eastern edge.
        margin: see `build_domain`.
        aligned: whether a whole circle may be opened where a coarse and a fine edge meet, so that no cell is cut.
    """
    size, west = axis.cells.size, (box[0] - axis.origin) / axis.step
    if aligned and box[1] - box[0] > 360.0 - SNAP:
        number = int(np.floor(west / axis.factor + axis.shift + SNAP))
        near = (number - k for k in range(LARGEST_DENOMINATOR))
        west = next((n * axis.factor for n in near if abs(n * axis.factor - round(n * axis.factor)) < SNAP), west)
    east = west + (box[1] - box[0]) / axis.step
    first, stop = (int(np.ceil(n - 0.5 - SNAP)) for n in (west, east))
    if stop - first < 2:
        raise ValueError("the target holds fewer than two fine cells of longitude; take a larger region")
    turn = 0 if axis.period is None else first // axis.period * axis.period
    first, stop, extra = first - turn, stop - turn, int(np.ceil(margin / axis.factor)) + 1
    low, high = (int(np.floor(n / axis.factor + axis.shift)) + k for n, k in ((first, -extra), (stop, extra + 1)))
    if axis.period is not None:
        low, high = min(low, -extra), max(high, size + extra)
    cells = (np.arange(low, high) - axis.start) % size
    circle = axis.period is not None
    return replace(axis, start=low, cells=cells, first=first, stop=stop, circle=circle)


def _within(rows: Axis) -> Axis:
    """Drop coarse rows at the poles, which are no use as context."""
    edges = rows.coarse_edges(0, rows.cells.size)
    keep = np.flatnonzero((edges[:-1] >= -CONTEXT_LIMIT - SNAP) & (edges[1:] <= CONTEXT_LIMIT + SNAP))
    return replace(rows, start=rows.start + int(keep[0]), cells=rows.cells[keep])


def _turn(longitude: Array) -> float:
    """Return the degrees by which longitudes lie too far east: they should begin in [-180, 180) and end by 360."""
    turn = 360.0 * np.floor((longitude[0] + 180.0) / 360.0)
    return float(turn if longitude[-1] - turn < 360.0 else turn + 360.0)


def _turned(box: tuple[float, float], edge: float, extent: float, base: float) -> tuple[float, float]:
    """Return a box of longitudes moved by whole circles so that it begins inside the input, if it can."""
    if base != -180.0 or not np.isfinite(box[0]):
        return box
    turns = [360.0 * k for k in (-2, -1, 0, 1, 2)]
    best = max(turns, key=lambda t: min(box[1] + t, edge + extent) - max(box[0] + t, edge))
    return box[0] + best, box[1] + best


def _step(axis: Array, name: str) -> float:
    steps = np.diff(axis)
    step = float((axis[-1] - axis[0]) / steps.size)
    if np.ptp(steps) > UNEVEN * step:
        raise ValueError(
            f"the {name} axis is not evenly spaced (steps {steps.min():.6g} to {steps.max():.6g}): "
            "regrid the input to a regular grid (`cdo remapcon`)"
        )
    return float(np.round(step, 11))


def _number(value: float) -> int:
    """Return the whole number below, to a thousandth."""
    return int(np.floor(np.round(value, 3)))


def _ratio(value: float) -> float:
    """Return a factor, made exact when it is a ratio of small numbers."""
    near = float(Fraction(value).limit_denominator(LARGEST_DENOMINATOR))
    return near if abs(near - value) < SNAP * value else value
