"""Open precipitation whatever its file: by folder, ending and first bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["open_precipitation"]

from downscaling.sources.base import PrecipitationSource, join
from gen.data.sources import SourceError

GRIB = (".grib", ".grb", ".grib2", ".grb2")
NETCDF = (".nc", ".nc4", ".netcdf")
HDF5 = (".h5", ".hdf5", ".hdf")
TIFF = (".tif", ".tiff")
ZARR_MARKS = ("zarr.json", ".zgroup", ".zmetadata")
KNOWN = "Zarr, NetCDF, GeoTIFF, GRIB, KNMI or IMERG HDF5, RADOLAN binary or ASCII archive, FMI PGM"


def open_precipitation(
    path: str | Path,
    *,
    variable: str | None = None,
    units: str | None = None,
    interval_hours: float | None = None,
) -> PrecipitationSource:
    """Open a file, a Zarr store or a folder of files that differ in time.

    Args:
        path: what to open.
        variable: name of the precipitation in NetCDF and Zarr with several.
        units: units where a NetCDF, Zarr or GeoTIFF file does not say or is wrong.
        interval_hours: length of the interval of amounts, likewise.

    Raises:
        SourceError: in one line, when there is nothing that can be read as rain.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise SourceError(f"{path} does not exist; known are {KNOWN}")
    stated: dict[str, Any] = {"units": units, "interval_hours": interval_hours}
    if path.is_dir() and not any((path / mark).exists() for mark in ZARR_MARKS):
        files = sorted(p for p in path.iterdir() if not p.name.startswith("."))
        if not files:
            raise SourceError(f"{path} is empty; known are {KNOWN}")
        return join(path.name, [open_precipitation(p, variable=variable, **stated) for p in files])
    return _open_file(path, path.name.lower(), variable, stated)


def _open_file(path: Path, name: str, variable: str | None, stated: dict[str, Any]) -> PrecipitationSource:
    """Choose the reader; each is imported only when it is needed."""
    if name.endswith((".zarr.zip", "_data_in.zarr", "_data_out.zarr")):
        from downscaling.sources.rainshift import open_store

        return open_store(path)
    if path.is_dir() or name.endswith(NETCDF):
        from downscaling.sources.cf import open_cf

        return open_cf(path, variable=variable, **stated)
    if name.endswith(TIFF):
        from downscaling.sources.geotiff import open_geotiff

        return open_geotiff(path, **stated)
    if name.endswith(GRIB):
        from downscaling.sources.grib import open_grib

        return open_grib(path)
    return _open_radar(path, name)


def _open_radar(path: Path, name: str) -> PrecipitationSource:
    if name.endswith(HDF5):
        return _open_hdf5(path)
    if name.endswith((".tar.gz", ".tgz", ".tar")):
        from downscaling.sources.radolan import open_radolan_ascii

        return open_radolan_ascii(path)
    if name.endswith((".pgm", ".pgm.gz")):
        from downscaling.sources.fmi import open_fmi

        return open_fmi(path)
    if name.startswith("raa0") or "---bin" in name:
        from downscaling.sources.radolan import open_radolan

        return open_radolan(path)
    raise SourceError(f"{path.name}: unknown kind of file; known are {KNOWN}")


def _open_hdf5(path: Path) -> PrecipitationSource:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            groups = set(file)
    except OSError as error:
        raise SourceError(f"{path.name} cannot be read as HDF5: {error}") from None
    if "image1" in groups:
        from downscaling.sources.knmi import open_knmi

        return open_knmi(path)
    if "Grid" in groups:
        from downscaling.sources.imerg import open_imerg

        return open_imerg(path)
    raise SourceError(f"{path.name}: HDF5 of an unknown layout ({', '.join(sorted(groups))}); known are KNMI and IMERG")
