"""gen.data.simulate: requests, jobs, stores and failures, with a stand-in for the simulator; jcm itself is not run."""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
import time
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import xarray as xr
import zarr

from gen.cli import main
from gen.data import simulate
from gen.data.simulate import WorldRequest, ensure_environment, simulate_reference, simulate_world
from gen.data.sources import open_source
from gen.grid import LatLonGrid

STAND_IN = """#!{python}
import json, sys, pathlib
job = json.loads(pathlib.Path(sys.argv[-1]).read_text())
here = pathlib.Path(sys.argv[-1]).parent
with open(here / "order.txt", "a") as order:
    print(job["kind"], job.get("segment", ""), file=order)
if (here / "broken").exists():
    print("some frames", file=sys.stderr)
    sys.exit("FloatingPointError: temperature is not finite: the integration blew up")
if job["kind"] == "grid":
    import numpy as np
    nodes = np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(4)[0]))
    flat = np.ones((4, 8), dtype="float32")
    np.savez(job["out"], latitude=nodes, longitude=45.0 * np.arange(8), land_sea_mask=flat,
             geopotential_at_surface=100 * flat)
if job["kind"] == "segment":
    restarts = pathlib.Path(job["restarts"])
    restarts.mkdir(parents=True, exist_ok=True)
    for chunk in range(job["days"] // 10):
        progress = restarts / f"segment{{job['segment']:03d}}.json"
        progress.with_suffix(".partial").write_text(json.dumps({{"chunks": chunk + 1}}))
        progress.with_suffix(".partial").replace(progress)
        if job["keep_restarts"]:
            (restarts / f"state{{job['first'] + 40 * (chunk + 1) - 1:07d}}.npz").touch()
if job["kind"] == "ensemble":
    for start in job["starts"]:
        (pathlib.Path(job["progress"]) / f"start{{start['index']:04d}}.done").touch()
"""


