"""Schedules: clocks, slopes and grids, against closed forms and the published grid."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion.schedules import VE, VP, Rectified, karras_sigmas, noise_level, rectified_times, to_zero

SCHEDULES = [VE(), VP(), VP(1.0, 1.0), Rectified()]
times = st.floats(1e-3, 0.999).map(lambda t: torch.tensor(t, dtype=torch.float64))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@settings(max_examples=20)
@given(t=times)
def test_time_is_the_inverse_of_the_noise_level(schedule, t):
    """time(sigma/alpha) = t on every schedule; rtol 1e-10 in float64 leaves room for the exponentials of VP."""
    torch.testing.assert_close(schedule.time(noise_level(schedule, t)), t, rtol=1e-10, atol=0)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@settings(max_examples=20)
@given(t=times)
def test_slopes_are_the_derivatives(schedule, t):
    """The closed-form slopes equal automatic differentiation of alpha and sigma; rtol 1e-10 in float64."""
    for f, slope in zip((schedule.alpha, schedule.sigma), schedule.slopes(t), strict=True):
        torch.testing.assert_close(torch.func.grad(lambda u, f=f: f(u).sum())(t), slope, rtol=1e-10, atol=1e-14)


@settings(max_examples=20)
@given(t=times)
def test_vp_preserves_variance(t):
    """alpha^2 + sigma^2 = 1 for every t: unit-variance data keeps unit variance; rounding only."""
    torch.testing.assert_close(VP().alpha(t) ** 2 + VP().sigma(t) ** 2, torch.ones_like(t), rtol=1e-14, atol=0)


def test_rectified_ends_are_exact():
    """The straight path is data at t = 0 and noise at t = 1, and an infinite noise level is t = 1."""
    ends = torch.tensor([0.0, math.inf], dtype=torch.float64)
    assert Rectified().time(ends).tolist() == [0.0, 1.0]
    assert Rectified().alpha(torch.tensor([0.0, 1.0])).tolist() == [1.0, 0.0]


@given(
    steps=st.integers(2, 200),
    low=st.floats(1e-4, 0.5),
    ratio=st.floats(1.5, 1e6),
    rho=st.floats(0.5, 12),
)
def test_karras_levels_fall_between_their_ends(steps, low, ratio, rho):
    """The grid is strictly descending, hits both ends, and is even in sigma^(1/rho); rtol 1e-9 for the powers."""
    sigmas = karras_sigmas(steps, low, low * ratio, rho)
    ends = torch.tensor([low * ratio, low], dtype=torch.float64)
    torch.testing.assert_close(sigmas[[0, -1]], ends, rtol=1e-9, atol=0)
    assert bool((sigmas.diff() < 0).all())
    gaps = (sigmas ** (1 / rho)).diff()
    torch.testing.assert_close(gaps, gaps.mean().expand_as(gaps), rtol=1e-6, atol=0)


def test_one_level_is_the_first():
    """A grid of one level is sigma_max alone; with the appended zero it is a one-step sampler."""
    torch.testing.assert_close(to_zero(karras_sigmas(1, 0.01, 80.0)).float(), torch.tensor([80.0, 0.0]))


@pytest.mark.parametrize("steps", [4, 10, 18, 20, 50, 1000])
def test_karras_levels_equal_the_reference(shared, steps):
    """The grid equals diffusers' EDM grid as LaDCast uses it; rtol 2e-6, the reference was computed in float32."""
    from safetensors.torch import load_file

    reference = load_file(shared / "fixtures/ladcast/edm.safetensors")
    sigmas = to_zero(karras_sigmas(steps)).float()
    torch.testing.assert_close(sigmas, reference[f"sigmas_{steps}"], rtol=2e-6, atol=0)


@given(steps=st.integers(1, 100), sigma_max=st.floats(0.5, 1e4) | st.just(math.inf), shift=st.floats(0.2, 8))
def test_rectified_times_start_at_their_noise_level(steps, sigma_max, shift):
    """The grid falls strictly from the time of sigma_max to exactly 0, whatever the shift; rtol 1e-12."""
    t = rectified_times(steps, sigma_max, shift)
    start = Rectified().time(torch.tensor(sigma_max, dtype=torch.float64))
    torch.testing.assert_close(t[0], start, rtol=1e-12, atol=0)
    assert t[-1] == 0 and len(t) == steps + 1 and bool((t.diff() < 0).all())


def test_shift_multiplies_the_noise_levels():
    """A shift s turns each inner noise level L of the even grid into s L; rtol 1e-12 in float64."""
    plain, shifted = (noise_level(Rectified(), rectified_times(10, math.inf, s)[1:-1]) for s in (1.0, 3.0))
    torch.testing.assert_close(shifted, 3 * plain, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: karras_sigmas(0), "steps must be at least 1; got 0"),
        (lambda: karras_sigmas(4, 2.0, 1.0), "0 < sigma_min < sigma_max"),
        (lambda: karras_sigmas(4, 0.0, 1.0), "0 < sigma_min < sigma_max"),
        (lambda: karras_sigmas(4, rho=0), "rho must be positive"),
        (lambda: rectified_times(4, shift=-1), "must be positive"),
        (lambda: VP(2.0, 1.0), "beta_min <= beta_max"),
    ],
)
def test_bad_values_are_refused(call, words):
    """A value outside its range is a ValueError that names the rule."""
    with pytest.raises(ValueError, match=words):
        call()
