"""GeoTIFF files of one band: scale and offset applied, the georeference read from its tags, pixels as areas or points.

IMERG's GIS products are such files: units of 0.1 mm in the description, the interval in the name, 29999 where missing
(Huffman et al., "IMERG technical documentation"). Pillow decodes the pixels.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

__all__ = ["open_geotiff", "read_band"]

import numpy as np

from downscaling.sources.base import Grid, GriddedRain, PrecipitationSource, check_magnitude, to_rate
from downscaling.sources.grids import Reorder, latlon_grid, plane_grid
from gen.data.sources import SourceError

SUBFILE = 254
DESCRIPTION, DOCUMENT, SCALE, TIEPOINT, GEO_KEYS, METADATA, NODATA = 270, 269, 33550, 33922, 34735, 42112, 42113
MODEL_KEY, RASTER_KEY, PROJECTED_KEY = 1024, 1025, 3072
EPSG = {
    3413: "+proj=stere +lat_0=90 +lat_ts=70 +lon_0=-45 +ellps=WGS84",
    3995: "+proj=stere +lat_0=90 +lat_ts=71 +lon_0=0 +ellps=WGS84",
    3031: "+proj=stere +lat_0=-90 +lat_ts=-71 +lon_0=0 +ellps=WGS84",
}
IMERG_NAME = re.compile(r"3IMERG\.(\d{8})-S\d{6}-E(\d{6})\.\d+\.V\w+\.(30min|3hr|1day|3day|7day)?")
HOURS = {"30min": 0.5, "3hr": 3.0, "1day": 24.0, "3day": 72.0, "7day": 168.0}
IMERG_MISSING = (29999, 65535)
IMERG = "NASA GPM IMERG (NASA open data)"


def open_geotiff(
    path: Path, *, units: str | None = None, interval_hours: float | None = None, time: np.datetime64 | None = None
) -> PrecipitationSource:
    """Open one map.

    Args:
        path: the file.
        units: units of the values, where the file does not say or is wrong.
        interval_hours: length of the interval, likewise.
        time: end of the interval, likewise; else looked for in the name.

    Raises:
        SourceError: when the georeference or the units cannot be had.
    """
    image = _image(path)
    tags = dict(image.tag_v2)
    grid, reorder = _georeference(tags, image.size, path.name)
    notes = f"{tags.get(DESCRIPTION, '')} {tags.get(METADATA, '')}"
    imerg = IMERG_NAME.search(f"{tags.get(DOCUMENT, '')} {path.name}")
    stated = units or _units(notes)
    if stated is None:
        raise SourceError(f"{path.name} states no units; give them (--units mm)")
    hours = interval_hours or (HOURS.get(imerg.group(3) or "30min") if imerg else None)
    factor = to_rate(stated, hours, path.name)
    missing = _missing(tags) + (IMERG_MISSING if imerg else ())

    def load(index: int, member: int) -> np.ndarray:
        values = reorder(np.asarray(_image(path)))
        return np.where(np.isin(values, missing), np.nan, values.astype(np.float64) * factor)

    if units is None:
        check_magnitude(float(np.nanmax(load(0, 0), initial=0.0)), stated, path.name)
    end = time if time is not None else _time(imerg, path.name)
    return GriddedRain(
        path.name, grid, np.array([end]), hours or 0.0, IMERG if imerg else f"{path.name} (owner not stated)", load
    )


def read_band(path: Path) -> tuple[Grid, np.ndarray]:
    """Return the grid and the values [H, W] of one map as they are, rows from south to north, NaN where missing.

    Raises:
        SourceError: when it cannot be read or the georeference cannot be had.
    """
    image = _image(path)
    tags = dict(image.tag_v2)
    grid, reorder = _georeference(tags, image.size, path.name)
    values = reorder(np.asarray(image)).astype(np.float32)
    missing = np.asarray(_missing(tags), np.float32)
    return grid, np.where(np.isin(values, missing), np.float32(np.nan), values)


def _image(path: Path) -> Any:
    """Open one band."""
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(path)
    except (UnidentifiedImageError, OSError) as error:
        raise SourceError(f"{path.name} cannot be read as TIFF: {error}") from None
    if len(image.getbands()) != 1 or _maps(image) != 1:
        raise SourceError(f"{path.name} has several bands; extract one (`gdal_translate -b 1`)")
    return image


def _maps(image: Any) -> int:
    """Return the number of images that are no overviews of another."""
    count = 0
    for frame in range(getattr(image, "n_frames", 1)):
        image.seek(frame)
        count += not int(image.tag_v2.get(SUBFILE, 0)) & 1
    image.seek(0)
    return count


def _georeference(tags: dict[int, Any], size: tuple[int, int], name: str) -> tuple[Grid, Reorder]:
    if any(t not in tags for t in (SCALE, TIEPOINT, GEO_KEYS)):
        raise SourceError(f"{name} has no georeference (pixel scale, tie point and keys)")
    keys = {k: v for k, place, _, v in np.reshape(tags[GEO_KEYS], (-1, 4))[1:] if place == 0}
    step, tie = tags[SCALE], tags[TIEPOINT]
    centre = 0.0 if keys.get(RASTER_KEY) == 2 else 0.5
    x = tie[3] + step[0] * (np.arange(size[0]) + centre - tie[0])
    y = tie[4] - step[1] * (np.arange(size[1]) + centre - tie[1])
    if keys.get(MODEL_KEY) == 2:
        return latlon_grid(y, x)
    code = int(keys.get(PROJECTED_KEY, 0))
    if code not in EPSG:
        known = ", ".join(map(str, EPSG))
        raise SourceError(f"{name} is projected (EPSG {code}); known are latitude-longitude and EPSG {known}")
    return plane_grid(x, y, EPSG[code])


def _units(notes: str) -> str | None:
    found = re.search(r"units?\W{1,3}([\d./]*\s*\(?mm[^\s;,<\"]*)", notes, re.IGNORECASE)
    if not found:
        return None
    number, unit = re.fullmatch(r"([\d./]*)\s*\(?([^()]*)\)?", found.group(1)).groups()  # type: ignore[union-attr]
    return f"{number} {unit}".strip()


def _missing(tags: dict[int, Any]) -> tuple[float, ...]:
    try:
        return (float(str(tags[NODATA]).strip("\x00 ")),)
    except (KeyError, ValueError):
        return ()


def _time(imerg: re.Match[str] | None, name: str) -> np.datetime64:
    """Return the end of the interval, from an IMERG name or the digits of the file's own."""
    if imerg:
        day, clock = imerg.group(1), imerg.group(2)
        end = np.datetime64(f"{day[:4]}-{day[4:6]}-{day[6:]}T{clock[:2]}:{clock[2:4]}:{clock[4:]}")
        return end + np.timedelta64(1, "s")
    found = re.search(r"(20\d\d|19\d\d)(\d\d)(\d\d)[-_T.]?(\d\d)?(\d\d)?", name)
    if not found:
        raise SourceError(f"{name} states no time; give the end of its interval (time=...)")
    year, month, day_, hour, minute = found.groups()
    return np.datetime64(f"{year}-{month}-{day_}T{hour or '00'}:{minute or '00'}")
