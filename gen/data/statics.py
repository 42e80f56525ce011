"""Static fields of the Earth's surface that a network is told: land, and the mountains that the grid does not resolve.

The five fields of LaDCast, in its order, are those of ERA5 at 1.5 degrees. They come with its source as two tensor
files (rows from south to north), and lie in the WeatherBench-2 store, from which the files were taken. Each enters the
network normalised by its own unweighted mean and unbiased standard deviation over the 120 x 240 grid that is left when
the row at the South Pole is dropped (tonyzyl/ladcast @ 112143f).
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

__all__ = ["STATIC_NAMES", "load_static", "normalise_static"]

import numpy as np
import torch
from torch import Tensor

from gen.data.regrid import regrid_maps
from gen.data.sources import SourceError
from gen.data.variables import VARIABLES, Channel
from gen.fields import Field
from gen.grid import LatLonGrid

STATIC_NAMES = (
    "land_sea_mask",
    "standard_deviation_of_orography",
    "angle_of_sub_gridscale_orography",
    "anisotropy_of_sub_gridscale_orography",
    "slope_of_sub_gridscale_orography",
)
PUBLISHED_GRID = LatLonGrid.equiangular(121, 240, poles=True)
PUBLISHED_FILES = {"240x121_land_sea_mask.pt": (121, 240), "240x121_orography.pt": (4, 121, 240)}
LIMITS = {  # share, metres, radians, share, tangent
    "land_sea_mask": (0.0, 1.0),
    "standard_deviation_of_orography": (0.0, 3000.0),
    "angle_of_sub_gridscale_orography": (-np.pi / 2, np.pi / 2),
    "anisotropy_of_sub_gridscale_orography": (0.0, 1.0),
    "slope_of_sub_gridscale_orography": (0.0, 1.0),
}
ROUNDING = 1e-4


def load_static(path: str | Path, grid: LatLonGrid = PUBLISHED_GRID) -> Field:
    """Return the five static fields [5, H, W] in SI units on `grid`, regridded conservatively where it is another.

    Args:
        path: a Zarr store or NetCDF file that holds them under their WeatherBench or ECMWF names, or the two published
            tensor files: the folder that holds them, or either of the two.
        grid: grid of the result.

    Raises:
        SourceError: when a field is missing, or a file is no such tensor, or values are out of their physical range or
            upside down.
    """
    path = Path(path).expanduser()
    folder = path if path.is_dir() else path.parent
    channels = tuple(Channel(name) for name in STATIC_NAMES)
    if path.suffix == ".pt" or any((folder / name).exists() for name in PUBLISHED_FILES if path.is_dir()):
        maps = np.concatenate([_tensor(folder / name, shape) for name, shape in PUBLISHED_FILES.items()])
        source_grid = PUBLISHED_GRID
        _check_rows(path, maps[0])
    else:
        field = _from_store(path, channels)
        maps, source_grid = field.values.numpy(), field.grid
    _check(path, maps)
    values = torch.from_numpy(regrid_maps(maps, source_grid, grid).astype(np.float32))
    return Field(values, channels, grid)


def normalise_static(field: Field) -> Tensor:
    """Return static fields [S, H, W] without a row at the South Pole, each with zero mean and unit variance.

    Mean and unbiased standard deviation are unweighted, over the rows that are kept.
    """
    values = field.values.double()
    if field.grid.latitude[0] < -90.0 + 1e-6:
        values = values[:, 1:]
    std, mean = torch.std_mean(values, dim=(1, 2), keepdim=True)
    if bool((std == 0).any()):
        flat = [c.code for c, s in zip(field.channels, std.flatten(), strict=True) if s == 0]
        raise ValueError(f"static fields that are constant cannot be normalised: {', '.join(flat)}")
    return ((values - mean) / std).float()


def _from_store(path: Path, channels: tuple[Channel, ...]) -> Field:
    from gen.data.dataset_source import DatasetSource
    from gen.data.files import open_path

    source = open_path(path)
    if not isinstance(source, DatasetSource):
        raise SourceError(f"{path} is a folder of files; give the one that holds {', '.join(STATIC_NAMES)}")
    return source.static(channels)


def _tensor(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Return a published tensor as maps [S, 121, 240]; nothing but numbers is unpickled."""
    if not path.is_file():
        raise SourceError(f"{path} does not exist; the static fields are {' and '.join(PUBLISHED_FILES)}")
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise SourceError(f"{path} is no tensor file that can be read safely: {reason}") from None
    if not isinstance(found, Tensor) or found.shape != shape or not found.dtype.is_floating_point:
        got = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise SourceError(f"{path} must hold one tensor of floating-point numbers {shape}; got {got}")
    return found.reshape(-1, *PUBLISHED_GRID.shape).double().numpy()


def _check_rows(path: Path, land: np.ndarray) -> None:
    """Refuse maps from north to south, which only the continents tell: the South Pole is land, the North sea."""
    if land[0].mean() < 0.5 < land[-1].mean():
        raise SourceError(f"{path}: the land-sea mask is upside down (sea at its southern end); flip its rows")


def _check(path: Path, maps: np.ndarray) -> None:
    """Refuse values out of their physical range."""
    for name, values in zip(STATIC_NAMES, maps, strict=True):
        low, high = LIMITS[name]
        if not (values.min() >= low - ROUNDING and values.max() <= high + ROUNDING):  # NaN fails too
            units = VARIABLES[name].units
            found = f"{values.min():.4g} to {values.max():.4g}"
            raise SourceError(f"{path}: {name} must be {low:.4g} to {high:.4g} {units}; got {found}")
