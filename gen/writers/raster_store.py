"""NetCDF and Zarr containers of fine rain: metadata through h5netcdf and zarr, chunks copied in already encoded."""

from __future__ import annotations

import logging
import shutil
import warnings
from itertools import groupby
from pathlib import Path
from typing import Any

__all__ = ["RasterNetCDF", "RasterZarr"]

import numpy as np

from gen.projected_grid import ProjectedGrid
from gen.writers.coordinates import Coordinate
from gen.writers.journal import StagedUnit, sync, write_durably
from gen.writers.netcdf import NetCDFContainer
from gen.writers.packing import Compress
from gen.writers.raster import (
    BAND,
    COARSE,
    INDEX,
    VARIABLE,
    RasterSpec,
    global_attributes,
    raster_attributes,
    raster_coordinates,
)
from gen.writers.zarr_store import EMPTY, KEY_SEPARATOR, ZarrContainer, crc32c

log = logging.getLogger(__name__)

DIMS = ("realization", "time")


class RasterNetCDF:
    """Collect staged bands and copy them into a partial NetCDF-4 file when all are there.

    They are copied in the order of the file, since the order of writing shows in the bytes of HDF5.

    Args:
        path: the partial file. spec: what it holds. attrs: global attributes. compress: how chunks were encoded.
    """

    name = "netcdf"
    keeps_units = False
    fingerprint = staticmethod(NetCDFContainer.fingerprint)

    def __init__(self, path: Path, spec: RasterSpec, attrs: dict[str, str], compress: Compress) -> None:
        import h5py

        self._path, self._spec = path, spec
        _netcdf_skeleton(path, spec, attrs, compress)
        self._file: Any = h5py.File(path, "r+")
        self._units: list[StagedUnit] = []

    def append(self, unit: StagedUnit) -> None:
        """Note that a band is there."""
        self._units.append(unit)

    def annotate(self, attrs: dict[str, str]) -> None:
        """Add global attributes."""
        for name, value in attrs.items():
            self._file.attrs[name] = value

    def finish(self) -> None:
        """Copy the chunks into place, close the file and flush it to the disk."""
        data = self._file[VARIABLE].id
        for unit in sorted(self._units, key=lambda u: u.key):
            time, band = divmod(unit.init, self._spec.bands)
            for row, encoded in unit.chunks():
                place = (unit.start + int(row[1]), time, band * BAND, int(row[3]) * self._spec.chunk[1])
                data.write_direct_chunk(place, encoded)
        self._file.close()
        sync(self._path)

    def abandon(self) -> None:
        """Close the file although it is not complete."""
        try:
            self._file.close()
        except (OSError, RuntimeError, ValueError) as error:
            log.debug("partial file could not be closed: %s", error)


class RasterZarr:
    """Append staged bands to a partial Zarr store; a band of a member is one shard.

    Args:
        path: the partial store; kept when it exists. spec: what it holds. attrs: global attributes.
        compress: how chunks were encoded.
    """

    name = "zarr"
    keeps_units = True
    fingerprint = staticmethod(ZarrContainer.fingerprint)

    def __init__(self, path: Path, spec: RasterSpec, attrs: dict[str, str], compress: Compress) -> None:
        self._path, self._spec = path, spec
        ready = path.with_suffix(".ready")
        if not ready.exists():
            shutil.rmtree(path, ignore_errors=True)
            _zarr_skeleton(path, spec, attrs, compress)
            write_durably(ready, b"")

    def append(self, unit: StagedUnit) -> None:
        """Write the shards of one band and flush them to the disk; interrupted, it can be repeated."""
        time, band = divmod(unit.init, self._spec.bands)
        written = []
        for member, chunks in groupby(unit.chunks(), key=lambda item: int(item[0][1])):
            path = self._path / VARIABLE / KEY_SEPARATOR.join(map(str, ("c", unit.start + member, time, band, 0)))
            path.write_bytes(_shard([encoded for _, encoded in chunks]))
            written.append(path)
        for path in dict.fromkeys([*written, *(p.parent for p in written)]):
            sync(path)

    def annotate(self, attrs: dict[str, str]) -> None:
        """Add global attributes."""
        import zarr

        zarr.open_group(str(self._path), mode="r+").attrs.update(attrs)

    def finish(self) -> None:
        """Gather the metadata in one place and flush it."""
        import zarr

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # consolidated metadata is a widely read extension of Zarr v3
            zarr.consolidate_metadata(str(self._path), zarr_format=3)
        write_durably(self._path / "zarr.json", (self._path / "zarr.json").read_bytes())
        sync(self._path)

    def abandon(self) -> None:
        """Leave the store as it is."""


