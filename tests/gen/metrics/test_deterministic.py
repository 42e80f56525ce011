"""Scores of single fields."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gen.grid import LatLonGrid
from gen.metrics.deterministic import anomaly_correlation, deterministic_statistics


def test_errors_of_a_constant_offset_are_that_offset() -> None:
    """Forecast = truth - 2 on a pole-inclusive grid: bias -2, absolute error 2, squared error 4, exactly weighted."""
    weights = torch.from_numpy(LatLonGrid.equiangular(7, 12, poles=True).cell_areas().copy())
    truth = torch.randn(3, 7, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    got = deterministic_statistics(truth - 2, truth, weights)
    for name, value in (("error", -2.0), ("crps", 2.0), ("squared_error", 4.0)):
        torch.testing.assert_close(got[name], torch.full((3,), value, dtype=torch.float64), rtol=0, atol=1e-14)


def test_squared_error_of_the_sine_of_latitude_is_a_third() -> None:
    """<sin^2(lat)> = 1/3 on the sphere; cell means of 180 rows approach it with order 2, here 4e-5."""
    grid = LatLonGrid.equiangular(180, 4)
    field = torch.from_numpy(grid.latitude.copy()).deg2rad().sin()[:, None].expand(180, 4)
    got = deterministic_statistics(field, torch.zeros(180, 4), torch.from_numpy(grid.cell_areas().copy()))
    assert float(got["squared_error"]) == pytest.approx(1 / 3, abs=1e-4)


def test_anomaly_correlation_is_plus_or_minus_one_for_proportional_anomalies() -> None:
    """f' = 3 o' gives 1, f' = -o' gives -1 (rounding 1e-15)."""
    base, anomaly = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights = torch.ones(5, 6)
    for factor, expected in ((3.0, 1.0), (-1.0, -1.0)):
        got = anomaly_correlation(base + factor * anomaly, base + anomaly, base, weights)
        assert float(got) == pytest.approx(expected, abs=1e-14)


def test_anomaly_correlation_equals_the_published_fixture(shared: Path) -> None:
    """The correlation of the ensemble mean, with cosine and without weights, as an earlier code (float32: 2e-6)."""
    from safetensors.torch import load_file

    data = load_file(shared / "fixtures/ladcast/metrics.safetensors")
    cosine = data["latw12"][:, None].expand(12, 24)
    for name, weights in (("acc_w", cosine), ("acc_nw", torch.ones(12, 24))):
        got = anomaly_correlation(data["fc"].mean(0), data["truth"], data["clim"], weights)
        torch.testing.assert_close(got.float(), data[name], rtol=0, atol=2e-6)
