"""Noise by address: unit variance, correlation in time, crops, full circles."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from downscaling.noise import BLOCK, innovations, noise_field


@pytest.mark.parametrize("half_life", [0.25, 2.0, 7.3])
@pytest.mark.parametrize("gap", [1, 15, 60, 90, 240, 700])
def test_correlation_halves_after_the_half_life(half_life: float, gap: int) -> None:
    """The sums of two minutes have the dot product 2^(-dt / half-life), wherever they lie; anchors cut it at 6e-8."""
    for minute in (0, 17, 119, 28_401_123, 28_401_600, -5000):
        a, b = innovations(minute, half_life), innovations(minute + gap, half_life)
        assert sum(w * w for w in a.values()) == pytest.approx(1.0, abs=1e-12)
        dot = sum(w * b.get(m, 0.0) for m, w in a.items())
        # between anchors the chain is exact; across them it is cut after four terms
        assert dot == pytest.approx(2 ** (-gap / (60 * half_life)), abs=2e-4)


def test_few_innovations_make_any_minute() -> None:
    """Four innovations of each of two anchors share three, and halving ends after log2 of the anchors' distance."""
    assert max(len(innovations(m, 24.0)) for m in range(1000, 1100)) <= 5 + 13


def test_without_a_half_life_times_are_independent() -> None:
    """One innovation of its own per minute."""
    assert innovations(5, 0.0) == {5: 1.0}


def test_crops_have_the_same_numbers() -> None:
    """A pixel's noise depends on its number alone, also below zero and across blocks."""
    weights = innovations(123_456, 2.0)
    whole = noise_field(range(-70, 90), range(-10, 150), 1, 2, weights)
    part = noise_field(range(-33, 71), range(60, 131), 1, 2, weights)
    assert torch.equal(whole[:, 37:141, 70:141], part)
    assert not torch.equal(part, noise_field(range(-33, 71), range(60, 131), 1, 3, weights))


def test_a_full_circle_returns_to_the_same_numbers() -> None:
    """Columns 3600 apart on a globe of 3600 columns are one place."""
    weights = innovations(0, 0.0)
    a = noise_field(range(4), range(3590, 3610), 0, 0, weights, period=3600)
    b = noise_field(range(4), range(-10, 10), 0, 0, weights, period=3600)
    assert torch.equal(a, b)


def test_fields_are_unit_normal() -> None:
    """65,536 numbers: mean within 0.02 and variance within 0.03 of those of a unit normal (five standard errors)."""
    x = noise_field(range(2 * BLOCK), range(4 * BLOCK), 3, 0, innovations(777, 1.0)).numpy()
    assert abs(x.mean()) < 0.02 and abs(x.var() - 1) < 0.03
    assert abs(np.corrcoef(x[0].ravel(), x[1].ravel())[0, 1]) < 0.03
