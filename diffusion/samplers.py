r"""Samplers: numerical solutions of the probability-flow ODE from noise to data.

Along x_t = alpha(t) x_0 + sigma(t) eps the flow is

    dx/dt = alpha'(t) D + sigma'(t) (x - alpha(t) D) / sigma(t),    D = D(x; sigma, alpha),

Karras et al. 2022, Eq. 4. A sampler is called ``sampler(denoiser, noise, cond)`` with unit-normal noise and returns
the sample at the last time of its grid; ``step`` holds the method, the loop is shared. States are float32 or float64;
coefficients are Python floats computed in float64.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffusion.schedules import VE, Rectified, Schedule, karras_sigmas, rectified_times, to_zero

__all__ = [
    "SAMPLERS",
    "Churn",
    "DPMSolverPP2M",
    "DPMSolverPP2S",
    "EulerSampler",
    "HeunSampler",
    "MidpointSampler",
    "Sampler",
    "build_sampler",
]


class Point(NamedTuple):
    """Hold a time of the grid with the path's coefficients there."""

    t: float
    alpha: float
    sigma: float
    slopes: tuple[float, float]

    @property
    def log_ratio(self) -> float:
        """Return lambda = ln(alpha / sigma), infinite at the ends."""
        if self.alpha == 0 or self.sigma == 0:
            return -math.inf if self.alpha == 0 else math.inf
        return math.log(self.alpha / self.sigma)


@dataclass
class Run:
    """Hold what belongs to one call of a sampler: denoiser, conditions, churn noise and the last estimate."""

    denoiser: Callable[..., Tensor]
    cond: Mapping[str, Any]
    churn_noise: Callable[[int], Tensor] | None
    past: Tensor | None = None

    def denoise(self, x: Tensor, at: Point) -> Tensor:
        """Return D(x) in the dtype of the state; ``alpha`` is only mentioned on paths that scale the data."""
        sigma = torch.full(x.shape[:1], at.sigma, dtype=x.dtype, device=x.device)
        if at.alpha == 1:
            return self.denoiser(x, sigma, **self.cond).to(x.dtype)
        return self.denoiser(x, sigma, alpha=torch.full_like(sigma, at.alpha), **self.cond).to(x.dtype)

    def slope(self, x: Tensor, at: Point) -> Tensor:
        """Return dx/dt at a point with sigma > 0."""
        D = self.denoise(x, at)
        return at.slopes[0] * D + at.slopes[1] / at.sigma * (x - at.alpha * D)


class Sampler:
    """Walk down a grid of times with ``step``, the method of the subclass.

    Args:
        times: strictly descending times of ``schedule``, at least two; the last is 0 unless the end may keep noise.
        schedule: the path; ``VE()`` by default, whose time is the noise level.
        dtype: dtype of the state, float32 or float64. The denoiser casts for its network.
    """

    def __init__(
        self, times: Tensor | Sequence[float], schedule: Schedule | None = None, dtype: torch.dtype = torch.float32
    ) -> None:
        self.schedule = VE() if schedule is None else schedule
        self.dtype = dtype
        grid = torch.as_tensor(times, dtype=torch.float64)
        if grid.ndim != 1 or len(grid) < 2 or bool((grid.diff() >= 0).any()) or grid[-1] < 0:
            raise ValueError(f"times must be at least two strictly descending values >= 0; got {grid.tolist()}")
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"a sampler's state is float32 or float64; got {dtype} - only networks may be lower")
        self.points = [self.point(t) for t in grid.tolist()]

    def __call__(
        self,
        denoiser: Callable[..., Tensor],
        noise: Tensor,
        cond: Mapping[str, Any] | None = None,
        churn_noise: Callable[[int], Tensor] | None = None,
    ) -> Tensor:
        """Turn noise into a sample.

        Args:
            denoiser: ``Denoiser`` or any callable ``(x [B, ...], sigma [B], **cond) -> x_0`` (with ``alpha=`` on paths
                that scale the data).
            noise: unit-normal noise [B, ...]; it is scaled by sigma of the first time here.
            cond: keywords of the network.
            churn_noise: fresh unit-normal noise for a step number, shape of ``noise``; only asked when the sampler
                churns.

        Returns:
            Sample [B, ...] in the sampler's dtype.
        """
        run = Run(denoiser, {} if cond is None else cond, churn_noise)
        x = noise.to(self.dtype) * self.points[0].sigma
        for i in range(self.steps):
            x = self.step(run, x, i)
        return x

    @property
    def steps(self) -> int:
        """Return the number of steps."""
        return len(self.points) - 1

    @property
    def evaluations(self) -> int:
        """Return the number of calls of the denoiser per sample."""
        return sum(self.cost(i) for i in range(self.steps))

    def point(self, t: float) -> Point:
        """Return the path's coefficients at time ``t``."""
        time = torch.tensor(t, dtype=torch.float64)
        alpha, sigma, slopes = self.schedule.alpha(time), self.schedule.sigma(time), self.schedule.slopes(time)
        return Point(t, float(alpha), float(sigma), (float(slopes[0]), float(slopes[1])))

    def cost(self, i: int) -> int:
        """Return the number of calls of the denoiser in step ``i``."""
        return 1

    def step(self, run: Run, x: Tensor, i: int) -> Tensor:
        """Move the state from time i to time i + 1."""
        raise NotImplementedError


