"""Copy single states out of a world into a small NetCDF file (the start states that a model ships with)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

__all__ = ["extract_states"]

import numpy as np

from gen.data.variables import VARIABLES

KEEP_BITS = {"geopotential": 14, "mean_sea_level_pressure": 14, "surface_pressure": 14, "temperature": 11}
STATIC = ("land_sea_mask", "geopotential_at_surface")


def extract_states(world: Path | str, times: Sequence[str], out: Path | str) -> Path:
    """Write the states of `world` at `times` (ISO dates) with its static fields; mantissas are rounded to compress.

    Raises:
        ValueError: when the world has no data for a time.
    """
    import xarray as xr

    with xr.open_zarr(str(world), consolidated=False) as dataset:
        wanted = np.array([np.datetime64(t, "ns") for t in times])
        absent = [str(t) for t, w in zip(times, wanted, strict=True) if w not in dataset["time"].values]
        if absent:
            raise ValueError(f"{world} has no data for {', '.join(absent)}")
        names = [n for n in dataset.data_vars if "latitude" in dataset[n].dims]
        states = dataset[names].sel(time=wanted).load()
        source = dict(dataset.attrs)
    encoding = {}
    for name in names:
        if bool(np.isnan(states[name]).any()):
            raise ValueError(f"{world} holds missing values in {name} at these times; they were not simulated")
        if name not in STATIC:
            states[name].values[...] = _round(states[name].values, KEEP_BITS.get(str(name), 10))
        variable = VARIABLES[str(name)]
        states[name].attrs = {"units": variable.units, "long_name": variable.long_name}
        encoding[name] = {"zlib": True, "complevel": 9, "shuffle": True, "dtype": "float32", "_FillValue": None}
    states.attrs = {"Conventions": "CF-1.11", "source": source.get("source", ""), "synthetic": "true"}
    states.to_netcdf(str(out), encoding=encoding)
    return Path(out)


def _round(values: np.ndarray, bits: int) -> np.ndarray:
    """Round mantissas with numcodecs' BitRound."""
    from numcodecs import BitRound

    codec = BitRound(keepbits=bits)
    flat = np.ascontiguousarray(values, dtype=np.float32)
    return np.asarray(codec.decode(codec.encode(flat)), dtype=np.float32).reshape(values.shape)
