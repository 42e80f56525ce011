"""The model's two stages: residuals and rain, known fields, files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from diffusion.samplers import build_sampler
from downscaling.conditions import features, known_fields
from downscaling.model import (
    DownscalingMeta,
    DownscalingModel,
    Expectation,
    SamplingDefaults,
    build_networks,
)
from gen.hub import HubError, save_model

SIZES = {"widths": (8, 16, 32), "depths": (1, 1, 1), "head_dim": 16, "window": 4, "halo": 2}


def tiny(noise_scale: float = 1.0) -> DownscalingModel:
    """Return a small model whose layers all have weights."""
    torch.manual_seed(0)
    networks = build_networks(SIZES, SIZES, {"name": "flow"}).requires_grad_(False)
    for parameter in networks.parameters():
        if not bool(parameter.abs().sum()):
            parameter.copy_(0.05 * torch.randn(parameter.shape))
    meta = DownscalingMeta(
        transform={},
        precondition={"name": "flow"},
        spacing_km=(1.0, 2.0),
        factors=(2.5, 8.0),
        interval_hours=(0.0, 1.0),
        quantiles=[0.0, 1.0],
        trained_on="nothing",
        simulated=True,
        sampling=SamplingDefaults(noise_scale=noise_scale),
    )
    return DownscalingModel(networks, meta).eval()


def scene(model: DownscalingModel, factor: float = 4.0, size: int = 32) -> tuple[Tensor, Tensor]:
    count = int(size / factor)
    coarse = 3 * torch.rand(count, count, generator=torch.Generator().manual_seed(3))
    rows = (torch.arange(size, dtype=torch.float64) + 0.5) / factor
    return known_fields(coarse, rows, rows, model.transform)[None], features(factor, 1.0, 1.0, 50.0)[None]


def test_residuals_are_turned_back_into_amounts_and_masks() -> None:
    """compose inverts residual exactly, whatever the mean stage says."""
    generator = torch.Generator().manual_seed(0)
    amount, chance = torch.rand(2, 8, 8, generator=generator), torch.rand(2, 8, 8, generator=generator)
    wet = torch.rand(2, 8, 8, generator=generator) < 0.5
    expected = Expectation(amount.flip(0), 0.1 + torch.rand(2, 8, 8, generator=generator), chance)
    networks = tiny().networks
    again, mask = networks.compose(networks.residual(amount, wet, expected), expected)
    torch.testing.assert_close(again, amount, rtol=0, atol=1e-6)
    assert torch.equal(mask, wet)


def test_the_losses_have_their_known_values() -> None:
    """Pixels that are missing count for nothing; with a zero velocity the flow's loss is E|eps - x|^2."""
    torch.manual_seed(0)
    networks = build_networks(SIZES, SIZES, {"name": "flow"})
    model = DownscalingModel(networks, tiny().meta)
    fields, told = scene(model)
    there = torch.ones(1, 32, 32, dtype=torch.bool)
    there[:, :16] = False
    noise = torch.randn(1, 2, 32, 32, generator=torch.Generator().manual_seed(1))
    known = {"fields": fields, "features": told, "place": None}
    amount, wet = torch.rand(1, 32, 32), torch.ones(1, 32, 32, dtype=torch.bool)
    networks.requires_grad_(False)
    losses = networks.errors(known, amount, wet, there, torch.tensor([0.7]), noise)  # type: ignore[arg-type]
    disturbed = torch.where(there, amount, torch.full((), 7.0))
    same = networks.errors(known, disturbed, wet, there, torch.tensor([0.7]), noise)  # type: ignore[arg-type]
    assert all(float(losses[k]) == pytest.approx(float(same[k]), rel=1e-6) for k in losses)
    expected, _ = networks.expect(fields, told)
    x = networks.residual(amount, wet, expected)
    assert float(losses["flow"]) == pytest.approx(float((noise - x)[..., 16:, :].square().mean()), rel=1e-4)
    assert float(losses["chance"]) == pytest.approx(0.6931, abs=1e-3)  # untrained: an even chance


def test_drawn_rain_is_rain() -> None:
    """No negative rate, nothing between dry and the threshold, members differ, the same noise gives the same member."""
    model = tiny()
    fields, told = scene(model)
    noise = torch.randn(3, 2, 32, 32, generator=torch.Generator().manual_seed(2))
    rain = model.draw(fields, told, noise, build_sampler("flow_euler", 2))
    assert rain.shape == (3, 32, 32) and bool((rain >= 0).all())
    assert not bool(((rain > 0) & (rain < model.transform.threshold)).any())
    assert not torch.equal(rain[0], rain[1])
    alone = model.draw(fields, told, noise[1:2], build_sampler("flow_euler", 2))
    torch.testing.assert_close(alone[0], rain[1], rtol=0, atol=1e-4)


def test_a_model_folder_holds_all_of_it(tmp_path: Path) -> None:
    """Saved and loaded the model draws the same rain; another kind of folder is refused in one line."""
    model = tiny(noise_scale=1.1)
    model.save(tmp_path / "model")
    again = DownscalingModel.load(tmp_path / "model")
    assert again.meta == model.meta
    fields, told = scene(model, factor=2.5, size=40)
    noise = torch.randn(1, 2, 40, 40, generator=torch.Generator().manual_seed(2))
    sampler = build_sampler("flow_midpoint", 2)
    torch.testing.assert_close(again.draw(fields, told, noise, sampler), model.draw(fields, told, noise, sampler))
    save_model(tmp_path / "other", {"mean": model.networks.mean}, {"kind": "codec"})
    with pytest.raises(HubError, match="kind 'codec', not a downscaling model"):
        DownscalingModel.load(tmp_path / "other")
