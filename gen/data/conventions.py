"""What files call things: names of variables and axes, units, and where each channel lies in a file.

`catalogue(dataset)` reads an xarray Dataset in WeatherBench, ECMWF or CF conventions and returns its axes and, for each
quantity and level, the slot that holds it with the conversion to SI units. What cannot be used is kept with a reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

__all__ = ["Axes", "Catalogue", "Key", "Slot", "catalogue", "conversion"]

import numpy as np

from gen.data.sources import SourceError
from gen.data.variables import VARIABLES, parse_channel
from gen.grid import LatLonGrid

if TYPE_CHECKING:
    import xarray as xr

Key = tuple[str, int | None]

GRAVITY = 9.80665
AXIS_NAMES = {
    "latitude": ("latitude", "lat", "nav_lat", "rlat"),
    "longitude": ("longitude", "lon", "nav_lon", "rlon"),
    "time": ("time", "valid_time", "forecast_reference_time"),
    "level": ("level", "isobaricinhpa", "pressure_level", "plev", "lev", "pressure", "air_pressure"),
    "member": ("number", "realization", "ensemble", "member", "sample"),
    "lead": ("step", "prediction_timedelta", "lead_time", "forecast_period"),
}
EXTRA = {  # quantities that are no channels themselves but give one
    "relative_humidity": ("%", True, ("r", "rh", "hur", "relhum")),
    "total_precipitation": ("m", False, ("tp", "precipitation_amount")),
}
VAGUE = (  # their standard names say neither height above ground nor accumulation
    "10m_u_component_of_wind",
    "10m_v_component_of_wind",
    "2m_temperature",
    "total_precipitation_6hr",
)
HEIGHT_NAMES = ("gh", "hgt", "zg", "z3", "geopotential_height")
UNITS: dict[str, dict[str, tuple[float, float]]] = {
    "K": {"k": (1, 0), "kelvin": (1, 0), "degk": (1, 0), "degc": (1, 273.15), "c": (1, 273.15),
          "celsius": (1, 273.15), "degrees_celsius": (1, 273.15), "degree_celsius": (1, 273.15)},
    "Pa": {"pa": (1, 0), "hpa": (100, 0), "mb": (100, 0), "mbar": (100, 0), "millibar": (100, 0),
           "millibars": (100, 0)},
    "m2 s-2": {"m2 s-2": (1, 0), "m2/s2": (1, 0), "j kg-1": (1, 0), "m": (GRAVITY, 0), "gpm": (GRAVITY, 0),
               "metre": (GRAVITY, 0), "meter": (GRAVITY, 0), "meters": (GRAVITY, 0), "dam": (10 * GRAVITY, 0)},
    "m s-1": {"m s-1": (1, 0), "m/s": (1, 0), "knots": (0.514444, 0), "kt": (0.514444, 0), "km/h": (1 / 3.6, 0)},
    "kg kg-1": {"kg kg-1": (1, 0), "kg/kg": (1, 0), "1": (1, 0), "g kg-1": (1e-3, 0), "g/kg": (1e-3, 0)},
    "Pa s-1": {"pa s-1": (1, 0), "pa/s": (1, 0), "hpa s-1": (100, 0), "mb/day": (100 / 86400, 0)},
    "m": {"m": (1, 0), "metre": (1, 0), "m of water equivalent": (1, 0), "mm": (1e-3, 0), "kg m-2": (1e-3, 0),
          "kg/m2": (1e-3, 0), "cm": (1e-2, 0)},
    "1": {"1": (1, 0), "(0 - 1)": (1, 0), "0-1": (1, 0), "fraction": (1, 0), "": (1, 0), "dimensionless": (1, 0),
          "~": (1, 0), "%": (1e-2, 0)},
    "%": {"%": (1, 0), "percent": (1, 0), "1": (100, 0), "(0 - 1)": (100, 0)},
    "radian": {"radian": (1, 0), "radians": (1, 0), "degree": (np.pi / 180, 0), "degrees": (np.pi / 180, 0)},
}  # fmt: skip


@dataclass(frozen=True)
class Slot:
    """Where a map lies: variable of the file, index on its level axis, and SI value = factor * stored + offset.

    `stated` tells whether the file states the units; `steps` is the number of times to sum, the last included.
    """

    part: int
    variable: str
    level_index: int | None
    factor: float = 1.0
    offset: float = 0.0
    stated: bool = True
    steps: int = 1


@dataclass(frozen=True)
class Axes:
    """The axes of a file; `rows` and `columns` put its maps on `grid` (latitude and longitude ascending).

    Names are those in the file, None where it has no such dimension. `times` holds whole hours; a file without any
    time has none. `lead_index` picks the analysis of a file with lead times.
    """

    grid: LatLonGrid
    rows: np.ndarray
    columns: np.ndarray
    latitude: str
    longitude: str
    times: np.ndarray
    time: str | None = None
    level: str | None = None
    member: str | None = None
    lead: str | None = None
    lead_index: int = 0
    members: int = 1
    levels: tuple[int | None, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Catalogue:
    """Axes, slots by quantity and level, and the reasons why other variables are not used."""

    axes: Axes
    slots: dict[Key, Slot] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


def catalogue(dataset: xr.Dataset, part: int = 0) -> Catalogue:
    """Find out what a dataset holds; raises SourceError when its axes cannot be used."""
    axes = _axes(dataset)
    out = Catalogue(axes)
    for name in map(str, dataset.data_vars):
        array = dataset[name]
        if not {axes.latitude, axes.longitude} <= set(map(str, array.dims)) or array.dtype.kind not in "fiu":
            continue
        for key, level_index in _identify(array, axes):
            units = VARIABLES[key[0]].units if key[0] in VARIABLES else EXTRA[key[0]][0]
            stated = str(array.attrs.get("units", array.attrs.get("GRIB_units", ""))).strip()
            converted = conversion(stated, units)
            if converted is None:
                known = ", ".join(UNITS[units])
                out.refused[key[0]] = f"{name} is in unknown units {stated!r}; known for {units}: {known}"
            else:
                out.slots.setdefault(key, Slot(part, name, level_index, *converted, stated=bool(stated)))
    return out


def conversion(stated: str, units: str) -> tuple[float, float] | None:
    """Return (factor, offset) from stated to SI units, the identity when none are stated, None when unknown."""
    plain = stated.strip().lower().replace("**", "").replace("^", "")
    return UNITS[units].get(plain, (1.0, 0.0) if not plain else None)


def _identify(array: xr.DataArray, axes: Axes) -> Iterator[tuple[Key, int | None]]:
    """Yield the keys that a variable of the file supplies, with their index on its level axis."""
    with_levels = axes.level in array.dims
    levels = axes.levels if with_levels or not axes.level else ()
    name = _quantity(array, upper=bool(with_levels or (levels and axes.level is None)))
    if name is None:
        try:
            channel = parse_channel(str(array.name).lower())
        except ValueError:
            return
        metres = "met" in str(array.attrs.get("long_name", "")).lower()  # u100 may be the wind at 100 metres
        if channel.level is not None and not with_levels and not metres:
            yield (channel.name, channel.level), None
        return
    kind_upper = EXTRA[name][1] if name in EXTRA else VARIABLES[name].kind == "upper"
    if not kind_upper:
        yield (name, None), None
        return
    for index, level in enumerate(levels):
        if level is not None:
            yield (name, level), index if with_levels else None


def _quantity(array: xr.DataArray, upper: bool) -> str | None:
    """Return the quantity a variable of the file is, from its name, GRIB short name or CF standard name."""
    words = [str(array.name).lower()]
    words += [str(array.attrs.get(k, "")).lower() for k in ("GRIB_shortName", "short_name", "standard_name")]
    for word in filter(None, words):
        if upper and word in HEIGHT_NAMES:
            return "geopotential"
        if not upper and word == "z":
            return "geopotential_at_surface"
        for name, (_, has_levels, names) in EXTRA.items():
            if has_levels == upper and word in (name, *names):
                return name
        for variable in VARIABLES.values():
            known = {variable.name, variable.short, *variable.aliases}
            if upper or variable.name not in VAGUE:
                known.add(variable.standard_name)
            if (variable.kind == "upper") == upper and word in known:
                return variable.name
    return None


def _axes(dataset: xr.Dataset) -> Axes:
    names = {role: _axis(dataset, role) for role in AXIS_NAMES}
    grid, rows, columns = _grid(dataset, names["latitude"], names["longitude"])
    dims = {role: name if name in dataset.dims else None for role, name in names.items()}
    lead_index, hours, note = _lead(dataset, names["lead"])
    times = _times(dataset, names["time"]) + np.timedelta64(hours, "h")
    return Axes(
        grid,
        rows,
        columns,
        str(names["latitude"]),
        str(names["longitude"]),
        times,
        dims["time"],
        dims["level"],
        dims["member"],
        dims["lead"],
        lead_index,
        members=int(dataset.sizes[dims["member"]]) if dims["member"] else 1,
        levels=_levels(dataset, names["level"]),
        note=note,
    )


def _axis(dataset: xr.Dataset, role: str) -> str | None:
    """Return the name of the dimension or scalar coordinate that plays a role."""
    present = {str(n).lower(): str(n) for n in (*dataset.coords, *dataset.dims)}
    dims = {str(d).lower() for d in dataset.dims}
    known = [n for n in AXIS_NAMES[role] if n in present]
    return present[next((n for n in known if n in dims), known[0])] if known else None


def _grid(dataset: xr.Dataset, latitude: str | None, longitude: str | None) -> tuple[LatLonGrid, Any, Any]:
    axes = [dataset[n] for n in (latitude, longitude) if n is not None and n in dataset.coords]
    if len(axes) < 2 or any(axis.ndim != 1 or axis.dims != (axis.name,) for axis in axes):
        dims = ", ".join(f"{d}={n}" for d, n in dataset.sizes.items())
        raise SourceError(f"is not on a regular latitude-longitude grid (dims {dims}): convert it (`cdo remapcon`)")
    lat, lon = (np.asarray(axis, dtype=np.float64) for axis in axes)
    rows = np.argsort(lat, kind="stable")
    east, columns = np.unique(np.round(lon % 360.0, 9) % 360.0, return_index=True)
    gaps = np.diff(east)
    if gaps.size and gaps.max() > 1.5 * gaps.min():  # a box across Greenwich: start after the gap
        seam = int(gaps.argmax()) + 1
        columns, east = np.roll(columns, -seam), np.concatenate([east[seam:] - 360.0, east[:seam]])
    for name, axis in (("latitude", lat[rows]), ("longitude", east)):
        steps = np.diff(axis)
        if steps.size < 1 or steps.min() <= 0 or steps.max() > 1.5 * steps.min():
            spacing = f"{steps.min():g} to {steps.max():g} degrees" if steps.size else "one value only"
            raise SourceError(
                f"has an irregular grid: {name} is not evenly spaced ({spacing}); regrid it (`cdo remapcon`)"
            )
    return LatLonGrid(lat[rows], east), rows, columns


def _times(dataset: xr.Dataset, name: str | None) -> np.ndarray:
    if name is None:
        return np.empty(0, "datetime64[h]")
    values = np.atleast_1d(np.asarray(dataset[name]))
    if values.dtype.kind != "M":
        units = dataset[name].attrs.get("units", f"type {values.dtype}")
        raise SourceError(f"has times ({units}) that are no dates of the Gregorian calendar")
    hours = values.astype("datetime64[h]")
    if not np.array_equal(hours.astype(values.dtype), values):
        raise SourceError(f"has times that are not whole hours: {values[hours.astype(values.dtype) != values][0]}")
    return hours


def _lead(dataset: xr.Dataset, name: str | None) -> tuple[int, int, str]:
    """Return the index of the analysis on the lead axis, the hours to add to the times and a note."""
    if name is None:
        return 0, 0, ""
    values = np.atleast_1d(np.asarray(dataset[name]))
    hours = values.astype("timedelta64[h]").astype(np.int64) if values.dtype.kind == "m" else values.astype(np.int64)
    if 0 in hours:
        return int(np.flatnonzero(hours == 0)[0]), 0, ""
    if hours.size > 1:
        raise SourceError(f"holds forecasts ({name} {hours[0]} to {hours[-1]} h) and no analysis: select one lead time")
    return 0, int(hours[0]), f"the fields are {hours[0]} h forecasts, taken at their valid time"


def _levels(dataset: xr.Dataset, name: str | None) -> tuple[int | None, ...]:
    """Return pressure levels in hPa; None for those that are no whole hPa."""
    if name is None or name not in dataset.coords:
        return ()
    values = np.atleast_1d(np.asarray(dataset[name], dtype=np.float64))
    stated = conversion(str(dataset[name].attrs.get("units", "")), "Pa")
    units = dataset[name].attrs.get("units")
    if units and stated is None:
        return tuple(None for _ in values)  # model levels, heights
    hpa = values * stated[0] / 100.0 if units and stated else values / (100.0 if values.max() > 2000.0 else 1.0)
    return tuple(int(round(p)) if abs(p - round(p)) < 1e-6 and p > 0 else None for p in hpa)
