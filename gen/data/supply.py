"""Ways to a channel: read it, interpolate it between levels, derive it, or fill it when told to.

A way is a set of maps that lie in the file and a function of these maps on the grid that is asked for. Ways are tried
in that order, so that nothing is derived that could be read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

__all__ = ["Supply", "Way"]

import numpy as np

from gen.data import derive
from gen.data.conventions import Key
from gen.data.variables import Channel, parse_channel

Maps = Mapping[Key, np.ndarray]

WIDEST_GAP = 2.0  # ratio of the two pressures between which a level may be interpolated
LOWEST_LEVEL, HIGHEST_LEVEL = 900, 300  # hPa: a profile must reach down to the first and needs none above the second
SURFACE: Key = ("geopotential_at_surface", None)
WINDS = {"10m_u_component_of_wind": "u_component_of_wind", "10m_v_component_of_wind": "v_component_of_wind"}
HYDROSTATIC = "by hydrostatics from geopotential and temperature on pressure levels"


@dataclass(frozen=True)
class Way:
    """How a channel is had: `combine` of the maps `inputs`; `note` says what is not as in the file."""

    inputs: tuple[Key, ...]
    combine: Callable[[Maps], np.ndarray]
    note: str = ""


class Supply:
    """Find the way to each channel.

    Args:
        slots: quantities and levels that the file holds.
        fill: value by channel code for channels that cannot be had otherwise.
        orography: whether the height of the surface is known from elsewhere (as the map `geopotential_at_surface`).
        refused: reasons why variables of the file are not used.
    """

    def __init__(
        self, slots: Sequence[Key], fill: Mapping[str, float], orography: bool, refused: Mapping[str, str]
    ) -> None:
        """Remember what there is."""
        self.slots = set(slots)
        self.fill = {parse_channel(code): float(value) for code, value in fill.items()}
        self.refused = refused
        self.surface = orography or SURFACE in self.slots

    def way(self, channel: Channel) -> Way | None:
        """Return the way to a channel, None when there is none."""
        key = (channel.name, channel.level)
        if key in self.slots:
            return Way((key,), lambda maps: maps[key])
        return self._between(channel) or self._derived(channel) or self._filled(channel)

    def reason(self, channel: Channel) -> str:
        """Return why a channel has no way, or an empty text when it is simply not there."""
        if channel.name in self.refused:
            return self.refused[channel.name]
        if channel.name in ("surface_pressure", "2m_temperature", *WINDS) and self._profile() and not self.surface:
            return "needs the height of the surface, which is not in the file: give an orography"
        if channel.name == "total_precipitation_6hr":
            return "unknown; hourly totals would do, or an explicit fill value"
        levels = self._neighbours(channel)
        if levels is not None:
            heat = " without temperature" if channel.name == "geopotential" else ""
            return f"not to be interpolated between {levels[0]} and {levels[1]} hPa{heat}"
        return ""

    def _neighbours(self, channel: Channel) -> tuple[int, int] | None:
        """Return the nearest levels above and below a missing one."""
        if channel.level is None:
            return None
        have = [p for name, p in self.slots if name == channel.name and p is not None]
        above, below = [p for p in have if p < channel.level], [p for p in have if p > channel.level]
        return (max(above), min(below)) if above and below else None

    def _between(self, channel: Channel) -> Way | None:
        around = self._neighbours(channel)
        if around is None or channel.level is None or around[1] / around[0] > WIDEST_GAP:
            return None
        if channel.name == "geopotential":
            return self._geopotential(channel, around)
        upper, lower = ((channel.name, p) for p in around)
        share = np.log(channel.level / around[0]) / np.log(around[1] / around[0])
        note = f"{channel.code} is interpolated in log-pressure between {around[0]} and {around[1]} hPa"
        return Way((upper, lower), lambda maps: maps[upper] + share * (maps[lower] - maps[upper]), note)

    def _geopotential(self, channel: Channel, around: tuple[int, int]) -> Way | None:
        """Interpolate geopotential with the slopes that hydrostatic balance gives at both levels."""
        names = ("geopotential", "temperature", "specific_humidity")
        keys = {(name, p) for name in names for p in around}
        if not {key for key in keys if key[0] != "specific_humidity"} <= self.slots:
            return None
        moist = keys <= self.slots
        inputs = tuple(sorted(keys if moist else {k for k in keys if k[0] != "specific_humidity"}))
        note = f"{channel.code} is interpolated hydrostatically between {around[0]} and {around[1]} hPa"
        level, levels = 100.0 * (channel.level or 0), (around[1], around[0])
        return Way(inputs, lambda maps: derive.geopotential_at(_profile_of(maps, levels), level), note)

    def _filled(self, channel: Channel) -> Way | None:
        if channel not in self.fill:
            return None
        value = self.fill[channel]
        units = channel.variable.units
        return Way((), lambda maps: np.array(value), f"{channel.code} is unknown and filled with {value:g} {units}")

    def _derived(self, channel: Channel) -> Way | None:
        if channel.name == "specific_humidity":
            return self._humidity(channel)
        levels = self._profile()
        if not levels or (channel.name != "mean_sea_level_pressure" and not self.surface):
            return None
        inputs = self._profile_inputs(levels)
        profile = partial(_profile_of, levels=levels)
        if channel.name == "mean_sea_level_pressure":
            note = f"{channel.code} is derived {HYDROSTATIC}"
            return Way(inputs, lambda m: derive.mean_sea_level_pressure(profile(m)), note)
        if channel.name == "surface_pressure":
            note = f"{channel.code} is derived {HYDROSTATIC}, at the height of the orography"
            return Way((*inputs, SURFACE), lambda m: derive.surface_pressure(profile(m), m[SURFACE]), note)
        if channel.name == "2m_temperature":
            note = f"{channel.code} is the temperature of the pressure levels taken at the surface"
            return Way((*inputs, SURFACE), lambda m: derive.temperature_2m(profile(m), m[SURFACE]), note)
        if channel.name in WINDS:
            return self._wind(channel, levels, inputs)
        return None

    def _wind(self, channel: Channel, levels: tuple[int, ...], inputs: tuple[Key, ...]) -> Way | None:
        winds = tuple((WINDS[channel.name], p) for p in levels)
        if not set(winds) <= self.slots:
            return None
        note = f"{channel.code} is {derive.WIND_FACTOR:.2f} times the wind 100 m above the surface"

        def combine(maps: Maps) -> np.ndarray:
            wind = np.stack([maps[key] for key in winds])
            return derive.wind_10m(_profile_of(maps, levels), maps[SURFACE], wind)

        return Way((*inputs, *winds, SURFACE), combine, note)

    def _humidity(self, channel: Channel) -> Way | None:
        level = channel.level or 0
        relative, heat = ("relative_humidity", level), ("temperature", level)
        if not {relative, heat} <= self.slots:
            return None
        note = f"{channel.code} is derived from relative humidity and temperature"
        combine = lambda m: derive.specific_humidity(m[relative], m[heat], 100.0 * level)  # noqa: E731
        return Way((relative, heat), combine, note)

    def _profile(self) -> tuple[int, ...]:
        """Return the levels in hPa, from the ground up, on which hydrostatics can stand; empty when too few."""
        common = {p for name, p in self.slots if name == "geopotential" and p is not None and p >= HIGHEST_LEVEL}
        common &= {p for name, p in self.slots if name == "temperature" and p is not None}
        levels = tuple(sorted(common, reverse=True))
        return levels if len(levels) > 1 and levels[0] >= LOWEST_LEVEL else ()

    def _profile_inputs(self, levels: tuple[int, ...]) -> tuple[Key, ...]:
        moist = {("specific_humidity", p) for p in levels} <= self.slots
        names = ("geopotential", "temperature", *(("specific_humidity",) if moist else ()))
        return tuple((name, p) for name in names for p in levels)


def _profile_of(maps: Maps, levels: tuple[int, ...]) -> derive.Profile:
    stacks = {
        name: np.stack([maps[name, p] for p in levels]).astype(np.float64)
        for name in ("geopotential", "temperature", "specific_humidity")
        if (name, levels[0]) in maps and all((name, p) in maps for p in levels)
    }
    pressure = 100.0 * np.array(levels, dtype=np.float64)
    return derive.Profile(pressure, stacks["geopotential"], stacks["temperature"], stacks.get("specific_humidity"))
