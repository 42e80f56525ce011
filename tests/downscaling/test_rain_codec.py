"""Rain codecs: what is kept exactly, what the gate lets through, what it refuses, training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor

from downscaling.codec_gate import LIMITS, admitted, fidelity, judge, main, record
from downscaling.codec_recipe import RainCodecParams, RainCodecRecipe
from downscaling.rain_codec import RainCodec, RainCodecMeta, build_network
from downscaling.recipe import DownscalingParams
from downscaling.scenes import SceneStream
from downscaling.transform import RainTransform
from gen.config import from_mapping, load
from gen.engine import RunConfig
from gen.hub import HubError, save_model

REPOSITORY = Path(__file__).parents[2]
META = RainCodecMeta({}, ("archive",), "waves")


def waves(count: int, size: int = 48, seed: int = 0) -> Tensor:
    """Return smooth rain [N, H, W] in mm/h, about half of it dry."""
    random = np.random.default_rng(seed)
    k = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    spectrum = np.fft.rfft2(random.standard_normal((count, size, size))) * np.maximum(k, 1 / size) ** -1.8
    field = np.fft.irfft2(spectrum, s=(size, size))
    return torch.from_numpy(np.maximum(np.expm1(1.5 * field / field.std()), 0.0)).float()


def codec(factor: int, channels: int) -> RainCodec:
    """Return a codec with principal components alone."""
    torch.manual_seed(0)
    network = build_network(factor, channels, width=8)
    rain, transform = waves(12, seed=1), RainTransform()
    network.fit(torch.stack([transform.forward(rain), transform.wet(rain).float()], dim=1))
    return RainCodec(network, META).eval()


def write(path: Path, rain: Tensor) -> Path:
    """Write rain [N, H, W] as hourly fields on cells of 0.01 degrees."""
    n, h, w = rain.shape
    attrs = {"units": "mm/h", "standard_name": "lwe_precipitation_rate"}
    time = np.datetime64("2024-06-01T01", "ns") + np.arange(n) * np.timedelta64(1, "h")
    axes = {"time": time, "latitude": 50 + 0.01 * np.arange(h), "longitude": 5 + 0.01 * np.arange(w)}
    data = xr.Dataset({"rain": (("time", "latitude", "longitude"), rain.numpy(), attrs)}, axes)
    data.to_netcdf(path, engine="h5netcdf")
    return path


@pytest.mark.parametrize("factor", [2, 4])
def test_all_components_keep_everything(factor: int) -> None:
    """2 f^2 latent channels are a rotation: rain comes back to 1e-4 mm/h, masks exactly, any crop of whole cells."""
    whole, rain = codec(factor, 2 * factor**2), waves(3)
    rain = torch.where(rain >= 0.1, rain, torch.zeros(()))
    again = whole.again(rain[:, :36, :44])
    torch.testing.assert_close(again, rain[:, :36, :44], rtol=1e-4, atol=1e-4)
    assert torch.equal(again > 0, rain[:, :36, :44] > 0)
    assert all(abs(v) < 1e-3 for v in fidelity(whole, rain).values())


def test_latents_are_measured_from_dry_patches() -> None:
    """Dry patches have the latent 0; over the crops that it was fitted on every channel has mean square one."""
    found, rain, transform = codec(2, 5), waves(12, seed=1), RainTransform()
    z = found.encode(transform.forward(rain), transform.wet(rain))
    torch.testing.assert_close(z.square().mean((0, 2, 3)), torch.ones(5), rtol=1e-3, atol=0)
    assert not bool(found.encode(torch.zeros(1, 8, 8), torch.zeros(1, 8, 8)).any())


def test_spreads_are_those_of_independent_pixels() -> None:
    """The spread of the latents is that of 20,000 random patches of independent pixels, to 3 %."""
    found, generator = codec(2, 6), torch.Generator().manual_seed(0)
    amount, wet = (0.1 + torch.rand(1, 2, 2, generator=generator) for _ in range(2))
    drawn = [s * torch.randn(20000, 2, 2, generator=generator) for s in (amount, wet)]
    z = found.analysis(*drawn)
    torch.testing.assert_close(z.std(0), found.spread(amount, wet)[0], rtol=0.03, atol=0)


def test_missing_rain_stays_missing() -> None:
    rain = waves(1)
    rain[0, 5:9, 7] = torch.nan
    assert torch.equal(codec(2, 8).again(rain).isnan(), rain.isnan())


def test_few_components_fail_the_gate() -> None:
    """Fewer components lose more, in spectra above all; the limits are those of the task."""
    rain = {"waves": waves(4, seed=2)}
    figures = [judge(codec(4, n), rain) for n in (4, 16, 32)]
    distances = [f["events"]["waves"]["spectral_distance_db"] for f in figures]
    assert distances[0] > distances[1] > distances[2] and distances[2] < 0.05
    assert [figures[0]["passed"], figures[2]["passed"]] == [False, True]
    assert list(LIMITS.values()) == [2.0, 1.0, 1.0]


def test_the_gate_stands_in_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the command line: figures, status, a sealed finding; training asks for it, and weights cannot be swapped."""
    archive = write(tmp_path / "rain.nc", waves(3, seed=4))
    for channels, status in ((32, 0), (4, 1)):
        folder = tmp_path / f"codec{channels}"
        codec(4, channels).save(folder)
        with pytest.raises(ValueError, match="has not been judged.*space: pixel"):
            admitted(folder, {})
        assert main([str(folder), "--events", str(archive), "--crop-size", "48"]) == status
        assert ("passed" if status == 0 else "failed") in capsys.readouterr().out
    assert admitted(tmp_path / "codec32", {}).gate["passed"] is True  # type: ignore[index]
    with pytest.raises(ValueError, match="has not passed the gate.*space: pixel"):
        admitted(tmp_path / "codec4", {})
    with pytest.raises(ValueError, match="was trained with transform"):
        admitted(tmp_path / "codec32", {"eps": 0.5})
    forged = {**json.loads((tmp_path / "codec4" / "gate.json").read_text()), "passed": True}
    (tmp_path / "codec4" / "gate.json").write_text(json.dumps(forged))
    with pytest.raises(HubError, match="is damaged: gate.json"):
        admitted(tmp_path / "codec4", {})


