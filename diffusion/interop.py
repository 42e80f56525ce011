r"""Drive any deterministic diffusers scheduler with a denoiser of this package.

A diffusers scheduler asks for the raw output of the network it was made for (noise, v, velocity, or the EDM network)
in coordinates of its own. The adapter reads alpha and sigma of each step from the scheduler, calls ``denoiser(x,
sigma, alpha)`` for the estimate of x_0, and expresses that estimate as the output which the scheduler will turn back
into it.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from diffusion.precondition import TargetKind, from_data
from diffusion.samplers import Point, Run

__all__ = ["DiffusersSampler"]

_KINDS: dict[str, TargetKind] = {
    "epsilon": "eps",
    "sample": "x",
    "original_sample": "x",
    "v_prediction": "v",
    "flow_prediction": "flow",
}
_STOCHASTIC = ("Ancestral", "SDE", "DDPM", "LCM", "TCD", "Consistency", "RePaint", "UnCLIP", "SASolver")
_MISALIGNED = ("KDPM2", "IPNDM", "PNDM", "Inverse")  # their sigmas do not match their timesteps one to one


class DiffusersSampler:
    """Call a diffusers scheduler like a ``Sampler``: ``sampler(denoiser, noise, cond)`` with unit-normal noise.

    The initial state is sigma_0 times the noise, as in this package, not the scheduler's ``init_noise_sigma``.

    Args:
        scheduler: scheduler whose step adds no noise (or takes it as ``variance_noise``): EDM, flow-match, DPM-Solver,
            UniPC, DEIS, Euler, Heun, LMS, DDIM.
        steps: number handed to its ``set_timesteps``.
        settings: more keywords for ``set_timesteps`` (``mu``, ``sigmas``).

    Raises:
        ValueError: a scheduler that draws its own noise, one whose noise levels cannot be read, or steps < 1.
    """

    def __init__(self, scheduler: Any, steps: int, settings: Mapping[str, Any] | None = None) -> None:
        if steps < 1:
            raise ValueError(f"steps must be at least 1; got {steps}")
        self.takes_noise = "variance_noise" in inspect.signature(scheduler.step).parameters
        _check_supported(scheduler, self.takes_noise)
        self.scheduler = scheduler
        self.steps = steps
        self.settings = dict(settings or {})

    def __call__(
        self,
        denoiser: Callable[..., Tensor],
        noise: Tensor,
        cond: Mapping[str, Any] | None = None,
        churn_noise: Callable[[int], Tensor] | None = None,
    ) -> Tensor:
        """Turn noise into a sample with the scheduler's own steps.

        Args:
            denoiser: as for ``Sampler``.
            noise: unit-normal noise [B, ...].
            cond: keywords of the network.
            churn_noise: noise for a step number, for schedulers that take ``variance_noise``.

        Returns:
            Sample [B, ...], float32.
        """
        scheduler = self._prepared(noise.device)
        run = Run(denoiser, {} if cond is None else cond, churn_noise)
        x = noise.to(torch.float32) * _point(scheduler, 0).sigma
        for i, t in enumerate(scheduler.timesteps):
            at = _point(scheduler, i)
            if hasattr(scheduler, "scale_model_input"):
                scheduler.scale_model_input(x, t)  # only marks the call; the denoiser scales its own input
            output = _network_output(scheduler, run.denoise(x, at), x, at)
            extra = {"variance_noise": churn_noise(i).to(x)} if self.takes_noise and churn_noise is not None else {}
            x = scheduler.step(output, t, x, return_dict=False, **extra)[0]
        return x

    @property
    def evaluations(self) -> int:
        """Return the number of calls of the denoiser per sample."""
        return len(self._prepared(torch.device("cpu")).timesteps)

    def _prepared(self, device: torch.device) -> Any:
        """Copy the scheduler, so that one call leaves no trace for the next."""
        scheduler = copy.deepcopy(self.scheduler)
        scheduler.set_timesteps(self.steps, device=device, **self.settings)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)
        return scheduler


def _point(scheduler: Any, i: int) -> Point:
    """Read alpha and sigma of step ``i`` in the coordinates of the scheduler's samples."""
    if not hasattr(scheduler, "sigmas"):
        kept = float(scheduler.alphas_cumprod[int(scheduler.timesteps[i])])
        return _plain(kept**0.5, (1 - kept) ** 0.5)
    sigma = float(scheduler.sigmas[i])
    if _is_flow(scheduler):
        return _plain(1 - sigma, sigma)
    if hasattr(scheduler, "_sigma_to_alpha_sigma_t") and not _is_edm(scheduler):
        alpha, scaled = scheduler._sigma_to_alpha_sigma_t(torch.tensor(sigma, dtype=torch.float64))
        return _plain(float(alpha), float(scaled))
    return _plain(1.0, sigma)


def _network_output(scheduler: Any, x0: Tensor, x: Tensor, at: Point) -> Tensor:
    """Express the estimate of x_0 as the network output that the scheduler converts back into it."""
    if _is_edm(scheduler):
        sd, sign = scheduler.config.sigma_data, -1.0 if scheduler.config.prediction_type == "v_prediction" else 1.0
        total = at.sigma**2 + sd**2
        return sign * (x0 - sd**2 / total * x) * total**0.5 / (at.sigma * sd)
    kind: TargetKind = "flow" if _is_flow_match(scheduler) else _KINDS[scheduler.config.prediction_type]
    norm = 1.0 if kind == "flow" else (at.alpha**2 + at.sigma**2) ** 0.5  # "v" is defined on the unit circle
    alpha, sigma = x.new_tensor(at.alpha / norm), x.new_tensor(at.sigma / norm)
    return from_data(kind, x0, x / norm, alpha, sigma)


def _is_edm(scheduler: Any) -> bool:
    return hasattr(scheduler, "precondition_outputs")


def _is_flow_match(scheduler: Any) -> bool:
    return type(scheduler).__name__.startswith("FlowMatch")


def _is_flow(scheduler: Any) -> bool:
    return _is_flow_match(scheduler) or bool(scheduler.config.get("use_flow_sigmas", False))


def _plain(alpha: float, sigma: float) -> Point:
    return Point(sigma, alpha, sigma, (0.0, 0.0))


def _check_supported(scheduler: Any, takes_noise: bool) -> None:
    name, algorithm = type(scheduler).__name__, str(scheduler.config.get("algorithm_type", ""))
    fix = "use an EDM, flow-match, DPM-Solver, Euler, Heun or DDIM scheduler"
    if any(word in name for word in _MISALIGNED):
        raise ValueError(f"the noise levels of {name} cannot be read from its timesteps; {fix}")
    if any(word in name for word in _STOCHASTIC):
        raise ValueError(f"{name} draws its own noise, so its samples would not be reproducible; {fix}")
    if algorithm.startswith("sde") and not takes_noise:
        raise ValueError(f"{name} with algorithm_type={algorithm!r} draws its own noise; use 'dpmsolver++'")
