"""forecast.model: one call of the dynamics, and the folder that holds a model."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from diffusion.samplers import Sampler, build_sampler
from forecast.model import DynamicsMeta, FoldedFrames, ForecastModel
from gen.hub import HubError, open_model

HOURS = torch.tensor([438288, 438294], dtype=torch.int64)


@pytest.fixture(scope="module")
def model(workshop: Path) -> ForecastModel:
    return ForecastModel.load(workshop / "model")


def unit(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sampler(steps: int = 2) -> Sampler:
    return build_sampler("heun", steps, sigma_min=0.02, sigma_max=20.0)


def call(model: ForecastModel, z: Tensor | None = None, hours: Tensor = HOURS, noise: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        z = unit(2, 16, 4, 8, seed=0) if z is None else z
        return model.advance(z, hours, unit(2, 16, 2, 4, 8, seed=1) if noise is None else noise, sampler())


def test_frames_are_folded_and_unfolded_in_the_same_order() -> None:
    """Around a network that returns its input nothing changes; the network sees one frame of C T channels."""
    seen: list[tuple[int, ...]] = []

    class Echo(nn.Module):
        def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
            seen.append(tuple(x.shape))
            return x

    x = unit(2, 3, 4, 5, 6, seed=0)
    assert torch.equal(FoldedFrames(Echo(), 4)(x, torch.zeros(2)), x)  # type: ignore[arg-type]
    assert seen == [(2, 12, 1, 5, 6)]


def test_a_silent_network_gives_the_climate_of_increments(model: ForecastModel) -> None:
    """With F = 0 the EDM denoiser is that of N(0, 1): increments are step_std times the noise itself.

    The exact flow maps sigma_max noise to noise sigma_max / sqrt(1 + sigma_max^2); Heun with 64 steps is within 0.3 %.
    """
    silent = copy.deepcopy(model)
    for parameter in silent.network.proj_out.parameters():
        nn.init.zeros_(parameter)
    z, noise = unit(2, 16, 4, 8, seed=0), unit(2, 16, 2, 4, 8, seed=1)
    with torch.no_grad():
        out = silent.advance(z, HOURS, noise, sampler(64))
    expected = z[:, None] + (model.step_std * noise * 20 / 401**0.5).transpose(1, 2)
    scale = float(model.step_std.max())
    torch.testing.assert_close(out, expected, rtol=0, atol=0.003 * 4 * scale)


def test_the_state_the_clock_and_the_noise_decide(model: ForecastModel) -> None:
    """A call is a function of exactly these: the same again is the same, another of any is different."""
    first = call(model)
    assert first.shape == (2, 2, 16, 4, 8) and torch.equal(first, call(model))
    z, noise = unit(2, 16, 4, 8, seed=2), unit(2, 16, 2, 4, 8, seed=3)
    moved = call(model, z) - z[:, None] - (first - unit(2, 16, 4, 8, seed=0)[:, None])
    for change in (moved, call(model, hours=HOURS + 24 * 90) - first, call(model, hours=HOURS + 6) - first):
        assert float(change.abs().max()) > 1e-3
    assert not torch.equal(call(model, noise=noise), first)


def test_a_saved_model_samples_the_same_bits(model: ForecastModel, tmp_path: Path) -> None:
    """Folder and memory are the same model; everything that binds the parts survives."""
    model.save(tmp_path / "again")
    again = ForecastModel.load(tmp_path / "again")
    assert torch.equal(call(again), call(model)) and again.meta == model.meta
    assert again.codec.channels == model.codec.channels and again.codec.grid == model.codec.grid
    z = unit(2, 16, 4, 8, seed=0)
    with torch.no_grad():
        assert torch.equal(again.codec.decode(z), model.codec.decode(z))
    assert open_model(tmp_path / "again").index["kind"] == "forecast"


def test_half_precision_on_disk_is_float32_in_memory(model: ForecastModel, tmp_path: Path) -> None:
    """Weights of bfloat16 halve the folder's network and change increments by a few of its 2^-8 roundings."""
    model.save(tmp_path / "half", dtype=torch.bfloat16)
    half = ForecastModel.load(tmp_path / "half")
    assert {p.dtype for p in half.parameters()} == {torch.float32}
    size = [(f / "dynamics" / "diffusion_pytorch_model.safetensors").stat().st_size for f in _folders(model, tmp_path)]
    assert size[0] < 0.6 * size[1]
    difference = (call(half) - call(model)) / model.step_std.transpose(0, 1)[None, :, :]
    assert 0 < float(difference.std()) < 0.05


def _folders(model: ForecastModel, base: Path) -> tuple[Path, Path]:
    model.save(base / "full")
    return base / "half", base / "full"


def test_what_binds_the_parts_is_json(model: ForecastModel) -> None:
    """DynamicsMeta survives a JSON document."""
    assert DynamicsMeta.from_dict(json.loads(json.dumps(asdict(model.meta)))) == model.meta


def test_a_codec_alone_is_no_forecast_model(workshop: Path) -> None:
    """The folder of the codec is refused in one line."""
    with pytest.raises(HubError, match="kind 'codec', not a forecast model"):
        ForecastModel.load(workshop / "codec")
