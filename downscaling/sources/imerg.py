"""IMERG in its HDF5 layout: group `Grid`, precipitation [time, longitude, latitude] in mm/h, -9999.9 where missing.

Version 7 calls it `precipitation`, version 6 `precipitationCal`; the interval stands in the attribute `FileHeader`
(Huffman et al., "IMERG technical documentation" and the file specification of product 3IMERG).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

__all__ = ["open_imerg"]

import numpy as np

from downscaling.sources.base import GriddedRain, PrecipitationSource, to_rate
from downscaling.sources.grids import latlon_grid
from gen.data.sources import SourceError

NAMES = ("precipitation", "precipitationCal")
ATTRIBUTION = "NASA GPM IMERG (NASA open data)"
STAMP = "GranuleDateTime=([-0-9]+T[0-9:]+)"


def open_imerg(path: Path) -> PrecipitationSource:
    """Open one granule, half-hourly, daily or monthly.

    Raises:
        SourceError: when the layout is another.
    """
    import h5py

    with h5py.File(path, "r") as file:
        name = next((n for n in NAMES if f"Grid/{n}" in file), None)
        if name is None:
            raise SourceError(f"{path.name} is no IMERG file: it has no Grid/precipitation")
        array = file[f"Grid/{name}"]
        grid, reorder = latlon_grid(file["Grid/lat"][()], file["Grid/lon"][()])
        start, end = _interval(_text(file.attrs.get("FileHeader", "")), path.name)
        units = _text(array.attrs.get("units", array.attrs.get("Units", "mm/hr")))
        fill = float(np.ravel(array.attrs.get("_FillValue", -9999.9))[0])
        turned = _order(array, path.name)
    hours = float((end - start) / np.timedelta64(3600, "s"))
    factor = to_rate(units, hours, path.name)

    def load(index: int, member: int) -> np.ndarray:
        with h5py.File(path, "r") as file:
            values = np.transpose(file[f"Grid/{name}"][index], turned)
        return reorder(np.where((values == fill) | (values <= -9999), np.nan, values * factor))

    return GriddedRain(path.name, grid, np.array([end]), hours, ATTRIBUTION, load)


def _order(array: Any, name: str) -> tuple[int, int]:
    """Return the transposition of a map that brings latitude to the front."""
    names = _text(array.attrs.get("DimensionNames", "time,lon,lat")).replace("nlon", "lon").replace("nlat", "lat")
    axes = names.split(",")[-2:]
    if sorted(axes) != ["lat", "lon"] or array.ndim != 3:
        raise SourceError(f"{name}: the axes {names} of its precipitation are not time, lon and lat")
    return (axes.index("lat"), axes.index("lon"))


def _interval(header: str, name: str) -> tuple[np.datetime64, np.datetime64]:
    """Return start and end; granules end a millisecond before the full second."""
    found = [re.search(word + STAMP, header) for word in ("Start", "Stop")]
    if None in found:
        raise SourceError(f"{name}: its FileHeader states no start and end")
    start, stop = (np.datetime64(m.group(1), "s") for m in found if m is not None)
    return start, stop + np.timedelta64(1, "s")


def _text(value: Any) -> str:
    flat = np.asarray(value).ravel()[0]
    return flat.decode("latin-1") if isinstance(flat, bytes) else str(flat)
