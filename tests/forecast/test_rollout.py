"""forecast.rollout: noise has an address, trajectories are streams."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from diffusion.samplers import build_sampler
from forecast.model import ForecastModel
from forecast.rollout import frame_noise, rollout

SHAPE, INIT, TIMES = (3, 4, 8), 438288, (438294, 438300)


@pytest.fixture(scope="module")
def model(workshop: Path) -> ForecastModel:
    return ForecastModel.load(workshop / "model")


def trajectory(
    model: ForecastModel, members: list[int], calls: int = 3, seed: int = 0, churn: float = 0.0
) -> torch.Tensor:
    """Return latents [members, calls * frames, C, h, w] from one start."""
    start = torch.randn(1, 16, 4, 8, generator=torch.Generator().manual_seed(5)).expand(len(members), -1, -1, -1)
    sampler = build_sampler("heun", 3, sigma_min=0.1, sigma_max=10.0, churn=churn)
    return torch.cat(list(rollout(model, start, [INIT] * len(members), members, calls, seed, sampler)), dim=1)


def noise(
    shape: tuple[int, ...],
    seed: int,
    members: Sequence[int],
    init: int,
    times: Sequence[int],
    stream: str = "diffusion",
) -> torch.Tensor:
    """Return the noise of members of one start at valid times."""
    return frame_noise(shape, seed, members, [init] * len(members), [t - init for t in times], stream)


def test_noise_is_the_same_however_members_are_grouped() -> None:
    """Bits of a member's noise depend neither on its block nor on the other frames of the call."""
    whole = noise(SHAPE, 0, range(8), INIT, TIMES)
    assert whole.shape == (8, 3, 2, 4, 8) and whole.dtype == torch.float32
    for size in (1, 3, 5):
        parts = [noise(SHAPE, 0, range(a, min(a + size, 8)), INIT, TIMES) for a in range(0, 8, size)]
        assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(noise(SHAPE, 0, [7], INIT, TIMES[1:])[:, :, 0], whole[7:, :, 1])


def test_noise_of_other_addresses_is_other_noise() -> None:
    """Seed, member, start, valid time and stream each give independent numbers: correlations below 5 / sqrt(n)."""
    shape = (8, 16, 32)
    first = noise(shape, 0, [0], INIT, TIMES[:1])
    others = [
        noise(shape, 1, [0], INIT, TIMES[:1]),
        noise(shape, 0, [1], INIT, TIMES[:1]),
        noise(shape, 0, [0], INIT + 6, TIMES[:1]),
        noise(shape, 0, [0], INIT, TIMES[1:]),
        noise(shape, 0, [0], INIT, TIMES[:1], "churn0"),
    ]
    bound = 5 / first.numel() ** 0.5
    assert abs(float(first.mean())) < bound and abs(float(first.std()) - 1) < bound
    assert all(abs(float((first * other).mean())) < bound for other in others)


def test_a_trajectory_is_a_chain(model: ForecastModel) -> None:
    """Each call starts from the last state of the call before, at its valid time, and a longer run keeps the bits."""
    long, short = trajectory(model, [0, 1], calls=3), trajectory(model, [0, 1], calls=1)
    assert torch.equal(long[:, :2], short)
    sampler = build_sampler("heun", 3, sigma_min=0.1, sigma_max=10.0)
    now = INIT + 12
    fresh = noise((16, 4, 8), 0, [0, 1], INIT, [now + 6, now + 12])
    with torch.no_grad():
        again = model.advance(long[:, 1], torch.full((2,), now, dtype=torch.int64), fresh, sampler)
    assert torch.equal(again, long[:, 2:4])


def test_rows_are_members(model: ForecastModel) -> None:
    """In blocks of the same size a member has the same bits in any row; alone it agrees to rounding (1e-4 of unit)."""
    block = trajectory(model, [4, 5, 6, 7])
    assert torch.equal(trajectory(model, [7, 6, 5, 4]).flip(0), block)
    assert torch.equal(trajectory(model, [0, 7, 1, 2])[1], block[3])
    torch.testing.assert_close(trajectory(model, [7])[0], block[3], rtol=0, atol=1e-4)
    assert float((block[0] - block[1]).std()) > 0.01


def test_churn_is_addressed_too(model: ForecastModel) -> None:
    """A stochastic sampler gives the same member in any block, another one with another seed."""
    block = trajectory(model, [0, 1, 2], churn=10.0)
    assert torch.equal(trajectory(model, [2, 8, 9], churn=10.0)[0], block[2])
    assert not torch.equal(block, trajectory(model, [0, 1, 2]))
    assert not torch.equal(block[0], trajectory(model, [0, 1, 2], seed=1, churn=10.0)[0])
