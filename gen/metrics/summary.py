"""Turn partial sums into scores with intervals: means over start dates first, roots and ratios last.

`summarise` returns plain JSON values:

    setup         what was scored: ensemble sizes, grid, region, start dates, intervals
    leads_hours   [L]
    scores        {system: {metric: {channel: {"value": [L], "low": [L], "high": [L]}}}}
    difference    {baseline: {"crps" | "rmse": {channel: {...}}}}    model minus baseline, paired
    fraction      {channel: {...}}    (crps_clim - crps_model) / (crps_clim - crps_reference), paired; with a reference
    brier         {system: {event: {channel: {...}}}}    events: exceeding a quantile of the local climatology
    rank_histogram {system: {channel: [L][M + 1]}}    fractions of area and dates
    spectra       {channel: {"truth" | system: [L][l], "ratio": {system: {"low": [L], "high": [L]}}}}    l = 0, 1, ...

Numbers that are not defined are None. The systems are "model", "persistence", "climatology" and "reference".
"""

from __future__ import annotations

__all__ = ["METRICS", "SYSTEMS", "summarise"]

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gen.metrics.base import PartialSums
from gen.metrics.bootstrap import Bootstrap, Interval
from gen.metrics.ensemble import spread_skill_ratio, unbiased_mse

SYSTEMS = ("model", "persistence", "climatology", "reference")

Formula = Callable[..., np.ndarray]

METRICS: dict[str, tuple[tuple[str, ...], Callable[[int], Formula]]] = {
    "crps": (("crps",), lambda members: lambda crps: crps),
    "rmse": (("squared_error",), lambda members: np.sqrt),
    "bias": (("error",), lambda members: lambda error: error),
    "rmse_unbiased": (
        ("squared_error", "variance"),
        lambda members: lambda mse, var: _root(unbiased_mse(mse, var, members)),
    ),
    "spread": (("variance",), lambda members: np.sqrt),
    "ssr": (("squared_error", "variance"), lambda members: lambda mse, var: spread_skill_ratio(mse, var, members)),
    "ssr_unbiased": (
        ("squared_error", "variance"),
        lambda members: lambda mse, var: spread_skill_ratio(mse, var, members, unbiased=True),
    ),
}


def summarise(sums: PartialSums, bootstrap: Bootstrap | None = None) -> dict[str, Any]:
    """Compute every score that the statistics allow; the layout is that of the module's text.

    Args:
        sums: statistics named "system/statistic" of all start dates.
        bootstrap: how intervals are drawn.
    """
    view = _View(sums, bootstrap or Bootstrap())
    systems = [s for s in SYSTEMS if f"{s}/crps" in sums.statistics]
    result: dict[str, Any] = {
        "setup": {**sums.setup, **view.describe()},
        "leads_hours": sums.leads.astype(int).tolist(),
        "scores": {s: view.scores(s) for s in systems},
        "difference": {b: view.differences(b) for b in systems if b != "model" and "model" in systems},
        "brier": {s: view.brier(s) for s in systems if f"{s}/brier" in sums.statistics},
        "rank_histogram": {s: view.histogram(s) for s in systems if f"{s}/rank_histogram" in sums.statistics},
    }
    if {"model", "climatology", "reference"} <= set(systems):
        names = ("climatology/crps", "model/crps", "reference/crps")
        result["fraction"] = view.by_channel(view.interval(lambda c, m, r: (c - m) / (c - r), *names))
    if "truth/power" in sums.statistics:
        result["spectra"] = view.spectra()
    return result


class _View:
    """Partial sums with the draws of one bootstrap."""

    def __init__(self, sums: PartialSums, bootstrap: Bootstrap) -> None:
        self.sums, self.bootstrap = sums, bootstrap
        self.members: Mapping[str, int] = sums.setup.get("members", {})

    def describe(self) -> dict[str, Any]:
        dates = self.sums.inits
        return {
            "start_dates": int(dates.size),
            "first": str(dates[0]) if dates.size else None,
            "last": str(dates[-1]) if dates.size else None,
            "interval": {
                "level": self.bootstrap.level,
                "resamples": self.bootstrap.resamples,
                "block": self.bootstrap.block_length(dates.size),
                "seed": self.bootstrap.seed,
            },
        }

    def interval(self, formula: Formula, *names: str) -> Interval:
        return self.bootstrap.interval(formula, *(self.sums.statistics[n] for n in names))

    def by_channel(self, interval: Interval) -> dict[str, dict[str, list[float | None]]]:
        parts = {"value": interval.value, "low": interval.low, "high": interval.high}
        return {c: {k: _numbers(v[:, i]) for k, v in parts.items()} for i, c in enumerate(self.sums.channels)}

    def scores(self, system: str) -> dict[str, Any]:
        out = {}
        for metric, (needs, formula) in METRICS.items():
            names = [f"{system}/{n}" for n in needs]
            if all(n in self.sums.statistics for n in names):
                out[metric] = self.by_channel(self.interval(formula(self.members.get(system, 1)), *names))
        return out

    def differences(self, baseline: str) -> dict[str, Any]:
        crps = self.interval(lambda a, b: a - b, "model/crps", f"{baseline}/crps")
        names = ("model/squared_error", f"{baseline}/squared_error")
        rmse = self.interval(lambda a, b: np.sqrt(a) - np.sqrt(b), *names)
        return {"crps": self.by_channel(crps), "rmse": self.by_channel(rmse)}

    def brier(self, system: str) -> dict[str, Any]:
        values = self.sums.statistics[f"{system}/brier"]
        events = self.sums.setup.get("events") or [f"event{k}" for k in range(values.shape[-1])]
        draw = self.bootstrap.interval
        return {e: self.by_channel(draw(lambda b: b, values[..., k])) for k, e in enumerate(events)}

    def histogram(self, system: str) -> dict[str, Any]:
        mean = _mean(self.sums.statistics[f"{system}/rank_histogram"])
        return {c: [_numbers(row) for row in mean[:, i]] for i, c in enumerate(self.sums.channels)}

    def spectra(self) -> dict[str, Any]:
        truth, stored = self.sums.statistics["truth/power"], self.sums.statistics
        power = {"truth": _mean(truth)}
        power |= {s: _mean(stored[f"{s}/power"]) for s in SYSTEMS if f"{s}/power" in stored}
        ratio = {}
        for system in set(power) - {"truth"}:
            paired = np.where(np.isfinite(stored[f"{system}/power"]), truth, np.nan)
            quotient = (power[system] / _mean(paired))[..., 1:]
            ratio[system] = {"low": quotient.min(axis=-1), "high": quotient.max(axis=-1)}
        return {
            c: {s: [_numbers(row) for row in p[:, i]] for s, p in power.items()}
            | {"ratio": {s: {k: _numbers(v[:, i]) for k, v in ratio[s].items()} for s in SYSTEMS if s in ratio}}
            for i, c in enumerate(self.sums.channels)
        }


def _root(values: np.ndarray) -> np.ndarray:
    return np.sqrt(np.where(values < 0, np.nan, values))


def _mean(values: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(np.nanmean(values, axis=0))


def _numbers(values: Sequence[float] | np.ndarray) -> list[float | None]:
    return [float(v) if np.isfinite(v) else None for v in values]
