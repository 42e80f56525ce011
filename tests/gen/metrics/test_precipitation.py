"""Scores of fine rain in cases that can be worked out, and against independent implementations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gen.metrics.ensemble import crps, rank_histogram
from gen.metrics.precipitation import (
    fraction_sums,
    fractions_skill_score,
    log_spectral_distance,
    pooled_crps,
    probability_fraction_sums,
    quantile_error,
    radial_spectrum,
    reliability_index,
    sal,
    seam_index,
    threshold_weighted_crps,
    wet_frequency,
    wet_rank_histogram,
)


def rain(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return rain with many zeros, float64."""
    values = np.random.default_rng(seed).gamma(0.3, 5.0, size=shape)
    return torch.from_numpy(np.where(values > 0.5, values, 0.0))


def test_crps_with_a_truth_that_ties_members() -> None:
    """Truth 0, members 0, 0, 1, 2: 3/4 - 14/32 = 0.3125 biased and 3/4 - 14/24 fair, where strict inequalities fail."""
    members, truth = torch.tensor([0.0, 0, 1, 2])[:, None], torch.zeros(1)
    assert crps(members, truth, fair=False).item() == pytest.approx(0.3125)
    assert crps(members, truth).item() == pytest.approx(0.75 - 14 / 24)


def test_weighted_crps_of_a_single_member_is_the_difference_above_the_threshold() -> None:
    """|max(x, t) - max(y, t)|: 7 against 3 with t = 5 counts 2, all below t counts nothing."""
    x, y = torch.tensor([[7.0, 4.0, 1.0]]), torch.tensor([3.0, 9.0, 2.0])
    torch.testing.assert_close(threshold_weighted_crps(x, y, 5.0), torch.tensor([2.0, 4.0, 0.0]))
    ensemble, truth = rain(8, 20, 20), rain(20, 20, seed=1)
    torch.testing.assert_close(threshold_weighted_crps(ensemble, truth, -1.0), crps(ensemble, truth))


@pytest.mark.parametrize("fair", [True, False])
def test_weighted_crps_agrees_with_scoringrules(fair: bool) -> None:
    """An independent implementation of the chaining function max(x, t), to rounding."""
    scoringrules = pytest.importorskip("scoringrules", reason="scoringrules is not installed")
    ensemble, truth = rain(6, 300), rain(300, seed=1)
    theirs = scoringrules.twcrps_ensemble(truth.numpy(), ensemble.numpy().T, a=2.0, estimator="fair" if fair else "nrg")
    np.testing.assert_allclose(threshold_weighted_crps(ensemble, truth, 2.0, fair=fair), theirs, atol=1e-12)


def test_pooling_comes_before_the_score() -> None:
    """Means of displaced peaks agree, so that the pooled score is zero where the score is not; maxima likewise."""
    truth, ensemble = torch.zeros(9, 8), torch.zeros(3, 9, 8)
    truth[1, 1], ensemble[:, 2, 3], ensemble[:, 8, 0] = 4.0, 4.0, 50.0
    assert crps(ensemble, truth).sum() > 0 and pooled_crps(ensemble, truth, 4).abs().sum() == 0
    assert pooled_crps(ensemble, truth, 4, "max").shape == (2, 2)
    assert pooled_crps(ensemble + 1, truth, 4).unique().item() == pytest.approx(1.0)
    with pytest.raises(ValueError, match="blocks of 10 do not fit into 9x8"):
        pooled_crps(ensemble, truth, 10)
    with pytest.raises(ValueError, match="kind must be mean or max"):
        pooled_crps(ensemble, truth, 4, "sum")  # type: ignore[arg-type]


def test_ranks_of_wet_cases_and_ties() -> None:
    """Dry truth and members share all ranks evenly; restricted to wet cases only the wet pixel counts."""
    ensemble, truth, weights = torch.zeros(3, 2, 2), torch.zeros(2, 2), torch.ones(2, 2)
    torch.testing.assert_close(rank_histogram(ensemble, truth, weights), torch.full((4,), 0.25, dtype=torch.float64))
    truth[0, 1] = 5.0
    wet = wet_rank_histogram(ensemble, truth, weights)
    torch.testing.assert_close(wet, torch.tensor([0.0, 0, 0, 1], dtype=torch.float64))
    assert reliability_index(wet).item() == pytest.approx(1.5)  # 3/4 + 3 x 1/4
    assert torch.isnan(wet_rank_histogram(ensemble, torch.zeros(2, 2), weights)).all()


