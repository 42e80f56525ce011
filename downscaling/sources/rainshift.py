"""RainShift: packed Zarr stores by region, ERA5 inputs on 0.25 degrees and IMERG targets on 0.1 degrees, hourly.

A region's folder holds `{train,test}_data_{in,out}.zarr`, often zipped, and `static_variables.nc` (Harder et al. 2025,
arXiv:2507.04930). Values are integers with scale, offset and fill value, latitudes descend, longitudes are partly in
0..360; here they are decoded, turned and brought to the grid's conventions. Inputs are amounts of an hour in metres
(`tp`, `cp`) beside other predictors, targets `precipitation` in mm/h.
"""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

__all__ = [
    "PREDICTORS",
    "STATICS",
    "RainShiftStore",
    "open_packed",
    "open_rainshift",
    "open_store",
    "region_folders",
    "region_names",
]

import numpy as np

from downscaling.regions import REGIONS, region
from downscaling.sources.base import PrecipitationSource
from downscaling.sources.cf import open_dataset
from downscaling.sources.grids import Reorder, latlon_grid
from gen.data.sources import SourceError

if TYPE_CHECKING:
    import xarray as xr

PREDICTORS = ("cape", "cp", "sp", "tclw", "tcw", "tisr", "tp", "u", "v")
STATICS = ("lsm", "z")
RAIN = {"in": "tp", "out": "precipitation"}
UNITS = {"in": "m", "out": "mm/h"}
OWNERS = {"in": "ERA5, Copernicus Climate Change Service (CC BY 4.0)", "out": "NASA GPM IMERG (NASA open data)"}


@dataclass(frozen=True)
class RainShiftStore:
    """One split of a region: coarse and fine rain at the same times, other predictors and static fields.

    Args:
        coarse: the input rain.
        fine: the target rain.
        inputs: the decoded Dataset of all predictors.
        static: the decoded static fields, None where the file is missing.
    """

    coarse: PrecipitationSource
    fine: PrecipitationSource
    inputs: Any
    static: Any

    def predictors(self, index: int) -> dict[str, np.ndarray]:
        """Return the predictors [H, W] at one time, in their own units, rows from south to north."""
        reorder = _reorder(self.inputs)
        there = [n for n in PREDICTORS if n in self.inputs]
        return {n: reorder(np.asarray(self.inputs[n][index].values, np.float32)) for n in there}

    def statics(self) -> dict[str, np.ndarray]:
        """Return land-sea mask and surface geopotential [H, W] on the fine grid, where there are any."""
        if self.static is None:
            return {}
        reorder = _reorder(self.static)
        there = [n for n in STATICS if n in self.static]
        return {n: reorder(np.asarray(self.static[n].squeeze(drop=True).values, np.float32)) for n in there}


def region_folders(root: str | Path, names: Sequence[str] = ()) -> dict[str, Path]:
    """Return the folders of RainShift regions by their names.

    Args:
        root: folder that holds one folder for each region, or the folder of one region.
        names: wanted regions, "-" and "_" alike; by default all that are there.

    Raises:
        ValueError: an unknown name, a region whose folder is missing, no region at all.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise SourceError(f"{root} is no folder; it should hold a folder for each RainShift region")
    there = {}
    for path in [root, *sorted(root.iterdir())]:
        with contextlib.suppress(ValueError):
            there[region_names([path.name])[0]] = path
    wanted = region_names(names) or list(there)
    if not wanted:
        raise SourceError(f"{root} holds no folder with the name of a RainShift region, such as europe_west")
    if missing := [name for name in wanted if name not in there]:
        raise SourceError(f"{root} has no folder {missing[0]}; it has {', '.join(there) or 'none of the regions'}")
    return {name: there[name] for name in dict.fromkeys(wanted)}


def region_names(names: Sequence[str]) -> list[str]:
    """Return names of regions as the data set spells them; raises ValueError for an unknown one."""
    spelt = {id(box): name for name, box in REGIONS.items()}
    return [spelt[id(region(name))] for name in names]


def open_rainshift(folder: Path, split: Literal["train", "test"] = "test") -> RainShiftStore:
    """Open one split of a region's folder.

    Raises:
        SourceError: when a store is missing, or inputs and targets have different times.
    """
    import xarray as xr

    if split not in ("train", "test"):
        raise SourceError(f"split must be train or test; got {split!r}")
    data = {side: open_packed(_store(folder, f"{split}_data_{side}.zarr")) for side in RAIN}
    coarse, fine = (_source(data[side], f"{folder.name}/{split}_data_{side}", side) for side in RAIN)
    if not np.array_equal(coarse.times(), fine.times()):
        raise SourceError(f"{folder.name}: inputs and targets of {split} have different times")
    path = folder / "static_variables.nc"
    static = xr.open_dataset(path) if path.exists() else None
    return RainShiftStore(coarse, fine, data["in"], static)


def open_store(path: Path) -> PrecipitationSource:
    """Open the rain of one store, `*_data_in.zarr[.zip]` or `*_data_out.zarr[.zip]`.

    Raises:
        SourceError: when it cannot be read or holds no rain of RainShift.
    """
    dataset = open_packed(path)
    side = next((s for s, n in RAIN.items() if n in dataset), None)
    if side is None:
        raise SourceError(f"{path.name} has neither tp nor precipitation; it has {', '.join(map(str, dataset))}")
    return _source(dataset, path.name, side)


def open_packed(path: Path) -> xr.Dataset:
    """Open a Zarr store, zipped or not, with scale, offset and fill value decoded.

    Raises:
        SourceError: when it is no Zarr store.
    """
    import xarray as xr
    from zarr.storage import ZipStore

    try:
        if path.is_dir():
            return xr.open_zarr(path, chunks=None)
        store = ZipStore(path, mode="r")
        return xr.open_zarr(store, group=_inner(path), consolidated=False, chunks=None)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise SourceError(f"{path.name} cannot be read as a Zarr store: {reason}") from error


def _source(dataset: xr.Dataset, name: str, side: str) -> PrecipitationSource:
    if RAIN[side] not in dataset:
        raise SourceError(f"{name} has no {RAIN[side]}; it has {', '.join(map(str, dataset))}")
    units = str(dataset[RAIN[side]].attrs.get("units", "")) or UNITS[side]
    owner = f"RainShift (Harder et al. 2025); {OWNERS[side]}"
    return open_dataset(dataset, name, variable=RAIN[side], units=units, interval_hours=1.0, attribution=owner)


def _store(folder: Path, name: str) -> Path:
    for candidate in (folder / name, folder / f"{name}.zip"):
        if candidate.exists():
            return candidate
    raise SourceError(f"{folder} holds neither {name} nor {name}.zip")


def _inner(path: Path) -> str | None:
    """Return the folder inside the archive that holds the store, None for the root."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    marks = ("zarr.json", ".zgroup", ".zmetadata")
    if any(n in marks for n in names):
        return None
    tops = sorted({n.split("/")[0] for n in names if n.count("/") == 1 and n.split("/")[1] in marks})
    return tops[0] if tops else None


def _reorder(dataset: xr.Dataset) -> Reorder:
    lat, lon = (next(n for n in names if n in dataset.coords) for names in (("latitude", "lat"), ("longitude", "lon")))
    return latlon_grid(np.asarray(dataset[lat]), np.asarray(dataset[lon]))[1]
