"""Ensemble scores: closed forms, invariances, an independent implementation, detection of what is wrong."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gen.metrics.base import area_mean
from gen.metrics.ensemble import (
    brier_score,
    crps,
    ensemble_statistics,
    quantile,
    rank_chi_square,
    rank_histogram,
    spread_skill_ratio,
    unbiased_mse,
)


def draw(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def gaussian_crps(mean: float, spread: float, truth: float) -> float:
    """Gneiting and Raftery 2007, Eq. 21."""
    z = (truth - mean) / spread
    density, below = math.exp(-z * z / 2) / math.sqrt(2 * math.pi), (1 + math.erf(z / math.sqrt(2))) / 2
    return spread * (z * (2 * below - 1) + 2 * density - 1 / math.sqrt(math.pi))


@pytest.mark.parametrize("members", [2, 5, 20])
def test_fair_crps_is_unbiased_for_a_gaussian(members: int) -> None:
    """E[fair CRPS of M draws of N(m, s)] is the closed form for every M (4 standard errors of 60,000 cases)."""
    mean, spread, truth = 0.7, 1.3, 1.9
    score = crps(mean + spread * draw(members, members, 60_000), torch.full((60_000,), truth, dtype=torch.float64))
    error = float(score.std()) / math.sqrt(score.numel())
    assert abs(float(score.mean()) - gaussian_crps(mean, spread, truth)) < 4 * error


def test_plain_crps_is_too_large_by_the_pair_distance_over_m() -> None:
    """E[plain] - E[fair] = E|x - x'| / (2 M) = s / (M sqrt(pi)); with M = 2 that is 0.282, far above 4 s.e."""
    x, y = draw(0, 2, 60_000), torch.zeros(60_000, dtype=torch.float64)
    excess = crps(x, y, fair=False) - crps(x, y)
    error = float(excess.std()) / math.sqrt(excess.numel())
    assert abs(float(excess.mean()) - 1 / (2 * math.sqrt(math.pi))) < 4 * error


@pytest.mark.parametrize(("fair", "estimator"), [(True, "fair"), (False, "nrg")])
def test_crps_equals_scoringrules(fair: bool, estimator: str) -> None:
    """An independent library gives the same numbers, ties included; 1e-6 relative is float rounding on both sides."""
    scoringrules = pytest.importorskip("scoringrules")
    x, y = (3 * draw(1, 9, 4, 50)).round(decimals=1), draw(2, 4, 50).round(decimals=1)
    other = scoringrules.crps_ensemble(y.numpy(), np.moveaxis(x.numpy(), 0, -1), estimator=estimator)
    np.testing.assert_allclose(crps(x, y, fair=fair).numpy(), other, rtol=1e-6, atol=1e-12)


def test_crps_of_a_tie_follows_the_definition() -> None:
    """Members 0, 0, 1, 3 and truth 0: 1/4 * 4 - (sum of pair distances 11)/12 = 1/12, by hand."""
    x, y = torch.tensor([0.0, 0.0, 1.0, 3.0], dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)
    pairs = sum(abs(a - b) for i, a in enumerate(x.tolist()) for b in x.tolist()[i + 1 :])
    assert float(crps(x, y)) == pytest.approx(1.0 - pairs / 12, abs=1e-15)


@given(seed=st.integers(0, 10_000), members=st.integers(1, 12), a=st.floats(-50, 50), b=st.floats(-1e4, 1e4))
def test_crps_does_not_see_the_order_and_scales_with_the_units(seed: int, members: int, a: float, b: float) -> None:
    """CRPS(P x, y) = CRPS(x, y) to summation order (1e-13); CRPS(a x + b, a y + b) = |a| CRPS(x, y)."""
    x, y = draw(seed, members, 6), draw(seed + 1, 6)
    order = torch.randperm(members, generator=torch.Generator().manual_seed(seed))
    base = crps(x, y)
    torch.testing.assert_close(crps(x[order], y), base, rtol=0, atol=1e-13)
    torch.testing.assert_close(crps(a * x + b, a * y + b), abs(a) * base, rtol=1e-9, atol=1e-11 * (1 + abs(b)))


def test_crps_of_one_member_is_the_absolute_error() -> None:
    """With M = 1 there are no pairs and the score is |x - y|, exactly."""
    x, y = draw(3, 1, 7), draw(4, 7)
    assert torch.equal(crps(x, y), (x[0] - y).abs())


def test_crps_in_float32_keeps_its_digits_on_geopotential(monkeypatch: pytest.MonkeyPatch) -> None:
    """Float32 values near 5.5e4 with a spread of 10: the score equals that of the same numbers in float64 to 1e-6."""
    monkeypatch.setattr("gen.metrics.ensemble.ELEMENTS_PER_BLOCK", 64)  # several blocks
    x, y = (55_000 + 10 * draw(5, 8, 100)).float(), (55_000 + 10 * draw(6, 100)).float()
    torch.testing.assert_close(crps(x, y).double(), crps(x.double(), y.double()), rtol=1e-6, atol=0)


@pytest.mark.parametrize("members", [3, 20])
def test_spread_equals_skill_for_a_calibrated_ensemble(members: int) -> None:
    """Truth and members from one law: both ratios are 1 +- 0.02 (200,000 cases: sampling error below 0.005)."""
    centre = draw(7, 200_000)
    x, y = centre + 0.6 * draw(8, members, 200_000), centre + 0.6 * draw(9, 200_000)
    mse, var = (x.mean(0) - y).square().mean(), x.var(0).mean()
    assert float(spread_skill_ratio(mse, var, members)) == pytest.approx(1, abs=0.02)
    assert float(spread_skill_ratio(mse, var, members, unbiased=True)) == pytest.approx(1, abs=0.02)


