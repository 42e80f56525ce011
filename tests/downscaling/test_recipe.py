"""Training on a small rain archive: batches by number, scenes that fit their pairs, a loss that falls."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from downscaling.conditions import FEATURES, FIELDS
from downscaling.model import DownscalingModel
from downscaling.recipe import DownscalingParams, DownscalingRecipe
from downscaling.scenes import Events, SceneStream, Told, open_event, scene
from gen.config import load
from gen.engine import RunConfig

SIZES = {"widths": [8, 16], "depths": [1, 1], "head_dim": 16, "window": 4, "halo": 2}
REPOSITORY = Path(__file__).parents[2]


def archive(path: Path, seed: int) -> Path:
    """Write six half-hourly fields of smooth rain on 100 x 120 cells of 0.01 degrees, some missing."""
    rng = np.random.default_rng(seed)
    noise = np.fft.rfft2(rng.standard_normal((6, 100, 120)))
    k = np.hypot(np.fft.fftfreq(100)[:, None], np.fft.rfftfreq(120)[None])
    smooth = np.fft.irfft2(noise * np.exp(-300 * k**2), s=(100, 120))
    rain = np.maximum(np.exp(1.5 * smooth / smooth.std()) - 1.0, 0.0).astype(np.float32)
    rain[:, :4, :4] = np.nan
    time = np.datetime64("2024-06-01T00:30", "ns") + np.arange(6) * np.timedelta64(30, "m")
    data = xr.Dataset(
        {
            "rain": (
                ("time", "latitude", "longitude"),
                rain,
                {"units": "mm/h", "standard_name": "lwe_precipitation_rate"},
            )
        },
        {"time": time, "latitude": 50 + 0.01 * np.arange(100), "longitude": 5 + 0.01 * np.arange(120)},
    )
    data.to_netcdf(path, engine="h5netcdf")
    return path


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> DownscalingRecipe:
    folder = tmp_path_factory.mktemp("rain")
    parts = [
        [{"path": str(archive(folder / f"{k}.nc", k)), **more}] for k, more in ((1, {"accumulate": [1, 2]}), (2, {}))
    ]
    settings: dict[str, Any] = {"train": parts[0], "valid": parts[1], "crop": 40, "mean": SIZES, "flow": SIZES}
    params = DownscalingParams(**settings, sampling={"sampler": "flow_euler", "steps": 1}, trained_on="waves")
    return DownscalingRecipe(params, seed=0)


def test_a_scene_is_its_pair(recipe: DownscalingRecipe) -> None:
    """The amount of every pixel is the mean of the cells it lies in; a turned scene is the scene, turned."""
    pair = recipe.train.streams[0].sample(3)
    plain, turned = (scene(pair, recipe.transform, flip=flip) for flip in (0, 3))
    amounts = recipe.transform.forward(torch.from_numpy(np.nan_to_num(pair.coarse)))
    finest = amounts.repeat_interleave(5, 0).repeat_interleave(5, 1)  # half pixels: 5 a cell, 2 a pixel
    mean = torch.nn.functional.avg_pool2d(finest[None], 2)[0]
    torch.testing.assert_close(plain["fields"][FIELDS.index("cell_amount")], mean, rtol=0, atol=1e-6)
    for name in ("cell_amount", "linear_amount", "cell_wet", "valid"):
        i = FIELDS.index(name)
        torch.testing.assert_close(turned["fields"][i], plain["fields"][i].flip(0, 1), rtol=0, atol=1e-5)
    torch.testing.assert_close(turned["rain"], plain["rain"].flip(0, 1), equal_nan=True)


def test_a_batch_is_a_function_of_its_number(recipe: DownscalingRecipe) -> None:
    """Restarted and shared streams give the same samples; the factors take turns."""
    whole = SceneStream(recipe.train, recipe.transform, batch_size=4)
    again = SceneStream(recipe.train, recipe.transform, batch_size=4)
    again.load_state_dict({"batch": 2})
    batches = [batch for _, batch in zip(range(3), whole, strict=False)]
    torch.testing.assert_close(next(iter(again)), batches[2], equal_nan=True)
    halves = [SceneStream(recipe.train, recipe.transform, 2, rank, 2).numbered(1)["rain"] for rank in (0, 1)]
    torch.testing.assert_close(torch.cat(halves), batches[1]["rain"], equal_nan=True)
    assert len({float(b["features"][0, 0]) for b in batches}) == 3


def test_accumulated_rain_is_a_mean(tmp_path: Path) -> None:
    """Two frames of half an hour make rain of an hour; coarser grids are block means."""
    path = archive(tmp_path / "rain.nc", 5)
    single, double, coarse = (open_event(str(path), [n], [c])[0] for n, c in ((1, 1), (2, 1), (1, 2)))
    assert double.interval_hours == 2 * max(single.interval_hours, 0.5) and len(double.times()) == 5
    np.testing.assert_allclose(double.read(1), (single.read(1) + single.read(2)) / 2, rtol=1e-6)
    np.testing.assert_allclose(coarse.read(0)[5, 7], single.read(0)[10:12, 14:16].mean(), rtol=1e-6)


def test_training_lowers_every_loss(recipe: DownscalingRecipe, tmp_path: Path) -> None:
    """Thirty steps on one batch; the exported folder opens and knows what it was trained on."""
    torch.manual_seed(0)
    model, batch = recipe.model(), SceneStream(recipe.train, recipe.transform, 4).numbered(1)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    seen: list[dict[str, float]] = []
    for step in range(30):
        loss, parts = recipe.loss(model, batch, torch.Generator().manual_seed(step % 3))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        seen.append({k: float(v) for k, v in parts.items()})
    for name in ("amount", "chance", "flow"):
        assert np.mean([s[name] for s in seen[-3:]]) < np.mean([s[name] for s in seen[:3]]) - 0.05
    recipe.export(model.eval(), tmp_path / "model")
    meta = DownscalingModel.load(tmp_path / "model").meta
    assert meta.trained_on == "waves" and meta.factors == (2.5, 8.0) and len(meta.quantiles) == 1001
    assert meta.spacing_km[0] == pytest.approx(1.112, abs=1e-3) and np.all(np.diff(meta.quantiles) >= 0)


def test_validation_scores_small_ensembles(recipe: DownscalingRecipe) -> None:
    """Finite fair CRPS, spread against error and wet share for each factor."""
    torch.manual_seed(0)
    scores = recipe.validate(recipe.model().eval())
    assert {k.split("/")[0] for k in scores} == {"crps", "wet", "spread_skill"} and len(scores) == 9
    assert all(np.isfinite(v) for v in scores.values())


def test_impossible_parameters_are_refused(recipe: DownscalingRecipe) -> None:
    with pytest.raises(ValueError, match="space must be pixel or latent"):
        DownscalingParams(space="wavelet")
    with pytest.raises(ValueError, match="codec must name a rain codec"):
        DownscalingParams(space="latent")
    with pytest.raises(ValueError, match="train names no rain"):
        DownscalingRecipe(DownscalingParams(), 0)


@pytest.mark.parametrize("name", ["demo", "reverse"])
def test_the_configurations_build(name: str) -> None:
    """Their networks fit in 8 MB of half precision."""
    from gen.config import from_mapping

    run = load(RunConfig, REPOSITORY / f"configs/downscaling/{name}.yaml", [])
    params = from_mapping(DownscalingParams, run.params, "demo", "params")
    with torch.device("meta"):
        networks = DownscalingRecipe.networks(params)
    assert sum(p.numel() for n in networks.values() for p in n.parameters()) * 2 < 8e6


def test_events_are_drawn_by_their_shares(tmp_path: Path) -> None:
    """Three quarters of the samples come from the event with three times the share; no share is refused."""
    paths = [archive(tmp_path / f"{k}.nc", k) for k in (1, 2)]
    with xr.open_dataset(paths[1], engine="h5netcdf") as opened:
        (opened.load() * 0 + 7.0).to_netcdf(tmp_path / "flat.nc", engine="h5netcdf")
    events = [{"path": str(paths[0])}, {"path": str(tmp_path / "flat.nc"), "share": 3}]
    stream = Events(events, [2.5], 40, seed=0).streams[0]
    flat = [bool(np.nanmax(np.abs(stream.sample(n).fine - 7)) < 1e-6) for n in range(200)]
    assert np.mean(flat) == pytest.approx(0.75, abs=4 * (0.75 * 0.25 / 200) ** 0.5)
    with pytest.raises(ValueError, match="share of an event"):
        Events([{"path": str(paths[0]), "share": 0}], [2.5], 40, seed=0)


def test_what_may_be_missing_is_told_and_withheld(recipe: DownscalingRecipe) -> None:
    """Time enters as the middle of the interval; with dropout a share of the samples knows no time and no latitude."""
    pair = recipe.train.streams[0].sample(3)
    where = [FEATURES.index(n) for n in ("time_known", "hour_sin", "latitude_cos")]
    plain, timed = (scene(pair, recipe.transform, told)["features"][where] for told in (Told(), Told(time=True)))
    assert pair.time is not None and plain[0] == 0 and timed[0] == 1 and plain[2] == timed[2] > 0.5
    middle = pair.time - np.timedelta64(round(pair.interval_hours * 30), "m")
    day = (middle - middle.astype("datetime64[D]")) / np.timedelta64(1, "D") + pair.fine_grid.longitude.mean() / 360
    assert float(timed[1]) == pytest.approx(np.sin(2 * np.pi * day), abs=1e-4)
    stream = SceneStream(recipe.train, recipe.transform, 100, told=Told(time=True, dropout=0.4))
    features = stream.numbered(0)["features"][:, where]
    withheld = [(features[:, k] == 0).float().mean().item() for k in (0, 2)]
    assert all(abs(w - 0.4) < 4 * (0.24 / 100) ** 0.5 for w in withheld)
    assert not torch.equal(features[:, 0] == 0, features[:, 2] == 0)


def test_training_continues_from_a_model(recipe: DownscalingRecipe, tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = recipe.model()
    recipe.export(first, tmp_path / "model")
    again = DownscalingRecipe(dataclasses.replace(recipe.params, init=str(tmp_path / "model")), seed=0).model()
    torch.testing.assert_close(again.state_dict(), first.state_dict())
    assert again.training
