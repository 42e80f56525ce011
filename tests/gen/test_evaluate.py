"""The evaluation end to end on a world whose scores are known in closed form.

Anomalies are isotropic Gaussian fields with a(t + 1 day) = r a(t) + sqrt(1 - r^2) xi, so the law of a(t + L) given a(t)
is known and members drawn from it are a perfect ensemble.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from gen.evaluate import run_evaluate
from gen.grid import LatLonGrid
from gen.metrics.spectra import SphericalHarmonics

GRID = LatLonGrid.gaussian(12, 24)
MEMORY = {"z500": 0.8, "2t": 0.6}
SCALE = {"z500": (55_000.0, 400.0), "2t": (280.0, 5.0)}
INITS = np.datetime64("2024-01-05", "h") + 24 * np.arange(0, 36, 3)
LEADS = np.array([24, 72], dtype="timedelta64[h]")
HORIZONTAL = {"latitude": GRID.latitude, "longitude": GRID.longitude}


def noise(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Isotropic fields [..., H, W] with unit variance at every point, all wavenumbers alike."""
    transform = SphericalHarmonics(GRID)
    size = transform.lmax + 1
    a = (rng.standard_normal((*shape, size, size)) + 1j * rng.standard_normal((*shape, size, size))) / math.sqrt(2)
    a[..., 0, :] = rng.standard_normal((*shape, size))
    a = a * np.triu(np.ones((size, size)))
    return transform.synthesise(torch.from_numpy(a)).numpy() / size


def dataset(anomaly: dict[str, np.ndarray], dims: tuple[str, ...], coords: dict[str, Any]) -> xr.Dataset:
    fields = {c: (m + s * anomaly[c]).astype(np.float32) for c, (m, s) in SCALE.items()}
    names = (*dims, "latitude", "longitude")
    upper = (*dims, "level", "latitude", "longitude")
    return xr.Dataset(
        {
            "geopotential": (upper, fields["z500"][..., None, :, :], {"units": "m2 s-2"}),
            "2m_temperature": (names, fields["2t"], {"units": "K"}),
        },
        coords={**coords, "level": ("level", [500], {"units": "hPa"}), **HORIZONTAL},
    )


def perfect_ensemble(truth: dict[str, np.ndarray], first: int, members: int, seed: int) -> dict[str, np.ndarray]:
    """Members [M, N, L, H, W] from the law of the future given the state at the start (2024-01-01 is `first`)."""
    rng, out = np.random.default_rng(seed), {}
    starts = first + (INITS - np.datetime64("2024-01-01", "h")).astype(int) // 24
    days = LEADS.astype(int) // 24
    for code, r in MEMORY.items():
        keep = (r**days)[None, None, :, None, None]
        start = truth[code][starts][None, :, None]
        out[code] = keep * start + np.sqrt(1 - keep**2) * noise(rng, members, starts.size, days.size)
    return out


