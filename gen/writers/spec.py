"""What a forecast file holds and how its arrays are named, ordered and cut into chunks, whatever the container.

A `FileSpec` says what is written; `plan(spec)` turns it into `ArrayPlan`s, one per array of the file. The first three
axes of every data array are member, initialisation and lead, and a chunk holds one member of one initialisation, so a
block of members can be written, repeated or resumed on its own.

Layouts (names, order of latitude, one array per variable or per channel) follow the readers they are made for:
WeatherBench-X defaults, CF-1.11 with CMIP-like axis names, and the earth2studio coordinate system.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from gen.data.variables import VARIABLES, Channel
from gen.grid import LatLonGrid

__all__ = ["HEIGHTS", "LAYOUTS", "ArrayPlan", "FileSpec", "Layout", "LayoutName", "WriterError", "levels", "plan"]

T = TypeVar("T")
LayoutName = Literal["weatherbench", "cf", "earth2studio"]

CHUNK_BYTES = 128 * 1024
SHARD_BYTES = 256 * 1024 * 1024
DEFAULT_KEEP_BITS = 12
KEEP_BITS = {  # mantissa bits of float32 that "small" files keep: 0.5 m2/s2, 0.01 K, 1 Pa, 0.01 m/s, 0.1 %
    "geopotential": 15,
    "temperature": 14,
    "2m_temperature": 14,
    "sea_surface_temperature": 14,
    "mean_sea_level_pressure": 15,
    "surface_pressure": 15,
    "u_component_of_wind": 10,
    "v_component_of_wind": 10,
    "10m_u_component_of_wind": 10,
    "10m_v_component_of_wind": 10,
    "vertical_velocity": 9,
    "specific_humidity": 9,
    "total_precipitation_6hr": 9,
}
EARTH2STUDIO_NAMES = {"2t": "t2m", "10u": "u10m", "10v": "v10m"}
CF_NAMES = {  # CMIP's names; CF wants names that begin with a letter
    "geopotential": "phi",
    "specific_humidity": "hus",
    "temperature": "ta",
    "u_component_of_wind": "ua",
    "v_component_of_wind": "va",
    "vertical_velocity": "wap",
    "10m_u_component_of_wind": "uas",
    "10m_v_component_of_wind": "vas",
    "2m_temperature": "tas",
    "mean_sea_level_pressure": "psl",
    "surface_pressure": "ps",
    "sea_surface_temperature": "tos",
}
HEIGHTS = {"2m_temperature": 2, "10m_u_component_of_wind": 10, "10m_v_component_of_wind": 10}


class WriterError(ValueError):
    """Say in one line why a forecast file cannot be written or resumed, and what to do."""


@dataclass(frozen=True)
class Layout:
    """Names of the axes of a convention; `flat` writes one array per channel, `descending` puts north first."""

    member: str
    init: str
    lead: str
    level: str
    latitude: str
    longitude: str
    valid: str
    flat: bool = False
    descending: bool = False
    lead_first: bool = False  # lead before initialisation: CF wants other axes left of the time axis
    heights: bool = False  # name variables as CMIP does and add the scalar coordinate "height" of 2 m and 10 m ones


LAYOUTS: dict[str, Layout] = {
    "weatherbench": Layout("number", "time", "prediction_timedelta", "level", "latitude", "longitude", "valid_time"),
    "cf": Layout(
        "realization",
        "forecast_reference_time",
        "forecast_period",
        "plev",
        "lat",
        "lon",
        "time",
        lead_first=True,
        heights=True,
    ),  # fmt: skip
    "earth2studio": Layout(
        "ensemble", "time", "lead_time", "level", "lat", "lon", "valid_time", flat=True, descending=True
    ),
}


@dataclass(frozen=True)
class FileSpec:
    """Describe a forecast file completely: two equal specs give files with the same arrays.

    Args:
        channels: channels in the order of the values' channel axis, SI units.
        grid: the grid of the values, latitude ascending.
        members: ensemble size.
        inits: initialisation times, datetime64, ascending and distinct.
        leads: lead times, timedelta64, whole hours, ascending and distinct.
        attrs: global attributes (provenance); added to the ones every file gets.
        layout: "weatherbench", "cf" or "earth2studio".
        latent: shape (channels, rows, columns) when latents instead of fields are written; `channels` and `grid`
            then say into what they decode.
    """

    channels: tuple[Channel, ...]
    grid: LatLonGrid
    members: int
    inits: NDArray[np.datetime64]
    leads: NDArray[np.timedelta64]
    attrs: dict[str, str] = field(default_factory=dict)
    layout: LayoutName = "weatherbench"
    latent: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(self.channels))
        object.__setattr__(self, "inits", np.atleast_1d(np.asarray(self.inits, "datetime64[h]")))
        object.__setattr__(self, "leads", np.atleast_1d(np.asarray(self.leads, "timedelta64[h]")))
        if self.layout not in LAYOUTS:
            raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}; got {self.layout!r}")
        if self.members < 1:
            raise ValueError(f"members must be at least 1; got {self.members}")
        if not self.channels or len(set(self.channels)) != len(self.channels):
            raise ValueError("channels must be distinct and at least one")
        for name, axis in (("inits", self.inits), ("leads", self.leads)):
            if axis.size == 0 or np.any(np.diff(axis.astype(np.int64)) <= 0):
                raise ValueError(f"{name} must be ascending, distinct and at least one; got {axis.tolist()}")

    @property
    def value_shape(self) -> tuple[int, int, int]:
        """Shape (channels, rows, columns) of the values of one member at one lead time."""
        return self.latent or (len(self.channels), *self.grid.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all values as float32, before compression."""
        return self.members * len(self.inits) * len(self.leads) * math.prod(self.value_shape) * 4

    def describe(self) -> dict[str, object]:
        """Return what decides the arrays (not the attributes) as JSON values, for fingerprints and messages."""
        return {
            "channels": [channel.code for channel in self.channels],
            "grid": self.grid.to_dict(),
            "members": self.members,
            "inits": [str(t) for t in self.inits],
            "leads": self.leads.astype(np.int64).tolist(),
            "layout": self.layout,
            "latent": list(self.latent) if self.latent else None,
        }


