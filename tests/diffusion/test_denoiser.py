"""Denoisers: the wrapper does exactly its equation in the right dtypes; the Gaussian double is the posterior mean."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from diffusion.denoiser import AnalyticGaussian, Denoiser
from diffusion.precondition import EDM, Flow


class Spy(nn.Module):
    """Network that records what it is called with and returns a fixed multiple of its input."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.5, dtype=dtype))

    def forward(self, x, c_noise, **cond):
        self.seen = (x, c_noise, cond)
        return self.gain * x


def test_equation_and_conditions():
    """D = c_skip x + c_out F(c_in x; c_noise, cond) with one noise level per sample; float32 rounding."""
    network = Spy()
    x, sigma, cond = torch.randn(3, 2, 4, 4, generator=_generator()), torch.tensor([0.01, 1.0, 50.0]), object()
    result = Denoiser(network, EDM(0.5))(x, sigma, known=cond)
    s = sigma.view(3, 1, 1, 1)
    root = (s**2 + 0.25).sqrt()
    torch.testing.assert_close(result, 0.25 / root**2 * x + 0.5 * s / root * (0.5 * x / root))
    torch.testing.assert_close(network.seen[1], sigma.log() / 4)
    assert network.seen[2] == {"known": cond}


@pytest.mark.parametrize("shape", [(), (1,), (3,)])
def test_one_level_serves_all_samples(shape):
    """A number, a scalar tensor and a full vector of equal noise levels give the same bits."""
    x, denoiser = torch.randn(3, 5, generator=_generator()), Denoiser(Spy(), Flow())
    assert torch.equal(denoiser(x, torch.full(shape, 2.0)), denoiser(x, 2.0))
    assert denoiser.network.seen[1].shape == (3,)


def test_wrong_number_of_levels_is_refused():
    """Two noise levels for three samples is a ValueError, not a broadcast."""
    with pytest.raises(ValueError, match="sigma must be one number or one per sample; got 2 for 3"):
        Denoiser(Spy(), EDM())(torch.zeros(3, 5), torch.ones(2))


@pytest.mark.parametrize(
    ("network", "state", "result"),
    [
        (torch.float32, torch.float64, torch.float64),
        (torch.bfloat16, torch.float32, torch.float32),
        (torch.float64, torch.float64, torch.float64),
        (torch.bfloat16, torch.bfloat16, torch.float32),
    ],
)
def test_dtypes(network, state, result):
    """The network works in its own dtype, the arithmetic around it in float32 or better; c_noise is never half."""
    spy = Spy(network)
    assert Denoiser(spy, EDM())(torch.ones(2, 3, dtype=state), 1.0).dtype == result
    assert spy.seen[0].dtype == network
    assert spy.seen[1].dtype in (torch.float32, torch.float64)


@pytest.mark.parametrize("precondition", [EDM(0.5), Flow()], ids=repr)
def test_denoiser_does_not_depend_on_the_path(precondition):
    """D(alpha y; alpha s, alpha) = D(y; s): rescheduling invariance, atol 1e-6 in float32."""
    denoiser = Denoiser(Spy(), precondition)
    y, s, alpha = torch.randn(4, 6, generator=_generator()), torch.tensor([0.1, 1.0, 3.0, 20.0]), 0.3
    torch.testing.assert_close(denoiser(alpha * y, alpha * s, alpha=alpha), denoiser(y, s), rtol=1e-6, atol=1e-6)


def test_gaussian_double_is_the_posterior_mean():
    """On pairs (x_0, x) the double's error has the posterior variance and no correlation with x; 5 standard errors."""
    n = 400_000
    double = AnalyticGaussian(1.5, torch.tensor([0.3, 2.0]))
    x0 = 1.5 + double.std * torch.randn(n, 2, generator=_generator(), dtype=torch.float64)
    noise = torch.randn(n, 2, generator=_generator(7), dtype=torch.float64)
    x = x0 + 0.8 * noise
    error = double(x, 0.8) - x0
    torch.testing.assert_close(error.var(0), double.posterior_variance(0.8), rtol=5 * (2 / n) ** 0.5, atol=0)
    correlation = (error * (x - 1.5)).mean(0) / error.std(0) / x.std(0)
    assert float(correlation.abs().max()) < 5 / n**0.5


def test_gaussian_double_solves_its_own_flow():
    """d transport / d sigma = (x - D) / sigma: the closed-form solution satisfies the ODE; rtol 1e-7 by differences."""
    double, x = AnalyticGaussian(0.4, torch.tensor([0.1, 1.0, 3.0])), torch.tensor([[0.3, -2.0, 5.0]]).double()
    h, s = 1e-4, 1.7
    slope = (double.transport(x, s, s + h) - double.transport(x, s, s - h)) / (2 * h)
    torch.testing.assert_close(slope, (x - double(x, s)) / s, rtol=1e-7, atol=0)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