def test_fractions_skill_of_a_displaced_pixel() -> None:
    """One pixel, d = 2 columns apart, window n = 5: the overlap of two squares is n (n - d), so FSS = 1 - d / n = 0.6.

    (F - O)^2 sums to 2 (n^2 - n (n - d)) / n^4 and F^2 + O^2 to 2 n^2 / n^4. With n = 1 there is no overlap: 0.
    """
    forecast, truth = torch.zeros(21, 21), torch.zeros(21, 21)
    forecast[10, 8], truth[10, 10] = 3.0, 3.0
    assert fractions_skill_score(*fraction_sums(forecast, truth, 1.0, 5)).item() == pytest.approx(0.6)
    assert fractions_skill_score(*fraction_sums(forecast, truth, 1.0, 1)).item() == 0
    assert fractions_skill_score(*fraction_sums(truth, truth, 1.0, 5)).item() == 1
    assert torch.isnan(fractions_skill_score(*fraction_sums(truth, truth, 9.0, 5)))
    with pytest.raises(ValueError, match="window must be an odd number of pixels; got 4"):
        fraction_sums(forecast, truth, 1.0, 4)


def test_fractions_are_padded_with_zeros_and_add_over_fields() -> None:
    """By brute force over padded windows, values equal to the threshold count, gaps do not; sums of fields add."""
    forecast, truth = rain(2, 9, 12).round(), rain(2, 9, 12, seed=1).round()
    truth[0, 3, 4] = torch.nan
    difference, reference = fraction_sums(forecast, truth, 2.0, 3)
    for k in range(2):
        known = ~np.isnan(truth[k].numpy())
        parts = [np.pad((x[k].numpy() >= 2.0) & known, 1).astype(float) for x in (forecast, truth)]
        windows = [np.lib.stride_tricks.sliding_window_view(p, (3, 3)).mean(axis=(2, 3)) for p in parts]
        assert difference[k].item() == pytest.approx((((windows[0] - windows[1]) ** 2) * known).sum())
        assert reference[k].item() == pytest.approx(((windows[0] ** 2 + windows[1] ** 2) * known).sum())
    whole = probability_fraction_sums(forecast.expand(3, 2, 9, 12), truth, 2.0, 3)
    torch.testing.assert_close(whole[0], difference)


@pytest.mark.parametrize("shape", [(48, 80), (64, 64), (33, 50)])
def test_a_wave_lies_at_its_physical_frequency(shape: tuple[int, int]) -> None:
    """A cosine of 80 km along the columns: all power, A^2/2 of variance, in the ring of 1/80 per km, on any rectangle.

    Power is |FFT|^2 / (H W), whose sum over all components is H W times the variance (Parseval).
    """
    columns = torch.arange(shape[1], dtype=torch.float64)
    length = shape[1] * 2.0 / round(shape[1] * 2.0 / 80)  # the nearest whole number of waves
    field = 3.0 * torch.cos(2 * torch.pi * columns * 2.0 / length).expand(shape)
    frequency, power = radial_spectrum(field, (2.0, 2.0))
    peak = int(power.argmax())
    assert abs(frequency[peak].item() - 1 / length) <= float(frequency[1] - frequency[0]) / 2
    others = power.clone()
    others[peak] = 0
    assert others.max() < 1e-20 * power[peak]


def test_white_noise_is_flat_and_parseval_holds() -> None:
    """Expected power 1 per component in every ring; unequal spacing and the taper change nothing of that."""
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((200, 40, 64)))
    for hann in (False, True):
        frequency, power = radial_spectrum(noise, (1.0, 0.6), hann=hann)
        assert frequency[0] == pytest.approx(1 / 38.4) and frequency[-1] <= 0.5 + 1e-9
        mean = power.mean(dim=0)[1:]  # the taper takes the mean out of the first ring
        assert (mean - 1).abs().max() < 0.1  # some hundred components in the smallest ring, 200 fields


