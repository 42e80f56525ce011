"""Fields: values that never travel without their channels and coordinates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

__all__ = ["Field"]

import numpy as np
import torch
from torch import Tensor

from gen.data.variables import Channel
from gen.grid import LatLonGrid, Region

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True, eq=False)
class Field:
    """Maps in SI units.

    Args:
        values: [..., C, H, W].
        channels: what the channel axis holds.
        grid: the cells of the last two axes.
        dims: names of the leading axes.
        coords: coordinates of the leading axes, by name (not every axis needs one).

    Raises:
        ValueError: when shape and coordinates disagree.
    """

    values: Tensor
    channels: tuple[Channel, ...]
    grid: LatLonGrid
    dims: tuple[str, ...] = ()
    coords: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that every axis is accounted for."""
        object.__setattr__(self, "channels", tuple(self.channels))
        expected = (len(self.channels), *self.grid.shape)
        if tuple(self.values.shape[-3:]) != expected or self.values.ndim != 3 + len(self.dims):
            raise ValueError(
                f"values of {len(self.dims)} leading dims, {expected[0]} channels on a {expected[1]}x{expected[2]} "
                f"grid cannot have shape {tuple(self.values.shape)}"
            )
        for name, length in zip(self.dims, self.values.shape, strict=False):
            if name in self.coords and len(self.coords[name]) != length:
                raise ValueError(f"{name} has {length} entries but {len(self.coords[name])} coordinates")

    def select(self, channels: Sequence[Channel] | None = None, region: Region | None = None) -> Field:
        """Return some channels (in the order asked) and a box of the globe.

        Raises:
            ValueError: when a channel is not there or the region holds no cells.
        """
        out = self
        if channels is not None:
            if missing := [c.code for c in channels if c not in self.channels]:
                raise ValueError(f"no {', '.join(missing)}; the field has {', '.join(c.code for c in self.channels)}")
            index = [self.channels.index(c) for c in channels]
            out = replace(out, values=out.values[..., index, :, :], channels=tuple(channels))
        if region is not None:
            rows, columns = (torch.from_numpy(i) for i in out.grid.indices(region))
            out = replace(out, values=out.values[..., rows, :][..., columns], grid=out.grid.subset(region))
        return out

    def to_xarray(self) -> xr.Dataset:
        """Return a Dataset with WeatherBench names; upper-air variables get a `level` dimension in hPa.

        A variable that lacks a level which another one has is NaN there.
        """
        import xarray as xr

        levels = sorted({c.level for c in self.channels if c.level is not None})
        values = self.values.detach().cpu().numpy()
        arrays = {}
        for name in dict.fromkeys(c.name for c in self.channels):
            index = {c.level: i for i, c in enumerate(self.channels) if c.name == name}
            if None in index:
                dims, data = (*self.dims, "latitude", "longitude"), values[..., index[None], :, :]
            else:
                dims = (*self.dims, "level", "latitude", "longitude")
                blank = np.full(values.shape[:-3] + self.grid.shape, np.nan, values.dtype)
                maps = [values[..., index[p], :, :] if p in index else blank for p in levels]
                data = np.stack(maps, axis=-3)
            variable = next(c.variable for c in self.channels if c.name == name)
            attrs = {"units": variable.units, "long_name": variable.long_name}
            if variable.standard_name:
                attrs["standard_name"] = variable.standard_name
            arrays[name] = (dims, data, attrs)
        return xr.Dataset(arrays, coords=self._coordinates(levels))

    def _coordinates(self, levels: list[int]) -> dict[str, tuple[str, np.ndarray, dict[str, str]]]:
        north = {"units": "degrees_north", "standard_name": "latitude"}
        east = {"units": "degrees_east", "standard_name": "longitude"}
        out = {
            "latitude": ("latitude", self.grid.latitude, north),
            "longitude": ("longitude", self.grid.longitude, east),
        }
        if levels:
            pressure = {"units": "hPa", "standard_name": "air_pressure", "positive": "down"}
            out["level"] = ("level", np.array(levels), pressure)
        return out | {name: (name, np.asarray(v), {}) for name, v in self.coords.items() if name in self.dims}

    @classmethod
    def from_xarray(cls, dataset: xr.Dataset, channels: Sequence[Channel]) -> Field:
        """Take channels out of a Dataset with WeatherBench names and SI units, whatever the order of its axes.

        Raises:
            ValueError: when a variable or a level is missing, naming those present.
        """
        grid, dataset = _ascending(dataset)
        maps = [_channel_map(dataset, channel) for channel in channels]
        dims = tuple(dict.fromkeys(str(d) for m in maps for d in m.dims if d not in ("latitude", "longitude")))
        sizes = {d: dataset.sizes[d] for d in dims}
        whole = [m.expand_dims({d: n for d, n in sizes.items() if d not in m.dims}) for m in maps]
        arrays = [np.asarray(m.transpose(*dims, "latitude", "longitude"), dtype=np.float32) for m in whole]
        coords = {d: np.asarray(dataset[d]) for d in dims if d in dataset.coords}
        return cls(torch.from_numpy(np.stack(arrays, axis=len(dims))), tuple(channels), grid, dims, coords)


def _ascending(dataset: xr.Dataset) -> tuple[LatLonGrid, xr.Dataset]:
    if missing := [d for d in ("latitude", "longitude") if d not in dataset.dims]:
        have = ", ".join(map(str, dataset.dims))
        raise ValueError(f"the dataset has no {' and no '.join(missing)}; its dims are {have}")
    dataset = dataset.sortby(["latitude", "longitude"])
    return LatLonGrid(np.asarray(dataset["latitude"]), np.asarray(dataset["longitude"])), dataset


def _channel_map(dataset: xr.Dataset, channel: Channel) -> xr.DataArray:
    if channel.name not in dataset:
        raise ValueError(f"the dataset has no {channel.name}; it has {', '.join(sorted(map(str, dataset.data_vars)))}")
    array = dataset[channel.name]
    if channel.level is None:
        return array
    levels = np.atleast_1d(dataset["level"]).astype(float)
    if channel.level not in levels:
        raise ValueError(f"the dataset has no {channel.code}; its levels are {levels.tolist()} hPa")
    return array.sel(level=channel.level) if "level" in array.dims else array
