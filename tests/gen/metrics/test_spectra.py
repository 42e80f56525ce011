"""The spherical-harmonic transform: quadrature, Parseval, single harmonics, rotations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gen.grid import LatLonGrid
from gen.metrics.spectra import SphericalHarmonics, legendre, quadrature

GRIDS = {
    "gaussian": LatLonGrid.gaussian(48, 96),
    "with poles": LatLonGrid.equiangular(49, 96, poles=True),
    "cell centred": LatLonGrid.equiangular(48, 96),
}


def coefficients(transform: SphericalHarmonics, seed: int = 0) -> torch.Tensor:
    """Random coefficients [2, M, L] of real fields: none below m, real for m = 0."""
    size = transform.lmax + 1
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((2, size, size)) + 1j * rng.standard_normal((2, size, size))
    values[:, 0] = values[:, 0].real
    return torch.from_numpy(values * np.triu(np.ones((size, size))))


@pytest.mark.parametrize("name", GRIDS)
def test_quadrature_integrates_every_polynomial_it_should(name: str) -> None:
    """Integral of x^k over [-1, 1] is 2/(k+1) for even k up to 2 lmax (1e-13: rounding)."""
    x, weights, lmax = quadrature(GRIDS[name].latitude)
    for k in range(0, 2 * lmax + 1, 2):
        assert weights @ x**k == pytest.approx(2 / (k + 1), abs=1e-13)


def test_highest_degree_is_the_documented_one() -> None:
    """48 Gaussian rows resolve l = 47; 49 rows with poles 24; 48 centred rows 23; 121 x 240 with poles 60."""
    assert [SphericalHarmonics(g).lmax for g in GRIDS.values()] == [47, 24, 23]
    assert SphericalHarmonics(LatLonGrid.equiangular(121, 240, poles=True)).lmax == 60


@pytest.mark.parametrize("name", GRIDS)
def test_parseval_holds_for_band_limited_fields(name: str) -> None:
    """mean(f^2) over the sphere, by a finer quadrature, is the sum of power over l; synthesis inverts analysis."""
    transform = SphericalHarmonics(GRIDS[name])
    a = coefficients(transform)
    field = transform.synthesise(a)
    fine_grid = LatLonGrid.gaussian(64, 128)
    fine = SphericalHarmonics(fine_grid, transform.lmax).synthesise(a)
    _, weights, _ = quadrature(fine_grid.latitude)
    mean_square = (fine.square().mean(-1) * torch.from_numpy(weights / 2)).sum(-1)
    torch.testing.assert_close(transform.power(field).sum(-1), mean_square, rtol=1e-12, atol=0)
    torch.testing.assert_close(transform.analyse(field), a, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize(("m", "degree"), [(0, 3), (1, 1), (4, 9), (17, 17), (20, 23)])
def test_a_single_harmonic_appears_only_in_its_bin(name: str, m: int, degree: int) -> None:
    """P_lm cos(m lon) has power 1/2 (1 for m = 0) in bin l and less than 1e-12 elsewhere."""
    grid = GRIDS[name]
    transform = SphericalHarmonics(grid)
    shape = legendre(degree, np.sin(np.deg2rad(grid.latitude)))[m, degree]
    field = torch.from_numpy(np.outer(shape, np.cos(m * np.deg2rad(grid.longitude))))
    power = transform.power(field)
    assert float(power[degree]) == pytest.approx(1.0 if m == 0 else 0.5, abs=1e-12)
    power[degree] = 0
    assert float(power.abs().max()) < 1e-12


def test_sectoral_harmonic_equals_its_formula() -> None:
    """cos(lat)^m cos(m lon) has mean square 2^(2m) (m!)^2 / (2m+1)! / 2, all in l = m (1e-13 relative)."""
    grid, m = GRIDS["gaussian"], 6
    field = np.outer(np.cos(np.deg2rad(grid.latitude)) ** m, np.cos(m * np.deg2rad(grid.longitude)))
    power = SphericalHarmonics(grid).power(torch.from_numpy(field))
    expected = 4**m * math.factorial(m) ** 2 / math.factorial(2 * m + 1) / 2
    assert float(power[m]) == pytest.approx(expected, rel=1e-13)


def test_legendre_functions_equal_scipy() -> None:
    """An independent implementation: sqrt((2l+1)(l-m)!/(l+m)!) P_lm without the Condon-Shortley sign (1e-12)."""
    from scipy.special import sph_harm_y

    x = np.sin(np.deg2rad(np.array([-71.0, -12.0, 3.0, 55.0])))
    table = legendre(12, x)
    for m, degree in ((0, 0), (0, 12), (1, 7), (5, 9), (12, 12)):
        other = sph_harm_y(degree, m, np.arccos(x), 0.0).real * math.sqrt(4 * math.pi) * (-1) ** m
        np.testing.assert_allclose(table[m, degree], other, rtol=1e-12, atol=1e-13)


def test_power_does_not_change_when_the_sphere_is_turned() -> None:
    """Power per l is invariant under rotation: a field turned by 90 degrees over the pole keeps it (1e-12).

    x^2 y z + y (l <= 4) becomes, with (x, y, z) -> (z, y, -x), -z^2 y x + y.
    """
    grid = GRIDS["gaussian"]
    lat, lon = np.deg2rad(grid.latitude)[:, None], np.deg2rad(grid.longitude)[None]
    x, y, z = np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat) + 0 * lon
    transform = SphericalHarmonics(grid)
    one, other = (transform.power(torch.from_numpy(f)) for f in (x**2 * y * z + y, -(z**2) * y * x + y))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    assert float(one[5:].max()) < 1e-25


def test_longitudes_may_start_anywhere() -> None:
    """Coefficients refer to Greenwich: the same field on columns shifted by half a cell has the same coefficients."""
    grid = GRIDS["gaussian"]
    shifted = LatLonGrid(grid.latitude, grid.longitude + 1.875)
    a = coefficients(SphericalHarmonics(grid))
    moved = SphericalHarmonics(shifted)
    torch.testing.assert_close(moved.analyse(moved.synthesise(a)), a, rtol=0, atol=1e-12)
    east = SphericalHarmonics(grid).analyse(moved.synthesise(a))
    assert float((east - a).abs().max()) > 0.1


def test_rows_without_a_quadrature_are_refused() -> None:
    """120 rows cropped from 121 have no exact rule here; the error names the rows and the way out."""
    rows = np.linspace(-90, 90, 121)[1:]
    with pytest.raises(ValueError, match="Gaussian or equiangular rows.*120 rows.*regrid"):
        SphericalHarmonics(LatLonGrid(rows, np.arange(240) * 1.5))
    with pytest.raises(ValueError, match="lmax must be in 0..47"):
        SphericalHarmonics(GRIDS["gaussian"], 48)