def _shard(chunks: list[bytes]) -> bytes:
    """Join the chunks of a band to a shard: chunks, index of (offset, bytes), CRC-32C of the index."""
    sizes = np.array([len(c) for c in chunks], "<u8")
    index = np.stack([np.cumsum(sizes) - sizes, sizes], axis=-1).astype("<u8")
    assert not (index == EMPTY).any()
    table = index.tobytes()
    return b"".join([*chunks, table, crc32c(table).to_bytes(4, "little")])


def _netcdf_skeleton(path: Path, spec: RasterSpec, attrs: dict[str, str], compress: Compress) -> None:
    import h5netcdf

    filters: dict[str, Any] = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
    stored = raster_attributes(spec)
    with h5netcdf.File(path, "w") as file:
        axes = raster_coordinates(spec)
        for axis in axes:
            for name, size in zip(axis.dims, axis.values.shape, strict=True):
                if name not in file.dimensions:
                    file.dimensions[name] = size
        for axis in axes:
            file.create_variable(axis.name, axis.dims, data=axis.values).attrs.update(axis.attrs)
        nothing = {"fillvalue": np.float32(np.nan)}
        packed = {} if compress == "none" else filters
        chunks = (1, 1, *spec.chunk)
        data = file.create_variable(VARIABLE, (*DIMS, *_plane(spec)), "<f4", chunks=chunks, **nothing, **packed)
        data.attrs.update(_said(stored[VARIABLE], compress))
        for axis in _positions(spec):
            file.create_variable(axis.name, axis.dims, "<f8", **filters).attrs.update(axis.attrs)
        if spec.coarse is not None:
            file.dimensions["coarse_realization"] = spec.coarse_members
            dims, one = _coarse_layout(spec)
            for name in _coarse_names(spec):
                made = file.create_variable(name, dims, "<f4", chunks=one, **nothing, **filters)
                made.attrs.update(stored[name])
        _fill(spec, {str(name): variable for name, variable in file.variables.items()})
        file.attrs.update(global_attributes(spec, attrs))


