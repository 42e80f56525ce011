"""Write folders in RainShift's layout: packed, zipped Zarr, descending latitude, mixed longitudes, grids out of step.

The conventions are those of the real data: ERA5 cells are centred on multiples of 0.25 degrees, IMERG cells on 0.05,
0.15, ... The fine rain is heavy-tailed and moves east; the input is `bias` times its area mean with noise of its own,
so that source and target disagree in a known way. `cape` tells the small-scale intensity, which rain alone does not.
"""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path

import numpy as np
import xarray as xr

from downscaling.overlap import Overlap
from downscaling.regions import REGIONS
from gen.grid import LatLonGrid

NOISE = 0.3  # of the log of the input's rates, cell by cell
REACH = 10  # fine cells beyond the box, so that coarse cells at its edge are whole


def write_region(
    root: Path, name: str, *, degrees: int = 6, days: tuple[int, int] = (1, 3), seed: int = 0, bias: float = 0.7
) -> Path:
    """Write the south-western corner of a region and return its folder.

    Args:
        root: folder of the data set.
        name: of the region.
        degrees: side of the box.
        days: hours / 24 of the two splits.
        seed: of the rain.
        bias: mean of the input over that of the target.
    """
    folder, box, random = root / name, REGIONS[name], np.random.default_rng([seed, *name.encode()])
    folder.mkdir(parents=True)
    fine = LatLonGrid(*(_axis(low, 0.1, 10 * degrees, 0.05) for low in (box.south, box.west)))
    coarse = LatLonGrid(*(_axis(low, 0.25, 4 * degrees, 0.0) for low in (box.south, box.west)))
    whole = LatLonGrid(*(_axis(low - 1.0, 0.1, 10 * degrees + 2 * REACH, 0.05) for low in (box.south, box.west)))
    overlap, inner = Overlap.between(coarse, whole), slice(REACH, REACH + 10 * degrees)
    for split, count, start in (("train", days[0], "2018-07-01"), ("test", days[1], "2021-07-01")):
        rain, intensity = _rain(random, 24 * count, whole.shape)
        noise = np.exp(NOISE * random.standard_normal((24 * count, *coarse.shape)) - NOISE**2 / 2)
        drawn = {"tp": 1e-3 * bias * overlap.apply(rain) * noise, "cape": 1000 * overlap.apply(intensity)}
        drawn["cp"] = 0.5 * drawn["tp"]
        for key, mean, spread in (("sp", 9e4, 1e3), ("tclw", 0.1, 0.01), ("tcw", 30, 5), ("tisr", 1e6, 1e5)):
            drawn[key] = mean + spread * random.standard_normal((24 * count, *coarse.shape))
        drawn["u"], drawn["v"] = (np.full_like(drawn["tp"], value) for value in (8.0, -3.0))
        times = np.datetime64(start, "ns") + np.arange(1, 24 * count + 1) * np.timedelta64(1, "h")
        target = rain[:, inner, inner]
        target[0, 0, 0] = np.nan
        _write(folder / f"{split}_data_in.zarr.zip", drawn, coarse, times, turned=True)
        _write(folder / f"{split}_data_out.zarr.zip", {"precipitation": target}, fine, times)
    land = random.random(fine.shape).astype(np.float32)
    height = 2000 * np.add.outer(np.linspace(0, 1, fine.shape[0]), np.linspace(0, 1, fine.shape[1]))
    static = {
        "lsm": (("latitude", "longitude"), land[::-1]),
        "z": (("latitude", "longitude"), 9.80665 * height[::-1], {"units": "m**2 s**-2"}),
    }
    xr.Dataset(static, coords={"latitude": fine.latitude[::-1], "longitude": fine.longitude}).to_netcdf(
        folder / "static_variables.nc"
    )
    return folder


def _axis(low: float, step: float, count: int, first: float) -> np.ndarray:
    return np.round(low + first + step * np.arange(count), 6)


def _rain(random: np.random.Generator, hours: int, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return rain [T, H, W] in mm/h, 40 % of it wet, moving one pixel an hour, and its intensity at small scales."""
    k = np.hypot(*np.meshgrid(*(np.fft.fftfreq(n) for n in shape), indexing="ij"))
    k[0, 0] = np.inf
    gauss = [np.fft.ifft2(np.fft.fft2(random.standard_normal(shape)) * k**-p).real for p in (1.5, 2.0)]
    large, strength = (g / g.std() for g in gauss)
    fields, intensity = [], []
    for t in range(hours):
        day = 0.5 * np.sin(2 * np.pi * t / 31.0)
        here, small = np.roll(large, t, 1), np.roll(strength, t, 1)
        fields.append(np.maximum(np.exp(1.1 * (here - 0.2 + day)) - 1, 0) * np.exp(0.4 * small))
        intensity.append(np.exp(small))
    return np.stack(fields), np.stack(intensity)


def _write(
    path: Path, values: dict[str, np.ndarray], grid: LatLonGrid, times: np.ndarray, turned: bool = False
) -> None:
    """Pack values into int16, latitudes from the north, longitudes in 0..360 where `turned`, and zip the store."""
    longitude = grid.longitude % 360.0 if turned else grid.longitude
    data = {n: (("time", "latitude", "longitude"), v[:, ::-1]) for n, v in values.items()}
    dataset = xr.Dataset(data, coords={"time": times, "latitude": grid.latitude[::-1], "longitude": longitude})
    encoding = {}
    for name, v in values.items():
        low, high = float(np.nanmin(v)), float(np.nanmax(v))
        scale = max((high - low) / 65000, 1e-12)
        encoding[name] = {"dtype": "int16", "scale_factor": scale, "add_offset": low + 32500 * scale}
        encoding[name]["_FillValue"] = -32768
    with tempfile.TemporaryDirectory() as folder:
        dataset.to_zarr(folder, mode="w", encoding=encoding, zarr_format=2, consolidated=False)
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(p for p in Path(folder).rglob("*") if p.is_file()):
                archive.write(file, file.relative_to(folder))
