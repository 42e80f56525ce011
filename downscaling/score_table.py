"""Scores of fine rain for people: aligned Markdown tables, one for each factor and region."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["markdown"]

COLUMNS = (  # heading, score, factor, digits, with interval
    ("CRPS", "crps", 1.0, 3, True),
    ("vs RainFARM", "crps_gain", 100.0, 1, True),
    ("spread/skill", "spread_skill", 1.0, 2, True),
    ("spectrum dB", "spectral_distance", 1.0, 1, True),
    ("wet error pt", "wet_error", 100.0, 1, True),
    ("q99.9 %", "q99.9_error", 100.0, 0, True),
    ("q99.99 %", "q99.99_error", 100.0, 0, False),
    ("bias %", "bias", 100.0, 1, False),
)
MORE = (
    ("biased CRPS", "crps_biased", 1.0, 3, False),
    ("MAE", "mae", 1.0, 3, False),
    ("mean 4", "crps_mean_4", 1.0, 3, False),
    ("max 4", "crps_max_4", 1.0, 3, False),
    ("mean 16", "crps_mean_16", 1.0, 3, False),
    ("max 16", "crps_max_16", 1.0, 3, False),
    ("tw 1", "twcrps_1", 1.0, 3, False),
    ("tw 5", "twcrps_5", 1.0, 3, False),
    ("tw 10", "twcrps_10", 1.0, 3, False),
    ("rank", "reliability", 1.0, 2, False),
    ("wet rank", "wet_reliability", 1.0, 2, False),
    ("spectrum, mean dB", "mean_spectral_distance", 1.0, 1, False),
    ("members dB", "spectral_distance_members", 1.0, 1, False),
    ("S", "sal_s", 1.0, 2, False),
    ("A", "sal_a", 1.0, 2, False),
    ("L", "sal_l", 1.0, 2, False),
    ("q99 %", "q99_error", 100.0, 0, False),
    ("seam", "seam", 1.0, 2, False),
    ("s/member", "seconds", 1.0, 3, False),
)
REGIONS = (
    ("CRPS", "crps", 1.0, 3, True),
    ("biased CRPS", "crps_biased", 1.0, 3, False),
    ("MAE", "mae", 1.0, 3, False),
    ("vs RainFARM %", "crps_gain", 100.0, 1, True),
    ("over bilinear", "crps_relative", 1.0, 3, False),
    ("spread/skill", "spread_skill", 1.0, 2, False),
    ("wet error pt", "wet_error", 100.0, 1, False),
    ("bias %", "bias", 100.0, 1, False),
    ("q99.9 %", "q99.9_error", 100.0, 0, False),
)
GAPS = (
    ("CRPS %", "crps", 100.0, 1, True),
    ("biased CRPS %", "crps_biased", 100.0, 1, False),
    ("MAE %", "mae", 100.0, 1, False),
    ("RMSE %", "rmse", 100.0, 1, False),
    ("tw 5 %", "twcrps_5", 100.0, 1, False),
    ("over bilinear %", "crps_relative", 100.0, 1, True),
)
NOTES = (
    "CRPS is the fair one in mm/h (for single fields the absolute error); `vs RainFARM` its reduction against RainFARM "
    "with spectral fusion; spread/skill sqrt((M+1)/M mean variance / mean squared error); spectrum the radially "
    "averaged log spectral distance, by field and (mean) of mean spectra, Hann windows; members dB that between two "
    "members, which a perfect ensemble has to the truth as well; wet error the share of pixels "
    "with at least 0.1 mm/h minus that of the truth; quantiles of pooled rates; violation the largest |A z - c| over "
    "the largest coarse amount; tw the CRPS above 1, 5 and 10 mm/h; mean and max the CRPS of blocks of 4 and 16 "
    "pixels; rank the sum of departures of the rank histogram from flat, everywhere and where truth or a member is "
    "wet; MAE that of the ensemble mean; biased CRPS the one with M^2 for M (M - 1) in its spread term, as papers with "
    "8 members may mean it; over bilinear the CRPS divided by that of bilinear interpolation; seam the step across "
    "edges of coarse cells over that elsewhere, divided by the same of the truth; transfer gap a score over that of "
    "the regions at home, minus one."
)


def markdown(scores: Mapping[str, Any]) -> str:
    """Return the tables of `downscaling.score_summary.summarise`."""
    setup, level = scores["setup"], scores["bootstrap"]["level"]
    members = ", ".join(f"{name} {n}" for name, n in setup["members"].items())
    parts = [
        f"Members: {members}. Brackets: {level:.0%} intervals of a paired moving-block bootstrap "
        f"({scores['bootstrap']['resamples']} draws, seed {setup['seed']}); none with fewer than three blocks."
    ]
    for group in scores["groups"]:
        factor = f"Factor {group['factor']:g}" if group["factor"] else "Files"
        where = f", {group['region']}" if group["region"] else ""
        parts.append(f"### {factor}{where}: {group['crops']} crops at {group['times']} times")
        parts.append(_rests_on(group))
        if group["region"] is None:
            parts += _overview([g for g in scores["groups"] if g["factor"] == group["factor"] and g["region"]])
        parts += [_table(group, COLUMNS, True), _table(group, MORE, False), _fss(group, scores["thresholds"])]
    return "\n\n".join([*parts, NOTES]) + "\n"


def _rests_on(group: Mapping[str, Any]) -> str:
    """Return what the intervals of a group rest on."""
    blocks = {"times": "blocks of times", "days": "blocks of days", "events": "events"}[group["resampled"]]
    few = "" if group["events"] > 1 else "; they say nothing of other events or regions"
    counts = f"Regions or events: {group['events']}, days: {group['days']}"
    return f"{counts}. Intervals rest on {group['blocks']} {blocks}{few}."


def _overview(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each region, and one for each transfer gap, of the first system."""
    if not groups:
        return []
    name, first = next(iter(groups[0]["systems"].items()))
    used = [c for c in REGIONS if c[1] in first["scores"]]
    rows = [[f"{name}, by region", "days", *(c[0] for c in used)]]
    for group in groups:
        scores = group["systems"][name]["scores"]
        rows.append([group["region"], str(group["days"]), *_cells(scores, used)])
    gaps = [["transfer gap", *(c[0] for c in GAPS)]]
    for group in groups:
        for system, found in group["systems"].items():
            if "gaps" in found:
                gaps.append([f"{group['region']}: {system}", *_cells(found["gaps"], GAPS)])
    return [_aligned(rows), *([_aligned(gaps)] if len(gaps) > 1 else [])]


