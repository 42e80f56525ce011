"""Scores of fine rain: calibrated ensembles score as such, baselines have their known faults, runs can be resumed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from downscaling.baselines import draw_baseline, fit_ranked
from downscaling.crop_scores import score_crop, truth_record
from downscaling.drawing import PairDrawer, choose_cases
from downscaling.evaluate import MODEL, run_evaluate
from downscaling.model import DownscalingMeta, DownscalingModel, SamplingDefaults, build_networks
from downscaling.overlap import Overlap
from downscaling.pairs import Pair, make_pair
from downscaling.score_summary import TRUTH, quantiles_of, summarise
from gen.cli import main
from gen.grid import LatLonGrid
from gen.metrics.bootstrap import Bootstrap

SIZES = {"widths": (8, 16, 32), "depths": (1, 1, 1), "head_dim": 16, "window": 4, "halo": 2}
GRID = LatLonGrid(45.0 + 0.01 * np.arange(80), 5.0 + 0.01 * np.arange(80))
SPACING = (1.0, 1.0)


def field(seed: int, size: int = 80, wet: float = 0.4) -> np.ndarray:
    """Return heavy-tailed rain with the spectrum of a power law."""
    k = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size), indexing="ij"))
    k[0, 0] = np.inf
    white = np.fft.fft2(np.random.default_rng(seed).standard_normal((size, size)))
    gauss = np.fft.ifft2(white * k**-1.5).real
    gauss = (gauss - np.quantile(gauss, 1 - wet)) / gauss.std()
    return np.maximum(2 * (np.exp(1.2 * gauss) - 1), 0.0).astype(np.float32)


def pair(seed: int, factor: float = 4.0) -> Pair:
    return make_pair(field(seed), GRID, factor)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model without training, and two events of fine rain, four hours each."""
    path = tmp_path_factory.mktemp("evaluate")
    torch.manual_seed(0)
    meta = DownscalingMeta(
        {}, {"name": "flow"}, (1.0, 2.0), (2.5, 8.0), (0.0, 1.0), [0.0, 1.0], "nothing", True,
        SamplingDefaults(steps=1),
    )  # fmt: skip
    DownscalingModel(build_networks(SIZES, SIZES, {"name": "flow"}), meta).save(path / "model")
    for event in range(2):
        rain = np.stack([field(10 * event + k) for k in range(4)])
        times = np.datetime64("2020-01-01T00", "ns") + np.arange(4) * np.timedelta64(1, "h")
        data = xr.DataArray(
            rain, coords={"time": times, "latitude": GRID.latitude, "longitude": GRID.longitude},
            dims=("time", "latitude", "longitude"), attrs={"units": "mm h-1"},
        )  # fmt: skip
        data.to_dataset(name="precipitation").to_netcdf(path / f"event{event}.nc")
    return path


def scored(ensemble: torch.Tensor, truth: torch.Tensor, time: int) -> dict:
    weights = torch.ones(truth.shape)
    systems = {TRUTH: truth_record(truth, weights, SPACING), MODEL: score_crop(ensemble, truth, weights, SPACING)}
    return {
        "factor": 4.0, "region": "a", "time": f"{time:03d}", "spacing_km": 1.0, 
        "systems": systems,
    }  # fmt: skip


def test_a_calibrated_ensemble_has_ratio_one_and_a_flat_histogram() -> None:
    """Truth and members are draws of one law (log-normal amounts, half dry): every score has its ideal value.

    24 fields of 1,600 pixels: the ratio is known to about 2 %, a share of the histogram to about 2 % of itself.
    """
    random = np.random.default_rng(0)

    def draw(*shape: int) -> torch.Tensor:
        rain = np.exp(0.5 * random.standard_normal(shape))
        return torch.from_numpy(np.where(random.random(shape) < 0.5, rain, 0.0).astype(np.float32))

    records = [scored(draw(9, 40, 40), draw(40, 40), k) for k in range(24)]
    group = summarise(records, {MODEL: 9}, Bootstrap(resamples=200))["groups"][0]
    system = group["systems"][MODEL]
    scores = {name: s["value"] for name, s in system["scores"].items()}
    assert (group["crops"], group["times"]) == (24, 24)
    assert scores["spread_skill"] == pytest.approx(1.0, abs=0.02)
    assert np.asarray(system["rank"]) == pytest.approx(0.1, rel=0.05)
    assert scores["reliability"] < 0.05 and abs(scores["wet_error"]) < 0.01 and abs(scores["bias"]) < 0.02
    assert abs(scores["q99.9_error"]) < 0.05 and scores["mean_spectral_distance"] < 0.3
    assert scores["spectral_distance"] == pytest.approx(scores["spectral_distance_members"], rel=0.1)  # known to 3 %
    assert scores["crps_biased"] > scores["crps"] > scores["twcrps_1"] > scores["twcrps_5"] >= 0
    interval = system["scores"]["spread_skill"]
    assert interval["low"] < 1.0 < interval["high"] and interval["high"] - interval["low"] < 0.1


