"""Analytic weather: smooth, seeded, cheap fields of plausible size for tests and quick starts.

Each field is a background in balance with nothing in particular (standard atmosphere, pole to equator contrast) plus
a few plane waves `cos(k . r + omega t + phase)` of the position `r` on the unit sphere, so that fields are smooth over
the poles; winds are a smooth vector field of space, projected on east and north. Phases move: neighbouring times are
alike, distant ones are not. This is no simulation.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

__all__ = ["analytic_states", "era5_like", "toy_world"]

import numpy as np
from numpy.typing import NDArray

from gen.data.simulate import SURFACE, UPPER
from gen.data.variables import LADCAST_LEVELS, LADCAST_NAMES, VARIABLES, Channel, make_channels
from gen.fields import Field
from gen.grid import LatLonGrid

Array = NDArray[np.float64]

WAVES, SLOWEST_HOURS, FASTEST_HOURS = 6, 400.0, 60.0
GAS, GRAVITY, LAPSE, SEA_LEVEL_K, SEA_LEVEL_PA = 287.0597, 9.80665, 6.5e-3, 288.15, 101325.0


def analytic_states(
    channels: Sequence[Channel], grid: LatLonGrid, hours: Sequence[int] | NDArray[np.int64], seed: int = 0
) -> NDArray[np.float32]:
    """Return states [T, C, H, W] in SI units at times in hours since 1970-01-01."""
    phi, lam = np.deg2rad(grid.latitude)[:, None], np.deg2rad(grid.longitude)[None, :]
    point = np.stack(
        np.broadcast_arrays(np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi) + 0 * lam), axis=-1
    )
    clock = np.asarray(hours, dtype=np.float64)
    return np.stack([_channel(c, point, phi, lam, clock, seed) for c in channels], axis=1).astype(np.float32)


def toy_world(
    path: Path,
    *,
    grid: LatLonGrid | None = None,
    names: Sequence[str] = (*UPPER, *SURFACE),
    levels: Sequence[int] = (250, 500, 850),
    start: str = "2020-01-01",
    count: int = 80,
    step_hours: int = 6,
    seed: int = 0,
    chunk: int = 40,
    segments: Sequence[int] = (),
) -> Path:
    """Write analytic weather in WeatherBench layout, as Zarr or NetCDF by the suffix of `path`, and return the path.

    Args:
        path: `.zarr` or `.nc`.
        grid: default 16 x 32, Gaussian.
        names: variables; `land_sea_mask` and `geopotential_at_surface` are always added.
        levels: pressure levels in hPa.
        start: first time.
        count: number of times.
        step_hours: distance of times.
        seed: selects the weather.
        chunk: times in a chunk of a Zarr store.
        segments: indices at which a new independent atmosphere begins (attribute `segments`).
    """
    grid = LatLonGrid.gaussian(16, 32) if grid is None else grid
    channels = make_channels(names, levels)
    times = np.datetime64(start, "h") + step_hours * np.arange(count).astype("timedelta64[h]")
    clock = times.astype(np.int64)
    edges = [0, *segments, count]
    stretches = list(enumerate(zip(edges, edges[1:], strict=False)))
    parts = [analytic_states(channels, grid, clock[a:b], seed + 1000 * k) for k, (a, b) in stretches]
    import torch

    states = torch.from_numpy(np.concatenate(parts))
    dataset = Field(states, channels, grid, ("time",), {"time": times.astype("datetime64[ns]")}).to_xarray()
    _add_maps(dataset, _static(grid))
    dataset.attrs = {
        "synthetic": "true",
        "source": "analytic weather for tests",
        "segments": [{"first": a, "stop": b, "seed": seed + 1000 * k} for k, (a, b) in stretches],
    }
    encoding: dict[str, Any] = {"time": {"units": "hours since 1970-01-01", "dtype": "int64"}}
    if path.suffix == ".zarr":
        dataset.to_zarr(path, encoding=encoding | _chunks(dataset, chunk), mode="w", consolidated=False)
    else:
        del dataset.attrs["segments"]
        dataset.to_netcdf(path, encoding=encoding)
    return path


def era5_like(
    path: Path,
    layout: str = "wb2",
    *,
    grid: LatLonGrid | None = None,
    names: Sequence[str] = LADCAST_NAMES,
    levels: Sequence[int] = LADCAST_LEVELS,
    start: str = "2020-01-01",
    count: int = 12,
    seed: int = 0,
    chunk: int = 1,
    zarr_format: Literal[2, 3] = 2,
    unused: int = 0,
) -> Path:
    """Write hourly analytic weather as the public ERA5 stores lie, and return the path.

    Rain is in hourly totals `total_precipitation`, the analytic six-hour amount of each hour divided by six with the
    negative rounding of packed data; the sea surface is NaN over land; the five static fields of LaDCast are there.

    Args:
        path: Zarr store.
        layout: "wb2" (longitude before latitude, south to north) or "arco" (north to south, valid times stated).
        grid: default 121 x 240 with poles; 721 x 1440 is that of ARCO-ERA5.
        names: variables.
        levels: pressure levels in hPa.
        start: first time.
        count: hourly times.
        seed: selects the weather.
        chunk: times in a chunk.
        zarr_format: format of the store.
        unused: times before and after that are on the axis but hold NaN (layout "arco").
    """
    import torch

    grid = LatLonGrid.equiangular(121, 240, poles=True) if grid is None else grid
    channels = make_channels(names, levels)
    times = np.datetime64(start, "h") + np.arange(-unused, count + unused).astype("timedelta64[h]")
    states = np.full((times.size, len(channels), *grid.shape), np.nan, np.float32)
    states[unused : unused + count] = analytic_states(channels, grid, times[unused : unused + count].astype(int), seed)
    coords = {"time": times.astype("datetime64[ns]")}
    dataset = Field(torch.from_numpy(states), channels, grid, ("time",), coords).to_xarray()
    surface = _static(grid)
    if "sea_surface_temperature" in dataset:
        dataset["sea_surface_temperature"] = dataset["sea_surface_temperature"].where(surface["land_sea_mask"] < 0.5)
    if "total_precipitation_6hr" in dataset:
        dataset["total_precipitation"] = (dataset["total_precipitation_6hr"] / 6 - 1e-9).astype("float32")
        dataset = dataset.drop_vars("total_precipitation_6hr")
    _add_maps(dataset, surface | _mountains(surface["geopotential_at_surface"]))
    dataset.attrs = {"synthetic": "true"}
    if layout == "arco":
        dataset = dataset.isel(latitude=slice(None, None, -1))
        dataset.attrs |= {"valid_time_start": str(times[unused]), "valid_time_stop": str(times[unused + count - 1])}
    else:
        dims = ("time", "level", "longitude", "latitude")
        dataset = dataset.transpose(*(d for d in dims if d in dataset.dims))
    encoding = {"time": {"units": "hours since 1900-01-01", "dtype": "int64"}} | _chunks(dataset, chunk)
    dataset.to_zarr(path, encoding=encoding, mode="w", zarr_format=zarr_format, consolidated=zarr_format == 2)
    return path


def _mountains(surface: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Return sub-grid orography of plausible size [H, W], made up from the surface geopotential."""
    height = np.asarray(surface / surface.max(), dtype=np.float32)
    return {
        "standard_deviation_of_orography": 300 * height,
        "angle_of_sub_gridscale_orography": (1.5 * np.sin(9 * height)).astype(np.float32),
        "anisotropy_of_sub_gridscale_orography": 0.8 * height,
        "slope_of_sub_gridscale_orography": 0.1 * height,
    }


