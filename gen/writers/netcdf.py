"""NetCDF-4 container: the file's skeleton through h5netcdf, its chunks copied in already encoded.

The chunks of a staged unit were shuffled and deflated while the model sampled; `write_direct_chunk` of h5py places
their bytes without touching them, so finishing a file costs a copy. Nothing here needs the netCDF4 package, which GPU
hosts often lack; the files are read by it all the same.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gen.writers.coordinates import coordinates, global_attributes
from gen.writers.journal import StagedUnit, sync
from gen.writers.packing import Compress
from gen.writers.spec import ArrayPlan, FileSpec, plan

__all__ = ["FINGERPRINT", "NetCDFContainer", "stored_attributes"]

log = logging.getLogger(__name__)

FINGERPRINT = "request_fingerprint"


class NetCDFContainer:
    """Append staged units to a partial NetCDF-4 file.

    Args:
        path: the partial file; replaced when it exists.
        spec: what the file holds.
        attrs: global attributes.
        compress: how the chunks were encoded.
    """

    name = "netcdf"
    keeps_units = False  # a torn HDF5 file is lost, so staged units stay until the file is complete

    def __init__(self, path: Path, spec: FileSpec, attrs: dict[str, str], compress: Compress) -> None:
        import h5py

        self._path, self._plans = path, plan(spec)
        _skeleton(path, spec, self._plans, attrs, compress)
        self._file: Any = h5py.File(path, "r+")
        self._datasets = [self._file[p.name].id for p in self._plans]

    def append(self, unit: StagedUnit) -> None:
        """Copy the chunks of one unit into place."""
        for row, encoded in unit.chunks():
            number, member, lead, level = (int(x) for x in row[:4])
            array = self._plans[number]
            start = array.place(unit.start + member, unit.init, lead * array.chunk_leads)
            rest = (level * array.chunk_levels, 0, 0) if len(array.shape) == 6 else (0, 0)
            self._datasets[number].write_direct_chunk((*start, *rest), encoded)

    def finish(self) -> None:
        """Close the file and flush it to the disk."""
        self._file.close()
        sync(self._path)

    def abandon(self) -> None:
        """Close the file although it is not complete."""
        try:
            self._file.close()
        except (OSError, RuntimeError, ValueError) as error:
            log.debug("partial file could not be closed: %s", error)

    @staticmethod
    def fingerprint(path: Path) -> str | None:
        """Return the fingerprint of a finished file, None when it is not one of ours."""
        import h5py

        try:
            with h5py.File(path, "r") as file:
                value = file.attrs.get(FINGERPRINT)
        except OSError:
            return None
        return value.decode() if isinstance(value, bytes) else value


def stored_attributes(array: ArrayPlan, compress: Compress) -> dict[str, str]:
    """Return the attributes of an array, with a remark when its values are rounded."""
    if compress != "small":
        return array.attrs
    return array.attrs | {"comment": f"rounded to {array.keep_bits} mantissa bits"}


def _skeleton(
    path: Path, spec: FileSpec, plans: Sequence[ArrayPlan], attrs: dict[str, str], compress: Compress
) -> None:
    """Write dimensions, coordinates, attributes and empty data variables."""
    import h5netcdf

    filters = {} if compress == "none" else {"compression": "gzip", "compression_opts": 1, "shuffle": True}
    with h5netcdf.File(path, "w") as file:
        for array in plans:
            for name, size in zip(array.dims, array.shape, strict=True):
                if name not in file.dimensions:
                    file.dimensions[name] = size
        for coordinate in coordinates(spec):
            variable = file.create_variable(coordinate.name, coordinate.dims, data=coordinate.values)
            variable.attrs.update(coordinate.attrs)
        for array in plans:
            variable = file.create_variable(
                array.name, array.dims, np.dtype("<f4"), fillvalue=np.float32(np.nan), chunks=array.chunks, **filters
            )
            variable.attrs.update(stored_attributes(array, compress))
        file.attrs.update({**global_attributes(spec), **attrs})
