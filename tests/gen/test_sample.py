"""gen sample, through the real command line: identical bits, complete files or none, one line for every mistake."""

from __future__ import annotations

import errno
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import xarray as xr

from gen.cli import main

MEMBER, INIT, LEAD = "number", "time", "prediction_timedelta"


@pytest.fixture(scope="module")
def tiny() -> ModuleType:
    """Return the module that builds the tiny model of the forecast's tests, once in a process."""
    if "forecast_tiny" not in sys.modules:
        path = Path(__file__).parents[1] / "forecast" / "tiny.py"
        found = importlib.util.spec_from_file_location("forecast_tiny", path)
        assert found and found.loader
        sys.modules["forecast_tiny"] = module = importlib.util.module_from_spec(found)
        found.loader.exec_module(module)
    return sys.modules["forecast_tiny"]


@pytest.fixture(scope="module")
def workshop(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(tiny.workshop(tmp_path_factory.mktemp("tiny")))


def arguments(workshop: Path, out: Path | None, **wish: Any) -> list[str]:
    """Return the arguments of a one-day forecast with the tiny model; None leaves an option out, True is a flag."""
    options = {"init": "2020-01-02", "members": 8, "lead": "1d", "model": workshop / "model", "device": "cpu"}
    options = {**options, "dtype": "float32", "out": out, **wish}
    given = [(f"--{k.replace('_', '-')}", v) for k, v in options.items() if v is not None]
    return ["sample", "--no-plot", "--quiet", *(t for k, v in given for t in ([k] if v is True else [k, str(v)]))]


def draw(workshop: Path, out: Path, **wish: Any) -> xr.Dataset:
    """Run the command and return the file in memory."""
    assert main(arguments(workshop, out, **wish)) == 0
    return read(out)


def read(path: Path) -> xr.Dataset:
    opened = xr.open_zarr(path) if path.is_dir() else xr.open_dataset(path)
    with opened:
        return opened.load()


def same_bits(a: xr.Dataset, b: xr.Dataset) -> bool:
    """Return whether all data variables have the same names, coordinates and bits."""
    names = sorted(map(str, a.data_vars))
    if names != sorted(map(str, b.data_vars)):
        return False
    return all(a[n].equals(b[n]) and a[n].values.tobytes() == b[n].values.tobytes() for n in names)


@pytest.fixture(scope="module")
def eight(workshop: Path, tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    """Eight members of one day."""
    return draw(workshop, tmp_path_factory.mktemp("eight") / "eight.nc")


def test_member_seven_of_eight_and_of_twenty(workshop: Path, eight: xr.Dataset, tmp_path: Path) -> None:
    """Every member of the small ensemble has the same bits in the large one; no member is another one."""
    twenty = draw(workshop, tmp_path / "twenty.nc", members=20)
    assert same_bits(twenty.isel({MEMBER: [7]}), eight.isel({MEMBER: [7]}))
    assert same_bits(twenty.isel({MEMBER: slice(8)}), eight)
    assert len({member.tobytes() for member in twenty["2m_temperature"].values}) == 20


def test_the_default_precision_keeps_the_bits_too(workshop: Path, tmp_path: Path) -> None:
    """With the precision that the machine chooses, member 5 of 6 (in a padded block) is member 5 of 8."""
    six = draw(workshop, tmp_path / "six.nc", members=6, dtype=None, lead="12h")
    more = draw(workshop, tmp_path / "more.nc", members=8, dtype=None, lead="12h")
    assert same_bits(more.isel({MEMBER: slice(6)}), six)


@pytest.mark.parametrize("size", [3, "auto"])
def test_another_block_size_is_equal_to_rounding(
    workshop: Path, eight: xr.Dataset, tmp_path: Path, size: int | str
) -> None:
    """Fields agree to 1e-4 of their standard deviation in space; the block size stands in the file."""
    other = draw(workshop, tmp_path / "other.nc", batch=size)
    assert other.attrs["members_per_block"] == {3: "3", "auto": "8"}[size] and eight.attrs["members_per_block"] == "4"
    for name, values in eight.data_vars.items():
        scale = values.std(("latitude", "longitude")).mean((MEMBER, INIT, LEAD))
        assert float((abs(other[name] - values) / scale).max()) < 1e-4


def test_seeds(workshop: Path, eight: xr.Dataset, tmp_path: Path) -> None:
    """The same seed changes nothing, another one every variable of every member."""
    assert same_bits(draw(workshop, tmp_path / "again.nc", seed=0), eight)
    other = draw(workshop, tmp_path / "other.nc", seed=1)
    for name, values in eight.data_vars.items():
        assert bool((other[name] != values).any([d for d in values.dims if d != MEMBER]).all())
    assert (other.attrs["seed"], eight.attrs["seed"]) == ("1", "0")


def test_a_part_is_a_part_of_the_whole(workshop: Path, eight: xr.Dataset, tmp_path: Path) -> None:
    """Variables, levels, region, step and lead select; they never change a bit."""
    part = draw(
        workshop, tmp_path / "part.nc", variables="geopotential,2t,q850", levels=850, region="-35,60,-40,50",
        step="12h", lead="12h", members=5,
    )  # fmt: skip
    assert set(part.data_vars) == {"geopotential", "2m_temperature", "specific_humidity"}
    assert part["level"].values.tolist() == [850] and part.sizes[LEAD] == 1
    assert part["longitude"].values[0] < 0 and part["latitude"].values.min() >= -35
    columns = part["longitude"].values % 360
    expected = eight[list(part.data_vars)].sel(level=[850], latitude=part["latitude"], longitude=columns)
    expected = expected.isel({MEMBER: slice(5), LEAD: [1]}).assign_coords(longitude=part["longitude"])
    assert same_bits(part.drop_attrs(), expected.drop_attrs())


def test_a_longer_lead_keeps_the_bits(workshop: Path, eight: xr.Dataset, tmp_path: Path) -> None:
    """Thirty hours begin like one day, and eighteen hours are its first three quarters."""
    longer = draw(workshop, tmp_path / "longer.nc", lead="30h")
    assert same_bits(longer.isel({LEAD: slice(4)}), eight)
    shorter = draw(workshop, tmp_path / "shorter.nc", lead="18h")
    assert same_bits(shorter, eight.isel({LEAD: slice(3)}))


@pytest.mark.parametrize(
    ("wish", "name"), [({"format": "zarr"}, "f.zarr"), ({"init": "2020-01-02,2020-01-03"}, "f.nc")]
)
def test_formats_and_further_starts_keep_the_bits(
    workshop: Path, eight: xr.Dataset, tmp_path: Path, wish: dict[str, Any], name: str
) -> None:
    """A Zarr store and a file with two starts hold the fields of the NetCDF file with one."""
    got = draw(workshop, tmp_path / name, **wish)
    assert same_bits(got.isel({INIT: [0]}), eight)


def test_rain_is_never_negative(eight: xr.Dataset) -> None:
    """The physical limit is applied to precipitation, and some of it is exactly zero."""
    rain = eight["total_precipitation_6hr"].values
    assert rain.min() == 0 and rain.max() > 0 and eight["specific_humidity"].values.min() >= 0


def test_the_file_says_what_it_is(eight: xr.Dataset) -> None:
    """Model, source, sampler, seed and hashes stand in the attributes, and that the world is simulated."""
    for key in (
        "model",
        "model_hash",
        "config_hash",
        "sampler",
        "seed",
        "gen_version",
        "members_per_block",
        "analysis",
    ):
        assert eight.attrs[key]
    assert eight.attrs["warning"] == "a forecast of a simulated world, not of the real atmosphere"


RUNNER = """
import sys, time
import gen.writers.staged as staged
write, pieces = staged.StagedWriter.write, []
def stuck(self, *piece):
    write(self, *piece)
    pieces.append(piece)
    if len(pieces) == 3:
        time.sleep(600)
staged.StagedWriter.write = stuck
from gen.cli import main
sys.exit(main(sys.argv[1:]))
"""


def child(command: list[str], **environment: str) -> subprocess.Popen[str]:
    """Start a process with the packages of this checkout."""
    root = str(Path(__file__).parents[2])
    env = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(
        [sys.executable, *command], env=env, cwd=root, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    """Wait until something is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


def test_a_killed_run_leaves_nothing_and_resumes_with_the_same_bits(
    workshop: Path, eight: xr.Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGKILL in the middle of the second block: no file under the name; --resume finishes it with the same bits.

    A resume with another seed is refused in one line and leaves what is there for the right one.
    """
    out, parts = tmp_path / "f.nc", tmp_path / ".f.nc.parts"
    asked = arguments(workshop, out, members=12)
    running = child(["-c", RUNNER, *asked])
    torn = parts / "unit-000000-000004-000008.data"
    until(lambda: torn.exists() or running.poll() is not None)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    running.communicate()
    assert os.listdir(tmp_path) == [".f.nc.parts"]
    assert [p.name for p in parts.glob("unit-*.index.npy")] == ["unit-000000-000000-000004.index.npy"]
    assert main([*asked, "--resume", "--seed", "9"]) == 2
    assert "cannot resume: the unfinished run was another request" in one_line(capsys)
    assert count_samples(lambda: main([*asked, "--resume"])) == 2
    whole = draw(workshop, tmp_path / "whole.nc", members=12)
    assert same_bits(read(out), whole) and same_bits(whole.isel({MEMBER: slice(8)}), eight)
    assert sorted(os.listdir(tmp_path)) == ["f.nc", "whole.nc"]
    assert count_samples(lambda: main([*asked, "--resume"])) == 0


def count_samples(run: Callable[[], int]) -> int:
    """Return how many units a successful run computes."""
    from forecast.task import Forecast

    count, sample = 0, Forecast.sample

    def counted(self: Forecast, unit: Any) -> Any:
        nonlocal count
        count += 1
        return sample(self, unit)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Forecast, "sample", counted)
        assert run() == 0
    return count


COUNTER = """
import sys
import forecast.task as task
sample, units = task.Forecast.sample, []
def counted(self, unit):
    units.append(unit)
    return sample(self, unit)
task.Forecast.sample = counted
from gen.cli import main
code = main(sys.argv[1:])
print(len(units))
sys.exit(code)
"""


def test_two_processes_give_the_bits_of_one(workshop: Path, tmp_path: Path) -> None:
    """Two processes with RANK and WORLD_SIZE share the five blocks through the staging folder."""
    out = tmp_path / "two.nc"
    asked = ["-c", COUNTER, *arguments(workshop, out, members=10, init="2020-01-02,2020-01-03")]
    both = [child(asked, RANK=str(r), WORLD_SIZE="2") for r in (1, 0)]
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert [text.split() for text, _ in said] == [["2"], ["3"]]
    one = draw(workshop, tmp_path / "one.nc", members=10, init="2020-01-02,2020-01-03")
    assert same_bits(read(out), one)
    assert sorted(os.listdir(tmp_path)) == ["one.nc", "two.nc"]


MEASURE = """
import resource, sys
from gen.cli import main
code = main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
sys.exit(code)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_ensemble(workshop: Path, tmp_path: Path) -> None:
    """The peak of 200 members is at most 1.1 times that of 20, though their values alone are more than that tenth."""
    peak = {}
    for members in (20, 200):
        asked = arguments(workshop, tmp_path / f"{members}.zarr", members=members, lead="5d", batch=20, steps=1)
        process = child(["-c", MEASURE, *asked, "--format", "zarr"])
        text, errors = process.communicate(timeout=280)
        assert process.returncode == 0, errors
        peak[members] = 1024 * int(text.split()[-1])
    values = 180 * 20 * 14 * 16 * 32 * 4  # members, lead times, channels, rows, columns, bytes
    assert values > 0.1 * peak[20]
    assert peak[200] <= 1.1 * peak[20], peak


# Mistakes: one line, a non-zero exit code, nothing written.


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the only line of standard error."""
    caught = capsys.readouterr()
    lines = caught.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and not caught.out
    return lines[0]


@pytest.fixture
def fails(
    workshop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> Callable[..., str]:
    """Return a function that runs a wrong command and returns its line."""

    def run(**wish: Any) -> str:
        out = tmp_path / "out"
        out.mkdir(exist_ok=True)
        capsys.readouterr()
        code = main(arguments(workshop, out / "f.nc", **wish))
        line = one_line(capsys)
        assert code in (1, 2) and os.listdir(out) == []
        assert [r for r in caplog.records if r.name.startswith(("gen", "forecast")) and r.levelno > 20] == []
        return line

    return run


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


def test_a_full_disk_keeps_what_is_complete(
    workshop: Path,
    eight: xr.Dataset,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """ENOSPC in the second block: one line says how to go on, nothing lies under the name, --resume finishes."""
    import gen.writers.staged as staged

    append, chunks = staged.UnitFile.append, 0

    def full(self: Any, key: Any, encoded: bytes) -> None:
        nonlocal chunks
        chunks += 1
        if self._stem.name.startswith("unit-000000-000004"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(self, key, encoded)

    out = tmp_path / "f.nc"
    monkeypatch.setattr(staged.UnitFile, "append", full)
    assert main(arguments(workshop, out)) != 0
    line = one_line(capsys)
    assert "the disk is full" in line and "repeat the command with --resume" in line and chunks > 0
    assert os.listdir(tmp_path) == [".f.nc.parts"]
    monkeypatch.undo()
    assert main([*arguments(workshop, out), "--resume"]) == 0
    assert same_bits(read(out), eight) and os.listdir(tmp_path) == ["f.nc"]


def test_a_disk_too_small_is_seen_before(
    workshop: Path, fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The size is estimated first; nothing is begun that cannot be finished."""
    import gen.writers.staged as staged

    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(staged.shutil, "disk_usage", lambda path: usage)
    assert "the disk is too small" in fails()


def test_an_error_in_the_middle_leaves_no_file(
    workshop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong while drawing the first block, neither file nor staging folder stay."""
    from forecast.task import Forecast

    def broken(self: Forecast, unit: Any) -> Any:
        raise RuntimeError("the accelerator fell off")
        yield

    monkeypatch.setattr(Forecast, "sample", broken)
    assert main(arguments(workshop, tmp_path / "f.nc")) == 1
    assert "the accelerator fell off" in one_line(capsys) and os.listdir(tmp_path) == []


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
