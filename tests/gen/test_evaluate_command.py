"""`gen evaluate` from the command line: both kinds of climatology, every option, and merging without forecasts."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from downscaling.evaluate import EvaluateRequest as DownscalingRequest
from gen.cli import cli, main
from gen.data.synthetic import toy_world
from gen.evaluate import EvaluateRequest
from gen.grid import LatLonGrid

GRID, NAMES = LatLonGrid.gaussian(8, 16), ("geopotential", "2m_temperature")
LEADS = np.array([24, 48], dtype="timedelta64[h]")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Daily analytic weather of two years; two files of 3 members x 4 starts, the truth plus noise."""
    path = tmp_path_factory.mktemp("evaluate")
    toy_world(path / "truth.nc", grid=GRID, names=NAMES, levels=(500,), start="2020-01-01", count=731, step_hours=24)
    rng = np.random.default_rng(0)
    with xr.open_dataset(path / "truth.nc") as data:
        truth = data[list(NAMES)].load()
    starts = np.datetime64("2021-03-01", "ns") + np.arange(0, 16, 2) * np.timedelta64(1, "D")
    for name, inits in (("forecast0", starts[:4]), ("forecast1", starts[4:]), ("reference", starts)):
        valid = xr.DataArray(inits[:, None] + LEADS, dims=("time", "prediction_timedelta"))
        states = truth.sel(time=valid).drop_vars("time").expand_dims(number=np.arange(3))
        noisy = states.map(lambda v: v + 0.1 * float(v.std()) * rng.standard_normal(v.shape))
        noisy = noisy.assign_coords(time=inits, prediction_timedelta=LEADS.astype("timedelta64[ns]"))
        noisy.to_netcdf(path / f"{name}.nc")
    assert main(f"data climatology {path}/truth.nc --stop 2021-01-01 --out {path}/daily.nc --quiet".split()) == 0
    return path


def evaluate(line: str) -> int:
    return main(["evaluate", *line.split(), "--quiet"])


def crps(result: dict, system: str) -> list[float]:
    return result["scores"][system]["crps"]["z500"]["value"]


def test_every_field_of_the_request_is_an_option() -> None:
    """Nothing that the evaluation of either task can do is out of reach of the command line."""
    options = {p.name for p in cli.commands["evaluate"].params} - {"quiet", "task"}
    requests = (EvaluateRequest, DownscalingRequest)
    assert options == {field.name for request in requests for field in dataclasses.fields(request)}


@pytest.mark.parametrize(
    ("climatology", "count"), [("daily.nc", 1), ("truth.nc --climatology-years 2020 --climatology-members 9", 9)]
)
def test_both_kinds_of_climatology(folder: Path, tmp_path: Path, climatology: str, count: int) -> None:
    """A file of `gen data climatology` is scored as one state, a store of past states as an ensemble of them."""
    line = f"{folder}/forecast0.nc --truth {folder}/truth.nc --climatology {folder}/{climatology} --out {tmp_path}"
    assert evaluate(f"{line} --resamples 100") == 0
    result = json.loads((tmp_path / "scores.json").read_text())
    assert result["setup"]["members"]["climatology"] == count
    assert crps(result, "model") < crps(result, "climatology")


def test_options_reach_the_result(folder: Path, tmp_path: Path) -> None:
    """Channels, leads, quantiles, wavenumbers and bootstrap are those of the line; the reference is scored too."""
    line = (
        f"{folder}/forecast0.nc {folder}/forecast1.nc --truth {folder}/truth.nc --variables z500 --leads 48 "
        f"--climatology {folder}/truth.nc --climatology-years 2020 --climatology-members 5 "
        f"--climatology-window-days 3 --quantiles 0.2,0.8 --reference {folder}/reference.nc --baselines climatology "
        f"--max-wavenumber 3 --resamples 100 --block 2 --seed 4 --out {tmp_path}/s.json"
    )
    assert evaluate(line) == 0
    result = json.loads((tmp_path / "s.json").read_text())
    assert list(result["scores"]["model"]["crps"]) == ["z500"] and result["leads_hours"] == [48]
    assert set(result["scores"]) == {"model", "climatology", "reference"}
    assert list(result["brier"]["model"]) == ["above quantile 0.2", "above quantile 0.8"]
    assert len(result["spectra"]["z500"]["truth"][0]) == 4
    assert result["setup"]["interval"]["resamples"] == 100 and result["setup"]["interval"]["block"] == 2


def test_merging_needs_neither_forecasts_nor_truth(folder: Path, tmp_path: Path) -> None:
    """Two runs of one file each, merged by a third without files, score as one run of both: the same numbers."""
    common = f"--truth {folder}/truth.nc --climatology {folder}/daily.nc --region -60,60,0,180 --resamples 100"
    files = [f"{folder}/forecast{n}.nc" for n in range(2)]
    for number, file in enumerate(files):
        assert evaluate(f"{file} {common} --partial {tmp_path}/p{number}.npz") == 0
    merge = f"--merge {tmp_path}/p0.npz --merge {tmp_path}/p1.npz --resamples 100 --out {tmp_path}/merged.json"
    assert evaluate(merge) == 0
    assert evaluate(f"{' '.join(files)} {common} --out {tmp_path}/whole.json") == 0
    merged, whole = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("merged", "whole"))
    assert merged["scores"] == whole["scores"]


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("", "nothing to evaluate; name forecast files, or partial sums with --merge"),
        ("{folder}/forecast0.nc", "give --truth"),
        ("{folder}/forecast0.nc --truth {folder}/truth.nc --quantiles 1.5", "between 0 and 1"),
        ("{folder}/forecast0.nc --truth {folder}/truth.nc --leads 30", "no lead of 30 h"),
    ],
)
def test_bad_requests_are_one_line(folder: Path, capsys: pytest.CaptureFixture[str], line: str, rule: str) -> None:
    """Exit code 2 and one line that names the rule."""
    assert evaluate(line.format(folder=folder)) == 2
    error = capsys.readouterr().err
    assert rule in error and len(error.strip().splitlines()) == 1
