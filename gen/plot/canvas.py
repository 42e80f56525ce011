"""Maps on plain matplotlib axes: the field is projected point by point, so contours and coast share one coordinate.

The world is drawn in the Equal Earth projection, a hemisphere in the polar stereographic one, a region of middle or
high latitudes in Lambert's conic one and any other region in longitude and latitude. The map is cut at a cell edge near
the date line, and the field is continued to that edge from both sides and to the poles: no seam and no hole shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gen.plot.outline import coastline
from gen.plot.projections import Project, by_cartopy, conic, equal_earth, plane, stereographic

__all__ = ["MapPanel", "View", "aspect", "colour_bar", "new_figure", "save"]

Array = NDArray[np.float64]
View = Literal["globe", "north", "south"]

INSET_DEG = 1e-3  # keeps both edges of the map on their own side of the date line
DENSE_DEG = 1.0
DISC_LATITUDE = 20.0
WIDEST_CONE_DEG = 150.0
NEAR_POLE_DEG = 6.0
DPI = 110
MOST_TICKS = 11
LINE_COLOUR, COAST_COLOUR, NO_DATA = "0.25", "0.15", "0.88"


@dataclass(frozen=True)
class Frame:
    """The window of a map: longitudes west..east and latitudes south..north, and whether the longitudes close."""

    west: float
    east: float
    south: float
    north: float
    closed: bool

    @property
    def centre(self) -> float:
        """Longitude of the middle."""
        return 0.5 * (self.west + self.east)

    def boundary(self) -> Array:
        """Return the closed outline of the window, [n, 2] of (longitude, latitude)."""
        lon = np.linspace(self.west, self.east, 1 + int((self.east - self.west) / DENSE_DEG))
        lat = np.linspace(self.south, self.north, 1 + int((self.north - self.south) / DENSE_DEG))
        south, north = np.full_like(lon, self.south), np.full_like(lon, self.north)
        west, east = np.full_like(lat, self.west), np.full_like(lat, self.east)
        sides = [(lon, south), (east, lat), (lon[::-1], north), (west, lat[::-1])]
        return np.concatenate([np.stack(side, -1) for side in sides])


class MapPanel:
    """One map in a figure.

    Args:
        axes: matplotlib axes.
        latitude: rows of the fields, degrees ascending; longitude: their columns, degrees ascending.
        view: the whole area ("globe"), or one hemisphere as a disc; a regional field is always drawn whole.
        projection: name of a cartopy projection to use instead of ours.
    """

    def __init__(
        self, axes: Any, latitude: Array, longitude: Array, view: View = "globe", projection: str | None = None
    ) -> None:
        self.axes = axes
        self._grid = _Continued(latitude, longitude)
        frame = self._grid.frame
        self.disc = frame.closed and view != "globe"
        if self.disc:
            low, high = (DISC_LATITUDE, 90.0) if view == "north" else (-90.0, -DISC_LATITUDE)
            frame = Frame(frame.west, frame.east, low, high, closed=True)
        self.frame = frame
        self._project = _projection(frame, view if self.disc else None, projection)
        self.projected = self._project is not plane
        self._boundary = self._clip_path(view)
        self._graticule()

    def shade(self, values: Array, levels: Array, colours: str, extend: Any = "both") -> Any:
        """Fill between levels; `values` are [rows, columns], NaN (no data, such as sea temperature on land) is grey."""
        import matplotlib
        from matplotlib.colors import BoundaryNorm, ListedColormap

        colour_map: Any = matplotlib.colormaps[colours]
        if colours.startswith("YlOrBr"):  # without its dark end, on which coast and contours would drown
            colour_map = ListedColormap(colour_map(np.linspace(0, 0.75, 256)))
        norm = BoundaryNorm(levels, colour_map.N, extend=extend)  # equal steps of colour, also for unequal levels
        x, y, field = self._place(values)
        if np.isnan(field).any():
            self._backdrop()
        contours = self.axes.contourf(x, y, field, levels=levels, cmap=colour_map, norm=norm, extend=extend)
        contours.set_clip_path(self._boundary)
        return contours

    def contour(self, values: Array, levels: Sequence[float] | Array, colour: Any, width: float, **more: Any) -> Any:
        """Draw lines of equal value."""
        style = {"colors": [colour], "linewidths": width, **more}
        contours = self.axes.contour(*self._place(values), levels=np.atleast_1d(levels), **style)
        contours.set_clip_path(self._boundary)
        return contours

    def finish(self, title: str) -> None:
        """Draw the coast and the rim, and write the title."""
        self._lines(coastline(self.frame.west), COAST_COLOUR, 0.6, zorder=3)
        self.axes.add_patch(self._boundary)
        self.axes.set_title(title, fontsize=9.5)

    def _backdrop(self) -> None:
        """Paint the window in the colour of missing values."""
        from matplotlib.patches import Polygon

        self.axes.add_patch(
            Polygon(self._boundary.get_xy(), closed=True, zorder=0, facecolor=NO_DATA, edgecolor="none")
        )

    def _place(self, values: Array) -> tuple[Array, Array, Array]:
        lon, lat, field = self._grid.continued(values)
        keep = (lat >= self.frame.south - 10) & (lat <= self.frame.north + 10) if self.disc else slice(None)
        x, y = self._project(*np.meshgrid(lon, lat[keep]))
        return x, y, field[keep]

    def _lines(self, lines: Sequence[Array], colour: str, width: float, zorder: float) -> None:
        from matplotlib.collections import LineCollection

        rim = INSET_DEG if self.frame.closed else -360.0  # on the rim itself a line might come out on the other side
        low, high = self.frame.west + rim, self.frame.east - rim
        near = [(np.clip(line[:, 0], low, high), line[:, 1]) for line in lines if self._inside(line)]
        kept = [np.stack(self._project(lon, lat), -1) for lon, lat in near]
        drawn = LineCollection(kept, colors=colour, linewidths=width, zorder=zorder)
        self.axes.add_collection(drawn, autolim=False)
        drawn.set_clip_path(self._boundary)

    def _inside(self, line: Array) -> bool:
        """Return whether a line is worth projecting: some of it lies near the window."""
        lat_ok = (line[:, 1] >= self.frame.south - 10) & (line[:, 1] <= self.frame.north + 10)
        lon_ok = (line[:, 0] >= self.frame.west - 10) & (line[:, 0] <= self.frame.east + 10)
        return bool((lat_ok & lon_ok).any())

    def _graticule(self) -> None:
        f = self.frame
        step = 30.0 if f.closed else float(np.clip(np.round((f.east - f.west) / 30.0) * 5.0, 5.0, 30.0))
        meridians = np.arange(np.ceil(f.west / step) * step, f.east, step)
        parallels = np.arange(np.ceil(f.south / step) * step, min(f.north, 89.0) + 1e-6, step)
        lat, lon = np.linspace(f.south, f.north, 91), np.linspace(f.west + INSET_DEG, f.east - INSET_DEG, 181)
        lines = [np.stack([np.full_like(lat, m), lat], -1) for m in meridians]
        lines += [np.stack([lon, np.full_like(lon, p)], -1) for p in parallels]
        self._lines(lines, "0.5", 0.25, zorder=2.5)
        if not self.projected:
            self.axes.set_xticks(meridians, [_degrees(m, "EW") for m in meridians], fontsize=7)
            self.axes.set_yticks(parallels, [_degrees(p, "NS") for p in parallels], fontsize=7)

    def _clip_path(self, view: View) -> Any:
        """Fit the axes to the window and return its rim as a patch."""
        from matplotlib.patches import Polygon

        points = _rim(self.frame, self._project, view if self.disc else None)
        if not np.isfinite(points).all():
            raise ValueError("the projection cannot show the whole map; Mollweide, Robinson and PlateCarree can")
        low, high = points.min(axis=0), points.max(axis=0)
        margin = 0.004 * (high - low)
        self.axes.set_xlim(low[0] - margin[0], high[0] + margin[0])
        self.axes.set_ylim(low[1] - margin[1], high[1] + margin[1])
        self.axes.set_aspect("equal")
        if self.projected:
            self.axes.set_axis_off()
        style = {"facecolor": "none", "edgecolor": LINE_COLOUR, "linewidth": 0.8}
        return Polygon(points, closed=True, zorder=4, transform=self.axes.transData, **style)


class _Continued:
    """Columns rolled to a window that ends at a cell edge, fields continued to that edge and to the poles."""

    def __init__(self, latitude: Array, longitude: Array) -> None:
        step = float(np.median(np.diff(longitude)))
        self.closed = bool(abs(longitude[-1] - longitude[0] + step - 360.0) < 0.5 * step)
        self._order = np.arange(longitude.size)
        self._poles = tuple(int(1e-6 < gap < NEAR_POLE_DEG) for gap in (latitude[0] + 90.0, 90.0 - latitude[-1]))
        lat = [latitude]
        if self.closed:
            edge = longitude[0] - 0.5 * step
            west = edge + step * np.round((-180.0 - edge) / step)
            moved = (longitude - west) % 360.0 + west
            self._order = np.argsort(moved)
            self.lon = np.concatenate([[west + INSET_DEG], moved[self._order], [west + 360.0 - INSET_DEG]])
            lat = [np.array([-90.0])[: self._poles[0]], latitude, np.array([90.0])[: self._poles[1]]]
            self.frame = Frame(west, west + 360.0, -90.0, 90.0, closed=True)
        else:
            self.lon = longitude
            self.frame = Frame(longitude[0], longitude[-1], latitude[0], latitude[-1], closed=False)
        self.lat = np.concatenate(lat)

    def continued(self, values: Array) -> tuple[Array, Array, Array]:
        """Return longitudes, latitudes and the field on them."""
        field = np.asarray(values, np.float64)[:, self._order]
        if not self.closed:
            return self.lon, self.lat, field
        seam = _known_mean(field[:, [0, -1]], axis=1)[:, None]
        field = np.concatenate([seam, field, seam], axis=1)
        rows = [np.full((1, field.shape[1]), _known_mean(row[1:-1], axis=0)) for row in (field[0], field[-1])]
        parts = [rows[0][: self._poles[0]], field, rows[1][: self._poles[1]]]
        return self.lon, self.lat, np.concatenate(parts)


def _known_mean(values: Array, axis: int) -> Array:
    """Return the mean of what is not NaN; NaN where nothing is known."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, values, 0.0).sum(axis=axis) / known.sum(axis=axis))


