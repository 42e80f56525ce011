"""Averages of weights: closed forms of both profiles, independence of the step size, exact return."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import integrate
from torch import nn

from gen.ema import Ema, EmaProfile, parse_profile, power_exponent


def follow(profile: EmaProfile, values: list[float], samples: int) -> float:
    """Feed one scalar weight through an average."""
    weight = nn.Parameter(torch.tensor([values[0]], dtype=torch.float32))
    ema = Ema([("w", weight)], profile)
    for k, value in enumerate(values):
        weight.data.fill_(value)
        ema.update((k + 1) * samples, samples)
    return float(ema.average["w"])


@pytest.mark.parametrize("width", [0.05, 0.1, 0.2])
def test_power_exponent_has_the_width(width: float) -> None:
    """The density (gamma + 1) t^gamma on [0, 1] has standard deviation `width` (numerical integrals)."""
    gamma = power_exponent(width)
    mean, second = (integrate.quad(lambda t, n=n: (gamma + 1) * t ** (gamma + n), 0, 1)[0] for n in (1, 2))
    assert math.sqrt(second - mean**2) == pytest.approx(width, rel=1e-6)


def test_power_average_is_the_weighted_mean() -> None:
    """After n equal steps the weight of step k is (k^(g+1) - (k-1)^(g+1)) / n^(g+1); 1e-5: float32 over 40 steps."""
    values = [math.sin(k) for k in range(40)]
    g = power_exponent(0.1)
    expected = sum(v * ((k + 1) ** (g + 1) - k ** (g + 1)) for k, v in enumerate(values)) / 40 ** (g + 1)
    assert follow(EmaProfile("power", 0.1), values, 8) == pytest.approx(expected, abs=1e-5)


def test_exponential_average_halves_in_a_half_life() -> None:
    """Past the warm-up, beta over any partition of a half-life is one half: the batch size does not matter."""
    profile = EmaProfile("exponential", 1000.0)
    for steps in (1, 4, 10):
        beta = math.prod(profile.beta(10**6, 1000 // steps) for _ in range(steps))
        assert beta == pytest.approx(0.5, rel=1e-12)


def test_warm_up_shortens_the_half_life() -> None:
    """Early on the half-life is the fraction `warmup` of the samples seen."""
    profile = EmaProfile("exponential", 1e9, warmup=0.05)
    assert profile.beta(2000, 100) == pytest.approx(0.5, rel=1e-12)


@pytest.mark.parametrize("text", ["power:0.1", "exponential:500"])
def test_constant_weights_stay(text: str) -> None:
    """The average of a constant is the constant; 1e-6 relative is float32 rounding."""
    assert follow(parse_profile(text), [0.3] * 30, 4) == pytest.approx(0.3, rel=1e-6)


def test_applied_returns_the_weights() -> None:
    """Inside the block the parameters are the average, after it (an error included) the old bits."""
    layer = nn.Linear(3, 3)
    ema = Ema(layer.named_parameters(), EmaProfile("power", 0.1))
    before = layer.weight.detach().clone()
    ema.average["weight"].zero_()
    with pytest.raises(RuntimeError), ema.applied():
        assert not layer.weight.any()
        raise RuntimeError
    assert torch.equal(layer.weight, before)


@pytest.mark.parametrize("text", ["power", "power:0.5", "power:-1", "linear:3", "exponential:0", "exponential:x"])
def test_wrong_profiles_are_refused(text: str) -> None:
    """A profile that is none is an error that says what one looks like."""
    with pytest.raises(ValueError, match="must"):
        parse_profile(text)
