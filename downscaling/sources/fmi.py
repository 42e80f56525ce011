"""Radar composites of the Finnish Meteorological Institute: 8-bit PGM reflectivity with a header of comments.

Counts v give reflectivity 10 log10 Z = (v - 64) / 2 in dBZ, the largest count is missing, 0 is no echo, and rain
follows from Z = 223 R^1.53, the relation that pysteps uses for these files (Pulkkinen et al. 2019,
doi 10.5194/gmd-12-4185-2019). The plane is polar stereographic on a sphere of 6371.288 km between the corners that the
header gives. There is no real file to test with: this follows the documentation alone.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

__all__ = ["open_fmi"]

import numpy as np

from downscaling.sources.base import GriddedRain, PrecipitationSource
from downscaling.sources.grids import plane_grid
from gen.data.sources import SourceError
from gen.projected_grid import PolarStereographic, ProjectedGrid

RADIUS = 6371288.0
ZR_FACTOR, ZR_POWER = 223.0, 1.53
ATTRIBUTION = "Finnish Meteorological Institute, radar composite (CC BY 4.0)"
NEEDED = ("obstime", "type", "centrallongitude", "truelatitude", "bottomleft", "topright")


def open_fmi(path: Path) -> PrecipitationSource:
    """Open one composite, compressed or not; rates are instantaneous.

    Raises:
        SourceError: when the header lacks what is needed.
    """
    keys, counts, largest = _parse(path)
    if lacking := [k for k in NEEDED if k not in keys]:
        raise SourceError(f"{path.name} is no FMI composite: its header lacks {', '.join(lacking)}")
    if keys["type"] != "stereographic":
        raise SourceError(f"{path.name} has the projection {keys['type']!r}; known is stereographic")
    stamp = keys["obstime"]
    time = np.datetime64(f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:8]}T{stamp[8:10]}:{stamp[10:12]}")

    def load(index: int, member: int) -> np.ndarray:
        linear = 10 ** ((counts.astype(np.float64) - 64) / 20)
        rain = np.where(counts == 0, 0.0, (linear / ZR_FACTOR) ** (1 / ZR_POWER))
        return np.where(counts == largest, np.nan, rain)[::-1]

    return GriddedRain(path.name, _grid(keys, counts.shape), np.array([time]), 0.0, ATTRIBUTION, load)


def _grid(keys: dict[str, str], shape: tuple[int, ...]) -> ProjectedGrid:
    """Return the plane whose outer corners the header gives as longitude and latitude."""
    plane = PolarStereographic(float(keys["truelatitude"]), float(keys["centrallongitude"]), RADIUS)
    corners = [keys[k].split() for k in ("bottomleft", "topright")]
    (x0, y0), (x1, y1) = (plane.forward(float(lat), float(lon)) for lon, lat in corners)
    x, y = (a + (b - a) * (np.arange(n) + 0.5) / n for a, b, n in ((x0, x1, shape[1]), (y0, y1, shape[0])))
    return plane_grid(x, y, plane.text)[0]


def _parse(path: Path) -> tuple[dict[str, str], np.ndarray, int]:
    """Return the comments, the counts [rows from north, columns] and the largest possible count."""
    raw = path.read_bytes()
    try:
        raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise SourceError(f"{path.name} cannot be uncompressed: {error}") from None
    keys: dict[str, str] = {}
    lines, at = list[bytes](), 0
    while len(lines) < 3:
        stop = raw.find(b"\n", at)
        if stop < 0 or (not lines and raw[:2] != b"P5"):
            raise SourceError(f"{path.name} is no binary PGM image")
        line, at = raw[at:stop].strip(), stop + 1
        if line.startswith(b"#"):
            name, _, value = line[1:].strip().decode("latin-1").partition(" ")
            keys[name] = value.strip()
        else:
            lines.append(line)
    (width, height), largest = map(int, lines[1].split()), int(lines[2])
    if len(raw) - at < width * height:
        raise SourceError(f"{path.name} is cut off: {len(raw) - at} of {width * height} pixels")
    return keys, np.frombuffer(raw, np.uint8, width * height, at).reshape(height, width), largest
