"""Autoregressive rollout in latent space, as a stream.

The noise of every latent frame has an address (seed, member, valid time, start time), so a member is the same whatever
the other members, the block size, the process or a restart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

__all__ = ["frame_noise", "rollout"]

import torch
from torch import Tensor

from forecast.model import ForecastModel
from gen.seeding import Address, normal


def frame_noise(
    shape: Sequence[int], seed: int, members: Sequence[int], init: int, times: Sequence[int], stream: str = "diffusion"
) -> Tensor:
    """Return unit normal noise [members, C, T, h, w] for one block of frames; `shape` is (C, h, w)."""
    per_member = [
        torch.stack([normal(tuple(shape), Address(seed, m, t, f"{stream}/{init}")) for t in times], dim=1)
        for m in members
    ]
    return torch.stack(per_member)


@torch.no_grad()
def rollout(
    model: ForecastModel, z: Tensor, init: int, members: Sequence[int], calls: int, seed: int, sampler: Any
) -> Iterator[Tensor]:
    """Yield `calls` blocks of latents [members, T, C, h, w].

    Args:
        model: the forecast model; its device is used.
        z: the start latents [members, C, h, w].
        init: the start time, hours since 1970-01-01.
        members: member numbers, one per row of `z`.
        calls: number of blocks of `model.meta.frames` frames.
        seed: the ensemble's seed.
        sampler: a sampler of `diffusion.samplers`.
    """
    step, frames = model.meta.step_hours, model.meta.frames
    shape, device = tuple(z.shape[1:]), z.device
    for call in range(calls):
        now = init + call * frames * step
        times = [now + step * (k + 1) for k in range(frames)]

        def churn(number: int, times: list[int] = times) -> Tensor:
            return frame_noise(shape, seed, members, init, times, f"churn{number}").to(device)

        noise = frame_noise(shape, seed, members, init, times).to(device)
        hours = torch.full((len(members),), now, dtype=torch.int64, device=device)
        block = model.advance(z, hours, noise, sampler, churn)
        yield block
        z = block[:, -1]
