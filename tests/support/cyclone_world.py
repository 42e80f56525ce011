"""Analytic cyclones on a grid: Holland's pressure profile, winds in gradient balance, a warm or a cold core."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gen.data.variables import Channel, parse_channel
from gen.grid import LatLonGrid, haversine
from gen.writers.spec import FileSpec
from gen.writers.staged import StagedWriter

Array = NDArray[np.float64]

GRID = LatLonGrid.equiangular(121, 240, poles=True)
INIT = np.datetime64("2005-08-24T00", "h")
CODES = ("z300", "z500", "u850", "v850", "msl", "10u", "10v")
OMEGA, DRY_AIR, DENSITY, AMBIENT_PA = 7.292e-5, 287.05, 1.15, 101300.0
DECAY_HPA = {"10": 0.8, "850": 1.0, "700": 0.9, "500": 0.7}  # wind of the vortex as a share of that at 850 hPa


@dataclass
class Storm:
    """A vortex on a path.

    Args:
        where: returns (latitude, longitude) at a lead time in hours, None where the storm does not exist.
        drop: pressure of the environment minus that of the centre, Pa.
        radius_km: of maximum wind.
        shape: Holland's B.
        core: temperature of the core minus that around it, K, with a Gaussian of 400 km; below zero it is cold.
        member_shift: degrees (latitude, longitude) by which each member's path is moved.
    """

    where: Callable[[float], tuple[float, float] | None]
    drop: float = 4000.0
    radius_km: float = 150.0
    shape: float = 1.3
    core: float = 4.0
    member_shift: Sequence[tuple[float, float]] = field(default_factory=lambda: [(0.0, 0.0)])

    def position(self, hour: float, member: int) -> tuple[float, float] | None:
        """Return where the storm of a member is."""
        place = self.where(hour)
        shift = self.member_shift[member % len(self.member_shift)]
        return None if place is None else (place[0] + shift[0], place[1] + shift[1])

    def add(self, fields: dict[str, Array], grid: LatLonGrid, lat: float, lon: float) -> None:
        """Add the vortex to fields [H, W] by channel code (Holland 1980, Eq. 1 and 3, gradient wind)."""
        rows, columns = np.meshgrid(grid.latitude, grid.longitude, indexing="ij")
        km = np.maximum(haversine(lat, lon, rows, columns), 1e-3)
        x = (self.radius_km / km) ** self.shape
        deficit = self.drop * (1 - np.exp(-x))
        f = 2 * OMEGA * abs(np.sin(np.deg2rad(lat)))
        half = 0.5 * f * km * 1000
        speed = np.sqrt(self.shape * self.drop / DENSITY * x * np.exp(-x) + half**2) - half
        turn = np.deg2rad(_bearing(lat, lon, rows, columns) - 90.0 * np.sign(lat))  # towards: cyclonic
        warm = self.core * np.exp(-((km / 400.0) ** 2))
        for code in fields:
            channel = parse_channel(code)
            share = DECAY_HPA.get(str(channel.level or code[:2]), 0.5)
            if channel.variable.short in ("u", "10u"):
                fields[code] += share * speed * np.sin(turn)
            elif channel.variable.short in ("v", "10v"):
                fields[code] += share * speed * np.cos(turn)
            elif code == "msl":
                fields[code] -= deficit
            elif channel.variable.short == "t":
                fields[code] += warm
            elif channel.variable.short == "z":  # hydrostatic: below the core the deficit, above it warm air
                fields[code] += -deficit / DENSITY + DRY_AIR * warm * np.log(1000.0 / float(channel.level or 1000))


def world(storms: Sequence[Storm], hour: float, member: int, codes: Sequence[str], grid: LatLonGrid = GRID,
          noise: float = 15.0) -> dict[str, Array]:  # fmt: skip
    """Return fields [H, W]: a smooth background with waves, noise of `noise` Pa, a zonal flow, and the storms."""
    rng = np.random.default_rng([member, int(hour)])
    rows, columns = np.deg2rad(np.meshgrid(grid.latitude, grid.longitude, indexing="ij"))
    wave = np.cos(rows) ** 2 * np.cos(3 * columns - 0.01 * hour)
    fields: dict[str, Array] = {}
    for code in codes:
        channel = parse_channel(code)
        level = float(channel.level or 1000)
        if code == "msl":
            fields[code] = AMBIENT_PA + 150 * wave + noise * rng.standard_normal(grid.shape)
        elif channel.variable.short == "z":
            fields[code] = DRY_AIR * 270 * np.log(1000 / level) - 3000 * np.sin(rows) ** 2 + 100 * wave
        elif channel.variable.short == "t":
            fields[code] = 250 + 40 * np.cos(rows) ** 2 + wave + 0.0 * columns
        else:
            fields[code] = -4 * np.cos(rows) + 0.5 * wave
    for storm in storms:
        if (place := storm.position(hour, member)) is not None:
            storm.add(fields, grid, *place)
    return fields


def write(path: Path, storms: Sequence[Storm], hours: Sequence[int], members: int = 1, codes: Sequence[str] = CODES,
          grid: LatLonGrid = GRID, noise: float = 15.0, init: np.datetime64 = INIT) -> Path:  # fmt: skip
    """Write a forecast file of such a world."""
    channels: tuple[Channel, ...] = tuple(parse_channel(code) for code in codes)
    leads = np.array(hours).astype("timedelta64[h]")
    spec = FileSpec(channels, grid, members, np.array([init]), leads, {"model": "analytic", "seed": "0"})
    with StagedWriter(path, spec, "netcdf") as writer:
        for member in range(members):
            maps = [world(storms, h, member, codes, grid, noise) for h in hours]
            values = np.stack([np.stack([m[c] for c in codes]) for m in maps]).astype(np.float32)
            writer.write(0, slice(member, member + 1), values[None])
            writer.commit(0, slice(member, member + 1))
    return path


def along(
    times: Sequence[float], lat: Sequence[float], lon: Sequence[float]
) -> Callable[[float], tuple[float, float] | None]:
    """Return a path through fixes (hours, degrees), linear between them, None before and after."""
    unrolled = np.rad2deg(np.unwrap(np.deg2rad(np.asarray(lon, float))))

    def where(hour: float) -> tuple[float, float] | None:
        if not times[0] <= hour <= times[-1]:
            return None
        return float(np.interp(hour, times, lat)), float(np.interp(hour, times, unrolled))

    return where


def _bearing(lat: float, lon: float, rows: Array, columns: Array) -> Array:
    """Return the direction away from the centre at each point, degrees clockwise from north."""
    phi1, phi2, step = np.deg2rad(lat), np.deg2rad(rows), np.deg2rad(lon - columns)
    east = np.sin(step) * np.cos(phi1)
    north = np.cos(phi2) * np.sin(phi1) - np.sin(phi2) * np.cos(phi1) * np.cos(step)
    return np.asarray(np.rad2deg(np.arctan2(east, north)) + 180.0)
