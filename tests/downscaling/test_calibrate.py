"""Calibration: noise, wet threshold and tail of known distortions are found again; what was fitted is stored."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from downscaling.calibrate import (
    ENOUGH,
    HIGHEST,
    Samples,
    checked_tail,
    fit_factor,
    fit_tail,
    fit_threshold,
    main,
    report,
    solve,
    solve_threshold,
)
from downscaling.calibration import Settings, TailMap
from downscaling.drawing import PairDrawer, choose_cases
from downscaling.model import DownscalingMeta, DownscalingModel, SamplingDefaults, build_networks
from gen.hub import open_model

WET = Settings(wet_threshold=-1.0)
SIZES = {"widths": (8, 16, 32), "depths": (1, 1, 1), "head_dim": 16, "window": 4, "halo": 2}
SIDE, MEMBERS, CROPS = 64, 6, 6


class Toy:
    """Stands for a drawer: rain is middle + scale * spread * noise where a uniform chance exceeds the threshold.

    Args:
        distortion: of the rain of the members. conservation: of rain once drawn. dry: whether any chance is below 1.
    """

    def __init__(self, spread: float, distortion: Any = None, conservation: Any = None, dry: bool = True) -> None:
        self.members, self.spread, self.dry = MEMBERS, spread, dry
        self.distortion, self.conservation = distortion or (lambda r: r), conservation or (lambda before, after: after)
        self.model, self.draws = SimpleNamespace(rain=self.rain), 0

    def levels(self, pair: Any, number: int, settings: Settings) -> torch.Tensor:
        self.draws += 1
        generator = torch.Generator().manual_seed(number)
        noise = torch.randn(MEMBERS, SIDE, SIDE, generator=generator)
        chance = 2 * torch.rand(MEMBERS, SIDE, SIDE, generator=generator) - 1 if self.dry else torch.ones(noise.shape)
        amount = self.distortion(pair.middle * (settings.noise_scale * self.spread * noise).exp())
        return torch.stack([amount, chance], dim=1)

    def rain(self, levels: torch.Tensor, settings: Settings) -> torch.Tensor:
        wet = levels[:, 1] > settings.wet_threshold
        return torch.where(wet, settings.tail(levels[:, 0]), torch.zeros(()))

    def finished(self, levels: torch.Tensor, _: Any, __: Any, settings: Settings) -> np.ndarray:
        return np.asarray(self.conservation(levels[:, 0], self.rain(levels, settings)).numpy())


def toy_samples(toy: Toy, truth_spread: float, share: float = 1.0, crops: int = CROPS) -> Samples:
    """Return samples whose truth is drawn as a member would be with another spread, wet in a share of its pixels."""
    samples = Samples.__new__(Samples)
    samples.drawer, samples.members, samples._levels = toy, MEMBERS, {}  # type: ignore[assignment]
    samples.work = []
    for k in range(crops):
        generator = torch.Generator().manual_seed(1000 + k)
        middle = 2.0 * math.exp(0.5 * k / crops)
        rain = middle * (truth_spread * torch.randn(SIDE, SIDE, generator=generator)).exp()
        wet = torch.rand(SIDE, SIDE, generator=generator) < share
        fine = torch.where(wet, rain, torch.zeros(())).numpy()
        samples.work.append((k, SimpleNamespace(middle=middle, fine=fine), None))  # type: ignore[arg-type]
    samples.truths = [pair.fine for _, pair, _ in samples.work]
    return samples


@pytest.mark.parametrize("truth", [0.7, 1.0, 1.4])
def test_secants_find_the_scale(truth: float) -> None:
    """rho(s) = (s / s*)^0.8 is solved within the tolerance of 2 % in three measurements."""
    tried = solve(lambda s: (s / truth) ** 0.8, 1.0)
    scale, ratio = min(tried, key=lambda t: abs(math.log(t[1])))
    assert scale == pytest.approx(truth, rel=0.03) and len(tried) <= 3 and abs(math.log(ratio)) < ENOUGH


def test_what_cannot_be_reached_ends_at_the_limit() -> None:
    """An ensemble that noise cannot spread gets the largest scale, not an endless search."""
    tried = solve(lambda s: 0.2 * s**0.1, 1.0)
    assert max(tried)[0] == HIGHEST and len(tried) < 5


@pytest.mark.parametrize("root", [-0.81, 0.0, 0.4])
def test_thresholds_are_bisected(root: float) -> None:
    """A function that falls through zero; one without a root ends at the end that is nearest to it."""
    assert solve_threshold(lambda t: root - t) == pytest.approx(root, abs=0.003)
    assert solve_threshold(lambda _: 1.0) > 0.94 and solve_threshold(lambda _: -1.0) < -0.98


@pytest.mark.parametrize("share", [0.2, 0.6])
def test_the_threshold_gives_the_share_of_the_truth(share: float) -> None:
    """Chances are uniform in [-1, 1]: a share p is wet above 1 - 2 p."""
    samples = toy_samples(Toy(0.3), 0.3, share)
    assert fit_threshold(samples, Settings()) == pytest.approx(1 - 2 * share, abs=0.03)


def test_spread_and_share_are_fitted_together() -> None:
    """A toy that spreads 0.3 where the truth spreads 0.2 and is wet too often; draws are reused for all thresholds."""
    toy = Toy(0.3)
    fit = fit_factor(toy_samples(toy, 0.2, 0.6), Settings(1.0, -0.9))
    assert abs(fit.after.wet) < 0.01 < fit.before.wet
    assert abs(math.log(fit.after.ratio)) < 0.03
    assert fit.settings.wet_threshold == pytest.approx(-0.2, abs=0.03)
    assert toy.draws <= 4 * CROPS
    dense = fit_factor(toy_samples(Toy(0.3, dry=False), 0.2), Settings())  # only the spread is left
    assert dense.settings.noise_scale == pytest.approx(2 / 3, rel=0.05) and dense.before.ratio > 1.2


def test_reports_weigh_crops_as_they_say() -> None:
    """Two members +-d around m: variance 2 d^2, error (m - truth)^2; three ways to put two crops together."""
    spreads, errors = (1.0, 10.0), (2.0, 5.0)
    rain = [np.stack([np.full((4, 4), 20 + s * d, np.float32) for s in (-1, 1)]) for d in spreads]
    truths = [np.full((4, 4), 20 + e, np.float32) for e in errors]
    truths[0][0, 0] = np.nan
    v, e = 1.5 * 2 * np.square(spreads), np.square(errors)
    found = report(rain, truths)
    assert found.summed == pytest.approx(math.sqrt(v.sum() / e.sum()))
    assert found.typical == pytest.approx(math.exp(np.log(v / e).mean() / 2))
    assert found.ratio == pytest.approx(math.sqrt((v**0.5).sum() / (e * v**-0.5).sum()))
    assert min(found.summed, found.typical) < found.ratio < max(found.summed, found.typical) and found.wet == 0


def squeezed(rain: torch.Tensor) -> torch.Tensor:
    """Return rain with a tail that is too light: what exceeds 4 mm/h counts 0.7 of itself."""
    return torch.where(rain > 4, 4 + 0.7 * (rain - 4), rain)


def test_a_known_distortion_of_heavy_rain_is_undone() -> None:
    """The map is the inverse, x -> 4 + (x - 4) / 0.7, to a few percent, and monotone."""
    samples = toy_samples(Toy(0.7, squeezed), 0.7)
    tail = checked_tail(samples, WET)
    rates = torch.linspace(8, tail.rates[-2], 20)
    torch.testing.assert_close(tail(rates), 4 + (rates - 4) / 0.7, rtol=0.06, atol=0.0)
    assert bool((tail(torch.linspace(0, 100, 1000)).diff() >= 0).all())
    fitted = dataclasses.replace(WET, tail=tail)
    after, before = (report(samples.rain(s), samples.truths).extreme for s in (fitted, WET))
    assert before < -0.15 and abs(after) < 0.03


def test_what_conservation_takes_back_is_added() -> None:
    """Where a third of a change is undone afterwards the map goes further and quantiles still come out right."""
    toy = Toy(0.5, squeezed, lambda before, after: before ** (1 / 3) * after ** (2 / 3))
    samples = toy_samples(toy, 0.5)
    settings = dataclasses.replace(WET, tail=fit_tail(samples, WET, range(CROPS)))
    plain = fit_tail(toy_samples(Toy(0.5, squeezed), 0.5), WET, range(CROPS))
    assert settings.tail.mapped[-2] > plain.mapped[-2] * 1.02
    assert abs(report(samples.rain(settings), samples.truths).extreme) < 0.05


@pytest.mark.parametrize("crops", [1, CROPS])
def test_a_tail_that_is_right_or_cannot_be_checked_stays(crops: int) -> None:
    """Chance differences do not carry over to other crops; with one crop there are no others."""
    samples = toy_samples(Toy(0.7), 0.7, crops=crops)
    assert fit_tail(samples, WET, range(crops)).rates
    assert checked_tail(samples, WET) == TailMap()


def test_few_wet_pixels_ask_for_no_map() -> None:
    """Two levels with 20 pixels beyond them are the least."""
    samples = toy_samples(Toy(0.7, squeezed), 0.7, share=0.01)
    assert checked_tail(samples, Settings(wet_threshold=0.98)) == TailMap()


def make_files(folder: Path) -> DownscalingMeta:
    """Write a model and an event."""
    torch.manual_seed(0)
    meta = DownscalingMeta(
        {}, {"name": "flow"}, (1.0, 2.0), (2.5, 8.0), (0.0, 1.0), [0.0, 1.0], "nothing", True, SamplingDefaults(steps=1)
    )
    DownscalingModel(build_networks(SIZES, SIZES, {"name": "flow"}), meta).save(folder / "model")
    rain = np.random.default_rng(0).gamma(0.4, 2.0, (1, 40, 40)).astype(np.float32)
    places = {"time": [np.datetime64("2020-01-01", "ns")], "latitude": 45 + 0.01 * np.arange(40)}
    data = xr.DataArray(
        rain, coords=places | {"longitude": 5 + 0.01 * np.arange(40)}, dims=("time", "latitude", "longitude"),
        attrs={"units": "mm h-1", "cell_methods": "time: mean (interval: 1 hour)"},
    )  # fmt: skip
    data.to_dataset(name="precipitation").to_netcdf(folder / "event.nc")
    return meta


def test_the_command_fits_and_stores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The copy has the fitted settings and a valid seal, the original is as it was; other factors join later."""
    meta = make_files(tmp_path)
    line = f"--events {tmp_path}/event.nc --crops 1 --crop-size 40 --members 3 --dtype float32".split()
    copied = [f"{tmp_path}/model", *line, "--factors", "4", "--out", f"{tmp_path}/fitted"]
    assert main(copied) == 0
    before, after = (DownscalingModel.load(tmp_path / name) for name in ("model", "fitted"))
    assert before.meta == meta and after.meta.sampling.calibration is not None
    assert open_model(tmp_path / "fitted").digest != open_model(tmp_path / "model").digest
    cases = choose_cases([str(tmp_path / "event.nc")], [4.0], 1, 40)
    again = Samples(PairDrawer(before, 3, keep="input", dtype="float32"), cases, 4.0)
    settings = fit_factor(again, before.meta.sampling.at(4.0)).settings
    assert after.meta.sampling.at(4.0) == settings != before.meta.sampling.at(4.0)
    assert main([f"{tmp_path}/fitted", *line, "--factors", "8", "--conserve", "none"]) == 0
    both = DownscalingModel.load(tmp_path / "fitted").meta.sampling.calibration
    assert both is not None and both.factors == (4.0, 8.0) and both.settings[0] == settings
    capsys.readouterr()
    assert main(copied) == 2  # never over another folder
    assert main([f"{tmp_path}/model", *line, "--members", "1"]) == 2
    assert main([f"{tmp_path}/model", *line, "--land-mask", "land.nc"]) == 2
    assert main([f"{tmp_path}/model", *line, "--orography", "heights.nc"]) == 2  # the model was trained without
    assert main([f"{tmp_path}/model", *line, "--accumulate", "9"]) == 2
    assert main([f"{tmp_path}/model", *line, "--substeps", "2"]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 6 and all(text.startswith("error: ") for text in errors)
    assert main([f"{tmp_path}/model", *line, "--factors", "8", "--conserve", "coarse", "--out", f"{tmp_path}/own"]) == 0
