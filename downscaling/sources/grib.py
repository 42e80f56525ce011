"""GRIB files of precipitation: MRMS on latitude and longitude, Stage IV on the HRAP plane, and plain total rain.

MRMS PrecipRate is discipline 209, category 6, parameter 1, in mm/h; negative values mean no coverage or missing. Stage
IV is parameter 61 (kg m-2) of the NCEP table, with the accumulation between P1 and P2; its plane is that of the
Hydrologic Rainfall Analysis Project, whose step of 4762.5 m the header rounds.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["open_grib"]

import numpy as np

from downscaling.sources.base import GriddedRain, PrecipitationSource, join, to_rate
from downscaling.sources.grids import HRAP, HRAP_STEP, latlon_grid, plane_grid
from gen.data.sources import SourceError
from gen.grid import LatLonGrid
from gen.projected_grid import PolarStereographic, ProjectedGrid

MRMS = (209, 6, 1)
MARK = -1e30  # stands for missing while decoding
NCEP, MRMS_OWNER = "NOAA NCEP Stage IV (public domain)", "NOAA MRMS (public domain)"
AMOUNT_NAMES = ("tp", "apcp", "tot_prec")


def open_grib(path: Path) -> PrecipitationSource:
    """Open the precipitation messages of a GRIB file as one source.

    Raises:
        SourceError: without the `grib` extra, or when the file holds no precipitation that is known here.
    """
    sources: list[PrecipitationSource] = []
    with _messages(path) as messages:
        for number, message in enumerate(messages):
            if (found := _describe(path, message, number)) is not None:
                sources.append(found)
    if not sources:
        raise SourceError(f"{path.name} holds no precipitation message; known are MRMS PrecipRate and total amounts")
    return join(path.name, sources)


def _describe(path: Path, message: int, number: int) -> PrecipitationSource | None:
    """Return the source of one message, None when it is not precipitation."""
    get = _getter(message)
    is_mrms = (get("discipline"), get("parameterCategory"), get("parameterNumber")) == MRMS
    if not is_mrms and get("shortName") not in AMOUNT_NAMES:
        return None
    grid, rows = _grid(get, path.name)
    hours = 0.0 if is_mrms else _hours(get, path.name)
    factor = 1.0 if is_mrms else to_rate(str(get("units")), hours, path.name)
    stamp = f"{get('validityDate'):08d}{get('validityTime'):04d}"
    time = np.datetime64(f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:8]}T{stamp[8:10]}:{stamp[10:12]}")

    def load(index: int, member: int) -> np.ndarray:
        values = _values(path, number).astype(np.float32).reshape(grid.shape)[rows]
        values[values < (0.0 if is_mrms else MARK / 2)] = np.nan
        return values * np.float32(factor)

    owner = MRMS_OWNER if is_mrms else NCEP if get("centre") == "kwbc" else f"centre {get('centre')}"
    return GriddedRain(path.name, grid, np.array([time]), hours, owner, load)


def _grid(get: Any, name: str) -> tuple[LatLonGrid | ProjectedGrid, slice]:
    """Return the grid and how its rows are turned northward."""
    rows, shape = slice(None, None, 1 if get("jScansPositively") else -1), (get("Nj"), get("Ni"))
    if get("iScansNegatively") or get("jPointsAreConsecutive"):
        raise SourceError(f"{name} scans its grid in an order that is not supported")
    first, last = ([get(f"{a}Of{w}GridPointInDegrees") for a in ("latitude", "longitude")] for w in ("First", "Last"))
    if get("gridType") == "regular_ll":
        south, north = sorted((first[0], last[0]))
        east = first[1] + (last[1] - first[1]) % 360.0
        return latlon_grid(np.linspace(south, north, shape[0]), np.linspace(first[1], east, shape[1]))[0], rows
    if get("gridType") == "polar_stereographic" and not get("projectionCentreFlag"):
        shape, step, crs = (get("Ny"), get("Nx")), float(get("DxInMetres")), HRAP
        if abs(step - HRAP_STEP) > 1 or get("orientationOfTheGridInDegrees") != -105.0:
            crs = f"+proj=stere +lat_0=90 +lat_ts=60 +lon_0={get('orientationOfTheGridInDegrees'):g} +R={get('radius')}"
        else:
            step = HRAP_STEP
        x, y = PolarStereographic.parse(crs).forward(first[0], first[1])
        return plane_grid(float(x) + step * np.arange(shape[1]), float(y) + step * np.arange(shape[0]), crs)[0], rows
    raise SourceError(f"{name} is on a grid of type {get('gridType')}; regrid it (`cdo remapcon`)")


def _hours(get: Any, name: str) -> float:
    """Return the length of the accumulation."""
    units = {0: 1 / 60, 1: 1.0, 2: 24.0}.get(get("stepUnits") or 0)
    start, end = get("startStep"), get("endStep")
    if units is None or not isinstance(start, int) or not isinstance(end, int) or end <= start:
        raise SourceError(f"{name} states no accumulation interval (steps {start} to {end})")
    return float((end - start) * units)


def _values(path: Path, number: int) -> np.ndarray:
    """Return the decoded values of one message, MARK where the bitmap has none."""
    import eccodes

    with _messages(path) as messages:
        for k, message in enumerate(messages):
            if k == number:
                eccodes.codes_set(message, "missingValue", MARK)
                return np.asarray(eccodes.codes_get_values(message))
    raise SourceError(f"{path.name} has lost its message {number}")


@contextmanager
def _messages(path: Path) -> Iterator[Iterator[int]]:
    """Give the handles of all messages, each released before the next."""
    try:
        import eccodes
    except (ImportError, RuntimeError) as error:
        raise SourceError(f"{path.name}: reading GRIB needs eccodes: pip install 'gen-earth[grib]'") from error
    with path.open("rb") as file:

        def handles() -> Iterator[int]:
            while True:
                try:
                    handle = eccodes.codes_grib_new_from_file(file)
                except eccodes.CodesInternalError as error:
                    raise SourceError(f"{path.name} cannot be read as GRIB: {error}") from None
                if handle is None:
                    return
                try:
                    yield handle
                finally:
                    eccodes.codes_release(handle)

        yield handles()


def _getter(message: int) -> Any:
    import eccodes

    def get(key: str) -> Any:
        try:
            return eccodes.codes_get(message, key)
        except eccodes.CodesInternalError:
            return None

    return get