class EulerSampler(Sampler):
    """First order, one call per step: x' = alpha' D + sigma' eps, which on straight paths is x + (t' - t) dx/dt.

    Song et al. 2021, "Denoising diffusion implicit models", Eq. 12 with no added noise. Exact in alpha and sigma,
    hence the same on all schedules.
    """

    def step(self, run: Run, x: Tensor, i: int) -> Tensor:
        """Keep the estimated data and noise, change their shares."""
        here, there = self.points[i], self.points[i + 1]
        D = run.denoise(x, here)
        return there.alpha * D + there.sigma / here.sigma * (x - here.alpha * D)


@dataclass(frozen=True)
class Churn:
    """Say how much fresh noise each step adds (Karras et al. 2022, Algorithm 2).

    Args:
        amount: S_churn >= 0; 0 is the deterministic sampler.
        low: S_tmin, noise levels below it are not churned.
        high: S_tmax, noise levels above it are not churned.
        scale: S_noise, standard deviation of the new noise, positive.
    """

    amount: float = 0.0
    low: float = 0.0
    high: float = math.inf
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not (self.amount >= 0 and 0 <= self.low <= self.high and self.scale > 0):
            raise ValueError(f"churn needs amount >= 0, 0 <= low <= high and scale > 0; got {self}")

    def gamma(self, sigma: float, steps: int) -> float:
        """Return the relative rise of the noise level, at most sqrt(2) - 1."""
        return min(self.amount / steps, math.sqrt(2) - 1) if self.low <= sigma <= self.high else 0.0


class HeunSampler(Sampler):
    """Second order (trapezoidal), two calls per step and one in a step that ends at sigma = 0; with optional churn.

    Karras et al. 2022, Algorithm 2 (Algorithm 1 without churn): 2 N - 1 calls for N steps to zero.

    Args:
        times: as in ``Sampler``.
        schedule: as in ``Sampler``; churn needs ``VE()``.
        dtype: as in ``Sampler``.
        churn: fresh noise per step; none by default.
    """

    def __init__(
        self,
        times: Tensor | Sequence[float],
        schedule: Schedule | None = None,
        dtype: torch.dtype = torch.float32,
        churn: Churn | None = None,
    ) -> None:
        super().__init__(times, schedule, dtype)
        self.churn = Churn() if churn is None else churn
        if self.churn.amount > 0 and not isinstance(self.schedule, VE):
            raise ValueError(f"churn is defined on the VE path only; got {self.schedule} - set churn to 0")

    def cost(self, i: int) -> int:
        """Return 2, or 1 at the end."""
        return 1 if self.points[i + 1].sigma == 0 else 2

    def step(self, run: Run, x: Tensor, i: int) -> Tensor:
        """Average the slopes at both ends of the step."""
        x, here = self._churned(run, x, i)
        there = self.points[i + 1]
        d = run.slope(x, here)
        end = x + (there.t - here.t) * d
        if there.sigma == 0:
            return end
        return x + (there.t - here.t) * (d + run.slope(end, there)) / 2

    def _churned(self, run: Run, x: Tensor, i: int) -> tuple[Tensor, Point]:
        here = self.points[i]
        gamma = self.churn.gamma(here.sigma, self.steps)
        if gamma == 0:
            return x, here
        if run.churn_noise is None:
            raise ValueError("a sampler with churn needs churn_noise: a function from the step number to unit noise")
        raised = self.point(here.t * (1 + gamma))
        added = self.churn.scale * math.sqrt(raised.sigma**2 - here.sigma**2)
        return x + added * run.churn_noise(i).to(x), raised


class MidpointSampler(Sampler):
    """Second order, two calls per step: the slope is taken in the middle of the step.

    On the straight path it converges with order 3 for Gaussian data.
    """

    def cost(self, i: int) -> int:
        """Return 2."""
        return 2

    def step(self, run: Run, x: Tensor, i: int) -> Tensor:
        """Go half a step with the first slope, then the whole step with the slope found there."""
        here, there = self.points[i], self.points[i + 1]
        middle = self.point((here.t + there.t) / 2)
        half = x + (middle.t - here.t) * run.slope(x, here)
        return x + (there.t - here.t) * run.slope(half, middle)


class DPMSolverPP2M(Sampler):
    """Second order with one call per step: the estimate is extrapolated in lambda from the last two.

    Lu et al. 2022, "DPM-Solver++", Algorithm 2: with h = lambda' - lambda and r = h_last / h, x' = sigma'/sigma x -
    alpha' (e^-h - 1) ((1 + 1/(2r)) D - 1/(2r) D_last). The first step and one that ends at sigma = 0 are of first
    order.
    """

    def step(self, run: Run, x: Tensor, i: int) -> Tensor:
        """Advance the exponential integrator with the extrapolated estimate."""
        here, there = self.points[i], self.points[i + 1]
        D = run.denoise(x, here)
        x = _exponential(x, self._extrapolated(D, run.past, i), here, there)
        run.past = D
        return x

    def _extrapolated(self, D: Tensor, last: Tensor | None, i: int) -> Tensor:
        h = self.points[i + 1].log_ratio - self.points[i].log_ratio
        if last is None or math.isinf(h):
            return D
        h_last = self.points[i].log_ratio - self.points[i - 1].log_ratio
        return D + h / (2 * h_last) * (D - last)


