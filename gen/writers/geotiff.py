"""Cloud-optimised GeoTIFF of fine rain: one file, a band for each member and time, overviews, tiles of 256 x 256.

Written here byte by byte, so that fields larger than memory need no further package: tiles are deflated with the
floating-point predictor (Adobe Photoshop TIFF technical note 3) while the model draws, and copied behind the
directories when all are there. The layout is that of OGC 21-026 "Cloud Optimized GeoTIFF": directories first, then the
overviews from the coarsest, then the full image. Georeference: OGC 19-008 "GeoTIFF"; no value is NaN.
"""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

__all__ = ["GeoTiffContainer", "decoded", "encoded", "geo_keys"]

import numpy as np
from numpy.typing import NDArray

from gen.grid import LatLonGrid
from gen.projected_grid import PolarStereographic, ProjectedGrid
from gen.writers.journal import StagedUnit, sync
from gen.writers.netcdf import FINGERPRINT
from gen.writers.packing import Compress, Encode, round_bits
from gen.writers.raster import BAND, RasterSpec, global_attributes

Tile = NDArray[np.float32]
Entry = tuple[int, str, list[Any] | bytes]  # tag, type code of `struct`, values
Source = tuple[Path, int, int]  # file, offset, bytes

TYPES = {"H": 3, "I": 4, "d": 12, "Q": 16, "s": 2}
CLASSIC_LIMIT = 3_500_000_000
HEAD_BYTES = 1 << 20
MARK = re.compile(rf'<Item name="{FINGERPRINT}">([0-9a-f]+)</Item>'.encode())


class GeoTiffContainer:
    """Collect staged bands and write the file when all are there.

    Args:
        path: the partial file. spec: what it holds. attrs: metadata. compress: how tiles were encoded.
    """

    name = "geotiff"
    keeps_units = False

    def __init__(self, path: Path, spec: RasterSpec, attrs: dict[str, str], compress: Compress) -> None:
        self._path, self._spec, self._attrs = path, spec, global_attributes(spec, attrs)
        self._tiles: dict[tuple[int, int, int], Source] = {}

    @staticmethod
    def encode(compress: Compress) -> Encode:
        """Return the function that encodes a tile; "none" keeps the tiles plain deflated, as one file has one way."""
        if compress == "small":
            return lambda tile, keep_bits: encoded(round_bits(tile, keep_bits))
        return lambda tile, keep_bits: encoded(tile)

    def append(self, unit: StagedUnit) -> None:
        """Note where the tiles of one band of rows lie."""
        time, band = divmod(unit.init, self._spec.bands)
        row = self._spec.bands - 1 - band  # from the north
        for entry in unit.index():
            image = time * self._spec.members + unit.start + int(entry[1])
            self._tiles[image, row, int(entry[3])] = (unit.data, int(entry[4]), int(entry[5]))

    def annotate(self, attrs: dict[str, str]) -> None:
        """Add metadata."""
        self._attrs |= attrs

    def finish(self) -> None:
        """Make the overviews and write the file."""
        images = self._spec.members * self._spec.times.size
        levels = [(self._spec.grid.shape, self._tiles)]
        with self._path.with_suffix(".overviews").open("w+b") as store:
            while max(levels[-1][0]) > BAND:
                levels.append(_overview(*levels[-1], images, store, Path(store.name)))
            store.flush()
            with self._path.open("wb") as out:
                _write(out, levels, images, self._described())
        sync(self._path)
        self._path.with_suffix(".overviews").unlink()

    def abandon(self) -> None:
        """Leave what is staged."""

    @staticmethod
    def fingerprint(path: Path) -> str | None:
        """Return the fingerprint of a finished file, None when it is not one of ours."""
        try:
            with path.open("rb") as stream:
                found = MARK.search(stream.read(HEAD_BYTES))
        except OSError:
            return None
        return found.group(1).decode() if found else None

    def _described(self) -> list[Entry]:
        """Return georeference and metadata of the full image."""
        spec, items = self._spec, []
        for name, value in self._attrs.items():
            items.append(f'<Item name="{escape(name)}">{escape(value)}</Item>')
        what, unit = spec.quantity
        minutes = np.datetime_as_string(spec.times.astype("datetime64[m]"))
        for k in range(spec.members * spec.times.size):
            time, member = divmod(k, spec.members)
            words = f"{what}, interval ending {minutes[time]}Z, member {member}"
            items.append(f'<Item name="DESCRIPTION" sample="{k}" role="description">{escape(words)}</Item>')
            items.append(f'<Item name="UNITTYPE" sample="{k}" role="unittype">{unit}</Item>')
        text = f"<GDALMetadata>{''.join(items)}</GDALMetadata>"
        return [*geo_keys(spec.grid), (42112, "s", text.encode() + b"\0"), (42113, "s", b"nan\0")]


