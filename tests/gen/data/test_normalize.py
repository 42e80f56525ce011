"""Normalised fields have zero mean and unit variance, and come back unchanged."""

from __future__ import annotations

import json

import pytest
import torch

from gen.data.normalize import Normalizer
from gen.data.variables import Channel, parse_channel

CHANNELS = tuple(parse_channel(c) for c in ("z500", "2t", "tp06"))
RAIN = CHANNELS[2]


def states(count: int = 12) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 3, 6, 8, generator=generator)
    rain = torch.rand(count, 6, 8, generator=generator).pow(6) * 0.02
    return torch.stack([55000 + 3000 * x[:, 0], 280 + 20 * x[:, 1], rain], dim=1)


def fit(x: torch.Tensor, sizes: list[int]) -> Normalizer:
    return Normalizer.fit(iter(torch.split(x, sizes)), CHANNELS, log1p={RAIN: 1e-3})


def test_the_data_it_was_fitted_to_have_unit_variance() -> None:
    """Mean 0 and standard deviation 1 per channel; tolerance: float32 values of size 55000."""
    x = states()
    y = fit(x, [12]).forward(x.double())
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(3, dtype=torch.float64), atol=1e-6, rtol=0)
    std = y.std((0, 2, 3), correction=0)
    torch.testing.assert_close(std, torch.ones(3, dtype=torch.float64), atol=1e-6, rtol=0)


def test_batches_of_any_size_give_the_same_statistics() -> None:
    """Merged moments equal those of one pass to rounding of float64."""
    x = states()
    whole, parts = fit(x, [12]), fit(x, [1, 7, 4])
    torch.testing.assert_close(whole.mean, parts.mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(whole.std, parts.std, rtol=1e-12, atol=1e-12)


def test_inverse_undoes_forward() -> None:
    """SI units come back, all channels or some, also through the logarithm; tolerance: float32."""
    x = states()
    normalizer = fit(x, [12])
    torch.testing.assert_close(normalizer.inverse(normalizer.forward(x)), x, rtol=2e-6, atol=1e-8)
    some = normalizer.inverse(normalizer.forward(x)[:, [2, 0]], index=[2, 0])
    torch.testing.assert_close(some, x[:, [2, 0]], rtol=2e-6, atol=1e-8)
    alone = normalizer.select([CHANNELS[1]])
    assert torch.equal(alone.forward(x[:, 1:2]), normalizer.forward(x)[:, 1:2])


def test_the_logarithm_is_the_stated_one() -> None:
    """Rain of (e - 1) scales is one before centring; negative rain counts as none."""
    normalizer = Normalizer((RAIN,), torch.zeros(1), torch.ones(1), ("log1p",), (2e-3,))
    x = torch.tensor([2e-3 * (torch.e - 1), 0.0, -1e-9])[None, None, None]
    torch.testing.assert_close(normalizer.forward(x).flatten(), torch.tensor([1.0, 0.0, 0.0]), atol=1e-6, rtol=0)


def test_missing_values_do_not_count() -> None:
    """NaN over land leaves the statistics of the rest."""
    x = states()
    x[:, 1, :, :3] = torch.nan
    normalizer = fit(x, [5, 7])
    assert normalizer.std[1] == pytest.approx(float(x[:, 1, :, 3:].double().std(correction=0)), rel=1e-12)


def test_it_survives_json() -> None:
    """`from_dict(json(to_dict))` gives the same bits."""
    normalizer = fit(states(), [12])
    back = Normalizer.from_dict(json.loads(json.dumps(normalizer.to_dict())))
    assert back.channels == normalizer.channels and back.transform == normalizer.transform
    assert torch.equal(back.mean, normalizer.mean) and torch.equal(back.std, normalizer.std)


def test_useless_statistics_are_refused() -> None:
    """A constant channel, no data and a wrong length are errors, not NaN later."""
    with pytest.raises(ValueError, match="2t has std 0"):
        Normalizer.fit(iter([torch.ones(2, 1, 3, 4)]), [Channel("2m_temperature")])
    with pytest.raises(ValueError, match="no data"):
        Normalizer.fit(iter([]), CHANNELS)
    with pytest.raises(ValueError, match="one entry"):
        Normalizer(CHANNELS, torch.zeros(2), torch.ones(3))