@pytest.fixture
def simulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put an interpreter that only pretends in the place of the simulator's environment; looks follow quickly."""
    home = tmp_path / "cache" / "jcm-3.0.0"
    (home / "bin").mkdir(parents=True)
    (home / "complete").touch()
    (home / "bin" / "python").write_text(STAND_IN.format(python=sys.executable))
    (home / "bin" / "python").chmod(0o755)
    monkeypatch.setenv("GEN_EARTH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(simulate, "time", types.SimpleNamespace(sleep=lambda seconds: time.sleep(0.02)))
    return home


@pytest.fixture
def request_(tmp_path: Path) -> WorldRequest:
    """Ask for three segments of 30 days."""
    return WorldRequest(
        out=tmp_path / "world.zarr", years=0.2, seed=7, start="2001-01-01", segment_days=30, spinup_days=10, workers=1
    )


def order(request: WorldRequest) -> list[str]:
    return (request.out.with_suffix(".work") / "order.txt").read_text().split("\n")[:-1]


def test_the_store_is_laid_out_before_it_is_filled(simulator: Path, request_: WorldRequest) -> None:
    """Axes, units, chunks of ten days, independent segments; the first frame is the end of the first six hours."""
    assert simulate_world(request_) == request_.out
    group: Any = zarr.open_group(request_.out, mode="r")
    assert group["geopotential"].shape == (360, 5, 4, 8) and group["geopotential"].chunks == (40, 5, 4, 8)
    assert group["total_precipitation_6hr"].attrs["units"] == "m" and group.attrs["synthetic"] == "true"
    assert group.attrs["segments"] == [{"first": 120 * k, "stop": 120 * (k + 1), "seed": 7000 + k} for k in range(3)]
    with xr.open_zarr(request_.out) as ds:
        times = ds["time"].values.astype("datetime64[h]")
        assert str(times[0]) == "2001-01-01T06" and (np.diff(times) == np.timedelta64(6, "h")).all()
        assert ds["temperature"].dims == ("time", "level", "latitude", "longitude")
        assert bool(ds["temperature"].isnull().all()) and bool((ds["land_sea_mask"] == 1).all())
        grid = LatLonGrid(ds["latitude"].values, ds["longitude"].values)
    assert grid == LatLonGrid.gaussian(4, 8) and grid.is_global
    source = open_source(request_.out)
    assert source.synthetic and len(source.channels()) >= 31


def test_segments_are_jobs(simulator: Path, request_: WorldRequest) -> None:
    """The last segment, which is held out, comes first and keeps its restarts; dates and places follow one another."""
    simulate_world(request_)
    assert order(request_) == ["grid ", "segment 2", "segment 1", "segment 0"]
    work = request_.out.with_suffix(".work")
    jobs = [json.loads((work / f"segment{k:03d}.job").read_text()) for k in range(3)]
    assert [j["start"] for j in jobs] == ["2001-01-01", "2001-01-31", "2001-03-02"]
    assert [j["first"] for j in jobs] == [0, 120, 240] and [j["seed"] for j in jobs] == [7000, 7001, 7002]
    assert [j["keep_restarts"] for j in jobs] == [False, False, True]


def test_jobs_hold_what_the_worker_reads(simulator: Path, request_: WorldRequest) -> None:
    """Every `job["..."]` in the worker's functions is a key of the job that is written for them."""
    simulate_world(request_)
    simulate_reference(request_.out, request_.out.with_name("ensemble.zarr"), ["2001-03-20"], members=2, lead_days=1)
    files = {"segment": request_.out.with_suffix(".work") / "segment000.job",
             "grid": request_.out.with_suffix(".work") / "grid000.job",
             "ensemble": request_.out.with_name("ensemble.work") / "ensemble000.job"}  # fmt: skip
    tree = ast.parse(Path(simulate.__file__).with_name("jcm_worker.py").read_text())
    for function in [f for f in tree.body if isinstance(f, ast.FunctionDef) and f.name.startswith("run_")]:
        read = {
            n.slice.value
            for n in ast.walk(function)
            if isinstance(n, ast.Subscript) and isinstance(n.value, ast.Name) and n.value.id == "job"
            and isinstance(n.slice, ast.Constant)
        }  # fmt: skip
        assert read and read <= set(json.loads(files[function.name.removeprefix("run_")].read_text()))


def test_an_unfinished_world_is_continued(simulator: Path, request_: WorldRequest) -> None:
    """Only segments that lack chunks are started again; progress counts the chunks of all."""
    simulate_world(request_)
    work = request_.out.with_suffix(".work")
    (work / "order.txt").unlink()
    (work / "restarts" / "segment001.json").write_text(json.dumps({"chunks": 2}))
    said: list[tuple[int, int]] = []
    simulate_world(replace(request_, workers=2), lambda done, total: said.append((done, total)))
    assert order(request_) == ["segment 1"] and said[-1] == (9, 9)


def test_a_store_of_another_request_is_not_touched(
    simulator: Path, request_: WorldRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another seed or length is refused in one line before the simulator is needed; more workers are no change."""
    simulate_world(request_)
    before = {p: p.stat().st_mtime_ns for p in request_.out.rglob("*") if p.is_file()}
    (simulator / "complete").unlink()
    asked = f"data simulate --out {request_.out} --years 0.2 --seed 8 --start 2001-01-01 --segment-days 30 --quiet"
    assert main(asked.split()) == 2
    line = capsys.readouterr().err
    assert len(line.splitlines()) == 1 and "was made by another request" in line and "choose another --out" in line
    assert {p: p.stat().st_mtime_ns for p in request_.out.rglob("*") if p.is_file()} == before


def test_a_worker_that_fails_is_one_line(
    simulator: Path, request_: WorldRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last line of its log and the log's path; the world can be continued afterwards."""
    simulate_world(request_)
    work = request_.out.with_suffix(".work")
    (work / "restarts" / "segment002.json").unlink()
    (work / "broken").touch()
    asked = f"data simulate --out {request_.out} --years 0.2 --seed 7 --start 2001-01-01 --segment-days 30"
    assert main([*asked.split(), "--spinup-days", "10", "--workers", "1", "--quiet"]) == 1
    line = capsys.readouterr().err
    assert len(line.splitlines()) == 1 and "the simulator stopped: FloatingPointError: temperature" in line
    assert "segment002.log" in line
    (work / "broken").unlink()
    simulate_world(request_)
    assert (work / "restarts" / "segment002.json").exists()


def test_the_reference_starts_from_stored_states(simulator: Path, request_: WorldRequest) -> None:
    """The restarts nearest to the wishes, each once; the store has the axes of a forecast."""
    simulate_world(request_)
    out = request_.out.with_name("ensemble.zarr")
    times = ["2001-03-12", "2001-03-12T12", "2001-03-20"]
    simulate_reference(request_.out, out, times, members=3, lead_days=2)
    with xr.open_zarr(out, decode_timedelta=True) as ds:
        assert ds["time"].values.astype("datetime64[h]").astype(str).tolist() == ["2001-03-12T00", "2001-03-22T00"]
        assert ds["temperature"].dims == ("number", "time", "prediction_timedelta", "level", "latitude", "longitude")
        assert ds["temperature"].shape == (3, 2, 8, 5, 4, 8)
        leads = ds["prediction_timedelta"].values.astype("timedelta64[h]").astype(int)
        assert leads.tolist() == list(range(6, 54, 6))
    job = json.loads((out.with_suffix(".work") / "ensemble000.job").read_text())
    assert [Path(s["restart"]).name for s in job["starts"]] == ["state0000279.npz", "state0000319.npz"]
    simulate_reference(request_.out, out, times, members=3, lead_days=2)
    for other in ({"members": 4}, {"epsilon": 0.1}, {"seed": 1}, {"lead_days": 1}):
        with pytest.raises(ValueError, match="was made by another request"):
            simulate_reference(request_.out, out, times, **{"members": 3, "lead_days": 2, **other})


def test_a_world_without_restarts_has_no_reference(simulator: Path, request_: WorldRequest) -> None:
    """The reason is said in one line."""
    simulate_world(request_)
    for path in (request_.out.with_suffix(".work") / "restarts").glob("state*.npz"):
        path.unlink()
    with pytest.raises(ValueError, match="has no restarts"):
        simulate_reference(request_.out, request_.out.with_name("e.zarr"), ["2001-03-20"])


def test_an_environment_that_cannot_be_built_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The installer's last line is the reason, and the next call tries again."""
    tool = tmp_path / "bin" / "uv"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho working >&2\necho no route to the index >&2\nexit 1\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")
    monkeypatch.setenv("GEN_EARTH_CACHE", str(tmp_path / "cache"))
    for _ in range(2):
        with pytest.raises(RuntimeError, match="could not build the simulator's environment: no route to the index$"):
            ensure_environment()
    assert not (tmp_path / "cache" / "jcm-3.0.0" / "complete").exists()


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"years": 0.0}, "years must be positive; got 0"),
        ({"segment_days": 1095}, "segment_days must be a positive multiple of 10; got 1095"),
        ({"spinup_days": 0}, "spinup_days must be a positive multiple of 10; got 0"),
        ({"start": "1995-13-01"}, "start must be a day like 1995-01-01; got '1995-13-01'"),
        ({"seed": -1}, "seed at least 0"),
        ({"workers": 0}, "workers must be at least 1"),
    ],
)
def test_requests_are_checked(wish: dict[str, Any], message: str) -> None:
    """Value and rule in one line, before anything is built."""
    with pytest.raises(ValueError, match=message):
        WorldRequest(out=Path("world.zarr"), **wish)