def _channel(channel: Channel, point: Array, phi: Array, lam: Array, clock: Array, seed: int) -> Array:
    """Return [T, H, W] of one channel."""
    name, level = channel.name, channel.level or 1000
    if channel.variable.pole_sign < 0:
        return _wind(name, level, point, phi, lam, clock, seed)
    key = {"surface_pressure": "mean_sea_level_pressure"}.get(name, name)
    wave = _waves(point, clock, f"{seed}/{key}/{level}")
    warm = np.cos(phi) ** 2 - 2.0 / 3.0  # zero mean over the sphere
    height, heat = _standard(100.0 * level)
    if name == "geopotential":
        return GRAVITY * height + 2.5e4 * (1.0 - level / 1100.0) * warm + 600.0 * wave
    if name == "specific_humidity":
        return 1.2e-2 * (level / 1000.0) ** 3 * (1.0 + warm) * (1.0 + 0.4 * np.tanh(wave))
    if name == "total_precipitation_6hr":
        return 2e-3 * np.maximum(wave - 0.5, 0.0) ** 2
    scale = {
        "temperature": (heat, 40.0, 4.0),
        "2m_temperature": (287.0, 45.0, 4.0),
        "sea_surface_temperature": (290.0, 30.0, 1.0),
        "mean_sea_level_pressure": (101100.0, 600.0, 700.0),
        "surface_pressure": (98500.0, 600.0, 700.0),
        "vertical_velocity": (0.0, 0.0, 0.2),
    }
    mean, contrast, amplitude = scale.get(name, (0.0, 0.0, 1.0))
    low = _static_surface(point) if name == "surface_pressure" else 0.0
    return mean + contrast * warm + amplitude * wave - 1.1 * low


