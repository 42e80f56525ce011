"""Parity with the original LaDCast (arXiv 2506.09193): its sampling, faults included, for comparison with its output.

What the original does, and `gen sample --parity` repeats:

- the deterministic second-order solver of Karras et al. 2022, Algorithm 1, on N = 20 of their noise levels from 80 to
  0.002, rounded to float32 as the original holds them: 2 N - 1 = 39 evaluations; the state is float64, the network is
  called in float32;
- the noise of member k comes from torch's CPU generator with seed k, started anew in every call and for every start
  date: a member carries one and the same noise through all lead times and dates, and a seed changes nothing;
- call m is told the date of the start plus m times the length of a call (24 h), and continues from the last frame.

The original also held dates in float32 when it wrote them, so that 2018010100 became 2018010112; dates are exact here.
Its ensembles crash where their size is a multiple of its batch of 64 (a trailing batch is empty) or, from the second
call on, above 64 (the condition is not cut to the batch); any size works here.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["STEPS", "check_parity", "noise_levels", "parity_noise", "parity_sampler"]

import torch
from torch import Tensor

from diffusion.samplers import HeunSampler, Sampler

STEPS = 20
SIGMA_MIN, SIGMA_MAX, RHO = 0.002, 80.0, 7.0


def noise_levels(steps: int) -> Tensor:
    """Return the noise levels of the original, float32 [steps + 1], computed in float32; the last is 0.

    Karras et al. 2022, Eq. 5; in float32 the first of them is 79.99998.
    """
    low, high = SIGMA_MIN ** (1 / RHO), SIGMA_MAX ** (1 / RHO)
    levels = (high + torch.linspace(0, 1, steps) * (low - high)) ** RHO
    return torch.cat([levels, torch.zeros(1)])


def parity_sampler(steps: int | None = None) -> Sampler:
    """Return the original's solver; 20 steps unless told otherwise."""
    return HeunSampler(noise_levels(steps or STEPS).double(), dtype=torch.float64)


def parity_noise(shape: Sequence[int], members: Sequence[int]) -> Tensor:
    """Return the original's initial noise, float32 [members, *shape]: member k draws from a CPU generator seeded k."""
    return torch.stack([torch.randn(tuple(shape), generator=torch.Generator().manual_seed(int(k))) for k in members])


def check_parity(target: str, sampler: str | None, dtype: str) -> None:
    """Raise ValueError unless the model and the wishes leave the original's sampling as it is."""
    if target != "states":
        raise ValueError("--parity repeats LaDCast's own sampling; this model draws increments, not states")
    if sampler not in (None, "heun"):
        raise ValueError(f"--parity fixes the sampler to the original's heun; got {sampler!r} - leave --sampler out")
    if dtype == "bfloat16":
        raise ValueError("--parity needs --dtype float32, in which the original samples; got 'bfloat16'")
