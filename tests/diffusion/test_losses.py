"""Denoising loss: its minimum, its weights, its randomness and the reference step of LaDCast."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from diffusion.denoiser import AnalyticGaussian, Denoiser
from diffusion.losses import LogitNormal, LogNormal, denoising_errors, denoising_loss, snap
from diffusion.precondition import EDM, Flow
from diffusion.schedules import karras_sigmas

SIGMAS = [0.05, 0.5, 3.0]


class Affine(nn.Module):
    """The smallest network that contains the Gaussian optimum at one noise level: a x + b."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def forward(self, x, c_noise):
        return self.theta[0] * x + self.theta[1]


def _gauss_hermite(mean: float, std: float, nodes: int = 12):
    """Return pairs (x_0, eps) and weights that integrate polynomials over N(mean, std^2) x N(0, 1) exactly."""
    x, w = np.polynomial.hermite_e.hermegauss(nodes)
    x, w = torch.from_numpy(x), torch.from_numpy(w / w.sum())
    pairs = torch.cartesian_prod(mean + std * x, x)
    return pairs[:, :1], pairs[:, 1:], torch.outer(w, w).flatten() * nodes**2


@pytest.mark.parametrize("precondition", [EDM(0.7), Flow()], ids=repr)
@pytest.mark.parametrize("sigma", SIGMAS)
def test_the_minimum_is_the_posterior_variance(precondition, sigma):
    """E[loss] of the exact denoiser is w(sigma) s^2 sigma^2 / (s^2 + sigma^2); exact quadrature, rtol 1e-12."""
    double = AnalyticGaussian(0.3, 0.7, precondition)
    x0, eps, weights = _gauss_hermite(0.3, 0.7)
    loss = denoising_errors(double, x0, eps, torch.full((len(x0),), sigma), weights=weights[:, None]).mean()
    s = torch.tensor(sigma, dtype=torch.float32).double()
    expected = precondition.weight(s) * double.posterior_variance(s)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)


def test_the_minimum_is_met_on_drawn_noise():
    """The same through denoising_loss with drawn levels and noise: within 4 standard errors of 10^5 samples."""
    double, generator = AnalyticGaussian(0.0, 0.5, EDM(0.5)), torch.Generator().manual_seed(0)
    x0 = 0.5 * torch.randn(100_000, 1, generator=generator)
    losses = denoising_loss(double, x0, None, generator, LogNormal(), reduction="none")
    # w s^2 sigma^2 / (s^2 + sigma^2) = 1 at every sigma, because sigma_data = s
    assert abs(float(losses.mean()) - 1) < 4 * float(losses.std()) / len(x0) ** 0.5


@pytest.mark.parametrize("precondition", [EDM(0.5), EDM(2.0), Flow()], ids=repr)
@pytest.mark.parametrize("sigma", SIGMAS)
def test_a_fitted_linear_network_is_the_analytic_denoiser(precondition, sigma):
    """Least squares on the loss (one Newton step: it is quadratic) reaches E[x_0|x]; rtol 1e-3 asked, 1e-8 met."""
    network = Affine()
    denoiser = Denoiser(network, precondition)
    x0, eps, weights = _gauss_hermite(-0.6, 1.3)

    def loss(theta):
        call = lambda *args, **kw: torch.func.functional_call(denoiser, {"network.theta": theta}, args, kw)  # noqa: E731
        call.precondition = precondition
        return denoising_errors(call, x0, eps, torch.full((len(x0),), sigma), weights=weights[:, None]).mean()

    start = network.theta.detach()
    gradient, hessian = torch.func.grad(loss)(start), torch.func.hessian(loss)(start)
    network.theta.data = start - torch.linalg.solve(hessian, gradient)
    x = torch.linspace(-4, 4, 9, dtype=torch.float64)[:, None]
    s = float(torch.tensor(sigma, dtype=torch.float32))
    torch.testing.assert_close(denoiser(x, s), AnalyticGaussian(-0.6, 1.3)(x, s), rtol=1e-8, atol=1e-8)


def test_flow_loss_is_the_velocity_error():
    """With Flow the loss is |F(x_t, t) - (eps - x_0)|^2, computed here without the denoiser; rtol 1e-10."""
    network = Affine()
    network.theta.data = torch.tensor([0.3, -0.2], dtype=torch.float64)
    generator = torch.Generator().manual_seed(3)
    x0, eps = torch.randn(2, 6, 4, generator=generator, dtype=torch.float64)
    t = torch.linspace(0.05, 0.95, 6, dtype=torch.float64)[:, None]
    direct = ((network((1 - t) * x0 + t * eps, t) - (eps - x0)) ** 2).mean(1)
    got = denoising_errors(Denoiser(network, Flow()), x0, eps, (t / (1 - t)).flatten())
    torch.testing.assert_close(got, direct, rtol=1e-10, atol=0)


def test_weights_broadcast_over_latitude():
    """Row weights [H, 1] multiply the squared error: a weight on one row alone leaves that row's share."""
    double, generator = AnalyticGaussian(0.0, 1.0), torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 3, 2, 5, 7, generator=generator)
    sigma, weights = torch.tensor([0.1, 1.0, 9.0]), torch.zeros(5, 1)
    weights[2] = 5.0
    whole = denoising_errors(double, x0, eps, sigma, weights=weights)
    row = denoising_errors(double, x0[..., 2:3, :], eps[..., 2:3, :], sigma)
    torch.testing.assert_close(whole, row, rtol=1e-5, atol=0)