def aspect(latitude: Array, longitude: Array, view: View = "globe") -> float:
    """Return width / height of the map of such a grid."""
    frame = _Continued(latitude, longitude).frame
    hemisphere = view if frame.closed and view != "globe" else None
    if hemisphere is not None:
        return 1.0
    width, height = np.ptp(_rim(frame, _projection(frame, None, None), None), axis=0)
    return float(np.clip(width / height, 0.4, 4.0))


def new_figure(width: float, height: float, heading: str, warning: str = "") -> Any:
    """Return an empty figure (inches) with a heading, and a warning at its foot."""
    from matplotlib.figure import Figure

    lines = _wrapped(heading, 11.0 * width)
    figure = Figure(figsize=(width, height + 0.18 * lines.count("\n")), dpi=DPI, layout="constrained")
    figure.suptitle(lines, fontsize=11)
    if warning:
        figure.supxlabel(_wrapped(warning, 15.0 * width), fontsize=8, color="#a03000")
    return figure


def colour_bar(figure: Any, filled: Any, axes: Any, label: str, shrink: float = 0.75) -> Any:
    """Put a horizontal colour bar below some axes, with at most eleven numbers."""
    bar = figure.colorbar(filled, ax=axes, orientation="horizontal", shrink=shrink, aspect=42, pad=0.02)
    levels = np.asarray(filled.levels)
    every = -(-len(levels) // MOST_TICKS)
    phase = -round(levels[0] / (levels[1] - levels[0])) % every  # so that the numbers are round multiples
    bar.set_ticks(levels[phase::every])
    bar.ax.xaxis.set_major_formatter("{x:g}")
    bar.ax.minorticks_off()
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7.5)
    return bar


