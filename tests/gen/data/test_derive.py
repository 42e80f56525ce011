"""Derived quantities agree with atmospheres that have a closed form, and with an analysis that holds the answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gen.data.derive import (
    DRY_GAS,
    GRAVITY,
    LAPSE,
    WIND_FACTOR,
    Profile,
    geopotential_at,
    mean_sea_level_pressure,
    specific_humidity,
    surface_pressure,
    temperature_2m,
    wind_10m,
)

LEVELS = 100.0 * np.array([1000.0, 925.0, 850.0, 700.0, 500.0])


def column(phi: np.ndarray, heat: np.ndarray) -> Profile:
    return Profile(LEVELS, phi[:, None, None], heat[:, None, None])


def standard(sea_level: float = 101325.0) -> Profile:
    """Return the ICAO standard atmosphere: 288.15 K at sea level, 6.5 K/km."""
    heat = 288.15 * (LEVELS / sea_level) ** (DRY_GAS * LAPSE / GRAVITY)
    return column(GRAVITY * (288.15 - heat) / LAPSE, heat)


def isothermal(sea_level: float = 101325.0) -> Profile:
    return column(DRY_GAS * 250.0 * np.log(sea_level / LEVELS), np.full(LEVELS.size, 250.0))


@pytest.mark.parametrize("height", [-200.0, 0.0, 50.0, 400.0, 1234.0, 4000.0])
def test_pressure_in_the_standard_atmosphere_is_the_barometric_formula(height: float) -> None:
    """p = p0 (1 - L h / T0)^(g / R L), within layers and below the lowest; tolerance: rounding."""
    expected = 101325.0 * (1 - LAPSE * height / 288.15) ** (GRAVITY / (DRY_GAS * LAPSE))
    assert surface_pressure(standard(), np.full((1, 1), GRAVITY * height))[0, 0] == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("sea_level", [101325.0, 98000.0])
def test_sea_level_pressure_is_found_above_and_below_the_lowest_level(sea_level: float) -> None:
    """Whether 1000 hPa lies above or below sea level, the standard atmosphere gives back its sea level pressure."""
    assert mean_sea_level_pressure(standard(sea_level))[0, 0] == pytest.approx(sea_level, rel=1e-10)


def test_pressure_in_an_isothermal_atmosphere_is_exponential() -> None:
    """p = p0 exp(-phi / R T) inside the profile."""
    phi = np.full((1, 1), 9000.0)
    expected = 101325.0 * np.exp(-9000.0 / (DRY_GAS * 250.0))
    assert isothermal().pressure_at(phi)[0, 0] == pytest.approx(expected, rel=1e-12)


def test_hydrostatic_interpolation_of_geopotential() -> None:
    """From 500 and 850 hPa the cubic gives the standard atmosphere's 700 hPa to 0.1 m; a straight line is 50 m off."""
    full = standard()
    layer = Profile(LEVELS[[2, 4]], full.geopotential[[2, 4]], full.temperature[[2, 4]])
    found = geopotential_at(layer, 70000.0)[0, 0] / GRAVITY
    share = np.log(850 / 700) / np.log(850 / 500)
    line = (full.geopotential[2] + share * (full.geopotential[4] - full.geopotential[2]))[0, 0] / GRAVITY
    exact = full.geopotential[3, 0, 0] / GRAVITY
    assert abs(found - exact) < 0.1
    assert abs(line - exact) > 40


def test_temperature_follows_the_surface() -> None:
    """On a mountain and in a depression the standard atmosphere gives T0 - L h; in a layer T is linear in log p."""
    for height, tolerance in ((-300.0, 1e-9), (1500.0, 0.05)):
        found = temperature_2m(standard(), np.full((1, 1), GRAVITY * height))[0, 0]
        assert found == pytest.approx(288.15 - LAPSE * height, abs=tolerance)


def test_surface_wind_is_the_stated_share_of_a_uniform_wind() -> None:
    """With the same wind everywhere it is ln(1000) / ln(10000) = 3/4 of it."""
    wind = np.full((LEVELS.size, 1, 1), 12.0)
    assert abs(WIND_FACTOR - 0.75) < 1e-12
    assert wind_10m(standard(), np.zeros((1, 1)), wind)[0, 0] == pytest.approx(9.0)


def test_humidity_at_saturation() -> None:
    """At 273.16 K and 100 % the vapour pressure is 611.21 Pa; at half of it humidity is nearly half."""
    full = specific_humidity(np.array(100.0), np.array(273.16), 1e5)
    e, ratio = 611.21, 287.0597 / 461.5250
    assert full == pytest.approx(ratio * e / (1e5 - (1 - ratio) * e), rel=1e-6)
    assert specific_humidity(np.array(50.0), np.array(273.16), 1e5) / full == pytest.approx(0.5, rel=5e-3)
    assert specific_humidity(np.array(-3.0), np.array(273.16), 1e5) == 0.0


def test_sea_level_pressure_agrees_with_an_analysis(shared: Path) -> None:
    """NCEP's June climatology holds Z, T and PSL: derived and stored differ by 0.6 hPa rms, mountains included."""
    import xarray as xr

    path = shared / "data" / "era5" / "NCEP_06_climo.nc"
    with xr.open_dataset(path, decode_times=False, mask_and_scale=False) as ds:
        level = ds["lev"].values
        keep = np.argsort(-level)[:6]
        height, heat = (np.asarray(ds[n][0], float)[keep] for n in ("Z3", "T"))
        stored = 100.0 * np.asarray(ds["PSL"][0], float)  # millibars
    profile = Profile(100.0 * level[keep], GRAVITY * height, heat)
    difference = mean_sea_level_pressure(profile) - stored
    assert np.sqrt(np.mean(difference**2)) < 80.0
    assert np.abs(difference).max() < 500.0
