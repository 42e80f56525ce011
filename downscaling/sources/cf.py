"""Precipitation in CF NetCDF and Zarr: found by standard name, name or prefix, whatever the order of its axes.

Amounts need the length of their interval, looked for in this order: the caller, bounds of the time axis, the cell
methods ("interval: 1 hr"), the long name or name ("_6hr"), the spacing of the times. Forecasts with start dates and
lead times are laid out along their valid times. Grids: latitude and longitude axes, a polar stereographic grid mapping,
or positions of two dimensions that lie evenly on a plane that `downscaling.sources.grids` knows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

__all__ = ["open_cf", "open_dataset"]

import numpy as np

from downscaling.sources.base import Grid, GriddedRain, PrecipitationSource, check_magnitude, to_rate
from downscaling.sources.grids import HRAP, HRAP_POLE, HRAP_STEP, Reorder, latlon_grid, plane_grid, recognised
from gen.data.conventions import AXIS_NAMES
from gen.data.sources import SourceError

if TYPE_CHECKING:
    import xarray as xr

STANDARD = (
    "precipitation_flux",
    "precipitation_amount",
    "lwe_precipitation_rate",
    "lwe_thickness_of_precipitation_amount",
    "rainfall_flux",
    "rainfall_rate",
)
NAMES = (
    "precipitation", "total_precipitation", "total_precipitation_6hr", "tp", "pr", "precip", "rain", "rainfall", "rr",
    "tot_prec", "apcp", "prate", "rainrate", "amountofprecip",
)  # fmt: skip
PREFIX = "total_precipitation"
NWS_MARKS = {"hrap_xor", "hrap_yor"}  # the National Weather Service's own layout; -1 is missing there
SAMPLED = 4  # times that are looked at for the plausibility of the units


def open_cf(
    path: Path, *, variable: str | None = None, units: str | None = None, interval_hours: float | None = None
) -> PrecipitationSource:
    """Open a NetCDF file or Zarr store; the arguments are those of `open_dataset`.

    Raises:
        SourceError: when it cannot be read or used.
    """
    import xarray as xr

    try:
        dataset = xr.open_dataset(path, engine="zarr" if path.is_dir() else None, chunks=None, decode_timedelta=True)
    except Exception as error:  # whatever a reader of foreign formats raises on a damaged file
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise SourceError(f"{path.name} cannot be opened: {reason}") from error
    return open_dataset(dataset, path.name, variable=variable, units=units, interval_hours=interval_hours)


def open_dataset(
    dataset: xr.Dataset,
    name: str,
    *,
    variable: str | None = None,
    units: str | None = None,
    interval_hours: float | None = None,
    attribution: str | None = None,
) -> PrecipitationSource:
    """Make a source of a decoded Dataset.

    Args:
        dataset: values decoded (scale, offset, fill value), so that missing ones are NaN.
        name: what messages call it.
        variable: name of the precipitation, where there are several.
        units: units, where the file does not say or is wrong.
        interval_hours: length of the interval of an amount, likewise.
        attribution: owner and licence; by default what the attributes say.

    Raises:
        SourceError: when variable, axes, units or interval cannot be had.
    """
    array = dataset[_variable(dataset, name, variable)]
    axes = _axes(dataset, array, name)
    stated = units or str(array.attrs.get("units", "")).strip()
    if not stated:
        raise SourceError(f"{name}: {array.name} states no units; give them (--units mm)")
    hours = interval_hours or _interval(dataset, array, axes)
    factor = to_rate(stated, hours, f"{name}: {array.name}")

    def load(index: int, member: int) -> np.ndarray:
        where: dict[Any, int] = {
            d: int(k) for d, k in zip(axes.along, np.unravel_index(index, axes.sizes), strict=True)
        }
        if axes.member:
            where[axes.member] = member
        values = np.asarray(array.isel(where).squeeze(drop=True).transpose(*axes.plane).values, np.float64)
        values = np.where(values < 0, np.nan, values) if set(dataset.variables) >= NWS_MARKS else values
        return axes.reorder(values * factor)

    if units is None:
        check_magnitude(_peak(load, axes.ends.size), stated, f"{name}: {array.name}")
    synthetic = str(dataset.attrs.get("synthetic", "")).lower() in ("true", "1")
    owner = attribution or _owner(dataset.attrs, name)
    members = int(array.sizes[axes.member]) if axes.member else 1
    order = np.argsort(axes.ends, kind="stable")
    return GriddedRain(
        name, axes.grid, axes.ends[order], hours or 0.0, owner, lambda i, m: load(int(order[i]), m), members, synthetic
    )


@dataclass(frozen=True)
class _Axes:
    """How a variable is laid out: its plane, the dimensions along which maps are counted, and the ends of intervals."""

    grid: Grid
    reorder: Reorder
    plane: tuple[str, str]
    along: tuple[str, ...]
    sizes: tuple[int, ...]
    member: str | None
    ends: np.ndarray
    step: float | None
    bounds: float | None = None


def _variable(dataset: xr.Dataset, name: str, wanted: str | None) -> str:
    """Return the name of the precipitation variable."""
    present = [str(n) for n in dataset.data_vars]
    if wanted is not None:
        if wanted not in present:
            raise SourceError(f"{name} has no variable {wanted!r}; it has {', '.join(present)}")
        return wanted
    maps = [n for n in present if dataset[n].ndim >= 2 and dataset[n].dtype.kind in "fiu"]
    for test in (
        lambda n: str(dataset[n].attrs.get("standard_name", "")) in STANDARD,
        lambda n: n.lower() in NAMES,
        lambda n: n.lower().startswith(PREFIX),
    ):
        if found := [n for n in maps if test(n)]:
            return found[0]
    raise SourceError(f"{name} has no precipitation that is recognised among {', '.join(present) or 'no variables'}")


def _axes(dataset: xr.Dataset, array: xr.DataArray, name: str) -> _Axes:
    role = {r: _find(dataset, array, names) for r, names in AXIS_NAMES.items()}
    try:
        grid, reorder, plane = _grid(dataset, array, role)
    except SourceError as error:
        raise SourceError(f"{name} {error}") from None
    along = tuple(d for d in (role["time"], role["lead"]) if d is not None and d in array.dims)
    known = {*plane, *along, role["member"]}
    if other := [str(d) for d in array.dims if d not in known and array.sizes[d] > 1]:
        raise SourceError(f"{name}: {array.name} has the dimension {', '.join(other)}; select one value")
    ends, step, bounds = _times(dataset, role, along, name)
    member = role["member"] if role["member"] in array.dims else None
    return _Axes(grid, reorder, plane, along, tuple(array.sizes[d] for d in along), member, ends, step, bounds)


def _grid(
    dataset: xr.Dataset, array: xr.DataArray, role: dict[str, str | None]
) -> tuple[Grid, Reorder, tuple[str, str]]:
    dims = tuple(str(d) for d in array.dims)
    lat, lon = role["latitude"], role["longitude"]
    if lat in dims and lon in dims:
        return *latlon_grid(np.asarray(dataset[lat]), np.asarray(dataset[lon])), (str(lat), str(lon))
    plane = (dims[-2], dims[-1])
    if set(dataset.variables) >= NWS_MARKS:
        rows, columns = (
            HRAP_STEP * (float(dataset[k]) + np.arange(array.sizes[d]) + 0.5 - pole)
            for k, d, pole in zip(("hrap_yor", "hrap_xor"), plane, HRAP_POLE[::-1], strict=True)
        )
        return *plane_grid(columns, rows, HRAP), plane
    mapping = dataset.variables.get(str(array.attrs.get("grid_mapping", array.encoding.get("grid_mapping", ""))))
    if mapping is not None and all(d in dataset.coords for d in plane):
        metres = [1000.0 if str(dataset[d].attrs.get("units", "m")).startswith("k") else 1.0 for d in plane]
        y, x = (np.asarray(dataset[d], float) * m for d, m in zip(plane, metres, strict=True))
        return *plane_grid(x, y, _projection(mapping.attrs)), plane
    if lat and lon and dataset[lat].ndim == dataset[lon].ndim == 2:
        positions = [np.asarray(dataset[c].transpose(*plane), float) for c in (lat, lon)]
        return *recognised(positions[0], positions[1]), plane
    sizes = ", ".join(f"{d}={array.sizes[d]}" for d in dims)
    raise SourceError(f"is not on a grid that is understood (dims {sizes}): regrid it (`cdo remapcon`)")


def _projection(attrs: dict[Any, Any]) -> str:
    """Return the PROJ string of a CF grid mapping."""
    if attrs.get("grid_mapping_name") != "polar_stereographic":
        raise SourceError(f"has the grid mapping {attrs.get('grid_mapping_name')!r}; known is polar_stereographic")
    pole = float(attrs.get("latitude_of_projection_origin", 90.0))
    lon = attrs.get("straight_vertical_longitude_from_pole", attrs.get("longitude_of_projection_origin", 0.0))
    major = float(attrs.get("semi_major_axis", attrs.get("earth_radius", 6371200.0)))
    minor = float(attrs.get("semi_minor_axis", major))
    offset = f"+x_0={float(attrs.get('false_easting', 0.0))!r} +y_0={float(attrs.get('false_northing', 0.0))!r}"
    place = f"+lat_0={pole:g} +lat_ts={float(attrs.get('standard_parallel', pole))!r} +lon_0={float(lon)!r}"
    return f"+proj=stere {place} +a={major!r} +b={minor!r} {offset}"


def _times(
    dataset: xr.Dataset, role: dict[str, str | None], along: Sequence[str], name: str
) -> tuple[np.ndarray, float | None, float | None]:
    """Return the ends of all maps in the order of `along`, the spacing and the length of the bounds in hours."""
    if "timeofdata" in dataset.variables:  # National Weather Service, 2006122212Z
        text = np.asarray(dataset["timeofdata"]).item()
        text = text.decode() if isinstance(text, bytes) else str(text)
        return np.array([f"{text[:4]}-{text[4:6]}-{text[6:8]}T{text[8:10]}:00"], "datetime64[m]"), None, None
    if role["time"] is None:
        raise SourceError(f"{name} has no time")
    times = np.atleast_1d(np.asarray(dataset[role["time"]]))
    if times.dtype.kind != "M":
        raise SourceError(f"{name} has times that are no dates of the Gregorian calendar")
    bounds = dataset.variables.get(str(dataset[role["time"]].attrs.get("bounds", "")))
    length = None
    if bounds is not None and bounds.dtype.kind == "M":
        edges = np.atleast_2d(np.asarray(bounds))
        times, length = edges[:, 1], float(np.median(edges[:, 1] - edges[:, 0]) / np.timedelta64(1, "h"))
    steps = np.diff(times)
    if role["lead"] is not None:
        leads = np.atleast_1d(np.asarray(dataset[role["lead"]]))
        leads = leads if leads.dtype.kind == "m" else leads.astype("timedelta64[h]")
        steps = np.diff(leads) if role["lead"] in along else steps
        times = (times[:, None] + leads[None, :]).ravel()
    even = steps.size > 0 and bool((steps == steps[0]).all())
    return times.astype("datetime64[m]"), float(steps[0] / np.timedelta64(1, "h")) if even else None, length


def _interval(dataset: xr.Dataset, array: xr.DataArray, axes: _Axes) -> float | None:
    """Return the length of the interval in hours, None when nothing tells it."""
    if axes.bounds:
        return axes.bounds
    words = f"{array.attrs.get('cell_methods', '')} {array.attrs.get('long_name', '')} {array.name}"
    found = re.search(r"(?:interval:\s*)?(\d+(?:\.\d+)?)[\s_-]*(h|hr|hour)s?\b", words, re.IGNORECASE)
    return float(found.group(1)) if found else axes.step


def _peak(load: Callable[[int, int], np.ndarray], count: int) -> float:
    """Return the largest rate at some times, evenly chosen."""
    picked = np.unique(np.linspace(0, count - 1, SAMPLED).astype(int))
    return max(float(np.nanmax(load(int(i), 0), initial=0.0)) for i in picked)


def _find(dataset: xr.Dataset, array: xr.DataArray, names: Sequence[str]) -> str | None:
    """Return the dimension or coordinate that plays a role, dimensions of the variable first."""
    for present in (array.dims, dataset.coords):
        lower = {str(n).lower(): str(n) for n in present}
        if found := next((lower[n] for n in names if n in lower), None):
            return found
    return None


def _owner(attrs: dict[Any, Any], name: str) -> str:
    parts = [str(attrs[k]) for k in ("institution", "attribution", "license", "licence") if attrs.get(k)]
    return "; ".join(parts) or f"{name} (owner and licence not stated)"
