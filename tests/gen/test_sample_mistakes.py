"""gen sample, wrong commands and data: one line, a non-zero exit code, nothing written."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import xarray as xr
from gen_sampling import arguments, child, draw, one_line

from gen.cli import main


@pytest.mark.parametrize(
    ("wish", "parts"),
    [
        ({"init": "2020-01-02T12"}, ["no data for 2020-01-02T12", "2020-01-02T00 and 2020-01-03T00"]),
        ({"init": "1850-01-01"}, ["no data for 1850-01-01", "the nearest time is 2020-01-02T00"]),
        ({"init": "2.1.2020"}, ["init must be a date like 2024-01-01", '"2.1.2020"']),
        ({"init": "2020-02-30"}, ["not a date of the calendar", '"2020-02-30"']),
        ({"init": "2020-01-03..2020-01-02"}, ["ends before it begins"]),
        ({"region": "60,95,0,30"}, ["region needs -90 <= south < north <= 90", "95"]),
        ({"region": "30,60,0,999"}, ["[-180, 360]", "999"]),
        ({"region": "30,60,0"}, ["four numbers", "'30,60,0'"]),
        ({"region": "0,1,0,1"}, ["needs at least two of each"]),
        ({"lead": "soon"}, ["lead must look like", "'soon'"]),
        ({"lead": "0d"}, ["positive whole number of hours", "'0d'"]),
        ({"lead": "25h"}, ["lead 25 h is not a multiple of step 6 h"]),
        ({"lead": "27h", "step": "9h"}, ["step must be a multiple of the model's 6 h; got 9 h"]),
        ({"lead": "1d", "step": "36h"}, ["lead 1d is not a multiple of step 36h"]),
        ({"model": "demoo"}, ["no model 'demoo'", "did you mean 'demo'?"]),
        ({"variables": "z500,2tt"}, ["unknown channel '2tt'", "did you mean 2t?"]),
        ({"variables": "geopotental"}, ["did you mean geopotential?"]),
        ({"variables": "sst"}, ["the model has no 'sst'", "z500"]),
        ({"levels": "700"}, ["no level 700 hPa", "[500, 850]"]),
        ({"levels": "high"}, ["'high' is not a list of numbers"]),
        ({"members": 0}, ["--members", "0 is not in the range x>=1"]),
        ({"steps": 0}, ["--steps"]),
        ({"batch": 0}, ["neither a positive whole number nor 'auto'"]),
        ({"seed": -1}, ["seed must be at least 0; got -1"]),
        ({"sampler": "heum"}, ["unknown sampler 'heum'", "did you mean 'heun'?"]),
        ({"format": "csv"}, ["'csv' is not one of"]),
        ({"source": "nowhere.nc"}, ["nowhere.nc does not exist"]),
        ({"source": "s3://bucket/era5"}, ["only local paths and the stores wb2, arco-era5"]),
        ({"device": "cuda:99"}, ["there is no 'cuda:99' here"]),
        ({"parity": True}, ["--parity repeats LaDCast's own sampling", "draws increments"]),
        ({"compress": "tiny"}, ["'tiny' is not one of"]),
        ({"task": "forcast"}, ["did you mean 'forecast'?"]),
    ],
    ids=str,
)
def test_a_mistake_is_one_line(fails: Callable[..., str], wish: dict[str, Any], parts: list[str]) -> None:
    """The line holds the value, the rule and what there is; nothing was written."""
    line = fails(**wish)
    assert all(part in line for part in parts), line


def test_a_mistake_is_one_line_of_the_real_program(workshop: Path, tmp_path: Path) -> None:
    """In a process of its own, with its own logging, a missing date is exit code 2 and one line on standard error."""
    process = child(["-m", "gen", *arguments(workshop, tmp_path / "f.nc", init="2021-05-05")])
    said, errors = process.communicate(timeout=120)
    assert process.returncode == 2 and said == "" and os.listdir(tmp_path) == []
    assert len(errors.splitlines()) == 1 and "the nearest time is 2020-01-03T00" in errors


def test_an_output_that_cannot_be(workshop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing folder and a folder in place of the file are named."""
    assert main(arguments(workshop, tmp_path / "no" / "f.nc")) == 2 and "there is no folder" in one_line(capsys)
    assert main(arguments(workshop, tmp_path)) == 2 and "is a folder" in one_line(capsys)
    assert os.listdir(tmp_path) == []


def spoiled(workshop: Path, path: Path, change: Callable[[xr.Dataset], xr.Dataset]) -> Path:
    """Write a changed copy of the start states."""
    with xr.open_dataset(workshop / "model" / "initial_states.nc") as archive:
        change(archive.load()).to_netcdf(path)
    return path


