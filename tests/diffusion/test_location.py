"""Features of place and calendar: exact phases, addition theorem, parity."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.polynomial import Legendre
from safetensors.torch import load_file

from diffusion.location import (
    calendar_features,
    hour_phase,
    ladcast_year_features,
    latitude_features,
    spherical_harmonics,
    year_phase,
)

EPOCH = datetime(1970, 1, 1)


def to_hours(*times: datetime) -> torch.Tensor:
    """Return int64 hours since 1970."""
    return torch.tensor([(t - EPOCH) // timedelta(hours=1) for t in times], dtype=torch.int64)


@given(st.integers(-8_000_000, 8_000_000))
def test_phases_equal_the_calendar_of_the_standard_library(hours: int) -> None:
    """Years 1058 to 2882, leap years and centuries included: the same integers, so the quotient is equal exactly."""
    time = EPOCH + timedelta(hours=hours)
    begin, end = datetime(time.year, 1, 1), datetime(time.year + 1, 1, 1)
    value = torch.tensor([hours])
    assert float(year_phase(value)) == (time - begin) // timedelta(hours=1) / ((end - begin) // timedelta(hours=1))
    assert float(hour_phase(value)) == time.hour / 24


def test_every_hour_around_new_year_falls_into_its_year() -> None:
    """The phase falls from its largest value to 0 exactly at New Year, for the kinds of leap years."""
    for year in (1900, 1904, 1970, 1999, 2000, 2001, 2024, 2100):
        first = to_hours(datetime(year, 1, 1))
        around = year_phase(torch.cat([first - 1, first, first + 1]))
        length = (datetime(year, 1, 1) - datetime(year - 1, 1, 1)) // timedelta(hours=1)
        assert around[0] == (length - 1) / length
        assert around[1] == 0
        assert around[2] > 0


def test_calendar_features_tell_day_from_night_and_summer_from_winter() -> None:
    """Any two different hours of the day, or months, differ; the same hour of the same phase does not."""
    day = calendar_features(to_hours(*(datetime(2023, 3, 5, h) for h in range(24))))
    assert torch.cdist(day.double(), day.double()).add(10 * torch.eye(24)).min() > 0.3
    year = calendar_features(to_hours(*(datetime(2023, m, 1) for m in range(1, 13))))
    assert torch.cdist(year.double(), year.double()).add(10 * torch.eye(12)).min() > 0.3
    new_year = calendar_features(to_hours(datetime(1980, 1, 1), datetime(2023, 1, 1)))
    assert torch.equal(new_year[0], new_year[1])


def test_calendar_features_are_harmonics() -> None:
    """sin and cos of 2 pi k p for noon of the middle of a common year: p = 1/2, hour 12: values 0 and (-1)^k."""
    features = calendar_features(to_hours(datetime(2023, 7, 2, 12)), 3, 2)
    expected = torch.tensor([[0.0, 0, 0, -1, 1, -1, 0, 0, -1, 1]])
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-6)


def test_floating_hours_are_refused() -> None:
    """float32 merges neighbouring hours of today; the error says to keep integers."""
    with pytest.raises(ValueError, match="keep integers"):
        year_phase(torch.tensor([473352.0]))


def test_year_features_equal_the_reference(shared: Path) -> None:
    """LaDCast's year phase and 256 features for seven dates: 1e-6."""
    fixture = load_file(shared / "fixtures" / "ladcast" / "time_embeddings.safetensors")
    times = [datetime.strptime(str(d), "%Y%m%d%H") for d in fixture["dates_int64"].tolist()]
    hours = to_hours(*times)
    torch.testing.assert_close(year_phase(hours).float(), fixture["year_progress"], rtol=0, atol=1e-6)
    torch.testing.assert_close(ladcast_year_features(hours), fixture["year_sincos_256"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("degree", [0, 1, 5, 12])
def test_spherical_harmonics_obey_the_addition_theorem(degree: int) -> None:
    """sum_m Y_lm(p) Y_lm(r) = (2 l + 1) / (4 pi) P_l(cos of the angle between p and r), for every l; 1e-12."""
    u = torch.rand(4, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    lat, lon, lat2, lon2 = 180 * u[0] - 90, 360 * u[1], 180 * u[2] - 90, 360 * u[3]
    p, r = spherical_harmonics(lat, lon, degree), spherical_harmonics(lat2, lon2, degree)
    a, b, c, d = (torch.deg2rad(v) for v in (lat, lat2, lon, lon2))
    cosine = a.sin() * b.sin() + a.cos() * b.cos() * (c - d).cos()
    for n in range(degree + 1):
        actual = (p * r)[:, n * n : (n + 1) ** 2].sum(1)
        expected = (2 * n + 1) / (4 * math.pi) * Legendre.basis(n)(cosine.numpy())
        np.testing.assert_allclose(actual.numpy(), expected, atol=1e-12)


def test_spherical_harmonics_are_orthonormal() -> None:
    """The Gram matrix by Gauss-Legendre and trapezoidal quadrature, exact for these degrees, is the identity; 1e-12."""
    degree = 6
    nodes, weights = np.polynomial.legendre.leggauss(degree + 1)
    lat, lon = np.rad2deg(np.arcsin(nodes)), np.arange(2 * degree + 1) * 360 / (2 * degree + 1)
    grid = torch.cartesian_prod(torch.from_numpy(lat), torch.from_numpy(lon))
    area = torch.from_numpy(weights).repeat_interleave(len(lon)) * 2 * math.pi / len(lon)
    values = spherical_harmonics(grid[:, 0], grid[:, 1], degree)
    gram = (values * area[:, None]).T @ values
    torch.testing.assert_close(gram, torch.eye((degree + 1) ** 2, dtype=torch.float64), rtol=0, atol=1e-12)


def test_latitude_features_are_zonal_harmonics() -> None:
    """sqrt(2 l + 1) P_l(sin lat) by an independent evaluation; poles included; 1e-12."""
    lat = torch.linspace(-90, 90, 13, dtype=torch.float64)
    expected = [math.sqrt(2 * n + 1) * Legendre.basis(n)(np.sin(np.deg2rad(lat.numpy()))) for n in range(1, 9)]
    np.testing.assert_allclose(latitude_features(lat, 8).numpy(), np.stack(expected, axis=1), atol=1e-12)