def test_too_little_spread_shows() -> None:
    """Members that are half as far apart as they err: ratio one half, piled-up outer ranks."""
    random = np.random.default_rng(1)
    base = np.exp(random.standard_normal((6, 40, 40)))
    fields = [torch.from_numpy(3 + b + random.standard_normal((10, 40, 40))).float() for b in base]
    records = [scored(3 + 0.5 * (f[1:] - 3) + 0.5 * torch.from_numpy(b).float(), f[0], k)
               for k, (f, b) in enumerate(zip(fields, base, strict=True))]  # fmt: skip
    system = summarise(records, {MODEL: 9}, Bootstrap(resamples=100))["groups"][0]["systems"][MODEL]
    assert system["scores"]["spread_skill"]["value"] == pytest.approx(0.5 * np.sqrt(10 / 9 / (1 + 0.25 / 9)), rel=0.03)
    assert system["rank"][0] > 0.2 and system["rank"][-1] > 0.2


def test_perfect_forecasts_have_perfect_scores() -> None:
    """A single member equal to the truth: errors and distances zero, FSS one."""
    truth = torch.from_numpy(field(3))
    system = summarise([scored(truth[None], truth, 0)], {MODEL: 1}, Bootstrap(resamples=100))["groups"][0]["systems"]
    scores = system[MODEL]["scores"]
    zero = ("crps", "rmse", "spectral_distance", "wet_error", "bias", "q99.9_error", "sal_s", "sal_l", "crps_max_4")
    assert [scores[n]["value"] for n in zero] == pytest.approx([0.0] * len(zero), abs=1e-7)
    assert np.ravel(system[MODEL]["fss"]).astype(float) == pytest.approx(1.0)
    assert scores["crps"]["low"] is None and scores["spread_skill"]["value"] is None  # one time: no interval


def test_quantiles_come_back_from_counts() -> None:
    """Quantiles from bins 1.5 % wide agree with those of the values to half a percent; dry mass counts."""
    values = torch.from_numpy(np.where(np.arange(200_000) % 2, np.random.default_rng(0).gamma(0.5, 4, 200_000), 0.0))
    record = truth_record(values.reshape(400, 500), torch.ones(400, 500), SPACING)
    histogram = np.zeros(822)
    for k, count in record["histogram"]:
        histogram[int(k)] = count
    levels = np.array([0.4, 0.9, 0.99, 0.999])
    expected = np.quantile(values.numpy(), levels)
    np.testing.assert_allclose(quantiles_of(histogram, levels), expected, rtol=5e-3)


@pytest.mark.parametrize("factor", [2.5, 4.0])
def test_baselines_have_their_known_strengths_and_faults(factor: float) -> None:
    """RainFARM with fusion keeps amounts to rounding; interpolation is too smooth, nearest too blocky."""
    here = pair(1, factor)
    overlap = Overlap.between(here.coarse_grid, here.fine_grid, np.isfinite(here.fine))
    truth, weights = torch.from_numpy(here.fine), torch.ones(here.fine.shape)
    edge = range(5 if factor == 2.5 else 4, 80, 5 if factor == 2.5 else 4)
    mapping = fit_ranked([pair(2, factor), pair(3, factor)])
    found = {}
    for name in ("nearest", "bilinear", "bilinear-conserved", "quantile-mapping", "rainfarm-fused"):
        drawn = draw_baseline(name, here, overlap, 6, 0, mapping)
        broken = np.abs(overlap.apply(drawn) - here.coarse).max() / here.coarse.max()
        found[name] = (score_crop(torch.from_numpy(drawn), truth, weights, SPACING, (edge, edge)), broken, drawn)
    assert all(found[n][1] < 1e-6 for n in ("rainfarm-fused", "bilinear-conserved")) and found["bilinear"][1] > 0.01
    distances = {n: f[0]["spectral_distance"] for n, f in found.items()}
    assert distances["bilinear"] > 2 * distances["rainfarm-fused"]
    assert found["rainfarm-fused"][0]["crps"] < found["bilinear"][0]["crps"]
    assert found["bilinear"][2].max() < here.fine.max()
    assert (found["quantile-mapping"][2][found["bilinear"][2] == 0] == 0).all()