@dataclass(frozen=True)
class ArrayPlan:
    """One data array of a file.

    Attributes:
        name: name in the file.
        dims: dimension names in file order.
        shape: full shape.
        chunks: chunk shape; one member, one initialisation, whole maps.
        shard_leads: leads of one shard (a multiple of the chunk's), for containers that have shards.
        index: channel of the values for each level [levels], -1 where the variable has no such level.
        attrs: attributes.
        keep_bits: mantissa bits a rounded file keeps.
        flip: write rows from north to south.
        lead_axis: position of the lead axis, 1 or 2; member comes first and initialisation takes the other place.
    """

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    shard_leads: int
    index: tuple[int, ...]
    attrs: dict[str, str]
    keep_bits: int = DEFAULT_KEEP_BITS
    flip: bool = False
    lead_axis: int = 2

    def place(self, member: int, init: int, lead: int) -> tuple[int, int, int]:
        """Return the first three indices in file order."""
        return (member, init, lead) if self.lead_axis == 2 else (member, lead, init)

    @property
    def leads(self) -> int:
        """Number of lead times."""
        return self.shape[self.lead_axis]

    @property
    def chunk_leads(self) -> int:
        """Lead times of one chunk."""
        return self.chunks[self.lead_axis]

    @property
    def shards(self) -> tuple[int, ...]:
        """Shape of a shard."""
        return (*self.place(1, 1, self.shard_leads), *self.shape[3:])

    @property
    def level_chunks(self) -> int:
        """Number of chunks along the level axis (1 without that axis)."""
        return -(-len(self.index) // self.chunk_levels)

    @property
    def chunk_levels(self) -> int:
        """Levels (or latent channels) of one chunk."""
        return self.chunks[3] if len(self.shape) == 6 else 1


def plan(spec: FileSpec) -> tuple[ArrayPlan, ...]:
    """Return the data arrays of a file, in file order."""
    layout = LAYOUTS[spec.layout]
    if spec.latent:
        return (_latent_plan(spec, layout),)
    if layout.flat:
        return tuple(_flat_plan(spec, layout, i) for i in range(len(spec.channels)))
    names = dict.fromkeys(channel.name for channel in spec.channels)
    return tuple(_variable_plan(spec, layout, name) for name in names)


def levels(spec: FileSpec) -> NDArray[np.int64]:
    """Return all pressure levels of the file in hPa, ascending; empty for flat and latent files."""
    if spec.latent or LAYOUTS[spec.layout].flat:
        return np.empty(0, np.int64)
    return np.unique([c.level for c in spec.channels if c.level is not None]).astype(np.int64)


def _variable_plan(spec: FileSpec, layout: Layout, name: str) -> ArrayPlan:
    place = {c.level: i for i, c in enumerate(spec.channels) if c.name == name}
    index = (place[None],) if None in place else tuple(place.get(int(p), -1) for p in levels(spec))
    stored = CF_NAMES.get(name, name) if layout.heights else name
    return _grid_plan(spec, layout, stored, index, upper=None not in place)


def _flat_plan(spec: FileSpec, layout: Layout, i: int) -> ArrayPlan:
    code = spec.channels[i].code
    return _grid_plan(spec, layout, EARTH2STUDIO_NAMES.get(code, code), (i,), upper=False)


def _grid_plan(spec: FileSpec, layout: Layout, stored: str, index: tuple[int, ...], upper: bool) -> ArrayPlan:
    channel = spec.channels[max(index)]
    dims = _axes(layout.member, layout.init, layout.lead, layout)
    return ArrayPlan(
        name=stored,
        dims=(*dims, *((layout.level,) if upper else ()), layout.latitude, layout.longitude),
        index=index,
        attrs=_variable_attrs(channel, layout),
        keep_bits=KEEP_BITS.get(channel.name, DEFAULT_KEEP_BITS),
        flip=layout.descending,
        **_shapes(spec, layout, len(index) if upper else None, spec.grid.shape),
    )


def _latent_plan(spec: FileSpec, layout: Layout) -> ArrayPlan:
    assert spec.latent is not None
    channels, rows, columns = spec.latent
    return ArrayPlan(
        name="latent",
        dims=(*_axes(layout.member, layout.init, layout.lead, layout), "channel", "row", "column"),
        index=tuple(range(channels)),
        attrs={"long_name": "latent state; decode it with the codec of codec_hash", "units": "1"},
        **_shapes(spec, layout, channels, (rows, columns)),
    )


def _axes(member: T, init: T, lead: T, layout: Layout) -> tuple[T, T, T]:
    return (member, lead, init) if layout.lead_first else (member, init, lead)


def _shapes(spec: FileSpec, layout: Layout, count: int | None, rows_columns: tuple[int, int]) -> dict[str, Any]:
    """Choose chunks of about CHUNK_BYTES: all levels of a map if they fit, else one; then several lead times."""
    map_bytes = 4 * math.prod(rows_columns)
    fits = count is not None and count * map_bytes <= 2 * CHUNK_BYTES
    chunk_levels = (count if fits else 1) if count is not None else None
    item = map_bytes * (chunk_levels or 1)
    leads = min(len(spec.leads), max(1, CHUNK_BYTES // item))
    whole = -(-len(spec.leads) // leads) * leads
    most = max(leads, SHARD_BYTES // (map_bytes * (count or 1)) // leads * leads)
    middle: tuple[int, ...] = () if count is None else (count,)
    middle_chunk = () if chunk_levels is None else (chunk_levels,)
    return {
        "shape": (*_axes(spec.members, len(spec.inits), len(spec.leads), layout), *middle, *rows_columns),
        "chunks": (*_axes(1, 1, leads, layout), *middle_chunk, *rows_columns),
        "shard_leads": min(whole, most),
        "lead_axis": 1 if layout.lead_first else 2,
    }


def _variable_attrs(channel: Channel, layout: Layout) -> dict[str, str]:
    variable = VARIABLES[channel.name]
    long_name = variable.long_name + (f" at {channel.level} hPa" if layout.flat and channel.level is not None else "")
    attrs = {"long_name": long_name, "units": variable.units, "coordinates": layout.valid}
    if variable.standard_name:
        attrs["standard_name"] = variable.standard_name
    if variable.units == "K":
        attrs["units_metadata"] = "temperature: on_scale"
    if layout.heights and channel.name in HEIGHTS:
        attrs["coordinates"] += f" height{HEIGHTS[channel.name]}m"
    return attrs
