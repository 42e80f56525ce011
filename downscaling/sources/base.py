"""What every precipitation reader gives: rates in mm/h on a grid whose rows run north, NaN where there is no value.

A rate is the mean over the interval that ends at the stated time; `interval_hours` is 0 for instantaneous rates. Units
are converted once, here, and checked for plausibility: metres that are called millimetres are 1000 times too small,
and no rain on Earth falls at more than 2,000 mm/h for minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

__all__ = ["GriddedRain", "JoinedRain", "PrecipitationSource", "check_magnitude", "join", "to_rate"]

import numpy as np
from numpy.typing import NDArray

from gen.data.sources import SourceError
from gen.grid import LatLonGrid
from gen.projected_grid import ProjectedGrid

Grid = LatLonGrid | ProjectedGrid
Values = NDArray[np.float32]

AMOUNTS = {  # units of an amount over the interval, in mm
    "m": 1e3, "m of water equivalent": 1e3, "cm": 10.0, "mm": 1.0, "kg m-2": 1.0, "kg/m2": 1.0,
    "0.1 mm": 0.1, "1/10 mm": 0.1, "1/100 mm": 0.01, "inch": 25.4, "in": 25.4,
}  # fmt: skip
RATES = {  # units of a rate, in mm/h
    "mm/h": 1.0, "mm h-1": 1.0, "mm/hr": 1.0, "mm hr-1": 1.0, "mm/hour": 1.0, "mm/day": 1 / 24, "mm day-1": 1 / 24,
    "mm d-1": 1 / 24, "kg m-2 s-1": 3600.0, "kg/m2/s": 3600.0, "mm s-1": 3600.0, "mm/s": 3600.0, "m s-1": 3.6e6,
    "m/s": 3.6e6, "kg m-2 h-1": 1.0,
}  # fmt: skip
MOST = 2000.0  # mm/h; the heaviest minutes on record are near 2,300
METRES = ("m", "m of water equivalent", "m s-1", "m/s")
FAINTEST_PEAK = 0.05  # mm/h; the peak of a whole file in metres would lie below
ROUNDING = 1e-3  # mm/h; less below zero is packing noise


@runtime_checkable
class PrecipitationSource(Protocol):
    """Precipitation at some times.

    Attributes:
        name: what messages call the source.
        grid: where the values lie; rows from south to north.
        interval_hours: length of the interval that a rate is the mean of, 0 for instantaneous rates.
        attribution: whose data these are and under which licence, to be carried along.
        synthetic: whether the values are simulated.
        members: number of ensemble members.
    """

    @property
    def name(self) -> str: ...  # noqa: D102 - named above
    @property
    def grid(self) -> Grid: ...  # noqa: D102
    @property
    def interval_hours(self) -> float: ...  # noqa: D102
    @property
    def attribution(self) -> str: ...  # noqa: D102
    @property
    def synthetic(self) -> bool: ...  # noqa: D102
    @property
    def members(self) -> int: ...  # noqa: D102

    def times(self) -> np.ndarray:
        """Return the ends of the intervals, datetime64[m], ascending."""
        ...

    def read(self, index: int, member: int = 0) -> Values:
        """Return the rates [H, W] in mm/h at one of the times, NaN where missing."""
        ...


@dataclass(frozen=True)
class GriddedRain:
    """A source made of a function that loads one map (see `PrecipitationSource`).

    Args:
        name: what messages call the source.
        grid: where the values lie.
        ends: [N] datetime64, ascending.
        interval_hours: length of the interval, 0 for instantaneous rates.
        attribution: owner and licence.
        load: (index, member) to [H, W] in mm/h, rows from south to north, NaN where missing.
        members: number of ensemble members.
        synthetic: whether the values are simulated.

    Raises:
        SourceError: when the times do not ascend.
    """

    name: str
    grid: Grid
    ends: np.ndarray
    interval_hours: float
    attribution: str
    load: Callable[[int, int], np.ndarray]
    members: int = 1
    synthetic: bool = False

    def __post_init__(self) -> None:
        """Store the times as minutes and check their order."""
        object.__setattr__(self, "ends", np.asarray(self.ends).astype("datetime64[m]"))
        if (np.diff(self.ends.astype(np.int64)) <= 0).any():
            raise SourceError(f"{self.name} has times that repeat or go back: sort them and drop repeated ones")

    def times(self) -> np.ndarray:
        """Return the ends of the intervals, datetime64[m]."""
        return self.ends

    def read(self, index: int, member: int = 0) -> Values:
        """Return the rates [H, W] in mm/h.

        Raises:
            SourceError: when the index or the member is not there, or the values are no rain.
        """
        if not -len(self.ends) <= index < len(self.ends) or not 0 <= member < self.members:
            raise SourceError(
                f"{self.name} has no time {index} of member {member}: {len(self.ends)} times, {self.members} members"
            )
        values = np.asarray(self.load(index % len(self.ends), member), dtype=np.float32)
        if values.shape != self.grid.shape:
            raise SourceError(f"{self.name} holds a field of {values.shape} on a grid of {self.grid.shape}")
        return checked(values, f"{self.name} at {self.ends[index]}")


class JoinedRain:
    """Sources of one grid and interval at different times, as one (see `PrecipitationSource`).

    Raises:
        SourceError: when they differ in more than time or share a time.
    """

    def __init__(self, name: str, sources: Sequence[PrecipitationSource]) -> None:
        """Check that the sources fit together."""
        first, self.name, self._sources = sources[0], name, list(sources)
        self.grid, self.interval_hours, self.members = first.grid, first.interval_hours, first.members
        self.attribution = "; ".join(dict.fromkeys(s.attribution for s in sources))
        self.synthetic = any(s.synthetic for s in sources)
        for other in sources[1:]:
            for what in ("grid", "interval_hours", "members"):
                if getattr(other, what) != getattr(first, what):
                    raise SourceError(f"{name}: {other.name} and {first.name} differ in {what.replace('_', ' ')}")
        times = np.concatenate([s.times() for s in sources])
        place = [(k, i) for k, s in enumerate(sources) for i in range(len(s.times()))]
        order = np.argsort(times, kind="stable")
        self._times, self._place = times[order], [place[i] for i in order]
        if (same := np.flatnonzero(np.diff(self._times.astype(np.int64)) == 0)).size:
            both = " and ".join(sources[self._place[same[0] + k][0]].name for k in (0, 1))
            raise SourceError(f"{name}: {both} both hold {self._times[same[0]]}; keep one file for each time")

    def times(self) -> np.ndarray:
        """Return the times of all sources, ascending."""
        return self._times

    def read(self, index: int, member: int = 0) -> Values:
        """Return the rates [H, W] in mm/h from the source that holds the time."""
        which, where = self._place[index]
        return self._sources[which].read(where, member)


def join(name: str, sources: Sequence[PrecipitationSource]) -> PrecipitationSource:
    """Return one source for several; a single one stays itself."""
    return sources[0] if len(sources) == 1 else JoinedRain(name, sources)


def checked(values: Values, what: str) -> Values:
    """Return rain with packing noise below zero removed.

    Raises:
        SourceError: for negative rain and for more than falls on Earth.
    """
    low, high = float(np.fmin.reduce(values, axis=None)), float(np.fmax.reduce(values, axis=None))
    if low < -ROUNDING:
        count = int((values < -ROUNDING).sum())
        raise SourceError(
            f"{what} has negative rain ({low:.3g} mm/h, {count} pixel{'s' * (count > 1)}): mark missing values as such"
        )
    if high > MOST:
        raise SourceError(f"{what} has {high:.4g} mm/h, more than falls on Earth: its units are not what it says")
    return np.where(values < 0, np.float32(0), values) if low < 0 else values


def to_rate(units: str, interval_hours: float | None, what: str) -> float:
    """Return the factor from stated units to mm/h.

    Raises:
        SourceError: for unknown units, and for amounts over an unknown interval.
    """
    plain = _plain(units)
    if plain in RATES:
        return RATES[plain]
    if plain not in AMOUNTS:
        raise SourceError(f"{what} is in unknown units {units!r}; known are {', '.join([*AMOUNTS, *RATES])}")
    if not interval_hours:
        raise SourceError(f"{what} is an amount ({units}) over an unknown interval; give the interval in hours")
    return AMOUNTS[plain] / interval_hours


def check_magnitude(peak: float, units: str, what: str) -> None:
    """Refuse a file whose largest rate is too small to be rain in the units it states; stated metres are believed.

    Raises:
        SourceError: naming the likely mistake.
    """
    if 0 < peak < FAINTEST_PEAK and _plain(units) not in METRES:
        raise SourceError(
            f"{what}: the largest value is {peak:.2g} mm/h if the units are {units!r}: it looks like metres or another "
            "unit; state the units (--units m, or --units mm if they are right)"
        )


def _plain(units: str) -> str:
    """Return units without the signs of powers and brackets."""
    for sign in ("**", "^", "(", ")"):
        units = units.replace(sign, "")
    return " ".join(units.lower().split())
