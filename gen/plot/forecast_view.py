"""Read a forecast file for drawing: one initialisation, a map or a place at a time, in customary units."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gen.data.variables import Channel, parse_channel
from gen.grid import haversine
from gen.metrics.stores import ForecastStore
from gen.plot.units import display

__all__ = ["ForecastView", "parse_point"]

MAPPED = ("z500", "2t", "msl", "tp06")
LEAD_HOURS = (24, 72, 120, 240)
BATCH_BYTES = 64 * 1024 * 1024
MAX_ROWS = 361


class ForecastView:
    """One initialisation of a forecast file.

    Args:
        path: NetCDF file or Zarr store.
        init: initialisation in ISO 8601 (default: the first).
        members: numbers of the members to look at (default: all).

    Raises:
        ValueError: not a forecast file, or it has no such initialisation or member.
    """

    def __init__(self, path: Path, init: str | None = None, members: Sequence[int] | None = None) -> None:
        self._store = ForecastStore(path)
        self.path, self.attrs = path, self._store.attrs
        self.init = self._store.inits[0] if init is None else _time(init)
        if self.init not in self._store.inits:
            raise ValueError(f"{path} has no forecast from {self.init}; it has {_listed(self._store.inits)}")
        self.grid, self.of_members = self._store.grid, self._store.members
        self.numbers = sorted(set(members or range(self.of_members)))
        if absent := [m for m in self.numbers if not 0 <= m < self.of_members]:
            raise ValueError(f"{path} has no member {absent[0]}; it has 0 to {self.of_members - 1}")
        self.leads: NDArray[np.int64] = self._store.leads.astype("timedelta64[h]").astype(np.int64)
        stated = self.attrs.get("channels", "").split()  # not every variable has every level of the level axis
        self.codes = tuple(c.code for c in self._store.channels if not stated or c.code in stated)
        self._stride = -(-self.grid.shape[0] // MAX_ROWS)

    @property
    def latitude(self) -> NDArray[np.float64]:
        """Latitudes of the maps, ascending; every n-th row of a very fine grid."""
        return self.grid.latitude[:: self._stride]

    @property
    def longitude(self) -> NDArray[np.float64]:
        """Longitudes of the maps, ascending."""
        return self.grid.longitude[:: self._stride]

    @property
    def members(self) -> int:
        """Number of members looked at."""
        return len(self.numbers)

    def has(self, code: str) -> bool:
        """Return whether the file holds the channel."""
        return code in self.codes

    def valid(self, lead: int) -> np.datetime64:
        """Return the time at which the forecast with this lead time in hours is valid."""
        return self.init + np.timedelta64(lead, "h")

    def map(self, code: str, lead: int) -> NDArray[np.float64]:
        """Return [members, rows, columns] in the units of `display(code)`."""
        values = self._read(code, [lead])[:, 0]
        return display(code).convert(values[:, :: self._stride, :: self._stride])

    def series(self, code: str, row: int, column: int) -> NDArray[np.float64]:
        """Return [members, leads] at one point of the grid in the units of `display(code)`."""
        size = 4 * self.members * int(np.prod(self.grid.shape))
        count = max(1, BATCH_BYTES // size)
        parts = [self._read(code, self.leads[k : k + count]) for k in range(0, len(self.leads), count)]
        return display(code).convert(np.concatenate([part[:, :, row, column] for part in parts], axis=1))

    def nearest(self, lat: float, lon: float) -> tuple[int, int]:
        """Return row and column of the grid point nearest to a place.

        Raises:
            ValueError: the place lies outside the file's region.
        """
        rows, columns = np.meshgrid(self.grid.latitude, self.grid.longitude, indexing="ij")
        distance = haversine(lat, lon, rows, columns)
        row, column = np.unravel_index(int(np.argmin(distance)), distance.shape)
        if not self.grid.is_global:
            spacing = haversine(rows[0, 0], columns[0, 0], rows[1, 1], columns[1, 1])
            if distance.min() > spacing:
                south, north = self.grid.latitude[[0, -1]]
                west, east = self.grid.longitude[[0, -1]]
                raise ValueError(
                    f"point {lat:g},{lon:g} lies outside the file, which covers latitudes {south:g} to {north:g} and "
                    f"longitudes {west:g} to {east:g}"
                )
        return int(row), int(column)

    def choose_leads(self, hours: Sequence[int] | None) -> list[int]:
        """Return the asked lead times, or about 1, 3, 5 and 10 days.

        Raises:
            ValueError: the file has no such lead time.
        """
        if not hours:
            nearest = {int(self.leads[np.argmin(np.abs(self.leads - h))]) for h in LEAD_HOURS}
            return sorted(nearest)
        if absent := sorted(set(hours) - set(self.leads.tolist())):
            raise ValueError(f"{self.path} has no lead time {absent[0]} h; it has {_listed(self.leads)} h")
        return sorted(set(hours))

    def choose_variables(self, codes: Sequence[str] | None) -> list[str]:
        """Return the asked channels, or the usual ones that the file has.

        Raises:
            ValueError: the file has no such channel.
        """
        if not codes:
            return [code for code in MAPPED if self.has(code)] or list(self.codes[:1])
        wanted = list(dict.fromkeys(parse_channel(code).code for code in codes))
        if absent := [code for code in wanted if not self.has(code)]:
            raise ValueError(f"{self.path} has no {absent[0]}; it has {', '.join(self.codes)}")
        return wanted

    def heading(self) -> str:
        """Return who made the forecast: model, members, initialisation, and that it is synthetic."""
        model = self.attrs.get("model", "generative model")
        count = f"{self.members} member{'s' if self.members > 1 else ''}"
        if self.members < self.of_members:
            count = f"{count} of {self.of_members} ({_listed(np.asarray(self.numbers))})"
        return f"{model}, {count}, init {stamp(self.init)} - {self.mark()}"

    def mark(self) -> str:
        """Return the mark that every figure carries."""
        return "SYNTHETIC (simulated world)" if "simulated world" in self.attrs.get("warning", "") else "SYNTHETIC"

    def warning(self) -> str:
        """Return what the file warns of, as a sentence; may be empty."""
        text = self.attrs.get("warning", "")
        return text[:1].upper() + text[1:]

    def _read(self, code: str, leads: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float64]:
        channel: Channel = parse_channel(code)
        hours = np.asarray(leads).astype("timedelta64[h]")
        some = slice(self.numbers[0], self.numbers[-1] + 1)  # what lies between is read too, and dropped
        values = np.asarray(self._store.read(self.init, hours, channel, some), np.float64)
        return values[[m - some.start for m in self.numbers]]


def parse_point(text: str) -> tuple[float, float]:
    """Read "LAT,LON" in degrees.

    Raises:
        ValueError: not two numbers, or out of range.
    """
    match = re.fullmatch(r"\s*([-+]?[\d.]+)\s*,\s*([-+]?[\d.]+)\s*", text)
    try:
        lat, lon = (float(part) for part in match.groups()) if match else (np.nan, np.nan)
    except ValueError:
        lat, lon = np.nan, np.nan
    if not (-90 <= lat <= 90 and -180 <= lon <= 360):
        raise ValueError(f"point {text!r}: write LAT,LON in degrees, -90..90 and -180..360, for example 47.4,8.5")
    return lat, lon


def stamp(time: np.datetime64) -> str:
    """Write a time as 2024-01-01 06 UTC."""
    return f"{str(time.astype('datetime64[h]')).replace('T', ' ')} UTC"


def _time(text: str) -> np.datetime64:
    try:
        return np.datetime64(text, "h")
    except ValueError as error:
        raise ValueError(f"init {text!r} is not a date; write 2024-01-01 or 2024-01-01T12") from error


def _listed(values: NDArray[np.generic]) -> str:
    words = [str(v) for v in values]
    return ", ".join(words if len(words) <= 6 else [*words[:3], "...", *words[-2:]])
