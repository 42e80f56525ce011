"""diffusers schedulers behind our call signature: the same algorithm gives the same samples."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from diffusion.denoiser import AnalyticGaussian, Denoiser
from diffusion.interop import DiffusersSampler
from diffusion.precondition import EDM, Flow
from diffusion.samplers import DPMSolverPP2M, EulerSampler, HeunSampler, build_sampler
from diffusion.schedules import VE, VP, Rectified

schedulers = pytest.importorskip("diffusers.schedulers")
STD = torch.tensor([0.1, 0.5, 1.5])
GAUSSIAN = AnalyticGaussian(torch.tensor([-0.5, 0.2, 0.0]), STD)


class Tanh(nn.Module):
    """A network that is not linear, so that agreement is not an accident of Gaussians."""

    def forward(self, x, c_noise, known):
        return torch.tanh(1.5 * x + c_noise[:, None] + known)


def _noise(batch: int = 6) -> torch.Tensor:
    return torch.randn(batch, 3, generator=torch.Generator().manual_seed(0))


def _edm(**config):
    return schedulers.EDMDPMSolverMultistepScheduler(sigma_min=0.01, sigma_max=50.0, rho=6.0, sigma_data=0.5, **config)


@pytest.mark.parametrize("steps", [2, 4, 8, 20])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_edm_dpm_solver_equals_ours(steps, prediction):
    """EDMDPMSolverMultistepScheduler (midpoint, order 2) = dpmpp_2m on the same grid, nonlinear network; atol 1e-4."""
    denoiser, cond = Denoiser(Tanh(), EDM(0.5)), {"known": torch.tensor([0.3, 0.0, -0.4])}
    theirs = DiffusersSampler(_edm(prediction_type=prediction), steps)
    ours = build_sampler("dpmpp_2m", steps, 0.01, 50.0, 6.0)
    torch.testing.assert_close(theirs(denoiser, _noise(), cond), ours(denoiser, _noise(), cond), rtol=1e-4, atol=1e-4)
    assert theirs.evaluations == ours.evaluations == steps


@pytest.mark.parametrize("steps", [2, 7, 20])
def test_edm_euler_equals_ours(steps):
    """EDMEulerScheduler without churn = euler; atol 1e-4 in float32."""
    denoiser, cond = Denoiser(Tanh(), EDM(0.5)), {"known": torch.zeros(3)}
    theirs = DiffusersSampler(schedulers.EDMEulerScheduler(sigma_min=0.01, sigma_max=50.0, sigma_data=0.5), steps)
    ours = build_sampler("euler", steps, 0.01, 50.0)
    torch.testing.assert_close(theirs(denoiser, _noise(), cond), ours(denoiser, _noise(), cond), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("cls", "method"),
    [("FlowMatchEulerDiscreteScheduler", EulerSampler), ("FlowMatchHeunDiscreteScheduler", HeunSampler)],
)
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_match_equals_ours(cls, method, shift):
    """Flow-match Euler and Heun = ours on the scheduler's own times, from pure noise; atol 1e-4 in float32."""
    scheduler = getattr(schedulers, cls)(shift=shift)
    denoiser, cond = Denoiser(Tanh(), Flow()), {"known": torch.zeros(3)}
    theirs = DiffusersSampler(scheduler, 9)
    scheduler.set_timesteps(9)
    ours = method(torch.unique(scheduler.sigmas.double()).flip(0), Rectified())
    torch.testing.assert_close(theirs(denoiser, _noise(), cond), ours(denoiser, _noise(), cond), rtol=1e-4, atol=1e-4)
    assert theirs.evaluations == ours.evaluations


def test_dpm_solver_on_the_vp_path_equals_ours():
    """DPMSolverMultistepScheduler keeps its samples on the VP path: ours, at its levels, agrees to 1e-4."""
    scheduler = schedulers.DPMSolverMultistepScheduler(use_karras_sigmas=True, prediction_type="v_prediction")
    theirs = DiffusersSampler(scheduler, 16)(GAUSSIAN, _noise())
    scheduler.set_timesteps(16)
    path, levels = VP(), scheduler.sigmas.double()
    ours = DPMSolverPP2M(path.time(levels), path)(GAUSSIAN, _noise())
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)


def test_heun_discrete_equals_ours():
    """HeunDiscreteScheduler with Karras levels = heun on the VE path at its levels; atol 1e-4."""
    scheduler = schedulers.HeunDiscreteScheduler(use_karras_sigmas=True)
    theirs = DiffusersSampler(scheduler, 12)
    scheduler.set_timesteps(12)
    ours = HeunSampler(torch.unique(scheduler.sigmas.double()).flip(0), VE())
    torch.testing.assert_close(theirs(GAUSSIAN, _noise()), ours(GAUSSIAN, _noise()), rtol=1e-4, atol=1e-4)
    assert theirs.evaluations == ours.evaluations == 23


@pytest.mark.parametrize(
    ("cls", "predictions"),
    [
        ("DDIMScheduler", ["epsilon", "sample", "v_prediction"]),
        ("EulerDiscreteScheduler", ["epsilon", "sample", "v_prediction"]),
        ("UniPCMultistepScheduler", ["epsilon", "sample", "v_prediction"]),
        ("DEISMultistepScheduler", ["epsilon", "v_prediction"]),
        ("DPMSolverSinglestepScheduler", ["epsilon", "sample"]),
    ],
)
def test_other_schedulers_sample_the_gaussian(cls, predictions):
    """Any prediction type gives the same samples (1e-4), and 100 steps give the data's spread to 15 % (coarse ends)."""
    config = {"clip_sample": False} if cls == "DDIMScheduler" else {}
    results = [
        DiffusersSampler(getattr(schedulers, cls)(prediction_type=p, **config), 100)(GAUSSIAN, _noise(2000))
        for p in predictions
    ]
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-3, atol=1e-4)
    assert float((results[0].std(0) / STD - 1).abs().max()) < 0.15


def test_calls_leave_no_trace():
    """A second call gives the same bits, and the caller's scheduler is untouched."""
    scheduler = _edm()
    before = scheduler.sigmas.clone()
    sampler = DiffusersSampler(scheduler, 5)
    assert torch.equal(sampler(GAUSSIAN, _noise()), sampler(GAUSSIAN, _noise()))
    assert torch.equal(scheduler.sigmas, before)


def test_variance_noise_comes_from_the_caller():
    """A stochastic solver that takes its noise from outside is reproducible and asks for it once per step."""
    scheduler = schedulers.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++")
    asked: list[int] = []

    def draw(i):
        asked.append(i)
        return torch.randn(6, 3, generator=torch.Generator().manual_seed(i))

    sampler = DiffusersSampler(scheduler, 4)
    assert torch.equal(sampler(GAUSSIAN, _noise(), churn_noise=draw), sampler(GAUSSIAN, _noise(), churn_noise=draw))
    assert asked == [0, 1, 2, 3] * 2


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: DiffusersSampler(schedulers.EulerAncestralDiscreteScheduler(), 4), "draws its own noise"),
        (lambda: DiffusersSampler(schedulers.KDPM2DiscreteScheduler(), 4), "cannot be read from its timesteps"),
        (lambda: DiffusersSampler(_edm(algorithm_type="sde-dpmsolver++"), 4), "use 'dpmsolver\\+\\+'"),
        (lambda: DiffusersSampler(_edm(), 0), "steps must be at least 1"),
    ],
)
def test_unsupported_schedulers_are_refused(build, words):
    """A scheduler whose noise has no address, or whose levels cannot be read, is refused with the reason."""
    with pytest.raises(ValueError, match=words):
        build()
