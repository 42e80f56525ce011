"""Open local files and folders as sources: Zarr, NetCDF, GRIB."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["FolderSource", "open_path"]

import numpy as np

from gen.data.dataset_source import DatasetSource, nearest
from gen.data.sources import Source, SourceError
from gen.data.stores import ZARR_MARKS, covered, open_zarr
from gen.data.variables import Channel
from gen.fields import Field
from gen.grid import LatLonGrid

NETCDF, GRIB = (".nc", ".nc4", ".netcdf", ".h5"), (".grib", ".grb", ".grib2", ".grb2")


def open_path(path: Path, *, fill: Mapping[str, float] | None = None, orography: Field | None = None) -> Source:
    """Open a Zarr store, a NetCDF or GRIB file, or a folder of files that differ in time.

    Raises:
        SourceError: when the path does not exist or is none of these.
    """
    if not path.exists():
        raise SourceError(f"{path} does not exist; give a Zarr store, a NetCDF or GRIB file, wb2 or arco-era5")
    if path.is_dir() and not any((path / mark).exists() for mark in ZARR_MARKS):
        return _open_folder(path, fill=fill, orography=orography)
    try:
        parts = _open_datasets(path)
    except SourceError:
        raise
    except Exception as error:  # whatever a reader of foreign formats raises on a damaged file
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise SourceError(f"{path.name} cannot be opened: {reason}") from error
    return DatasetSource(path.name, parts, fill=fill, orography=orography)


def _open_datasets(path: Path) -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if path.is_dir():
            return [covered(open_zarr(path))]
        if path.suffix.lower() in GRIB:
            return _open_grib(path)
        if path.suffix.lower() in NETCDF:
            return [_open_netcdf(path)]
    raise SourceError(f"{path.name}: unknown kind of file; known are .zarr, {', '.join((*NETCDF, *GRIB))}")


def _open_netcdf(path: Path) -> Any:
    """Open a NetCDF file; times that are no dates are kept as numbers, to be refused with their units."""
    import xarray as xr

    try:
        return xr.open_dataset(path, decode_timedelta=True)
    except ValueError as error:
        if "decode time" not in str(error):
            raise
        return xr.open_dataset(path, decode_times=False)


def _open_grib(path: Path) -> list[Any]:
    try:
        import cfgrib
    except (ImportError, RuntimeError) as error:
        raise SourceError(f"{path.name}: reading GRIB needs cfgrib: pip install 'gen-earth[grib]'") from error
    logger = logging.getLogger("cfgrib")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # it logs what it then raises
    try:
        return list(cfgrib.open_datasets(str(path), backend_kwargs={"indexpath": ""}, errors="raise"))
    finally:
        logger.setLevel(level)


def _open_folder(folder: Path, *, fill: Mapping[str, float] | None, orography: Field | None) -> Source:
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in (*NETCDF, *GRIB, ".zarr"))
    if not files:
        raise SourceError(f"{folder} holds no Zarr, NetCDF or GRIB file")
    sources = [open_path(file, fill=fill, orography=orography) for file in files]
    return FolderSource(folder.name, sources)


class FolderSource:
    """Files of the same variables and grid at different times, as one source (see `gen.data.sources.Source`).

    Raises:
        SourceError: when the files have different grids or share a time.
    """

    def __init__(self, name: str, sources: Sequence[Source]) -> None:
        """Check that the files fit together."""
        self.name, self._sources = name, list(sources)
        self.grid = sources[0].grid
        if other := [s.name for s in sources if s.grid != self.grid]:
            raise SourceError(f"{name}: {other[0]} has another grid than {sources[0].name}")
        times = np.concatenate([s.times() for s in sources])
        owner = np.repeat(np.arange(len(sources)), [len(s.times()) for s in sources])
        order = np.argsort(times, kind="stable")
        self._times, self._owner = times[order], owner[order]
        if (same := np.flatnonzero(np.diff(self._times) == np.timedelta64(0, "h"))).size:
            both = " and ".join(sources[self._owner[same[0] + k]].name for k in (0, 1))
            raise SourceError(f"{name}: {both} both hold {self._times[same[0]]}; keep one file for each time")
        self.members = min(s.members for s in sources)
        self.synthetic = any(s.synthetic for s in sources)

    @property
    def notes(self) -> list[str]:
        """Return what was derived or approximated in any of the files."""
        return list(dict.fromkeys(note for source in self._sources for note in source.notes))

    def times(self) -> np.ndarray:
        """Return the times of all files, ascending."""
        return self._times

    def channels(self) -> tuple[Channel, ...]:
        """Return the channels that every file holds."""
        common = set(self._sources[0].channels()).intersection(*(s.channels() for s in self._sources))
        return tuple(sorted(common))

    def missing(self, channels: Sequence[Channel]) -> tuple[Channel, ...]:
        """Return those of `channels` that some file cannot supply."""
        lacking = {c for source in self._sources for c in source.missing(channels)}
        return tuple(c for c in channels if c in lacking)

    def read(
        self, time: np.datetime64, channels: Sequence[Channel], grid: LatLonGrid | None = None, member: int = 0
    ) -> Field:
        """Return one state from the file that holds its time."""
        time = time.astype("datetime64[h]")
        where = int(np.searchsorted(self._times, time))
        if where >= self._times.size or self._times[where] != time:
            raise SourceError(f"{self.name} has no data for {time}; {nearest(self._times, time)}")
        return self._sources[self._owner[where]].read(time, channels, grid, member)
