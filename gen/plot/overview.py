"""One figure that shows what a forecast file holds: two maps, spaghetti, and how the spread grows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gen.plot.canvas import MapPanel, colour_bar, new_figure, save
from gen.plot.forecast_view import ForecastView
from gen.plot.maps import ensemble_mean, ensemble_spread, lead_title
from gen.plot.spaghetti import contour_values, draw_bundle, key_lines
from gen.plot.units import display, spread_levels

__all__ = ["draw_overview", "spread_growth"]

Array = NDArray[np.float64]

MAX_LEADS, MAX_MEMBERS = 10, 20
BANDS = (
    ("north of 20 N", 20.0, 90.0, "#0072b2"),
    ("tropics", -20.0, 20.0, "#e69f00"),
    ("south of 20 S", -90.0, -20.0, "#009e73"),
)
WANTED_HOURS = 120


def draw_overview(view: ForecastView, out: Path) -> Path:
    """Draw mean and spread of z500, 2 m temperature with pressure, spaghetti, and spread against lead time.

    What the file lacks is replaced by its first channels.
    """
    lead = int(view.leads[np.argmin(np.abs(view.leads - WANTED_HOURS))])
    height = "z500" if view.has("z500") else view.codes[0]
    second = next((c for c in ("2t", "tp06", *view.codes) if view.has(c) and c != height), height)
    figure = new_figure(11.5, 7.2, f"Ensemble forecast: {view.heading()}", view.warning())
    axes = figure.subplots(2, 2)
    members = view.map(height, lead)
    _mean_and_spread(figure, axes[0, 0], view, height, members, lead)
    _mean(figure, axes[0, 1], view, second, lead)
    if height == "z500":
        last = int(view.leads[-1])
        late = members if last == lead else view.map(height, last)
        values = contour_values(view, ensemble_mean(late))
        draw_bundle(axes[1, 0], view, late, values, f"{display(height).label}, members\n{lead_title(view, last)}")
        keys = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.06), "ncols": 3, "fontsize": 7, "frameon": False}
        axes[1, 0].legend(handles=key_lines(values), **keys)
    else:
        axes[1, 0].set_axis_off()
    if view.members > 1:
        _growth(axes[1, 1], view, height)
    else:
        third = next((c for c in ("tp06", "msl", *view.codes) if view.has(c) and c not in (height, second)), height)
        _mean(figure, axes[1, 1], view, third, lead)
    return save(figure, out)


def spread_growth(view: ForecastView, code: str) -> tuple[Array, dict[str, Array]]:
    """Return lead times in hours and, per latitude band, the area-mean spread (root of the mean variance).

    At most 10 lead times and 20 members are read, so that a large file is shown as quickly as a small one.
    """
    pick = np.unique(np.linspace(0, len(view.leads) - 1, MAX_LEADS).round().astype(int))
    weights = np.cos(np.deg2rad(view.latitude))
    rows = {name: (view.latitude >= south) & (view.latitude <= north) for name, south, north, _ in BANDS}
    curves: dict[str, list[float]] = {name: [] for name, keep in rows.items() if keep.any()}
    for lead in view.leads[pick]:
        variance = view.map(code, int(lead))[:MAX_MEMBERS].var(axis=0, ddof=1)
        known = weights[:, None] * ~np.isnan(variance)  # sea temperature has no spread on land
        for name in curves:
            keep, total = rows[name], known[rows[name]].sum()
            mean = (known * np.nan_to_num(variance))[keep].sum() / total if total else np.nan
            curves[name].append(float(np.sqrt(mean)))
    return view.leads[pick].astype(np.float64), {name: np.asarray(curve) for name, curve in curves.items()}


def _mean_and_spread(figure: Any, axes: Any, view: ForecastView, code: str, members: Array, lead: int) -> None:
    shown = display(code)
    panel = MapPanel(axes, view.latitude, view.longitude)
    mean = ensemble_mean(members)
    if view.members > 1:
        spread = ensemble_spread(members)
        filled = panel.shade(spread, spread_levels(spread), shown.spread_colours, "max")
        lines = panel.contour(mean, shown.levels(mean)[::2], "0.2", 0.7)
        axes.clabel(lines, fontsize=6, fmt="%g")
        text, bar = (
            f"{shown.label}: mean (lines, {shown.units}) and spread (colours)",
            f"spread ({shown.difference_units})",
        )
    else:
        filled = panel.shade(mean, shown.levels(mean), shown.colours)
        text, bar = shown.label, shown.units
    panel.finish(f"{text}\n{lead_title(view, lead)}")
    colour_bar(figure, filled, axes, bar)


def _mean(figure: Any, axes: Any, view: ForecastView, code: str, lead: int) -> None:
    shown = display(code)
    mean = ensemble_mean(view.map(code, lead))
    panel = MapPanel(axes, view.latitude, view.longitude)
    filled = panel.shade(mean, shown.levels(mean), shown.colours, "max" if shown.fixed else "both")
    text = shown.label + (": ensemble mean" if view.members > 1 else "")
    if code == "2t" and view.has("msl"):
        pressure = ensemble_mean(view.map("msl", lead))
        levels = np.arange(4 * np.floor(np.nanmin(pressure) / 4), np.nanmax(pressure) + 4, 8.0)
        axes.clabel(panel.contour(pressure, levels, "0.1", 0.6), fontsize=6, fmt="%g")
        text += " and sea level pressure (hPa)"
    panel.finish(f"{text}\n{lead_title(view, lead)}")
    colour_bar(figure, filled, axes, shown.units)


def _growth(axes: Any, view: ForecastView, code: str) -> None:
    hours, curves = spread_growth(view, code)
    colours = {name: colour for name, _, _, colour in BANDS}
    for name, curve in curves.items():
        axes.plot(hours / 24, curve, "o-", ms=3, color=colours[name], label=name)
    axes.set_xlabel("lead time (days)", fontsize=8)
    axes.set_ylabel(f"spread ({display(code).difference_units})", fontsize=8)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.grid(True, linewidth=0.3)
    axes.tick_params(labelsize=8)
    axes.legend(fontsize=8)
    axes.set_title(f"{display(code).label}: area-mean spread against lead time", fontsize=9.5)
