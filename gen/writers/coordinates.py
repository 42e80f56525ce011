"""Coordinate variables and global attributes of a forecast file (CF-1.11, section 4 and 5).

Times are int64 hours since 1970-01-01 in the proleptic Gregorian calendar. The lead axis carries the attribute
`dtype = "timedelta64[ns]"`, without which xarray leaves it as plain integers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gen.writers.spec import HEIGHTS, LAYOUTS, FileSpec, levels

__all__ = ["Coordinate", "coordinates", "global_attributes"]

EPOCH = "hours since 1970-01-01 00:00:00"
CALENDAR = "proleptic_gregorian"


@dataclass(frozen=True)
class Coordinate:
    """A coordinate variable: its name, dimensions, values and attributes."""

    name: str
    dims: tuple[str, ...]
    values: NDArray[np.generic]
    attrs: dict[str, str] = field(default_factory=dict)


def coordinates(spec: FileSpec) -> tuple[Coordinate, ...]:
    """Return the coordinates of a file, dimensions first, in the order of the dimensions."""
    layout = LAYOUTS[spec.layout]
    hours = spec.inits.astype("datetime64[h]").astype(np.int64)
    leads = spec.leads.astype(np.int64)
    clock = {"units": EPOCH, "calendar": CALENDAR, "units_metadata": "leap_seconds: none"}
    valid = hours[:, None] + leads[None, :]
    return (
        _axis(layout.member, np.arange(spec.members), "realization", "ensemble member", units="1"),
        _axis(layout.init, hours, "forecast_reference_time", "initialisation time", **clock),
        _axis(
            layout.lead, leads, "forecast_period", "time since initialisation", units="hours", dtype="timedelta64[ns]"
        ),
        *(_level(spec, layout.level) if levels(spec).size else ()),
        *(_latent_axes(spec) if spec.latent else _map_axes(spec)),
        Coordinate(
            layout.valid,
            (layout.lead, layout.init) if layout.lead_first else (layout.init, layout.lead),
            valid.T if layout.lead_first else valid,
            {"standard_name": "time", "long_name": "time at which the forecast is valid", **clock},
        ),
        *(_heights(spec) if layout.heights and not spec.latent else ()),
    )


def global_attributes(spec: FileSpec) -> dict[str, str]:
    """Return the global attributes: conventions, the mark that the file is synthetic, then the caller's own."""
    attrs = {
        "Conventions": "CF-1.11",
        "title": "Ensemble forecast drawn from a generative model",
        "source": "generative model (gen-earth)",
        "history": f"{spec.attrs.get('created', '')} written by gen-earth".strip(),
        "channels": " ".join(channel.code for channel in spec.channels),
        "synthetic": "true",
        "comment": "Synthetic: drawn from a generative model, not observed and not an operational forecast.",
    }
    return attrs | {str(key): str(value) for key, value in spec.attrs.items()}


def _axis(name: str, values: NDArray[np.generic], standard_name: str, long_name: str, **attrs: str) -> Coordinate:
    return Coordinate(name, (name,), values, {"standard_name": standard_name, "long_name": long_name, **attrs})


def _heights(spec: FileSpec) -> tuple[Coordinate, ...]:
    """Return a scalar coordinate for each height above the ground that a variable belongs to."""
    metres = sorted({HEIGHTS[c.name] for c in spec.channels if c.name in HEIGHTS})
    attrs = {"standard_name": "height", "long_name": "height above the ground", "units": "m", "positive": "up"}
    return tuple(Coordinate(f"height{m}m", (), np.asarray(float(m)), attrs) for m in metres)


def _level(spec: FileSpec, name: str) -> tuple[Coordinate]:
    values: NDArray[np.generic] = levels(spec)
    units = "hPa"
    if name == "plev":  # CMIP's name goes with CMIP's unit
        values, units = levels(spec) * 100.0, "Pa"
    attrs = {"units": units, "positive": "down", "axis": "Z"}
    return (_axis(name, values, "air_pressure", "pressure level", **attrs),)


def _map_axes(spec: FileSpec) -> tuple[Coordinate, Coordinate]:
    layout = LAYOUTS[spec.layout]
    rows = np.asarray(spec.grid.latitude, np.float64)
    north, east = {"units": "degrees_north", "axis": "Y"}, {"units": "degrees_east", "axis": "X"}
    return (
        _axis(layout.latitude, rows[::-1] if layout.descending else rows, "latitude", "latitude", **north),
        _axis(layout.longitude, np.asarray(spec.grid.longitude, np.float64), "longitude", "longitude", **east),
    )


def _latent_axes(spec: FileSpec) -> tuple[Coordinate, ...]:
    assert spec.latent is not None
    names = ("channel", "row", "column")
    return tuple(
        Coordinate(name, (name,), np.arange(size), {"long_name": f"latent {name}", "units": "1"})
        for name, size in zip(names, spec.latent, strict=True)
    )
