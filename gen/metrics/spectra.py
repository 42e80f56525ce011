"""Spherical-harmonic transform and power per total wavenumber.

A field is f = sum_{l,m} a_lm P_lm(sin lat) exp(i m lon) with Legendre functions normalised so that each harmonic has
mean square one over the sphere. Then Parseval reads `mean(f^2) = sum_l P(l)`, `P(l) = sum_{|m|<=l} |a_lm|^2`, and P(l)
has the unit of f squared. Quadrature in latitude by the kind of grid, n rows:

    Gaussian                     Gauss-Legendre          exact for products of degree <= n - 1      l <= n - 1
    equiangular with poles       Clenshaw-Curtis         exact for products of degree <= (n-1)/2    l <= (n - 1) // 2
    equiangular without poles    Fejer's first rule      the same                                   l <= (n - 1) // 2

and l below half the number of longitudes. Power beyond that degree is folded into the resolved part by any method.
Recurrence: Holmes and Featherstone 2002, Eq. 11-13; weights: Waldvogel 2006.
"""

from __future__ import annotations

__all__ = ["SphericalHarmonics", "legendre", "quadrature"]

import numpy as np
import torch
from torch import Tensor

from gen.grid import LatLonGrid

DEGREES_TOLERANCE = 1e-3


class SphericalHarmonics:
    """Transform between fields on a global grid and coefficients of total wavenumber l and zonal wavenumber m.

    Args:
        grid: global grid, Gaussian or equiangular in latitude, even in longitude.
        lmax: highest total wavenumber; by default the highest the grid resolves.

    Raises:
        ValueError: when the grid has no quadrature of ours or does not resolve `lmax`.
    """

    def __init__(self, grid: LatLonGrid, lmax: int | None = None) -> None:
        nodes, weights, resolved = quadrature(grid.latitude)
        longitude = np.asarray(grid.longitude, dtype=np.float64)
        even = np.arange(longitude.size) * 360.0 / longitude.size
        if np.abs(longitude - longitude[0] - even).max() > DEGREES_TOLERANCE:
            raise ValueError("longitudes must cover the circle evenly; regrid the fields to a global grid")
        resolved = min(resolved, (longitude.size - 1) // 2)
        self.lmax = resolved if lmax is None else lmax
        if not 0 <= self.lmax <= resolved:
            raise ValueError(f"lmax must be in 0..{resolved} on this grid; got {lmax}")
        self._nlon = longitude.size
        table = legendre(self.lmax, nodes)
        self._synthesis = torch.from_numpy(table)
        self._analysis = torch.from_numpy(0.5 * table * weights)
        m = np.arange(self.lmax + 1)
        self._phase = torch.from_numpy(np.exp(1j * np.deg2rad(longitude[0]) * m))

    def analyse(self, field: Tensor) -> Tensor:
        """Return the coefficients complex128 [..., M, L] (zonal wavenumber first, m <= l) of a field [..., H, W]."""
        waves = torch.fft.rfft(field.double(), norm="forward")[..., : self.lmax + 1] * self._phase.conj()
        table = self._analysis.to(field.device)
        return torch.complex(*(torch.einsum("...jm,mlj->...ml", part, table) for part in (waves.real, waves.imag)))

    def synthesise(self, coefficients: Tensor) -> Tensor:
        """Return the field float64 [..., H, W] of coefficients [..., M, L]; the inverse of `analyse`."""
        table = self._synthesis.to(coefficients.device)
        parts = (coefficients.real, coefficients.imag)
        waves = torch.complex(*(torch.einsum("...ml,mlj->...jm", part, table) for part in parts)) * self._phase
        return torch.fft.irfft(waves, n=self._nlon, norm="forward")

    def power(self, field: Tensor) -> Tensor:
        """Return the power float64 [..., lmax + 1] per total wavenumber of a field [..., H, W]."""
        square = self.analyse(field).abs().square()
        return 2 * square.sum(dim=-2) - square[..., 0, :]


def quadrature(latitude: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Recognise the rows of a global grid.

    Args:
        latitude: [n] degrees, ascending.

    Returns:
        sin(latitude) [n] of the exact nodes, weights [n] summing to two, and the highest l whose squares are exact.

    Raises:
        ValueError: when the rows are neither Gaussian nor equiangular over the whole globe.
    """
    n = len(latitude)
    gauss, gauss_weights = np.polynomial.legendre.leggauss(n)
    with_poles, without = np.pi * np.arange(n) / max(n - 1, 1), np.pi * (np.arange(n) + 0.5) / n
    rules = (
        (gauss, lambda: gauss_weights, n - 1),
        (-np.cos(with_poles), lambda: _clenshaw_curtis(with_poles), (n - 1) // 2),
        (-np.cos(without), lambda: _fejer(without), (n - 1) // 2),
    )
    for nodes, weights, lmax in rules:
        if np.abs(np.rad2deg(np.arcsin(nodes)) - latitude).max() < DEGREES_TOLERANCE:
            return nodes, weights(), lmax
    raise ValueError(
        f"spectra need Gaussian or equiangular rows over the whole globe; got {n} rows from {latitude[0]:g} to "
        f"{latitude[-1]:g} degrees - regrid the fields first"
    )


def _clenshaw_curtis(theta: np.ndarray) -> np.ndarray:
    intervals = theta.size - 1
    j = np.arange(1, intervals // 2 + 1)
    b = np.where(2 * j == intervals, 1.0, 2.0)
    inner = 1 - np.cos(2 * np.outer(theta, j)) @ (b / (4 * j**2 - 1))
    ends = np.where((np.arange(theta.size) % intervals) == 0, 1.0, 2.0)
    return np.asarray(ends / intervals * inner)


def _fejer(theta: np.ndarray) -> np.ndarray:
    j = np.arange(1, theta.size // 2 + 1)
    return np.asarray(2 / theta.size * (1 - 2 * np.cos(2 * np.outer(theta, j)) @ (1 / (4 * j**2 - 1))))


def legendre(lmax: int, x: np.ndarray) -> np.ndarray:
    """Compute associated Legendre functions with mean square one over the sphere.

    Args:
        lmax: highest degree.
        x: [n] sine of latitude.

    Returns:
        [m, l, n] float64, zero for l < m; `integral of P_lm^2 dx = 2`.
    """
    table = np.zeros((lmax + 1, lmax + 1, x.size))
    cosine = np.sqrt(np.clip(1 - x**2, 0, None))
    sectoral = np.ones_like(x)
    for m in range(lmax + 1):
        if m:
            sectoral = sectoral * cosine * np.sqrt((2 * m + 1) / (2 * m))
        table[m, m] = sectoral
        for degree in range(m + 1, lmax + 1):
            a = np.sqrt((4 * degree**2 - 1) / (degree**2 - m**2))
            b = np.sqrt(((degree - 1) ** 2 - m**2) / (4 * (degree - 1) ** 2 - 1))
            below = table[m, degree - 2] if degree >= m + 2 else 0.0
            table[m, degree] = a * (x * table[m, degree - 1] - b * below)
    return table