def test_a_common_factor_is_its_decibels() -> None:
    """Twice the field is four times the power: 6.02 dB at every frequency; equal fields are 0 dB apart."""
    field = rain(3, 40, 60)
    distance = log_spectral_distance(2 * field, field, (1.0, 1.0))
    torch.testing.assert_close(distance, torch.full((3,), 20 * np.log10(2), dtype=torch.float64))
    assert log_spectral_distance(field, field, (1.0, 1.0)).abs().max() < 1e-12
    assert torch.isnan(log_spectral_distance(torch.zeros(40, 60), field[0], (1.0, 1.0)))


def disc(row: int, column: int, radius: float = 5.0, shape: tuple[int, int] = (60, 80)) -> torch.Tensor:
    """Return a flat object of height one."""
    r, c = torch.meshgrid(torch.arange(shape[0]), torch.arange(shape[1]), indexing="ij")
    return (torch.hypot((r - row).double(), (c - column).double()) <= radius).double()


def test_sal_of_shifted_scaled_and_shaped_objects() -> None:
    """A shift of 20 columns on a diagonal of 100: L = 0.2, S = A = 0. Twice the rain: A = 2/3, S = 0.

    Flat against a cone: V of the disc is its mass, of the cone less than a third of that of the same peak: S > 0.
    """
    assert sal(disc(30, 50), disc(30, 30)) == pytest.approx((0.0, 0.0, 0.2))
    assert sal(2 * disc(30, 30), disc(30, 30)) == pytest.approx((0.0, 2 / 3, 0.0))
    r, c = torch.meshgrid(torch.arange(60), torch.arange(80), indexing="ij")
    cone = (10 - torch.hypot((r - 30).double(), (c - 30).double())).clamp(min=0)
    flat = disc(30, 30, 9.0) * cone.sum() / disc(30, 30, 9.0).sum()
    result = sal(flat, cone)
    assert result.structure > 0.5 and result.amplitude == pytest.approx(0) and result.location < 1e-3
    two, one = disc(30, 20) + disc(30, 60), 2 * disc(30, 40)
    assert sal(two, one).location == pytest.approx(2 * 20 / 100) and sal(two, one).amplitude == pytest.approx(0)


def test_sal_of_dry_fields_says_so() -> None:
    """Structure and location are undefined; the amplitude is -2 when only the forecast is dry."""
    result = sal(torch.zeros(10, 10), disc(5, 5, 2.0, (10, 10)))
    assert np.isnan(result.structure) and np.isnan(result.location) and result.amplitude == -2
    assert np.isnan(sal(torch.zeros(10, 10), torch.zeros(10, 10)).amplitude)
    with pytest.raises(ValueError, match="two maps without missing values"):
        sal(torch.full((4, 4), torch.nan), torch.zeros(4, 4))


def test_quantiles_of_scaled_rain_are_off_by_the_scale() -> None:
    """1.1 times the rain: 10 % at every level; a median of zero has no relative error; NaN are left out."""
    truth = rain(200, 200)
    forecast = 1.1 * truth
    forecast[0, 0] = torch.nan
    errors = quantile_error(forecast, truth, [0.1, 0.99, 0.999, 0.9999])
    assert torch.isnan(errors[0])
    torch.testing.assert_close(errors[1:], torch.full((3,), 0.1, dtype=torch.float64), atol=2e-3, rtol=0)


def test_wet_frequency_is_a_share_of_the_known_area() -> None:
    """Weights 1, 2, 3 and 4, of which 3 is missing and 2 is wet (at the threshold): 2 of 7."""
    values = torch.tensor([[0.0, 0.1], [torch.nan, 0.05]], dtype=torch.float64)
    weights = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert wet_frequency(values, weights).item() == pytest.approx(2 / 7)


def test_a_seam_is_seen_and_its_absence_too() -> None:
    """White noise: one within its scatter. Steps of one inside and three across: three. One axis is compared alone."""
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((400, 400)))
    assert seam_index(noise, [100, 200, 300], [200]).item() == pytest.approx(1.0, abs=0.05)
    stairs = torch.arange(20, dtype=torch.float64)[:, None].repeat(1, 30)
    stairs[10:] += 2
    assert seam_index(stairs, row_seams=[10]).item() == pytest.approx(3.0)
    assert seam_index(stairs.mT, column_seams=[10]).item() == pytest.approx(3.0)
    with pytest.raises(ValueError, match="seams must lie inside 20x30"):
        seam_index(stairs, [20])
    with pytest.raises(ValueError, match="name at least one"):
        seam_index(stairs)
