"""Maps that do not change with time: elevation in metres and shares of land, read by windows.

NetCDF, Zarr and GeoTIFF files on latitudes and longitudes are read, whatever the order of their axes; rows run north
and columns east here, round the globe as often as wanted. Files are read in blocks, of which the last used are kept, so
that a map of any size costs no more memory than the windows that are looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

__all__ = ["StaticMap", "open_elevation", "open_land"]

import numpy as np
from numpy.typing import NDArray

from gen.data.cache import ArrayCache
from gen.data.conventions import GRAVITY, catalogue
from gen.data.sources import SourceError
from gen.grid import LatLonGrid

if TYPE_CHECKING:
    import xarray as xr

Values = NDArray[np.float32]
Read = Callable[[slice, slice], np.ndarray]

BLOCK = 512
CACHE_BYTES = 1 << 28
HIGHEST, DEEPEST = 9000.0, -11100.0  # metres
AXES = (("latitude", "longitude"), ("lat", "lon"), ("y", "x"))
ELEVATION = (
    "surface_altitude", "height_above_mean_sea_level", "surface_geopotential", "geopotential", "elevation", "orog",
    "orography", "topography", "topo", "elev", "altitude", "height", "hsurf", "dem", "z", "band1",
)  # fmt: skip
LAND = ("land_area_fraction", "land_binary_mask", "lsm", "land_sea_mask", "sftlf", "fr_land", "land", "mask")
LENGTHS = {"m": 1.0, "metre": 1.0, "metres": 1.0, "meter": 1.0, "meters": 1.0, "gpm": 1.0, "km": 1000.0}
GEOPOTENTIALS = ("m2 s-2", "m2/s2", "m2 s^-2", "j kg-1")
SHARES = {"": 1.0, "1": 1.0, "(0 - 1)": 1.0, "0-1": 1.0, "fraction": 1.0, "%": 0.01, "percent": 0.01}


@dataclass(frozen=True)
class StaticMap:
    """A map on latitudes and longitudes.

    Args:
        name: of the file. grid: cells of the map, rows north, columns east.
        read: (rows, columns) to values in the units wanted, NaN where missing.
        note: what was assumed about it.
    """

    name: str
    grid: LatLonGrid
    read: Read
    note: str = ""
    cache: ArrayCache = field(default_factory=lambda: ArrayCache(CACHE_BYTES))

    def window(self, top: int, bottom: int, left: int, right: int) -> Values:
        """Return rows `top` to `bottom` and columns `left` to `right`, which may go round the globe."""
        out = np.empty((bottom - top, right - left), np.float32)
        count = self.grid.longitude.size
        begin = left
        while begin < right:
            at = begin % count
            end = min(begin + min(BLOCK - at % BLOCK, count - at), right)
            for first in range(top - top % BLOCK, bottom, BLOCK):
                block = self._block(first, at - at % BLOCK)
                rows = slice(max(first, top), min(first + BLOCK, bottom))
                part = block[rows.start - first : rows.stop - first, at % BLOCK : at % BLOCK + end - begin]
                out[rows.start - top : rows.stop - top, begin - left : end - left] = part
            begin = end
        return out

    def _block(self, top: int, left: int) -> np.ndarray:
        rows, columns = (slice(k, min(k + BLOCK, n)) for k, n in zip((top, left), self.grid.shape, strict=True))
        return self.cache.get((top, left), lambda: np.asarray(self.read(rows, columns), np.float32))


def open_elevation(path: Path) -> StaticMap:
    """Open the elevation of the surface, in metres.

    Geopotentials, known by their units or standard name, are divided by 9.80665 m/s2, unless the long name says metres
    ("orographic height [m]"). Without units values are metres.

    Raises:
        SourceError: no such map, unknown units, a projected map; later, where values are no elevations on Earth.
    """
    name, grid, read, attrs = _open(path, ELEVATION, "elevation")
    factor, note = _metres(attrs, name)

    def metres(rows: slice, columns: slice) -> np.ndarray:
        values = read(rows, columns) * factor
        with np.errstate(invalid="ignore"):
            wrong = values[(values > HIGHEST) | (values < DEEPEST)]
        if wrong.size:
            raise SourceError(
                f"{name} has an elevation of {wrong.flat[0]:.6g} m, which is no place on Earth: is it a geopotential "
                "(set its units to m2 s-2) or a missing value (set _FillValue)?"
            )
        return values

    return StaticMap(name, grid, metres, note)


def open_land(path: Path) -> StaticMap:
    """Open the share of land, 0 in the sea to 1.

    Raises:
        SourceError: no such map or a projected one; later, where values are no shares.
    """
    name, grid, read, attrs = _open(path, LAND, "land mask")
    units = str(attrs.get("units", "")).strip().lower()
    if units not in SHARES:
        raise SourceError(
            f"{name}: the land mask is in unknown units {units!r}; known: {', '.join(filter(None, SHARES))}"
        )

    def shares(rows: slice, columns: slice) -> np.ndarray:
        values = read(rows, columns) * SHARES[units]
        with np.errstate(invalid="ignore"):
            wrong = values[(values > 1.001) | (values < -0.001)]
        if wrong.size:
            raise SourceError(f"{name}: a land mask is between 0 and 1; got {wrong.flat[0]:.6g}")
        return values

    return StaticMap(name, grid, shares)


def _metres(attrs: dict[str, Any], name: str) -> tuple[float, str]:
    """Return what makes values metres, and a note where the file contradicts itself."""
    units = str(attrs.get("units", "")).strip().lower().replace("**", "")
    geopotential = units in GEOPOTENTIALS or (
        not units and str(attrs.get("standard_name", "")) in ("geopotential", "surface_geopotential")
    )
    if geopotential and "[m]" in str(attrs.get("long_name", "")):
        return 1.0, f"metres, as the long name says, though the units are {units}"
    if geopotential:
        return 1.0 / GRAVITY, "geopotential over 9.80665 m s-2"
    if units and units not in LENGTHS:
        known = ", ".join((*LENGTHS, *GEOPOTENTIALS))
        raise SourceError(f"{name}: the elevation is in unknown units {units!r}; known: {known}")
    return LENGTHS.get(units, 1.0), ""


def _open(path: Path, names: tuple[str, ...], what: str) -> tuple[str, LatLonGrid, Read, dict[str, Any]]:
    path = Path(path).expanduser()
    if not path.exists():
        raise SourceError(f"{path} does not exist: it was to give the {what}")
    if path.suffix.lower() in (".tif", ".tiff"):
        return path.name, *_tiff(path)
    import xarray as xr

    try:
        dataset = xr.open_dataset(path, engine="zarr" if path.is_dir() else None, chunks=None, decode_times=False)
    except Exception as error:  # whatever a reader of foreign formats raises on a damaged file
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise SourceError(f"{path.name} cannot be opened: {reason}") from error
    axes = next((a for a in AXES if set(a) <= set(dataset.coords)), None)
    if axes is None or any(dataset[a].ndim != 1 for a in axes):
        raise SourceError(f"{path.name} is not on latitudes and longitudes: regrid it (`gdalwarp -t_srs EPSG:4326`)")
    array = _chosen(dataset, axes, names, path.name, what)
    grid, rows, columns = _grid(np.asarray(dataset[axes[0]]), np.asarray(dataset[axes[1]]), path.name)

    def read(row: slice, column: slice) -> np.ndarray:
        parts = [[_loaded(array, r, c) for c in _runs(columns[column])] for r in _runs(rows[row])]
        return np.block(parts) if len(parts) > 1 or len(parts[0]) > 1 else parts[0][0]

    return path.name, grid, read, dict(array.attrs)


def _chosen(dataset: xr.Dataset, axes: tuple[str, str], names: tuple[str, ...], name: str, what: str) -> xr.DataArray:
    """Return the map [latitude, longitude] that is called so, or the only one."""
    found = {}
    for key, array in dataset.data_vars.items():
        plain = all(array.sizes[d] == 1 for d in array.dims if d not in axes)
        if set(axes) <= set(map(str, array.dims)) and plain and array.dtype.kind in "fiub":
            found[str(key)] = array.isel({d: 0 for d in array.dims if d not in axes}).transpose(*axes)
    for wanted in names:
        for key, array in found.items():
            if wanted in (key.lower(), str(array.attrs.get("standard_name", "")).lower()):
                return array
    if len(found) != 1:
        raise SourceError(
            f"{name} has no {what}; known names: {', '.join(names)}; it has {', '.join(found) or 'no map'}"
        )
    return next(iter(found.values()))


def _grid(latitude: np.ndarray, longitude: np.ndarray, name: str) -> tuple[LatLonGrid, np.ndarray, np.ndarray]:
    """Return the grid of two axes in any order, and the rows and columns of the file in its order."""
    import xarray as xr

    if np.abs(latitude).max() > 90.001 or longitude.min() < -180.001 or longitude.max() > 360.001:
        raise SourceError(f"{name} is not on latitudes and longitudes: regrid it (`gdalwarp -t_srs EPSG:4326`)")
    coords = {"latitude": latitude.astype(np.float64), "longitude": longitude.astype(np.float64)}
    try:
        axes = catalogue(xr.Dataset(coords=coords)).axes
    except SourceError as error:
        raise SourceError(f"{name} {error}") from error
    return axes.grid, np.asarray(axes.rows), np.asarray(axes.columns)


def _tiff(path: Path) -> tuple[LatLonGrid, Read, dict[str, Any]]:
    from downscaling.sources.geotiff import read_band

    grid, values = read_band(path)
    if not isinstance(grid, LatLonGrid):
        raise SourceError(f"{path.name} is not on latitudes and longitudes: regrid it (`gdalwarp -t_srs EPSG:4326`)")
    return grid, lambda rows, columns: values[rows, columns], {}


def _runs(places: np.ndarray) -> list[slice]:
    """Return places of a file, ascending or descending by one, as slices."""
    if places.size == 1:
        return [slice(int(places[0]), int(places[0]) + 1)]
    step = np.diff(places)
    found = []
    for run in np.split(places, np.flatnonzero(np.abs(step) != 1) + 1):
        first, last = int(run[0]), int(run[-1])
        down = last < first
        found.append(slice(first, last - 1 if last else None, -1) if down else slice(first, last + 1))
    return found


def _loaded(array: xr.DataArray, rows: slice, columns: slice) -> np.ndarray:
    return np.asarray(array[rows, columns].values, np.float32)