def test_years_are_rounded_up_to_segments() -> None:
    """30 years of 365.25 days need ten segments of 1100 days."""
    assert WorldRequest(out=Path("w.zarr"), years=30).segments == 10
    assert WorldRequest(out=Path("w.zarr"), years=1e-3).segments == 1


# The worker's arithmetic, with numpy in the place of jax.


@pytest.fixture(scope="module")
def worker() -> types.ModuleType:
    """Load the worker without its environment."""
    jax, clock = types.ModuleType("jax"), types.ModuleType("jax_datetime")
    jax.numpy = np  # type: ignore[attr-defined]
    found = importlib.util.spec_from_file_location("worker", Path(simulate.__file__).with_name("jcm_worker.py"))
    assert found and found.loader
    module = importlib.util.module_from_spec(found)
    with pytest.MonkeyPatch.context() as patch:
        for name, stand_in in (("jax", jax), ("jax.numpy", np), ("jax_datetime", clock)):
            patch.setitem(sys.modules, name, stand_in)
        patch.setenv("JAX_PLATFORMS", "cpu")
        patch.setenv("XLA_FLAGS", "")
        found.loader.exec_module(module)
    return module


PRESSURE = np.array([5e3, 1.5e4, 3e4, 5e4, 7e4, 8.5e4, 9.25e4, 9.75e4])[:, None, None] * np.ones((8, 3, 2))