def test_what_cannot_be_judged_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An event of the training, crops that cut cells, a folder of another kind: one line each."""
    write(tmp_path / "archive.nc", waves(2))
    made = codec(4, 8)
    name = RainCodec(made.network, RainCodecMeta({}, ("archive.nc", "archive"), "waves"))
    name.save(tmp_path / "codec")
    save_model(tmp_path / "other", {"codec": made.network}, {"kind": "codec"})
    for folder, size, message in (
        ("codec", 48, "was trained on archive"),
        ("codec", 46, "crop_size must be a multiple of 4"),
        ("other", 48, "kind 'codec', not a rain codec"),
    ):
        assert main([str(tmp_path / folder), "--events", str(tmp_path / "archive.nc"), "--crop-size", str(size)]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    for factor, channels, message in ((3, 8, "must be 2 or 4"), (2, 9, "must be 1 to 8")):
        with pytest.raises(ValueError, match=message):
            build_network(factor, channels)


def test_training_corrects_the_components(tmp_path: Path) -> None:
    """Forty steps lower the error of twelve components on their own batch; the folder opens with what it is."""
    parts = [[{"path": str(write(tmp_path / f"{k}.nc", waves(3, seed=k)))}] for k in (5, 6)]
    params = RainCodecParams(
        parts[0], parts[1], 24, factor=4, channels=12, network={"width": 24}, crops=12, valid_crops=2
    )
    recipe = RainCodecRecipe(params, seed=0)
    torch.manual_seed(0)
    network, batch = recipe.model(), SceneStream(recipe.train, recipe.transform, 4).numbered(0)
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.0)
    seen = []
    for _ in range(40):
        loss, _ = recipe.loss(network, batch, torch.Generator().manual_seed(0))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        seen.append(loss.item())
    assert seen[-1] < 0.9 * seen[0]
    assert set(recipe.validate(network.eval())) == set(LIMITS)
    recipe.export(network, tmp_path / "codec")
    again = RainCodec.load(tmp_path / "codec")
    assert (again.factor, again.channels, again.gate) == (4, 12, None) and again.meta.events == ("5.nc",)
    record(tmp_path / "codec", {"passed": True})
    assert admitted(tmp_path / "codec", {}).gate == {"passed": True}


def test_impossible_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="crop must be a multiple of factor 4"):
        RainCodecParams(crop=122)
    with pytest.raises(ValueError, match="train names no rain"):
        RainCodecRecipe(RainCodecParams(), 0)


def test_the_configurations_fit_each_other() -> None:
    """The shipped codec has 16 numbers for 4 x 4 pixels; the latent model is trained on the same rain with it."""
    runs = [load(RunConfig, REPOSITORY / f"configs/downscaling/{name}.yaml", []) for name in ("rain-codec", "latent")]
    codec_params = from_mapping(RainCodecParams, runs[0].params, "rain-codec", "params")
    params = from_mapping(DownscalingParams, runs[1].params, "latent", "params")
    network: Any = RainCodecRecipe.networks(codec_params)["codec"]
    assert (network.factor, network.latent_channels) == (4, 16)
    assert params.space == "latent" and params.codec == f"{runs[0].out}/export"
    assert codec_params.train == params.train and codec_params.transform == params.transform