def numbers(tree: Any) -> list[float]:
    """All numbers of nested dictionaries and lists, in order."""
    if isinstance(tree, dict | list):
        return [x for part in (tree.values() if isinstance(tree, dict) else tree) for x in numbers(part)]
    return [float(tree)] if isinstance(tree, int | float) else []


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Truth of 46 days in each of four years, a forecast in one and in two files, and a reference of other starts."""
    folder = tmp_path_factory.mktemp("world")
    rng, truth = np.random.default_rng(0), {}
    times = np.concatenate([np.datetime64(f"{y}-01-01", "h") + 24 * np.arange(46) for y in (2021, 2022, 2023, 2024)])
    for code, r in MEMORY.items():
        states = [noise(rng)]
        for xi in noise(rng, times.size - 1):
            states.append(r * states[-1] + math.sqrt(1 - r * r) * xi)
        truth[code] = np.stack(states)
    dataset(truth, ("time",), {"time": times.astype("datetime64[ns]")}).to_netcdf(folder / "truth.nc")
    dims, lead = ("number", "time", "prediction_timedelta"), LEADS.astype("timedelta64[ns]")
    for name, members, seed in (("model", 8, 1), ("reference", 5, 2)):
        coords = {"number": np.arange(members), "time": INITS.astype("datetime64[ns]"), "prediction_timedelta": lead}
        data = dataset(perfect_ensemble(truth, 138, members, seed), dims, coords)
        data.to_netcdf(folder / f"{name}.nc")
        data.isel(time=slice(0, 5)).to_netcdf(folder / f"{name}_a.nc")
        data.isel(time=slice(5, None)).to_zarr(folder / f"{name}_b.zarr")
    return {p.stem: str(p) for p in folder.iterdir()}


@pytest.fixture(scope="module")
def scores(world: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("out")
    result = run_evaluate(
        [world["model"]], world["truth"], reference=world["reference"], out=out, climatology_members=30
    )
    assert json.loads((out / "scores.json").read_text()) == result
    result["table"] = (out / "scores.md").read_text()
    return result


@pytest.mark.parametrize("code", MEMORY)
def test_scores_equal_their_expectations(scores: dict[str, Any], code: str) -> None:
    """CRPS s/sqrt(pi) with s^2 = 1 - r^2L; climatology s = 1; persistence E|x - y| = 2 sqrt((1 - r^L)/pi).

    12 starts of fields with 144 degrees of freedom: 1,728 samples, standard error about 2%; tolerance 10%.
    """
    scale, r = SCALE[code][1], MEMORY[code]
    for k, days in enumerate((1, 3)):
        spread = math.sqrt(1 - r ** (2 * days))
        expected = {
            "model": spread / math.sqrt(math.pi),
            "reference": spread / math.sqrt(math.pi),
            "climatology": 1 / math.sqrt(math.pi),
            "persistence": 2 * math.sqrt((1 - r**days) / math.pi),
        }
        for system, value in expected.items():
            assert scores["scores"][system]["crps"][code]["value"][k] == pytest.approx(scale * value, rel=0.1)
        model = scores["scores"]["model"]
        assert model["rmse_unbiased"][code]["value"][k] == pytest.approx(scale * spread, rel=0.1)
        assert model["rmse"][code]["value"][k] == pytest.approx(scale * spread * math.sqrt(9 / 8), rel=0.1)
        assert model["spread"][code]["value"][k] == pytest.approx(scale * spread, rel=0.1)
        for ratio in ("ssr", "ssr_unbiased"):
            entry = {key: values[k] for key, values in model[ratio][code].items()}
            assert entry["value"] == pytest.approx(1, abs=0.1) and entry["low"] < entry["value"] < entry["high"]


@pytest.mark.parametrize("code", MEMORY)
def test_comparisons_find_the_better_system(scores: dict[str, Any], code: str) -> None:
    """The perfect ensemble beats both baselines with certainty and is at the ceiling: fraction 1 +- 0.15 at one day."""
    for baseline in ("persistence", "climatology"):
        assert scores["difference"][baseline]["crps"][code]["high"][0] < 0
    fraction = {key: values[0] for key, values in scores["fraction"][code].items()}
    assert fraction["value"] == pytest.approx(1, abs=0.15) and fraction["low"] < 1 < fraction["high"] + 0.1
    brier = scores["brier"]
    for event in ("above quantile 0.1", "above quantile 0.9"):
        assert brier["model"][event][code]["value"][0] < brier["climatology"][event][code]["value"][0]


@pytest.mark.parametrize("code", MEMORY)
def test_members_have_the_spectrum_and_the_ranks_of_the_truth(scores: dict[str, Any], code: str) -> None:
    """All l >= 2 within a factor 2 (12 dates x 5 harmonics at l = 2: s.e. 18%); ranks 1/9 each within 0.03."""
    spectra = scores["spectra"][code]
    truth, model = (np.array(spectra[name][0]) for name in ("truth", "model"))
    assert truth.size == 12 and scores["setup"]["lmax"] == 11
    assert (np.abs(np.log(model[2:] / truth[2:])) < math.log(2)).all()
    assert spectra["ratio"]["model"]["low"][0] == pytest.approx((model / truth)[1:].min(), rel=1e-12)
    np.testing.assert_allclose(scores["rank_histogram"]["model"][code][0], np.full(9, 1 / 9), atol=0.03)


def test_the_table_is_aligned_and_complete(scores: dict[str, Any]) -> None:
    """Every row of the table has the same length; variables, units, leads and systems are named."""
    rows = [line for line in scores["table"].splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 2 * len(LEADS) and len({len(row) for row in rows}) == 1
    for word in ("z500 (m2 s-2)", "2t (K)", "persistence", "climatology", "reference", "SSR", "spectrum"):
        assert word in scores["table"]
    assert "12 start dates from 2024-01-05T00 to 2024-02-07T00; members: model 8" in scores["table"]


def test_merged_parts_equal_one_pass(world: dict[str, str], scores: dict[str, Any], tmp_path: Path) -> None:
    """Two files scored apart (NetCDF and Zarr) and merged give the scores of one pass, every number the same."""
    for part in "ab":
        run_evaluate(
            [world[f"model_{part}"]],
            world["truth"],
            reference=world["reference"],
            climatology_members=30,
            climatology_years=(2021, 2022, 2023),
            partial=tmp_path / f"{part}.npz",
        )
    merged = run_evaluate(merge=[tmp_path / "b.npz", tmp_path / "a.npz"])
    assert merged == {key: value for key, value in scores.items() if key != "table"}


def test_an_interrupted_evaluation_continues(
    world: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after three dates and started again: only the other nine are scored, and the result is the same."""
    from gen.metrics.scorer import Scorer

    options: dict[str, Any] = {"baselines": ["persistence"], "variables": ["2t"], "resamples": 100}
    whole = run_evaluate([world["model"]], world["truth"], **options)
    score, seen = Scorer.score, list[np.datetime64]()

    def counted(self: Scorer, init: np.datetime64) -> dict[str, np.ndarray]:
        seen.append(init)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return score(self, init)

    monkeypatch.setattr(Scorer, "score", counted)
    monkeypatch.setattr("gen.evaluate.SECONDS_BETWEEN_SAVES", -1.0)
    with pytest.raises(KeyboardInterrupt):
        run_evaluate([world["model"]], world["truth"], partial=tmp_path / "p.npz", **options)
    seen[:] = list(INITS[:5])  # so that it is not interrupted again
    again = run_evaluate([world["model"]], world["truth"], partial=tmp_path / "p.npz", **options)
    assert again == whole and seen[5:] == list(INITS[3:])
    with pytest.raises(ValueError, match="partial sums differ in leads"):
        run_evaluate([world["model"]], world["truth"], partial=tmp_path / "p.npz", leads=[24], **options)


