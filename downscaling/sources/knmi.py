"""Radar composites of KNMI in its own HDF5 layout: 2-byte pixels, a calibration formula, a polar stereographic plane.

Groups: `overview` with start and end, `geographic` with offsets and pixel sizes (in kilometres) and a PROJ string,
`image1` with `image_data` [rows from north, columns] and `calibration` (KNMI HDF5 data format specification 3.5).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

__all__ = ["open_knmi"]

import numpy as np

from downscaling.sources.base import GriddedRain, PrecipitationSource
from downscaling.sources.grids import plane_grid
from gen.data.sources import SourceError
from gen.projected_grid import PolarStereographic, ProjectedGrid

FORMULA = re.compile(r"GEO\s*=\s*([-+\d.eE]+)\s*\*\s*PV\s*([-+][\d.eE+-]+)?")
MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
ATTRIBUTION = "KNMI radar precipitation (KNMI open data)"


def open_knmi(path: Path) -> PrecipitationSource:
    """Open one composite of accumulated precipitation.

    Raises:
        SourceError: when the image is something else or the layout is not understood.
    """
    import h5py

    with h5py.File(path, "r") as file:
        try:
            image, kind = file["image1"], _text(file["image1"].attrs["image_geo_parameter"])
            start, end = (_time(_text(file["overview"].attrs[f"product_datetime_{w}"])) for w in ("start", "end"))
            grid = _grid(file["geographic"], image["image_data"].shape)
            scale, offset, missing = _calibration(image["calibration"].attrs, path.name)
        except KeyError as error:
            raise SourceError(f"{path.name} is no KNMI composite: {error}") from None
    if "PRECIPITATION" not in kind.upper() or "MM" not in kind.upper():
        raise SourceError(f"{path.name} holds {kind}, not accumulated precipitation in mm")
    hours = float((end - start) / np.timedelta64(60, "m"))

    def load(index: int, member: int) -> np.ndarray:
        with h5py.File(path, "r") as file:
            pixels = file["image1/image_data"][()][::-1]
        amount = pixels.astype(np.float32) * np.float32(scale) + np.float32(offset)
        return np.where(np.isin(pixels, missing), np.nan, amount / np.float32(hours))

    return GriddedRain(path.name, grid, np.array([end]), hours, ATTRIBUTION, load)


def _grid(geographic: Any, shape: tuple[int, int]) -> ProjectedGrid:
    """Return the plane in metres; rows count from the upper edge, whose offset is in pixels."""
    attrs = geographic.attrs
    plane = PolarStereographic.parse(_text(geographic["map_projection"].attrs["projection_proj4_params"]))
    dx, dy = 1000 * float(attrs["geo_pixel_size_x"][0]), 1000 * float(attrs["geo_pixel_size_y"][0])
    x = dx * (float(attrs["geo_column_offset"][0]) + np.arange(shape[1]) + 0.5)
    y = dy * (float(attrs["geo_row_offset"][0]) + np.arange(shape[0]) + 0.5)
    return plane_grid(x, y, plane.text)[0]


def _calibration(attrs: Any, name: str) -> tuple[float, float, list[int]]:
    """Return scale, offset and the pixel values that mean nothing."""
    formula = _text(attrs["calibration_formulas"])
    match = FORMULA.match(formula.strip())
    if match is None:
        raise SourceError(f"{name} has a calibration formula that is not understood: {formula!r}")
    marks = [int(attrs[k][0]) for k in ("calibration_missing_data", "calibration_out_of_image") if k in attrs]
    return float(match.group(1)), float(match.group(2) or 0.0), marks


def _time(text: str) -> np.datetime64:
    day, month, year, clock = re.split(r"[-;]", text)
    return np.datetime64(f"{year}-{MONTHS.index(month.upper()) + 1:02d}-{day}T{clock[:5]}")


def _text(value: Any) -> str:
    flat = np.asarray(value).ravel()[0]
    return flat.decode("latin-1") if isinstance(flat, bytes) else str(flat)