def test_spread_skill_ratio_detects_20_percent_too_little_spread() -> None:
    """Members with 0.8 of the spread: the unbiased ratio is 0.8, the classic one nearer to one but below 0.83."""
    members = 10
    x, y = 0.8 * draw(10, members, 100_000), draw(11, 100_000)
    mse, var = (x.mean(0) - y).square().mean(), x.var(0).mean()
    assert float(spread_skill_ratio(mse, var, members, unbiased=True)) == pytest.approx(0.8, abs=0.01)
    expected = math.sqrt((members + 1) / members * 0.64 / (1 + 0.64 / members))
    assert float(spread_skill_ratio(mse, var, members)) == pytest.approx(expected, abs=0.01)


def test_unbiased_error_does_not_depend_on_the_ensemble_size() -> None:
    """E[(mean - y)^2 - s^2/M] = bias^2 + var(y), here 0.25 + 1, for M = 2 and 40 (4 standard errors)."""
    for members in (2, 40):
        x, y = 0.5 + draw(12, members, 100_000), draw(13, 100_000)
        value = unbiased_mse((x.mean(0) - y).square(), x.var(0), members)
        assert abs(float(value.mean()) - 1.25) < 4 * float(value.std()) / math.sqrt(value.numel())


def test_ranks_of_a_calibrated_ensemble_are_uniform() -> None:
    """20,000 independent cases: chi^2 against a flat histogram has p > 0.001; 20% too little spread is detected."""
    x, y = draw(14, 9, 100, 200), draw(15, 100, 200)
    weights = torch.ones(100, 200, dtype=torch.float64)
    flat, short = (rank_histogram(scale * x, y, weights).numpy() * y.numel() for scale in (1.0, 0.8))
    assert rank_chi_square(flat)[1] > 1e-3
    assert rank_chi_square(short)[1] < 1e-12
    assert short[[0, -1]].sum() > 1.3 * flat[[0, -1]].sum()


def test_rank_counts_members_below_and_shares_ties() -> None:
    """Truth 2 among 0, 1, 3 has rank 2; truth 1 among 0, 1, 1 gives a third each to ranks 1, 2 and 3; areas count."""
    x = torch.tensor([[[0.0, 0.0]], [[1.0, 1.0]], [[3.0, 1.0]]])
    y = torch.tensor([[2.0, 1.0]])
    got = rank_histogram(x, y, torch.tensor([[3.0, 1.0]]))
    torch.testing.assert_close(got, torch.tensor([0.0, 1 / 12, 3 / 4 + 1 / 12, 1 / 12], dtype=torch.float64))


def test_brier_score_of_a_finite_ensemble_is_unbiased() -> None:
    """Event probability p = P(x > 0.5), truth from the same law: E[debiased Brier] = p (1 - p) for M = 3 (4 s.e.)."""
    score = brier_score(draw(16, 3, 200_000), draw(17, 200_000), 0.5)
    p = 0.5 * math.erfc(0.5 / math.sqrt(2))
    assert abs(float(score.mean()) - p * (1 - p)) < 4 * float(score.std()) / math.sqrt(score.numel())
    plain = brier_score(draw(16, 3, 200_000), draw(17, 200_000), 0.5, debiased=False)
    assert float(plain.mean()) == pytest.approx(p * (1 - p) * (1 + 1 / 3), abs=0.005)


def test_quantiles_equal_numpy() -> None:
    """The same linear interpolation as numpy's default (1e-14: rounding)."""
    x, q = draw(18, 11, 3, 4), torch.tensor([0.1, 0.5, 0.97], dtype=torch.float64)
    np.testing.assert_allclose(quantile(x, q).numpy(), np.quantile(x.numpy(), q.numpy(), axis=0), atol=1e-14)


def test_missing_cells_are_left_out() -> None:
    """Cells without truth change nothing: the statistics equal those of the remaining cells alone (1e-14)."""
    x, y, weights = (
        draw(19, 5, 2, 4, 6),
        draw(20, 2, 4, 6),
        torch.rand(4, 6, generator=torch.Generator().manual_seed(0)),
    )
    y[:, :, 4:] = torch.nan
    holed = ensemble_statistics(x, y, weights)
    whole = ensemble_statistics(x[..., :4], y[..., :4], weights[:, :4])
    for name, value in whole.items():
        torch.testing.assert_close(holed[name], value, rtol=1e-12, atol=1e-14)


def test_statistics_equal_the_published_fixture(shared: Path) -> None:
    """Fair CRPS, pair spread, error of six members and of one, point by point, as an earlier code (float32: 2e-6)."""
    from safetensors.torch import load_file

    data = load_file(shared / "fixtures/ladcast/metrics.safetensors")
    x, y = data["fc"], data["truth"]
    torch.testing.assert_close(crps(x, y), data["crps"], rtol=0, atol=2e-6)
    torch.testing.assert_close(crps(x[:1], y), data["crps_M1"], rtol=0, atol=2e-6)
    skill = (x - y).abs().mean(0)
    torch.testing.assert_close(skill, data["skill"], rtol=0, atol=2e-6)
    torch.testing.assert_close(2 * (skill - crps(x, y)), data["spread"], rtol=0, atol=4e-6)
    cosine = data["latw12"].double()[:, None].expand(12, 24)
    expected = (data["crps"].double() * cosine).mean((-2, -1)) / cosine.mean()
    torch.testing.assert_close(area_mean(crps(x, y), cosine), expected, rtol=0, atol=2e-6)
