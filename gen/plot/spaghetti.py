"""Spaghetti: the same contours of every member in one map, so that disagreement shows as frayed bundles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gen.plot.canvas import MapPanel, aspect, new_figure, save
from gen.plot.forecast_view import ForecastView
from gen.plot.maps import MAP_INCHES, ensemble_mean, lead_title
from gen.plot.units import display, round_levels

__all__ = ["contour_step", "contour_values", "draw_bundle", "draw_spaghetti", "key_lines"]

COLOURS = ("#0072b2", "#d55e00", "#009e73")  # Okabe & Ito 2008: distinct for every kind of colour vision
SHARES = (0.8, 0.5, 0.2)
MAX_MEMBERS = 50
STEP_DAM = 6.0


def draw_spaghetti(view: ForecastView, leads: Sequence[int], out: Path, code: str = "z500") -> Path:
    """Draw three contours of every member (at most 50), north of 20 N, at some lead times."""
    shown = display(code)
    height = MAP_INCHES / aspect(view.latitude, view.longitude, "north")
    drawn = "every member" if view.members <= MAX_MEMBERS else f"the first {MAX_MEMBERS} members"
    heading = f"{shown.label} ({shown.units}): {drawn} thin, ensemble mean black\n{view.heading()}"
    figure = new_figure(MAP_INCHES * len(leads) + 0.3, height + 1.25, heading, view.warning())
    axes = figure.subplots(1, len(leads), squeeze=False)[0]
    fields = [view.map(code, lead) for lead in leads]
    values = contour_values(view, np.stack([ensemble_mean(f) for f in fields]).mean(axis=0), contour_step(code))
    for ax, members, lead in zip(axes, fields, leads, strict=True):
        draw_bundle(ax, view, members, values, lead_title(view, lead))
    figure.legend(handles=key_lines(values, shown.units), loc="outside lower right", fontsize=8, ncols=3, frameon=False)
    return save(figure, out)


def contour_step(code: str) -> float | None:
    """Return the spacing of contours that is customary for a channel: 6 dam for heights, else whatever is round."""
    return STEP_DAM if display(code).units == "dam" else None


def contour_values(view: ForecastView, mean: NDArray[np.float64], step: float | None = STEP_DAM) -> list[float]:
    """Return three multiples of `step` that enclose a fifth, a half and four fifths of the known area north of 20 N.

    Without a step a twentieth of the range is taken, rounded to 1, 2 or 5 times a power of ten.
    """
    rows = view.latitude >= 20 if view.grid.is_global else np.ones(view.latitude.size, bool)
    weights = np.broadcast_to(np.cos(np.deg2rad(view.latitude[rows]))[:, None], mean[rows].shape).ravel()
    known = np.flatnonzero(~np.isnan(mean[rows].ravel()))
    if not known.size:
        raise ValueError(f"{view.path} has no values where spaghetti is drawn")
    field, weights = mean[rows].ravel()[known], weights[known]
    order = np.argsort(field)
    share = np.cumsum(weights[order]) / weights.sum()
    found = [float(field[order][np.searchsorted(share, s)]) for s in SHARES]
    if step is None:
        step = float(np.diff(round_levels(float(field.min()), float(field.max()))[:2])[0])
    return sorted({step * round(v / step) for v in found})


def draw_bundle(
    axes: Any, view: ForecastView, members: NDArray[np.float64], values: Sequence[float], title: str
) -> MapPanel:
    """Draw the contours `values` of `members` [members, rows, columns] in one map."""
    panel = MapPanel(axes, view.latitude, view.longitude, "north")
    for value, colour in zip(values, COLOURS, strict=False):
        for member in members[:MAX_MEMBERS]:
            panel.contour(member, [value], colour, 0.7, alpha=0.7)
        if len(members) > 1:
            panel.contour(ensemble_mean(members), [value], "black", 1.1)
    panel.finish(title)
    return panel


def key_lines(values: Sequence[float], units: str = "dam") -> list[Any]:
    """Return the entries of the legend."""
    from matplotlib.lines import Line2D

    return [Line2D([], [], color=c, lw=1.5, label=f"{v:g} {units}") for v, c in zip(values, COLOURS, strict=False)]