def test_interpolation_is_exact_for_what_is_linear_in_ln_p(worker: types.ModuleType) -> None:
    """Between levels, on a level, and above the top; below the lowest level wind keeps its value."""
    log_p = np.log(PRESSURE)
    field = 3.0 + 2.0 * log_p
    for target in (1e4, 3e4, 6.1e4, 9.5e4):
        got = worker.interpolate_to_pressure(field, log_p, np.log(target), "u_component_of_wind", field, field)
        np.testing.assert_allclose(got, 3.0 + 2.0 * np.log(target), rtol=1e-12)
    below = worker.interpolate_to_pressure(field, log_p, np.log(1.03e5), "u_component_of_wind", field, field)
    np.testing.assert_array_equal(below, field[-1])


def test_extrapolation_below_the_ground_is_hydrostatic(worker: types.ModuleType) -> None:
    """Temperature follows the lapse rate, T = T0 (p / p0)^(R L / g), and geopotential balances it.

    The exact integral is R T0 / a ((p / p0)^a - 1); the trapezoidal rule used is within (a ln p/p0)^2 / 12 of it.
    """
    log_p, t = np.log(PRESSURE), np.full(PRESSURE.shape, 280.0)
    phi = np.full(PRESSURE.shape, 2000.0)
    a, depth = 287.04 * 0.0065 / 9.81, np.log(1.05e5 / 9.75e4)
    warm = worker.interpolate_to_pressure(t, log_p, np.log(1.05e5), "temperature", t, phi)
    np.testing.assert_allclose(warm, 280.0 * np.exp(a * depth), rtol=1e-12)
    low = worker.interpolate_to_pressure(phi, log_p, np.log(1.05e5), "geopotential", t, phi)
    drop = 287.04 * 280.0 / a * np.expm1(a * depth)
    np.testing.assert_allclose(low, 2000.0 - drop, atol=drop * (a * depth) ** 2)


def test_rounding_of_mantissas(worker: types.ModuleType) -> None:
    """The same bits as numcodecs' BitRound (half to even), for every number of kept bits that is used."""
    values = np.random.Generator(np.random.Philox(0)).normal(size=5000).astype(np.float32) * 1e4
    values[:3] = 0.0, 1.0 + 2.0**-12, -(1.0 + 3 * 2.0**-12)
    for bits in (11, 13, 16):
        codec = numcodecs.BitRound(keepbits=bits)
        expected = np.asarray(codec.decode(codec.encode(values.copy()))).view(np.float32)
        got = worker.bit_round(values, bits)
        assert got.tobytes() == expected.tobytes() and worker.bit_round(got, bits).tobytes() == got.tobytes()


def test_a_blown_up_integration_writes_nothing(worker: types.ModuleType) -> None:
    """NaN stops the worker with the name of the variable; budgets are stored unrounded."""
    store = {"temperature": np.zeros((2, 3)), "global_mean_column_water": np.zeros(2, dtype=np.float32)}
    with pytest.raises(FloatingPointError, match="temperature is not finite"):
        worker.write(store, 0, {"temperature": np.array([1.0, np.nan, 2.0])})
    assert not store["temperature"].any()
    exact = np.float32(1.0000001)
    worker.write(store, 1, {"global_mean_column_water": exact, "temperature": np.full(3, exact)})
    assert store["global_mean_column_water"][1] == exact and store["temperature"][1, 0] == 1.0


def test_means_use_gaussian_weights(worker: types.ModuleType) -> None:
    """Weights [lon, lat] sum to one and integrate sin^2 of latitude to its mean 1/3 exactly."""
    horizontal = types.SimpleNamespace(nodal_shape=(96, 48))
    weights = worker.area_weights(types.SimpleNamespace(coords=types.SimpleNamespace(horizontal=horizontal)))
    nodes = np.polynomial.legendre.leggauss(48)[0]
    assert weights.shape == (96, 48) and weights.sum() == pytest.approx(1.0, abs=1e-12)
    assert (weights * nodes**2).sum() == pytest.approx(1 / 3, abs=1e-12)