def encoded(tile: Tile) -> bytes:
    """Deflate a tile after the floating-point predictor: bytes by significance, then differences along the row."""
    rows, columns = tile.shape
    planes = tile.astype(">f4").view(np.uint8).reshape(rows, columns, 4).transpose(0, 2, 1).reshape(rows, 4 * columns)
    return zlib.compress(np.diff(planes, axis=1, prepend=np.zeros((rows, 1), np.uint8)).tobytes(), 6)


def decoded(data: bytes, rows: int = BAND, columns: int = BAND) -> Tile:
    """Return the tile: the inverse of `encoded`."""
    steps = np.frombuffer(zlib.decompress(data), np.uint8).reshape(rows, 4 * columns)
    planes = np.cumsum(steps, axis=1, dtype=np.uint8).reshape(rows, 4, columns).transpose(0, 2, 1)
    return np.ascontiguousarray(planes).view(">f4")[..., 0].astype(np.float32)


def geo_keys(grid: LatLonGrid | ProjectedGrid) -> list[Entry]:
    """Return pixel scale, tie point (north-western corner) and keys of a grid."""
    if isinstance(grid, LatLonGrid):
        y, x = grid.latitude, grid.longitude
        keys: list[tuple[int, Any]] = [(1024, 2), (1025, 1), (2048, 4326), (2054, 9102)]
    else:
        y, x = grid.y, grid.x
        keys = _plane_keys(grid.crs)
    dy, dx = ((axis[-1] - axis[0]) / (axis.size - 1) for axis in (y, x))
    directory, doubles, text = [1, 1, 0, len(keys)], list[float](), ""
    for key, value in sorted(keys):
        if isinstance(value, float):
            directory += [key, 34736, 1, len(doubles)]
            doubles.append(value)
        elif isinstance(value, str):
            directory += [key, 34737, len(value) + 1, len(text)]
            text += f"{value}|"
        else:
            directory += [key, 0, 1, value]
    tags: list[Entry] = [
        (33550, "d", [float(dx), float(dy), 0.0]),
        (33922, "d", [0.0, 0.0, 0.0, float(x[0] - dx / 2), float(y[-1] + dy / 2), 0.0]),
        (34735, "H", directory),
    ]
    return tags + ([(34736, "d", doubles)] if doubles else []) + ([(34737, "s", text.encode() + b"\0")] if text else [])


def _plane_keys(crs: str) -> list[tuple[int, Any]]:
    """Return the keys of a polar stereographic projection, user-defined."""
    plane = PolarStereographic.parse(crs)
    minor = plane.semi_major if plane.semi_minor is None else plane.semi_minor
    return [
        (1024, 1), (1025, 1), (1026, "Polar stereographic"), (2048, 32767), (2049, "gen-earth"), (2050, 32767),
        (2051, 8901), (2054, 9102), (2056, 32767), (2057, float(plane.semi_major)), (2058, float(minor)),
        (3072, 32767), (3073, "Polar stereographic"), (3074, 32767), (3075, 15), (3076, 9001),
        (3081, float(plane.true_latitude)), (3082, float(plane.false_easting)), (3083, float(plane.false_northing)),
        (3092, 1.0), (3095, float(plane.central_longitude)),
    ]  # fmt: skip


