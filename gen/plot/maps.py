"""Maps of the ensemble mean and of the ensemble spread, a column for each lead time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gen.plot.canvas import MapPanel, aspect, colour_bar, new_figure, save
from gen.plot.forecast_view import ForecastView, stamp
from gen.plot.units import Display, display, spread_levels

__all__ = ["draw_maps", "ensemble_mean", "ensemble_spread", "lead_title"]

Array = NDArray[np.float64]

MAP_INCHES = 4.2


def draw_maps(view: ForecastView, code: str, leads: Sequence[int], out: Path, projection: str | None = None) -> Path:
    """Draw mean (above) and spread (below) of a channel at some lead times; a single member has no spread.

    Levels are those of all lead times together, so that columns can be compared. `projection` names a projection of
    cartopy to use instead of ours.
    """
    shown = display(code)
    fields = [view.map(code, lead) for lead in leads]
    rows: list[tuple[str, list[Array]]] = [("mean", [ensemble_mean(f) for f in fields])]
    if view.members > 1:
        rows.append(("spread", [ensemble_spread(f) for f in fields]))
    height = MAP_INCHES / aspect(view.latitude, view.longitude)
    size = (MAP_INCHES * len(leads) + 0.4, (height + 1.0) * len(rows) + 0.7)
    figure = new_figure(*size, f"{shown.label} ({shown.units})\n{view.heading()}", view.warning())
    axes = figure.subplots(len(rows), len(leads), squeeze=False)
    for line, (kind, maps) in zip(axes, rows, strict=True):
        _row(figure, line, view, shown, kind, maps, leads, projection)
    return save(figure, out)


def ensemble_mean(fields: Array) -> Array:
    """Return the mean over members [members, ...]."""
    return np.asarray(fields.mean(axis=0))


def ensemble_spread(fields: Array) -> Array:
    """Return the standard deviation over members, with M - 1 in the denominator."""
    return np.asarray(fields.std(axis=0, ddof=1))


def lead_title(view: ForecastView, lead: int) -> str:
    """Return lead time and valid time of a panel."""
    return f"+{lead} h, valid {stamp(view.valid(lead))}"


def _row(
    figure: Any,
    axes: Sequence[Any],
    view: ForecastView,
    shown: Display,
    kind: str,
    maps: Sequence[Array],
    leads: Sequence[int],
    projection: str | None,
) -> None:
    """Draw one row of maps with a common colour bar."""
    every = np.stack(maps)
    levels, colours, extend = (
        (shown.levels(every), shown.colours, "max" if shown.fixed else "both")
        if kind == "mean"
        else (spread_levels(every), shown.spread_colours, "max")
    )
    for ax, values, lead in zip(axes, maps, leads, strict=True):
        panel = MapPanel(ax, view.latitude, view.longitude, projection=projection)
        filled = panel.shade(values, levels, colours, extend)
        panel.finish(f"{kind}, {lead_title(view, lead)}")
    units = shown.units if kind == "mean" else shown.difference_units
    label = f"ensemble {kind} ({units})" + ("; grey: no value" if np.isnan(every).any() else "")
    colour_bar(figure, filled, list(axes), label, shrink=min(0.9, 2.4 / len(maps)))