def test_nan_in_the_analysis(workshop: Path, tmp_path: Path, fails: Callable[..., str]) -> None:
    """One missing value is found before anything is computed: variable, time and number of cells are named."""

    def hole(ds: xr.Dataset) -> xr.Dataset:
        ds["temperature"][0, 1, 3, 4] = np.nan
        return ds

    line = fails(source=spoiled(workshop, tmp_path / "hole.nc", hole))
    assert "t850 at 2020-01-02T00 has NaN or infinity in 1 of 512 cells" in line


def test_missing_variables_in_the_analysis(workshop: Path, tmp_path: Path, fails: Callable[..., str]) -> None:
    """What is missing, why, and what is there are named."""
    thin = spoiled(workshop, tmp_path / "thin.nc", lambda ds: ds.drop_vars(["u_component_of_wind", "2m_temperature"]))
    line = fails(source=thin)
    assert "thin.nc lacks u at 500/850 hPa; 2t; it has z, q, t, v at 500/850 hPa; msl, sp" in line
    odd = spoiled(
        workshop, tmp_path / "odd.nc", lambda ds: ds.assign(temperature=ds["temperature"].assign_attrs(units="W"))
    )
    line = fails(source=odd)
    assert "lacks t at 500/850 hPa" in line and "W" in line, line


def test_a_damaged_model_is_not_used(workshop: Path, tmp_path: Path, fails: Callable[..., str]) -> None:
    """One changed byte in the weights is found by its hash; a lost file and another kind of model are refused."""
    weights = Path("dynamics") / "diffusion_pytorch_model.safetensors"
    shutil.copytree(workshop / "model", tmp_path / "model")
    raw = bytearray((tmp_path / "model" / weights).read_bytes())
    raw[-5] ^= 1
    (tmp_path / "model" / weights).write_bytes(raw)
    line = fails(model=tmp_path / "model")
    assert "is damaged: dynamics/diffusion_pytorch_model.safetensors has SHA-256" in line
    (tmp_path / "model" / weights).unlink()
    assert "lacks dynamics/diffusion_pytorch_model.safetensors" in fails(model=tmp_path / "model")
    assert "kind 'codec', not a forecast model" in fails(model=workshop / "codec")
    assert "is no model folder" in fails(model=tmp_path)


@pytest.mark.parametrize("source", ["wb2", "arco-era5"])
def test_no_network_is_said_within_five_seconds(
    fails: Callable[..., str], source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that cannot be looked up, with everything that leads outside switched off."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for name in [n for n in os.environ if n.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    began = time.monotonic()
    line = fails(source=source)
    assert f"no network for {source}" in line and "give a local file" in line
    assert time.monotonic() - began < 5


def test_a_disk_too_small_is_seen_before(
    workshop: Path, fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The size is estimated first; nothing is begun that cannot be finished."""
    import gen.writers.staged as staged

    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(staged.shutil, "disk_usage", lambda path: usage)
    assert "the disk is too small" in fails()


# Real analyses with the channels and the grid of the demo.


@pytest.fixture(scope="module")
def demo_sized(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(tiny.demo_sized(tmp_path_factory.mktemp("demo")))


def test_a_real_state_runs_and_is_no_weather_forecast(
    shared: Path, demo_sized: Path, workshop: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The ERA5 state of 1959-01-02 starts a model of the demo's size; file and log say what it is not.

    The first frames stay within 20 K of the analysis at 850 hPa in the mean, and what had to be derived is listed.
    """
    start = shared / "data" / "era5" / "era5_tl31_19590102T00.nc"
    asked = {"model": demo_sized, "source": start, "init": "1959-01-02", "members": 2, "lead": "12h"}
    got = draw(workshop, tmp_path / "real.nc", **asked)
    assert "this is not a weather forecast" in got.attrs["warning"]
    assert any("this is not a weather forecast" in record.message for record in caplog.records)
    assert got.attrs["analysis"] == start.name
    assert all(word in got.attrs["analysis_notes"] for word in ("tp06 is unknown", "msl", "sp", "2t", "10u", "10v"))
    assert all(np.isfinite(values).all() for values in got.data_vars.values())
    mean = float(got["temperature"].sel(level=850).weighted(np.cos(np.deg2rad(got["latitude"]))).mean())
    assert abs(mean - 279) < 20


def test_ten_members_without_winds_are_no_start(shared: Path, demo_sized: Path, fails: Callable[..., str]) -> None:
    """The ensemble GRIB has geopotential and temperature only: one line names what is missing and what is there."""
    pytest.importorskip("cfgrib", reason="GRIB needs the extra `grib`")
    states = shared / "data" / "era5" / "era5-levels-members.grib"
    line = fails(model=demo_sized, source=states, init="2017-01-01")
    assert "lacks" in line and all(text in line for text in ("u, v, q at 100/250/500/700/850 hPa", "10u, 10v"))
    assert "it has z, t at 500/850 hPa" in line
