"""RADOLAN composites of the German weather service: the binary format and its ASCII twin.

A binary file is an ASCII header that ends with ETX (0x03) and little-endian 2-byte numbers, rows from south to north.
Header: product (2 characters), DDhhmm, radar identifier (5), MMYY, then keys: BY length of everything, VS format, SW
software, PR precision (E-01: tenths of a millimetre), INT interval in minutes (weekly products W1 to W4: in tens of
minutes), U its unit (1: days), GP rows x columns, MS and ST lists of radars. Of each number the low twelve bits are the
value; bit 13 marks a secondary source, bit 14 no data, bit 15 a negative sign, bit 16 clutter (DWD, "RADOLAN/RADVOR-OP:
Beschreibung des Kompositformats"). The grid is polar stereographic with 1 km at 60 N on a sphere of 6370.04 km; the
newer DE1200 grid on the WGS84 ellipsoid.
"""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path

__all__ = ["RadolanHeader", "decode", "open_radolan", "open_radolan_ascii", "parse_header"]

import numpy as np

from downscaling.sources.base import GriddedRain, PrecipitationSource, join
from gen.data.sources import SourceError
from gen.projected_grid import ProjectedGrid

SPHERE = "+proj=stere +lat_0=90 +lat_ts=60 +lon_0=10 +R=6370040"
DE1200 = "+proj=stere +lat_0=90 +lat_ts=60 +lon_0=10 +a=6378137 +b=6356752.314245 +x_0=543196.835 +y_0=3622588.862"
CORNERS = {  # rows x columns: projection and outer south-western corner in metres
    (900, 900): (SPHERE, -523462.0, -4658645.0),
    (1100, 900): (SPHERE, -443462.0, -4758645.0),
    (1200, 1100): (DE1200, -500.0, -1199500.0),
}
AMOUNTS = (
    "RW",
    "RY",
    "RH",
    "RZ",
    "RB",
    "RL",
    "RU",
    "SF",
    "SH",
    "SQ",
    "YW",
    "W1",
    "W2",
    "W3",
    "W4",
    "D2",
    "D3",
    "S2",
    "S3",
)
VALUE, SECONDARY, MISSING, NEGATIVE, CLUTTER = 0x0FFF, 0x1000, 0x2000, 0x4000, 0x8000
KEY = re.compile(r"(BY|VS|SW|PR|INT|U|GP|MS|ST|MF|VV|VR)(?=[\d\s.E<-])")
ETX = b"\x03"
ATTRIBUTION = "Deutscher Wetterdienst, RADOLAN (GeoNutzV)"


@dataclass(frozen=True)
class RadolanHeader:
    """What the header says.

    Args:
        product: two letters.
        time: end of the interval.
        interval_hours: length of the interval.
        precision: millimetres that one count stands for.
        shape: rows and columns.
        data_bytes: bytes of numbers that should follow.
    """

    product: str
    time: np.datetime64
    interval_hours: float
    precision: float
    shape: tuple[int, int]
    data_bytes: int


def parse_header(text: str) -> RadolanHeader:
    """Read the header without its ETX.

    Raises:
        SourceError: when it is not that of a precipitation composite.
    """
    product, keys = text[:2], _keys(text[17:])
    if product not in AMOUNTS or not {"BY", "PR", "INT", "GP"} <= set(keys):
        raise SourceError(f"header {text[:24]!r} is not that of a RADOLAN amount; known are {', '.join(AMOUNTS)}")
    stamp = f"20{text[15:17]}-{text[13:15]}-{text[2:4]}T{text[4:6]}:{text[6:8]}"
    minutes = int(keys["INT"]) * (10 if product in ("W1", "W2", "W3", "W4") else 1)
    minutes *= 1440 if keys.get("U", "").strip() == "1" else 1
    rows, columns = (int(part) for part in keys["GP"].split("x"))
    precision = float(f"1{keys['PR'].strip()}")
    body = int(keys["BY"]) - len(text) - 1
    return RadolanHeader(product, np.datetime64(stamp), minutes / 60, precision, (rows, columns), body)


def decode(raw: bytes) -> tuple[RadolanHeader, np.ndarray]:
    """Return the header and the amounts [H, W] in mm, rows from south to north, NaN where missing or clutter.

    Raises:
        SourceError: when the file is damaged or holds something else.
    """
    end = raw.find(ETX, 0, 2000)
    if end < 0:
        raise SourceError("has no RADOLAN header")
    header = parse_header(raw[:end].decode("latin-1"))
    body = raw[end + 1 :]
    expected = 2 * header.shape[0] * header.shape[1]
    if len(body) != expected or header.data_bytes != expected:
        why = ", perhaps damaged by a text-mode transfer" if len(body) > expected else ""
        raise SourceError(f"holds {len(body)} bytes of data where {expected} belong{why}")
    numbers = np.frombuffer(body, dtype="<u2").reshape(header.shape)
    amounts = (numbers & VALUE).astype(np.float32) * np.float32(header.precision)
    amounts[(numbers & NEGATIVE) > 0] *= -1
    amounts[(numbers & (MISSING | CLUTTER)) > 0] = np.nan
    return header, amounts


