"""Forecast stores: files with dims (member, init, lead, [level], latitude, longitude), read a piece at a time.

The names of the dimensions follow WeatherBench, CF or earth2studio; a store without a member dimension is a
deterministic forecast, an ensemble of one. Several files with different start dates are read as one.
"""

from __future__ import annotations

__all__ = ["ForecastFiles", "ForecastStore"]

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gen.data.variables import Channel, parse_channel
from gen.grid import LatLonGrid

AXES = {
    "member": ("number", "ensemble", "realization", "member", "sample"),
    "init": ("forecast_reference_time", "init_time", "time"),
    "lead": ("prediction_timedelta", "forecast_period", "lead_time", "step"),
    "level": ("level", "plev", "pressure", "isobaricInhPa", "air_pressure"),
    "latitude": ("latitude", "lat"),
    "longitude": ("longitude", "lon"),
}
REQUIRED = ("init", "lead", "latitude", "longitude")


class ForecastStore:
    """One NetCDF file or Zarr store of forecasts; nothing but coordinates is read before `read`.

    Args:
        path: file or folder.

    Raises:
        ValueError: when it cannot be opened or is not a forecast on a latitude-longitude grid.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._data = _open(self.path)
        self._axis = {role: name for role, names in AXES.items() if (name := self._find(names))}
        if missing := [role for role in REQUIRED if role not in self._axis]:
            dims = ", ".join(map(str, self._data.sizes))
            raise ValueError(f"{path} is not a forecast: no {' and no '.join(missing)} among its dimensions {dims}")
        self.inits = self._coordinate("init").astype("datetime64[h]")
        self.leads = self._coordinate("lead").astype("timedelta64[h]")
        self.members = int(self._data.sizes.get(self._axis.get("member", ""), 1))
        latitude, longitude = (self._coordinate(n).astype(np.float64) for n in ("latitude", "longitude"))
        if not _is_box(longitude):
            longitude = longitude % 360
        self._rows, self._columns = np.argsort(latitude), np.argsort(longitude)
        self.grid = LatLonGrid(latitude[self._rows], longitude[self._columns])
        self._place = self._channels()

    @property
    def attrs(self) -> dict[str, str]:
        """Return the global attributes as text."""
        return {str(key): str(value) for key, value in self._data.attrs.items()}

    @property
    def channels(self) -> tuple[Channel, ...]:
        """Return the channels in the order of the file."""
        return tuple(self._place)

    def read(self, init: np.datetime64, leads: np.ndarray, channel: Channel, members: slice = slice(None)) -> Tensor:
        """Return one channel of one start date, float32 [M, L, H, W], latitude and longitude ascending.

        Raises:
            ValueError: when the store does not hold what is asked for.
        """
        if channel not in self._place:
            raise ValueError(f"{self.path} lacks {channel.code}; it has {', '.join(c.code for c in self.channels)}")
        name, level = self._place[channel]
        where: dict[str, Any] = {
            self._axis["init"]: _position(self.inits, init, self.path),
            self._axis["lead"]: _slices(np.array([_position(self.leads, lead, self.path) for lead in leads])),
        }
        if level is not None:
            where[self._axis["level"]] = level
        if "member" in self._axis:
            where[self._axis["member"]] = members
        array = self._data[name].isel(where)
        order = [self._axis[a] for a in ("member", "lead", "latitude", "longitude") if self._axis.get(a) in array.dims]
        values = np.asarray(array.transpose(*order).values, dtype=np.float32)
        values = values if values.ndim == 4 else values[None]
        return torch.from_numpy(np.ascontiguousarray(values[..., self._rows, :][..., self._columns]))

    def _find(self, names: Sequence[str]) -> str | None:
        return next((n for n in names if n in self._data.dims and n in self._data.coords), None)

    def _coordinate(self, role: str) -> np.ndarray:
        values = np.asarray(self._data[self._axis[role]].values)
        if role == "lead" and not np.issubdtype(values.dtype, np.timedelta64):
            return np.asarray(values).astype("timedelta64[h]")
        return values

    def _channels(self) -> dict[Channel, tuple[str, int | None]]:
        needed = {self._axis["latitude"], self._axis["longitude"], self._axis["lead"]}
        place: dict[Channel, tuple[str, int | None]] = {}
        for array in map(str, self._data.data_vars):
            if not needed <= set(self._data[array].dims):
                continue
            if self._axis.get("level") not in self._data[array].dims:
                if channel := _channel(array):
                    place[channel] = (array, None)
                continue
            for k, level in enumerate(self._levels()):
                if channel := _channel(f"{array}@{level}"):
                    place[channel] = (array, k)
        if not place:
            raise ValueError(f"{self.path} has no variable that we know (it has {', '.join(map(str, self._data))})")
        return place

    def _levels(self) -> list[int]:
        level = self._data[self._axis["level"]]
        scale = 0.01 if level.attrs.get("units") == "Pa" else 1.0
        return [round(float(p) * scale) for p in level.values]


class ForecastFiles:
    """Several stores of one forecast system as one.

    Raises:
        ValueError: when grids or ensemble sizes differ or a start date occurs twice.
    """

    def __init__(self, paths: Sequence[str | Path]) -> None:
        if not paths:
            raise ValueError("no forecast files given; name at least one")
        stores = [ForecastStore(path) for path in paths]
        first = stores[0]
        for other in stores[1:]:
            if other.grid != first.grid or other.members != first.members:
                what = "grid" if other.grid != first.grid else "ensemble size"
                raise ValueError(f"{other.path} and {first.path} differ in {what}; score them separately")
        self.members, self.grid = first.members, first.grid
        self.channels = tuple(c for c in first.channels if all(c in s.channels for s in stores))
        self.leads = np.array([x for x in np.sort(first.leads) if all(x in s.leads for s in stores)])
        self._store: dict[np.datetime64, ForecastStore] = {}
        for store in stores:
            for init in store.inits:
                if init in self._store:
                    raise ValueError(f"start date {init} is in {self._store[init].path} and in {store.path}")
                self._store[init] = store
        self.inits = np.sort(np.array(list(self._store), dtype="datetime64[h]"))

    def read(self, init: np.datetime64, leads: np.ndarray, channel: Channel) -> Tensor:
        """Return one channel of one start date, float32 [M, L, H, W]."""
        return self._store[init].read(init, leads, channel)


def _open(path: Path) -> Any:
    """Open without asking xarray to find a reader: that loads every plugin, ecCodes among them, for one open.

    h5netcdf comes first: two HDF5 libraries on one file (netCDF4's own and h5py's) can lock each other out.
    """
    import xarray
    from xarray.backends import H5netcdfBackendEntrypoint, NetCDF4BackendEntrypoint, ZarrBackendEntrypoint

    if not path.exists():
        raise ValueError(f"{path}: no such forecast")
    engines = (ZarrBackendEntrypoint,) if path.is_dir() else (H5netcdfBackendEntrypoint, NetCDF4BackendEntrypoint)
    reasons = []
    for engine in engines:  # the second reads the classic format, where it is installed
        try:
            return xarray.open_dataset(path, engine=engine, chunks=None, decode_timedelta=True)
        except (ImportError, OSError, ValueError, KeyError) as error:
            reasons.append(" ".join(str(error).split())[:120])
    raise ValueError(f"{path} cannot be read as NetCDF or Zarr ({reasons[0]})")


def _is_box(longitude: np.ndarray) -> bool:
    """Return whether the columns can stay as they are: ascending, and of a circle only if it starts in [0, 360)."""
    ascending = bool((np.diff(longitude) > 0).all()) and longitude[-1] - longitude[0] < 360
    return ascending and longitude[-1] < 360 and (longitude[0] >= 0 or not LatLonGrid([-1, 1], longitude).is_periodic)  # type: ignore[arg-type]


def _channel(name: str) -> Channel | None:
    try:
        return parse_channel(name)
    except ValueError:
        return None


def _position(axis: np.ndarray, value: Any, path: Path) -> int:
    found = np.flatnonzero(axis == value)
    if not found.size:
        raise ValueError(f"{path} has no {value}; it has {axis.min()} to {axis.max()}")
    return int(found[0])


def _slices(indices: np.ndarray) -> Any:
    """Turn evenly ascending indices into a slice, which files read much faster."""
    step = np.diff(indices)
    if indices.size > 1 and (step == step[0]).all() and step[0] > 0:
        return slice(int(indices[0]), int(indices[-1]) + 1, int(step[0]))
    return indices
