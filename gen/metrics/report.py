"""Write scores for people: one aligned Markdown table, one row per channel and lead time."""

from __future__ import annotations

__all__ = ["markdown", "score_table"]

from collections.abc import Sequence
from typing import Any

from gen.data.variables import VARIABLES, parse_channel

DEFINITIONS = (
    "CRPS is the fair estimator (for persistence the absolute error); RMSE is that of the ensemble mean; SSR is "
    "sqrt((M+1)/M) spread / RMSE; the spectrum is the power of single members divided by that of the truth, lowest and "
    "highest over total wavenumbers l = 1 .. {lmax}. Means are weighted with exact cell areas, roots are taken last."
)


def markdown(scores: dict[str, Any]) -> str:
    """Return setup, table and definitions as Markdown.

    Args:
        scores: the result of `gen.metrics.summary.summarise`.
    """
    setup, interval = scores["setup"], scores["setup"]["interval"]
    members = ", ".join(f"{name} {count}" for name, count in setup.get("members", {}).items())
    head = (
        f"{setup['start_dates']} start dates from {setup['first']} to {setup['last']}"
        + (f"; members: {members}" if members else "")
        + (f"; region {setup['region']}" if setup.get("region") else "")
        + f". Brackets: {interval['level']:.0%} intervals of a paired moving-block bootstrap over start dates "
        f"({interval['resamples']} draws, blocks of {interval['block']}, seed {interval['seed']})."
    )
    notes = DEFINITIONS.format(lmax=setup.get("lmax", "?"))
    if "fraction" in scores:
        notes += " Fraction is the way from climatology to the reference ensemble in CRPS."
    return f"{head}\n\n{score_table(scores)}\n\n{notes}\n"


def score_table(scores: dict[str, Any]) -> str:
    """Return the aligned table."""
    systems = scores["scores"]
    channels = list(systems["model"]["crps"])
    rows = [_header(scores)]
    for channel in channels:
        rows += [_row(scores, channel, k) for k in range(len(scores["leads_hours"]))]
    return _align(rows)


def _header(scores: dict[str, Any]) -> list[str]:
    others = [s for s in scores["scores"] if s != "model"]
    head = ["variable", "lead (d)", "CRPS"]
    head += [f"CRPS {s}" for s in others]
    head += [f"minus {s}" for s in others if s != "reference"]
    head += ["fraction"] if "fraction" in scores else []
    head += ["SSR", "RMSE"]
    return head + (["spectrum"] if "spectra" in scores else [])


def _row(scores: dict[str, Any], channel: str, k: int) -> list[str]:
    systems, model = scores["scores"], scores["scores"]["model"]
    others = [s for s in systems if s != "model"]
    cells = [_label(channel), f"{scores['leads_hours'][k] / 24:g}", _bracket(model["crps"][channel], k)]
    cells += [_number(systems[s]["crps"][channel]["value"][k]) for s in others]
    cells += [_bracket(scores["difference"][s]["crps"][channel], k) for s in others if s != "reference"]
    cells += [_bracket(scores["fraction"][channel], k)] if "fraction" in scores else []
    cells.append(_bracket(model["ssr"][channel], k) if "ssr" in model else "-")
    cells.append(_number(model["rmse"][channel]["value"][k]))
    if "spectra" in scores:
        ratio = scores["spectra"][channel]["ratio"]["model"]
        cells.append(f"{_number(ratio['low'][k])} .. {_number(ratio['high'][k])}")
    return cells


def _label(channel: str) -> str:
    try:
        return f"{channel} ({VARIABLES[parse_channel(channel).name].units})"
    except (ValueError, KeyError):
        return channel


def _bracket(entry: dict[str, Sequence[float | None]], k: int) -> str:
    if entry["low"][k] is None:
        return _number(entry["value"][k])
    return f"{_number(entry['value'][k])} [{_number(entry['low'][k])}, {_number(entry['high'][k])}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _align(rows: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    padded = [
        [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))] for row in rows
    ]
    lines = ["| " + " | ".join(row) + " |" for row in padded]
    rule = ["-" * (widths[0] + 2), *("-" * (w + 1) + ":" for w in widths[1:])]
    return "\n".join([lines[0], "|" + "|".join(rule) + "|", *lines[1:]])