def open_radolan(path: Path) -> PrecipitationSource:
    """Open one binary composite, compressed or not.

    Raises:
        SourceError: when it cannot be read or its grid is unknown.
    """
    try:
        header, _ = decode(_bytes(path))
    except SourceError as error:
        raise SourceError(f"{path.name} {error}") from None
    if header.shape not in CORNERS:
        known = ", ".join(f"{h}x{w}" for h, w in CORNERS)
        raise SourceError(f"{path.name}: no RADOLAN grid of {header.shape[0]}x{header.shape[1]} is known, only {known}")

    def load(index: int, member: int) -> np.ndarray:
        return decode(_bytes(path))[1] / np.float32(header.interval_hours)

    return GriddedRain(
        path.name, _grid(header.shape), np.array([header.time]), header.interval_hours, ATTRIBUTION, load
    )


def open_radolan_ascii(path: Path) -> PrecipitationSource:
    """Open an archive of hourly ASCII grids, `RW_YYYYMMDD-hhmm.asc`, in tenths of a millimetre, -1 where missing.

    Raises:
        SourceError: when it holds no such grid.
    """
    try:
        with tarfile.open(path) as archive:
            names = sorted(n for n in archive.getnames() if re.search(r"RW_\d{8}-\d{4}\.asc$", n))
            head = _member(archive, names[0])[:400] if names else b""
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise SourceError(f"{path.name} cannot be read as an archive: {' '.join(str(error).split())}") from None
    if not names:
        raise SourceError(f"{path.name} holds no ASCII grids named RW_YYYYMMDD-hhmm.asc")
    grid = _ascii_grid(head, path.name)

    def load(index: int, member: int) -> np.ndarray:
        try:
            with tarfile.open(path) as archive:
                lines = _member(archive, names[index]).split(b"\n", 6)
            counts = np.array(lines[6].split(), dtype=np.float32).reshape(grid.shape)[::-1]
        except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError, IndexError) as error:
            raise SourceError(f"{path.name}: {names[index]} is damaged: {' '.join(str(error).split())}") from None
        return np.where(counts < 0, np.nan, counts * np.float32(0.1))

    stamps = [re.findall(r"(\d{4})(\d\d)(\d\d)-(\d\d)(\d\d)", n)[-1] for n in names]
    times = np.array([f"{y}-{m}-{d}T{h}:{n}" for y, m, d, h, n in stamps], "datetime64[m]")
    return join(path.name, [GriddedRain(path.name, grid, times, 1.0, ATTRIBUTION, load)])


def _keys(text: str) -> dict[str, str]:
    """Return the keys and their values; each value runs to the next key."""
    text = re.sub(r"<[^>]*>", "", text)
    found = list(KEY.finditer(text))
    ends = [m.start() for m in found[1:]] + [len(text)]
    return {m.group(1): text[m.end() : end].strip() for m, end in zip(found, ends, strict=True)}


def _grid(shape: tuple[int, int]) -> ProjectedGrid:
    crs, x, y = CORNERS[shape]
    return ProjectedGrid.even(x + 500.0, y + 500.0, 1000.0, shape, crs)


def _ascii_grid(head: bytes, name: str) -> ProjectedGrid:
    keys = dict(line.split()[:2] for line in head.decode("latin-1").lower().splitlines()[:6] if len(line.split()) > 1)
    try:
        shape, step = (int(keys["nrows"]), int(keys["ncols"])), float(keys["cellsize"])
        corner = float(keys["xllcorner"]), float(keys["yllcorner"])
    except (KeyError, ValueError):
        raise SourceError(f"{name}: the header of its ASCII grids is not understood") from None
    return ProjectedGrid.even(corner[0] + step / 2, corner[1] + step / 2, step, shape, SPHERE)


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    return b"" if file is None else file.read()


def _bytes(path: Path) -> bytes:
    raw = path.read_bytes()
    try:
        return gzip.GzipFile(fileobj=io.BytesIO(raw)).read() if raw[:2] == b"\x1f\x8b" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise SourceError(f"cannot be uncompressed: {error}") from None
