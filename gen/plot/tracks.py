"""Cyclone tracks of an ensemble on a map of the strike probability, with the reference, and their central pressure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gen.grid import LatLonGrid, Region
from gen.plot.canvas import MapPanel, aspect, colour_bar, new_figure, save
from gen.plot.forecast_view import ForecastView, stamp

__all__ = ["Line", "draw_tracks", "figure_grid", "mean_line", "window"]

Array = NDArray[np.float64]

MAP_INCHES = 8.0
MARGIN_DEG = 8.0
WIDEST_DEG = 150.0
KM_PER_DEGREE = 111.2
POINTS_PER_RADIUS, FINEST_DEG = 8.0, 0.1
SHARES = np.array([0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
DAY_HOURS = 24
MEMBER, MEAN, REFERENCE = "0.4", "#0072b2", "black"  # told apart from each other and from the shading
LEAST_FOR_MEAN = 0.5  # share of the tracks: with fewer a mean position says nothing of the ensemble


@dataclass(frozen=True)
class Line:
    """A track on paper: lead times (hours), positions (degrees), central pressure (hPa, may be NaN)."""

    name: str
    hours: Array
    lat: Array
    lon: Array
    pressure: Array


def draw_tracks(
    view: ForecastView,
    grid: LatLonGrid,
    strike: Array,
    radius_km: float,
    lines: Sequence[Line],
    reference: Line | None,
    followed: bool,
    criteria: str,
    out: Path,
) -> Path:
    """Draw map and central pressure.

    Args:
        view: the forecast.
        grid: what the map shows, see `figure_grid`.
        strike: strike probability on it [rows, columns].
        radius_km: its radius.
        lines: tracks of the members.
        reference: the observed track.
        followed: whether all tracks are of one storm, so that a mean track makes sense.
        criteria: name of the criteria.
        out: file to write.
    """
    height = MAP_INCHES / aspect(grid.latitude, grid.longitude)
    what = "one storm" if followed else f"{len(lines)} tracks"
    heading = f"cyclones: {what}, criteria {criteria}\n{view.heading()}"
    figure = new_figure(MAP_INCHES + 4.4, max(height + 1.0, 4.2), heading, view.warning())
    left, right = figure.subplots(1, 2, width_ratios=(MAP_INCHES, 3.6))
    panel = _Panel(left, grid.latitude, grid.longitude)
    filled = panel.shade(strike, SHARES, "YlOrBr", "neither")
    mean = mean_line(lines) if followed and len(lines) > 1 else None
    panel.tracks(lines, mean, reference)
    panel.finish(f"until {stamp(view.valid(int(view.leads.max())))}; dots every 24 h")
    colour_bar(figure, filled, left, f"share of members that pass within {radius_km:g} km")
    _pressures(right, lines, mean, reference)
    return save(figure, out)


def mean_line(lines: Sequence[Line]) -> Line | None:
    """Return the track of mean positions (unit vectors) where at least half of the tracks are, None where nowhere."""
    hours = sorted({float(h) for line in lines for h in line.hours})
    rows = []
    for hour in hours:
        here = [(line, int(np.flatnonzero(line.hours == hour)[0])) for line in lines if hour in line.hours]
        if len(here) < LEAST_FOR_MEAN * len(lines):
            continue
        phi, lam = np.deg2rad([[line.lat[k], line.lon[k]] for line, k in here]).T
        x, y, z = (np.cos(phi) * np.cos(lam)).mean(), (np.cos(phi) * np.sin(lam)).mean(), np.sin(phi).mean()
        place = np.rad2deg([np.arctan2(z, np.hypot(x, y)), np.arctan2(y, x)])
        rows.append((hour, *place, np.mean([line.pressure[k] for line, k in here])))
    return Line("mean", *np.array(rows).T) if rows else None


def window(lines: Sequence[Line]) -> Region | None:
    """Return the box around some tracks with a margin, None when it would be most of the globe."""
    if not lines:
        return None
    lat, lon = (np.concatenate([getattr(line, name) for line in lines]) for name in ("lat", "lon"))
    middle = np.rad2deg(np.angle(np.exp(1j * np.deg2rad(lon)).mean()))
    away = (lon - middle + 180) % 360 - 180
    south, north = max(lat.min() - MARGIN_DEG, -90.0), min(lat.max() + MARGIN_DEG, 90.0)
    wide = MARGIN_DEG / max(np.cos(np.deg2rad(np.abs(lat).max())), 0.25)
    west, east = middle + away.min() - wide, middle + away.max() + wide
    if east - west > WIDEST_DEG or max(-south, north) > 85.0:
        return None
    return Region(south, north, (west + 180) % 360 - 180, (east + 180) % 360 - 180)


def figure_grid(lines: Sequence[Line], radius_km: float, grid: LatLonGrid) -> LatLonGrid:
    """Return the grid for the map: a window around the tracks, fine enough for the radius, else the globe.

    A file of another region is drawn on its own grid.
    """
    if not grid.is_global:
        return grid
    region = window(lines)
    if region is None:
        return LatLonGrid.equiangular(180, 360)
    step = min(max(radius_km / KM_PER_DEGREE / POINTS_PER_RADIUS, FINEST_DEG), 1.0)
    rows, columns = (step * np.arange(int(size / step) + 1) for size in (region.north - region.south, region.width))
    return LatLonGrid(np.asarray(region.south + rows, np.float64), np.asarray(region.west + columns, np.float64))


class _Panel(MapPanel):
    """A map with tracks."""

    def tracks(self, lines: Sequence[Line], mean: Line | None, reference: Line | None) -> None:
        """Draw members thin, their mean and the reference thick."""
        for line in lines:
            self._track(line, MEMBER, 0.8, 6, alpha=0.6 if len(lines) > 1 else 1.0)
        if mean is not None:
            self._track(mean, MEAN, 2.0, 22)
        if reference is not None and reference.lat.size:
            self._track(reference, REFERENCE, 2.0, 22)

    def _track(self, line: Line, colour: str, width: float, size: float, alpha: float = 1.0) -> None:
        lon = (line.lon - self.frame.west) % 360.0 + self.frame.west
        breaks = np.flatnonzero(np.abs(np.diff(lon)) > 180.0) + 1
        for part_lon, part_lat in zip(np.split(lon, breaks), np.split(line.lat, breaks), strict=True):
            x, y = self._project(part_lon, part_lat)
            (drawn,) = self.axes.plot(x, y, color=colour, linewidth=width, alpha=alpha, zorder=5)
            drawn.set_clip_path(self._boundary)
        daily = (line.hours % DAY_HOURS == 0) & (lon <= self.frame.east)
        x, y = self._project(lon[daily], line.lat[daily])
        dots = self.axes.scatter(x, y, s=size, color=colour, alpha=alpha, zorder=6)
        dots.set_clip_path(self._boundary)


def _pressures(axes: Any, lines: Sequence[Line], mean: Line | None, reference: Line | None) -> None:
    """Draw central pressure against lead time."""
    for line in lines:
        axes.plot(line.hours / DAY_HOURS, line.pressure, color=MEMBER, linewidth=0.8, alpha=0.6)
    axes.plot([], [], color=MEMBER, linewidth=0.8, label="members")
    if mean is not None:
        axes.plot(mean.hours / DAY_HOURS, mean.pressure, color=MEAN, linewidth=2.0, label="mean (half of them or more)")
    if reference is not None:
        axes.plot(reference.hours / DAY_HOURS, reference.pressure, color=REFERENCE, linewidth=2.0, label=reference.name)
    if not lines:
        axes.text(0.5, 0.5, "no storm found", transform=axes.transAxes, ha="center")
    axes.set_title("central pressure", fontsize=9.5)
    axes.set_xlabel("lead time (days)", fontsize=8)
    axes.set_ylabel("hPa", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.grid(True, linewidth=0.3)
    axes.legend(fontsize=7, loc="best")
