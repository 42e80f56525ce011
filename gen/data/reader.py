"""Random access to states in a Zarr store, whatever its axis order: simulated worlds, WeatherBench 2, ARCO-ERA5.

Whole chunks are read and transposed to [time, channel, latitude, longitude]: those of local stores straight from their
files (`gen.data.chunks`), others with Zarr, several variables at a time.
`total_precipitation_6hr` is had from hourly totals where the store has no such variable: the sum of the six totals that
end at the time, negative sums (rounding of packed totals) set to 0. So a time needs its five predecessors.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["StoreReader"]

import numpy as np
import torch
from torch import Tensor

from gen.data.chunks import ChunkFiles, direct
from gen.data.conventions import Slot, catalogue
from gen.data.sources import SourceError, summary
from gen.data.splits import Segments
from gen.data.stores import Store, covered_hours, open_store
from gen.data.variables import VARIABLES, Channel
from gen.fields import Field

Array = np.ndarray
HOURLY, SIX_HOURS = ("total_precipitation", None), "total_precipitation_6hr"
MAY_BE_MISSING = ("sea_surface_temperature",)  # not a number over land
THREADS = 8  # variables that are read at the same time


@dataclass(frozen=True)
class _Variable:
    """A variable of the store and the channels [(row of the result, index on the level axis)] that it gives."""

    array: Any
    order: tuple[int, ...]
    slot: Slot
    rows: list[tuple[int, int | None]]
    hourly: bool
    packing: tuple[float, float, Any]


class StoreReader:
    """Read channels of a Zarr store by time index; any number of threads may read.

    Args:
        path: a Zarr group (format 2 or 3) with the dims (time, [level], latitude, longitude) in any order, in
            WeatherBench or ECMWF names; or such a group that is open already.
        channels: the channels, in the order in which they are returned.
        every: keep the times whose hour since 1970 is a multiple of `every` (6: 00, 06, 12 and 18 UTC).

    Attributes:
        hours: the times that can be read, int64 hours since 1970-01-01 [N].
        grid: latitude and longitude ascending.
        chunk: times that are best read together, those of one chunk of the store.
        segments: stretches without a gap in time, [{"first": i, "stop": j}, ...], in order.

    Raises:
        SourceError: when axes cannot be used, or a variable, a level or the times are missing.
    """

    def __init__(self, path: str | Path | Store, channels: Sequence[Channel], every: int | None = None) -> None:
        """Look at the axes and look every channel up; no field is read yet."""
        store = path if isinstance(path, Store) else open_store(Path(path).expanduser())
        self.name, self.group, self._dataset = store.name, store.group, store.dataset
        self.channels = tuple(channels)
        try:
            self._found = catalogue(self._dataset)
        except SourceError as error:
            raise SourceError(f"{self.name} {error}") from None
        self.grid = self._found.axes.grid
        self._variables = self._look_up()
        axes = self._found.axes
        if axes.time is None or not axes.times.size:
            raise SourceError(
                f"{self.name} has no time axis; worlds have the dims (time, [level], latitude, longitude)"
            )
        every_hour = axes.times.astype(np.int64)
        if (np.diff(every_hour) <= 0).any():
            raise SourceError(f"{self.name} has times that do not ascend")
        self._stored = self._usable(every_hour, covered_hours(self._dataset.attrs), every)
        self.hours = every_hour[self._stored]
        self.stride = self._spacing(every)
        self._stored_chunk = self._chunk_length()
        self.segments = self._find_segments(every_hour.size)

    @property
    def chunk(self) -> int:
        """Return how many of the times lie in one chunk of the store."""
        step = int(np.diff(self._stored).min()) if len(self._stored) > 1 else 1
        return max(1, self._stored_chunk // step)

    def blocks(self, first: int, stop: int) -> list[tuple[int, int]]:
        """Return the index ranges of the chunks of the store that lie in [first, stop) as a whole."""
        number = self._stored // self._stored_chunk
        edges = [0, *(np.flatnonzero(np.diff(number)) + 1).tolist(), len(number)]
        return [(a, b) for a, b in zip(edges, edges[1:], strict=False) if first <= a and b <= stop]

    def read(self, where: slice) -> Tensor:
        """Return the states of `where` as float32 [N, C, H, W], SI units; NaN only where there is no sea.

        Raises:
            SourceError: when another channel holds NaN, with its name and time, or the store cannot be read.
        """
        stored = self._stored[where]
        out = np.empty((len(stored), len(self.channels), *self.grid.shape), dtype=np.float32)
        runs = _runs(stored)
        pieces = [piece for run in runs for piece in _pieces(run, self._stored_chunk)]
        slow = [v for v in self._variables if not isinstance(v.array, ChunkFiles)]
        for variable in (v for v in self._variables if isinstance(v.array, ChunkFiles)):
            for run in runs if variable.hourly else pieces:  # chunk by chunk: nothing is joined before it is copied
                self._fill(out, variable, run)
        if slow and runs:
            with ThreadPoolExecutor(THREADS) as pool:  # one pool per call: none survives a fork
                list(pool.map(lambda item: self._fill(out, *item), [(v, run) for v in slow for run in runs]))
        self._refuse_nan(out, self.hours[where])
        return torch.from_numpy(out)

    def static_field(self, names: Sequence[str]) -> Field:
        """Return fields without time [S, H, W] in SI units."""
        channels = tuple(Channel(name) for name in names)
        if absent := [c for c in channels if (c.name, None) not in self._found.slots]:
            raise SourceError(f"{self.name} lacks {summary(absent)}; it has {self._present()}")
        maps = [self._static(self._found.slots[c.name, None]) for c in channels]
        return Field(torch.from_numpy(np.stack(maps)), channels, self.grid)

    def static(self, names: Sequence[str]) -> Tensor:
        """Return static fields [S, H, W], each normalised to zero mean and unit variance over all rows."""
        return torch.stack([(f - f.mean()) / f.std() for f in self.static_field(names).values])

    def static_names(self) -> tuple[str, ...]:
        """Return the static fields that the store holds."""
        return tuple(n for n, v in VARIABLES.items() if v.kind == "static" and (n, None) in self._found.slots)

    def indices(self, begin: str, end: str) -> tuple[int, int]:
        """Return the half-open index range of the calendar interval [begin, end)."""
        limits = [np.datetime64(t, "h").astype(np.int64) for t in (begin, end)]
        first, stop = (int(i) for i in np.searchsorted(self.hours, limits))
        if stop <= first:
            raise SourceError(f"no times in [{begin}, {end}); the world covers {self.span()}")
        return first, stop

    def position(self, time: str | np.datetime64) -> int:
        """Return the index of one time.

        Raises:
            SourceError: when the store does not hold it, or it lacks hourly totals of the five hours before.
        """
        hour = int(np.datetime64(str(time), "h").astype(np.int64))
        index = int(np.searchsorted(self.hours, hour))
        if index < len(self.hours) and self.hours[index] == hour:
            return index
        known = self._found.axes.times.astype(np.int64)
        sums = hour in known and any(v.hourly for v in self._variables)
        why = f"{SIX_HOURS} needs the hourly totals of the five hours before; " if sums else ""
        raise SourceError(f"{self.name} has no states for {np.datetime64(hour, 'h')}: {why}it covers {self.span()}")

    def span(self) -> str:
        """Return the covered interval as text."""
        return " .. ".join(str(np.datetime64(int(h), "h")) for h in self.hours[[0, -1]])

    def _look_up(self) -> list[_Variable]:
        """Return the variables to read; each once, however many of its levels are asked for."""
        slots, rows, absent = self._found.slots, dict[str, list[tuple[int, int | None]]](), []
        chosen: dict[str, Slot] = {}
        for row, channel in enumerate(self.channels):
            key = (channel.name, channel.level)
            slot = slots.get(key) or (slots.get(HOURLY) if channel.name == SIX_HOURS else None)
            if slot is None:
                absent.append(channel)
                continue
            chosen[slot.variable] = slot
            rows.setdefault(slot.variable, []).append((row, slot.level_index))
        if absent:
            refused = [self._found.refused[c.name] for c in absent if c.name in self._found.refused]
            why = f" ({'; '.join(dict.fromkeys(refused))})" if refused else ""
            raise SourceError(f"{self.name} lacks {summary(absent)}{why}; it has {self._present()}")
        return [self._variable(slot, rows[name], slots) for name, slot in chosen.items()]

    def _variable(self, slot: Slot, rows: list[tuple[int, int | None]], slots: Any) -> _Variable:
        axes, array = self._found.axes, self._dataset[slot.variable]
        wanted = [d for d in (axes.time, axes.level, axes.latitude, axes.longitude) if d in array.dims]
        if extra := [str(d) for d in array.dims if d not in wanted]:
            raise SourceError(f"{self.name}: {slot.variable} has a dimension {extra[0]} that means nothing here")
        order = tuple(array.dims.index(d) for d in wanted)
        packing = tuple(array.encoding.get(k, d) for k, d in (("scale_factor", 1.0), ("add_offset", 0.0)))
        hourly = slot is slots.get(HOURLY)
        stored = self.group[slot.variable] if order[0] else direct(self.group[slot.variable])
        return _Variable(stored, order, slot, rows, hourly, (*packing, array.encoding.get("_FillValue")))

    def _present(self) -> str:
        return summary(sorted(Channel(*key) for key in self._found.slots if key[0] in VARIABLES))

    def _usable(self, hours: Array, covered: tuple[int, int] | None, every: int | None) -> Array:
        """Return the indices of the times that can be read."""
        good = np.ones(hours.size, dtype=bool)
        if covered is not None:
            good &= (hours >= covered[0]) & (hours <= covered[1])
        if any(v.hourly for v in self._variables):
            known = good.copy()
            good[:5] = False
            good[5:] &= (hours[5:] - hours[:-5] == 5) & known[:-5]
            if not good.any():
                raise SourceError(f"{self.name}: {SIX_HOURS} needs six hourly totals in a row, which are nowhere")
        if every is not None:
            if every < 1:
                raise SourceError(f"every must be at least one hour; got {every}")
            good &= hours % every == 0
        if not good.any():
            raise SourceError(f"{self.name} has no times that are multiples of {every} h")
        return np.flatnonzero(good)

    def _spacing(self, every: int | None) -> int:
        """Return the hours between neighbouring times."""
        return int(np.diff(self.hours).min()) if len(self.hours) > 1 else every or 1

    def _chunk_length(self) -> int:
        """Return the number of times in a chunk of the first variable."""
        if not self._variables:
            return 1
        first = self._variables[0]
        return int(first.array.chunks[first.order[0]])

    def _find_segments(self, count: int) -> list[dict[str, int]]:
        """Cut where times are missing and where the store states that another atmosphere begins."""
        stated = self.group.attrs.get("segments")
        ranges = tuple((int(s["first"]), int(s["stop"])) for s in stated) if stated else ((0, count),)
        number = Segments(ranges).number(self._stored)
        cuts = np.flatnonzero((np.diff(self.hours) != self.stride) | (np.diff(number) != 0)) + 1
        edges = [0, *cuts.tolist(), len(self.hours)]
        return [{"first": a, "stop": b} for a, b in zip(edges, edges[1:], strict=False)]

    def _fill(self, out: Array, variable: _Variable, run: tuple[slice, slice]) -> None:
        """Read one variable at the stored times `run[1]` into the rows `run[0]` of `out`."""
        target, stored = run
        if variable.hourly:
            out[target, variable.rows[0][0]] = self._six_hours(variable, stored)
            return
        levels = [level for _, level in variable.rows if level is not None]
        low = min(levels, default=0)
        block = self._load(variable, stored, slice(low, max(levels) + 1) if levels else None)
        for row, level in variable.rows:
            out[target, row] = block if level is None else block[:, level - low]

    def _six_hours(self, variable: _Variable, stored: slice) -> Array:
        """Return the sums of the six hourly totals that end at the stored times, at least 0."""
        step = stored.step or 1
        if step > 6:
            parts = [self._load(variable, slice(i - 5, i + 1), None) for i in range(stored.start, stored.stop, step)]
            sums = np.stack([part.sum(axis=0, dtype=np.float64) for part in parts])
        else:
            totals = self._load(variable, slice(stored.start - 5, stored.stop), None).astype(np.float64)
            windows = np.lib.stride_tricks.sliding_window_view(totals, 6, axis=0)[::step]
            sums = windows.sum(axis=-1)
        return np.maximum(sums, 0.0)

    def _load(self, variable: _Variable, times: slice, levels: slice | None) -> Array:
        """Return part of a variable [time, (level), latitude, longitude] in SI units, a view where possible."""
        axes = self._found.axes
        picks = (times, *(() if len(variable.order) < 4 else (levels or slice(None),)), slice(None), slice(None))
        selection = [slice(None)] * len(picks)
        for pick, place in zip(picks, variable.order, strict=True):
            selection[place] = pick
        block = self._get(variable, tuple(selection)).transpose(variable.order)
        block = _unpack(block, *variable.packing)
        block = block[..., _order(axes.rows), :][..., _order(axes.columns)]
        slot = variable.slot
        return block if (slot.factor, slot.offset) == (1.0, 0.0) else block * slot.factor + slot.offset

    def _get(self, variable: _Variable, selection: tuple[slice, ...]) -> Array:
        try:
            return np.asarray(variable.array[selection])
        except Exception as error:  # codecs, file systems and the clients of cloud stores each have their own
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise SourceError(f"{self.name}: {variable.slot.variable} cannot be read: {reason}") from error

    def _static(self, slot: Slot) -> Array:
        axes, array = self._found.axes, self._dataset[slot.variable]
        if array.ndim != 2:
            raise SourceError(f"{self.name}: {slot.variable} is no static field; its dims are {', '.join(array.dims)}")
        values = np.asarray(array.transpose(axes.latitude, axes.longitude).values, dtype=np.float64)
        return np.asarray(values[np.ix_(axes.rows, axes.columns)] * slot.factor + slot.offset, dtype=np.float32)

    def _refuse_nan(self, out: Array, hours: Array) -> None:
        """Raise for the first map with NaN or infinity; sums over the maps are enough to see them."""
        sums = out.sum(axis=(2, 3), dtype=np.float64)
        if np.isfinite(sums).all():
            return
        for time, row in np.argwhere(~np.isfinite(sums)):
            channel, values = self.channels[row], out[time, row]
            if channel.name not in MAY_BE_MISSING or np.isinf(values).any():
                count, when = int((~np.isfinite(values)).sum()), np.datetime64(int(hours[time]), "h")
                raise SourceError(
                    f"{self.name}: {channel.code} at {when} has NaN or infinity in {count} of {values.size} cells"
                )


def _runs(stored: Array) -> list[tuple[slice, slice]]:
    """Cut ascending indices into runs of equal steps: [(slice of the result, slice of the store)]."""
    runs, first = [], 0
    while first < len(stored):
        step = int(stored[first + 1] - stored[first]) if first + 1 < len(stored) else 1
        stop = first + 1
        while stop < len(stored) and stored[stop] - stored[stop - 1] == step:
            stop += 1
        runs.append((slice(first, stop), slice(int(stored[first]), int(stored[stop - 1]) + 1, step)))
        first = stop
    return runs


def _pieces(run: tuple[slice, slice], length: int) -> list[tuple[slice, slice]]:
    """Cut a run at the edges of chunks of `length` times."""
    target, stored = run
    index = np.arange(stored.start, stored.stop, stored.step)
    edges = [0, *(np.flatnonzero(np.diff(index // length)) + 1).tolist(), len(index)]
    return [
        (slice(target.start + a, target.start + b), slice(int(index[a]), int(index[b - 1]) + 1, stored.step))
        for a, b in zip(edges, edges[1:], strict=False)
    ]


def _order(index: Array) -> slice | Array:
    """Return the slice that an index array is, where it is one: slices make views, arrays copies."""
    if np.array_equal(index, np.arange(len(index))):
        return slice(None)
    return slice(None, None, -1) if np.array_equal(index, np.arange(len(index))[::-1]) else index


def _unpack(block: Array, scale: float, offset: float, fill: Any) -> Array:
    """Undo the packing of CF: stored * scale + offset, NaN where the stored value is the fill value."""
    missing = None if fill is None or np.isnan(fill) else block == fill
    if (scale, offset) != (1.0, 0.0):
        block = block * np.float64(scale) + np.float64(offset)
    return block if missing is None else np.where(missing, np.nan, block)