def save(figure: Any, path: Path) -> Path:
    """Write the figure as PNG and return its path."""
    figure.savefig(path, metadata={"Software": "gen-earth", "Description": figure.get_suptitle()})
    return path


def _projection(frame: Frame, hemisphere: View | None, name: str | None) -> Project:
    """Choose the projection of a window."""
    if name is not None:
        return by_cartopy(name, frame.centre)
    if hemisphere is not None:
        return stereographic(hemisphere == "north")
    if frame.closed:
        return equal_earth(frame.centre)
    if frame.south * frame.north > 0 and frame.east - frame.west < WIDEST_CONE_DEG:
        sixth = (frame.north - frame.south) / 6
        return conic(frame.centre, frame.south + sixth, frame.north - sixth)
    return plane


def _rim(frame: Frame, project: Project, hemisphere: View | None) -> Array:
    """Return the projected outline of a window, or the circle of latitude that bounds a disc."""
    rim = frame.boundary()
    if hemisphere is not None:
        edge = DISC_LATITUDE if hemisphere == "north" else -DISC_LATITUDE
        rim = np.stack([np.linspace(frame.west, frame.east, 361), np.full(361, edge)], -1)
    inset = np.clip(rim[:, 0], frame.west + INSET_DEG, frame.east - INSET_DEG)
    return np.stack(project(inset, rim[:, 1]), -1)


def _wrapped(text: str, characters: float) -> str:
    from textwrap import wrap

    return "\n".join(part for line in text.split("\n") for part in wrap(line, max(20, int(characters))) or [""])


def _degrees(value: float, letters: str) -> str:
    shown = (value + 180.0) % 360.0 - 180.0 if letters == "EW" else value
    return f"{abs(shown):g}°{'' if shown in (0.0, -180.0) else letters[0 if shown > 0 else 1]}"
