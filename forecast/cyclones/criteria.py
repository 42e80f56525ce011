"""What counts as a cyclone: named sets of thresholds with their sources, and the channels they need.

tempest   TempestExtremes as used for ERA5 (Zarzycki & Ullrich 2017, doi 10.1002/2016GL071606; Ullrich & Zarzycki 2017,
          doi 10.5194/gmd-10-1069-2017; Ullrich et al. 2021, doi 10.5194/gmd-14-5023-2021): sea-level pressure rises by
          200 Pa within 5.5 degrees; the thickness 300-500 hPa falls by 58.8 m2 s-2 within 6.5 degrees of its maximum
          within 1 degree; of two minima within 6 degrees the deeper one; at most 8 degrees in 6 hours, gaps of at
          most 24 h, at least 54 h; 10 m wind within 2 degrees of at least 10 m/s and latitude of at most 50 degrees at
          ten 6-hourly times. Its limit on surface height (150 m) is left out: forecast files carry no orography.
vitart    Vitart et al. 1997 (doi 10.1175/1520-0442(1997)010<0745:SOIVOT>2.0.CO;2), global form: 850 hPa vorticity of
          at least 3.5e-5 s-1 by a pressure minimum; mean temperature of 200-500 hPa with a maximum within 2 degrees,
          0.5 K above its surroundings within 8 degrees; thickness 200-1000 hPa likewise, by 50 m; at least 2 days, 17
          m/s. A maximum "in all directions" is tested as a closed contour.
pressure  Closed sea-level pressure minima of 200 Pa within 5.5 degrees, whatever made them; sea-level pressure only.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

__all__ = ["CRITERIA", "Core", "Criteria", "choose_criteria", "needed_channels"]

import numpy as np

from gen.data.variables import Channel

STEERING_HPA = (850, 700, 500)
VORTICITY_HPA = 850
GRAVITY = 9.80665
U, V = "u_component_of_wind", "v_component_of_wind"
WIND10 = (Channel("10m_u_component_of_wind"), Channel("10m_v_component_of_wind"))
PRESSURE = Channel("mean_sea_level_pressure")


@dataclass(frozen=True)
class Core:
    """A warm core: a quantity falls by `fall` on a closed contour within `radius_deg` of its maximum at the centre.

    Args:
        quantity: "thickness" (geopotential of the upper minus that of the lower level, m2 s-2) or "temperature" (mean
            of the file's levels from the first to the second, K).
        levels_hpa: upper and lower level.
        fall: by how much the quantity falls, in its units.
        radius_deg: within which distance of the maximum.
        offset_deg: how far from the pressure minimum the maximum may lie.
    """

    quantity: str
    levels_hpa: tuple[int, int]
    fall: float
    radius_deg: float
    offset_deg: float

    def channels(self, have: Sequence[Channel]) -> tuple[Channel, ...]:
        """Return the channels it is made of; for a mean temperature the levels that the file has, or both ends."""
        upper, lower = self.levels_hpa
        if self.quantity == "thickness":
            return Channel("geopotential", upper), Channel("geopotential", lower)
        found = sorted(c for c in have if c.name == "temperature" and upper <= (c.level or 0) <= lower)
        enough = len(found) >= 2 and found[-1].level == lower
        return tuple(found) if enough else (Channel("temperature", upper), Channel("temperature", lower))

    def moved(self, upper: int, lower: int) -> Core:
        """Return the core of another layer; a thickness falls by as much as the same mean temperature makes it fall."""
        if self.quantity != "thickness":
            return self
        ratio = np.log(lower / upper) / np.log(self.levels_hpa[1] / self.levels_hpa[0])
        return replace(self, levels_hpa=(upper, lower), fall=float(self.fall * ratio))


@dataclass(frozen=True)
class Criteria:
    """Thresholds of detection and of tracks; None leaves a criterion out.

    Args:
        name: how the set is called.
        pressure_rise: by how much sea-level pressure rises on a closed contour around a centre, Pa.
        pressure_radius_deg: within which distance.
        cores: warm cores, all of which are required.
        min_vorticity: cyclonic vorticity at 850 hPa that must be reached near the centre, s-1.
        vorticity_radius_deg: how near.
        min_wind: 10 m wind that must be reached near the centre, m/s, for `wind_hours`.
        wind_radius_deg: how near; also that of the wind reported.
        wind_hours: from the first to the last of so many times.
        max_latitude: poleward limit that must be kept for `latitude_hours`, degrees.
        latitude_hours: from the first to the last of so many times.
        merge_deg: of two minima closer than this only the deeper one counts.
        range_deg: farthest way of a centre in 6 hours.
        search_deg: when a given storm is followed, farthest place from its first guess 6 hours ahead.
        max_gap_hours: longest time without a centre inside a track.
        min_hours: from genesis to end.
    """

    name: str
    pressure_rise: float = 200.0
    pressure_radius_deg: float = 5.5
    cores: tuple[Core, ...] = ()
    min_vorticity: float | None = None
    vorticity_radius_deg: float = 2.0
    min_wind: float | None = None
    wind_radius_deg: float = 2.0
    wind_hours: float = 54.0
    max_latitude: float | None = None
    latitude_hours: float = 54.0
    merge_deg: float = 6.0
    range_deg: float = 8.0
    search_deg: float = 4.0
    max_gap_hours: float = 24.0
    min_hours: float = 54.0

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, float) and not 0 <= value < 1e6:
                raise ValueError(f"{item.name} must be a number from 0; got {value:g}")

    @property
    def reach_deg(self) -> float:
        """Return how far from a centre anything is looked at."""
        cores = [core.radius_deg + core.offset_deg for core in self.cores]
        return max(self.pressure_radius_deg, self.vorticity_radius_deg, self.wind_radius_deg, *cores, 5.0)


CRITERIA = {
    "tempest": Criteria(
        "tempest", cores=(Core("thickness", (300, 500), 58.8, 6.5, 1.0),), min_wind=10.0, max_latitude=50.0
    ),
    "vitart": Criteria(
        "vitart",
        cores=(
            Core("temperature", (200, 500), 0.5, 8.0, 2.0),
            Core("thickness", (200, 1000), 50.0 * GRAVITY, 8.0, 2.0),
        ),
        min_vorticity=3.5e-5,
        min_wind=17.0,
        wind_radius_deg=8.0,
        wind_hours=48.0,
        min_hours=48.0,
    ),
    "pressure": Criteria("pressure", min_hours=24.0),
}
OPTIONAL = ("min_vorticity", "min_wind", "max_latitude")


def choose_criteria(name: str, settings: Iterable[str] = ()) -> Criteria:
    """Return a named set, with settings "NAME=VALUE" changed.

    Settings are the numbers of `Criteria` (`none` leaves an optional one out), `layer=UPPER,LOWER` in hPa (thickness of
    another layer, its fall scaled to the same mean temperature) and `cores=none`.

    Raises:
        ValueError: an unknown name or a value that is none.
    """
    if name not in CRITERIA:
        raise ValueError(f"unknown criteria {name!r}{_hint(name, CRITERIA)}")
    chosen = CRITERIA[name]
    for text in settings:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            raise ValueError(f"threshold {text!r}: write NAME=VALUE, for example min_wind=17")
        chosen = _changed(chosen, key, value)
    return chosen


def needed_channels(criteria: Criteria, have: Sequence[Channel], steering: bool) -> dict[str, tuple[Channel, ...]]:
    """Return the channels to read by their use.

    Uses are "pressure", "vorticity", "wind", "steering" and, for each warm core, "core0", "core1", …

    Winds are read when the criteria go beyond pressure and the file has them, because tracks report them, and are
    required when a threshold stands on them.

    Raises:
        ValueError: the file lacks what a criterion needs; says which, and what could be done.
    """
    use = {"pressure": (PRESSURE,)} | {f"core{k}": core.channels(have) for k, core in enumerate(criteria.cores)}
    vortex = (Channel(U, VORTICITY_HPA), Channel(V, VORTICITY_HPA))
    more = criteria.name != "pressure"
    for key, channels, required in (
        ("vorticity", vortex, criteria.min_vorticity is not None),
        ("wind", WIND10, criteria.min_wind is not None),
    ):
        if required or (more and set(channels) <= set(have)):
            use[key] = channels
    missing = {key: [c.code for c in channels if c not in have] for key, channels in use.items()}
    if wrong := {key: codes for key, codes in missing.items() if codes}:
        raise ValueError(_refusal(criteria, wrong, have))
    levels = [p for p in STEERING_HPA if {Channel(U, p), Channel(V, p)} <= set(have)]
    if steering and more and levels:
        use["steering"] = tuple(Channel(n, p) for n in (U, V) for p in levels)
    return use


def _refusal(criteria: Criteria, missing: dict[str, list[str]], have: Sequence[Channel]) -> str:
    codes = ", ".join(dict.fromkeys(code for found in missing.values() for code in found))
    levels = sorted(c.level for c in have if c.name == "geopotential" and c.level is not None)
    if "pressure" in missing:
        return f"the file has no sea-level pressure (msl), without which no cyclone is found; it has {_codes(have)}"
    hints = ["choose --criteria pressure (sea-level pressure only)"] if criteria.name != "pressure" else []
    upper = [p for p in levels if 200 <= p <= 400]
    lower = [p for p in levels if criteria.cores and 500 <= p <= criteria.cores[-1].levels_hpa[1]]
    if any(key.startswith("core") for key in missing) and upper and lower:
        hints.append(f"take another layer with --threshold layer={upper[0]},{lower[-1]}")
    return f"criteria {criteria.name} cannot be evaluated: the file lacks {codes}; " + " or ".join(hints)


def _changed(criteria: Criteria, key: str, value: str) -> Criteria:
    if key == "layer":
        upper, lower = _layer(value)
        return replace(criteria, cores=tuple(core.moved(upper, lower) for core in criteria.cores))
    if key == "cores" and value == "none":
        return replace(criteria, cores=())
    numbers = {item.name for item in fields(Criteria)} - {"name", "cores"}
    if key not in numbers:
        raise ValueError(f"unknown threshold {key!r}{_hint(key, sorted(numbers | {'layer'}))}")
    try:
        number: Any = None if value == "none" and key in OPTIONAL else float(value)
        return replace(criteria, **{key: number})
    except ValueError as error:
        raise ValueError(f"threshold {key}={value}: {error}") from None


def _layer(value: str) -> tuple[int, int]:
    try:
        upper, lower = (int(part) for part in value.split(","))
    except ValueError:
        raise ValueError(f"threshold layer={value}: write two levels in hPa, layer=250,500") from None
    if not 0 < upper < lower <= 1100:
        raise ValueError(f"threshold layer={value}: the upper level (smaller pressure) comes first, layer=250,500")
    return upper, lower


def _codes(channels: Sequence[Channel]) -> str:
    codes = [c.code for c in channels]
    return ", ".join(codes if len(codes) <= 8 else [*codes[:8], "…"])


def _hint(word: str, choices: Iterable[str]) -> str:
    known = list(choices)
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; choose {', '.join(known)}"
