"""`gen sample --task downscaling` from the command line: files, bits, chains, mistakes, memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from downscaling.overlap import Overlap
from downscaling.request import DownscalingRequest
from downscaling.task import Downscaling
from gen.cli import main
from gen.grid import LatLonGrid

Rain = Callable[..., np.ndarray]


def command(model: Path, out: Path, **wish: Any) -> list[str]:
    options = {"model": model, "out": out, "device": "cpu", "members": 2, **wish}
    given = [(f"--{k.replace('_', '-')}", v) for k, v in options.items() if v is not None]
    flat = [t for k, v in given for t in ([k] if v is True else [k, str(v)])]
    return ["sample", "--task", "downscaling", "--quiet", "--no-plot", *flat]


def read(path: Path) -> xr.Dataset:
    with xr.open_zarr(path) if path.is_dir() else xr.open_dataset(path) as opened:
        return opened.load()


@pytest.fixture(scope="module")
def coarse(tmp_path_factory: pytest.TempPathFactory, rain: Rain) -> Path:
    """Return a file of two hours of coarse rain with one missing cell, rows from north to south."""
    path = tmp_path_factory.mktemp("coarse") / "coarse.nc"
    values = np.stack([rain(70, 12, seed) for seed in (0, 1)])
    values[0, 3, 3] = np.nan
    axes = {
        "time": np.array(["2024-01-01T00", "2024-01-01T01"], "datetime64[ns]"),
        "latitude": 60 - 0.25 * np.arange(70),
        "longitude": 5 + 0.25 * np.arange(12),
    }
    dims = ("time", "latitude", "longitude")
    xr.Dataset({"pr": (dims, values, {"units": "mm/h"})}, axes).to_netcdf(path)
    return path


@pytest.fixture(scope="module")
def fine(coarse: Path, model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file that a run with factor 4 makes (280 x 48 pixels: two bands of rows)."""
    out = tmp_path_factory.mktemp("fine") / "fine.nc"
    assert main(command(model_folder, out, input=coarse, factor=4)) == 0
    return out