def _overview(
    shape: tuple[int, int], tiles: dict[tuple[int, int, int], Source], images: int, store: Any, path: Path
) -> tuple[tuple[int, int], dict[tuple[int, int, int], Source]]:
    """Halve an image: means over 2 x 2 pixels, of those that are known."""
    half = -(-shape[0] // 2), -(-shape[1] // 2)
    down, across = (-(-n // BAND) for n in half)
    found = {}
    for image in range(images):
        for i in range(down):
            for j in range(across):
                large = np.full((2 * BAND, 2 * BAND), np.nan, np.float32)
                for di in (0, 1):
                    for dj in (0, 1):
                        source = tiles.get((image, 2 * i + di, 2 * j + dj))
                        if source:
                            part = decoded(_bytes(source))
                            large[di * BAND : (di + 1) * BAND, dj * BAND : (dj + 1) * BAND] = part
                data = encoded(_means(large))
                found[image, i, j] = (path, store.tell(), len(data))
                store.write(data)
    store.flush()
    return half, found


def _means(large: Tile) -> Tile:
    blocks = large.reshape(large.shape[0] // 2, 2, large.shape[1] // 2, 2)
    known = np.isfinite(blocks).sum((1, 3))
    with np.errstate(invalid="ignore"):
        return (np.nansum(blocks, (1, 3)) / np.where(known, known, np.nan)).astype(np.float32)


def _write(out: Any, levels: list[Any], images: int, described: list[Entry]) -> None:
    """Write header, directories, then the tiles of the levels from the coarsest."""
    total = sum(size for _, tiles in levels for _, _, size in tiles.values())
    big = total > CLASSIC_LIMIT
    offset_code = "Q" if big else "I"
    places: list[list[int]] = [[0] * len(tiles) for _, tiles in levels]

    def directories() -> bytes:
        head = struct.pack("<2sHHHQ", b"II", 43, 8, 0, 16) if big else struct.pack("<2sHI", b"II", 42, 8)
        for k, (shape, tiles) in enumerate(levels):
            entries = _entries(shape, images, k > 0, [tiles[t][2] for t in sorted(tiles)], places[k], offset_code)
            last = k + 1 == len(levels)
            head += _directory(entries + ([] if k else described), len(head), big, last)
        return head

    position = len(directories())
    for k in reversed(range(len(levels))):
        for n, tile in enumerate(sorted(levels[k][1])):
            places[k][n] = position
            position += levels[k][1][tile][2]
    out.write(directories())
    for _, tiles in reversed(levels):
        for tile in sorted(tiles):
            out.write(_bytes(tiles[tile]))


def _entries(
    shape: tuple[int, int], images: int, reduced: bool, sizes: list[int], places: list[int], offset_code: str
) -> list[Entry]:
    """Return the tags of one image; its samples lie one after the other."""
    more: list[Entry] = [(254, "I", [1])] if reduced else []
    extra: list[Entry] = [(338, "H", [0] * (images - 1))] if images > 1 else []
    return [
        *more,
        (256, "I", [shape[1]]), (257, "I", [shape[0]]), (258, "H", [32] * images), (259, "H", [8]), (262, "H", [1]),
        (277, "H", [images]), (284, "H", [2 if images > 1 else 1]), (317, "H", [3]), (322, "H", [BAND]),
        (323, "H", [BAND]), (324, offset_code, places), (325, "I", sizes), *extra, (339, "H", [3] * images),
    ] + ([(42113, "s", b"nan\0")] if reduced else [])  # fmt: skip


def _directory(entries: list[Entry], at: int, big: bool, last: bool) -> bytes:
    """Return one directory that lies at a byte, followed by the values that do not fit into it."""
    room, word, count_code = (8, "Q", "Q") if big else (4, "I", "H")
    size = struct.calcsize(f"<{count_code}") + len(entries) * (20 if big else 12) + room
    head, body = struct.pack(f"<{count_code}", len(entries)), b""
    for tag, code, values in sorted(entries, key=lambda e: e[0]):
        raw = values if isinstance(values, bytes) else struct.pack(f"<{len(values)}{code}", *values)
        head += struct.pack(f"<HH{word}", tag, TYPES[code], len(values))
        if len(raw) <= room:
            head += raw.ljust(room, b"\0")
        else:
            head += struct.pack(f"<{word}", at + size + len(body))
            body += raw + b"\0" * (-len(raw) % 8)
    padding = -(at + size + len(body)) % 8
    next_at = 0 if last else at + size + len(body) + padding
    return head + struct.pack(f"<{word}", next_at) + body + b"\0" * padding


def _bytes(source: Source) -> bytes:
    path, offset, size = source
    with path.open("rb") as stream:
        stream.seek(offset)
        return stream.read(size)
