"""Quantities derived from others by physics, for sources that lack them.

Hydrostatic balance `d(ln p) = -d(phi) / (R_d T_v)` gives pressure where the geopotential is known; within a layer the
virtual temperature is linear in geopotential, below the lowest level it falls by 6.5 K/km (ICAO standard lapse rate).
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "Profile",
    "geopotential_at",
    "mean_sea_level_pressure",
    "specific_humidity",
    "surface_pressure",
    "temperature_2m",
    "wind_10m",
]

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]

GRAVITY = 9.80665
DRY_GAS = 287.0597  # J kg-1 K-1
VAPOUR_GAS = 461.5250
LAPSE = 6.5e-3  # K m-1
ROUGHNESS_M, REFERENCE_HEIGHT_M = 0.01, 100.0
WIND_FACTOR = float(np.log(10.0 / ROUGHNESS_M) / np.log(REFERENCE_HEIGHT_M / ROUGHNESS_M))  # 0.75


@dataclass(frozen=True)
class Profile:
    """Columns of air on pressure levels.

    Args:
        pressure: levels in Pa, descending (from the ground up) [K].
        geopotential: m2 s-2 [K, H, W].
        temperature: K [K, H, W].
        humidity: specific humidity [K, H, W], or None for dry air.
    """

    pressure: Array
    geopotential: Array
    temperature: Array
    humidity: Array | None = None

    @property
    def virtual(self) -> Array:
        """Return the virtual temperature `T (1 + (R_v / R_d - 1) q)`, K [K, H, W]."""
        if self.humidity is None:
            return self.temperature
        return self.temperature * (1.0 + (VAPOUR_GAS / DRY_GAS - 1.0) * self.humidity)

    def pressure_at(self, geopotential: Array) -> Array:
        """Return the pressure in Pa where the geopotential has the given value [H, W]."""
        phi, heat, log_p = self.geopotential, self.virtual, np.log(self.pressure)
        depth = np.maximum(phi[0] - geopotential, 0.0)
        out = log_p[0] + GRAVITY / (DRY_GAS * LAPSE) * np.log1p(LAPSE * depth / (GRAVITY * heat[0]))
        for k in range(len(self.pressure) - 1):
            inside = (geopotential >= phi[k]) & ((geopotential < phi[k + 1]) | (k == len(self.pressure) - 2))
            s = (geopotential - phi[k]) / (phi[k + 1] - phi[k])
            r = heat[k + 1] / heat[k] - 1.0
            small = np.abs(r) < 1e-6
            curved = np.log1p(np.clip(s, 0.0, None) * r) / np.log1p(np.where(small, 1.0, r))
            out = np.where(inside, log_p[k] + np.where(small, s, curved) * (log_p[k + 1] - log_p[k]), out)
        return np.exp(out)

    def at(self, values: Array, pressure: Array) -> Array:
        """Return `values` [K, H, W] at a pressure [H, W], linear in log-pressure, constant outside the levels."""
        log_p, wanted = np.log(self.pressure), np.log(pressure)
        out = values[0].copy()
        for k in range(len(log_p) - 1):
            s = np.clip((wanted - log_p[k]) / (log_p[k + 1] - log_p[k]), 0.0, 1.0)
            out = np.where(wanted < log_p[k], values[k] + s * (values[k + 1] - values[k]), out)
        return out

    def temperature_at(self, pressure: Array) -> Array:
        """Return the temperature at a pressure [H, W]; below the lowest level it rises by the standard lapse rate."""
        below = np.maximum(pressure / self.pressure[0], 1.0) ** (DRY_GAS * LAPSE / GRAVITY)
        return self.at(self.temperature, pressure) * below


def geopotential_at(profile: Profile, pressure: float) -> Array:
    """Return the geopotential at a pressure in Pa within the lowest layer of the profile [H, W].

    The cubic in `ln p` that has the layer's ends and, there, the hydrostatic slopes `-R_d T_v`.
    """
    low, high = np.log(profile.pressure[:2])
    depth = high - low
    s = (np.log(pressure) - low) / depth
    phi, slope = profile.geopotential, -DRY_GAS * profile.virtual * depth
    ends = (1 + 2 * s) * (1 - s) ** 2 * phi[0] + s**2 * (3 - 2 * s) * phi[1]
    return ends + s * (1 - s) ** 2 * slope[0] - s**2 * (1 - s) * slope[1]


def mean_sea_level_pressure(profile: Profile) -> Array:
    """Return the pressure at geopotential zero, Pa [H, W]."""
    return profile.pressure_at(np.zeros(profile.geopotential.shape[1:]))


def surface_pressure(profile: Profile, orography: Array) -> Array:
    """Return the pressure at the geopotential of the surface, Pa [H, W]."""
    return profile.pressure_at(orography)


def temperature_2m(profile: Profile, orography: Array) -> Array:
    """Return the temperature of the profile at the surface, K [H, W]: no surface layer, so no nightly inversion."""
    return profile.temperature_at(surface_pressure(profile, orography))


def wind_10m(profile: Profile, orography: Array, wind: Array) -> Array:
    """Return a wind component at 10 m [H, W] from that on levels [K, H, W].

    The wind 100 m above the surface times `ln(10 / z0) / ln(100 / z0)`, the neutral logarithmic profile over a
    roughness z0 of 1 cm: an approximation without stability or land use.
    """
    bottom = surface_pressure(profile, orography)
    height = GRAVITY * REFERENCE_HEIGHT_M / (DRY_GAS * profile.temperature_at(bottom))
    return WIND_FACTOR * profile.at(wind, bottom * np.exp(-height))


def specific_humidity(relative: Array, temperature: Array, pressure: float) -> Array:
    """Return specific humidity from relative humidity in percent, at temperature in K and pressure in Pa.

    Saturation over water, ice below -23 C and a mixture between, IFS documentation (Cy41r2) part IV, Eqs. 7.4, 7.5.
    """
    water = 611.21 * np.exp(17.502 * (temperature - 273.16) / (temperature - 32.19))
    ice = 611.21 * np.exp(22.587 * (temperature - 273.16) / (temperature + 0.7))
    liquid = np.clip((temperature - 250.16) / (273.16 - 250.16), 0.0, 1.0) ** 2
    vapour = np.clip(relative, 0.0, None) / 100.0 * (liquid * water + (1.0 - liquid) * ice)
    ratio = DRY_GAS / VAPOUR_GAS
    return ratio * vapour / (pressure - (1.0 - ratio) * vapour)
