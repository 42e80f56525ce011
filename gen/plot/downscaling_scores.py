"""Figures of an evaluation of fine rain: spectra, rank histograms, quantiles and the headline scores by factor.

They draw the dictionary that `downscaling.score_summary.summarise` returns, or the JSON file written from it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gen.plot.canvas import new_figure, save

__all__ = ["plot_downscaling_scores"]

Array = NDArray[np.float64]

STYLES = {  # Okabe & Ito 2008; the model last, on top
    "nearest": ("#999999", ":"),
    "bilinear": ("#e69f00", "--"),
    "bilinear-conserved": ("#cc79a7", "--"),
    "quantile-mapping": ("#009e73", "--"),
    "rainfarm": ("#56b4e9", "-"),
    "rainfarm-fused": ("#0072b2", "-"),
    "model": ("#d55e00", "-"),
}
HEADLINE = (  # score, title, factor, target band
    ("crps", "fair CRPS (mm/h)", 1.0, None),
    ("spread_skill", "spread / skill", 1.0, (0.85, 1.15)),
    ("wet_error", "wet-fraction error (points)", 100.0, (0.0, 0.0)),
    ("spectral_distance", "spectral distance (dB)", 1.0, (0.0, 2.0)),
    ("q99.9_error", "error of the 99.9 % quantile (%)", 100.0, (-10.0, 10.0)),
)
LEGEND_INCHES = 1.7  # of a column of the legend
LEAST_POWER = 1e-7  # of the largest of the truth: below it spectra are not shown


def plot_downscaling_scores(scores: Mapping[str, Any] | Path | str, folder: Path | str) -> list[Path]:
    """Draw every figure that the scores allow and return the files written.

    Args:
        scores: result of `summarise`, or the path of its JSON file.
        folder: where to write; made when it is missing.
    """
    found: Mapping[str, Any] = json.loads(Path(scores).read_text()) if isinstance(scores, str | Path) else scores
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    groups = [g for g in found["groups"] if g["region"] is None]
    regions = [g for g in found["groups"] if g["region"] is not None]
    return [
        *([_regions(regions, target / "regions.png")] if regions else []),
        _spectra(groups, target / "spectra.png"),
        _ranks(groups, target / "rank_histogram.png"),
        _quantiles(groups, found["probabilities"], target / "quantiles.png"),
        _headline(groups, target / "scores.png"),
    ]


def _spectra(groups: Sequence[Mapping[str, Any]], path: Path) -> Path:
    figure = new_figure(3.6 * len(groups), 5.6, "radially averaged power, and ratio to the truth (grey: within 2 dB)")
    axes = figure.subplots(2, len(groups), squeeze=False, sharex="col", sharey="row", height_ratios=(2, 1))
    least = []
    for top, bottom, group in zip(axes[0], axes[1], groups, strict=True):
        truth = _array(next(iter(group["systems"].values()))["truth_spectrum"])
        for name, system in _systems(group):
            x, power = _array(system["wavelength_km"]), _array(system["spectrum"])
            colour, line = STYLES.get(name, ("0.3", "-"))
            top.loglog(x, power, line, color=colour, linewidth=1.3, label=name)
            with np.errstate(divide="ignore", invalid="ignore"):
                bottom.plot(x, 10 * np.log10(power / truth), line, color=colour, linewidth=1.3)
        top.loglog(x, truth, color="black", linewidth=1.6, label="truth", zorder=5)
        least.append(max(0.1 * truth.min(), LEAST_POWER * truth.max()))
        top.set_title(_title(group), fontsize=10)
        bottom.axhspan(-2, 2, color="0.9", zorder=0)
        bottom.set_ylim(-12, 6)
        bottom.invert_xaxis()
        bottom.set_xlabel("wavelength (km)", fontsize=8)
        for ax in (top, bottom):
            ax.tick_params(labelsize=7)
            ax.grid(True, which="major", linewidth=0.3)
    axes[0, 0].set_ylim(bottom=min(least))
    axes[0, 0].set_ylabel("power ((mm/h)²)", fontsize=8)
    axes[1, 0].set_ylabel("ratio to the truth (dB)", fontsize=8)
    return _finished(figure, axes[0, 0], path)


def _ranks(groups: Sequence[Mapping[str, Any]], path: Path) -> Path:
    title = "rank histograms where the truth or a member is wet (flat is calibrated)"
    figure = new_figure(max(3.6 * len(groups), 5.0), 3.6, title)
    axes = figure.subplots(1, len(groups), squeeze=False, sharey=True)[0]
    for ax, group in zip(axes, groups, strict=True):
        for name, system in _systems(group):
            share = _array(system["wet_rank"])
            if share.size > 2:
                place = (np.arange(share.size) + 0.5) / share.size
                ax.plot(place, share * share.size, "-", color=STYLES.get(name, ("0.3",))[0], linewidth=1.4, label=name)
        ax.axhline(1.0, color="0.3", linewidth=0.8)
        ax.set_title(_title(group), fontsize=10)
        ax.set_xlabel("rank of the truth, as a share", fontsize=8)
        ax.tick_params(labelsize=7)
    axes[0].set_ylim(bottom=0)  # of all, once all are drawn: a limit ends the scaling
    axes[0].set_ylabel("frequency / uniform", fontsize=8)
    return _finished(figure, axes[0], path)


def _quantiles(groups: Sequence[Mapping[str, Any]], probabilities: Sequence[float], path: Path) -> Path:
    figure = new_figure(
        max(3.6 * len(groups), 5.0), 3.8, "quantiles of all rates over those of the truth (grey: within 10 %)"
    )
    axes = figure.subplots(1, len(groups), squeeze=False, sharey=True)[0]
    place = np.arange(len(probabilities))
    for ax, group in zip(axes, groups, strict=True):
        for name, system in _systems(group):
            ours, truth = _array(system["quantiles"]), _array(system["truth_quantiles"])
            colour, line = STYLES.get(name, ("0.3", "-"))
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = np.where(truth > 0, ours / truth, np.nan)
            ax.plot(place, ratio, line, marker="o", markersize=3, color=colour, linewidth=1.3, label=name)
        labels = [f"{100 * p:g} %\n{q:.3g}" for p, q in zip(probabilities, truth, strict=True)]
        ax.set_xticks(place, labels, fontsize=7)
        ax.axhspan(0.9, 1.1, color="0.9", zorder=0)
        ax.axhline(1.0, color="0.3", linewidth=0.8)
        ax.set_title(_title(group), fontsize=10)
        ax.set_xlabel("quantile, and its rate in the truth (mm/h)", fontsize=8)
        ax.tick_params(axis="y", labelsize=7)
    axes[0].set_ylabel("ratio to the truth", fontsize=8)
    return _finished(figure, axes[0], path)


def _headline(groups: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Draw the scores with their intervals, one row of panels for each factor."""
    shown = [h for h in HEADLINE if any(h[0] in s["scores"] for g in groups for s in g["systems"].values())]
    names = [name for name, _ in _systems(groups[0])]
    height = (0.26 * len(names) + 0.7) * len(groups) + 0.6
    figure = new_figure(2.5 * len(shown) + 1.2, height, "scores with 95 % intervals (green: the aim)")
    axes = figure.subplots(len(groups), len(shown), squeeze=False, sharey=True, sharex="col")
    for row, group in zip(axes, groups, strict=True):
        for ax, (score, title, scale, band) in zip(row, shown, strict=True):
            if band is not None:
                ax.axvspan(*(band if band[0] < band[1] else (band[0] - 0.2, band[1] + 0.2)), color="#d9ead3", zorder=0)
            for k, name in enumerate(names):
                _bar(ax, k, group["systems"][name]["scores"].get(score), scale, STYLES.get(name, ("0.3",))[0])
            ax.tick_params(labelsize=7)
            ax.grid(True, axis="x", linewidth=0.3)
            if group is groups[0]:
                ax.set_title(title, fontsize=8.5)
        row[0].set_yticks(range(len(names)), names, fontsize=7)
        row[0].set_ylabel(_title(group), fontsize=8)
    return save(figure, path)