def _wind(name: str, level: int, point: Array, phi: Array, lam: Array, clock: Array, seed: int) -> Array:
    """Return the east or north component of a smooth vector field, with westerlies aloft."""
    x, y, z = (_waves(point, clock, f"{seed}/wind/{axis}/{level}") for axis in "xyz")
    strength = 4.0 + 6.0 * (1.0 - level / 1000.0)
    if "u_component" in name:
        jet = 30.0 * (1.0 - level / 1100.0) * np.sin(2 * phi) ** 2
        return strength * (-np.sin(lam) * x + np.cos(lam) * y) + jet
    return strength * (-np.sin(phi) * np.cos(lam) * x - np.sin(phi) * np.sin(lam) * y + np.cos(phi) * z)


def _waves(point: Array, clock: Array, key: str) -> Array:
    """Return a sum of plane waves with unit variance [T, H, W]."""
    rng = np.random.Generator(np.random.Philox(key=zlib.crc32(key.encode())))
    vectors = rng.normal(size=(WAVES, 3)) * 2.5
    omega = 2 * np.pi / rng.uniform(FASTEST_HOURS, SLOWEST_HOURS, WAVES)
    phase = rng.uniform(0, 2 * np.pi, WAVES)
    space = np.einsum("hwd,kd->khw", point, vectors) + phase[:, None, None]
    time = (omega[:, None] * clock[None, :])[..., None, None]
    wave = np.cos(time) * np.cos(space)[:, None] - np.sin(time) * np.sin(space)[:, None]
    return np.sqrt(2.0 / WAVES) * wave.sum(0)


def _standard(pressure: float) -> tuple[float, float]:
    """Return height in m and temperature in K of the ICAO standard atmosphere, isothermal above 226.32 hPa."""
    exponent = GAS * LAPSE / GRAVITY
    top = 22632.0
    heat = SEA_LEVEL_K * (max(pressure, top) / SEA_LEVEL_PA) ** exponent
    above = GAS * heat / GRAVITY * np.log(top / pressure) if pressure < top else 0.0
    return (SEA_LEVEL_K - heat) / LAPSE + float(above), heat


def _static_surface(point: Array) -> Array:
    """Return a smooth orography in m2 s-2 [H, W], zero over half of the globe."""
    return 9000.0 * np.maximum(point @ np.array([0.3, 0.8, 0.52]) - 0.2, 0.0) ** 2


def _add_maps(dataset: Any, maps: dict[str, NDArray[np.float32]]) -> None:
    """Add maps that do not vary in time."""
    for name, values in maps.items():
        dataset[name] = (("latitude", "longitude"), values, {"units": VARIABLES[name].units})


def _chunks(dataset: Any, times: int) -> dict[str, Any]:
    """Return the encoding of what varies: whole fields, `times` of them in a chunk."""
    varying = {str(n): dataset[n].shape for n in dataset.data_vars if "time" in dataset[n].dims}
    return {name: {"chunks": (min(times, shape[0]), *shape[1:])} for name, shape in varying.items()}


def _static(grid: LatLonGrid) -> dict[str, NDArray[np.float32]]:
    phi, lam = np.deg2rad(grid.latitude)[:, None], np.deg2rad(grid.longitude)[None, :]
    parts = np.broadcast_arrays(np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi) + 0 * lam)
    surface = _static_surface(np.stack(parts, axis=-1))
    return {
        "geopotential_at_surface": surface.astype(np.float32),
        "land_sea_mask": (surface > 0).astype(np.float32),
    }
