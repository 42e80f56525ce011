"""Elevation and land of RainShift regions from their `static_variables.nc`: `z` and `lsm` on the fine grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["RegionStatics", "open_region_statics"]

import numpy as np
from torch import Tensor

from downscaling.overlap import Grid
from downscaling.sources.grids import latlon_grid
from downscaling.sources.rainshift import region_folders
from downscaling.sources.static_maps import StaticMap
from downscaling.statics import Statics
from gen.data.conventions import GRAVITY
from gen.data.sources import SourceError
from gen.grid import LatLonGrid

METRES = ("m", "metre", "metres", "meter", "meters", "gpm")
LATITUDES, LONGITUDES = ("latitude", "lat"), ("longitude", "lon")
FILE = "static_variables.nc"


@dataclass(frozen=True)
class RegionStatics(Statics):
    """Statics of several boxes; a grid is given those of the box that holds its middle.

    Args:
        boxes: all of them; `elevation` and `land` are those of the first.
    """

    boxes: tuple[Statics, ...] = ()

    @property
    def described(self) -> str:
        """Return where they come from."""
        return f"z and lsm of {len(self.boxes)} RainShift region(s)"

    def fields(self, grid: Grid, *, beyond: bool = False) -> dict[str, Tensor]:
        """Return `downscaling.conditions.STATICS` [H, W] of a grid (see `Statics.fields`).

        Raises:
            SourceError: the middle of the grid lies in none of the boxes.
        """
        if not isinstance(grid, LatLonGrid):
            raise SourceError("regions of RainShift are on latitudes and longitudes; the grid is on a map plane")
        north, east = float(grid.latitude.mean()), float(grid.longitude.mean())
        for box in self.boxes:
            (south, top), (west, right) = (
                b[[0, -1]] for b in (box.elevation.grid.latitude_bounds(), box.elevation.grid.longitude_bounds())
            )
            if south <= north <= top and (east - west) % 360.0 <= right - west:
                return box.fields(grid, beyond=beyond)
        raise SourceError(f"no RainShift region at hand holds {north:.4g} N, {east:.4g} E")


def open_region_statics(root: str | Path, regions: Sequence[str] = ()) -> RegionStatics:
    """Open the statics of regions (see `downscaling.sources.rainshift.region_folders`).

    Raises:
        SourceError: a region without them, or without `z` or `lsm`.
    """
    boxes = tuple(_open(folder / FILE) for folder in region_folders(root, regions).values())
    return RegionStatics(boxes[0].elevation, boxes[0].land, boxes)


def _open(path: Path) -> Statics:
    """Read one file; `z` is the surface geopotential of ERA5 unless it states metres."""
    import xarray as xr

    name = f"{path.parent.name}/{path.name}"
    if not path.is_file():
        raise SourceError(f"{path.parent} has no {FILE}")
    with xr.open_dataset(path) as data:
        if missing := [n for n in ("z", "lsm") if n not in data]:
            raise SourceError(f"{name} has no {missing[0]}; it has {', '.join(map(str, data.data_vars))}")
        lat, lon = (next((n for n in names if n in data.coords), "") for names in (LATITUDES, LONGITUDES))
        if not lat or not lon:
            raise SourceError(f"{name} has no latitudes and longitudes")
        grid, reorder = latlon_grid(np.asarray(data[lat]), np.asarray(data[lon]))
        z, land = (
            reorder(np.asarray(data[n].squeeze(drop=True).transpose(lat, lon).values, np.float32)) for n in ("z", "lsm")
        )
        metres = str(data["z"].attrs.get("units", "")).strip().lower() in METRES
    height = z if metres else z / np.float32(GRAVITY)
    return Statics(
        StaticMap(name, grid, lambda rows, columns: height[rows, columns], "" if metres else "z as a geopotential"),
        StaticMap(name, grid, lambda rows, columns: land[rows, columns]),
    )
