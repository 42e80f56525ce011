"""gen.convert: another name for the same numbers."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from gen import convert
from gen.cli import main
from gen.convert import run_convert
from gen.data.variables import make_channels
from gen.grid import LatLonGrid
from gen.metrics.stores import ForecastStore
from gen.writers.spec import FileSpec
from gen.writers.staged import StagedWriter

MEMBERS, LEADS = 3, 4


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small forecast: two starts, three members, two levels, a missing value."""
    path = tmp_path_factory.mktemp("convert") / "a.nc"
    spec = FileSpec(
        channels=make_channels(
            ["geopotential", "temperature", "2m_temperature", "10m_u_component_of_wind"], [500, 850]
        ),
        grid=LatLonGrid.equiangular(5, 8, poles=True),
        members=MEMBERS,
        inits=np.array(["2024-01-01", "2024-01-02T12"], "datetime64[h]"),
        leads=np.arange(1, LEADS + 1) * np.timedelta64(6, "h"),
        attrs={"seed": "3", "history": "made by a test"},
    )
    rng = np.random.default_rng(0)
    with StagedWriter(path, spec, "netcdf", "test") as writer:
        for init in range(2):
            values = rng.normal(size=(MEMBERS, LEADS, *spec.value_shape)).astype(np.float32)
            values[0, 0, 0, 0, 0] = np.nan
            writer.write(init, slice(0, MEMBERS), values)
            writer.commit(init, slice(0, MEMBERS))
    return path


def contents(path: Path) -> dict[str, np.ndarray]:
    store = ForecastStore(path)
    return {f"{c.code} {i}": store.read(i, store.leads, c).numpy() for i in store.inits for c in store.channels}


@pytest.mark.parametrize("format", ["netcdf", "zarr"])
@pytest.mark.parametrize("layout", ["weatherbench", "cf", "earth2studio"])
def test_every_layout_and_format_holds_the_same_bits(
    original: Path, tmp_path: Path, layout: str, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There and back again: channels, coordinates and all values are bit for bit the original's, block by block."""
    monkeypatch.setattr(convert, "BLOCK_BYTES", 2000)  # one member and one lead time at a time
    there = run_convert(original, tmp_path / f"b.{'nc' if format == 'netcdf' else 'zarr'}", layout=layout)
    back = run_convert(there, tmp_path / "c.nc", layout="weatherbench")
    expected = contents(original)
    for path in (there, back):
        found = contents(path)
        assert found.keys() == expected.keys()
        for key, values in expected.items():
            np.testing.assert_array_equal(found[key], values)
    with xr.open_dataset(original) as a, xr.open_dataset(back) as b:
        xr.testing.assert_identical(a.drop_attrs(), b.drop_attrs())


def test_layout_stays_and_history_grows(original: Path, tmp_path: Path) -> None:
    """Without --layout the names stay as they were; provenance goes along and the conversion is noted."""
    cf = run_convert(original, tmp_path / "cf.nc", layout="cf")
    store = run_convert(cf, tmp_path / "cf.zarr")
    with xr.open_dataset(store, engine="zarr") as data:
        assert data["tas"].dims == ("realization", "forecast_period", "forecast_reference_time", "lat", "lon")
        assert data.attrs["seed"] == "3"
        lines = data.attrs["history"].splitlines()
    assert lines[0] == "made by a test"
    assert "converted from a.nc" in lines[1] and "converted from cf.nc" in lines[2]


def test_what_is_not_ours_is_refused_in_one_line(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A foreign file, no NetCDF at all, the file itself, an unknown layout: one line, exit code 2, nothing written."""
    foreign, text = tmp_path / "foreign.nc", tmp_path / "text.nc"
    xr.Dataset({"t": ("x", [1.0])}).to_netcdf(foreign)
    text.write_text("no")
    out = tmp_path / "out.nc"
    cases = {
        "was not written by gen": [str(foreign), "--out", str(out)],
        "neither NetCDF nor Zarr": [str(text), "--out", str(out)],
        "is the file to be read": [str(original), "--out", str(original)],
        "does not exist": [str(tmp_path / "none.nc"), "--out", str(out)],
        "'cff' is not one of": [str(original), "--out", str(out), "--layout", "cff"],
        "--static is for weights; say whose they are with --from": [str(original), "--out", str(out), "--static", "x"],
        "--layout is for forecast files": [str(tmp_path), "--out", str(out), "--from", "ladcast", "--layout", "cf"],
        "unknown origin 'ladcats'; did you mean 'ladcast'": [str(tmp_path), "--out", str(out), "--from", "ladcats"],
        "five static fields": [str(tmp_path), "--out", str(out), "--from", "ladcast"],
    }
    for words, arguments in cases.items():
        assert main(["convert", *arguments]) == 2
        message = capsys.readouterr().err
        assert message.startswith("error: ") and message.count("\n") == 1 and words in message
    assert not out.exists()


def test_weights_go_to_the_task_that_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--from` calls the function of the table with what was given and says what it wrote."""
    calls = []
    module = types.ModuleType("a_reader_of_weights")
    module.read = lambda *places, **options: calls.append((places, options)) or tmp_path / "model"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "a_reader_of_weights", module)
    monkeypatch.setitem(convert.IMPORTS, "ladcast", "a_reader_of_weights:read")
    out = tmp_path / "model"
    arguments = ["someone/weights", "--from", "ladcast", "--out", str(out), "--transformer", "V0.1.X/375M"]
    assert main(["convert", *arguments, "--static", "fields.nc", "--dtype", "float16"]) == 0
    options = {"transformer": "V0.1.X/375M", "static": Path("fields.nc"), "dtype": "float16"}
    assert calls == [(("someone/weights", out), options)]
    assert str(out) in capsys.readouterr().out


def test_an_unknown_layout_gets_the_near_miss(original: Path, tmp_path: Path) -> None:
    """From Python, too, a mistyped word names the one that was meant."""
    with pytest.raises(ValueError, match="unknown layout 'weatherbnch'; did you mean 'weatherbench'"):
        run_convert(original, tmp_path / "x.nc", layout="weatherbnch")
    with pytest.raises(ValueError, match="unknown format 'grib'; choose netcdf, zarr"):
        run_convert(original, tmp_path / "x.nc", format="grib")
