"""Forecast stores: every layout gives the same members, coordinates and channels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from gen.data.variables import parse_channel
from gen.grid import LatLonGrid
from gen.metrics.stores import ForecastFiles, ForecastStore

GRID = LatLonGrid.equiangular(5, 8, poles=True)
INITS = np.array(["2024-01-01T00", "2024-01-03T12"], dtype="datetime64[h]")
LEADS = np.array([0, 6, 12, 18, 36], dtype="timedelta64[h]")
Z500, Z850, T2M = (parse_channel(code) for code in ("z500", "z850", "2t"))
RNG = np.random.default_rng(0)
UPPER = RNG.standard_normal((3, 2, 5, 2, *GRID.shape)).astype(np.float32)
SURFACE = RNG.standard_normal((3, 2, 5, *GRID.shape)).astype(np.float32)


def weatherbench() -> xr.Dataset:
    dims = ("number", "time", "prediction_timedelta")
    return xr.Dataset(
        {
            "geopotential": ((*dims, "level", "latitude", "longitude"), UPPER),
            "2m_temperature": ((*dims, "latitude", "longitude"), SURFACE),
        },
        coords={
            "number": np.arange(3),
            "time": INITS.astype("datetime64[ns]"),
            "prediction_timedelta": LEADS.astype("timedelta64[ns]"),
            "level": ("level", [500, 850], {"units": "hPa"}),
            "latitude": GRID.latitude,
            "longitude": GRID.longitude,
        },
    )


def cf() -> xr.Dataset:
    names = {
        "number": "realization",
        "time": "forecast_reference_time",
        "prediction_timedelta": "forecast_period",
        "level": "plev",
        "latitude": "lat",
        "longitude": "lon",
    }
    data = weatherbench().rename(names)
    valid = data.forecast_reference_time + data.forecast_period
    return data.assign_coords(plev=("plev", [50_000.0, 85_000.0], {"units": "Pa"}), time=valid)


def earth2studio() -> xr.Dataset:
    data = weatherbench().rename(
        number="ensemble", prediction_timedelta="lead_time", latitude="lat", longitude="lon", level="p"
    )
    flat = {
        "z500": data.geopotential[..., 0, :, :],
        "z850": data.geopotential[..., 1, :, :],
        "t2m": data["2m_temperature"],
    }
    return xr.Dataset({k: v.drop_vars("p", errors="ignore") for k, v in flat.items()}).isel(lat=slice(None, None, -1))


def turned() -> xr.Dataset:
    """Longitudes -180 .. <180, members last, levels before leads: the order of the axes does not matter."""
    data = weatherbench().roll(longitude=4, roll_coords=True)
    data = data.assign_coords(longitude=(data.longitude + 180) % 360 - 180)
    return data.transpose("level", "prediction_timedelta", "latitude", "longitude", "time", "number")


@pytest.mark.parametrize("layout", [weatherbench, cf, earth2studio, turned])
@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_layouts_give_the_same_members(layout: type, suffix: str, tmp_path: Path) -> None:
    """Names, order of latitude and longitude, order of axes and container differ; the values are the same bits."""
    path, data = tmp_path / f"f{suffix}", layout()
    data.to_netcdf(path) if suffix == ".nc" else data.to_zarr(path)
    store = ForecastStore(path)
    assert store.members == 3 and store.grid == GRID and set(store.channels) == {Z500, Z850, T2M}
    assert np.array_equal(store.inits, INITS) and np.array_equal(store.leads, LEADS)
    for wanted in ([1], [0, 2, 4], [0, 1, 4], [4, 0]):
        for channel, values in ((Z500, UPPER[:, :, :, 0]), (Z850, UPPER[:, :, :, 1]), (T2M, SURFACE)):
            got = store.read(INITS[1], LEADS[wanted], channel)
            assert np.array_equal(got.numpy(), values[:, 1, wanted])


def test_several_files_are_one_forecast(tmp_path: Path) -> None:
    """Start dates of two files are read from where they are; common leads and channels remain."""
    data = weatherbench()
    data.isel(time=[1]).to_netcdf(tmp_path / "b.nc")
    data.isel(time=[0], prediction_timedelta=[1, 2, 4]).drop_vars("2m_temperature").to_netcdf(tmp_path / "a.nc")
    files = ForecastFiles([tmp_path / "b.nc", tmp_path / "a.nc"])
    assert np.array_equal(files.inits, INITS) and files.channels == (Z500, Z850)
    assert np.array_equal(files.leads, LEADS[[1, 2, 4]])
    for k, init in enumerate(INITS):
        assert np.array_equal(files.read(init, LEADS[[4]], Z850).numpy(), UPPER[:, k, 4:, 1])


def test_a_box_across_greenwich_stays_one_box(tmp_path: Path) -> None:
    """Columns -45, 0, 45 remain neighbours; they are not sorted to 0, 45, 315."""
    data = turned().sel(longitude=slice(-45, 45), latitude=slice(0, 90))
    data.to_netcdf(tmp_path / "box.nc")
    store = ForecastStore(tmp_path / "box.nc")
    assert store.grid.longitude.tolist() == [-45, 0, 45] and not store.grid.is_global
    got = store.read(INITS[0], LEADS[:1], T2M)
    assert np.array_equal(got.numpy(), SURFACE[:, 0, :1, 2:, [7, 0, 1]].transpose(1, 2, 3, 0))


def test_files_that_are_no_forecasts_are_refused(tmp_path: Path) -> None:
    """One line each: not a data file, no lead axis, nothing we know, another ensemble size, another lead or channel."""
    (tmp_path / "text.nc").write_text("hello")
    with pytest.raises(ValueError, match="cannot be read as NetCDF or Zarr"):
        ForecastStore(tmp_path / "text.nc")
    data = weatherbench()
    data.isel(prediction_timedelta=0, drop=True).to_netcdf(tmp_path / "analysis.nc")
    with pytest.raises(ValueError, match="not a forecast: no lead"):
        ForecastStore(tmp_path / "analysis.nc")
    data.rename(geopotential="foo")[["foo"]].to_netcdf(tmp_path / "foo.nc")
    with pytest.raises(ValueError, match=r"no variable that we know \(it has foo\)"):
        ForecastStore(tmp_path / "foo.nc")
    data.to_netcdf(tmp_path / "f.nc")
    data.isel(number=[0]).to_netcdf(tmp_path / "g.nc")
    with pytest.raises(ValueError, match="differ in ensemble size"):
        ForecastFiles([tmp_path / "f.nc", tmp_path / "g.nc"])
    store = ForecastStore(tmp_path / "f.nc")
    with pytest.raises(ValueError, match="has no 24 hours; it has 0 hours to 36 hours"):
        store.read(INITS[0], np.array([24], dtype="timedelta64[h]"), Z500)
    with pytest.raises(ValueError, match="lacks t850; it has"):
        store.read(INITS[0], LEADS, parse_channel("t850"))