def test_loss_is_a_function_of_the_generator():
    """Equal generators give equal bits, the mean is the mean of the single losses, and other seeds differ."""
    double, x0 = AnalyticGaussian(0.0, 1.0), torch.ones(4, 3, 2)
    draw = lambda seed, how: denoising_loss(  # noqa: E731
        double, x0, {}, torch.Generator().manual_seed(seed), LogNormal(), reduction=how
    )
    assert torch.equal(draw(5, "mean"), draw(5, "none").mean())
    assert not torch.equal(draw(5, "mean"), draw(6, "mean"))


def test_wrapped_denoisers_keep_their_preconditioning():
    """A denoiser inside a wrapper with ``.module`` (as distributed training makes) has the same loss."""

    class Wrapper(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, *args, **kw):
            return self.module(*args, **kw)

    bare = Denoiser(Affine(), EDM(0.5))
    x0, eps, sigma = torch.ones(2, 3), torch.zeros(2, 3), torch.ones(2)
    assert torch.equal(denoising_errors(Wrapper(Wrapper(bare)), x0, eps, sigma), denoising_errors(bare, x0, eps, sigma))


def test_levels_follow_their_distribution():
    """ln sigma is N(mean, std^2) and logit t of the straight path is too: moments within 5 standard errors of 10^5."""
    n = 100_000
    for law, mean, std in [(LogNormal(-1.2, 1.2), -1.2, 1.2), (LogitNormal(0.4, 0.9), 0.4, 0.9)]:
        sigma = law(n, torch.Generator().manual_seed(0)).double()
        t = sigma / (1 + sigma)
        logit = torch.log(t / (1 - t))
        assert abs(float(logit.mean()) - mean) < 5 * std / math.sqrt(n)
        assert abs(float(logit.std()) / std - 1) < 5 / math.sqrt(2 * n)


def test_levels_snap_to_the_nearest_of_a_grid():
    """Each drawn level moves to the nearest grid level: no other level of the grid is closer to the draw."""
    grid = karras_sigmas(50).float()
    free, snapped = (LogNormal(levels=g)(500, torch.Generator().manual_seed(1)) for g in (None, grid))
    assert bool(torch.isin(snapped, grid).all())
    assert bool(((snapped - free).abs()[:, None] <= (grid - free[:, None]).abs()).all())


def test_levels_equal_the_reference_draw(shared):
    """Snapped lognormal levels of seed 42 are the 16 grid indices that upstream draws (integers, exact)."""
    from safetensors.torch import load_file

    f = load_file(shared / "fixtures/ladcast/edm.safetensors")
    grid = f["sigmas_1000"][:-1]
    expected = grid[f["noise_sampler_idx_seed42_b16"]]
    assert torch.equal(LogNormal(levels=grid)(16, torch.Generator().manual_seed(42)), expected)
    named = LogNormal(levels=1000)(16, torch.Generator().manual_seed(42))
    torch.testing.assert_close(named, expected, rtol=2e-6, atol=0)


def test_training_step_equals_the_reference(shared):
    """For upstream's denoised batch the loss equals upstream's, with and without latitude weights; rtol 1e-5 fp32."""
    from safetensors.torch import load_file

    f = load_file(shared / "fixtures/ladcast/edm.safetensors")

    class Replay(nn.Module):
        precondition = EDM(0.5)

        def forward(self, x, sigma):
            noisy = f["train_clean"] + f["train_sigma"].view(2, 1, 1, 1, 1) * f["train_noise"]
            torch.testing.assert_close(x, noisy)
            return f["train_denoised"]

    weights = torch.linspace(-83.25, 84.75, 15).deg2rad().cos()
    for row, name in [(None, "train_loss_nolat"), ((weights / weights.mean())[:, None], "train_loss_lat")]:
        loss = denoising_errors(Replay(), f["train_clean"], f["train_noise"], f["train_sigma"], weights=row).mean()
        torch.testing.assert_close(loss, f[name][0], rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: LogNormal(std=-1.0), "std >= 0; got -1.2 and -1.0"),
        (lambda: LogitNormal(mean=math.nan), "finite mean"),
        (
            lambda: denoising_loss(
                AnalyticGaussian(0, 1), torch.ones(1, 1), None, torch.Generator(), LogNormal(), reduction="sum"
            ),
            "reduction must be 'mean' or 'none'; got 'sum'",
        ),
    ],
)
def test_bad_values_are_refused(call, words):
    """A value outside its range is a ValueError that names the rule."""
    with pytest.raises(ValueError, match=words):
        call()


def test_snap_keeps_shape_and_dtype():
    """snap returns one float32 level per draw even from a float64 grid."""
    snapped = snap(torch.tensor([0.9, 79.0]), torch.tensor([80.0, 1.0], dtype=torch.float64))
    assert snapped.tolist() == [1.0, 80.0] and snapped.dtype == torch.float32
