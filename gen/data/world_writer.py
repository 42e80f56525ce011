"""Write a world: a Zarr store with WeatherBench names, chunk after chunk, to be continued after a kill.

The store is built beside its destination and renamed when it is complete, so that what has the name is whole. A small
file says how many chunks are finished; it is replaced after each, and a chunk that was being written is written again.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["WorldWriter"]

import numpy as np

from gen.data.sources import SourceError
from gen.data.variables import VARIABLES, Channel
from gen.fields import Field
from gen.grid import LatLonGrid

AXES = {
    "time": {"standard_name": "time", "units": "hours since 1970-01-01", "calendar": "proleptic_gregorian"},
    "latitude": {"standard_name": "latitude", "units": "degrees_north", "axis": "Y"},
    "longitude": {"standard_name": "longitude", "units": "degrees_east", "axis": "X"},
    "level": {"standard_name": "air_pressure", "units": "hPa", "positive": "down", "axis": "Z"},
}


class WorldWriter:
    """Write the states of a world in order; continues what an earlier call with the same `request` began.

    Args:
        out: Zarr store (format 3) to make: dims (time, [level], latitude, longitude), float32, chunks of `chunk` times
            with all levels, compressed with LZ4 after byte shuffling.
        channels: channels of the states; every upper-air variable has all levels that occur.
        grid: rows and columns.
        hours: times, hours since 1970-01-01.
        chunk: times in a chunk.
        request: what decides the content, JSON-ready.
        attributes: further attributes of the store.

    Raises:
        SourceError: when `out` exists and was made by another request.
    """

    def __init__(
        self,
        out: Path,
        channels: Sequence[Channel],
        grid: LatLonGrid,
        hours: np.ndarray,
        *,
        chunk: int,
        request: Mapping[str, Any],
        attributes: Mapping[str, Any],
    ) -> None:
        """Open the unfinished store or begin one."""
        self.out, self.channels, self.grid, self.hours, self.chunk = out, tuple(channels), grid, hours, chunk
        self.chunks = -(-len(hours) // chunk)
        self._levels = sorted({c.level for c in channels if c.level is not None})
        self._partial = out.with_name(f".{out.name}.partial")
        self._progress = out.with_name(f".{out.name}.progress")
        self._request = json.loads(json.dumps(dict(request)))
        self.complete = self._same(out)
        if not self.complete and not (self._progress.exists() and self._same(self._partial)):
            self._create(dict(attributes))

    @property
    def finished(self) -> int:
        """Return the number of chunks that are written."""
        return self.chunks if self.complete else int(json.loads(self._progress.read_text())["chunks"])

    def times(self, number: int) -> slice:
        """Return the index range of a chunk."""
        return slice(number * self.chunk, min((number + 1) * self.chunk, len(self.hours)))

    def write(self, number: int, states: np.ndarray) -> None:
        """Write the states [N, C, H, W] of chunk `number` and mark it as finished."""
        where = self.times(number)
        for name in dict.fromkeys(c.name for c in self.channels):
            rows = [i for i, c in enumerate(self.channels) if c.name == name]
            if self.channels[rows[0]].level is None:
                self._group[name][where] = states[:, rows[0]]
                continue
            rows.sort(key=lambda i: self.channels[i].level or 0)
            self._group[name][where] = states[:, rows]
        self._mark(number + 1)

    def write_static(self, field: Field) -> None:
        """Write fields without time."""
        for channel, values in zip(field.channels, field.values.numpy(), strict=True):
            self._array(channel.name, self.grid.shape, self.grid.shape, "latitude longitude")[:] = values

    def finish(self, attributes: Mapping[str, Any]) -> Path:
        """Give the complete store its name."""
        import zarr

        self._group.attrs.update({**attributes, "complete": True})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that format 3 does not specify consolidated metadata
            zarr.consolidate_metadata(self._partial)
        self._partial.replace(self.out)
        self._progress.unlink(missing_ok=True)
        self.complete = True
        return self.out

    def _same(self, path: Path) -> bool:
        """Return whether a store exists; refuse one made by another request."""
        import zarr

        if not path.exists():
            return False
        try:
            self._group: Any = zarr.open_group(path, mode="r+")
            made = self._group.attrs.get("request")
        except Exception:  # not Zarr, or killed while its metadata were being written
            made = None
        if made == self._request:
            return True
        if path == self.out:
            raise SourceError(f"{path} exists and was made by another request; choose another --out or remove it")
        if made is not None:
            raise SourceError(f"{path} is the unfinished work of another request; remove it or choose another --out")
        return False

    def _create(self, attributes: dict[str, Any]) -> None:
        import zarr

        shutil.rmtree(self._partial, ignore_errors=True)
        self._partial.parent.mkdir(parents=True, exist_ok=True)
        self._group = zarr.open_group(self._partial, mode="w", zarr_format=3)
        axes = {"time": self.hours, "latitude": self.grid.latitude, "longitude": self.grid.longitude}
        if self._levels:
            axes["level"] = np.array(self._levels, dtype=np.int64)
        for name, values in axes.items():
            array = self._group.create_array(name, shape=values.shape, dtype=values.dtype, dimension_names=[name])
            array[:] = values
            array.attrs.update(AXES[name])
        count, deep = len(self.hours), len(self._levels)
        for name in dict.fromkeys(c.name for c in self.channels):
            upper = VARIABLES[name].kind == "upper"
            inner = (deep, *self.grid.shape) if upper else self.grid.shape
            dims = f"time {'level ' if upper else ''}latitude longitude"
            self._array(name, (count, *inner), (self.chunk, *inner), dims)
        self._group.attrs.update({**attributes, "request": self._request})
        self._mark(0)

    def _array(self, name: str, shape: tuple[int, ...], chunks: tuple[int, ...], dims: str) -> Any:
        from zarr.codecs import BloscCodec

        array = self._group.create_array(
            name,
            shape=shape,
            chunks=chunks,
            dtype="float32",
            dimension_names=dims.split(),
            fill_value=float("nan"),
            compressors=BloscCodec(cname="lz4", clevel=5, shuffle="shuffle"),
            overwrite=True,
        )
        variable = VARIABLES[name]
        array.attrs.update({"units": variable.units, "long_name": variable.long_name})
        return array

    def _mark(self, chunks: int) -> None:
        fresh = self._progress.with_name(f"{self._progress.name}.new")
        fresh.write_text(json.dumps({"chunks": chunks}))
        os.replace(fresh, self._progress)
