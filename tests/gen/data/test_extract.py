"""gen.data.extract: single states of a world, small enough to ship with a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from gen.cli import main
from gen.data.extract import extract_states
from gen.data.sources import open_source
from gen.data.synthetic import toy_world
from gen.grid import LatLonGrid

TIMES = ["2020-01-02", "2020-01-03T12"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("extract") / "world.zarr"
    return toy_world(path, grid=LatLonGrid.gaussian(8, 16), levels=(500,), count=12)


def test_states_are_those_of_the_world_to_the_kept_bits(world: Path, tmp_path: Path) -> None:
    """Rounding to n mantissa bits changes no value by more than 2^-(n+1) of it; 14 for pressures, 11 K, 10 others."""
    out = extract_states(world, TIMES, tmp_path / "states.nc")
    bits = {"geopotential": 14, "mean_sea_level_pressure": 14, "surface_pressure": 14, "temperature": 11}
    with xr.open_dataset(out) as few, xr.open_zarr(world, consolidated=False) as whole:
        assert few["time"].values.astype("datetime64[h]").tolist() == [np.datetime64(t, "h").item() for t in TIMES]
        for name in few.data_vars:
            there = whole[name].sel(time=few["time"]) if "time" in few[name].dims else whole[name]
            rtol = 2.0 ** -(bits.get(str(name), 10) + 1) if "time" in few[name].dims else 0
            np.testing.assert_allclose(few[name].values, there.values, rtol=rtol, atol=0)


def test_the_file_is_an_analysis_to_start_from(world: Path, tmp_path: Path) -> None:
    """`gen data extract` writes what `--source` reads, marked as simulated."""
    out = tmp_path / "states.nc"
    assert main(f"data extract {world} --init {TIMES[0]} --init {TIMES[1]} --out {out} --quiet".split()) == 0
    source = open_source(str(out))
    assert source.times().size == 2 and source.synthetic
    assert set(source.channels()) >= set(open_source(str(world)).channels())


def test_a_time_that_is_not_there_is_one_line(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, the missing time named, and no file."""
    out = tmp_path / "states.nc"
    assert main(f"data extract {world} --init 1999-01-01 --out {out}".split()) == 2
    error = capsys.readouterr().err.strip()
    assert "has no data for 1999-01-01" in error and len(error.splitlines()) == 1 and not out.exists()