def _zarr_skeleton(path: Path, spec: RasterSpec, attrs: dict[str, str], compress: Compress) -> None:
    import zarr
    from zarr.codecs import BloscCodec

    pack = BloscCodec(typesize=4, cname="zstd", clevel=1, shuffle="shuffle")
    root = zarr.open_group(str(path), mode="w", zarr_format=3, attributes=dict(global_attributes(spec, attrs)))
    for axis in raster_coordinates(spec):
        array = root.create_array(
            axis.name,
            shape=axis.values.shape,
            dtype=axis.values.dtype,
            chunks=axis.values.shape,
            dimension_names=axis.dims,
            attributes=dict(axis.attrs),
            compressors=None,
        )
        array[...] = axis.values
    stored, (height, width) = raster_attributes(spec), spec.chunk
    wide = -(-spec.grid.shape[1] // width) * width
    root.create_array(
        VARIABLE,
        shape=(spec.members, spec.times.size, *spec.grid.shape),
        dtype="float32",
        chunks=(1, 1, height, width),
        shards=(1, 1, height, wide),
        dimension_names=(*DIMS, *_plane(spec)),
        attributes=dict(_said(stored[VARIABLE], compress)),
        compressors=None if compress == "none" else pack,
        fill_value=np.nan,
        chunk_key_encoding={"name": "default", "separator": KEY_SEPARATOR},
    )
    (path / VARIABLE).mkdir(exist_ok=True)
    for axis in _positions(spec):
        root.create_array(
            axis.name, shape=spec.grid.shape, dtype="float64", dimension_names=axis.dims, attributes=dict(axis.attrs)
        )
    if spec.coarse is not None and spec.coarse_grid is not None:
        dims, one = _coarse_layout(spec)
        sizes = {"coarse_realization": spec.coarse_members, "time": spec.times.size}
        shape = tuple(sizes.get(d, n) for d, n in zip(dims, one, strict=True))
        for name in _coarse_names(spec):
            said = {k: float(v) if isinstance(v, np.float32) else v for k, v in stored[name].items()}
            root.create_array(
                name,
                shape=shape,
                dtype="float32",
                chunks=one,
                dimension_names=dims,
                fill_value=np.nan,
                attributes=said,
            )
    _fill(spec, {str(name): array for name, array in root.arrays()})


def _positions(spec: RasterSpec) -> tuple[Coordinate, ...]:
    """Return latitude and longitude [y, x] of a map plane, without their values."""
    if not isinstance(spec.grid, ProjectedGrid):
        return ()
    units = {"latitude": "degrees_north", "longitude": "degrees_east"}
    return tuple(
        Coordinate(name, ("y", "x"), np.empty((0, 0)), {"standard_name": name, "long_name": name, "units": unit})
        for name, unit in units.items()
    )


def _fill(spec: RasterSpec, variables: dict[str, Any]) -> None:
    """Write the positions of a map plane and the coarse input, a band and a map at a time."""
    if isinstance(spec.grid, ProjectedGrid):
        for first in range(0, spec.grid.shape[0], BAND):
            rows = slice(max(min(first, spec.grid.shape[0] - 2), 0), first + BAND)
            latitude, longitude = spec.grid.window(rows, slice(None)).latlon()
            variables["latitude"][rows.start : rows.start + len(latitude)] = latitude
            variables["longitude"][rows.start : rows.start + len(latitude)] = longitude
    if spec.coarse is not None:
        for member in range(spec.coarse_members):
            for time in range(spec.times.size):
                rates = spec.coarse(time, member)
                plane = isinstance(spec.grid, ProjectedGrid)
                place: Any = (member, slice(None), slice(None), time) if plane else (member, time)
                variables[COARSE][place] = rates
                if spec.index is not None:
                    variables[INDEX][place] = spec.index(rates)


def _coarse_names(spec: RasterSpec) -> tuple[str, ...]:
    return (COARSE,) if spec.index is None else (COARSE, INDEX)


def _coarse_layout(spec: RasterSpec) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the dimensions of coarse variables, and chunks of one map.

    On a map plane the coarse axes have no CF name, since a grid mapping has one pair of axes only; axes without a name
    stand left of the time (CF-1.11, section 2.4).
    """
    assert spec.coarse_grid is not None
    dims, sizes = tuple(f"coarse_{d}" for d in _plane(spec)), spec.coarse_grid.shape
    if isinstance(spec.grid, ProjectedGrid):
        return ("coarse_realization", *dims, "time"), (1, *sizes, 1)
    return ("coarse_realization", "time", *dims), (1, 1, *sizes)


def _plane(spec: RasterSpec) -> tuple[str, str]:
    return ("y", "x") if isinstance(spec.grid, ProjectedGrid) else ("latitude", "longitude")


def _said(attrs: dict[str, Any], compress: Compress) -> dict[str, Any]:
    from gen.writers.raster import KEEP_BITS

    return attrs | ({"comment": f"rounded to {KEEP_BITS} mantissa bits"} if compress == "small" else {})