def test_the_command_runs_without_an_argument_beyond_the_task(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The packaged model brings its own rain; the file and the figure lie where the command was given."""
    import gen.hub

    monkeypatch.setattr(gen.hub, "_packaged", lambda name: model_folder)
    monkeypatch.chdir(tmp_path)
    assert main(["sample", "--task", "downscaling", "--quiet", "--times", "2024-01-15T08"]) == 0
    file = read(tmp_path / "fine_rain.nc")
    assert file.sizes["realization"] == 8 and file.sizes["time"] == 1 and file.attrs["synthetic"] == "true"
    assert (tmp_path / "fine_rain.png").stat().st_size > 20_000


def test_the_file_says_what_it_holds(fine: Path, coarse: Path) -> None:
    """CF names, bounds, the coarse input as it was read, conservation and provenance."""
    file, given = read(fine), read(coarse)
    rate = file["precipitation"]
    assert rate.dims == ("realization", "time", "latitude", "longitude")
    assert rate.attrs["standard_name"] == "precipitation_flux" and rate.attrs["units"] == "kg m-2 h-1"
    assert rate.attrs["cell_methods"] == "area: mean time: mean"
    assert (file["time_bnds"][:, 1] == file["time"]).all()
    np.testing.assert_array_equal(file["coarse_precipitation"][0].values, given["pr"].values[:, ::-1])
    assert float(file.attrs["conservation_largest_violation_mm_per_h"]) <= 1e-6 * float(given["pr"].max())
    assert file.attrs["factor"] == "4 x 4" and len(file.attrs["model_hash"]) == 64 and file.attrs["seed"] == "0"
    assert int(np.isnan(rate.values).sum()) == 2 * 16


def test_coarse_amounts_are_kept_in_the_file(fine: Path, coarse: Path) -> None:
    """Area means of the stored float32 values, on the sphere, are the input's to 1e-6 of its maximum."""
    file, given = read(fine), read(coarse)["pr"][:, ::-1]
    grids = (LatLonGrid(d.latitude.values, d.longitude.values) for d in (given, file))
    lap = Overlap.between(*grids, np.isfinite(file["precipitation"].values[0, 1]))
    means = lap.apply(file["precipitation"].values[:, 1])
    assert np.nanmax(np.abs(means - given.values[1])) <= 1e-6 * float(given.max())


def test_zarr_holds_the_same_bits(fine: Path, coarse: Path, model_folder: Path, tmp_path: Path) -> None:
    """The container changes nothing; blocks of one member neither."""
    out = tmp_path / "fine.zarr"
    assert main(command(model_folder, out, input=coarse, factor=4, batch=1)) == 0
    a, b = read(fine), read(out)
    assert a["precipitation"].values.tobytes() == b["precipitation"].values.tobytes()
    for name in ("time", "latitude", "longitude", "coarse_precipitation", "coarse_member"):
        np.testing.assert_array_equal(a[name].values, b[name].values)


def test_a_stopped_run_goes_on_with_the_same_bits(
    fine: Path, coarse: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after the first band of the second time; --resume draws what is missing and no more."""
    out, drawn, sample = tmp_path / "fine.nc", list[int](), Downscaling.sample

    def stopping(self: Downscaling, unit: Any) -> Any:
        for band in sample(self, unit):
            if band.part.init_index == 3:
                raise KeyboardInterrupt
            yield band

    def counted(self: Downscaling, unit: Any) -> Any:
        drawn.extend(p.init_index for p in unit.parts)
        return sample(self, unit)

    wish = {"input": coarse, "factor": 4}
    monkeypatch.setattr(Downscaling, "sample", stopping)
    assert main(command(model_folder, out, **wish)) == 1 and not out.exists()
    monkeypatch.setattr(Downscaling, "sample", counted)
    assert main(command(model_folder, out, resume=True, **wish)) == 0
    assert sorted(drawn)[-1] == 3 and 0 not in drawn
    a, b = read(fine), read(out)
    assert a["precipitation"].values.tobytes() == b["precipitation"].values.tobytes()
    assert a.attrs["conservation_largest_multiplier"] == b.attrs["conservation_largest_multiplier"]


def test_compliance_with_cf(fine: Path) -> None:
    """The checker of the CF conventions 1.11 finds nothing."""
    checker = Path(sys.executable).with_name("compliance-checker")
    if not checker.exists():
        pytest.skip("compliance-checker is not installed")
    report = subprocess.run([checker, "--test=cf:1.11", "--criteria=strict", fine], capture_output=True, text=True)
    assert report.returncode == 0 and "All tests passed!" in report.stdout, report.stdout


def test_a_forecast_is_refined_member_by_member(model_folder: Path, tmp_path: Path, rain: Rain) -> None:
    """Rain in metres per six hours of two members gives four fine ones in mm/h, two for each in order."""
    amounts = np.stack([rain(12, 12, seed) for seed in range(4)]).reshape(2, 1, 2, 12, 12) * 6e-3
    axes = {
        "number": [0, 1],
        "time": np.array(["2024-01-01"], "datetime64[ns]"),
        "prediction_timedelta": np.array([6, 12], "timedelta64[h]").astype("timedelta64[ns]"),
        "latitude": 45 + 1.5 * np.arange(12),
        "longitude": 1.5 * np.arange(12),
    }
    name = "total_precipitation_6hr"
    file = xr.Dataset({name: (tuple(axes), amounts.astype("f4"), {"units": "m"})}, axes)
    file.to_netcdf(tmp_path / "forecast.nc")
    assert main(command(model_folder, tmp_path / "f.nc", input=tmp_path / "forecast.nc", members=4, factor=5)) == 0
    made = read(tmp_path / "f.nc")
    assert made["coarse_member"].values.tolist() == [0, 0, 1, 1]
    lap = Overlap.between(
        LatLonGrid(axes["latitude"], axes["longitude"]), LatLonGrid(made.latitude.values, made.longitude.values)
    )
    means = lap.apply(made["precipitation"].values)
    wanted = (amounts * 1000 / 6)[:, 0].repeat(2, axis=0)
    assert np.abs(means - wanted).max() <= 1e-5
    assert (made["time_bnds"][:, 1] - made["time_bnds"][:, 0] == np.timedelta64(6, "h")).all()


def _broken(kind: str, rain: Rain, path: Path) -> dict[str, Any]:
    """Write an input with a mistake and return the options of the command."""
    values, units = rain(12, 12), "mm/h"
    latitude = 40 + 0.25 * np.arange(12.0)
    if kind == "metres":
        values, units = values / 1e6, "mm/h"
    if kind == "negative":
        values[3, 4] = -1.0
    if kind == "irregular":
        latitude[5] += 0.1
    axes = {"time": [np.datetime64("2024-01-01", "ns")], "latitude": latitude, "longitude": 5 + 0.25 * np.arange(12)}
    xr.Dataset({"pr": (tuple(axes), values[None], {"units": units})}, axes).to_netcdf(path)
    return {"input": path, "interval": 1}


@pytest.mark.parametrize(
    ("kind", "wish", "words"),
    [
        ("metres", {}, "looks like metres"),
        ("negative", {}, "negative rain"),
        ("irregular", {}, "regular|even"),
        ("", {"factor": 0.5}, "factor must be between 1 and"),
        ("", {"spacing": 0.5}, "must not be wider"),
        ("", {"region": "horn-of-afrika"}, "did you mean horn-of-africa"),
        ("", {"region": "0,5,100,120"}, "beside the input"),
        ("", {"times": "2023-05-01"}, "no time 2023-05-01"),
        ("", {"times": "soon"}, "times must look like"),
        ("", {"model": "demo"}, "kind 'forecast', not a downscaling model"),
        ("", {"sampler": "hoin"}, "did you mean 'midpoint'"),
        ("", {"conserve": "some"}, "conserve"),
        ("", {"lead": "5d"}, "--lead"),
        ("", {"out": "nowhere/f.nc"}, "no folder"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_written(
    kind: str,
    wish: dict[str, Any],
    words: str,
    model_folder: Path,
    tmp_path: Path,
    rain: Rain,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit code 2, one line, an empty folder."""
    import re

    given = _broken(kind, rain, tmp_path / "in.nc")
    (tmp_path / "out").mkdir()
    wish = {**given, **wish, **({"out": tmp_path / wish["out"]} if "out" in wish else {})}
    assert main(command(wish.pop("model", model_folder), wish.pop("out", tmp_path / "out" / "f.nc"), **wish)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and re.search(words, lines[0]), lines
    assert not os.listdir(tmp_path / "out")


def test_a_full_disk_is_told_before_the_work(
    coarse: Path,
    model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """When the file cannot fit nothing is drawn and nothing stays."""
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    assert main(command(model_folder, tmp_path / "f.nc", input=coarse)) == 2
    assert "the disk is too small" in capsys.readouterr().err
    assert not os.listdir(tmp_path)


def test_help_lists_the_options_of_the_task(capsys: pytest.CaptureFixture[str]) -> None:
    """Options of downscaling appear with its name and not without; they are the fields of its request."""
    import dataclasses

    from gen.cli import cli

    assert main(["sample", "--task", "downscaling", "--help"]) == 0
    text = capsys.readouterr().out
    assert "--factor" in text and "--lead" not in text
    assert main(["sample", "--help"]) == 0
    text = capsys.readouterr().out
    assert "--factor" not in text and "--lead" in text
    options = {p.name for p in cli.commands["sample"].commands["downscaling"].params} - {"task", "quiet"}  # type: ignore[attr-defined]
    assert options == {field.name for field in dataclasses.fields(DownscalingRequest)}


MEASURED = """
import resource, sys
import numpy as np, torch
from downscaling.sampling import RainSampler
RainSampler._tile = lambda self, coarse, row, column, weights, members, turn=0: torch.ones(
    len(members), 2, row.stop - row.start, column.stop - column.start)
from gen.cli import main
assert main(sys.argv[1:]) == 0
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_domain(tmp_path: Path, tiny_model: Any, with_sampling: Any) -> None:
    """The peak for 4,000 x 4,000 pixels is at most 1.5 times that for 1,000 x 1,000, the network left out of both."""
    with_sampling(tile=256, overlap=64).save(tmp_path / "model")
    peaks = []
    for cells in (250, 1000):
        axes = {
            "time": [np.datetime64("2024-01-01", "ns")],
            "latitude": -20 + 0.04 * np.arange(cells),
            "longitude": 0.04 * np.arange(cells),
        }
        values = np.ones((1, cells, cells), np.float32)
        coarse = tmp_path / f"{cells}.nc"
        xr.Dataset({"pr": (tuple(axes), values, {"units": "mm/h"})}, axes).to_netcdf(coarse)
        wish = command(tmp_path / "model", tmp_path / f"f{cells}.nc", input=coarse, factor=4, members=1, interval=1)
        root = str(Path(__file__).parents[2])
        env = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
        run = [sys.executable, "-c", MEASURED, *wish]
        done = subprocess.run(run, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        peaks.append(float(done.stdout.split()[-1]))
    assert peaks[1] <= 1.5 * peaks[0], peaks


def test_rain_far_outside_the_training_data_is_told_guarded_and_kept(
    coarse: Path, model_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Fifty times the rain: a warning and an index above 1 in the file; finite rates, the amounts of the input."""
    with xr.open_dataset(coarse) as data:
        (data * 50).assign(pr=(data.pr * 50).clip(max=1900).assign_attrs(units="mm/h")).to_netcdf(tmp_path / "much.nc")
    out = tmp_path / "fine.nc"
    assert (
        main(command(model_folder, out, input=tmp_path / "much.nc", factor=4, align="qm", times="2024-01-01T01")) == 0
    )
    file = read(out)
    assert float(file.attrs["ood_index"].split()[0]) > 1 and "guarded" in file.attrs["warning"]
    index, rates = file["ood_index"], file["coarse_precipitation"]
    assert index.dims == rates.dims and index.attrs["units"] == "1" and index.attrs["valid_min"] == 0
    np.testing.assert_array_equal(np.isnan(index.values), np.isnan(rates.values))
    assert float(index.max()) == pytest.approx(float(file.attrs["ood_index"].split()[0]), rel=0.01)
    share = float((index > 1).sum() / np.isfinite(rates).sum())
    line = next(t for t in file.attrs["ood_index_of_regions"].split("; ") if t.startswith("whole field"))
    assert float(line.split()[-6]) == pytest.approx(100 * share, rel=0.06) and share > 0
    assert file.attrs["alignment"].startswith("quantile mapping")
    values = file["precipitation"].values
    assert np.isfinite(values).all() and values.max() < 2000 * 16
    assert float(file.attrs["conservation_largest_violation_mm_per_h"]) < 2e-3