def test_cases_do_not_overlap_and_are_the_same_for_all_factors(folder: Path) -> None:
    """Crops are distinct and disjoint, each comes once for each factor, and the seed alone chooses."""
    events = [f"first={folder}/event0.nc", f"second={folder}/event1.nc"]
    cases = choose_cases(events, [2.5, 4.0], 6, 40, seed=3)
    assert len(cases.cases) == 2 * 6 * 2
    for event in ("first", "second"):
        crops = [{(c.crop.time, c.crop.row, c.crop.column) for c in cases.cases if (c.event, c.factor) == (event, f)}
                 for f in (2.5, 4.0)]  # fmt: skip
        assert crops[0] == crops[1] and len(crops[0]) == 6
        assert all(r % 40 == 0 and c % 40 == 0 for _, r, c in crops[0])
    assert [c.key for c in cases.cases] == [c.key for c in choose_cases(events, [2.5, 4.0], 6, 40, seed=3).cases]
    with pytest.raises(ValueError, match="crop_size must be a multiple of 20"):
        choose_cases(events, [2.5, 4.0], 6, 50)
    with pytest.raises(ValueError, match="share a name"):
        choose_cases([f"a={folder}/event0.nc", f"a={folder}/event1.nc"], [4.0], 1, 40)


def test_cases_of_longer_intervals_are_means_of_the_frames(folder: Path) -> None:
    """Two of four hours averaged: three times, the interval says two hours; five are refused in one line."""
    event = f"{folder}/event0.nc"
    cases = choose_cases([event], [4.0], 6, 40, accumulate=2)
    assert cases.sources[0].times().size == 3
    for case in cases.cases:
        rows, columns = (slice(k, k + 40) for k in (case.crop.row, case.crop.column))
        found = cases.pair(case)
        expected = np.mean([field(case.crop.time + k)[rows, columns] for k in (0, 1)], axis=0)
        np.testing.assert_allclose(found.fine, expected, rtol=1e-6)
        assert found.interval_hours == 2 and found.time == np.datetime64("2020-01-01T01") + case.crop.time
    with pytest.raises(ValueError, match="has no 5 evenly spaced times in a row"):
        choose_cases([event], [4.0], 6, 40, accumulate=5)


def test_members_are_drawn_by_address(folder: Path) -> None:
    """A member does not depend on how many there are; on request the amounts of the input are kept."""
    model = DownscalingModel.load(folder / "model")
    here = make_pair(field(1)[:40, :40], LatLonGrid(GRID.latitude[:40], GRID.longitude[:40]), 4.0)
    overlap = Overlap.between(here.coarse_grid, here.fine_grid)
    few, many = (PairDrawer(model, n, dtype="float32").draw(here, overlap, 7) for n in (2, 5))
    np.testing.assert_allclose(many[:2], few, atol=1e-4)
    kept = PairDrawer(model, 2, keep="input", dtype="float32").draw(here, overlap, 7)
    assert np.abs(overlap.apply(kept) - here.coarse).max() <= 1e-6 * here.coarse.max()
    assert not np.allclose(PairDrawer(model, 2, noise_scale=2.0, dtype="float32").draw(here, overlap, 7), few)


def options(folder: Path, out: Path, events: int = 2) -> dict:
    names = [f"e{k}={folder}/event{k}.nc" for k in range(events)]
    return {
        "model": str(folder / "model"), "events": names, "train": [f"{folder}/event1.nc"], "factors": (2.5,),
        "members": 3, "crops": 2, "crop_size": 40, "resamples": 100, "dtype": "float32", "out": out,
    }  # fmt: skip


