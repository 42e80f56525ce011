"""Write tracks: a table (CSV), lines (GeoJSON, RFC 7946), the map of strike probability (NetCDF) and errors (CSV).

The strike probability of a point is the share of members whose path comes within a radius, 120 km unless said otherwise
(the definition of ECMWF: User Guide to ECMWF Forecast Products, "Tropical cyclone diagrams"), at any time of the
forecast. The path is the great circle from each centre to the next, not the centres alone.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

__all__ = ["FLAGS", "errors_csv", "geojson", "split_at_date_line", "strike_dataset", "strike_probability", "tracks_csv",
           "write_all"]  # fmt: skip

import numpy as np
from numpy.typing import NDArray

from forecast.cyclones.errors import ErrorRow
from forecast.cyclones.sphere import KM_PER_DEGREE
from forecast.cyclones.track import Track
from gen.grid import LatLonGrid, haversine

Array = NDArray[np.float64]

STRIKE_RADIUS_KM = 120.0
FLAGS = {"closed_contour": "closed", "warm_core": "core", "vorticity_reached": "spin", "wind_reached": "windy"}
COLUMNS = ("member", "track", "time", "lead_hours", "lat", "lon", "msl_hPa", "vorticity_s-1", "max_wind_m_s", *FLAGS)
POINTS_PER_RADIUS = 4.0  # along a path: the distance to it is then right to 1 % of the radius


def tracks_csv(tracks: Sequence[Track], init: np.datetime64) -> str:
    """Return the table of all centres; what was not evaluated is empty."""
    rows = []
    for track in tracks:
        for hour, centre in zip(track.hours, track.centres, strict=True):
            numbers = [f"{centre['lat']:.3f}", f"{centre['lon']:.3f}", f"{centre['msl'] / 100:.2f}",
                       _text(centre["vorticity"], ".3e"), _text(centre["wind"], ".2f")]  # fmt: skip
            flags = ["" if centre[name] < 0 else int(centre[name]) for name in FLAGS.values()]
            rows.append([track.member, track.number, _iso(init, hour), f"{hour:g}", *numbers, *flags])
    return _csv(COLUMNS, rows)


def errors_csv(rows: Sequence[ErrorRow]) -> str:
    """Return the table of errors; what is not known is empty."""
    names = [item.name for item in fields(ErrorRow)]
    shown = [[_text(v, ".3f") if isinstance(v, float) else v for v in asdict(row).values()] for row in rows]
    return _csv(names, shown)


def geojson(tracks: Sequence[Track], init: np.datetime64, about: Mapping[str, str]) -> str:
    """Return a FeatureCollection: one (Multi)LineString for each track, cut at the date line; a lone centre is a Point.

    `about` goes into a foreign member of that name (RFC 7946, section 6.1).
    """
    features = [
        {
            "type": "Feature",
            "geometry": _geometry(track),
            "properties": {
                "member": track.member,
                "track": track.number,
                "times": [_iso(init, hour) for hour in track.hours],
                "lead_hours": track.hours,
                "msl_hPa": [round(float(c["msl"]) / 100, 2) for c in track.centres],
                "max_wind_m_s": [round(float(c["wind"]), 2) if np.isfinite(c["wind"]) else None for c in track.centres],
            },
        }
        for track in tracks
    ]
    return json.dumps({"type": "FeatureCollection", "about": dict(about), "features": features}, allow_nan=False)


def split_at_date_line(lat: Array, lon: Array) -> list[list[list[float]]]:
    """Return polylines of [longitude, latitude]: a step across 180 degrees ends there and goes on from the other side.

    The latitude of the crossing is that of the great circle through both points.
    """
    lines: list[list[list[float]]] = [[]]
    for phi, lam in zip(lat, (np.asarray(lon) + 180) % 360 - 180, strict=True):
        if lines[-1] and abs(lam - lines[-1][-1][0]) > 180:
            before = lines[-1][-1]
            edge = 180.0 if before[0] > 0 else -180.0
            crossing = _crossing(before[1], before[0], float(phi), float(lam))
            if abs(before[0]) != 180.0:
                lines[-1].append([edge, crossing])
            lines.append([[-edge, crossing]])
            if abs(lam) == 180.0:
                continue
        lines[-1].append([round(float(lam), 4), round(float(phi), 4)])
    return [line for line in lines if len(line) > 1] or lines[:1]


def strike_probability(tracks: Sequence[Track], grid: LatLonGrid, members: int, radius_km: float) -> Array:
    """Return the share of members [H, W] whose path comes within `radius_km` of each point."""
    hit = np.zeros(grid.shape)
    for member in sorted({track.member for track in tracks}):
        inside = np.zeros(grid.shape, bool)
        for track in (t for t in tracks if t.member == member):
            table = track.table()
            for lat, lon in _dense(table["lat"], table["lon"], radius_km / POINTS_PER_RADIUS):
                rows = np.flatnonzero(np.abs(grid.latitude - lat) <= radius_km / KM_PER_DEGREE)
                inside[rows] |= haversine(lat, lon, grid.latitude[rows, None], grid.longitude) <= radius_km
        hit += inside
    return hit / members


def strike_dataset(probability: Array, grid: LatLonGrid, init: np.datetime64, last_hours: float,
                   radius_km: float, attrs: Mapping[str, str]) -> Any:  # fmt: skip
    """Return the map as an xarray Dataset with CF attributes."""
    import xarray as xr

    first = init.astype("datetime64[ns]")
    bounds = np.array([first, first + np.timedelta64(round(last_hours * 3600), "s")])
    about = {
        "long_name": f"probability that a cyclone centre passes within {radius_km:g} km",
        "units": "1",
        "radius_km": radius_km,
        "cell_methods": "time: maximum (whole forecast)",
        "comment": "share of ensemble members whose track, the great circle between successive centres, passes",
    }
    clock = {"standard_name": "time", "long_name": "end of the forecast", "bounds": "time_bounds"}
    data = xr.Dataset(
        {"strike_probability": (("latitude", "longitude"), probability.astype(np.float32), about),
         "time_bounds": (("bounds",), bounds)},
        coords={
            "latitude": ("latitude", grid.latitude, {"units": "degrees_north", "standard_name": "latitude"}),
            "longitude": ("longitude", grid.longitude, {"units": "degrees_east", "standard_name": "longitude"}),
            "time": ((), bounds[1], clock),
            "forecast_reference_time": ((), first, {"standard_name": "forecast_reference_time"}),
        },
        attrs={"Conventions": "CF-1.11", "title": "Strike probability of cyclones",
               "history": f"{attrs.get('created', '')} written by gen-earth".strip(), **attrs},
    )  # fmt: skip
    for name in ("time", "time_bounds", "forecast_reference_time"):
        data[name].encoding = {"units": "hours since 1970-01-01 00:00:00", "calendar": "proleptic_gregorian"}
        data[name].attrs["units_metadata"] = "leap_seconds: none"
    del data["time_bounds"].attrs["units_metadata"]  # a bounds variable has the attributes of its parent
    for name in ("strike_probability", "latitude", "longitude"):
        data[name].encoding = {"_FillValue": None}
    return data


def write_all(writers: Mapping[Path, Callable[[Path], object]]) -> list[Path]:
    """Write every file beside its place first, then move all: an error leaves none of them behind."""
    partial = {path: path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}") for path in writers}
    try:
        for path, write in writers.items():
            write(partial[path])
        for path in writers:
            os.replace(partial[path], path)
    finally:
        for path in partial.values():
            path.unlink(missing_ok=True)
    return list(writers)


def _geometry(track: Track) -> dict[str, Any]:
    table = track.table()
    if len(table) == 1:
        return {"type": "Point", "coordinates": [round(float(table["lon"][0]), 4), round(float(table["lat"][0]), 4)]}
    lines = split_at_date_line(table["lat"], table["lon"])
    if len(lines) == 1:
        return {"type": "LineString", "coordinates": lines[0]}
    return {"type": "MultiLineString", "coordinates": lines}


def _crossing(lat1: float, lon1: float, lat2: float, lon2: float) -> float:
    """Return the latitude at which the great circle between two points meets the meridian of 180 degrees."""
    phi1, phi2 = np.deg2rad(lat1), np.deg2rad(lat2)
    west, east = np.deg2rad(180.0 - abs(lon1)), np.deg2rad(180.0 - abs(lon2))
    return round(float(np.rad2deg(np.arctan2(np.tan(phi1) * np.sin(east) + np.tan(phi2) * np.sin(west),
                                             np.sin(west + east)))), 4)  # fmt: skip


def _dense(lat: Array, lon: Array, step_km: float) -> Array:
    """Return points [n, 2] on the great circles between successive centres, at most `step_km` apart."""
    phi, lam = np.deg2rad(lat), np.deg2rad(lon)
    places = np.stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)], axis=-1)
    parts = [places[:1]]
    for first, last in zip(places[:-1], places[1:], strict=True):
        arc = float(np.arctan2(np.linalg.norm(np.cross(first, last)), first @ last))
        share = np.linspace(0, 1, 1 + max(1, int(np.ceil(np.rad2deg(arc) * KM_PER_DEGREE / step_km))))[1:, None]
        between = np.sin((1 - share) * arc) * first + np.sin(share * arc) * last
        parts.append(between if arc > 1e-12 else last[None])
    x, y, z = np.concatenate(parts).T
    return np.rad2deg(np.stack([np.arctan2(z, np.hypot(x, y)), np.arctan2(y, x)], axis=-1))


def _csv(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(rows)
    return out.getvalue()


def _text(value: float, form: str) -> str:
    return format(float(value), form) if np.isfinite(value) else ""


def _iso(init: np.datetime64, hour: float) -> str:
    return f"{init.astype('datetime64[s]') + np.timedelta64(round(hour * 3600), 's')}Z"
