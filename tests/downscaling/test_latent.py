"""The flow in latent space: exact where the codec is, crops and regions agree, folders, drawing, training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor

from diffusion.samplers import build_sampler
from downscaling.codec_gate import record
from downscaling.conditions import features, known_fields
from downscaling.drawing import PairDrawer
from downscaling.latent import LatentNetworks, build_latent_networks
from downscaling.lattice import Target, build_domain
from downscaling.model import DownscalingMeta, DownscalingModel, Expectation, SamplingDefaults
from downscaling.overlap import Overlap
from downscaling.pairs import make_pair
from downscaling.publish import publish
from downscaling.rain_codec import RainCodec, RainCodecMeta, build_network
from downscaling.recipe import DownscalingParams, DownscalingRecipe
from downscaling.sampling import RainSampler, tile_side
from downscaling.scenes import SceneStream
from downscaling.transform import RainTransform
from gen.cli import main
from gen.grid import LatLonGrid, Region

MEAN = {"widths": (8, 16, 32), "depths": (1, 1, 1), "head_dim": 16, "window": 4, "halo": 2}
FLOW = {"widths": (16, 32), "depths": (1, 1), "head_dim": 16, "window": 2, "halo": 1}
MINUTE = 28_400_000


def codec(factor: int = 4, channels: int = 32) -> RainCodec:
    """Return a codec fitted on random rain, 2 f^2 channels by default: it keeps everything."""
    torch.manual_seed(0)
    generator, transform = torch.Generator().manual_seed(1), RainTransform()
    network = build_network(factor, channels, width=8)
    rain = torch.randn(8, 24, 24, generator=generator).clamp(min=0) * 4
    network.fit(torch.stack([transform.forward(rain), transform.wet(rain).float()], dim=1))
    return RainCodec(network, RainCodecMeta({}, ("noise",), "noise"), {"passed": True}).eval()


def build(found: RainCodec, **sampling: Any) -> DownscalingModel:
    """Return a model whose layers all have weights."""
    torch.manual_seed(0)
    networks = build_latent_networks(MEAN, FLOW, {"name": "flow"}, found).requires_grad_(False)
    for part in (networks.mean, networks.denoiser):
        for parameter in part.parameters():
            if not bool(parameter.abs().sum()):
                parameter.copy_(0.05 * torch.randn(parameter.shape))
    defaults = {"sampler": "flow_euler", "steps": 1, "tile": 64, "overlap": 16, "members_per_block": 2, **sampling}
    ranges: Any = {"spacing_km": (1.0, 12.0), "factors": (2.5, 8.0), "interval_hours": (0.0, 6.0)}
    rest: Any = {"quantiles": [0.0, 1.0], "trained_on": "nothing", "simulated": True}
    meta = DownscalingMeta({}, {"name": "flow"}, sampling=SamplingDefaults(**defaults), **ranges, **rest)
    return DownscalingModel(networks, meta).eval()


@pytest.fixture(scope="module")
def latent_model() -> DownscalingModel:
    return build(codec(4, 12))


def expectation(size: int = 16) -> Expectation:
    generator = torch.Generator().manual_seed(5)
    amount, spread, wet = torch.rand(3, 2, size, size, generator=generator).unbind(0)
    return Expectation(amount, 0.1 + spread, 0.02 + 0.96 * wet)


@pytest.mark.parametrize("factor", [2, 4])
def test_residuals_are_turned_back_into_amounts_and_masks(factor: int) -> None:
    """With all components, latents of the residual give amounts to 1e-4 and masks exactly, whatever the scale."""
    networks = build(codec(factor, 2 * factor**2)).networks
    assert isinstance(networks, LatentNetworks)
    networks.scale.copy_(torch.rand(networks.channels, generator=torch.Generator().manual_seed(0)) + 0.5)
    generator, expected = torch.Generator().manual_seed(0), expectation()
    amount = torch.rand(2, 16, 16, generator=generator)
    wet = torch.rand(2, 16, 16, generator=generator) < 0.5
    x = networks.residual(amount, wet, expected)
    assert x.shape == (2, *networks.noise_shape(16, 16))
    again, mask = networks.compose(x, expected)
    torch.testing.assert_close(again, amount, rtol=0, atol=1e-4)
    assert torch.equal(mask, wet)


def test_residuals_of_independent_pixels_have_unit_spread() -> None:
    """When pixels depart from the expectation as the mean stage says, x has mean square one, by channel, to 5 %."""
    networks = build(codec(2, 8)).networks
    expected = Expectation(*(e[:1, :2, :2].expand(20000, 2, 2) for e in expectation()))
    generator = torch.Generator().manual_seed(2)
    amount = expected.amount + expected.spread * torch.randn(expected.amount.shape, generator=generator)
    wet = torch.rand(expected.wet.shape, generator=generator) < expected.wet
    square = networks.residual(amount, wet, expected).square().mean((0, 2, 3))
    assert bool(((square - 1).abs() < 0.05).all())


def test_the_scale_is_measured_while_training() -> None:
    """Targets have mean square one from the first batch on; cells with a missing pixel count for nothing."""
    networks, expected = build(codec(2, 8)).networks.train(), expectation()
    assert isinstance(networks, LatentNetworks)
    generator = torch.Generator().manual_seed(3)
    amount, there = 3 * torch.rand(2, 16, 16, generator=generator), torch.ones(2, 16, 16, dtype=torch.bool)
    there[:, 3, :5] = False
    x, whole = networks.target(amount, amount > 1, expected, there)
    assert int((~whole).sum()) == 2 * 3 and not bool(x.movedim(1, -1)[~whole].any())
    torch.testing.assert_close(x.movedim(1, -1)[whole].square().mean(0), torch.ones(8), rtol=1e-4, atol=0)
    before = networks.scale.clone()
    networks.eval().target(2 * amount, amount > 1, expected, there)
    assert torch.equal(networks.scale, before)
    disturbed = torch.where(there, amount, torch.full((), 9.0))
    torch.testing.assert_close(networks.target(disturbed, disturbed > 1, expected, there)[0], x, rtol=1e-4, atol=1e-5)


def test_the_codec_is_not_trained(latent_model: DownscalingModel) -> None:
    """Losses have gradients for both stages and none for the codec."""
    networks = build(codec(4, 12)).networks
    networks.mean.requires_grad_(True)
    networks.denoiser.requires_grad_(True)
    known, rain = scene(latent_model), torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(1, *networks.noise_shape(32, 32), generator=torch.Generator().manual_seed(1))
    there = torch.ones_like(rain, dtype=torch.bool)
    losses = networks.errors({**known, "place": None}, rain, rain > 0.5, there, torch.tensor([0.7]), noise)  # type: ignore[dict-item]
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert isinstance(networks, LatentNetworks)
    assert all(p.grad is None for p in networks.codec.parameters())
    assert networks.denoiser.network.stem.weight.grad is not None and networks.mean.stem.weight.grad is not None


def scene(model: DownscalingModel, factor: float = 4.0, size: int = 32) -> dict[str, Tensor]:
    count = int(size / factor)
    coarse = 3 * torch.rand(count, count, generator=torch.Generator().manual_seed(3))
    rows = (torch.arange(size, dtype=torch.float64) + 0.5) / factor
    fields = known_fields(coarse, rows, rows, model.transform)[None]
    return {"fields": fields, "features": features(factor, 1.0, 1.0, 50.0)[None]}


def test_a_model_folder_holds_all_of_it(latent_model: DownscalingModel, tmp_path: Path) -> None:
    """Saved and loaded it draws the same rain; codec, gate and scale are in the folder."""
    latent_model.save(tmp_path / "model")
    again = DownscalingModel.load(tmp_path / "model")
    networks = again.networks
    assert isinstance(networks, LatentNetworks) and networks.codec.gate == {"passed": True}
    assert networks.codec.meta.events == ("noise",) and not networks.training
    known, shape = scene(latent_model), networks.noise_shape(32, 32)
    noise, sampler = torch.randn(2, *shape, generator=torch.Generator().manual_seed(2)), build_sampler("flow_euler", 2)
    drawn = [m.draw(known["fields"], known["features"], noise, sampler) for m in (latent_model, again)]
    assert drawn[0].shape == (2, 32, 32) and bool((drawn[0] > 0).any())
    torch.testing.assert_close(drawn[1], drawn[0])


def grid(rows: int, columns: int, south: float = 40.125, west: float = 5.125) -> LatLonGrid:
    return LatLonGrid(south + 0.25 * np.arange(rows), west + 0.25 * np.arange(columns))


def drawn(
    model: DownscalingModel, coarse: np.ndarray, where: LatLonGrid, target: Target, **options: Any
) -> tuple[Any, np.ndarray]:
    domain = build_domain(where, target, tile_side(model))
    sampler = RainSampler(model, domain, build_sampler("flow_euler", 1), half_life_hours=2.0, **options)
    pieces = list(sampler.draw(coarse, MINUTE, (0,)))
    return domain, np.concatenate([piece.values for piece in pieces], axis=1)


def test_two_crops_agree_inside(latent_model: DownscalingModel, rain: Callable[..., np.ndarray]) -> None:
    """From one tile side (160 pixels) inside the rim of both crops the rain is the same to 1e-5 mm/h.

    The crop begins 3 coarse columns and 5 rows later, no whole number of tokens: the lattice decides, not the crop.
    """
    coarse, side = rain(60, 56), tile_side(latent_model)
    a, x = drawn(latent_model, coarse, grid(60, 56), Target(4.0))
    b, y = drawn(latent_model, coarse[5:, 3:], grid(55, 53, 41.375, 5.875), Target(4.0))
    top, left = b.rows.first - a.rows.first, b.columns.first - a.columns.first
    x = x[:, top:, left:]
    assert x.shape == y.shape and np.abs(x - y).max() > 0.1
    assert np.abs(x - y)[:, side:, side:].max() <= 1e-5


@pytest.mark.parametrize("conserved", [False, True])
def test_regions_of_one_input_agree_everywhere(
    latent_model: DownscalingModel, rain: Callable[..., np.ndarray], conserved: bool
) -> None:
    """Tiles are drawn whole, so a region has the bits of the whole field up to its rim; coarse amounts can be kept."""
    coarse, where = rain(50, 40), grid(50, 40)
    a, x = drawn(latent_model, coarse, where, Target(2.5), keep="input" if conserved else "none")
    if conserved:
        lap = Overlap.between(where, a.grid)
        assert np.nanmax(np.abs(lap.apply(x) - coarse)) <= 1e-6 * coarse.max()
        return
    b, y = drawn(latent_model, coarse, where, Target(2.5, region=Region(43.3, 48.1, 6.2, 11.0)))
    top, left = b.rows.first - a.rows.first, b.columns.first - a.columns.first
    np.testing.assert_array_equal(x[:, top : top + y.shape[1], left : left + y.shape[2]], y)


def test_tiles_must_be_whole_tokens(rain: Callable[..., np.ndarray]) -> None:
    """With cells of 4 pixels and tokens of 2 cells, tiles and overlaps are multiples of 8."""
    with pytest.raises(ValueError, match="tile and overlap of the model must be multiples of 8; got 64 and 20"):
        drawn(build(codec(4, 12), overlap=20), rain(9, 9), grid(9, 9), Target(4.0))


def test_pairs_are_drawn_for_scores(latent_model: DownscalingModel, rain: Callable[..., np.ndarray]) -> None:
    """The drawer of the evaluation: members differ, do not depend on their number, and keep coarse amounts."""
    fine = np.kron(rain(10, 10), np.ones((4, 4), np.float32))
    pair = make_pair(fine, grid(40, 40), 4.0)
    lap = Overlap.between(pair.coarse_grid, pair.fine_grid)
    five, three = (PairDrawer(latent_model, n, keep="input", dtype="float32").draw(pair, lap, 7) for n in (5, 3))
    assert five.shape == (5, 40, 40) and np.abs(five[0] - five[1]).max() > 0.1
    np.testing.assert_allclose(five[:2], three[:2], rtol=0, atol=1e-4)
    np.testing.assert_allclose(lap.apply(five), np.broadcast_to(pair.coarse, (5, 10, 10)), rtol=0, atol=1e-5)


def test_gen_sample_takes_it(latent_model: DownscalingModel, tmp_path: Path) -> None:
    """The command draws with it: published in half precision with its rain sample, two members, one file."""
    latent_model.save(tmp_path / "trained")
    publish(tmp_path / "trained", tmp_path / "model")
    out = tmp_path / "fine.nc"
    arguments = ["sample", "--task", "downscaling", "--model", str(tmp_path / "model"), "--members", "2"]
    assert main([*arguments, "--times", "2024-01-15T08", "--region", "51.5,52.2,4,5", "--out", str(out)]) == 0
    with xr.open_dataset(out) as data:
        name = next(n for n in data.data_vars if "realization" in data[n].dims)
        values = data[name].values
        assert np.isfinite(values).all() and (values >= 0).all() and values.max() > 0


def test_training_needs_a_codec_that_passed(tmp_path: Path) -> None:
    """A codec without a gate is refused with what to do; with one, every loss falls within 45 steps."""
    random = np.random.default_rng(0)
    k = np.hypot(np.fft.fftfreq(60)[:, None], np.fft.rfftfreq(60)[None])
    field = np.fft.irfft2(np.fft.rfft2(random.standard_normal((4, 60, 60))) * np.exp(-200 * k**2), s=(60, 60))
    rain = np.maximum(np.exp(1.5 * field / field.std()) - 1.0, 0.0).astype(np.float32)
    attrs = {"units": "mm/h", "standard_name": "lwe_precipitation_rate"}
    time = np.datetime64("2024-06-01T01", "ns") + np.arange(4) * np.timedelta64(1, "h")
    axes = {"time": time, "latitude": 50 + 0.01 * np.arange(60), "longitude": 5 + 0.01 * np.arange(60)}
    xr.Dataset({"rain": (("time", "latitude", "longitude"), rain, attrs)}, axes).to_netcdf(tmp_path / "rain.nc")
    events = [{"path": str(tmp_path / "rain.nc")}]
    codec(4, 12).save(tmp_path / "codec")
    settings: dict[str, Any] = {"crop": 40, "mean": {**MEAN}, "flow": {**FLOW}, "factors": [4.0]}
    params = DownscalingParams(events, events, space="latent", codec=str(tmp_path / "codec"), **settings)
    with pytest.raises(ValueError, match="has not been judged.*or use space: pixel"):
        DownscalingRecipe(params, 0)
    record(tmp_path / "codec", {"passed": True})
    recipe = DownscalingRecipe(params, 0)
    torch.manual_seed(0)
    model, batch = recipe.model(), SceneStream(recipe.train, recipe.transform, 4).numbered(1)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser, seen = torch.optim.AdamW(trained, lr=3e-3), []
    for step in range(45):
        loss, parts = recipe.loss(model, batch, torch.Generator().manual_seed(step % 3))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        seen.append({name: float(value) for name, value in parts.items()})
    for name in ("amount", "chance", "flow"):
        assert np.mean([s[name] for s in seen[-3:]]) < np.mean([s[name] for s in seen[:3]]) - 0.05
    recipe.export(model.eval(), tmp_path / "model")
    assert isinstance(DownscalingModel.load(tmp_path / "model").networks, LatentNetworks)
