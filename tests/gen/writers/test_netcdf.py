"""NetCDF files are honest: other libraries read back values, coordinates, units and provenance."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from gen.data.variables import VARIABLES, Channel
from gen.writers.staged import StagedWriter


@pytest.fixture(scope="module")
def files(ensemble, tmp_path_factory):
    """Write the ensemble in every layout."""
    folder = tmp_path_factory.mktemp("netcdf")
    for layout in ("weatherbench", "cf", "earth2studio"):
        spec = ensemble.make_spec(layout)
        with StagedWriter(folder / f"{layout}.nc", spec) as writer:
            ensemble.write(writer, ensemble.UNITS, ensemble.make_values(spec))
    return folder


@pytest.mark.parametrize("engine", ["netcdf4", "h5netcdf"])
def test_weatherbench_layout_round_trips(ensemble, files, engine):
    """Both readers give back the exact values under the dimension names WeatherBench-X expects by default."""
    spec = ensemble.make_spec()
    truth = ensemble.make_values(spec).swapaxes(0, 1)  # number, time, ...
    with xr.open_dataset(files / "weatherbench.nc", engine=engine) as data:
        dims = ("number", "time", "prediction_timedelta", "level", "latitude", "longitude")
        assert data["geopotential"].dims == dims
        assert data["2m_temperature"].dims == dims[:3] + dims[4:]
        assert np.array_equal(data["geopotential"].values, truth[:, :, :, 0:2])
        assert np.array_equal(data["temperature"].values, truth[:, :, :, 2:4])
        assert np.array_equal(data["2m_temperature"].values, truth[:, :, :, 4])
        assert data["geopotential"].dtype == np.float32
        assert np.array_equal(data["time"].values, spec.inits)
        assert np.array_equal(data["prediction_timedelta"].values, spec.leads)
        assert np.array_equal(data["valid_time"].values, spec.inits[:, None] + spec.leads)
        assert "valid_time" in data.coords
        assert data["level"].values.tolist() == [500, 850] and data["level"].attrs["units"] == "hPa"
        assert np.all(np.diff(data["latitude"]) > 0) and np.array_equal(data["latitude"], spec.grid.latitude)
        assert np.array_equal(data["longitude"], spec.grid.longitude)


def test_names_units_and_provenance_are_in_the_file(files):
    """Every variable has the table's units and CF name, and the file says that it is synthetic and whence it came."""
    with xr.open_dataset(files / "weatherbench.nc") as data:
        for name, array in data.data_vars.items():
            assert array.attrs["units"] == VARIABLES[str(name)].units
            assert array.attrs["standard_name"] == VARIABLES[str(name)].standard_name
            assert array.attrs["long_name"]
        assert data["number"].attrs["standard_name"] == "realization"
        assert data["time"].attrs["standard_name"] == "forecast_reference_time"
        assert data["prediction_timedelta"].attrs["standard_name"] == "forecast_period"
        assert data.attrs["synthetic"] == "true" and data.attrs["seed"] == "7"
        assert data.attrs["Conventions"] == "CF-1.11" and len(data.attrs["request_fingerprint"]) == 64


def test_cf_layout_passes_the_compliance_checker_without_a_remark(files):
    """compliance-checker, CF 1.11, strict: every check passes, warnings included."""
    checker = Path(sys.executable).with_name("compliance-checker")
    if not checker.exists():
        pytest.skip("needs pip install 'gen-earth[eval]'")
    command = [str(checker), "--test=cf:1.11", "--criteria=strict", str(files / "cf.nc")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "All tests passed!" in done.stdout, done.stdout + done.stderr


def test_cf_layout_holds_the_same_values(ensemble, files):
    """Axes (realization, forecast_period, forecast_reference_time, plev, lat, lon), levels in Pa, scalar heights."""
    truth = ensemble.make_values(ensemble.make_spec())
    with xr.open_dataset(files / "cf.nc") as data:
        assert data["phi"].dims[:4] == ("realization", "forecast_period", "forecast_reference_time", "plev")
        assert np.array_equal(data["phi"].values, truth.transpose(1, 2, 0, 3, 4, 5)[:, :, :, :2])
        assert data["plev"].values.tolist() == [50000.0, 85000.0]
        assert float(data["tas"].coords["height2m"]) == 2.0
        assert "time" in data["tas"].coords


def test_earth2studio_layout_is_flat_and_north_first(ensemble, files):
    """Axes (ensemble, time, lead_time, lat, lon), one array per channel under the lexicon's names, 90 to -90."""
    truth = ensemble.make_values(ensemble.make_spec()).swapaxes(0, 1)
    with xr.open_dataset(files / "earth2studio.nc") as data:
        assert set(data.data_vars) == {"z500", "z850", "t500", "t850", "t2m"}
        assert data["z850"].dims == ("ensemble", "time", "lead_time", "lat", "lon")
        assert np.all(np.diff(data["lat"]) < 0)
        assert np.array_equal(data["z850"].values, truth[:, :, :, 1, ::-1])
        assert data["lead_time"].dtype.kind == "m" and "prediction_timedelta" not in data.variables


def test_rounded_files_keep_what_matters(ensemble, tmp_path):
    """compress="small": 0.5 m2/s2 of geopotential (0.05 gpm) and 0.01 K, and a smaller file."""
    spec = ensemble.make_spec()
    truth = ensemble.make_values(spec).swapaxes(0, 1)
    with StagedWriter(tmp_path / "small.nc", spec, compress="small") as writer:
        ensemble.write(writer, ensemble.UNITS, ensemble.make_values(spec))
    with xr.open_dataset(tmp_path / "small.nc") as data:
        assert np.abs(data["geopotential"].values - truth[:, :, :, :2]).max() <= 0.5
        assert np.abs(data["2m_temperature"].values - truth[:, :, :, 4]).max() <= 0.01
        assert "mantissa bits" in data["2m_temperature"].attrs["comment"]


def test_a_level_that_was_not_asked_for_reads_as_missing(ensemble, tmp_path):
    """z500 with t850: the shared level axis has both, the absent combinations are NaN, the others exact."""
    spec = ensemble.make_spec(channels=(Channel("geopotential", 500), Channel("temperature", 850)))
    values = ensemble.make_values(spec)
    with StagedWriter(tmp_path / "f.nc", spec, compress="none") as writer:
        ensemble.write(writer, ensemble.UNITS, values)
    with xr.open_dataset(tmp_path / "f.nc") as data:
        assert np.array_equal(data["geopotential"].sel(level=500), values.swapaxes(0, 1)[:, :, :, 0])
        assert np.isnan(data["geopotential"].sel(level=850)).all()
        assert np.array_equal(data["temperature"].sel(level=850), values.swapaxes(0, 1)[:, :, :, 1])
