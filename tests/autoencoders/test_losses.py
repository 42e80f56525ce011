"""Codec losses in cases with a closed form."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from autoencoders.losses import kl_divergence, relative_l2, spectral_loss


def test_relative_error_of_a_scaled_field_is_the_scale() -> None:
    """|(1 + a) y - y| / |y| = a for every weight and whatever the size of the channel (fp64 rounding)."""
    generator = torch.Generator().manual_seed(0)
    y = (
        torch.randn(2, 3, 6, 8, dtype=torch.float64, generator=generator)
        * torch.tensor([1.0, 1e3, 1e-6])[:, None, None]
    )
    area = torch.rand(6, 8, dtype=torch.float64, generator=generator)
    for weights in (None, area, 7 * area):
        assert relative_l2(1.25 * y, y, weights).item() == pytest.approx(0.25, rel=1e-12)


def test_relative_error_weighs_by_area() -> None:
    """An error of 1 on cells that hold a quarter of the area of a field of ones is sqrt(1/4)."""
    y = torch.ones(1, 1, 2, 2)
    x = y + torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    area = torch.tensor([[1.0, 1.0], [1.0, 1.0]])
    assert relative_l2(x, y, area).item() == pytest.approx(0.5)
    assert relative_l2(x, y, torch.tensor([[3.0, 1.0], [1.0, 1.0]])).item() == pytest.approx(math.sqrt(0.5))


def test_relative_error_equals_the_published_loss(shared: Path) -> None:
    """Values of the published loss, whose latitude weights multiply the fields before the norm (fp32: 1e-6)."""
    data = load_file(shared / "fixtures" / "ladcast" / "metrics.safetensors")
    x, y = data["lp_pred"], data["lp_tgt"]
    area = data["latw12"][:, None].expand(y.shape[-2:]).square()
    assert relative_l2(x, y).item() == pytest.approx(data["lp_rel"].item(), rel=1e-6)
    assert relative_l2(x, y, area).item() == pytest.approx(data["lp_rel_latw"].item(), rel=1e-6)


@pytest.mark.parametrize(("mean", "variance"), [(0.0, 1.0), (0.5, 1.0), (-1.0, 0.3), (0.2, 4.0)])
def test_divergence_equals_that_of_the_distributions(mean: float, variance: float) -> None:
    """The closed form equals torch's divergence between two normal distributions (fp32: 1e-6)."""
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, variance**0.5), normal(0.0, 1.0)).item()
    found = kl_divergence(torch.full((2, 3), mean), torch.full((2, 3), variance).log()).item()
    assert found == pytest.approx(expected, abs=1e-6)


def test_spectral_loss_of_a_scaled_field_is_the_squared_log_of_the_power_ratio() -> None:
    """x = a y has a^2 the power at every wavenumber: loss = (2 ln a)^2, up to the floor's 1e-9."""
    y = torch.randn(2, 3, 6, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    area = torch.rand(6, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    assert spectral_loss(0.5 * y, y, area, floor=1e-12).item() == pytest.approx((2 * math.log(2)) ** 2, rel=1e-9)


def test_spectral_loss_sees_amplitudes_only() -> None:
    """A turn about the axis changes phases alone: no loss (fp64 rounding); a smoothing does lose."""
    y = torch.randn(1, 2, 6, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    area = torch.linspace(1, 2, 6, dtype=torch.float64)[:, None].expand(6, 16)
    assert spectral_loss(y.roll(5, -1), y, area).item() < 1e-20
    assert spectral_loss((y + y.roll(1, -1)) / 2, y, area).item() > 1


def test_empty_wavenumbers_have_a_finite_gradient() -> None:
    """A single harmonic leaves the other wavenumbers empty: loss and gradient stay finite."""
    y = torch.cos(2 * torch.pi * 3 * torch.arange(16) / 16).expand(1, 1, 4, 16)
    x = torch.zeros(1, 1, 4, 16, requires_grad=True)
    loss = spectral_loss(x, y)
    loss.backward()
    assert x.grad is not None and torch.isfinite(loss) and bool(torch.isfinite(x.grad).all())


def test_shapes_must_agree() -> None:
    """Broadcasting would hide a mistake: different shapes raise and are named."""
    with pytest.raises(ValueError, match=r"\(1, 2, 4, 4\) and \(1, 1, 4, 4\)"):
        relative_l2(torch.ones(1, 2, 4, 4), torch.ones(1, 1, 4, 4))
    with pytest.raises(ValueError, match=r"shape of the grid, \(4, 4\); got \(4,\)"):
        relative_l2(torch.ones(1, 2, 4, 4), torch.ones(1, 2, 4, 4), torch.ones(4))
