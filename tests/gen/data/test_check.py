"""gen.data.check: budgets, variability and error growth of worlds whose numbers are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from gen.cli import main
from gen.data.check import doubling_time, run_check
from gen.grid import LatLonGrid

GRID = LatLonGrid.gaussian(8, 16)
CHUNK, CHUNKS, DONE = 40, 12, 9  # ten days each; the last three are not simulated yet
HOURS = np.datetime64("2001-12-01T06", "h").astype(np.int64) + 6 * np.arange(CHUNK * CHUNKS)
WAVE_M, RAIN, EVAPORATION, STORAGE = 70.0, 1e-3, 0.9e-3, 0.02


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A z500 wave of 70 m that turns once in ten days, steady rain, and a column that fills slowly."""
    group: Any = zarr.open_group(tmp_path / "world.zarr", mode="w")
    days = np.arange(HOURS.size) / 4
    wave = np.cos(2 * np.pi * days[:, None] / 10 + np.deg2rad(GRID.longitude))[:, None, :] * WAVE_M * 9.81
    z = np.broadcast_to(wave, (HOURS.size, *GRID.shape)) + 54000.0
    fields = {"geopotential": np.stack([z, z], axis=1), "total_precipitation_6hr": np.full(z.shape, RAIN)}
    series = {
        "global_mean_evaporation_6hr": np.full(HOURS.size, EVAPORATION),
        "global_mean_column_water": 25.0 + STORAGE * np.arange(HOURS.size),
        "global_mean_dry_surface_pressure": 98000.0 + 3.0 * (-1.0) ** np.arange(HOURS.size),
    }
    for name, values in {**fields, **series}.items():
        values = values.astype(np.float32)
        values[CHUNK * DONE :] = np.nan
        group.create_array(name, data=values, chunks=(CHUNK, *values.shape[1:]))
    axes = {"time": HOURS, "level": np.array([250, 500]), "latitude": GRID.latitude, "longitude": GRID.longitude}
    for name, values in axes.items():
        group.create_array(name, data=values)
    return tmp_path / "world.zarr"


def test_budgets_are_those_of_the_finished_part(world: Path) -> None:
    """Millimetres per day of 1e-3 m in six hours, the storage between, and the spread of dry mass."""
    result = run_check(world)
    assert result["years"] == round(CHUNK * DONE / 1461, 2) and result["missing_values"] == 0
    expected = {
        "rain_mm_per_day": 4.0,
        "evaporation_mm_per_day": 3.6,
        "storage_mm_per_day": 4 * STORAGE,
        "column_water_mm": 25.0 + STORAGE * (CHUNK * DONE - 1) / 2,
        "dry_pressure_pa": 98000.0,
        "dry_pressure_std_pa": 3.0,
    }
    assert result["budgets"] == pytest.approx(expected, rel=1e-4)


def test_missing_values_are_counted(world: Path) -> None:
    """Holes in the chunks that are looked at (every tenth) are found, those of the unfinished part do not count."""
    group: Any = zarr.open_group(world, mode="r+")
    group["geopotential"][3, 1, 2, :5] = np.nan
    group["total_precipitation_6hr"][0, 0, 0] = np.inf
    assert run_check(world)["missing_values"] == 6


def test_variability_is_the_deviation_of_the_wave(world: Path) -> None:
    """A wave of amplitude A has the standard deviation A / sqrt(2) in either hemisphere; only simulated seasons."""
    result = run_check(world)["z500_variability_m"]
    assert set(result) == {"DJF"}
    assert result["DJF"] == pytest.approx({"north": WAVE_M / 2**0.5, "south": WAVE_M / 2**0.5}, rel=1e-4)


def reference(world: Path, path: Path, growth: float) -> Path:
    """Two runs whose error is one metre after a day and grows by a factor each day."""
    truth: Any = zarr.open_group(world, mode="r")
    starts, leads = np.array([39, 119]), 20
    error = 9.81 * growth ** (np.arange(1, leads + 1) / 4 - 1)
    group: Any = zarr.open_group(path, mode="w")
    z = np.stack([np.asarray(truth["geopotential"][s + 1 : s + 1 + leads]) for s in starts])
    group.create_array("geopotential", data=(z + error[:, None, None, None])[None].astype(np.float32))
    axes = {"time": HOURS[starts], "level": np.array([250, 500])}
    for name, values in {**axes, "latitude": GRID.latitude, "longitude": GRID.longitude}.items():
        group.create_array(name, data=values)
    return path


@pytest.mark.parametrize(("growth", "days"), [(2.0, 1.0), (2.0**0.5, 2.0)])
def test_errors_that_double_are_said_to_double(world: Path, tmp_path: Path, growth: float, days: float) -> None:
    """RMSE of z500 by day, from one metre on, and the doubling time between days (values have two decimals)."""
    result = run_check(world, reference(world, tmp_path / "reference.zarr", growth))["error_growth"]
    assert result["starts"] == 2
    np.testing.assert_allclose(result["z500_rmse_m_by_day"], growth ** np.arange(5.0), rtol=0.01)
    np.testing.assert_allclose(result["doubling_days_by_day"], days, rtol=0.02)


def test_doubling_time() -> None:
    """Constant and shrinking errors never double."""
    assert doubling_time(np.array([1.0, 2.0, 8.0, 8.0, 4.0])) == pytest.approx([1.0, 0.5, np.inf, np.inf])


def test_the_command_writes_json(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`gen data check` prints what it writes to --out."""
    out = tmp_path / "check.json"
    assert main(["data", "check", str(world), "--out", str(out)]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(out.read_text())
    assert json.loads(out.read_text())["world"] == "world.zarr"


def test_results_are_strict_json(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors that do not grow double never: null with a note, since JSON knows no infinity; NaN likewise."""
    import gen.data.check as check

    growth = {"doubling_days_by_day": [2.5, float("inf")], "note": "null where errors do not grow"}
    monkeypatch.setattr(check, "error_growth", lambda reference, group: growth)
    monkeypatch.setattr(check, "variability", lambda group, whole: {"DJF": {"north": float("nan")}})
    run_check(world, reference=world, out=tmp_path / "c.json")

    def refuse(word: str) -> None:
        raise AssertionError(word)

    read = json.loads((tmp_path / "c.json").read_text(), parse_constant=refuse)
    assert read["error_growth"]["doubling_days_by_day"] == [2.5, None] and "note" in read["error_growth"]
    assert read["z500_variability_m"]["DJF"]["north"] is None
