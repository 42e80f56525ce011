"""A meteogram: the distribution of the ensemble at one place against time, as boxes of percentiles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gen.grid import haversine
from gen.plot.canvas import new_figure, save
from gen.plot.forecast_view import ForecastView
from gen.plot.units import display

__all__ = ["PERCENTILES", "draw_meteogram", "percentiles"]

Array = NDArray[np.float64]

PERCENTILES = (0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 100.0)
PANELS = {"2t": "#d55e00", "msl": "#009e73", "wind": "#cc79a7", "tp06": "#0072b2"}
COLOURS = (*PANELS.values(), "#56b4e9", "#e69f00")  # Okabe & Ito 2008
TITLES = {
    "2t": "2 metre temperature (°C)",
    "msl": "mean sea level pressure (hPa)",
    "wind": "10 metre wind speed (m/s)",
    "tp06": "precipitation (mm / 6 h)",
}


def draw_meteogram(view: ForecastView, lat: float, lon: float, out: Path, codes: Sequence[str] | None = None) -> Path:
    """Draw channels at the nearest grid point, one panel each.

    Args:
        view: the forecast.
        lat: latitude of the place, degrees.
        lon: its longitude, degrees.
        out: file to write.
        codes: channels (default: temperature, pressure, wind speed and precipitation as far as they are there).

    Raises:
        ValueError: the place lies outside the file, or the file has nothing to show there.
    """
    row, column = view.nearest(lat, lon)
    panels = [(code, COLOURS[i % len(COLOURS)]) for i, code in enumerate(codes)] if codes else _usual(view)
    if not panels:
        raise ValueError(f"{view.path} has none of 2t, msl, 10u with 10v, tp06; name others with --variables")
    at_lat, at_lon = float(view.grid.latitude[row]), float(view.grid.longitude[column])
    series = {name: _values(view, name, row, column) for name, _ in panels}
    if void := [name for name, values in series.items() if np.isnan(values).all()]:
        raise ValueError(f"{void[0]} has no values at grid point {at_lat:g},{at_lon:g}, the nearest to {lat:g},{lon:g}")
    away = float(haversine(lat, lon, at_lat, at_lon))
    place = f"{lat:.2f}, {lon:.2f} - grid point {at_lat:.2f}, {at_lon:.2f}, {away:.0f} km away"
    figure = new_figure(10, 1.2 + 1.9 * len(panels), f"meteogram for {place}\n{view.heading()}", view.warning())
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    hours = view.leads.astype(np.float64)
    for ax, (name, colour) in zip(axes, panels, strict=True):
        boxes(ax, hours, series[name], colour)
        ax.set_title(_title(name), fontsize=9, loc="left")
        if name in ("wind", "tp06"):
            ax.set_ylim(bottom=0)
    _time_axis(axes[-1], view)
    axes[0].legend(loc="upper right", fontsize=7, ncols=4, bbox_to_anchor=(1.0, 1.22), frameon=False)
    return save(figure, out)


def percentiles(values: Array) -> Array:
    """Return [percentile, lead] of values [members, leads], linear between members as numpy does."""
    return np.asarray(np.percentile(values, PERCENTILES, axis=0))


def boxes(axes: Any, hours: Array, values: Array, colour: str) -> None:
    """Draw for every lead time the range, 10-90 %, 25-75 % and the median."""
    low, p10, p25, p50, p75, p90, high = percentiles(values)
    step = float(np.min(np.diff(hours))) if hours.size > 1 else 6.0
    axes.vlines(hours, low, high, color="0.4", linewidth=0.7, label="range")
    axes.bar(hours, p90 - p10, 0.4 * step, bottom=p10, color=colour, alpha=0.35, label="10-90 %")
    axes.bar(hours, p75 - p25, 0.75 * step, bottom=p25, color=colour, alpha=0.75, label="25-75 %")
    axes.hlines(p50, hours - 0.375 * step, hours + 0.375 * step, color="black", linewidth=1.3, label="median")
    axes.grid(True, linewidth=0.3, color="0.8")
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)


def _usual(view: ForecastView) -> list[tuple[str, str]]:
    """Return the panels of an unspecified meteogram, with their colours."""
    there = {"wind": view.has("10u") and view.has("10v")}
    return [(name, colour) for name, colour in PANELS.items() if there.get(name, view.has(name))]


def _title(name: str) -> str:
    return TITLES.get(name) or f"{display(name).label} ({display(name).units})"


def _values(view: ForecastView, name: str, row: int, column: int) -> Array:
    if name == "wind":
        return np.hypot(view.series("10u", row, column), view.series("10v", row, column))
    values = view.series(name, row, column)
    return np.maximum(values, 0.0) if display(name).fixed else values


def _time_axis(axes: Any, view: ForecastView) -> None:
    """Mark days at 00 UTC and label them with date and lead time."""
    first, last = int(view.leads[0]), int(view.leads[-1])
    start = int(view.init.astype("datetime64[h]").astype(np.int64)) % 24
    every = 24 * max(1, round((last - first) / 24 / 11))
    ticks = [h for h in range(-start, last + every, every) if h >= min(first, 0) - 6]
    names = [str(view.valid(h).astype("datetime64[D]"))[5:] + f"\n+{h} h" for h in ticks]
    axes.set_xticks(ticks, names, fontsize=8)
    margin = 6.0
    axes.set_xlim(min(first, ticks[0] if ticks[0] >= 0 else first) - margin, last + margin)
    axes.set_xlabel("00 UTC of the day (month-day), and lead time", fontsize=8)
