"""Figures of an evaluation: CRPS against lead time, spread and skill, rank histograms, spectra.

They draw the dictionary that `gen.metrics.summary.summarise` returns, or the JSON file written from it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gen.plot.canvas import new_figure, save
from gen.plot.spectra import draw_spectra
from gen.plot.units import display

__all__ = ["plot_scores"]

Array = NDArray[np.float64]

STYLES = {  # Okabe & Ito 2008
    "truth": ("black", "truth"),
    "model": ("#d55e00", "model"),
    "reference": ("#0072b2", "perfect-model ensemble"),
    "climatology": ("#009e73", "climatology"),
    "persistence": ("#cc79a7", "persistence"),
}
COLUMNS = 3
CALIBRATED = (0.85, 1.15)
HISTOGRAM_HOURS = (24, 120, 240)
SPECTRUM_HOURS = 120


def plot_scores(scores: Mapping[str, Any] | Path | str, folder: Path | str) -> list[Path]:
    """Draw every figure that the scores allow and return the files written.

    Args:
        scores: result of `summarise`, or the path of its JSON file.
        folder: where to write; made when it is missing.
    """
    found: Mapping[str, Any] = json.loads(Path(scores).read_text()) if isinstance(scores, str | Path) else scores
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    written = [_crps(found, target / "crps.png")]
    if "ssr" in found["scores"].get("model", {}):
        written.append(_spread_skill(found, target / "spread_skill.png"))
    if found.get("rank_histogram"):
        written.append(_rank_histograms(found, target / "rank_histogram.png"))
    if found.get("spectra"):
        written.append(_spectra(found, target / "spectra.png"))
    return written


def _crps(scores: Mapping[str, Any], path: Path) -> Path:
    def draw(axes: Any, code: str) -> None:
        for system, (colour, label) in STYLES.items():
            if code in scores["scores"].get(system, {}).get("crps", {}):
                _curve(axes, scores, scores["scores"][system]["crps"][code], code, colour, label)
        axes.set_ylim(bottom=0)
        axes.set_ylabel(display(code).difference_units, fontsize=8)

    return _by_channel(scores, path, f"fair CRPS against lead time (less is better)\n{_setup(scores)}", draw)


def _spread_skill(scores: Mapping[str, Any], path: Path) -> Path:
    def draw(axes: Any, code: str) -> None:
        axes.axhspan(*CALIBRATED, color="0.9", zorder=0)
        axes.axhline(1.0, color="0.3", linewidth=0.8)
        for system in ("model", "reference"):
            values = scores["scores"].get(system, {}).get("ssr", {}).get(code)
            if values:
                _curve(axes, scores, values, None, *STYLES[system])
        axes.set_ylim(0, max(1.5, 1.05 * axes.get_ylim()[1]))

    return _by_channel(scores, path, f"spread-skill ratio (1 is calibrated; grey 0.85 to 1.15)\n{_setup(scores)}", draw)


def _rank_histograms(scores: Mapping[str, Any], path: Path) -> Path:
    system = "model" if "model" in scores["rank_histogram"] else next(iter(scores["rank_histogram"]))
    hours = np.asarray(scores["leads_hours"])
    picks = sorted({int(np.argmin(np.abs(hours - h))) for h in HISTOGRAM_HOURS})
    shades = ("#56b4e9", "#0072b2", "black")

    def draw(axes: Any, code: str) -> None:
        for k, colour in zip(picks, shades, strict=False):
            share = _array(scores["rank_histogram"][system][code][k])
            edges = np.arange(share.size + 1) - 0.5
            axes.stairs(share * share.size, edges, color=colour, linewidth=1.3, label=f"{hours[k] / 24:g} days")
        axes.axhline(1.0, color="0.3", linewidth=0.8)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("frequency / uniform", fontsize=8)

    name = STYLES.get(system, ("", system))[1]
    title = f"rank histograms of the {name} (flat is calibrated)\n{_setup(scores, bands=False)}"
    return _by_channel(scores, path, title, draw, "members below the truth")


def _spectra(scores: Mapping[str, Any], path: Path) -> Path:
    codes, hours = list(scores["spectra"]), np.asarray(scores["leads_hours"])
    k = int(np.argmin(np.abs(hours - SPECTRUM_HOURS)))
    columns = len(codes)
    title = f"power against total wavenumber at {hours[k] / 24:g} days, and ratio to the truth (grey: within 1.5)"
    figure = new_figure(2.9 * columns + 0.6, 5.4, f"{title}\n{_setup(scores, bands=False)}")
    axes = figure.subplots(2, columns, squeeze=False, sharex=True, height_ratios=(2, 1))
    for i, code in enumerate(codes):
        power = {s: scores["spectra"][code][s][k] for s in STYLES if s in scores["spectra"][code]}
        draw_spectra(axes[0, i], axes[1, i], power, STYLES)
        axes[0, i].set_title(code, fontsize=10)
        axes[1, i].set_xlabel("wavenumber", fontsize=8)
    axes[0, 0].legend(fontsize=7)
    return save(figure, path)


def _by_channel(
    scores: Mapping[str, Any],
    path: Path,
    title: str,
    draw: Callable[[Any, str], None],
    xlabel: str = "lead time (days)",
) -> Path:
    """Draw one panel per channel with a common legend."""
    codes = list(next(iter(scores["scores"].values()))["crps"])
    columns = min(COLUMNS, len(codes))
    rows = -(-len(codes) // columns)
    figure = new_figure(3.8 * columns, 2.7 * rows + 1.0, title)
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax, code in zip(axes.flat, codes, strict=False):
        draw(ax, code)
        ax.set_title(f"{code}: {display(code).label}", fontsize=9)
        ax.grid(True, linewidth=0.3)
        ax.tick_params(labelsize=7)
        ax.set_xlabel(xlabel, fontsize=8)
    for ax in axes.flat[len(codes) :]:
        ax.set_axis_off()
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8, frameon=False)
    return save(figure, path)


def _curve(
    axes: Any, scores: Mapping[str, Any], values: Mapping[str, Any], code: str | None, colour: str, label: str
) -> None:
    """Draw values with their interval; `code` scales them to the units shown."""
    days = np.asarray(scores["leads_hours"]) / 24
    scale = 1.0 if code is None else abs(display(code).scale)
    axes.plot(days, scale * _array(values["value"]), "o-", markersize=2.5, color=colour, label=label)
    low, high = _array(values["low"]), _array(values["high"])
    axes.fill_between(days, scale * low, scale * high, color=colour, alpha=0.2, linewidth=0)


def _setup(scores: Mapping[str, Any], bands: bool = True) -> str:
    setup = scores["setup"]
    members = ", ".join(f"{name} {count}" for name, count in setup.get("members", {}).items())
    level = setup.get("interval", {}).get("level", 0.95)
    text = f"{setup['start_dates']} start dates {setup['first']} to {setup['last']}"
    text += f"; members: {members}" if members else ""
    return text + (f"; bands: {level:.0%} bootstrap intervals" if bands else "")


def _array(values: Sequence[float | None]) -> Array:
    return np.asarray([np.nan if v is None else v for v in values], np.float64)
