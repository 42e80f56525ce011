"""A source over xarray Datasets: NetCDF and Zarr files, GRIB messages, cloud stores.

Reading is by whole time chunks, kept in a bounded cache, so that walking through neighbouring times reads each chunk of
a store once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

__all__ = ["DatasetSource", "nearest"]

import numpy as np
import torch

from gen.data.cache import ArrayCache
from gen.data.conventions import Key, Slot, catalogue
from gen.data.regrid import regrid_maps
from gen.data.sources import SourceError, summary
from gen.data.supply import SURFACE, Supply, Way
from gen.data.variables import VARIABLES, Channel
from gen.fields import Field
from gen.grid import LatLonGrid

if TYPE_CHECKING:
    import xarray as xr

CACHE_BYTES = 256 * 1024**2
MAY_BE_MISSING = ("sea_surface_temperature",)  # not a number over land
PLAUSIBLE = {  # range of a map's mean, checked where a file states no units
    "temperature": (150.0, 350.0),
    "2m_temperature": (200.0, 340.0),
    "sea_surface_temperature": (260.0, 320.0),
    "mean_sea_level_pressure": (8e4, 1.2e5),
    "surface_pressure": (4e4, 1.2e5),
    "specific_humidity": (0.0, 0.04),
    "total_precipitation_6hr": (-1e-6, 0.1),
    "geopotential": (-5e3, 6e5),
}


class DatasetSource:
    """Read states from one or more Datasets on one grid (see `gen.data.sources.Source`).

    Args:
        name: what messages call the source.
        parts: the Datasets; several when, as in GRIB files, variables come with different axes.
        fill: value by channel code for channels that cannot be had otherwise.
        orography: geopotential at the surface from elsewhere, a field with the channel `zs`.
        synthetic: whether the data are simulated; by default what the attribute `synthetic` says.

    Raises:
        SourceError: when axes, times or names cannot be used.
    """

    def __init__(
        self,
        name: str,
        parts: Sequence[xr.Dataset],
        *,
        fill: Mapping[str, float] | None = None,
        orography: Field | None = None,
        synthetic: bool | None = None,
    ) -> None:
        """Look at the axes and names; no field is read yet."""
        self.name, self._parts = name, list(parts)
        try:
            self._catalogues = [catalogue(part, i) for i, part in enumerate(parts)]
        except SourceError as error:
            raise SourceError(f"{name} {error}") from None
        self.grid = self._one_grid()
        self._slots: dict[Key, Slot] = {}
        for found in self._catalogues:
            self._slots |= {key: slot for key, slot in found.slots.items() if key not in self._slots}
        self._times = self._common_times()
        self.members = max(c.axes.members for c in self._catalogues)
        marks = [str(part.attrs.get("synthetic", "")).lower() for part in parts]
        self.synthetic = any(m in ("true", "1") for m in marks) if synthetic is None else synthetic
        self.notes = list(dict.fromkeys(c.axes.note for c in self._catalogues if c.axes.note))
        self._orography = orography
        self._add_six_hour_precipitation()
        refused = {k: v for c in self._catalogues for k, v in c.refused.items() if (k, None) not in self._slots}
        self._supply = Supply(list(self._slots), fill or {}, orography is not None, refused)
        self._cache = ArrayCache(CACHE_BYTES)

    def times(self) -> np.ndarray:
        """Return the valid times, datetime64[h], ascending."""
        return self._times

    def channels(self) -> tuple[Channel, ...]:
        """Return the channels that lie in the files."""
        return tuple(sorted(Channel(*key) for key in self._slots if key[0] in VARIABLES))

    def missing(self, channels: Sequence[Channel]) -> tuple[Channel, ...]:
        """Return those of `channels` that can neither be read nor derived nor filled."""
        return tuple(c for c in channels if self._supply.way(c) is None)

    def read(
        self, time: np.datetime64, channels: Sequence[Channel], grid: LatLonGrid | None = None, member: int = 0
    ) -> Field:
        """Return one state [C, H, W].

        Args:
            time: valid time; it must be one of `times()`.
            channels: the channels, in the order in which they are returned.
            grid: grid of the result, by conservative regridding (default: the source's own).
            member: member of an ensemble analysis.

        Raises:
            SourceError: when the time, a channel or the member is not there, or the data hold NaN.
        """
        ways = self._ways(channels)
        if not 0 <= member < self.members:
            raise SourceError(f"{self.name} has no member {member}: it has {self.members} (0 to {self.members - 1})")
        time = time.astype("datetime64[h]")
        if time not in self._times:
            raise SourceError(f"{self.name} has no data for {time}; {nearest(self._times, time)}")
        grid = self.grid if grid is None else grid
        maps = self._maps({key for way in ways for key in way.inputs}, time, member, grid)
        values = np.stack([np.broadcast_to(way.combine(maps), grid.shape) for way in ways])
        self.notes += [n for n in dict.fromkeys(way.note for way in ways) if n and n not in self.notes]
        coords = {"time": np.array(time), "member": np.array(member)}
        return Field(torch.from_numpy(values.astype(np.float32)), tuple(channels), grid, (), coords)

    def static(self, channels: Sequence[Channel], grid: LatLonGrid | None = None) -> Field:
        """Return fields without time [C, H, W], such as the orography; of varying ones the first time is taken."""
        ways, grid = self._ways(channels), self.grid if grid is None else grid
        time = self._times[0] if self._times.size else np.datetime64(0, "h")
        maps = self._maps({key for way in ways for key in way.inputs}, time, 0, grid)
        values = np.stack([np.broadcast_to(way.combine(maps), grid.shape) for way in ways])
        return Field(torch.from_numpy(values.astype(np.float32)), tuple(channels), grid)

    def reserve(self, channels: Sequence[Channel], states: int) -> None:
        """Let the cache hold the chunks of that many distant states, within a quarter of the free memory."""
        import psutil

        keys = {key for way in self._ways(channels) for key in way.inputs if key in self._slots}
        wanted = 2 * states * sum({s.variable: self._chunk_bytes(s) for s in map(self._slots.get, keys) if s}.values())
        self._cache.limit = max(self._cache.limit, min(wanted, psutil.virtual_memory().available // 4))

    def _chunk_bytes(self, slot: Slot) -> int:
        """Return the bytes of one time chunk of a variable."""
        array = self._parts[slot.part][slot.variable]
        axes = self._catalogues[slot.part].axes
        others = [n for d, n in array.sizes.items() if d not in (axes.time, axes.member, axes.lead)]
        return _chunk(array, axes.time) * int(np.prod(others)) * array.dtype.itemsize

    def _ways(self, channels: Sequence[Channel]) -> list[Way]:
        ways = [self._supply.way(channel) for channel in channels]
        if absent := [c for c, way in zip(channels, ways, strict=True) if way is None]:
            why = _reasons({c.code: self._supply.reason(c) for c in absent})
            raise SourceError(f"{self.name} lacks {summary(absent)}{why}; it has {summary(self.channels())}")
        return [way for way in ways if way is not None]

    def _maps(self, keys: set[Key], time: np.datetime64, member: int, grid: LatLonGrid) -> dict[Key, np.ndarray]:
        """Return the maps `keys` at a time on `grid`."""
        maps: dict[Key, np.ndarray] = {}
        for key in sorted(keys & set(self._slots), key=str):  # one at a time: 84 maps at 0.25 degrees are 700 MB
            limit = VARIABLES[key[0]].minimum if key[0] in VARIABLES else 0.0
            maps[key] = self._regrid(self._raw(key, time, member)[None], grid, [limit])[0]
        if SURFACE in keys and SURFACE not in maps and self._orography is not None:
            surface = self._orography.select([Channel("geopotential_at_surface")])
            maps[SURFACE] = regrid_maps(surface.values.double().numpy(), surface.grid, grid)[0]
        return maps

    def _regrid(self, raw: np.ndarray, grid: LatLonGrid, limits: Sequence[float | None]) -> np.ndarray:
        try:
            return regrid_maps(raw, self.grid, grid, limits)
        except ValueError as error:
            raise SourceError(f"{self.name}: {error}") from None

    def _raw(self, key: Key, time: np.datetime64, member: int) -> np.ndarray:
        """Return one map in SI units on the source's grid."""
        slot = self._slots[key]
        axes = self._catalogues[slot.part].axes
        if axes.time is None:
            values = self._map(slot, None, member)
        else:
            steps = time - np.arange(slot.steps)[::-1].astype("timedelta64[h]")
            if absent := [t for t in steps if t not in axes.times]:
                raise SourceError(f"{self.name}: {key[0]} at {time} needs the hourly totals of {absent[0]}")
            indices = [int(np.flatnonzero(axes.times == t)[0]) for t in steps]
            values = np.sum([self._map(slot, i, member) for i in indices], axis=0)
        values = values[np.ix_(axes.rows, axes.columns)] * slot.factor + slot.offset
        self._check(key, slot, values, time)
        if slot.steps > 1:
            values = np.maximum(values, 0.0)  # packed totals can be slightly negative
        return values

    def _map(self, slot: Slot, index: int | None, member: int) -> np.ndarray:
        """Return one map [latitude, longitude] in the order and units of the file."""
        array = self._parts[slot.part][slot.variable]
        axes = self._catalogues[slot.part].axes
        index = index if axes.time in array.dims else None
        length = _chunk(array, axes.time)
        number = 0 if index is None else index // length
        block = self._block(slot, number, length, member)
        values = block if index is None else block[index - number * length]
        if slot.level_index is not None:
            values = values[slot.level_index]
        return np.asarray(values, dtype=np.float64)

    def _block(self, slot: Slot, number: int, length: int, member: int) -> np.ndarray:
        """Return a time chunk of a variable [time, level, latitude, longitude], from the cache when it is there."""
        key = (slot.part, slot.variable, member, number)
        return self._cache.get(key, lambda: self._load(slot, slice(number * length, (number + 1) * length), member))

    def _load(self, slot: Slot, times: slice, member: int) -> np.ndarray:
        """Read part of a variable [time, level, latitude, longitude], without the axes it does not have."""
        array = self._parts[slot.part][slot.variable]
        axes = self._catalogues[slot.part].axes
        picks = {axes.time: times, axes.member: member, axes.lead: axes.lead_index}
        piece = array.isel({d: pick for d, pick in picks.items() if d in array.dims})
        order = [d for d in (axes.time, axes.level, axes.latitude, axes.longitude) if d in piece.dims]
        if extra := [str(d) for d in piece.dims if d not in order]:
            raise SourceError(f"{self.name}: {slot.variable} has a dimension {extra[0]} that means nothing here")
        try:
            return np.asarray(piece.transpose(*order).values)
        except (OSError, RuntimeError, ValueError, KeyError, EOFError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise SourceError(f"{self.name}: {slot.variable} cannot be read: {reason}") from error

    def _check(self, key: Key, slot: Slot, values: np.ndarray, time: np.datetime64) -> None:
        code = key[0] if key[0] not in VARIABLES else Channel(*key).code
        if key[0] not in MAY_BE_MISSING and not np.isfinite(values).all():
            count = int((~np.isfinite(values)).sum())
            raise SourceError(f"{self.name}: {code} at {time} has NaN or infinity in {count} of {values.size} cells")
        low, high = PLAUSIBLE.get(key[0], (-np.inf, np.inf))
        if not slot.stated and not low <= (mean := float(np.nanmean(values))) <= high:
            units = VARIABLES[key[0]].units
            raise SourceError(
                f"{self.name}: {slot.variable} has a mean of {mean:.4g}, which cannot be {units}; "
                "the file states no units: add the attribute `units`"
            )

    def _one_grid(self) -> LatLonGrid:
        grids = [c.axes.grid for c in self._catalogues]
        if not grids:
            raise SourceError(f"{self.name} holds no fields")
        if different := [g for g in grids if g != grids[0]]:
            raise SourceError(f"{self.name} holds fields on different grids, {grids[0].shape} and {different[0].shape}")
        return grids[0]

    def _common_times(self) -> np.ndarray:
        """Return the times of all parts that have some."""
        used = {slot.part for slot in self._slots.values()}
        found = [c.axes.times for i, c in enumerate(self._catalogues) if i in used and c.axes.times.size]
        if not found:
            return np.empty(0, "datetime64[h]")
        common = np.unique(found[0])
        for times in found[1:]:
            common = np.intersect1d(common, times)
        if not common.size:
            raise SourceError(f"{self.name} has no time at which all of its variables are there")
        return common

    def _add_six_hour_precipitation(self) -> None:
        """Let six hourly totals stand for the six-hour total."""
        hourly, wanted = ("total_precipitation", None), ("total_precipitation_6hr", None)
        if hourly not in self._slots or wanted in self._slots:
            return
        slot = self._slots[hourly]
        times = self._catalogues[slot.part].axes.times
        if times.size >= 6 and (np.diff(times) == np.timedelta64(1, "h")).any():
            self._slots[wanted] = Slot(**{**vars(slot), "steps": 6})


def nearest(times: np.ndarray, wanted: np.datetime64) -> str:
    """Return the times around `wanted` as text."""
    if not times.size:
        return "it has no times at all"
    before, after = times[times < wanted][-1:], times[times > wanted][:1]
    near = [str(t) for t in (*before, *after)]
    return f"the nearest {'times are' if len(near) > 1 else 'time is'} {' and '.join(near)}"


def _reasons(reasons: Mapping[str, str]) -> str:
    """Return reasons by channel code as text, each reason once."""
    groups: dict[str, list[str]] = {}
    for code, reason in reasons.items():
        if reason:
            groups.setdefault(reason, []).append(code)
    text = "; ".join(f"{', '.join(codes)}: {reason}" for reason, codes in groups.items())
    return f" ({text})" if text else ""


def _chunk(array: xr.DataArray, time: str | None) -> int:
    """Return how many times lie in one chunk of the file; 1 where chunks are unknown or too large to keep."""
    if time not in array.dims:
        return 1
    sizes = array.encoding.get("chunks") or array.encoding.get("chunksizes") or ()
    place = array.dims.index(time)
    length = int(sizes[place]) if len(sizes) == array.ndim else 1
    per_time = array.size // max(1, array.sizes[time]) * array.dtype.itemsize
    return length if length * per_time <= CACHE_BYTES // 4 else 1