def test_blocks_of_leads_do_not_change_the_scores(world: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading one lead at a time instead of all: the same to the order of summation (1e-10; z500 loses 5 digits)."""
    options: dict[str, Any] = {"baselines": ["persistence"], "resamples": 100}
    whole = run_evaluate([world["model"]], world["truth"], **options)
    monkeypatch.setattr("gen.metrics.scorer.BYTES_PER_BLOCK", 1)
    pieces = run_evaluate([world["model"]], world["truth"], **options)
    one, other = (np.array(numbers(x), dtype=np.float64) for x in (whole, pieces))
    np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


def test_a_region_is_scored_with_its_own_cells(world: dict[str, str]) -> None:
    """RMSE in 20..70 N, 300..60 E by hand from the files, with exact areas (1e-6: float32 fields)."""
    got = run_evaluate(
        [world["model"]],
        world["truth"],
        baselines=[],
        variables=["2t"],
        leads=[72],
        region="20,70,-60,60",
        resamples=100,
    )
    with xr.open_dataset(world["model"], decode_timedelta=True) as f, xr.open_dataset(world["truth"]) as t:
        mean = f["2m_temperature"].sel(prediction_timedelta=np.timedelta64(72, "h")).astype("f8").mean("number")
        error = mean.values - t["2m_temperature"].sel(time=f["time"].values + np.timedelta64(72, "h")).values
    inside = np.outer((GRID.latitude >= 20) & (GRID.latitude <= 70), (GRID.longitude <= 60) | (GRID.longitude >= 300))
    expected = math.sqrt(np.average((error**2).mean(0), weights=GRID.cell_areas() * inside))
    assert got["scores"]["model"]["rmse"]["2t"]["value"][0] == pytest.approx(expected, rel=1e-6)
    assert "spectra" not in got and got["setup"]["region"] == "20,70,-60,60"


def test_leads_without_truth_are_left_out(
    world: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Truth ends before the last valid times: scores use the dates that have truth, and the log counts the others."""
    with xr.open_dataset(world["truth"]) as data:
        data.sel(time=slice(None, "2024-02-06")).to_netcdf(tmp_path / "short.nc")
    options: dict[str, Any] = {"baselines": ["persistence"], "variables": ["2t"], "resamples": 100}
    short = run_evaluate([world["model"]], str(tmp_path / "short.nc"), **options)
    assert "3 of 24 valid times have no truth" in caplog.text
    part = run_evaluate([world["model"]], world["truth"], partial=tmp_path / "p.npz", **options)
    from gen.metrics.base import PartialSums

    sums = PartialSums.load(tmp_path / "p.npz").statistics["model/crps"]
    crps = short["scores"]["model"]["crps"]["2t"]["value"]
    np.testing.assert_allclose(crps, [sums[:11, 0, 0].mean(), sums[:10, 1, 0].mean()], rtol=1e-12)
    assert part["scores"]["model"]["crps"]["2t"]["value"] != crps


def test_a_deterministic_forecast_is_an_ensemble_of_one(world: dict[str, str], tmp_path: Path) -> None:
    """A file without members: CRPS is the absolute error, spread is undefined, the table has dashes."""
    with xr.open_dataset(world["model"], decode_timedelta=True) as data:
        data.isel(number=0, drop=True).to_netcdf(tmp_path / "one.nc")
    got = run_evaluate(
        [tmp_path / "one.nc"], world["truth"], baselines=["persistence"], out=tmp_path / "r.json", resamples=100
    )
    assert got["scores"]["model"]["ssr"]["2t"]["value"] == [None, None]
    assert got["setup"]["members"] == {"model": 1} and (tmp_path / "r.md").exists()


def test_bad_input_is_one_clear_line(world: dict[str, str], tmp_path: Path) -> None:
    """Each mistake is a ValueError that names the value and what would be right."""
    model, truth = [world["model"]], world["truth"]
    with pytest.raises(ValueError, match="unknown baseline 'climatolgy'"):
        run_evaluate(model, truth, baselines=["climatolgy"])
    with pytest.raises(ValueError, match="give --truth"):
        run_evaluate(model)
    with pytest.raises(ValueError, match="nothing to evaluate"):
        run_evaluate()
    with pytest.raises(ValueError, match="the forecast lacks t850; it has z500, 2t"):
        run_evaluate(model, truth, variables=["t850"])
    with pytest.raises(ValueError, match="no lead of 48 h"):
        run_evaluate(model, truth, leads=[24, 48])
    with pytest.raises(ValueError, match="is in .*model.* and in"):
        run_evaluate([*model, world["model_a"]], truth)
    with pytest.raises(ValueError, match="no lead among its dimensions|no init and no lead"):
        run_evaluate([truth], truth)
    with pytest.raises(ValueError, match="no such forecast"):
        run_evaluate([tmp_path / "none.nc"], truth)
    with xr.open_dataset(truth) as data:
        data.sel(time="2022").to_netcdf(tmp_path / "other.nc")
    with pytest.raises(ValueError, match="truth has none of the valid times 2024-01-06T00 to"):
        run_evaluate(model, str(tmp_path / "other.nc"), baselines=[])


def test_a_forecast_with_missing_values_is_refused(world: dict[str, str], tmp_path: Path) -> None:
    """NaN in a member is not skipped silently: the error names channel, start and lead."""
    with xr.open_dataset(world["model"], decode_timedelta=True) as data:
        data.load()["2m_temperature"][3, 2, 1, 0, 0] = np.nan
        data.to_netcdf(tmp_path / "nan.nc")
    with pytest.raises(ValueError, match="2t from 2024-01-11T00 has NaN at 72 h"):
        run_evaluate([tmp_path / "nan.nc"], world["truth"], baselines=[])


def test_a_daily_climatology_is_scored_as_a_mean(world: dict[str, str], tmp_path: Path) -> None:
    """The fitted daily mean is a deterministic forecast: CRPS = E|y| = s sqrt(2/pi), RMSE = s (10%: 1,728 samples)."""
    from gen.data.climatology import run_climatology

    path = run_climatology(world["truth"], tmp_path / "daily.nc", stop="2023-12-31")
    got = run_evaluate([world["model"]], world["truth"], climatology=path, resamples=100)
    climatology = got["scores"]["climatology"]
    for code, (_, scale) in SCALE.items():
        assert climatology["crps"][code]["value"][0] == pytest.approx(scale * math.sqrt(2 / math.pi), rel=0.1)
        assert climatology["rmse"][code]["value"][0] == pytest.approx(scale, rel=0.1)
    assert got["setup"]["members"]["climatology"] == 1 and got["brier"] == {}


def test_scored_years_are_not_in_the_climatology(
    world: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Truth of the scored year alone: no climatology, with a warning; a year asked for by name brings a warning too."""
    with xr.open_dataset(world["truth"]) as data:
        data.sel(time="2024").to_netcdf(tmp_path / "year.nc")
    options: dict[str, Any] = {"variables": ["2t"], "resamples": 100, "climatology_members": 5}
    got = run_evaluate([world["model"]], str(tmp_path / "year.nc"), **options)
    assert "climatology" not in got["scores"] and "no year beside the scored ones" in caplog.text
    run_evaluate([world["model"]], world["truth"], climatology_years=[2023, 2024], leads=[24], **options)
    assert "contains 2024, which is scored" in caplog.text


def test_truth_on_another_grid_is_brought_to_that_of_the_forecast(world: dict[str, str], tmp_path: Path) -> None:
    """Truth on twice the columns, each cell split into two equal ones, has the same cell means and scores (1e-5)."""
    with xr.open_dataset(world["truth"]) as data:
        fine = data.sel(time="2024").isel(longitude=np.repeat(np.arange(24), 2))
        fine.assign_coords(longitude=np.arange(48) * 7.5 - 3.75).to_netcdf(tmp_path / "fine.nc")
    options: dict[str, Any] = {"baselines": ["persistence"], "resamples": 100}
    one = run_evaluate([world["model"]], world["truth"], **options)
    other = run_evaluate([world["model"]], str(tmp_path / "fine.nc"), **options)
    for system in ("model", "persistence"):
        for code in MEMORY:
            values = (s["scores"][system]["crps"][code]["value"] for s in (one, other))
            np.testing.assert_allclose(*values, rtol=1e-5)