def _regions(groups: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Draw the CRPS of all systems by region or event, and what the first gains on RainFARM, with their intervals."""
    labels = [f"{g['region']}, {_title(g)}" for g in groups]
    figure = new_figure(8.5, 0.35 * len(groups) + 1.8, "scores by region or event with 95 % intervals")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    for k, group in enumerate(groups):
        systems = _systems(group)
        for j, (name, system) in enumerate(systems):
            place = k + 0.6 * ((j + 0.5) / len(systems) - 0.5)
            colour = STYLES.get(name, ("0.3",))[0]
            _bar(left, place, system["scores"].get("crps"), 1.0, colour, name if k == 0 else None)
            _bar(right, place, system["scores"].get("crps_gain"), 100.0, colour)
    right.axvline(0.0, color="0.3", linewidth=0.8)
    for ax, title in ((left, "fair CRPS (mm/h)"), (right, "CRPS reduction against RainFARM (%)")):
        ax.set_title(title, fontsize=8.5)
        ax.tick_params(labelsize=7)
        ax.grid(True, axis="x", linewidth=0.3)
    left.set_yticks(range(len(groups)), labels, fontsize=7)
    left.invert_yaxis()
    return _finished(figure, left, path)


def _bar(
    axes: Any,
    place: float,
    score: Mapping[str, float | None] | None,
    scale: float,
    colour: str,
    label: str | None = None,
) -> None:
    if score is None or score["value"] is None:
        return
    axes.plot([scale * score["value"]], [place], "o", color=colour, markersize=4, label=label)
    if score["low"] is not None and score["high"] is not None:
        axes.plot([scale * score["low"], scale * score["high"]], [place, place], "-", color=colour, linewidth=1.5)


def _systems(group: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the systems, the model last so that its curve lies on top."""
    found = dict(group["systems"])
    known = [n for n in STYLES if n in found]
    return [(n, found[n]) for n in [*(n for n in found if n not in STYLES), *known]]


def _title(group: Mapping[str, Any]) -> str:
    return f"factor {group['factor']:g}" if group["factor"] else "files"


def _finished(figure: Any, axes: Any, path: Path) -> Path:
    handles, labels = axes.get_legend_handles_labels()
    fitting = max(2, int(figure.get_figwidth() / LEGEND_INCHES))
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, fitting), fontsize=8, frameon=False)
    return save(figure, path)


def _array(values: Sequence[float | None]) -> Array:
    return np.asarray([np.nan if v is None else v for v in values], np.float64)
