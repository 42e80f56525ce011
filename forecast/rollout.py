"""Autoregressive rollout in latent space, as a stream.

The noise of every latent frame has an address (seed, member, valid time, start time), so a member is the same whatever
the other members, the block size, the process or a restart. Each call, member and start has noise of its own; the
original LaDCast uses the same for all calls and starts of a member (`forecast.parity`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

__all__ = ["frame_noise", "rollout"]

import torch
from torch import Tensor

from forecast.model import ForecastModel
from forecast.parity import parity_noise
from gen.seeding import Address, normal


def frame_noise(
    shape: Sequence[int],
    seed: int,
    members: Sequence[int],
    inits: Sequence[int],
    leads: Sequence[int],
    stream: str = "diffusion",
) -> Tensor:
    """Return unit normal noise [rows, C, T, h, w] for one block of frames.

    Args:
        shape: (C, h, w).
        seed: the ensemble's seed.
        members: member number of every row.
        inits: start time of every row, hours since 1970-01-01.
        leads: hours from the start to each of the T frames.
        stream: purpose of the noise.
    """
    per_row = [
        torch.stack([normal(tuple(shape), Address(seed, m, init + lead, f"{stream}/{init}")) for lead in leads], dim=1)
        for m, init in zip(members, inits, strict=True)
    ]
    return torch.stack(per_row)


@torch.no_grad()
def rollout(
    model: ForecastModel,
    z: Tensor,
    inits: Sequence[int],
    members: Sequence[int],
    calls: int,
    seed: int,
    sampler: Any,
    parity: bool = False,
) -> Iterator[Tensor]:
    """Yield `calls` blocks of latents [rows, T, C, h, w].

    Args:
        model: the forecast model; its device is used.
        z: the start latents [rows, C, h, w].
        inits: start time of every row, hours since 1970-01-01.
        members: member number of every row.
        calls: number of blocks of `model.meta.frames` frames.
        seed: the ensemble's seed.
        sampler: a sampler of `diffusion.samplers`.
        parity: draw the original LaDCast's noise, in which neither seed, call nor start has a say.
    """
    step, frames = model.meta.step_hours, model.meta.frames
    (channels, *place), device = z.shape[1:], z.device
    for call in range(calls):
        elapsed = call * frames * step
        leads = [elapsed + step * (k + 1) for k in range(frames)]

        def fresh(stream: str, leads: list[int] = leads) -> Tensor:
            return frame_noise((channels, *place), seed, members, inits, leads, stream).to(device)

        noise = parity_noise((channels, frames, *place), members).to(device) if parity else fresh("diffusion")
        hours = torch.tensor([init + elapsed for init in inits], dtype=torch.int64).to(device)
        block = model.advance(z, hours, noise, sampler, lambda number, fresh=fresh: fresh(f"churn{number}"))
        yield block
        z = block[:, -1]
