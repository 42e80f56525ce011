"""How channels are shown: customary units, colours that colour-blind readers can tell apart, sensible levels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gen.data.variables import parse_channel

__all__ = ["Display", "display", "round_levels", "spread_levels"]

GRAVITY = 9.80665
STEPS = (1, 2, 5, 10)
MOST_LEVELS = 18


@dataclass(frozen=True)
class Display:
    """One channel on paper: value shown = value * scale + offset.

    Attributes:
        label: name of the quantity.
        units: units after conversion.
        colours: colour map of the values; `spread_colours` of the ensemble spread.
        fixed: levels that do not depend on the data.
    """

    label: str
    units: str
    scale: float = 1.0
    offset: float = 0.0
    colours: str = "viridis"
    spread_colours: str = "YlOrBr"
    fixed: tuple[float, ...] = ()

    @property
    def difference_units(self) -> str:
        """Units of differences, spreads and errors."""
        return "K" if self.units == "°C" else self.units

    def convert(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return values in the units shown."""
        return values * self.scale + self.offset

    def levels(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return round levels that cover the values."""
        if self.fixed:
            return np.asarray(self.fixed)
        known = values[np.isfinite(values)]
        low, high = np.percentile(known, [0.2, 99.8]) if known.size else (0.0, 1.0)
        return round_levels(float(low), float(high))


KELVIN: dict[str, Any] = {"units": "°C", "offset": -273.15, "colours": "RdYlBu_r"}
WIND: dict[str, Any] = {"units": "m/s", "colours": "PuOr_r"}
SHOWN: dict[str, dict[str, Any]] = {
    "z": {"units": "dam", "scale": 0.1 / GRAVITY, "colours": "viridis"},
    "t": KELVIN,
    "2t": KELVIN,
    "sst": KELVIN,
    "q": {"units": "g/kg", "scale": 1000.0, "colours": "YlGnBu"},
    "u": WIND,
    "v": WIND,
    "10u": WIND,
    "10v": WIND,
    "w": {"units": "Pa/s", "colours": "PuOr_r"},
    "msl": {"units": "hPa", "scale": 0.01, "colours": "cividis"},
    "sp": {"units": "hPa", "scale": 0.01, "colours": "cividis"},
    "tp06": {
        "units": "mm / 6 h",
        "scale": 1000.0,
        "colours": "YlGnBu",
        "fixed": (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50),
    },
}
LABELS = {"z": "geopotential height", "tp06": "precipitation of 6 h"}


def display(code: str) -> Display:
    """Return how the channel `code` is shown."""
    channel = parse_channel(code)
    short = channel.variable.short
    label = LABELS.get(short, channel.variable.long_name)
    if channel.level is not None:
        label += f" at {channel.level} hPa"
    return Display(label=label, **SHOWN.get(short, {"units": channel.variable.units}))


def spread_levels(spread: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return round levels from zero that cover a spread."""
    known = spread[np.isfinite(spread)]
    high = float(np.percentile(known, 99.5)) if known.size else 1.0
    return round_levels(0.0, high if high > 0 else 1.0)


def round_levels(low: float, high: float) -> NDArray[np.float64]:
    """Return multiples of a round step, at most about `MOST_LEVELS`, that enclose [low, high]."""
    span = max(high - low, 1e-9 * max(abs(low), abs(high), 1e-9))
    power = 10.0 ** np.floor(np.log10(span / MOST_LEVELS))
    step = next(s * power for s in STEPS if span / (s * power) <= MOST_LEVELS)
    return step * np.arange(np.floor(low / step + 1e-9), np.ceil(high / step - 1e-9) + 1)
