"""Zarr stores opened twice: with xarray for axes, names and dates, with zarr for reading chunks quickly."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["ZARR_MARKS", "Store", "covered", "covered_hours", "open_store", "open_zarr"]

import numpy as np

from gen.data.sources import SourceError

ZARR_MARKS = ("zarr.json", ".zgroup", ".zmetadata")
LAST_HOUR = 23


@dataclass(frozen=True)
class Store:
    """A Zarr group: `dataset` (xarray, lazy) and `group` (zarr) are the same data."""

    name: str
    dataset: Any
    group: Any


def open_store(path: Path) -> Store:
    """Open a local Zarr store of format 2 or 3, with or without consolidated metadata.

    Raises:
        SourceError: when the path is no Zarr store or it is damaged.
    """
    import zarr

    if not path.exists():
        raise SourceError(f"{path} does not exist; give a Zarr store")
    if not any((path / mark).exists() for mark in ZARR_MARKS):
        raise SourceError(f"{path} is no Zarr store; make one with `gen data simulate` or `gen data era5`")
    try:
        return Store(path.name, open_zarr(path), zarr.open_group(str(path), mode="r"))
    except Exception as error:  # whatever zarr and xarray raise on damaged metadata
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise SourceError(f"{path.name} cannot be opened: {reason}") from error


def open_zarr(path: str | Path, **options: Any) -> Any:
    """Open a store with xarray, lazily and without dask."""
    import xarray as xr

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a missing consolidated metadata file is no matter
        return xr.open_zarr(path, chunks=None, decode_timedelta=True, **options)


def covered(dataset: Any) -> Any:
    """Return the part of a store that holds data, which ARCO-ERA5 states in its attributes."""
    limits = covered_hours(dataset.attrs)
    if limits is None:
        return dataset
    first, last = (np.datetime64(hour, "h") for hour in limits)
    return dataset.sel(time=slice(first, last))


def covered_hours(attributes: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the first and last hour since 1970 that hold data; a day that is stated as the end counts whole."""
    start, stop = (attributes.get(f"valid_time_{end}") for end in ("start", "stop"))
    if start is None or stop is None:
        return None
    first, last = (int(np.datetime64(str(text), "h").astype(np.int64)) for text in (start, stop))
    return first, last + (LAST_HOUR if len(str(stop)) == len("2020-01-31") else 0)
