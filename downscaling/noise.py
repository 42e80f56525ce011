r"""Noise of rain fields by global address: the same pixel at the same time gets the same numbers in any crop.

Pixels are gathered in blocks of 64 x 64; the unit normals of a block are a function of seed, member, minute, block row
and block column (`gen.seeding`). In time the noise is an Ornstein-Uhlenbeck process with the correlation

    rho(dt) = 2^(-dt / half_life),

whose value at any minute is a fixed sum of about twenty addressed innovations, so that it does not depend on where a
run starts or which times it draws. Anchors stand a power of two of minutes apart, at least four half-lives, and are
an autoregressive sum over four innovations; between two values z0 and z1 the bridge

    z = [a (1 - b^2) z0 + b (1 - a^2) z1] / (1 - c^2) + sqrt[(1 - a^2)(1 - b^2) / (1 - c^2)] e,
    a = rho(t - t0), b = rho(t1 - t), c = a b,

is halved until the minute is reached (the conditional law of a Gaussian Markov process).
"""

from __future__ import annotations

__all__ = ["BLOCK", "innovations", "noise_field"]

import numpy as np
import torch
from torch import Tensor

from gen.seeding import Address, normal

BLOCK = 64
CHANNELS = 2
ANCHOR_HALF_LIVES = 4.0
ANCHOR_TERMS = 4
STREAM = "downscaling"

Sum = dict[int, float]  # minute of an innovation -> its weight


def innovations(minute: int, half_life_hours: float) -> Sum:
    """Return the innovations (by their minute since 1970) of which the noise at a minute is the weighted sum.

    The squares of the weights sum to one. A half-life of zero makes all minutes independent.
    """
    if half_life_hours <= 0:
        return {minute: 1.0}
    half = 60.0 * half_life_hours
    span = 1
    while span < ANCHOR_HALF_LIVES * half:
        span *= 2
    low = minute // span * span
    high, z0, z1 = low + span, _anchor(low, span, half), _anchor(low + span, span, half)
    while minute != low:
        middle = (low + high) // 2
        z = _bridge(z0, z1, 2.0 ** ((low - middle) / half), middle)
        if minute < middle:
            high, z1 = middle, z
        else:
            low, z0 = middle, z
    norm = float(np.sqrt(sum(w * w for w in z0.values())))
    return {m: w / norm for m, w in z0.items()}


def noise_field(
    rows: range,
    columns: range,
    seed: int,
    member: int,
    weights: Sum,
    period: int | None = None,
    channels: int = CHANNELS,
) -> Tensor:
    """Return unit normals [channels, H, W] of pixels (or latent cells) by their global numbers.

    Args:
        rows: numbers of the rows.
        columns: numbers of the columns.
        seed: of the run.
        member: of the ensemble.
        weights: from `innovations`.
        period: columns of a full circle, after which the numbers repeat.
        channels: of the noise.
    """
    places = np.arange(columns.start, columns.stop) % period if period else np.arange(columns.start, columns.stop)
    out = torch.zeros(channels, len(rows), len(columns), dtype=torch.float64)
    for i in range(rows.start // BLOCK, (rows.stop - 1) // BLOCK + 1):
        first, last = max(rows.start, i * BLOCK), min(rows.stop, (i + 1) * BLOCK)
        for j in np.unique(places // BLOCK):
            here = np.flatnonzero(places // BLOCK == j)
            block = torch.zeros(channels, BLOCK, BLOCK, dtype=torch.float64)
            for minute, weight in weights.items():
                address = Address(seed, member, minute // 60, STREAM, (minute % 60, i, int(j)))
                block += weight * normal((channels, BLOCK, BLOCK), address)
            part = block[:, first - i * BLOCK : last - i * BLOCK]
            out[:, first - rows.start : last - rows.start, here] = part[..., places[here] - int(j) * BLOCK]
    return out.float()


def _anchor(minute: int, span: int, half: float) -> Sum:
    phi = 2.0 ** (-span / half)
    terms = {minute - j * span: phi**j for j in range(ANCHOR_TERMS)}
    norm = float(np.sqrt(sum(w * w for w in terms.values())))
    return {m: w / norm for m, w in terms.items()}


def _bridge(z0: Sum, z1: Sum, a: float, minute: int) -> Sum:
    """Return the value in the middle, where a = b."""
    share = a * (1 - a * a) / (1 - a**4)
    fresh = float(np.sqrt((1 - a * a) ** 2 / (1 - a**4)))
    sums = {m: share * (z0.get(m, 0.0) + z1.get(m, 0.0)) for m in z0.keys() | z1.keys()}
    return {**{m: sums[m] for m in sorted(sums)}, minute: fresh}
