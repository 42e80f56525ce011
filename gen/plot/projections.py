"""Map projections of the sphere of radius one, in closed form.

equal_earth   Šavrič, Patterson & Jenny 2018, "The Equal Earth map projection", Eq. 2-3: areas are true, so a map does
              not exaggerate what happens near the poles.
stereographic Snyder 1987, "Map projections - a working manual", Eq. 21-1..4, polar aspect, true at the pole.
conic         Snyder 1987, Eq. 15-1..5, Lambert's conformal conic with two true parallels.

They are written out here because cartopy cannot be relied on: the PROJ library in the wheels of pyproj and the one in
those of ecCodes (which xarray loads for GRIB) end a process that loads both with a segmentation fault. `by_cartopy`
offers every cartopy projection where ecCodes is not loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["Project", "by_cartopy", "conic", "equal_earth", "plane", "stereographic"]

Array = NDArray[np.float64]
Project = Callable[[Array, Array], tuple[Array, Array]]

A1, A2, A3, A4 = 1.340264, -0.081106, 0.000893, 0.003796


def plane(lon: Array, lat: Array) -> tuple[Array, Array]:
    """Return longitude and latitude themselves, in degrees."""
    return np.asarray(lon, np.float64), np.asarray(lat, np.float64)


def equal_earth(centre: float) -> Project:
    """Return the Equal Earth projection with the meridian `centre` (degrees) in the middle."""

    def project(lon: Array, lat: Array) -> tuple[Array, Array]:
        theta = np.arcsin(np.sqrt(3) / 2 * np.sin(np.deg2rad(lat)))
        square = theta**2
        slope = A1 + 3 * A2 * square + square**3 * (7 * A3 + 9 * A4 * square)
        x = 2 * np.sqrt(3) / 3 * np.deg2rad(lon - centre) * np.cos(theta) / slope
        return x, theta * (A1 + A2 * square + square**3 * (A3 + A4 * square))

    return project


def stereographic(north: bool) -> Project:
    """Return the polar stereographic projection of a hemisphere, Greenwich pointing down (north) or up (south)."""
    sign = 1.0 if north else -1.0

    def project(lon: Array, lat: Array) -> tuple[Array, Array]:
        radius = 2 * np.tan(np.deg2rad(90.0 - sign * np.asarray(lat)) / 2)
        angle = np.deg2rad(lon)
        return radius * np.sin(angle), -sign * radius * np.cos(angle)

    return project


def conic(centre: float, south: float, north: float) -> Project:
    """Return Lambert's conformal conic projection, true along the parallels `south` and `north` of one hemisphere."""
    first, second = np.deg2rad([south, north])
    n = np.log(np.cos(first) / np.cos(second)) / np.log(_isometric(second) / _isometric(first))
    scale = np.cos(first) * _isometric(first) ** n / n
    middle = scale / _isometric(0.5 * (first + second)) ** n

    def project(lon: Array, lat: Array) -> tuple[Array, Array]:
        radius, angle = scale / _isometric(np.deg2rad(lat)) ** n, n * np.deg2rad(lon - centre)
        return radius * np.sin(angle), middle - radius * np.cos(angle)

    return project


def by_cartopy(name: str, centre: float) -> Project:
    """Return the projection `cartopy.crs.<name>` with the meridian `centre` in the middle.

    Raises:
        ValueError: cartopy is not installed, has no such projection, or cannot be loaded beside ecCodes.
    """
    if "eccodes" in sys.modules or "gribapi" in sys.modules:
        raise ValueError(f"projection {name}: cartopy cannot be loaded after ecCodes; draw in a process of its own")
    try:
        import cartopy.crs as ccrs
    except ImportError as error:
        raise ValueError(f"projection {name} needs cartopy: pip install 'gen-earth[viz]'") from error
    made = getattr(ccrs, name, None)
    if not (isinstance(made, type) and issubclass(made, ccrs.Projection)):
        raise ValueError(f"cartopy has no projection {name!r}; Mollweide, Robinson and PlateCarree are some it has")
    try:
        crs, geographic = made(central_longitude=centre), ccrs.PlateCarree()
    except TypeError as error:
        raise ValueError(f"cartopy's {name} has no central longitude to set; Mollweide and Robinson have") from error

    def project(lon: Array, lat: Array) -> tuple[Array, Array]:
        points = crs.transform_points(geographic, np.asarray(lon, np.float64), np.asarray(lat, np.float64))
        return points[..., 0], points[..., 1]

    return project


def _isometric(lat: Array | float) -> Array:
    """Return tan(pi / 4 + lat / 2) for a latitude in radians."""
    return np.asarray(np.tan(np.pi / 4 + np.asarray(lat) / 2))
