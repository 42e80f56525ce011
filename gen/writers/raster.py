"""Write ensembles of fine rain band by band; the file appears under its name only when it is complete.

A field is cut into bands of rows, a chunk high each; a band of some members of one time is what is staged, repeated or
resumed (`gen.writers.staged`), so that memory holds no whole field. Rates are stored as `precipitation_flux` in
kg m-2 h-1: the CF name of what climate models and reanalyses give, in a unit that is the millimetre of water per hour.
Notes that come with bands (what conservation cost) become attributes when the file is complete: the largest of each.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

__all__ = [
    "BAND",
    "RasterSpec",
    "RasterWriter",
    "band_rows",
    "index_path",
    "raster_attributes",
    "raster_coordinates",
]

import numpy as np
from numpy.typing import NDArray

from gen.grid import LatLonGrid
from gen.projected_grid import PolarStereographic, ProjectedGrid
from gen.writers.coordinates import CALENDAR, Coordinate
from gen.writers.journal import combined_fingerprint, write_durably
from gen.writers.packing import COMPRESSIONS, Chunk, Compress, Encode, encoder
from gen.writers.spec import WriterError
from gen.writers.staged import StagedWriter

BAND = 256  # rows of a band, rows and columns of a chunk
KEEP_BITS = 9  # of the mantissa, 0.1 %
VARIABLE, COARSE, INDEX = "precipitation", "coarse_precipitation", "ood_index"
EPOCH = "minutes since 1970-01-01 00:00:00"
INDEX_NAME = "distance of the coarse rain from the training data: 0 inside, 1 at their edge, more outside"
ENDINGS = {"netcdf": "a NetCDF file", "geotiff": "a GeoTIFF file", "zarr": "a Zarr store"}


@dataclass(frozen=True)
class RasterSpec:
    """Describe a file of fine rain completely.

    Args:
        grid: the fine grid, rows from south to north. members: ensemble size.
        times: ends of the intervals, datetime64[m]. interval_hours: their length, 0 for instantaneous rates.
        attrs: global attributes (provenance).
        coarse_member: of each member. coarse_grid: grid of the input cells that the fine grid touches.
        coarse_members: how many of the input's members are stored. coarse: (time, member) to their rates.
        index: rates of the input to the index of each cell: 0 inside the training data, 1 at their edge, more outside.
        quantity: what the values are and their unit, for people.
    """

    grid: LatLonGrid | ProjectedGrid
    members: int
    times: NDArray[np.datetime64]
    interval_hours: float = 0.0
    attrs: dict[str, str] = field(default_factory=dict)
    coarse_member: tuple[int, ...] = ()
    coarse_grid: LatLonGrid | ProjectedGrid | None = None
    coarse_members: int = 1
    coarse: Callable[[int, int], NDArray[np.float32]] | None = None
    index: Callable[[NDArray[np.float32]], NDArray[np.float32]] | None = None
    quantity: tuple[str, str] = ("precipitation", "mm/h")

    @property
    def bands(self) -> int:
        """Return the number of bands of a field."""
        return -(-self.grid.shape[0] // BAND)

    @property
    def inits(self) -> NDArray[np.int64]:
        """Return the numbers of the bands of all times: what a unit belongs to, as starts are to forecasts."""
        return np.arange(self.times.size * self.bands)

    @property
    def chunk(self) -> tuple[int, int]:
        """Return rows and columns of a chunk."""
        return min(BAND, self.grid.shape[0]), min(BAND, self.grid.shape[1])

    @property
    def nbytes(self) -> int:
        """Return the bytes of all values as float32."""
        return 4 * self.members * self.times.size * int(np.prod(self.grid.shape))

    def describe(self) -> dict[str, object]:
        """Return what decides the arrays as JSON values, for fingerprints and messages."""
        times = self.times.astype("datetime64[m]").astype(np.int64).tolist()
        return {"grid": self.grid.to_dict(), "members": self.members, "times": times}


class RasterWriter(StagedWriter):
    """Write bands in the background; see `StagedWriter` for arguments and errors, `RasterSpec` for the content."""

    _format = "netcdf"

    def write(self, init_index: int, members: slice, values: Any, lead_slice: slice | None = None) -> None:
        """Queue the values [members, 1, 1, rows, columns] of a band, in mm/h."""
        if self.complete:
            return
        array = np.asarray(values, np.float32)
        first, stop = band_rows(self.spec.grid.shape[0], init_index % self.spec.bands, self._format)
        expected = (members.stop - members.start, 1, 1, stop - first, self.spec.grid.shape[1])
        if array.shape != expected:
            raise ValueError(f"values of the band must be {expected}; got {array.shape}")
        self._put(lambda: self._stage((init_index, members.start, members.stop), array, slice(0, 1)))

    def note(self, init_index: int, members: slice, notes: Mapping[str, float]) -> None:
        """Keep numbers that belong to a band; the largest of each name becomes an attribute."""
        if notes and not self.complete:
            name = f"note-{init_index}-{members.start}-{members.stop}.json"
            self._put(lambda: write_durably(self._journal.folder / name, json.dumps(dict(notes)).encode()))

    def _check(self, format: Any, compress: Compress) -> None:
        from gen.writers.geotiff import GeoTiffContainer
        from gen.writers.raster_store import RasterNetCDF, RasterZarr

        self.containers = {"netcdf": RasterNetCDF, "zarr": RasterZarr, "geotiff": GeoTiffContainer}
        self._format = format
        for name, value, allowed in (("format", format, self.containers), ("compress", compress, COMPRESSIONS)):
            if value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {value!r}")
        if not self.path.parent.is_dir():
            raise WriterError(f"{self.path}: there is no folder {self.path.parent}; make it first")
        if self.path.exists() and self.path.is_dir() != (format == "zarr"):
            there = "a folder" if self.path.is_dir() else "a file"
            raise WriterError(f"{self.path}: is {there}, and {ENDINGS[format]} is to be written; give another name")

    def _encoder(self) -> Encode:
        own = getattr(self._container_class, "encode", None)
        return encoder(self._container_class.name, self._compress) if own is None else own(self._compress)

    def _keep_bits(self, array: int) -> int:
        return KEEP_BITS

    def _buffer(self, key: tuple[int, int, int]) -> _BandBuffer:
        north_first = self._format == "geotiff"
        return _BandBuffer((BAND, BAND) if north_first else self.spec.chunk, north_first)

    def close(self) -> None:
        """Finish; a GeoTIFF, which holds one grid only, gets the index of the coarse cells as a file beside it."""
        super().close()
        if self.complete and self._assemble and self._format == "geotiff" and self.spec.index is not None:
            self._write_index()

    def _write_index(self) -> None:
        """Write the index of the coarse cells, unless the file of this very run is there."""
        from gen.writers.geotiff import GeoTiffContainer

        path, request = index_path(self.path), self._journal.fingerprint
        spec: Any = _index_spec(self.spec, self._attrs)
        wanted = combined_fingerprint(request, spec, "geotiff", self._compress)
        if GeoTiffContainer.fingerprint(path) == wanted:
            return
        assert self.spec.coarse is not None and self.spec.index is not None
        with RasterWriter(path, spec, "geotiff", request, compress=self._compress) as writer:
            for number, member in itertools.product(spec.inits, range(spec.members)):
                time, band = divmod(int(number), spec.bands)
                values = self.spec.index(self.spec.coarse(time, member))
                first, stop = band_rows(values.shape[0], band, "geotiff")
                writer.write(int(number), slice(member, member + 1), values[None, None, None, first:stop])
                writer.commit(int(number), slice(member, member + 1))

    def _finish(self) -> None:
        notes: dict[str, float] = {}
        for path in self._journal.folder.glob("note-*.json"):
            for name, value in json.loads(path.read_text()).items():
                notes[name] = max(value, notes.get(name, value))
        if self._container is not None:
            self._container.annotate({name: f"{value:.6g}" for name, value in sorted(notes.items())})
        super()._finish()


class _BandBuffer:
    """Cut bands into chunks; a chunk at the rim is filled up with missing values."""

    def __init__(self, chunk: tuple[int, int], north_first: bool) -> None:
        self._chunk, self._north_first, self._seen = chunk, north_first, False

    @property
    def missing(self) -> list[int]:
        """Return [0] until the band has come."""
        return [] if self._seen else [0]

    def add(self, values: NDArray[np.float32], leads: slice) -> Iterator[Chunk]:
        """Take values [members, 1, 1, rows, columns] and yield their chunks."""
        self._seen = True
        height, width = self._chunk
        for member, band in enumerate(values[:, 0, 0]):
            rows = band[::-1] if self._north_first else band
            for k, left in enumerate(range(0, rows.shape[1], width)):
                piece = rows[:, left : left + width]
                full = np.full(self._chunk, np.nan, np.float32)
                full[: piece.shape[0], : piece.shape[1]] = piece
                yield 0, member, 0, k, full


def index_path(path: Path) -> Path:
    """Return the file of the index of coarse cells that lies beside a GeoTIFF."""
    return path.with_name(f"{path.stem}_{INDEX}{path.suffix}")


def _index_spec(spec: RasterSpec, attrs: Mapping[str, str]) -> RasterSpec:
    """Return what the file of the index holds: a band for each time and member of the input."""
    assert spec.coarse_grid is not None
    return replace(
        spec,
        grid=spec.coarse_grid,
        members=spec.coarse_members,
        attrs={**attrs, "title": INDEX_NAME},
        coarse_member=(),
        coarse=None,
        index=None,
        quantity=("index of the coarse rain", "1"),
    )


def band_rows(height: int, band: int, format: str) -> tuple[int, int]:
    """Return the rows (first, stop) of a band, counted from the south; in GeoTIFF chunks are counted from the north."""
    if format != "geotiff":
        return band * BAND, min((band + 1) * BAND, height)
    above = -(-height // BAND) - 1 - band
    return max(height - (above + 1) * BAND, 0), height - above * BAND


def raster_attributes(spec: RasterSpec) -> dict[str, dict[str, Any]]:
    """Return the attributes of the fine and of the coarse variables."""
    mean = "time: mean" if spec.interval_hours else "time: point"
    common = {"standard_name": "precipitation_flux", "units": "kg m-2 h-1", "cell_methods": f"area: mean {mean}"}
    fine = {"long_name": "precipitation rate (millimetres of water per hour)", **common}
    coarse = {"long_name": "precipitation rate of the coarse input", **common}
    places = []
    if isinstance(spec.grid, ProjectedGrid):
        places = ["latitude", "longitude"]
        fine["grid_mapping"] = "crs"
    fine["coordinates"] = " ".join([*places, "coarse_member"])
    index = {
        "long_name": INDEX_NAME,
        "units": "1",
        "valid_min": np.float32(0),
        "comment": "of the rate of each cell; global attributes tell that of factor, spacing and interval",
    }
    return {VARIABLE: fine, COARSE: coarse, INDEX: index}


def raster_coordinates(spec: RasterSpec) -> tuple[Coordinate, ...]:
    """Return the coordinates of a file, but for the two-dimensional ones of a map plane."""
    minutes = spec.times.astype("datetime64[m]").astype(np.int64)
    clock = {"units": EPOCH, "calendar": CALENDAR, "units_metadata": "leap_seconds: none"}
    time = {"standard_name": "time", "long_name": "end of the interval", "axis": "T", **clock}
    length = round(60 * spec.interval_hours)
    bounds = (Coordinate("time_bnds", ("time", "bnds"), np.stack([minutes - length, minutes], -1)),)
    realization = {"standard_name": "realization", "long_name": "ensemble member", "units": "1"}
    owner = {"long_name": "member of the coarse input that the fine member refines", "units": "1"}
    return (
        Coordinate("realization", ("realization",), np.arange(spec.members), realization),
        Coordinate("time", ("time",), minutes, time | ({"bounds": "time_bnds"} if length else {})),
        *(bounds if length else ()),
        *_map_axes(spec.grid, ""),
        *_map_axes(spec.coarse_grid, "coarse_"),
        Coordinate("coarse_member", ("realization",), np.asarray(spec.coarse_member or [0] * spec.members), owner),
        *_mapping(spec.grid),
    )


def _map_axes(grid: Any, prefix: str) -> tuple[Coordinate, ...]:
    if grid is None:
        return ()
    if isinstance(grid, ProjectedGrid):
        parts = [("y", grid.y, "projection_y_coordinate", "m", "Y"), ("x", grid.x, "projection_x_coordinate", "m", "X")]
    else:
        parts = [
            ("latitude", grid.latitude, "latitude", "degrees_north", "Y"),
            ("longitude", grid.longitude, "longitude", "degrees_east", "X"),
        ]
    what = "of the coarse input" if prefix else "of the cell centre"
    found = []
    for name, axis, standard, units, letter in parts:
        attrs = {"standard_name": standard, "long_name": f"{name} {what}", "units": units, "axis": letter}
        if prefix and isinstance(grid, ProjectedGrid):  # CF wants one projection_x_coordinate of a grid mapping
            attrs = {"long_name": f"{name} {what}, on the same map plane", "units": units}
        found.append(Coordinate(prefix + name, (prefix + name,), np.asarray(axis), attrs))
    return tuple(found)


def _mapping(grid: LatLonGrid | ProjectedGrid) -> tuple[Coordinate, ...]:
    """Return the grid mapping of a map plane (CF-1.11, appendix F)."""
    if not isinstance(grid, ProjectedGrid):
        return ()
    plane = PolarStereographic.parse(grid.crs)
    minor = plane.semi_major if plane.semi_minor is None else plane.semi_minor
    attrs: dict[str, Any] = {
        "grid_mapping_name": "polar_stereographic",
        "straight_vertical_longitude_from_pole": plane.central_longitude,
        "latitude_of_projection_origin": float(np.copysign(90.0, plane.true_latitude)),
        "standard_parallel": plane.true_latitude,
        "false_easting": plane.false_easting,
        "false_northing": plane.false_northing,
        "semi_major_axis": plane.semi_major,
        "semi_minor_axis": minor,
        "proj4": grid.crs,
    }
    return (Coordinate("crs", (), np.asarray(0), attrs),)


def global_attributes(spec: RasterSpec, attrs: Mapping[str, str]) -> dict[str, str]:
    """Return the global attributes: conventions, the mark that the file is synthetic, then the caller's own."""
    return {
        "Conventions": "CF-1.11",
        "title": "Ensemble of fine precipitation drawn from a generative model",
        "source": "generative model (gen-earth)",
        "history": f"{attrs.get('created', '')} written by gen-earth".strip(),
        "synthetic": "true",
        "comment": "Synthetic: drawn from a generative model given coarse precipitation, not observed.",
    } | {str(key): str(value) for key, value in attrs.items()}