def _table(group: Mapping[str, Any], columns: Sequence[Any], violation: bool) -> str:
    systems = group["systems"]
    used = [c for c in columns if any(c[1] in s["scores"] for s in systems.values())]
    violation = violation and any(s["largest_violation"] is not None for s in systems.values())
    rows = [["system", *(c[0] for c in used), *(["violation"] if violation else [])]]
    for name, system in systems.items():
        cells = _cells(system["scores"], used)
        last = system["largest_violation"]
        rows.append([name, *cells, *(["-" if last is None else f"{last:.1e}"] if violation else [])])
    return _aligned(rows)


def _fss(group: Mapping[str, Any], thresholds: Mapping[str, Any]) -> str:
    """Return the fractions skill score of members at the second scale and of probabilities at the same."""
    k = min(1, len(thresholds["fss_scales"]) - 1)
    heads = [f"FSS >= {t:g}" for t in thresholds["fss"]] + [f"Brier >= {t:g}" for t in thresholds["brier"]]
    rows = [[f"members, {thresholds['fss_scales'][k]} pixels", *heads]]
    for name, system in group["systems"].items():
        values = [row[k] for row in system["fss"]]
        rows.append([name, *(_number(v, 2) for v in values), *(_number(v, 4) for v in system["brier_fair"])])
    return _aligned(rows)


def _cells(scores: Mapping[str, Any], columns: Sequence[Any]) -> list[str]:
    return [_cell(scores.get(score), *how) for _, score, *how in columns]


def _cell(score: Mapping[str, Any] | None, scale: float, digits: int, bracket: bool) -> str:
    if score is None or score["value"] is None:
        return "-"
    value, low, high = (None if score[k] is None else scale * score[k] for k in ("value", "low", "high"))
    text = _number(value, digits)
    return f"{text} [{_number(low, digits)}, {_number(high, digits)}]" if bracket and low is not None else text


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "| "
        + " | ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        + " |"
        for row in rows
    ]
    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (w + 1) + ":" for w in widths[1:])]) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])
