"""Power spectra against total wavenumber: members beside the truth, and their ratio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["ACCEPTED_RATIO", "draw_spectra"]

ACCEPTED_RATIO = 1.5


def draw_spectra(
    upper: Any, lower: Any, power: Mapping[str, Sequence[float | None]], styles: Mapping[str, tuple[str, str]]
) -> None:
    """Draw power (above, double logarithmic) and the ratio to the truth (below) for l >= 1.

    Args:
        upper: axes of the power.
        lower: axes of the ratio.
        power: {"truth" or system: power per wavenumber l = 0, 1, ...}.
        styles: {system: (colour, label)}.
    """
    truth = _array(power["truth"])
    wavenumber = np.arange(truth.size)
    for system, (colour, label) in styles.items():
        if system not in power:
            continue
        values = _array(power[system])
        line = {"color": colour, "linewidth": 2.0 if system == "truth" else 1.3, "label": label}
        upper.loglog(wavenumber[1:], values[1:], **line)
        if system != "truth":
            lower.semilogx(wavenumber[1:], values[1:] / truth[1:], **line)
    lower.axhspan(1 / ACCEPTED_RATIO, ACCEPTED_RATIO, color="0.9", zorder=0)
    lower.axhline(1.0, color="0.3", linewidth=0.8)
    lower.set_ylim(0, 2.5)
    for axes in (upper, lower):
        axes.grid(True, which="both", linewidth=0.2)
        axes.tick_params(labelsize=7)


def _array(values: Sequence[float | None]) -> np.ndarray:
    return np.asarray([np.nan if v is None else v for v in values], np.float64)