class DPMSolverPP2S(Sampler):
    """Second order with two calls per step: the estimate is taken in the middle in lambda.

    Lu et al. 2022, "DPM-Solver++", Algorithm 1 with r = 1/2. Steps that start at alpha = 0 or end at sigma = 0 are of
    first order (one call).
    """

    def cost(self, i: int) -> int:
        """Return 2, or 1 at the infinite ends of lambda."""
        return 1 if self.points[i].alpha == 0 or self.points[i + 1].sigma == 0 else 2

    def step(self, run: Run, x: Tensor, i: int) -> Tensor:
        """Go to the middle in lambda, then the whole step with the estimate found there."""
        here, there = self.points[i], self.points[i + 1]
        D = run.denoise(x, here)
        if self.cost(i) == 2:
            level = torch.tensor(math.exp(-(here.log_ratio + there.log_ratio) / 2), dtype=torch.float64)
            middle = self.point(float(self.schedule.time(level)))
            D = run.denoise(_exponential(x, D, here, middle), middle)
        return _exponential(x, D, here, there)


SAMPLERS: dict[str, type[Sampler]] = {
    "euler": EulerSampler,
    "heun": HeunSampler,
    "midpoint": MidpointSampler,
    "dpmpp_2m": DPMSolverPP2M,
    "dpmpp_2s": DPMSolverPP2S,
    "flow_euler": EulerSampler,
    "flow_heun": HeunSampler,
    "flow_midpoint": MidpointSampler,
}


def build_sampler(
    name: str,
    steps: int,
    sigma_min: float = 0.002,
    sigma_max: float | None = None,
    rho: float = 7.0,
    *,
    shift: float = 1.0,
    churn: Churn | Mapping[str, float] | float = 0.0,
    dtype: torch.dtype = torch.float32,
) -> Sampler:
    """Build a sampler by name; every one ends at sigma = 0.

    Names without "flow" walk ``steps`` Karras levels from ``sigma_max`` to ``sigma_min`` and then to 0 on the VE path.
    Names with "flow" walk ``steps`` even steps of the straight path from the noise level ``sigma_max`` to 0, where
    ``sigma_min`` and ``rho`` have no meaning.

    Args:
        name: a key of ``SAMPLERS``; "-" counts as "_".
        steps: number of steps, at least 1.
        sigma_min: last noise level before 0.
        sigma_max: first noise level; 80 by default, and infinity (pure noise) for "flow" names.
        rho: spacing of the Karras levels.
        shift: factor on the noise levels inside the straight path.
        churn: fresh noise for "heun": the amount, or the fields of ``Churn``.
        dtype: dtype of the state.

    Returns:
        The sampler; its ``evaluations`` tell the cost.

    Raises:
        ValueError: an unknown name, a value outside its range, or churn with a sampler that has none.
    """
    key = name.lower().replace("-", "_")
    if key not in SAMPLERS:
        near = "".join(f" - did you mean {n!r}?" for n in difflib.get_close_matches(key, SAMPLERS, n=1, cutoff=0.4))
        raise ValueError(f"unknown sampler {name!r}; use one of {', '.join(SAMPLERS)}{near}")
    schedule: Schedule
    if key.startswith("flow_"):
        schedule, times = Rectified(), rectified_times(steps, math.inf if sigma_max is None else sigma_max, shift)
    else:
        schedule, times = VE(), to_zero(karras_sigmas(steps, sigma_min, 80.0 if sigma_max is None else sigma_max, rho))
    fresh = _churn(churn)
    if key.endswith("heun"):
        return HeunSampler(times, schedule, dtype, fresh)
    if fresh.amount > 0:
        raise ValueError(f"sampler {name!r} does not churn; use 'heun' or set churn to 0")
    return SAMPLERS[key](times, schedule, dtype)


def _churn(value: Churn | Mapping[str, float] | float) -> Churn:
    if isinstance(value, Churn):
        return value
    if not isinstance(value, Mapping):
        return Churn(amount=value)
    known = set(Churn.__dataclass_fields__)
    if unknown := sorted(set(value) - known):
        raise ValueError(f"unknown churn setting {unknown[0]!r}; use {', '.join(sorted(known))}")
    return Churn(**value)


def _exponential(x: Tensor, D: Tensor, here: Point, there: Point) -> Tensor:
    """Solve the linear part exactly with D held fixed: sigma'/sigma x - alpha' (e^-h - 1) D, h = lambda' - lambda."""
    return there.sigma / here.sigma * x - there.alpha * math.expm1(here.log_ratio - there.log_ratio) * D