def test_a_resumed_run_equals_an_unbroken_one(folder: Path, tmp_path: Path) -> None:
    """Stopped in the middle of a line, continued: the same scores, except for the time they took."""
    whole = run_evaluate(**options(folder, tmp_path / "whole"))
    lines = (tmp_path / "whole" / "crops.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) == 1 + 2 * 2
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "crops.jsonl").write_text("".join(lines[:3]) + lines[3][:100])
    again = run_evaluate(**options(folder, tmp_path / "cut"), figures=tmp_path / "figures")
    for result in (whole, again):
        for group in result["groups"]:
            for system in group["systems"].values():
                assert system["scores"].pop("seconds")["value"] >= 0
    assert again == whole
    assert [g["region"] for g in whole["groups"]] == [None, "e0", "e1"]
    names = {"nearest", "bilinear", "bilinear-conserved", "quantile-mapping", "rainfarm", "rainfarm-fused", MODEL}
    assert set(whole["groups"][0]["systems"]) == names
    assert whole["groups"][0]["systems"]["rainfarm-fused"]["largest_violation"] < 1e-6
    assert len(list((tmp_path / "figures").glob("*.png"))) == 5
    table = (tmp_path / "cut" / "scores.md").read_text()
    assert "### Factor 2.5, e1: 2 crops" in table and "rainfarm-fused" in table
    with pytest.raises(ValueError, match="belongs to another evaluation"):
        run_evaluate(**{**options(folder, tmp_path / "cut"), "members": 4})


def test_files_are_scored_against_a_truth(folder: Path, tmp_path: Path) -> None:
    """Members of a file around the truth: a small CRPS, every time used; other grids are refused in one line."""
    with xr.open_dataset(folder / "event0.nc") as data:
        truth = data["precipitation"].load()
    random = np.random.default_rng(0)
    factors = xr.DataArray(np.exp(0.1 * random.standard_normal((4, *truth.shape))), dims=("realization", *truth.dims))
    fine = (truth * factors).transpose("realization", ...).astype(np.float32)
    fine.attrs["units"] = "mm h-1"
    fine.to_dataset(name="precipitation").to_netcdf(tmp_path / "fine.nc")
    line = f"evaluate --task downscaling {tmp_path}/fine.nc --truth {folder}/event0.nc --out {tmp_path}/s --quiet"
    assert main(line.split()) == 0
    scores = json.loads((tmp_path / "s" / "scores.json").read_text())
    group = scores["groups"][0]
    assert group["times"] == 4 and scores["setup"]["members"] == {MODEL: 4}
    assert group["systems"][MODEL]["scores"]["crps"]["value"] < 0.05 * float(truth.mean())
    truth[:, :60].to_dataset(name="precipitation").to_netcdf(tmp_path / "part.nc")
    with pytest.raises(ValueError, match="score on one grid"):
        run_evaluate(forecasts=[tmp_path / "fine.nc"], truth=str(tmp_path / "part.nc"))


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("--task downscaling", "give either files of fine rain with --truth, or --model with --events"),
        ("--task downscaling {f}/event0.nc", "give --truth"),
        ("--task downscaling --model {f}/model", "give both --model and --events"),
        ("--task downscaling --model {f}/model --events {f}/none.nc", "does not exist"),
        ("--task downscaling --model {f}/model --events {f}/event0.nc --crop-size 41", "multiple of 40"),
        ("--task downscaling --model {f}/model --events {f}/event0.nc --baselines farm", "unknown baseline 'farm'"),
        ("--task downscaling --model {f}/model --events {f}/event0.nc --leads 24", "--leads does not belong to"),
        ("--task downscaling {f}/event0.nc --truth {f}/event1.nc --accumulate 2", "averages frames of --events"),
        ("--task downscaling --model {f}/model --events {f}/event0.nc --substeps 2", "--accumulate averages: give it"),
        ("--task downscaling --model {f}/model --events {f}/event0.nc --accumulate 9", "has no 9 evenly spaced times"),
        ("--task rain {f}/event0.nc", "unknown task 'rain'; the tasks are forecast, downscaling"),
        ("{f}/event0.nc --truth {f}/event0.nc --factors 4", "--factors does not belong to --task forecast"),
    ],
)
def test_bad_requests_are_one_line(folder: Path, capsys: pytest.CaptureFixture[str], line: str, rule: str) -> None:
    """Exit code 2 and one line that names the rule."""
    assert main(["evaluate", *line.format(f=folder).split(), "--quiet"]) == 2
    error = capsys.readouterr().err
    assert rule in error and len(error.strip().splitlines()) == 1
