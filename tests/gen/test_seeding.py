"""Noise by address: exact, unique, normal, and independent of everything but the address."""

from __future__ import annotations

import itertools
import math
import multiprocessing

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gen.seeding import Address, derive_seed, normal, step_generator

HERE = Address(seed=7, member=3, time=473352)
MASK = 2**64 - 1
GOLDEN_HERE = [-0.8907126784324646, -0.4610646367073059, 0.4282829463481903, 0.18970902264118195]
GOLDEN_BLOCK = [1.4452617168426514, 3.211439609527588, -0.2904246747493744, -0.1576252579689026]


def philox(key: tuple[int, int], words: int) -> list[int]:
    """Philox-4x64 with ten rounds in integers (Salmon et al. 2011, section 3.3); counters start at 1 as in numpy."""
    out: list[int] = []
    for counter in itertools.count(1):
        x, (k0, k1) = [counter, 0, 0, 0], key
        for _ in range(10):
            a, b = x[0] * 0xD2E7470EE14C6C93, x[2] * 0xCA5A826395121157
            x = [(b >> 64) ^ x[1] ^ k0, b & MASK, (a >> 64) ^ x[3] ^ k1, a & MASK]
            k0, k1 = (k0 + 0x9E3779B97F4A7C15) & MASK, (k1 + 0xBB67AE8584CAA73B) & MASK
        out += x
        if len(out) >= words:
            return out[:words]
    raise AssertionError


def box_muller(words: list[int]) -> list[float]:
    """Two normals from each two words, with Python's own logarithm and cosine."""
    out = []
    for a, b in zip(words[::2], words[1::2], strict=True):
        radius = math.sqrt(-2.0 * math.log(((a >> 11) + 1) / 2**53))
        angle = 2.0 * math.pi * ((b >> 11) / 2**53)
        out += [radius * math.cos(angle), radius * math.sin(angle)]
    return out


def test_noise_is_philox_and_box_muller() -> None:
    """The numbers equal an independent implementation from integers; 1e-6 is a float32 rounding of values below 8."""
    expected = box_muller(philox(HERE.key(), 64))
    np.testing.assert_allclose(normal((64,), HERE).numpy(), expected, rtol=0, atol=1e-6)


def test_noise_never_changes() -> None:
    """The first numbers of two addresses are those of the first release: files made with a seed can be made again."""
    block = Address(0, 0, 0, "churn", (2, 5))
    assert normal((4,), HERE).tolist() == pytest.approx(GOLDEN_HERE, abs=1e-6)
    assert normal((4,), block).tolist() == pytest.approx(GOLDEN_BLOCK, abs=1e-6)


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_member_does_not_depend_on_batch_or_order(batch: int) -> None:
    """Member 7 of 8, drawn in batches of 1, 3 or 8 and backwards, has identical bits."""
    forward = [normal((2, 5), Address(1, m, 12)) for m in range(8)]
    members = list(reversed(range(8)))
    for start in range(0, 8, batch):
        block = members[start : start + batch]
        drawn = torch.stack([normal((2, 5), Address(1, m, 12)) for m in block])
        assert torch.equal(drawn, torch.stack([forward[m] for m in block]))


def _draw(member: int) -> list[float]:
    return normal((3, 4), Address(1, member, 12)).flatten().tolist()


@pytest.mark.slow
def test_noise_does_not_depend_on_the_process() -> None:
    """Another process, freshly started, draws identical bits."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(_draw, [0, 5]) == [_draw(0), _draw(5)]


@given(st.lists(st.integers(0, 4), max_size=4))
def test_shape_only_cuts_the_stream(shape: list[int]) -> None:
    """A draw of any shape is the beginning of one long stream in C order."""
    drawn = normal(shape, HERE)
    assert drawn.dtype == torch.float32 and tuple(drawn.shape) == tuple(shape)
    assert torch.equal(drawn.flatten(), normal((256,), HERE)[: drawn.numel()])


def test_addresses_are_unique() -> None:
    """No two of 4,320 neighbouring addresses share a key, swapped and shifted coordinates included."""
    axes = itertools.product(range(4), range(6), range(-3, 9), ["diffusion", "churn"], [(), (0,), (1,), (0, 1), (1, 0)])
    grid = [Address(s, m, t, stream, block) for s, m, t, stream, block in axes]
    assert len({a.key() for a in grid}) == len(grid)
    assert Address(1, 23, 4).key() != Address(12, 3, 4).key()
    assert Address(1, 2, 3, "a,4").key() != Address(1, 2, 3, "a", (4,)).key()


def test_numpy_integers_name_the_same_address() -> None:
    """An address from numpy or torch integers is the address from Python integers."""
    same = Address(np.int64(7), np.int32(3), np.int64(473352), block=(np.int64(2),))  # type: ignore[arg-type]
    assert same == Address(7, 3, 473352, block=(2,)) and same.key() == Address(7, 3, 473352, block=(2,)).key()


def test_noise_is_normal() -> None:
    """Moments of 200,000 numbers lie within 4 standard errors of 0, 1, 0, 3, and a KS test does not reject N(0, 1)."""
    z = normal((200_000,), HERE).double().numpy()
    n = len(z)
    for power, expected, variance in [(1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)]:
        assert abs((z**power).mean() - expected) < 4 * math.sqrt(variance / n)
    assert stats.kstest(z, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(z[::2], z[1::2])[0, 1]) < 4 / math.sqrt(n / 2)


def test_neighbouring_addresses_are_independent() -> None:
    """Correlations between neighbours in member, time, seed and block are within 4 standard errors of zero."""
    n = 50_000
    z = normal((n,), HERE)
    neighbours = [(7, 4, 473352), (7, 3, 473353), (8, 3, 473352), (7, 3, 473352, "diffusion", (0,))]
    for other in (Address(*place) for place in neighbours):  # type: ignore[arg-type]
        assert abs(float((z * normal((n,), other)).mean())) < 4 / math.sqrt(n)


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"member": -1}, {"stream": ""}])
def test_impossible_addresses_are_refused(wrong: dict[str, object]) -> None:
    """A negative seed or member and an empty stream are errors that name the value."""
    with pytest.raises(ValueError, match="must"):
        Address(**{"seed": 0, "member": 0, "time": 0, **wrong})  # type: ignore[arg-type]


def test_negative_sizes_are_refused() -> None:
    """A negative size is an error."""
    with pytest.raises(ValueError, match=">= 0"):
        normal((2, -1), HERE)


def test_step_generators_are_functions_of_their_place() -> None:
    """Equal (seed, rank, samples) give equal draws; a change of any one gives others."""
    draws = {place: torch.rand(4, generator=step_generator(*place)) for place in itertools.product(range(3), repeat=3)}
    assert torch.equal(draws[1, 2, 0], torch.rand(4, generator=step_generator(1, 2, 0)))
    assert len({tuple(d.tolist()) for d in draws.values()}) == 27
    assert 0 <= derive_seed("x", 1) < 2**63
