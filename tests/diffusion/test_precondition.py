"""Preconditioning: the identities of Karras et al. 2022, appendix B.6, and the algebra of prediction targets."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion.precondition import EDM, Flow, convert, from_data, target, to_data
from diffusion.schedules import VE, VP, Rectified, noise_level

KINDS = ["x", "eps", "v", "flow"]
SIGMAS = torch.tensor([0.002, 0.1, 1.0, 80.0], dtype=torch.float64)
PATHS = [VE(), VP(), Rectified()]
times = st.floats(1e-3, 0.999).map(lambda t: torch.tensor(t, dtype=torch.float64))


@pytest.mark.parametrize("sigma_data", [0.5, 1.0, 3.0])
def test_edm_identities_in_closed_form(sigma_data):
    """Var(c_in y) = 1, Var((x_0 - c_skip y) / c_out) = 1 and w c_out^2 = 1 for data of variance sd^2; 1e-12."""
    c = EDM(sigma_data).coefficients(SIGMAS)
    one = torch.ones_like(SIGMAS)
    input_variance = c.inp**2 * (sigma_data**2 + SIGMAS**2)
    target_variance = ((1 - c.skip) ** 2 * sigma_data**2 + c.skip**2 * SIGMAS**2) / c.out**2
    torch.testing.assert_close(input_variance, one, rtol=1e-12, atol=0)
    torch.testing.assert_close(target_variance, one, rtol=1e-12, atol=0)
    torch.testing.assert_close(EDM(sigma_data).weight(SIGMAS) * c.out**2, one, rtol=1e-14, atol=0)
    torch.testing.assert_close(c.noise, SIGMAS.log() / 4)


def test_edm_identities_on_samples():
    """The same variances measured on 10^6 samples: within 0.7 % = 5 standard errors (sqrt(2/10^6) = 0.14 %)."""
    generator = torch.Generator().manual_seed(0)
    x0, eps = 0.5 * torch.randn(10**6, generator=generator), torch.randn(10**6, generator=generator)
    for sigma in SIGMAS.float():
        c = EDM(0.5).coefficients(sigma)
        y = x0 + sigma * eps
        assert abs(float((c.inp * y).var()) - 1) < 0.007
        assert abs(float(((x0 - c.skip * y) / c.out).var()) - 1) < 0.007


@pytest.mark.parametrize("precondition", [EDM(0.5), EDM(2.0), Flow(), Flow(1000.0)], ids=repr)
@settings(max_examples=20)
@given(t=times, path=st.sampled_from(PATHS))
def test_coefficients_do_not_depend_on_the_path(precondition, t, path):
    """On a path that scales the data by alpha, c_in x, D and c_noise are those of x / alpha at sigma / alpha; 1e-10."""
    alpha, sigma = path.alpha(t), path.sigma(t)
    scaled, plain = precondition.coefficients(sigma, alpha), precondition.coefficients(noise_level(path, t))
    pairs = zip((scaled.skip * alpha, scaled.out, scaled.inp * alpha, scaled.noise), plain, strict=True)
    for got, expected in pairs:
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


def test_flow_is_finite_at_pure_noise():
    """At alpha = 0 the straight path is an ordinary point: input x, D = x - u, time 1."""
    c = Flow().coefficients(torch.tensor(1.0), 0.0)
    assert [float(v) for v in c] == [1.0, -1.0, 1.0, 1.0]


@settings(max_examples=20)
@given(t=times)
def test_flow_network_sees_the_straight_path(t):
    """c_in (x_0 + sigma eps) = (1 - t) x_0 + t eps, and the perfect network eps - x_0 makes D = x_0; 1e-10."""
    x0, eps = torch.tensor(0.7, dtype=torch.float64), torch.tensor(-1.3, dtype=torch.float64)
    sigma = t / (1 - t)
    c = Flow().coefficients(sigma)
    x = x0 + sigma * eps
    torch.testing.assert_close(c.inp * x, (1 - t) * x0 + t * eps, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(c.skip * x + c.out * (eps - x0), x0, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(Flow().weight(sigma) * c.out**2, torch.ones_like(t), rtol=1e-12, atol=0)


@settings(max_examples=20)
@given(t=times)
def test_edm_for_unit_data_predicts_minus_v(t):
    """EDM with sd = 1 is v prediction on the VP path with the sign turned: D = to_data("v", -F); 1e-10."""
    alpha, sigma = VP().alpha(t), VP().sigma(t)
    x, F = torch.tensor(0.4, dtype=torch.float64), torch.tensor(-0.9, dtype=torch.float64)
    c = EDM(1.0).coefficients(sigma, alpha)
    torch.testing.assert_close(c.inp, torch.ones_like(t), rtol=1e-12, atol=0)
    torch.testing.assert_close(c.skip * x + c.out * F, to_data("v", -F, x, alpha, sigma), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", PATHS, ids=repr)
@settings(max_examples=20)
@given(t=times)
def test_targets_recover_the_data(path, kind, t):
    """to_data(target(x_0, eps)) = x_0 and from_data is its inverse, for every path and kind; rtol 1e-10 in float64."""
    generator = torch.Generator().manual_seed(1)
    x0, eps = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    alpha, sigma = path.alpha(t), path.sigma(t)
    x, value = alpha * x0 + sigma * eps, target(kind, x0, eps, alpha, sigma)
    torch.testing.assert_close(to_data(kind, value, x, alpha, sigma), x0, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(from_data(kind, x0, x, alpha, sigma), value, rtol=1e-10, atol=1e-11)


@given(t=st.floats(0.02, 0.98), path=st.sampled_from(PATHS), source=st.sampled_from(KINDS), to=st.sampled_from(KINDS))
def test_conversions_round_trip(t, path, source, to):
    """Any value survives x -> eps -> v -> flow and back, in every order; rtol 1e-10 (condition <= 50 at these t)."""
    t = torch.tensor(t, dtype=torch.float64)
    alpha, sigma = path.alpha(t), path.sigma(t)
    generator = torch.Generator().manual_seed(2)
    value, x = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    there = convert(source, to, value, x, alpha, sigma)
    torch.testing.assert_close(convert(to, source, there, x, alpha, sigma), value, rtol=1e-10, atol=1e-10)


def test_preconditioning_equals_the_reference(shared):
    """c_skip x + c_out F and c_noise equal diffusers' EDM preconditioning; rtol 1e-6 (float32 reference)."""
    from safetensors.torch import load_file

    f = load_file(shared / "fixtures/ladcast/edm.safetensors")
    c = EDM(0.5).coefficients(f["prec_sigma"])
    torch.testing.assert_close(c.inp * f["prec_x"], f["prec_in"], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(c.skip * f["prec_x"] + c.out * f["prec_F"], f["prec_out"], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(c.noise, f["prec_cnoise"], rtol=1e-6, atol=1e-6)
    levels = EDM(0.5).coefficients(f["sigmas_1000"][:-1]).noise
    torch.testing.assert_close(levels, f["cnoise_1000"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: EDM(0.0), "sigma_data must be positive; got 0.0"),
        (lambda: Flow(-1.0), "time_scale must be positive"),
        (lambda: to_data("velocity", *torch.ones(4)), "unknown target 'velocity'"),
        (lambda: target("", *torch.ones(4)), "unknown target ''"),
        (lambda: EDM(math.nan), "sigma_data must be positive"),
    ],
)
def test_bad_values_are_refused(call, words):
    """A value outside its range is a ValueError that names the rule."""
    with pytest.raises(ValueError, match=words):
        call()
