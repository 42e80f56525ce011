"""Named coarse predictors beside the rain: read from the file that holds it, normalised, laid on fine pixels.

A model that was trained with predictors keeps their names, units, means and standard deviations; it is told all of them
or none, and a flag says which. Winds change their sign when a field is turned over: u with east and west, v with north
and south.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

__all__ = [
    "Predictor",
    "PredictorMaps",
    "fit_predictors",
    "maps_of",
    "normalised",
    "open_predictors",
    "predictor_fields",
    "turned",
]

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from downscaling.conditions import upsample
from downscaling.sources.grids import Reorder, latlon_grid
from gen.data.conventions import AXIS_NAMES
from gen.data.sources import SourceError
from gen.grid import LatLonGrid

if TYPE_CHECKING:
    import xarray as xr

Values = NDArray[np.float32]

READ = 128  # maps that means are taken from
WIND = re.compile(r"(?:\d+_?m?_?)?([uv])(?:\d*|_component_of_wind.*)")  # u, u10, 10u, 10m_u_component_of_wind, u700
MOST = 10.0  # standard deviations; beyond, values are held there


@dataclass(frozen=True)
class Predictor:
    """One coarse field: name and units as in the files of training, mean and standard deviation there."""

    name: str
    units: str
    mean: float
    std: float


@dataclass(frozen=True)
class PredictorMaps:
    """Predictors of one file, on latitudes and longitudes.

    Args:
        name: of the file. dataset: decoded. names: of the variables.
        grid: rows north. times: datetime64[m]. reorder: from rows and columns of the file.
    """

    name: str
    dataset: Any
    names: tuple[str, ...]
    grid: LatLonGrid
    times: np.ndarray
    reorder: Reorder

    def units(self, name: str) -> str:
        """Return the units that the file states, empty if it does not."""
        return str(self.dataset[name].attrs.get("units", "")).strip()

    def at(self, time: np.datetime64) -> dict[str, Values]:
        """Return the predictors [Hc, Wc] at a time in their own units; empty when the file has no such time."""
        found = np.flatnonzero(self.times == time)
        if not found.size:
            return {}
        maps = {n: self.dataset[n].isel({_axis(self.dataset, n, "time"): int(found[0])}) for n in self.names}
        plane = {n: [_axis(self.dataset, n, a) for a in ("latitude", "longitude")] for n in self.names}
        return {n: self.reorder(np.asarray(m.transpose(*plane[n]).values, np.float32)) for n, m in maps.items()}

    def check(self, predictors: Sequence[Predictor]) -> None:
        """Raise SourceError when units are stated that differ from those of training."""
        for p in predictors:
            here = self.units(p.name)
            if here and p.units and here.replace("**", "") != p.units.replace("**", ""):
                raise SourceError(f"{self.name}: {p.name} is in {here!r}; the model was trained on {p.units!r}")


def open_predictors(path: Path, names: Sequence[str]) -> tuple[PredictorMaps | None, list[str]]:
    """Look for predictors in the file of an input.

    Args:
        path: NetCDF, Zarr or zipped Zarr of RainShift; other kinds hold none.
        names: of the variables that are wanted, all of them on one grid.

    Returns:
        The maps, None unless all are there, and the names that are missing.
    """
    from downscaling.sources.rainshift import open_packed

    if path.name.endswith((".zarr.zip", ".zarr")) or (path.is_dir() and (path / ".zgroup").exists()):
        dataset = open_packed(path)
    elif path.suffix in (".nc", ".nc4") and path.is_file():
        import xarray as xr

        dataset = xr.open_dataset(path, chunks=None, decode_timedelta=True)
    else:
        return None, list(names)
    missing = [n for n in names if n not in dataset or not _usable(dataset, n)]
    return (None, missing) if missing or not names else (maps_of(dataset, path.name, names), [])


def maps_of(dataset: xr.Dataset, name: str, names: Sequence[str]) -> PredictorMaps:
    """Return predictors of a decoded Dataset.

    Raises:
        SourceError: one is missing, or is no series of maps on latitudes and longitudes.
    """
    if missing := [n for n in names if n not in dataset or not _usable(dataset, n)]:
        have = ", ".join(map(str, dataset.data_vars))
        raise SourceError(f"{name} has no maps of {missing[0]} in time, latitude and longitude; it has {have}")
    lat, lon, time = (_axis(dataset, names[0], a) for a in ("latitude", "longitude", "time"))
    grid, reorder = latlon_grid(np.asarray(dataset[lat]), np.asarray(dataset[lon]))
    return PredictorMaps(name, dataset, tuple(names), grid, np.asarray(dataset[time]).astype("datetime64[m]"), reorder)


def fit_predictors(maps: Sequence[PredictorMaps], names: Sequence[str]) -> tuple[Predictor, ...]:
    """Return predictors with the means and standard deviations of some maps, evenly spread over all files."""
    if not names:
        return ()
    each = max(1, READ // max(len(maps), 1))
    fields: dict[str, list[Values]] = {n: [] for n in names}
    for m in maps:
        for k in np.unique(np.linspace(0, m.times.size - 1, min(each, m.times.size)).astype(int)):
            for name, values in m.at(m.times[k]).items():
                fields[name].append(values[np.isfinite(values)])
    found = []
    for name in names:
        values = np.concatenate(fields[name]).astype(np.float64)
        if not values.size:
            raise SourceError(f"{maps[0].name}: {name} has no values")
        found.append(Predictor(name, maps[0].units(name), float(values.mean()), float(max(values.std(), 1e-12))))
    return tuple(found)


def normalised(values: Mapping[str, np.ndarray], predictors: Sequence[Predictor]) -> Values | None:
    """Return predictors [P, Hc, Wc] of mean 0 and variance 1, held within ten; None unless all are there."""
    if not predictors or any(p.name not in values for p in predictors):
        return None
    scaled = np.stack([(np.asarray(values[p.name], np.float64) - p.mean) / p.std for p in predictors])
    return np.nan_to_num(np.clip(scaled, -MOST, MOST)).astype(np.float32)


def predictor_fields(values: Tensor | None, count: int, rows: Tensor, columns: Tensor) -> Tensor:
    """Return the channels [count + 1, H, W] of predictors: linear between cell centres, and whether they are known.

    Args:
        values: [count, Hc, Wc], normalised; None where they are not known.
        count: number of predictors of the model.
        rows: positions of fine rows (`downscaling.conditions.upsample`).
        columns: the same.
    """
    shape = (1, len(rows), len(columns))
    if values is None:
        return torch.zeros(count + 1, *shape[1:])
    return torch.cat([upsample(values.float(), rows, columns)[1], torch.ones(shape)])


def turned(values: Mapping[str, Values], axes: Iterable[int]) -> dict[str, Values]:
    """Return predictors [Hc, Wc] turned over along rows (0) and columns (1), winds along them with other signs."""
    over = tuple(sorted(set(axes)))
    against = {component for component, axis in (("v", 0), ("u", 1)) if axis in over}
    found = {}
    for name, field in values.items():
        wind = WIND.fullmatch(name.lower())
        sign = -1.0 if wind is not None and wind.group(1) in against else 1.0
        found[name] = np.float32(sign) * np.flip(field, over)
    return found


def _axis(dataset: xr.Dataset, name: str, role: str) -> str:
    """Return the dimension of a variable that plays a role, empty if there is none."""
    lower = {str(d).lower(): str(d) for d in dataset[name].dims}
    return next((lower[n] for n in AXIS_NAMES[role] if n in lower), "")


def _usable(dataset: xr.Dataset, name: str) -> bool:
    return dataset[name].ndim == 3 and all(_axis(dataset, name, r) for r in ("time", "latitude", "longitude"))
